"""JSON too large to hold: one entry after the other, by ijson."""

import re
from collections.abc import Iterator
from typing import IO, Any

import ijson

from training.sources.export import DamagedFile

MAX_DEPTH = 200  # ijson's memory grows with the square of the depth; no message is nested as deep
_MARK = b"\xef\xbb\xbf"  # of byte order
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NO_JSON = (ijson.JSONError, UnicodeDecodeError, ValueError, OverflowError)


def entries(file: IO[bytes], prefix: str, name: str) -> Iterator[Any]:
    """The values at *prefix* of a JSON document (``messages.item``: each of the list "messages"), as they are read.

    Args:
        name: What to call the file in an error.

    Raises:
        DamagedFile: Where the document stops being JSON; what was whole has been yielded before.
    """
    try:
        yield from ijson.items(_Shallow(file, name), prefix, use_float=True)
    except _NO_JSON as error:
        raise DamagedFile(
            f"'{name}' is not whole JSON: it was read as far as it goes ({type(error).__name__})"
        ) from None


def events(file: IO[bytes], name: str) -> Iterator[tuple[str, str, Any]]:
    """(prefix, event, value) of everything in a JSON document, as ``ijson.parse`` names them. Raises as ``entries``."""
    try:
        yield from ijson.parse(_Shallow(file, name), use_float=True)
    except _NO_JSON as error:
        raise DamagedFile(f"'{name}' is not whole JSON ({type(error).__name__})") from None


def first(file: IO[bytes], prefixes: set[str], name: str) -> dict[str, Any]:
    """The plain values (text, number, truth, null) that stand at *prefixes*, by prefix; those absent are left out.

    Reads until all are found, the whole document where one is not there. Raises as ``entries`` does.
    """
    found: dict[str, Any] = {}
    for prefix, event, value in events(file, name):
        if prefix in prefixes and event in ("string", "number", "boolean", "null"):
            found.setdefault(prefix, value)
            if len(found) == len(prefixes):
                break
    return found


class _Shallow:
    """A file of JSON without its byte order mark, read as long as its brackets are not nested too deep."""

    def __init__(self, file: IO[bytes], name: str):
        self._file, self._name = file, name
        self._at_start, self._depth, self._in_string, self._cut = True, 0, False, b""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if data and self._at_start:
            data, self._at_start = data.removeprefix(_MARK) or self._file.read(size), False
        self._look(data)
        return data

    def _look(self, data: bytes) -> None:
        plain = _ESCAPED.sub(b"", self._cut + data)
        self._cut = b"\\" if plain.endswith(b"\\") else b""  # of an escape that the next piece ends
        parts = plain.split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        for bracket in outside.translate(None, _NO_BRACKETS):
            self._depth += 1 if bracket in b"[{" else -1
            if self._depth > MAX_DEPTH:
                raise DamagedFile(f"'{self._name}' is not whole JSON: it is nested more than {MAX_DEPTH} deep")
