"""Files and folders that nobody but their owner may read, or they are not used."""

import os
from pathlib import Path

from errors import Refused
from prompt_format.adapter_store import names


def private_folder(path: Path, what: str) -> None:
    """*path* is a folder of this user's alone; it is made with mode 0700 if it is not there.

    Args:
        what: What it holds, for the message.

    Raises:
        Refused: ``unsafe_file``, if others may use it or it is another user's; ``no_folder``, if it cannot be made.
    """
    _make(path)
    _check(path, f"the folder '{path}' ({what})", "700")


def private_file(path: Path, what: str) -> None:
    """*path* is this user's alone. Raises Refused ``unsafe_file``, or ``no_file`` if it is not there."""
    try:
        _check(path, f"{what} {path}", "600")
    except OSError as error:
        raise Refused(f"{what} {path} cannot be read: {error.strerror}", code="no_file") from None


def private_store(path: Path) -> None:
    """The same of an adapter store. A checkout brings one that is open: it is mended as long as nothing is in it."""
    _make(path)
    if _is_open(path) and _is_ours(path) and not names(path):
        path.chmod(0o700)
    private_folder(path, "the adapter store")


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Refused(
            f"the folder '{path}' cannot be made ({error.strerror}): choose another", code="no_folder"
        ) from None


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)


def _is_ours(path: Path) -> bool:
    return path.stat().st_uid == os.geteuid()


def _check(path: Path, named: str, mode: str) -> None:
    if not _is_ours(path):
        raise Refused(f"{named} belongs to another user: use one of your own", code="unsafe_file")
    if _is_open(path):
        raise Refused(f"{named} can be read by others: chmod {mode} it", code="unsafe_file")
