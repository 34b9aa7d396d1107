"""Makes JSON of what Telegram Desktop wrote as JSON, while it is read.

Three faults of its past versions, each of which stops a strict reader at the first instance:

    "412\\x012"                           a control character in an escape that JSON does not have
    "document_id": stickers/s (2).webm   a path without quotes, always the last thing on its line
    "\\xff"                               the raw bytes of a button, no UTF-8: they become U+FFFD

Knows nothing of messages. What is already JSON passes unchanged, but for a byte order mark.
"""

import codecs
import io
import re
from collections.abc import Iterator
from typing import IO, Any, cast

_CHUNK = 1 << 16
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|.)", re.DOTALL)
# Possessive, or giving back the last space would let any value pass for a bare one.
_BARE = re.compile(
    rb'("document_id":[ \t]*+)(?!["\[{]|(?:null|true|false|-?\d[\d.eE+-]*)[ \t]*+[,}\]\r\n])'
    rb"([^\r\n]{0,1000}?)(,?[ \t]*)(?=\r?\n)"
)


def repaired(file: IO[bytes]) -> IO[bytes]:
    """The content of *file* as JSON, to be read once; never more than some lines of it are held."""
    return cast(IO[bytes], io.BufferedReader(cast(Any, _Repaired(file)), _CHUNK))


class _Repaired(io.RawIOBase):
    def __init__(self, file: IO[bytes]):
        self._chunks, self._ready = _chunks(file), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if not self._ready:
            self._ready = next(self._chunks, b"")
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
    held = b""
    while data := file.read(_CHUNK):
        held += decode(data).encode()
        size = _whole(held)
        if size:
            yield _mended(held[:size])
        held = held[size:]
    held += decode(b"", True).encode()
    if held:
        yield _mended(held)


def _whole(data: bytes) -> int:
    """How much of *data* can be mended without seeing more: whole lines, or up to an escape that goes on."""
    if line := data.rfind(b"\n") + 1:
        return line
    for tail in range(3):  # of a whole escape: \ x 4 1
        head = data[: len(data) - tail]
        if (len(head) - len(head.rstrip(b"\\"))) % 2:
            return len(head) - 1
    return len(data)


def _mended(data: bytes) -> bytes:
    if b"\\x" in data:
        data = _ESCAPE.sub(lambda found: b"\\u00" + found[1] if found[1] else found[0], data)
    if b'"document_id"' in data:
        data = _BARE.sub(lambda found: found[1] + _quoted(found[2]) + found[3], data)
    return data


def _quoted(value: bytes) -> bytes:
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
