"""The XML of "SMS Backup & Restore", of any size and in any state: one entry after the other.

Real backups end in the middle of an entry, hold characters that XML forbids, and carry pictures of megabytes in one
attribute. So the bytes pass a filter before expat sees them, a picture is left out before it is held, and after each
error reading goes on at the next entry. Knows nothing of what an entry means.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from xml.parsers import expat

from training.sources.export import DamagedFile
from training.sources.outcome import Note, NotUnderstood

MAX_TAG = 4 << 20  # bytes; a longer tag, its picture left out, is none
MAX_ENTRY = 16 << 20  # characters in all attributes of an entry
_CHUNK = 1 << 18
_SHORT = 16  # bytes of data that may be the word "null"
_LONG = 1 << 16  # bytes of an open tag from which it is worth looking for a picture

_ATTRIBUTES = rb"(?>\s+[^\s\"'<>=]+\s*=\s*(?>\"[^\"<]*\"|'[^'<]*'))"
_PICTURE_BEGINS = re.compile(rb"<part%s*?\s+data\s*=\s*([\"'])" % _ATTRIBUTES)
_TAG = re.compile(rb"<\w+%s+" % _ATTRIBUTES)
_VALUE = re.compile(rb"\"[^\"]*\"|'[^']*'")
_LINE_IN_TAG = re.compile(rb"[\r\n\t](?!\s*(?:<|\Z))")
_REFERENCE = rb"&#(?:\d{1,8}|x[0-9a-fA-F]{1,8});"
_REFERENCES = re.compile(
    rb"&#(?!(?:9|10|13|34|38|39|60|62);)(?:\d{1,8}|x[0-9a-fA-F]{1,8});(?:%s)*" % _REFERENCE
)  # but plain ones
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\r")
_NO_CHARACTER = re.compile(rb"\xef\xbf[\xbe\xbf]")
_ENTRY = re.compile(rb"<(?:sms|mms|call)[\s/>]")
_BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))  # fmt: skip


@dataclass(slots=True)
class Entry:
    """An ``sms``, ``mms`` or ``call`` element with the ``part`` and ``addr`` elements in it.

    Attributes:
        where: Its place in the file, for reports.
    """

    tag: str
    where: str
    attributes: dict[str, str]
    parts: list[dict[str, str]] = field(default_factory=list)
    addrs: list[dict[str, str]] = field(default_factory=list)


Found = Entry | NotUnderstood | Note


def entries(file: IO[bytes], name: str) -> Iterator[Found]:
    """The entries of a backup; what could not be read of it and whether it is all there.

    Args:
        name: What to call the file in reports.
    """
    reader = _Reader(name)
    try:
        for piece in _pieces(file):
            yield from reader.feed(piece)
    except DamagedFile as damaged:
        yield NotUnderstood(damaged.message)
    yield from reader.end()


class _Reader:
    """Feeds pieces to expat and begins anew after each error."""

    def __init__(self, name: str):
        self._name = name
        self._count = 0
        self._declared: str | None = None
        self._found: list[Found] = []
        self._entry: Entry | None = None
        self._size = 0
        self._lost = False  # after an error, until an entry begins
        self._replaced = False
        self._parser = self._new_parser()
        self._fed = 0

    def feed(self, piece: bytes | None) -> list[Found]:
        """What is complete once *piece* has been read; None is a tag too long to be one."""
        if piece is None:
            self._fail("a tag of more than 4 MB")
            self._lost = True
        else:
            self._parse(memoryview(self._utf8(piece)))
        found, self._found = self._found, []
        return found

    def _parse(self, piece: memoryview) -> None:
        least = 0  # from where the next entry may begin: never twice at one place
        while True:
            if self._lost:
                begin = _ENTRY.search(piece, least)
                if begin is None:
                    return
                self._restart()
                piece, least = piece[begin.start() :], 1
            try:
                self._parser.Parse(piece, False)
            except expat.ExpatError as error:
                self._fail(expat.ErrorString(error.code))
                self._lost = True
                least = max(least, self._parser.ErrorByteIndex - self._fed)
            else:
                self._fed += len(piece)
                return

    def _utf8(self, piece: bytes) -> bytes:
        try:
            piece.decode()
        except UnicodeDecodeError:
            self._replaced = True
            return piece.decode(errors="replace").encode()
        return piece

    def end(self) -> list[Found]:
        """What there is to say once all has been read."""
        if not self._lost:
            try:
                self._parser.Parse(b"", True)
            except expat.ExpatError as error:
                if self._entry is not None or error.code != expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS]:
                    self._fail("the file ends within it")
                self._found.append(Note(f"'{self._name}' was cut off: it has no end"))
        if self._declared is not None and self._declared != str(self._count):
            declared = self._declared if re.fullmatch("[0-9]{1,9}", self._declared) else "another number of"
            self._found.append(Note(f"'{self._name}' says it has {declared} entries; {self._count} were found"))
        if self._replaced:
            self._found.append(Note(f"'{self._name}' has bytes that are not UTF-8: they read as U+FFFD"))
        return self._found

    def _new_parser(self) -> expat.XMLParserType:
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._close
        parser.StartDoctypeDeclHandler = self._refuse
        self._depth = 0
        return parser

    def _restart(self) -> None:
        self._parser = self._new_parser()
        self._depth = 1
        self._lost = False
        self._parser.StartElementHandler = None
        self._parser.Parse(b"<smses>", False)
        self._parser.StartElementHandler = self._start
        self._fed = len(b"<smses>")

    def _refuse(self, *declared: object) -> None:
        self._lost = True
        raise DamagedFile(f"'{self._name}' has a document type declaration, as no backup has: it is not read")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if tag in ("sms", "mms", "call"):
            if self._entry is not None:
                self._fail("it has no end")
            self._count += 1
            self._entry = Entry(tag, f"{self._name} entry {self._count}", attributes)
            self._size = 0
        elif self._depth == 1:
            self._declared = attributes.get("count")
        elif self._entry is None:
            if self._depth == 2:
                self._fail("neither a message nor a call")
        elif tag in ("part", "addr"):
            (self._entry.parts if tag == "part" else self._entry.addrs).append(attributes)
            self._size += 100 + sum(map(len, attributes.values()))
            if self._size > MAX_ENTRY:
                self._fail("it is too long for a message")

    def _close(self, tag: str) -> None:
        self._depth -= 1
        if self._entry is not None and tag == self._entry.tag:
            self._found.append(self._entry)
            self._entry = None

    def _fail(self, why: str) -> None:
        """The open entry, or where none is open the next, cannot be read."""
        self._count += self._entry is None
        self._entry = None
        self._found.append(NotUnderstood(f"{self._name} entry {self._count}: {why}"))


def _pieces(file: IO[bytes]) -> Iterator[bytes | None]:
    """The file as expat can read it, cut where markup begins; None for a tag that is too long.

    No attribute value can hold a ``<``, so that a piece never ends within a tag, a reference or a character.
    """
    rest = skipping = b""
    for chunk in _chunks(file):
        if skipping:
            ends = [place for place in (chunk.find(skipping), chunk.find(b"<")) if place >= 0]
            if not ends:
                continue
            chunk, skipping = chunk[min(ends) :], b""
        rest += chunk
        begin = rest.rfind(b"<")
        if begin > 0:
            yield _cleaned(rest[:begin])
            rest = rest[begin:]
        picture = _PICTURE_BEGINS.match(rest) if len(rest) > _LONG else None
        if picture and picture[1] not in rest[picture.end() :]:
            rest, skipping = picture[0], picture[1]
        elif len(rest) > MAX_TAG:
            yield None
            rest, skipping = b"", b"<"
    yield _cleaned(rest)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The file in UTF-8, nothing before its first tag."""
    head = file.read(_CHUNK)
    encoding = next((encoding for start, encoding in _BOMS if head.startswith(start)), None)
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    begun = False
    while head:
        chunk = decoder.decode(head).encode(errors="replace") if decoder else head
        chunk = chunk if begun else chunk.removeprefix(codecs.BOM_UTF8).lstrip()
        begun = begun or bool(chunk)
        yield chunk
        head = file.read(_CHUNK)


