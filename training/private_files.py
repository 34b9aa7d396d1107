"""Writing files that only their owner may read, and that are whole or not there after a crash."""

import fcntl
import os
from pathlib import Path

PRIVATE_UMASK = 0o077


def write_synced(path: Path, data: bytes) -> None:
    """A new file of mode 0600 with *data*, on the disk when this returns.

    Raises:
        FileExistsError: If it is there already.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(data)
        sync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """*path* with *data*: at every moment the old file or the new one."""
    staged = path.with_name(f".staging-{path.name}-{os.getpid()}")
    staged.unlink(missing_ok=True)  # of a killed process that had this one's number, as in containers
    try:
        write_synced(staged, data)
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in *folder* last over a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(handle: int) -> None:
    """fsync; on macOS down to the platter, where the file system can."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(handle, full)
            return
        except OSError:
            pass  # not on this file system: the ordinary one below
    os.fsync(handle)
