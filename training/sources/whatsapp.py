"""WhatsApp's "Export chat": text files of Android or iPhone, alone, in their zips, or folders of both.

Each file is read twice: once to learn its shape and who is in it (``whatsapp_chat``), once for its messages. Times are
those of the phone, without a zone. Deleted messages, calls and media are kept as such; reactions and replies are in no
export.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from training.identifiers import canonical_name
from training.records import Record
from training.sources.export import Export, each_file
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.whatsapp_bodies import understand
from training.sources.whatsapp_chat import Chat, Segment, survey, text_lines
from training.sources.whatsapp_headers import Header, Shape, header_of, local_time
from training.sources.whatsapp_owner import own_name_of, owners, title_of

_SOURCE = "whatsapp"


def recognises(export: Export) -> bool:
    """A text file in whose first lines a date, a time and somebody's name stand before a text."""
    return any(_begins_like_a_chat(export.head(name)) for name in _files(export))


def _begins_like_a_chat(head: bytes) -> bool:
    lines = head.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").split("\n")[:40]
    headers = [header for line in lines if (header := header_of(line))]
    # Logs of programs also begin with a time, but not with one in brackets or before a dash and then a name.
    return any(header.shape.end in ("]", "-", "–", "—") and ":" in header.rest for header in headers)


def _files(export: Export) -> list[str]:
    if export.is_single_file:
        return export.names
    # Archives of a Mac hold a shadow of each file.
    return [name for name in export.names if name.lower().endswith(".txt") and "__MACOSX/" not in name]


def read(export: Export, options: Options) -> Iterator[Item]:
    """The messages of each chat.

    Raises:
        DataRefused: If nothing shows who the user is and ``options.me`` does not say it.
    """
    chats = []
    for name in _files(export):
        chat = survey(export, name)
        if chat.segments:
            chats.append(chat)
            yield from _notes(chat)
        elif chat.damage or len(_files(export)) == 1 or "chat" in name.lower():
            yield NotUnderstood(chat.damage or f"'{name}': no line begins like a message of WhatsApp")
        else:
            yield Note(f"'{name}' is no chat and was left out")
    mine, notes = owners(export, chats, options)
    yield from notes
    orders, guesses = _orders(chats, options)
    yield from guesses
    readers = {c.file: _Reader(export, options, c, orders[c.file], mine.get(c.file, frozenset())) for c in chats}
    files_of = Counter(reader.thread_id for reader in readers.values())
    earlier = {thread_id: _Earlier() for thread_id, files in files_of.items() if files > 1}
    for file, reader in readers.items():
        items = each_file(export, [file], lambda _, reader=reader: reader.items())  # type: ignore[misc]
        known = earlier.get(reader.thread_id)
        yield from known.without_duplicates(items) if known else items


def _notes(chat: Chat) -> Iterator[Note]:
    if chat.not_utf8:
        yield Note(f"'{chat.file}': {chat.not_utf8} lines are not UTF-8; what is no letter was replaced")
    if chat.foreign:
        yield Note(
            f"'{chat.file}': {chat.foreign} lines begin with a time as other phones write it and were taken as text"
        )
    if len(chat.segments) > 1:
        starts = ", ".join(str(segment.start) for segment in chat.segments[1:])
        yield Note(f"'{chat.file}': the form of times changes at line {starts}")


def _orders(chats: Sequence[Chat], options: Options) -> tuple[dict[str, list[str]], list[Note]]:
    """(by file, the order of day, month and year in each segment; what was guessed).

    The chats of one phone are written alike: one that shows nothing follows the others of its shape.
    """
    decided: dict[Shape, Counter[str]] = {}
    for segment in _segments(chats):
        order, is_sure = segment.votes.order(options.day_first)
        if is_sure:
            decided.setdefault(segment.shape, Counter())[order] += 1
    usual = {shape: orders.most_common(1)[0][0] for shape, orders in decided.items()}
    guessed: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for chat in chats:
        found[chat.file] = []
        for segment in chat.segments:
            order, is_sure = segment.votes.order(options.day_first, usual.get(segment.shape))
            found[chat.file].append(order)
            guessed[order] += not is_sure
    names = {"d": "day", "m": "month", "y": "year"}
    return found, [
        Note(f"dates of {count} chats can be read two ways: taken as {', '.join(names[c] for c in order)}; if not, give"
             f" --{'no-' if order.index('d') < order.index('m') else ''}day-first")
        for order, count in guessed.items() if count
    ]  # fmt: skip


def _segments(chats: Sequence[Chat]) -> Iterator[Segment]:
    for chat in chats:
        yield from chat.segments


