"""Android's text and picture messages, as "SMS Backup & Restore" writes them: ``sms-*.xml``.

An ``sms`` says with whom it was (``address``) and which way it went (``type``). So does an ``mms``, and an RCS message
in the shape of one; who wrote in a group, and who is in it, stands in its ``addr`` rows. Those of a direct message are
not read: other tools write them the wrong way round. A value that is missing is written as "null".
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from training.identifiers import canonical_address, region_of, visible
from training.records import Attachment, Record
from training.sources.export import DamagedFile, Export, each_file
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.sms_xml import Entry, entries

_ROOT = re.compile(rb"<(?:smses|calls)[\s/>]")
_INBOX, _SENT = "1", "2"
_UNSENT = {"3": "draft", "4": "not_sent", "5": "not_sent", "6": "not_sent"}  # 4 outbox, 5 failed, 6 queued
_SENDER, _MEMBERS = "137", ("137", "151", "130")  # From; and To, Cc
_BETWEEN = re.compile("[,;~]+")  # the addresses of a group
_DATE = re.compile("[0-9]{1,16}")
_NO_NUMBER = "insert-address-token"
_FAILED = 64  # a status from here on: the network gave up
_MILLISECONDS = 10**11  # dates below are in seconds
_LAST_DATE = 4_102_444_800_000  # 2100


def recognises(export: Export) -> bool:
    """An XML file whose root is ``smses`` or ``calls``."""
    return any(_is_backup(export, name) for name in _files(export))


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every backup; the same message in several backups once."""
    names = [name for name in _files(export) if export.is_single_file or _is_backup(export, name)]
    reader = _Reader(_owner(export, names, options))
    yield from each_file(export, names, lambda name: _read(export, name, reader))
    yield from reader.notes()
    if others := len(_files(export)) - len(names):
        yield Note(f"{others} XML files are no backups of messages and were not read")


def _files(export: Export) -> list[str]:
    return export.names if export.is_single_file else [name for name in export.names if name.lower().endswith(".xml")]


def _is_backup(export: Export, name: str) -> bool:
    return bool(_ROOT.search(export.head(name).replace(b"\0", b"")))  # some editors save it as UTF-16


def _read(export: Export, name: str, reader: "_Reader") -> Iterator[Item]:
    with export.open(name) as file:
        for found in entries(file, name):
            yield reader.item(found) if isinstance(found, Entry) else found


@dataclass
class _Owner:
    """Whose phone it was: their numbers, and the country of numbers that are written without one."""

    region: str | None
    numbers: set[str] = field(default_factory=set)
    _known: dict[str, str] = field(default_factory=dict)

    def handle(self, raw: str) -> str:
        """The identifier of an address. One too odd to be a number in any country stays one of this source."""
        if raw not in self._known:
            is_business = any(letter.isalpha() for letter in raw)
            self._known[raw] = (
                canonical_address(raw, self.region) or f"{'short' if is_business else 'sms'}:{visible(raw)}"
            )
        return self._known[raw]


def _owner(export: Export, names: list[str], options: Options) -> _Owner:
    """Read all once for what only the whole can tell."""
    seen: set[str] = set()
    mine: set[str] = set()
    for name in names:
        try:
            with export.open(name) as file:
                for entry in entries(file, name):
                    if isinstance(entry, Entry):
                        seen.update(_addresses(entry))
                        mine.update(_senders_that_are_me(entry))
        except DamagedFile:
            continue  # said when it is read for its messages
    regions = Counter(region for address in seen if (region := region_of(visible(address))))
    owner = _Owner(options.region or next((region for region, _ in regions.most_common(1)), None))
    owner.numbers = {owner.handle(number) for number in [*options.me, *mine]}
    return owner


def _senders_that_are_me(entry: Entry) -> list[str]:
    """Who sent what I sent to a group; in a direct message the row may name the other side."""
    if _direction(entry) != _SENT or len(_addresses(entry)) == 1:
        return []
    return _rows(entry, _SENDER)


def _value(attributes: dict[str, str], *names: str) -> str | None:
    """The first of the attributes *names* that has a value."""
    for name in names:
        value = attributes.get(name)
        if value and value != "null":
            return value
    return None


def _direction(entry: Entry) -> str | None:
    if entry.tag == "sms":
        return _value(entry.attributes, "type")
    by_type = {"128": _SENT, "132": _INBOX}.get(entry.attributes.get("m_type", ""))
    return _value(entry.attributes, "msg_box") or by_type


def _is_group_id(address: str) -> bool:
    return "@rcs" in address.lower()


def _addresses(entry: Entry) -> list[str]:
    """The addresses in ``address``, which for a group lists them or holds an id."""
    raw = _value(entry.attributes, "address")
    if raw is None or _is_group_id(raw):
        return []
    return [part for part in map(str.strip, _BETWEEN.split(raw)) if part and part != _NO_NUMBER]


def _rows(entry: Entry, *types: str) -> list[str]:
    found = [_value(row, "address") for row in entry.addrs if row.get("type") in types]
    return [address for address in found if address and address != _NO_NUMBER and not _is_group_id(address)]


