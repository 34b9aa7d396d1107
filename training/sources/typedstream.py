"""The words of an ``attributedBody``: an NSAttributedString, archived as a typedstream or, rarely, as a keyed archive.

Reads the string and none of its attributes. In a typedstream it stands after a marker, its length in bytes before it:

    84 01 2b  05 h e l l o         one byte, below 0x80, is the length itself
    84 01 2b  81 c8 00 ...         0x81: 2 bytes, little-endian
    84 01 2b  82 00 00 01 00 ...   0x82: 4 bytes, little-endian
"""

import plistlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MARKER = b"\x84\x01+"
_END = b"\x86\x84"  # what follows the string
_LENGTH_BYTES = {0x81: 2, 0x82: 4}
_TRAILER = 32  # bytes at the end of a binary property list


@dataclass
class Bodies:
    """Decodes bodies and counts those that were not read by their length.

    Attributes:
        keyed: Keyed archives instead of typedstreams.
        scanned: The length was wrong: read up to the mark that follows a string.
        mended: Not UTF-8 throughout.
        unreadable: Neither a length nor an end mark led to a string.
    """

    keyed: int = 0
    scanned: int = 0
    mended: int = 0
    unreadable: int = 0

    def text(self, blob: bytes) -> str | None:
        """The string of *blob*; None if it holds none that can be read."""
        found = whole_text(blob)
        if found is not None:
            return found
        at = blob.find(_MARKER)
        if at < 0:
            found = _keyed_string(blob)
            self.keyed += found is not None
        else:
            found = self._damaged(blob, at)
        self.unreadable += found is None
        return found

    def notes(self) -> Iterator[str]:
        """What to tell of them, without a word of what they say."""
        if self.keyed:
            yield f"{self.keyed:,} message bodies were keyed archives"
        if self.scanned:
            yield f"{self.scanned:,} message bodies gave a wrong length and were read up to their end mark"
        if self.mended:
            yield f"{self.mended:,} message bodies were not UTF-8 throughout"
        if self.unreadable:
            yield f"{self.unreadable:,} message bodies could not be decoded"

    def _damaged(self, blob: bytes, at: int) -> str | None:
        start, end = _bounds(blob, at)
        if end > len(blob):
            end = blob.find(_END, start)
            if end < 0:
                return None
            self.scanned += 1
        data = blob[start:end]
        text = data.decode(errors="replace")
        self.mended += "\ufffd" in text and "\ufffd".encode() not in data
        return text


def whole_text(blob: bytes) -> str | None:
    """The string of a typedstream with nothing wrong; None for anything else."""
    at = blob.find(_MARKER)
    if not 0 <= at < len(blob) - 3:
        return None
    length, start = blob[at + 3], at + 4
    start, end = (start, start + length) if length < 0x80 else _bounds(blob, at)
    try:
        return blob[start:end].decode() if end <= len(blob) else None
    except UnicodeDecodeError:
        return None


def _bounds(blob: bytes, at: int) -> tuple[int, int]:
    """Where the string behind the marker at *at* begins, and where it should end."""
    start = at + 4
    length = blob[at + 3] if start <= len(blob) else 0x80
    if length >= 0x80:
        size = _LENGTH_BYTES.get(length, 0)
        length = int.from_bytes(blob[start : start + size], "little") if size else len(blob)
        start += size
    return start, start + length


def property_list(blob: Any) -> Any:
    """The value of a binary property list; None if it is none or damaged."""
    if not isinstance(blob, bytes) or not blob.startswith(b"bplist00") or len(blob) < _TRAILER + 8:
        return None
    if int.from_bytes(blob[-24:-16]) > len(blob):
        return None  # more objects than bytes: plistlib would make room for them all
    try:
        return plistlib.loads(blob, fmt=plistlib.FMT_BINARY)
    except (plistlib.InvalidFileException, ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        return None


def _keyed_string(blob: bytes) -> str | None:
    archive = property_list(blob)
    if not isinstance(archive, dict):
        return None
    top, objects = archive.get("$top"), archive.get("$objects")
    if not isinstance(top, dict) or not isinstance(objects, list):
        return None
    root = _object(objects, top.get("root"))
    found = _object(objects, root.get("NSString")) if isinstance(root, dict) else root
    if isinstance(found, dict):  # an NSMutableString
        found = found.get("NS.string")
    return found if isinstance(found, str) else None


def _object(objects: list[Any], reference: Any) -> Any:
    if isinstance(reference, plistlib.UID) and reference.data < len(objects):
        return objects[reference.data]
    return None
