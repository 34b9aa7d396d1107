"""The rows of ``message`` as items. Most are plain texts, which take a short way; the others are looked at in full."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from math import inf
from typing import Any

from training.records import Record
from training.sources.export import DamagedFile
from training.sources.imessage_chats import Conversation, Conversations
from training.sources.imessage_content import (
    MENTION,
    ONE_TIME_CODE,
    Attachments,
    Content,
    Details,
    is_from_me,
    read_content,
)
from training.sources.imessage_database import BATCH, Database
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.typedstream import Bodies, whole_text

_EPOCH = 978307200  # 2001-01-01 in Unix time
_NANOSECONDS = 10**12  # dates from here on count nanoseconds, smaller ones seconds
_OLDEST, _NEWEST = -(6 * 10**10), 2 * 10**11  # seconds from 2001 that a datetime can hold
_PLAIN = 180  # bytes of an archive besides its text that leave no room for another attribute

_MAIN = {"guid": "TEXT", "text": "TEXT", "attributedBody": "BLOB", "date": "INTEGER", "is_from_me": "INTEGER"}
# A message with one of these set is looked at in full.
_ODD_NUMBERS = (
    "item_type", "associated_message_type", "error", "is_spam", "is_corrupt", "is_auto_reply", "is_audio_message",
    "schedule_type", "date_edited", "date_retracted", "cache_has_attachments",
)  # fmt: skip
_ODD_TEXTS = ("balloon_bundle_id", "thread_originator_guid", "subject")
Row = tuple[Any, ...]


class Reader:
    """Makes an item of each message of one database."""

    def __init__(self, database: Database, name: str, conversations: Conversations):
        self._database, self._name, self._conversations = database, name, conversations
        self._columns = database.columns("message")
        self._has_chats = {"message_id", "chat_id"} <= database.columns("chat_message_join")
        self._main = self._main_query()
        columns = ", ".join(map(self._column, Details._fields))
        self._odd = f"SELECT m.ROWID, {columns} FROM message m WHERE {self._is_odd()} ORDER BY m.ROWID"
        self._one = f"SELECT {columns} FROM message m WHERE m.ROWID = ?"
        self._bodies = Bodies()
        self._attachments = Attachments(database)
        self._undated = 0
        self._said: set[tuple[Any, ...]] = set()
        self._deleted = {row[0] for row in database.table("chat_recoverable_message_join", "message_id")}
        self._several = self._in_several_chats()
        self._twice = self._shared_moments()
        # What an ordinary message needs: its chat is known, others are in it, and it was not deleted.
        self._places = {number: place for number, place in conversations.by_chat.items() if not place.is_self}
        self._senders: dict[Any, str] = {
            n: who for n, who in conversations.people.items() if who not in conversations.me
        }
        self._special = self._deleted | self._several.keys()

    def items(self) -> Iterator[Item]:
        """One item for each message, in the order they were added."""
        last = -inf
        odd_rows = self._odd_rows()
        odd = next(odd_rows)
        for row in self._database.in_order(self._main, "message"):
            if isinstance(row, NotUnderstood):
                yield row
                continue
            number = row[0]
            if number <= last:
                if number < last:
                    yield NotUnderstood(f"{self._name} message {number}: it stands in the wrong place")
                continue  # else the same message in another chat
            last = number
            while odd[0] < number:
                odd = next(odd_rows)
            if odd[0] == number:
                yield self._full(row, odd[1:])
            else:
                yield self._ordinary(row) or self._full(row, self._details(number))

    def notes(self) -> Iterator[Note]:
        """What to tell of the whole."""
        for text in self._bodies.notes():
            yield Note(f"{self._name}: {text}")
        if self._undated:
            yield Note(f"{self._name}: {self._undated:,} messages have no date")
        for table in dict.fromkeys(self._database.unread):
            yield Note(f"{self._name}: table {table} could be read only in part")

    def _ordinary(self, row: Row) -> Record | None:
        """The record of a plain text, the way most rows go; None for a row that has to be looked at in full."""
        number, guid, raw, blob, date, mine, handle, chat = row
        place = self._places.get(chat)
        if place is None or number in self._special or not date or date < _NANOSECONDS or date in self._twice:
            return None
        sender = None if mine else self._senders.get(handle)
        if not (mine or sender):
            return None
        try:
            text = raw.decode() if raw else whole_text(blob) if blob else None
            source_id = guid.decode() if guid else None
        except UnicodeDecodeError:
            return None
        if text is None or _holds_more(text, blob):
            return None
        return Record(
            source="imessage",
            thread_id=place.thread_id,
            from_me=bool(mine),
            thread_kind=place.kind,
            sender_id=sender,
            sent_at=datetime.fromtimestamp(date / 1e9 + _EPOCH, UTC),
            text=text,
            source_id=source_id,
            thread_name=place.name,
            order=number,
        )

    def _full(self, row: Row, columns: Row | None) -> Item:
        number, _, raw, blob, date, *_ = row
        if number in self._deleted:
            return Skipped("recently_deleted")
        if columns is None:
            return NotUnderstood(f"{self._name} message {number}: damaged")
        details = Details._make(columns)
        place = self._places.get(row[7]) if number not in self._special else None
        place = place or self._place(row, details)
        if place is None or place.is_self:
            return Skipped("self_chat" if place else "no_conversation")
        content = read_content(details, raw, blob, self._bodies)
        if content is None:
            return NotUnderstood(f"{self._name} message {number}: its body cannot be decoded")
        if content.kind == "text" and not content.parts:
            return Skipped("empty")
        record = self._record(row, place, content, is_from_me(details, row[5]))
        return Skipped("duplicate") if self._was_said(record, date) else record

    def _record(self, row: Row, place: Conversation, content: Content, mine: bool) -> Record:
        number, guid, _, _, date, _, handle, *_ = row
        sender = None if mine else self._sender(handle, place)
        sent_at = _moment(date)
        self._undated += sent_at is None
        attached = self._attachments.of(number) if content.may_have_attachments else []
        if attached and content.kind == "media" and all(is_sticker for _, is_sticker in attached):
            content.flags.append("sticker")
        return Record(
            source="imessage",
            thread_id=place.thread_id,
            from_me=mine or sender in self._conversations.me,
            thread_kind=place.kind,
            sender_id=sender,
            sent_at=sent_at,
            text=content.text,
            kind=content.kind,
            reply_to=content.reply_to,
            flags=content.flags,
            source_id=guid.decode(errors="replace") if guid else None,
            thread_name=place.name,
            order=number,
            parts=content.parts if len(content.parts) > 1 else [],
            attachments=[attachment for attachment, _ in attached],
        )

    def _sender(self, handle: Any, place: Conversation) -> str | None:
        if place.kind == "dm":
            return self._conversations.people.get(handle) or place.thread_id
        return self._conversations.sender(handle)

    def _place(self, row: Row, details: Details) -> Conversation | None:
        number, handle, chat = row[0], row[6], row[7]
        chats = [place for n in self._several.get(number, [chat]) if (place := self._conversations.by_chat.get(n))]
        room = details.cache_roomnames
        if not chats:
            return self._conversations.without_chat(handle, room, details.ck_chat_id)
        # A message of a group that also shows in somebody's own chat is the group's.
        return next((place for place in chats if (place.kind == "group") == bool(room)), chats[0])

    def _odd_rows(self) -> Iterator[Row]:
        """Number and Details of each message that is no ordinary one; a number above all the others at the end."""
        last = -inf
        try:
            for row in self._database.rows(self._odd, at_once=BATCH):
                if row[0] < last:
                    break
                last = row[0]
                yield row
            else:
                yield (inf,)
        except DamagedFile:
            pass
        self._places = {}  # they cannot be read further: from here on nothing can be taken for ordinary
        yield (inf,)

    def _details(self, number: int) -> Row | None:
        try:
            return next(self._database.rows(self._one, number), None)
        except DamagedFile:
            return None

    def _was_said(self, record: Record, date: Any) -> bool:
        """Whether the same words were sent at the same instant: some migrations write every message twice."""
        if date not in self._twice or not record.text:
            return False
        said = (date, record.thread_id, record.from_me, record.sender_id, record.text)
        if said in self._said:
            return True
        self._said.add(said)
        return False

    def _main_query(self) -> str:
        """SQLite takes any type in any column: what is no text, blob or number here is made one."""
        main = ", ".join(f"CAST({self._column(name)} AS {kind})" for name, kind in _MAIN.items())
        chat, join = "NULL", ""
        if self._has_chats:
            chat, join = "j.chat_id", "LEFT JOIN chat_message_join j ON j.message_id = m.ROWID"
        return (
            f"SELECT m.ROWID, {main}, {self._column('handle_id')}, {chat} "
            f"FROM message m {join} WHERE m.ROWID > ? ORDER BY m.ROWID"
        )

    def _is_odd(self) -> str:
        numbers = [f"m.{name} != 0" for name in _ODD_NUMBERS if name in self._columns]
        texts = [f"m.{name} != ''" for name in _ODD_TEXTS if name in self._columns]
        return " OR ".join([*numbers, *texts]) or "0"

    def _column(self, name: str) -> str:
        return f"m.{name}" if name in self._columns else "NULL"

    def _in_several_chats(self) -> dict[Any, list[Any]]:
        chats = defaultdict(list)
        if self._has_chats:
            several = "SELECT message_id FROM chat_message_join GROUP BY message_id HAVING count(*) > 1"
            query = f"SELECT message_id, chat_id FROM chat_message_join WHERE message_id IN ({several})"
            for message, chat in self._database.small(query, "chat_message_join"):
                chats[message].append(chat)
        return dict(chats)

    def _shared_moments(self) -> set[Any]:
        """Dates of more than one message; not those of whole seconds, which two messages can well share."""
        exact = f"date >= {_NANOSECONDS} AND date % 1000000000 != 0"
        query = f"SELECT date FROM message WHERE {exact} GROUP BY date HAVING count(*) > 1"
        return {row[0] for row in self._database.small(query, "message")}


def _holds_more(text: str, blob: bytes | None) -> bool:
    """Whether a message is not just its *text*: nothing, an attachment, a line break to be mended, an attribute."""
    if "\ufffc" in text or "\ufffd" in text or "\r" in text or not text or text.isspace():
        return True
    return blob is not None and len(blob) - len(text) > _PLAIN and (ONE_TIME_CODE in blob or MENTION in blob)


def _moment(date: int | None) -> datetime | None:
    """Nanoseconds or seconds since 2001 as a time; neither 0 nor NULL is one."""
    if not date:
        return None
    if date >= _NANOSECONDS:
        return datetime.fromtimestamp(date / 1e9 + _EPOCH, UTC)
    seconds = date / 1e9 if date <= -_NANOSECONDS else date
    return datetime.fromtimestamp(seconds + _EPOCH, UTC) if _OLDEST < seconds < _NEWEST else None