def _cleaned(piece: bytes) -> bytes:
    """*piece* without pictures and without what XML forbids; line breaks in attributes as references, which stay."""
    piece = _without_pictures(piece).translate(None, _CONTROLS)
    piece = _NO_CHARACTER.sub(b"", _REFERENCES.sub(_allowed, piece))
    return _TAG.sub(_keeping_lines, piece) if _LINE_IN_TAG.search(piece) else piece


def _without_pictures(piece: bytes) -> bytes:
    kept, done = [], 0
    for picture in _PICTURE_BEGINS.finditer(piece):
        end = piece.find(picture[1], picture.end())
        if end - picture.end() > _SHORT and piece.find(b"<", picture.end(), end) < 0:
            kept.append(piece[done : picture.end()])
            done = end
    return b"".join([*kept, piece[done:]])


def _allowed(references: re.Match[bytes]) -> bytes:
    """Character references as XML allows them: halves of a surrogate pair joined, lone halves U+FFFD."""
    numbers = [
        int(digits[1:], 16) if digits[:1] == b"x" else int(digits) for digits in references[0][2:-1].split(b";&#")
    ]
    characters = "".join(chr(number) for number in numbers if number in (9, 10, 13) or 32 <= number < 0x110000)
    joined = characters.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return b"".join(b"&#%d;" % ord(character) for character in joined if character not in "\ufffe\uffff")


def _keeping_lines(tag: re.Match[bytes]) -> bytes:
    """A tag whose line breaks and tabs within values survive: XML would read them as spaces."""
    return _VALUE.sub(_referenced, tag[0]) if re.search(rb"[\r\n\t]", tag[0]) else tag[0]


def _referenced(value: re.Match[bytes]) -> bytes:
    return value[0].replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"&#10;").replace(b"\t", b"&#9;")
