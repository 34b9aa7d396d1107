"""``block_list.yaml``: what the user wants kept out of a dataset: words, people, conversations, days.

words: [Project Heron, grandma's name]
contacts: [+14025550101, jo@example.com]
threads: [Hikers]
dates: [{from: 2024-03-01, to: 2024-03-14}]
"""

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from errors import DataRefused
from training.identifiers import canonical_address, visible
from training.privacy.find import Found, without_overlaps

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class _Days(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    first: date = Field(alias="from")
    last: date = Field(alias="to")

    @model_validator(mode="after")
    def _in_order(self) -> "_Days":
        if self.last < self.first:
            raise ValueError("ends before it begins")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    words: list[_Name] = []
    contacts: list[_Name] = []
    threads: list[_Name] = []
    dates: list[_Days] = []


@dataclass(frozen=True)
class BlockList:
    """What is kept out. Words are found however they are written: case, width and composed accents do not matter.

    Attributes:
        dates: First and last day, both blocked.
    """

    words: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    dates: tuple[tuple[date, date], ...] = field(default=())

    def find(self, text: str) -> list[Found]:
        """The blocked words of *text*, in order."""
        if self._pattern is None:
            return []
        folded, places = _folded(text)
        found = []
        for match in self._pattern.finditer(folded):
            found.append(Found("blocked", places[match.start()], places[match.end() - 1] + 1))
        return without_overlaps(found)

    def blocks_contact(self, *names: str | None) -> bool:
        """Whether one of *names* (an identifier or a display name) is blocked."""
        return any(_key(name) in self._contacts for name in names if name)

    def blocks_thread(self, *names: str | None) -> bool:
        """Whether one of *names* (the id or the name of a conversation) is blocked."""
        return any(_key(name) in self._threads for name in names if name)

    def blocks_day(self, moment: datetime | None) -> bool:
        """Whether *moment* is on a blocked day of its own time zone."""
        return moment is not None and any(first <= moment.date() <= last for first, last in self.dates)

    @cached_property
    def _contacts(self) -> frozenset[str]:
        return frozenset(map(_key, self.contacts))

    @cached_property
    def _threads(self) -> frozenset[str]:
        return frozenset(map(_key, self.threads))

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        folded = sorted({" ".join(_folded(word)[0].split()) for word in self.words} - {""}, key=len, reverse=True)
        return re.compile("|".join(map(_bounded, folded))) if folded else None


def load_block_list(path: Path) -> BlockList:
    """The block list in the file *path*.

    Raises:
        DataRefused: If it cannot be read or is no block list, with everything that is wrong.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        file = TypeAdapter(_File).validate_python({} if data is None else data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ValidationError):
            where = [f"{'.'.join(map(str, row['loc'])) or 'the file'}: {row['msg']}" for row in error.errors()]
            raise DataRefused(f"'{path}' is not a block list", code="block_list_malformed", details=where) from None
        raise DataRefused(f"'{path}' cannot be read ({type(error).__name__})", code="unreadable_file") from None
    days = tuple((days.first, days.last) for days in file.dates)
    return BlockList(tuple(file.words), tuple(file.contacts), tuple(file.threads), days)


def _key(name: str) -> str:
    return canonical_address(name) or visible(name).casefold()


def _bounded(word: str) -> str:
    """A pattern for *word* where no longer word contains it; scripts without spaces have no such bounds."""
    before = r"(?<!\w)" if _has_bounds(word[0]) else ""
    after = r"(?!\w)" if _has_bounds(word[-1]) else ""
    return before + r"\s+".join(map(re.escape, word.split())) + after


def _has_bounds(letter: str) -> bool:
    return (letter.isalnum() or letter == "_") and not "\u2e80" <= letter <= "\ud7af"


def _folded(text: str) -> tuple[str, list[int] | range]:
    """*text* without case, width and composition, and for each of its letters the place it has in *text*."""
    if text.isascii():
        return text.lower(), range(len(text))
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        for plain in unicodedata.normalize("NFKD", letter).casefold():
            letters.append(plain)
            places.append(place)
    return "".join(letters), places
