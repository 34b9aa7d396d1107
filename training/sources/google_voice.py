"""Google Voice, as Takeout writes it: a web page for each burst of messages and for each call, in ``Voice/Calls``.

A page names the number of everybody who wrote in it, and mine, but not with whom a page is where only I wrote: then its
file name does, by number or by a contact's name, which other pages give a number.
"""

import html
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

from training.identifiers import canonical_address, canonical_name, visible
from training.records import Record
from training.sources.export import DamagedFile, Export, each_file
from training.sources.google_voice_page import Message, Page
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

MAX_PAGE = 8 << 20  # bytes; a page holds one burst of messages
_SOURCE = "google-voice"
_STAMP = r"\d{4}-\d\d-\d\dT\d\d_\d\d_\d\dZ"
_NAME = re.compile(
    rf"(?P<contact>.*?)(?:^| - |- )(?:(?:Text|Received|Placed|Missed|Voicemail|Recorded) - )?{_STAMP}.*\.html?",
    re.DOTALL,
)
_GROUP = "Group Conversation"
_PERSON = re.compile(rb'href="tel:([^"<>]*)"\s*>\s*<(abbr|span) class="fn"[^<>]*>([^<]*)<')
_PLACEHOLDERS = ("MMS Sent", "MMS Received")


def recognises(export: Export) -> bool:
    """A page named as Takeout names them, or one that holds a conversation or a call."""
    pages = _pages(export)
    return any(_NAME.fullmatch(PurePosixPath(name).name) for name in pages) or any(
        re.search(rb'class="(?:hChatLog|haudio)', export.head(name)) for name in pages[:50]
    )


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every page; calls and what was written in another page already are counted."""
    reader = _Reader(_book(export, options), options)
    yield from each_file(export, _pages(export), lambda name: _read(export, name, reader))


def _pages(export: Export) -> list[str]:
    if export.is_single_file:
        return export.names
    return [name for name in export.names if name.lower().endswith((".html", ".htm"))]


def _content(export: Export, name: str) -> bytes:
    with export.open(name) as file:
        content = file.read(MAX_PAGE + 1)
    if len(content) > MAX_PAGE:
        raise DamagedFile(f"'{name}' is longer than 8 MB: no page of messages is")
    return content


@dataclass
class _Book:
    """Numbers by contact's name, and which are mine."""

    region: str | None
    mine: set[str] = field(default_factory=set)
    numbers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def person(self, number: str, name: str) -> str | None:
        """The identifier of somebody: the number, else the name's one number, else the name; None for nobody."""
        if number:
            return canonical_address(number, self.region) or canonical_name(_SOURCE, number, self.region)
        known = self.numbers.get(visible(name), set())
        if len(known) == 1:
            return next(iter(known))
        return canonical_name(_SOURCE, name, self.region) if visible(name) else None


def _book(export: Export, options: Options) -> _Book:
    """Look through all pages, and the list of my phones, for numbers."""
    book = _Book(options.region)
    book.mine = {number for me in options.me if (number := canonical_address(me, options.region))}
    for name in [*_pages(export), *(name for name in export.names if name.endswith("Phones.vcf"))]:
        try:
            content = _content(export, name)
        except DamagedFile:
            continue  # said when it is read for its messages
        for number, tag, shown in _PERSON.findall(content):
            person = book.person(_unescaped(number), "")
            if person and tag == b"abbr":
                book.mine.add(person)
            elif person and visible(_unescaped(shown)):
                book.numbers[visible(_unescaped(shown))].add(person)
        book.mine.update(filter(None, (book.person(number, "") for number in _my_phones(content))))
    return book


def _unescaped(data: bytes) -> str:
    return html.unescape(data.decode("utf-8", "replace")).strip()


def _my_phones(card: bytes) -> Iterator[str]:
    """The numbers that ``Phones.vcf`` labels as those of Google Voice."""
    for label in re.findall(rb"^(\w{1,20})\.X-ABLabel:[^\r\n]*Google Voice", card, re.MULTILINE):
        for number in re.findall(rb"^%s\.TEL[^:\r\n]*:([^\r\n]+)" % label, card, re.MULTILINE):
            yield number.decode("utf-8", "replace")


