"""What last served, in ``<store>/.last-good.json``: name -> generation, for when CURRENT is bad or gone.

A hint and no more: what it names is checked like any other generation, so a record that is missing, torn or from
another store is ignored. Everything here blocks: it is called in threads.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Collection
from pathlib import Path

from errors import AdapterRefused
from prompt_format.adapter_store import read_file
from prompt_format.manifest import GENERATION_PATTERN, NAME_PATTERN
from prompt_format.strict_json import parse_strict

log = logging.getLogger("samevoice.adapters")

RECORD = ".last-good.json"
MAX_RECORD = 2**24


class LastGood:
    """The record of one store, in memory and, if *writes*, on disk."""

    def __init__(self, store: Path, writes: bool = True):
        self._store, self._writes = store, writes
        self._generations: dict[str, str] = {}
        self._writing = threading.Lock()

    def get(self, name: str) -> str | None:
        """The generation of *name* that last answered."""
        return self._generations.get(name)

    def read(self) -> None:
        """Take over what the disk says, less what is not in the store any more."""
        self._generations = {
            name: generation
            for name, generation in _read(self._store).items()
            if (self._store / name / generation).is_dir()
        }

    def note(self, name: str, generation: str) -> None:
        """*generation* answers to *name* now. A disk that refuses costs the record, not the adapter."""
        with self._writing:
            if self._generations.get(name) != generation:
                self._generations[name] = generation
                self._write()

    def forget(self, names: Collection[str]) -> None:
        """*names* are in the store no more."""
        with self._writing:
            gone = self._generations.keys() & set(names)
            for name in gone:
                del self._generations[name]
            if gone:
                self._write()

    def _write(self) -> None:
        if not self._writes:
            return
        data = json.dumps({"last_good": self._generations}, indent=1).encode() + b"\n"
        try:
            _replace(self._store / RECORD, data)
        except OSError as error:
            log.warning("the record of what last served could not be written: %s", error.strerror)


def _read(store: Path) -> dict[str, str]:
    try:
        folder = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        document = parse_strict(read_file(folder, RECORD, MAX_RECORD))
    except (AdapterRefused, ValueError):
        return {}
    finally:
        os.close(folder)
    found = document.get("last_good") if isinstance(document, dict) else None
    return found if isinstance(found, dict) and all(map(_is_entry, found.items())) else {}


def _is_entry(entry: tuple[str, object]) -> bool:
    name, generation = entry
    return (
        isinstance(generation, str)
        and re.fullmatch(NAME_PATTERN, name) is not None
        and re.fullmatch(GENERATION_PATTERN, generation) is not None
    )


def _replace(path: Path, data: bytes) -> None:
    """*path* with *data*: at every moment the old file or the new one, whole."""
    staged = path.with_name(f"{path.name}.new")
    staged.unlink(missing_ok=True)  # of a killed service: one alone holds a store
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
