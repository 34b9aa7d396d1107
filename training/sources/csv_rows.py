"""The rows of a CSV file, however it is delimited and encoded, as they are read; nothing of it is ever held whole.

A quote that is never closed would swallow the rest of the file: such a row is given up at its first line, and reading
goes on at the next.
"""

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from training.sources.export import Export

MAX_RECORD = 1 << 20  # characters; a longer row is no message
_RESCUED = 500_000  # so many lines of one file may be read again after a row was given up
_DELIMITERS = ",;\t|"
_HEAD = 1 << 16  # characters in which a header ends


class _TooLong(Exception):
    """A row is longer than MAX_RECORD."""


class _Lines:
    """The lines of a text file for one row after the other; those of the present row can be given back."""

    def __init__(self, file: io.TextIOBase):
        self._file = file
        self._given_back: deque[str] = deque()
        self.number = 0
        self.start()

    def start(self) -> None:
        """A row begins with the next line."""
        self.row: list[str] = []
        self.size = 0
        self.at_end = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.size > MAX_RECORD:
            raise _TooLong
        # A row that is asked for a line after the last one has an open quote.
        line = self._given_back.popleft() if self._given_back else self._file.readline(MAX_RECORD + 1)
        if not line:
            self.at_end = True
            raise StopIteration
        self.number += 1
        self.row.append(line)
        self.size += len(line)
        if len(line) > MAX_RECORD:
            while (rest := self._file.readline(MAX_RECORD)) and not rest.endswith(("\n", "\r")):
                pass
            raise _TooLong
        return line

    def give_back(self) -> None:
        """All lines of the present row but its first."""
        self.number -= len(self.row) - 1
        self._given_back.extendleft(reversed(self.row[1:]))


def open_text(export: Export, name: str) -> io.TextIOWrapper:
    """File *name* as text: UTF-8, or UTF-16 where its first bytes say so. Bytes that are none become half surrogates.

    Raises:
        DamagedFile: If it cannot be read.
    """
    encoding = _encoding(export.head(name, 4))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    file: IO[bytes] = export.open(name)
    return io.TextIOWrapper(file, encoding, errors, newline="")


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(head) >= 2 and head[0] != head[1] and 0 in head[:2]:
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8-sig"


def header(file: io.TextIOBase, worth: Callable[[tuple[str, ...]], int]) -> tuple[str, tuple[str, ...]]:
    """(delimiter, names of the columns) of a table: the delimiter under which they are worth most.

    Args:
        worth: How much a row of names tells: the number of those that are known.
    """
    head = file.read(_HEAD)
    names = {mark: _names(head, mark) for mark in _DELIMITERS}
    best = max(names, key=lambda mark: (worth(names[mark]), len(names[mark])))
    return best, names[best]


def _names(head: str, delimiter: str) -> tuple[str, ...]:
    rows = _reader(io.StringIO(head, newline=""), delimiter)
    return next((tuple(name.strip() for name in row) for row in rows if not _is_preamble(row)), ())


def _is_preamble(row: list[str]) -> bool:
    """A blank line, or the one by which Excel names the delimiter."""
    return not any(cell.strip() for cell in row) or row[0].lower().startswith("sep=")


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(3 * MAX_RECORD)  # the module's own limit, 128 kB, is less than some messages
    return csv.reader(lines, delimiter=delimiter)


def rows(file: io.TextIOBase, delimiter: str, width: int) -> Iterator[tuple[int, list[str] | None]]:
    """(number of its first line, cells) of each row after the header; None for one that has not *width* cells.

    Raises:
        DamagedFile: When what is read turns out damaged.
    """
    lines = _Lines(file)
    reader = _reader(lines, delimiter)
    rescued = 0
    in_header = True
    while True:
        lines.start()
        first = lines.number + 1
        try:
            row = next(reader, None)
        except (_TooLong, csv.Error):
            row = []
        if row is None:
            return
        if in_header:
            in_header = _is_preamble(row)
        elif lines.at_end or lines.size > MAX_RECORD or not _fits(row, width):
            if len(lines.row) > 1 and rescued < _RESCUED:
                rescued += len(lines.row)
                lines.give_back()
            reader = _reader(lines, delimiter)
            if "".join(lines.row[:1]).strip():
                yield first, None
        else:
            yield first, row


def _fits(row: list[str], width: int) -> bool:
    return len(row) == width or (len(row) > width and not any(row[width:]))