def _read(export: Export, name: str, reader: "_Reader") -> Iterator[Item]:
    page = Page()
    try:
        page.feed(_content(export, name).decode("utf-8-sig", "replace"))
        page.close()
    except AssertionError:  # how html.parser refuses a declaration it cannot make sense of
        yield NotUnderstood(f"'{name}' is damaged: it was read as far as it goes")
    if page.is_chat or page.messages:
        yield from reader.items(name, page)
        if not page.has_end:
            yield Note(f"'{name}' was cut off: it has no end")
    elif page.is_call:
        yield Skipped("call")
    elif export.is_single_file or _NAME.fullmatch(PurePosixPath(name).name):
        yield NotUnderstood(f"'{name}': neither a conversation nor a call")


class _Reader:
    """Turns pages into items. Remembers what earlier pages said: a download can hold one twice."""

    def __init__(self, book: _Book, options: Options):
        self._book = book
        self._options = options
        self._seen: set[int] = set()
        self._count = 0

    def items(self, name: str, page: Page) -> Iterator[Item]:
        """One for each message of *page*."""
        file_name = PurePosixPath(name).name
        match = _NAME.fullmatch(file_name)
        contact = visible(page.title.removeprefix("Me to")) or (visible(match["contact"]) if match else "")
        is_group = page.is_group or contact == _GROUP
        people = self._people(page, contact, is_group)
        thread = ",".join(sorted(people)) or f"{_SOURCE}:{file_name}"
        reason = self._why_not(page, people)
        new = set()
        for number, message in enumerate(page.messages, 1):
            self._count += 1
            record = self._record(message, thread, len(people) > 1, f"'{name}' message {number}")
            if not isinstance(record, Record) or reason:
                yield Skipped(reason) if reason and isinstance(record, Record) else record
                continue
            record.thread_name = contact if not is_group and contact else None
            record.flags = ["spam"] if "spam" in page.labels else []
            key = hash((thread, record.sender_id, record.from_me, record.sent_at, record.text, record.kind))
            new.add(key)
            yield Skipped("duplicate") if key in self._seen else record
        self._seen |= new

    def _people(self, page: Page, contact: str, is_group: bool) -> set[str]:
        """Everybody in the conversation but me; I alone where it is with myself."""
        named = page.members or [message for message in page.messages if message.is_named and not self._is_me(message)]
        found = {person for one in named if (person := self._book.person(one.number, one.name))}
        if not found and contact and not is_group:
            found = {person for person in [self._person_of(contact)] if person}
        return found - self._book.mine if len(found) > 1 else found

    def _person_of(self, contact: str) -> str | None:
        return canonical_address(contact, self._book.region) or self._book.person("", contact)

    def _is_me(self, message: Message) -> bool:
        return message.is_me or (bool(message.name) and self._options.is_me(message.name))

    def _why_not(self, page: Page, people: set[str]) -> str | None:
        """Why nothing of *page* is wanted."""
        if page.deleted.endswith("True"):
            return "recently_deleted"
        if people and people <= self._book.mine:
            return "self_chat"
        if len(people) == 1 and next(iter(people)).startswith("short:") and not _has_contact(page):
            return "business"
        return None

    def _record(self, message: Message, thread: str, is_group: bool, where: str) -> Item:
        text = message.text
        when = self._moment(message.time)
        if text is None or when is None or not message.is_named:
            missing = "text" if text is None else "time" if when is None else "sender"
            return NotUnderstood(f"{where}: no {missing} that can be read")
        is_media = not text.strip() or text.strip() in _PLACEHOLDERS
        if is_media and not text.strip() and not message.attachments:
            return Skipped("empty")
        from_me = self._is_me(message)
        sender = self._book.person(message.number, message.name)
        if sender is None and not from_me:
            if is_group:
                return NotUnderstood(f"{where}: nobody is named who sent it")
            sender = thread
        sent_at, sent_local = when
        return Record(
            source=_SOURCE,
            thread_id=thread,
            thread_kind="group" if is_group else "dm",
            sender_id=sender,
            sender_name=None if from_me else message.name or None,
            from_me=from_me,
            sent_at=sent_at,
            sent_local=sent_local,
            kind="media" if is_media else "text",
            text="" if is_media else text,
            attachments=message.attachments,
            order=self._count,
        )

    def _moment(self, written: str | None) -> tuple[datetime, str | None] | None:
        try:
            when = datetime.fromisoformat((written or "").strip())
            if when.tzinfo is not None:
                return when.astimezone(UTC), None
            return self._options.aware(when), when.isoformat()
        except (ValueError, OverflowError, OSError):
            return None


def _has_contact(page: Page) -> bool:
    """Whether somebody in it is written with a ``+`` and a name: no service is."""
    return any(
        one.number.startswith("+") and re.search(r"[^\W\d_]", one.name) for one in page.messages if not one.is_me
    )
