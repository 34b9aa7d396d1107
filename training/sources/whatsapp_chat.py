"""One exported chat read once from end to end, to know what no single line of it shows.

Which shape its headers have and which number is the day; who writes in it, and who is named but writes nothing; whether
it is a group, and what it is called.
"""

import os.path
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from training.identifiers import visible
from training.sources.export import DamagedFile, Export, lines
from training.sources.whatsapp_bodies import Phrases, is_marked, understand
from training.sources.whatsapp_headers import CONTROLS, SAMPLE, DateVotes, Header, Shape, header_of, main_shape
from training.sources.whatsapp_phrases import GROUP, OF_A_GROUP

MAX_CHANGES = 8  # of the shape of headers within one file
_ENOUGH = 3  # headers of another shape at the end of a file: its phone or language has changed
_MAX_NAME = 200
_AUTHOR = re.compile(rf"(?P<author>.{{0,{_MAX_NAME}}}?):(?: |(?=[{CONTROLS}])|$)")
_QUOTED = re.compile(r"[\"“«„](?P<name>[^\"“”«»„]{1,100})[\"”»“]")


@lru_cache(maxsize=65536)
def name_of(author: str) -> str:
    """*author* as the file writes it, in one spelling; ``~`` stands before those who are no contacts."""
    name = visible(author)
    return "~ " + name[1:].lstrip() if name.startswith("~") else name


@dataclass
class Segment:
    """The lines from *start* on have headers of one shape."""

    start: int
    shape: Shape
    votes: DateVotes


@dataclass
class Sender:
    """An author as written: how many lines, and how many of them are not WhatsApp's own."""

    example: str
    common: str
    lines: int = 0
    words: int = 0
    different: set[str] = field(default_factory=set)

    def add(self, rest: str, behind_name: int) -> None:
        """Take note of a line; *behind_name* is where its body begins."""
        self.lines += 1
        if len(self.common) > behind_name:
            self.common = os.path.commonprefix([self.common, rest])
            if len(self.different) < 5:
                self.different.add(rest[:300])

    def longer_name(self) -> str | None:
        """The author where all lines go on to one further colon, each differently: a name with a colon in it."""
        first = _AUTHOR.match(self.common)
        found = _AUTHOR.match(self.common, first.end()) if first and len(self.different) == 5 else None
        return self.common[: found.end("author")] if found and found["author"] else None


@dataclass
class Chat:
    """What a file shows as a whole."""

    file: str
    segments: list[Segment] = field(default_factory=list)
    first: Header | None = None
    phrases: Phrases = field(default_factory=Phrases)
    senders: dict[str, Sender] = field(default_factory=dict)
    is_group: bool = False
    subject: str | None = None
    foreign: int = 0
    not_utf8: int = 0
    damage: str | None = None
    people: Counter[str] = field(default_factory=Counter)
    nobodies: frozenset[str] = frozenset()
    _unsigned: Counter[str] = field(default_factory=Counter)
    _longer: dict[str, str] = field(default_factory=dict)

    def add(self, rest: str) -> None:
        """Take note of what follows a header."""
        found = _AUTHOR.match(rest)
        if found is None:
            self._add_unsigned(rest)
            return
        name, body = name_of(found["author"]), rest[found.end() :]
        sender = self.senders.get(name)
        if sender is None:
            sender = self.senders[name] = Sender(rest[:300], rest[:300])
        sender.add(rest, found.end())
        self.phrases.add(body)
        # Most lines are somebody's words: only those that may not be are looked at closely.
        if (is_marked(body) or not sender.words) and understand(body, name, self.phrases).kind == "system":
            self._add_system(body)
        else:
            sender.words += 1

    def _add_unsigned(self, rest: str) -> None:
        early, colon, _ = rest[:_MAX_NAME].partition(":")
        if colon:
            self._unsigned[early] += 1
        self._add_system(rest)

    def _add_system(self, text: str) -> None:
        if GROUP.search(text[:300].strip(CONTROLS)):
            self.is_group = True
            if quoted := _QUOTED.findall(text[:300]):
                self.subject = visible(quoted[-1])

    def finish(self) -> None:
        """Know who writes here, now that all lines were seen."""
        self._longer = {name: longer for name, sender in self.senders.items() if (longer := sender.longer_name())}
        for sender in self.senders.values():
            author, _ = self.split(sender.example)
            if author is not None:
                self.people[author] += sender.words
        for early, count in self._unsigned.items():
            author, _ = self.split(f"{early}:x")
            if author is not None:
                self.people[author] += count
        self.nobodies = frozenset(name for name, words in self.people.items() if not words)
        self.people = +self.people

    def split(self, rest: str) -> tuple[str | None, str]:
        """(author or None, body) of what follows a header."""
        found = _AUTHOR.match(rest)
        early, colon, after = rest[:_MAX_NAME].partition(":")
        if found is None:
            is_name = colon and self._is_name(early, after)
            return (name_of(early), rest[len(early) + 1 :]) if is_name else (None, rest)
        author = found["author"]
        name = name_of(author)
        longer = self._longer.get(name)
        if longer is not None and rest.startswith(longer + ":"):
            return name_of(longer), rest[len(longer) + 1 :].removeprefix(" ")
        lines_by_name = self._lines_by(name)
        if early != author and self._lines_by(name_of(early)) >= max(lines_by_name, 1):
            return name_of(early), rest[len(early) + 1 :]
        if lines_by_name < _ENOUGH and _is_unfinished(author) and OF_A_GROUP.search(author):
            return None, rest
        return name, rest[found.end() :]

    def _lines_by(self, name: str) -> int:
        sender = self.senders.get(name)
        return sender.lines if sender else 0

    def _is_name(self, early: str, after: str) -> bool:
        """Whether *early* is an author though no space follows its colon."""
        if self._lines_by(name_of(early)):
            return True
        is_clock_or_link = early[-1:].isdigit() and after[:1].isdigit() or after.startswith("//") or not after
        is_sentence = len(early) > 40 or early.count(" ") > 3 or _is_unfinished(early) or GROUP.search(early)
        return bool(visible(early)) and not is_clock_or_link and not is_sentence