@dataclass
class _Entry:
    """A message as it stands in the file: from its header to the next."""

    line: int
    header: Header
    order: str
    lines: list[str]


class _Reader:
    """The items of one chat."""

    def __init__(self, export: Export, options: Options, chat: Chat, orders: list[str], mine: frozenset[str]):
        self._export, self._options, self._chat, self._mine = export, options, chat, mine
        self._ids: dict[str, str] = {}
        self._segments = list(zip(chat.segments, orders, strict=True))
        others = [name for name in chat.people if name not in mine]
        nobodies = [name for name in chat.nobodies if name not in mine]
        # The notice at the head of an iPhone's chat has the contact's name, or the group's: then he is nobody in it.
        self._is_group = chat.is_group or len(others) > 1 or (len(others) == 1 and bool(nobodies))
        title = title_of(export, chat.file)
        if self._is_group:
            self._name = title or (nobodies[0] if nobodies else None) or chat.subject or own_name_of(export, chat.file)
            self.thread_id = f"{_SOURCE}:group:{self._name or self._birth()}"
        else:
            self._name = next(iter([*others, *filter(None, [title]), *nobodies]), own_name_of(export, chat.file))
            self.thread_id = self._id_of(self._name) if self._name else f"{_SOURCE}:chat:{self._birth()}"

    def _id_of(self, name: str) -> str:
        if name not in self._ids:
            self._ids[name] = canonical_name(_SOURCE, name, self._options.region)
        return self._ids[name]

    def _birth(self) -> str:
        """When the first message was written: the same in every export of a chat."""
        local = local_time(self._chat.first, self._segments[0][1]) if self._chat.first else None
        return local.isoformat() if local else self._chat.file

    def items(self) -> Iterator[Item]:
        """An item for each message of the file, and for each line that belongs to none."""
        for entry in self._entries():
            yield entry if isinstance(entry, NotUnderstood) else self._item(entry)

    def _entries(self) -> Iterator[_Entry | NotUnderstood]:
        segments = iter(self._segments)
        (segment, order), later = next(segments), next(segments, None)
        entry: _Entry | None = None
        for number, line in text_lines(self._export, self._chat.file):
            if later is not None and number >= later[0].start:
                (segment, order), later = later, next(segments, None)
            header = header_of(line) if line is not None else None
            if header is not None and header.shape == segment.shape:
                if entry:
                    yield entry
                entry = _Entry(number, header, order, [header.rest])
            elif entry and line is not None:
                entry.lines.append(line)
            elif line is None or line.strip():
                wrong = "longer than 16 MB" if line is None else "belongs to no message"
                yield NotUnderstood(f"'{self._chat.file}' line {number}: {wrong}")
        if entry:
            yield entry

    def _item(self, entry: _Entry) -> Item:
        local = local_time(entry.header, entry.order)
        try:
            sent_at = self._options.aware(local) if local else None
        except (ValueError, OverflowError):  # the first and the last day of the calendar
            sent_at = None
        if local is None or sent_at is None:
            return NotUnderstood(f"'{self._chat.file}' line {entry.line}: no such date or time")
        author, first = self._chat.split(entry.lines[0])
        body = understand("\n".join([first, *entry.lines[1:]]), author, self._chat.phrases, self._chat.nobodies)
        is_person = author is not None and author not in self._chat.nobodies
        return Record(
            source=_SOURCE,
            thread_id=self.thread_id,
            thread_kind="group" if self._is_group else "dm",
            thread_name=self._name,
            sender_id=self._id_of(author) if author is not None and is_person else None,
            sender_name=author if is_person else None,
            from_me=author in self._mine,
            sent_at=sent_at,
            sent_local=local.isoformat(),
            text=body.text,
            kind=body.kind,
            flags=list(body.flags),
            attachments=list(body.attachments),
            order=entry.line,
        )


@dataclass
class _Earlier:
    """What earlier files of the same chat held, as hashes: a chat exported twice has most messages in both.

    Within one file two equal messages of one minute are both real, so they are counted.
    """

    counts: Counter[int] = field(default_factory=Counter)

    def without_duplicates(self, items: Iterator[Item]) -> Iterator[Item]:
        here: Counter[int] = Counter()
        for item in items:
            if isinstance(item, Record):
                key = hash((item.sent_local, item.sender_id, item.kind, item.text, str(item.attachments)))
                here[key] += 1
                if here[key] <= self.counts[key]:
                    yield Skipped("duplicate")
                    continue
            yield item
        self.counts |= here
