"""The folder where training and service meet: ``adapters/<name>/<generation>/`` and ``adapters/<name>/CURRENT``.

Reading only, and carefully: names are matched against their patterns before the file system is touched, each file is
opened without following links and without blocking, read once, and everything later uses those bytes. Writing is
``training/publish.py``.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errors import AdapterRefused, UnknownAdapter
from prompt_format.manifest import CONFIG, GENERATION_PATTERN, MANIFEST, NAME_PATTERN, WEIGHTS

CURRENT = "CURRENT"
MAX_CURRENT, MAX_CONFIG, MAX_MANIFEST, MAX_WEIGHTS = 2**20, 64 * 2**10, 2**20, 8 * 2**30


@dataclass(frozen=True)
class AdapterFiles:
    """The bytes of one generation, each file read once. ``manifest`` is None where there is none."""

    weights: bytes
    config: bytes
    manifest: bytes | None


def names(store: Path) -> list[str]:
    """The adapter names in *store*, sorted; staging folders and strangers are left out."""
    if not store.is_dir():
        return []
    return sorted(e.name for e in os.scandir(store) if re.fullmatch(NAME_PATTERN, e.name) and e.is_dir())


def generations(store: Path, name: str) -> list[str]:
    """The generations of *name*, sorted by name (they are digests: order says nothing of age)."""
    folder = store / name
    if not re.fullmatch(NAME_PATTERN, name) or not folder.is_dir():
        return []
    return sorted(e.name for e in os.scandir(folder) if re.fullmatch(GENERATION_PATTERN, e.name) and e.is_dir())


def current(store: Path, name: str) -> str:
    """The generation that CURRENT of *name* names.

    Raises:
        UnknownAdapter: If there is no such adapter.
        AdapterRefused: ``missing_file`` or ``current_invalid``.
    """
    if not re.fullmatch(NAME_PATTERN, name) or not (store / name).is_dir():
        known = ", ".join(names(store)) or "none"
        raise UnknownAdapter(f"no adapter named '{name[:64]}'; there are: {known}")
    with _opened(store / name) as folder:
        raw = read_file(folder, CURRENT, MAX_CURRENT, code="current_invalid")
    text = raw.decode("ascii", errors="replace").removesuffix("\n")
    if not re.fullmatch(GENERATION_PATTERN, text):
        raise AdapterRefused(
            f"CURRENT of '{name}' does not name a generation: use `training adapters rollback {name}`",
            code="current_invalid",
        )
    return text


def read_generation(store: Path, name: str, generation: str) -> AdapterFiles:
    """All files of one generation.

    Raises:
        UnknownAdapter: ``unknown_generation``, if the folder does not exist.
        AdapterRefused: If a file is missing, too large, no regular file or not safely ours.
    """
    path = store / name / generation
    if not re.fullmatch(NAME_PATTERN, name) or not re.fullmatch(GENERATION_PATTERN, generation) or not path.exists():
        raise UnknownAdapter(f"adapter '{name}' has no generation {generation}", code="unknown_generation")
    with _opened(store / name), _opened(path) as folder:
        return _read_all(folder)


def read_folder(path: Path) -> AdapterFiles:
    """All files of an adapter folder outside a store, with the same care.

    Raises:
        AdapterRefused: As ``read_generation``.
    """
    with _opened(path) as folder:
        return _read_all(folder)


def read_file(folder: int, name: str, limit: int, code: str = "not_a_regular_file") -> bytes:
    """Bytes of one regular file of ours in an open folder. Never follows a link, never blocks.

    Args:
        folder: Descriptor of the open folder.
        name: One of our own constants: it must hold no slash.
        limit: The most bytes it may have.

    Raises:
        AdapterRefused: ``missing_file``, ``not_a_regular_file``, ``unsafe_file``, ``file_too_large``,
            ``file_changed`` or ``unreadable_file``.
    """
    handle = _open_file(folder, name, code)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise AdapterRefused(f"{name} is not a regular file", code=code)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022 or info.st_nlink != 1:
            raise AdapterRefused(
                f"{name} is writable by others, belongs to someone else or has a second link", code="unsafe_file"
            )
        if info.st_size > limit:
            raise AdapterRefused(f"{name} is larger than {limit} bytes", code="file_too_large")
        with os.fdopen(os.dup(handle), "rb") as file:
            data = file.read(info.st_size + 1)  # asking for more would set that much memory aside
    except OSError:
        raise AdapterRefused(f"{name} could not be read to its end", code="unreadable_file") from None
    finally:
        os.close(handle)
    if len(data) != info.st_size:
        raise AdapterRefused(f"{name} changed while it was read: try again", code="file_changed")
    return data


def _open_file(folder: int, name: str, code: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise AdapterRefused(f"{name} is missing", code="missing_file") from None
    except PermissionError:
        raise AdapterRefused(f"{name} cannot be read: check its mode", code="unreadable_file") from None
    except OSError:  # a link (ELOOP), a socket or a device without a driver (ENXIO)
        raise AdapterRefused(f"{name} is not a regular file", code=code) from None


def _read_all(folder: int) -> AdapterFiles:
    faults: list[AdapterRefused] = []
    found: dict[str, bytes] = {}
    for name, limit in ((CONFIG, MAX_CONFIG), (MANIFEST, MAX_MANIFEST), (WEIGHTS, MAX_WEIGHTS)):
        try:
            found[name] = read_file(folder, name, limit)
        except AdapterRefused as fault:
            if name != MANIFEST or fault.code != "missing_file":
                faults.append(fault)
    if faults:
        raise AdapterRefused(faults[0].message, code=faults[0].code, details=[f.message for f in faults[1:]])
    return AdapterFiles(found[WEIGHTS], found[CONFIG], found.get(MANIFEST))


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder that is ours, not a link, and not writable by others."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise AdapterRefused(f"the folder {path.name} is gone", code="missing_file") from None
    except OSError:
        raise AdapterRefused(f"{path.name} is a link or no folder", code="not_a_regular_file") from None
    try:
        info = os.fstat(handle)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise AdapterRefused(
                f"the folder {path.name} is writable by others or belongs to someone else", code="unsafe_file"
            )
        yield handle
    finally:
        os.close(handle)