def _is_unfinished(text: str) -> bool:
    return text.count('"') % 2 == 1 or text.count("“") > text.count("”")


def text_lines(export: Export, name: str, chat: Chat | None = None) -> Iterator[tuple[int, str | None]]:
    """The lines of a file, from 1; None for one that is no message line by its length.

    Args:
        chat: Where to count lines that are not UTF-8; their odd bytes are replaced.
    """
    with export.open(name) as file:
        for number, line in enumerate(lines(file), 1):
            try:
                yield number, None if line is None else line.decode()
            except UnicodeDecodeError:
                if chat is not None:
                    chat.not_utf8 += 1
                yield number, (line or b"").decode(errors="replace")


@dataclass
class _Run:
    """Headers of another shape than the segment's, since the last of that."""

    start: int
    lines: int = 0


def survey(export: Export, name: str) -> Chat:
    """What file *name* shows as a whole; without segments if it is no chat."""
    chat = Chat(name)
    try:
        start: int | None = 1
        while start is not None and len(chat.segments) < MAX_CHANGES:
            shape = main_shape(_sample(export, name, start))
            if shape is None:
                break
            segment = Segment(start, shape, DateVotes(shape))
            chat.segments.append(segment)
            start = _survey(export, chat, segment)
    except DamagedFile as damaged:
        chat.damage = damaged.message
    chat.finish()
    return chat


def _sample(export: Export, name: str, start: int) -> list[Header]:
    wanted = islice(text_lines(export, name), start - 1, start - 1 + SAMPLE)
    return [header for _, line in wanted if line is not None and (header := header_of(line))]


def _survey(export: Export, chat: Chat, segment: Segment) -> int | None:
    """Take note of all lines of *segment*; the line where headers of another shape take over, or None."""
    others: dict[Shape, _Run] = {}
    is_first = segment.start == 1
    for number, line in text_lines(export, chat.file, chat if is_first else None):
        if number < segment.start or line is None:
            continue
        header = header_of(line)
        if header is None:
            continue
        if header.shape == segment.shape:
            chat.foreign += sum(run.lines for run in others.values())
            others.clear()
            segment.votes.add(header.date)
            chat.first = chat.first or header
            chat.add(header.rest)
        elif ":" in header.rest:
            others.setdefault(header.shape, _Run(number)).lines += 1
    tail = max(others.values(), key=lambda run: run.lines, default=None)
    if tail is not None and tail.lines >= _ENOUGH:
        return tail.start
    chat.foreign += sum(run.lines for run in others.values())
    return None
