"""An export as the user has it: a file, a folder or a zip, seen as named files. Nothing is ever unpacked to disk."""

import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from errors import DataRefused
from training.sources.outcome import Item, NotUnderstood

MAX_LINE = 16 << 20  # bytes; a longer line is no message
_BUFFER = 1 << 16
_PIECE = 1 << 14  # no more than this is lost of what stands before damage
_OPEN_ZIPS = 16  # a folder may hold hundreds: one for each chat
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip


class DamagedFile(DataRefused):
    """One file of an export cannot be read (further). What was read before stands."""

    code = "damaged_file"


@dataclass(frozen=True, slots=True)
class Damage(NotUnderstood):
    """A file that could not be read (further): one entry, behind which any number may be missing."""


class _Place(NamedTuple):
    """Where a file lies: on disk, or as a member of the zip at *path*."""

    path: Path
    member: zipfile.ZipInfo | None = None


class Export:
    """The files of an export by name. A zip within a folder is one more folder: ``chat.zip/_chat.txt``.

    Attributes:
        unreadable: What is wrong with each folder or zip within it whose files could not be listed.

    Raises:
        DataRefused: If there is nothing at *path*, or neither a file nor a folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.unreadable: list[str] = []
        self._zip = lru_cache(_OPEN_ZIPS)(zipfile.ZipFile)
        if not path.exists():
            raise DataRefused(f"no export at '{path}'", code="no_such_file")
        if not (path.is_dir() or path.is_file()):
            raise DataRefused(f"'{path}' is neither a file nor a folder", code="unreadable_file")

    @cached_property
    def names(self) -> list[str]:
        """Names of all files, with / between folders, sorted. A single file has its own name.

        Raises:
            DamagedFile: If it is a zip that cannot be opened, or a folder of which nothing can be read.
        """
        return sorted(self._places)

    @property
    def is_single_file(self) -> bool:
        return self.path.is_file() and not _is_zip(self.path)

    def open(self, name: str) -> io.BufferedReader:
        """The content of file *name*, to be read once from its beginning.

        Raises:
            DamagedFile: If it cannot be opened; later, when what is read turns out damaged.
        """
        path, member = self._places[name]
        try:
            file = path.open("rb") if member is None else self._zip(path).open(member)
        except _DAMAGE as error:
            raise _damaged(name, error) from None
        return io.BufferedReader(cast(Any, _Readable(file, name)), _BUFFER)

    def head(self, name: str, size: int = 4096) -> bytes:
        """The first bytes of *name*; fewer, or none, where it cannot be read."""
        found = b""
        with suppress(DamagedFile), self.open(name) as file:
            while len(found) < size and (more := file.read1(size - len(found))):
                found += more
        return found

    def on_disk(self, name: str) -> Path:
        """Where file *name* lies, for what needs a real file.

        Raises:
            DamagedFile: If it is inside a zip.
        """
        path, member = self._places[name]
        if member is not None:
            raise DamagedFile(f"'{name}' lies inside a zip: unpack it first")
        return path

    @cached_property
    def _places(self) -> dict[str, _Place]:
        if self.path.is_dir():
            places = dict(self._folder())
        elif _is_zip(self.path):
            places = dict(self._members(self.path, self.path.name, ""))
        else:
            places = {self.path.name: _Place(self.path)}
        if not places and self.unreadable:
            raise DamagedFile(self.unreadable[0])
        return {name: place for name, place in places.items() if not _is_of_the_system(name)}

    def _folder(self) -> Iterator[tuple[str, _Place]]:
        for root, subfolders, names in os.walk(self.path, onerror=self._unlisted):
            subfolders.sort()
            for name in names:
                path = Path(root, name)
                if not _is_regular(path):
                    continue  # a pipe would wait for ever
                shown = path.relative_to(self.path).as_posix()
                if name.lower().endswith(".zip"):
                    yield from self._members(path, shown, shown + "/")
                else:
                    yield shown, _Place(path)

    def _members(self, path: Path, shown: str, prefix: str) -> Iterator[tuple[str, _Place]]:
        try:
            members = self._zip(path).infolist()
        except _DAMAGE as error:
            self.unreadable.append(_damaged(shown, error).message)
            return
        for info in members:
            if not info.is_dir():
                yield prefix + _name_of(info), _Place(path, info)

    def _unlisted(self, error: OSError) -> None:
        folder = os.path.relpath(error.filename, self.path)
        shown = self.path.name if folder == "." else Path(folder).as_posix()
        self.unreadable.append(f"folder '{shown}' cannot be read ({type(error).__name__})")


def each_file(export: Export, names: Iterable[str], read: Callable[[str], Iterator[Item]]) -> Iterator[Item]:
    """What *read* yields for each of *names*. A file that is damaged is said and does not stop the others."""
    for name in names:
        try:
            yield from read(name)
        except DamagedFile as damaged:
            yield Damage(damaged.message)


def lines(file: IO[bytes], longest: int = MAX_LINE) -> Iterator[bytes | None]:
    """The lines of *file* without their ends, a byte order mark taken off; None for one of *longest* bytes or more."""
    first = True
    while line := file.readline(longest):
        if len(line) == longest and not line.endswith(b"\n"):
            while (rest := file.readline(longest)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield (line.removeprefix(b"\xef\xbb\xbf") if first else line).rstrip(b"\r\n")
        first = False


class _Readable(io.RawIOBase):
    """A file whose every failure to be read is a DamagedFile."""

    def __init__(self, file: Any, name: str):
        self._file, self._name = file, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        try:
            data = self._file.read1(min(len(buffer), _PIECE))
        except _DAMAGE as error:
            raise _damaged(self._name, error) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _damaged(name: str, error: Exception) -> DamagedFile:
    if isinstance(error, RuntimeError) and "encrypted" in str(error):
        return DamagedFile(f"'{name}' is encrypted: unpack it with its password first")
    return DamagedFile(f"'{name}' is damaged or cannot be read ({type(error).__name__})")


def _is_zip(path: Path) -> bool:
    """By its first bytes, so that a zip that was cut off is one too."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _is_of_the_system(name: str) -> bool:
    """Whether macOS put it beside the files of the user."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (parts[-1:] or ("",))[0].startswith(("._", ".DS_Store"))


def _name_of(info: zipfile.ZipInfo) -> str:
    """The name of a member. macOS writes UTF-8 without saying so; some of Windows write \\ between folders."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")