def _moment(raw: str | None) -> datetime | None:
    """A time in milliseconds, or in seconds where it is too small for that."""
    if raw is None or not _DATE.fullmatch(raw):
        return None
    number = int(raw)
    milliseconds = number if number >= _MILLISECONDS else number * 1000
    if not 0 < milliseconds < _LAST_DATE:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)


class _Reader:
    """Turns entries into items. Remembers what it has seen: backups hold the same messages again and again."""

    def __init__(self, owner: _Owner):
        self._owner = owner
        self._seen: set[int] = set()
        self._count = 0
        self._undated = 0
        self._owner_unknown = False

    def item(self, entry: Entry) -> Item:
        """What *entry* is."""
        self._count += 1
        direction = _direction(entry)
        if entry.tag == "call":
            return Skipped("call")
        if direction in _UNSENT:
            return Skipped(_UNSENT[direction])
        if direction not in (_INBOX, _SENT):
            return NotUnderstood(f"{entry.where}: neither received nor sent")
        return self._message(entry, direction == _SENT)

    def notes(self) -> Iterator[Note]:
        """What there is to say once all has been read."""
        if self._undated:
            yield Note(f"{self._undated} messages have no date that can be read")
        if self._owner_unknown:
            yield Note("your number was not found: groups may count you as a member. Give --me your number")

    def _message(self, entry: Entry, from_me: bool) -> Item:
        record = self._conversation(entry, from_me)
        if not isinstance(record, Record):
            return record
        if entry.tag == "sms":
            record.text = _value(entry.attributes, "body") or ""
        else:
            record.text, record.attachments = _content(entry)
        if not record.text.strip():
            record.text, record.kind = "", "media"
            if not record.attachments:
                return Skipped(_why_empty(entry))
        if self._is_known(entry, record):
            return Skipped("duplicate")
        self._undated += record.sent_at is None
        return record

    def _conversation(self, entry: Entry, from_me: bool) -> Item:
        """A record with everything but what was said."""
        group_id = _value(entry.attributes, "address")
        listed = _addresses(entry)
        members = listed or _rows(entry, *_MEMBERS)
        others = {self._owner.handle(member) for member in members} - self._owner.numbers
        is_group = len(others) > 1 or bool(group_id and _is_group_id(group_id))
        if members and not others and not is_group:
            return Skipped("self_chat")
        if not is_group and any(other.startswith("short:") for other in others):
            return Skipped("business")
        thread = ",".join(sorted(others)) if len(others) > 1 or not is_group else group_id
        if not thread:
            return NotUnderstood(f"{entry.where}: no address")
        sender = None if from_me else self._sender(entry, thread, is_group)
        if not from_me and sender is None:
            return NotUnderstood(f"{entry.where}: nobody is named who sent it")
        self._owner_unknown |= is_group and not listed and not self._owner.numbers
        name = _contact(entry)
        return Record(
            source="sms",
            thread_id=thread,
            thread_kind="group" if is_group else "dm",
            thread_name=name,
            sender_id=sender,
            sender_name=None if from_me or is_group else name,
            from_me=from_me,
            sent_at=_moment(_value(entry.attributes, "date")) or _moment(_value(entry.attributes, "date_sent")),
            flags=["failed"] if from_me and _gave_up(entry) else [],
            source_id=_value(entry.attributes, "m_id"),
            order=self._count,
        )

    def _sender(self, entry: Entry, thread: str, is_group: bool) -> str | None:
        if not is_group:
            return thread
        senders = [self._owner.handle(sender) for sender in _rows(entry, _SENDER)]
        return next((sender for sender in senders if sender not in self._owner.numbers), None)

    def _is_known(self, entry: Entry, record: Record) -> bool:
        """Pictures of one moment differ in name or id: what is in them is not read."""
        names = tuple((attachment.mime, attachment.name) for attachment in record.attachments)
        ids = (record.source_id, entry.attributes.get("tr_id")) if names else ()
        date = entry.attributes.get("date")
        key = hash((record.thread_id, record.sender_id, date, record.from_me, record.text, names, ids))
        known = key in self._seen
        self._seen.add(key)
        return known


def _content(entry: Entry) -> tuple[str, list[Attachment]]:
    texts, attachments = [], []
    for part in sorted(entry.parts, key=_sequence):
        mime = part.get("ct", "").partition(";")[0].strip().lower()
        text = _value(part, "text")
        if mime == "application/smil":  # how to lay the others out
            continue
        if mime == "text/plain" and (text is not None or "data" not in part):
            texts.append(text or "")
        else:
            attachments.append(Attachment(mime=mime or None, name=_value(part, "cl", "fn", "name")))
    return "\n".join(filter(None, texts)), attachments


def _sequence(part: dict[str, str]) -> int:
    number = part.get("seq", "")
    return int(number) if re.fullmatch("-?[0-9]{1,6}", number) else 0


def _why_empty(entry: Entry) -> str:
    if entry.attributes.get("m_type") == "130":
        return "not_downloaded"
    subject = _value(entry.attributes, "sub")
    return "subject_only" if subject and subject != "NoSubject" else "empty"


def _contact(entry: Entry) -> str | None:
    name = _value(entry.attributes, "contact_name")
    return None if name == "(Unknown)" else name


def _gave_up(entry: Entry) -> bool:
    status = entry.attributes.get("status", "")
    return bool(re.fullmatch("[0-9]{1,4}", status)) and int(status) >= _FAILED
