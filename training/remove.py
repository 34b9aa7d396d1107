"""``training adapters remove``: a generation that nothing uses any more goes, as a whole."""

import contextlib
import os
import shutil
from pathlib import Path

from errors import AdapterRefused, UnknownAdapter
from prompt_format.adapter_store import current, generations
from training.private_files import sync_folder
from training.publish import locked


def remove(store: Path, name: str, generation: str) -> None:
    """Remove *generation* of *name*; a name that holds nothing more goes too.

    One rename takes it out of readers' sight. A kill before that leaves it whole; after it, the next publisher tidies
    up what is left.

    Raises:
        UnknownAdapter: If there is none such.
        AdapterRefused: ``generation_in_use``, if it is current; ``not_a_regular_file``, if it is a link.
    """
    _check(store, name, generation)
    with locked(store):
        _check(store, name, generation)  # another process may have been here
        _take_away(store, store / name / generation)


def _check(store: Path, name: str, generation: str) -> None:
    in_use = _in_use(store, name)
    if generation not in generations(store, name):
        raise UnknownAdapter(f"adapter '{name}' has no generation {generation[:64]}", code="unknown_generation")
    if generation == in_use:
        raise AdapterRefused(
            f"{generation} is the current generation of '{name}': make another one current first, with "
            f"`training adapters rollback {name}`",
            code="generation_in_use",
        )
    if (store / name / generation).is_symlink():
        raise AdapterRefused(f"{generation} is a link: remove it yourself", code="not_a_regular_file")


def _in_use(store: Path, name: str) -> str | None:
    """The current generation, if any. A damaged CURRENT is refused: it might have meant the one to be removed."""
    try:
        return current(store, name)
    except AdapterRefused as fault:
        if fault.code not in ("missing_file", "unlabelled"):
            raise
        return None


def _take_away(store: Path, folder: Path) -> None:
    staged = store / f".staging-removed-{folder.parent.name}-{folder.name}"
    os.rename(folder, staged)
    sync_folder(folder.parent)
    sync_folder(store)
    shutil.rmtree(staged, ignore_errors=True)
    with contextlib.suppress(OSError):  # other generations, or CURRENT, are in it
        folder.parent.rmdir()
