"""Writes the invented history of messages.jsonl as the exports of three messengers, under exports/.

Knows nothing of the importers in training/sources/, so that each can be tested against what the other believes.
Same messages.jsonl, same bytes (chat.db: with the same SQLite). Local times in the exports are UTC.
Run from the project's root: python data/example/make_exports.py
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

HERE = Path(__file__).resolve().parent
APPLE_EPOCH = datetime(2001, 1, 1, tzinfo=UTC)
LRM = "\u200e"  # left-to-right mark: iOS puts it in front of what WhatsApp itself says
PLACEHOLDER = "\ufffc"  # Messages keeps one for each attachment
NOT_INCLUDED = "(File not included. Change data exporting settings to download.)"
ENCRYPTED = "Messages and calls are end-to-end encrypted. Only people in this chat can read them."
TAPBACKS = {2000: "Loved", 2003: "Laughed at"}


@dataclass(frozen=True)
class Message:
    """One line of messages.jsonl: README.md describes the fields."""

    source: str
    source_id: str
    thread_id: str
    thread_kind: str
    thread_name: str
    sender_id: str
    sender_name: str
    from_me: bool
    sent_at: str
    text: str
    kind: str
    reply_to: str | None
    flags: list[str]
    attachments: tuple[dict[str, str], ...] = ()

    @property
    def when(self) -> datetime:
        """The moment of sending, in UTC."""
        return datetime.fromisoformat(self.sent_at)

    @property
    def medium(self) -> str:
        """What is attached: "image", "audio" or nothing."""
        return self.attachments[0]["mime"].split("/")[0] if self.attachments else ""


@dataclass(frozen=True)
class Thread:
    """One conversation, oldest message first; *number* tells the threads apart where a messenger needs an id."""

    number: int
    messages: list[Message]

    @property
    def name(self) -> str:
        """The contact, or the group's name."""
        return self.messages[0].thread_name

    @property
    def is_group(self) -> bool:
        """True for a conversation of more than two."""
        return self.messages[0].thread_kind == "group"

    @property
    def others(self) -> list[str]:
        """Numbers of everybody but Jo, in order of appearance."""
        return list(dict.fromkeys(m.sender_id for m in self.messages if not m.from_me))

    @property
    def key(self) -> str:
        """What chat.db calls this conversation: the contact's number, or an opaque id for a group."""
        return f"chat{5550150 + self.number}" if self.is_group else self.others[0]


def read_threads(path: Path) -> list[Thread]:
    """Returns the conversations of a messages.jsonl, in order of their first line there."""
    threads: dict[str, list[Message]] = {}
    with path.open(encoding="utf-8") as lines:
        for message in (Message(**json.loads(line)) for line in lines):
            threads.setdefault(message.thread_id, []).append(message)
    return [Thread(n, sorted(messages, key=lambda m: m.when)) for n, messages in enumerate(threads.values())]


def by_time(threads: list[Thread]) -> list[tuple[Thread, Message]]:
    """Returns every message of the account, oldest first: the order in which ids are given out."""
    return sorted(((t, m) for t in threads for m in t.messages), key=lambda pair: pair[1].when)


def my_number(threads: list[Thread]) -> str:
    """Returns Jo's number."""
    return next(m.sender_id for t in threads for m in t.messages if m.from_me)


# ---- iMessage: chat.db -------------------------------------------------------------------------------------------

# The columns readers ask for, of the tables in Messages for macOS 14; its triggers call functions only Messages has.
SCHEMA = """
CREATE TABLE message (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, text TEXT,
  handle_id INTEGER DEFAULT 0, subject TEXT, attributedBody BLOB, service TEXT, error INTEGER DEFAULT 0, date INTEGER,
  date_read INTEGER DEFAULT 0, date_delivered INTEGER DEFAULT 0, is_delivered INTEGER DEFAULT 0,
  is_from_me INTEGER DEFAULT 0, is_auto_reply INTEGER DEFAULT 0, is_read INTEGER DEFAULT 0, is_sent INTEGER DEFAULT 0,
  cache_has_attachments INTEGER DEFAULT 0, cache_roomnames TEXT, is_audio_message INTEGER DEFAULT 0,
  item_type INTEGER DEFAULT 0, other_handle INTEGER DEFAULT 0, group_title TEXT, group_action_type INTEGER DEFAULT 0,
  share_status INTEGER DEFAULT 0, share_direction INTEGER DEFAULT 0, associated_message_guid TEXT,
  associated_message_type INTEGER DEFAULT 0, associated_message_emoji TEXT, balloon_bundle_id TEXT, payload_data BLOB,
  expressive_send_style_id TEXT, associated_message_range_location INTEGER DEFAULT 0,
  associated_message_range_length INTEGER DEFAULT 0, message_summary_info BLOB, destination_caller_id TEXT,
  is_corrupt INTEGER DEFAULT 0, is_spam INTEGER DEFAULT 0, reply_to_guid TEXT, thread_originator_guid TEXT,
  thread_originator_part TEXT, date_retracted INTEGER DEFAULT 0, date_edited INTEGER DEFAULT 0, part_count INTEGER,
  schedule_type INTEGER DEFAULT 0, schedule_state INTEGER DEFAULT 0);
CREATE TABLE handle (ROWID INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, id TEXT NOT NULL, country TEXT,
  service TEXT NOT NULL, uncanonicalized_id TEXT, person_centric_id TEXT, UNIQUE (id, service));
CREATE TABLE chat (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, style INTEGER, state INTEGER,
  properties BLOB, chat_identifier TEXT, service_name TEXT, room_name TEXT, account_login TEXT,
  is_archived INTEGER DEFAULT 0, last_addressed_handle TEXT, display_name TEXT, group_id TEXT);
CREATE TABLE attachment (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL,
  created_date INTEGER DEFAULT 0, filename TEXT, uti TEXT, mime_type TEXT, transfer_state INTEGER DEFAULT 0,
  is_outgoing INTEGER DEFAULT 0, transfer_name TEXT, total_bytes INTEGER DEFAULT 0, is_sticker INTEGER DEFAULT 0,
  hide_attachment INTEGER DEFAULT 0, emoji_image_short_description TEXT, original_guid TEXT UNIQUE NOT NULL);
CREATE TABLE chat_message_join (chat_id INTEGER, message_id INTEGER, message_date INTEGER DEFAULT 0,
  PRIMARY KEY (chat_id, message_id));
CREATE TABLE chat_handle_join (chat_id INTEGER, handle_id INTEGER, UNIQUE (chat_id, handle_id));
CREATE TABLE message_attachment_join (message_id INTEGER, attachment_id INTEGER, UNIQUE (message_id, attachment_id));
CREATE TABLE chat_recoverable_message_join (chat_id INTEGER, message_id INTEGER, delete_date INTEGER,
  PRIMARY KEY (chat_id, message_id));
"""


def length(n: int) -> bytes:
    """Returns *n* as a typedstream writes it: one byte below 128, else 0x81 and two bytes or 0x82 and four."""
    if n < 0x80:
        return bytes([n])
    return b"\x81" + n.to_bytes(2, "little") if n <= 0xFFFF else b"\x82" + n.to_bytes(4, "little")


def utf16_units(text: str) -> int:
    """Returns how long *text* is for Messages, which counts an emoji as two."""
    return len(text.encode("utf-16-le")) // 2


def streamtyped(text: str) -> bytes:
    """Returns *text* as the attributedBody of a message with one part: an archived NSAttributedString."""
    body = text.encode()
    start = (
        b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x01@\x84\x84\x84\x12NSAttributedString\x00\x84\x84\x08NSObject\x00\x85"
        b"\x92\x84\x84\x84\x08NSString\x01\x94\x84\x01+"
    )
    end = (
        b"\x92\x84\x84\x84\x0cNSDictionary\x00\x94\x84\x01i\x01\x92\x84\x96\x96\x1d__kIMMessagePartAttributeName\x86"
        b"\x92\x84\x84\x84\x08NSNumber\x00\x84\x84\x07NSValue\x00\x94\x84\x01*\x84\x99\x99\x00\x86\x86\x86"
    )
    return start + length(len(body)) + body + b"\x86\x84\x02iI\x01" + length(utf16_units(text)) + end


def guid(name: str) -> str:
    """Returns the same upper-case UUID for the same name, always."""
    return str(uuid5(NAMESPACE_URL, f"samevoice-example:{name}")).upper()


def insert(db: sqlite3.Connection, table: str, **values: Any) -> int:
    """Adds one row and returns its ROWID."""
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    row = db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values())).lastrowid
    assert row is not None  # an INSERT into a table with a ROWID always has one
    return row


def write_imessage(threads: list[Thread], path: Path) -> None:
    """Writes chat.db. It has no calls: macOS keeps those elsewhere."""
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path)
    db.executescript(SCHEMA)
    me = my_number(threads)
    numbers = dict.fromkeys(number for t in threads for number in t.others)
    handles = {number: insert(db, "handle", id=number, country="us", service="iMessage") for number in numbers}
    chats = [_insert_chat(db, thread, handles, me) for thread in threads]
    tapbacks = {source_id: values for thread in threads for source_id, values in _tapbacks(thread)}
    sent = [(thread, message) for thread, message in by_time(threads) if message.kind != "call"]
    for row, (thread, message) in enumerate(sent, start=1):
        values = _message_values(thread, message, handles) | tapbacks.get(message.source_id, {})
        values |= _text_columns(row, values["text"])
        insert(db, "message", ROWID=row, destination_caller_id=me, **values)
        insert(db, "chat_message_join", chat_id=chats[thread.number], message_id=row, message_date=values["date"])
        if message.kind == "media":
            _insert_attachment(db, message, row)
    db.commit()
    db.close()


def _text_columns(row: int, text: str) -> dict[str, Any]:
    # As in a database that has grown over years: a quarter only text, a quarter (and what is long) only blob.
    if row % 4 == 0 or len(text.encode()) >= 0x80:
        return {"text": None, "attributedBody": streamtyped(text)}
    return {"text": text, "attributedBody": None if row % 4 == 1 else streamtyped(text)}


def _insert_chat(db: sqlite3.Connection, thread: Thread, handles: dict[str, int], me: str) -> int:
    values = {"chat_identifier": thread.key, "service_name": "iMessage", "state": 3, "last_addressed_handle": me}
    if thread.is_group:
        values |= {"style": 43, "room_name": thread.key, "display_name": thread.name}
    else:
        values |= {"style": 45, "display_name": ""}
    unique = f"iMessage;{'+' if thread.is_group else '-'};{thread.key}"
    chat = insert(db, "chat", guid=unique, group_id=guid(thread.key), **values)
    for number in thread.others:
        insert(db, "chat_handle_join", chat_id=chat, handle_id=handles[number])
    return chat


def _message_values(thread: Thread, message: Message, handles: dict[str, int]) -> dict[str, Any]:
    # On a row of mine handle_id is the other side's, or 0 in a group: it never says who I am.
    mine = 0 if thread.is_group else handles[thread.key]
    return {
        "guid": guid(message.source_id),
        "text": PLACEHOLDER if message.kind == "media" else message.text,
        "handle_id": mine if message.from_me else handles[message.sender_id],
        "service": "iMessage",
        "date": apple_seconds(message) * 1_000_000_000,
        "is_from_me": int(message.from_me),
        "is_sent": int(message.from_me),
        "is_read": int(not message.from_me),
        "is_delivered": 1,
        "is_audio_message": int(message.medium == "audio"),
        "cache_has_attachments": int(message.kind == "media"),
        "cache_roomnames": thread.key if thread.is_group else None,
        "part_count": 1,
    }


def apple_seconds(message: Message) -> int:
    """Returns the moment of sending as macOS counts it, from 2001."""
    return int((message.when - APPLE_EPOCH).total_seconds())


def _tapbacks(thread: Thread) -> Iterator[tuple[str, dict[str, Any]]]:
    # A reaction is taken to be to the last thing somebody else said.
    seen: list[Message] = []
    kinds = cycle(TAPBACKS)
    for message in thread.messages:
        if message.kind == "reaction":
            target = next(m for m in reversed(seen) if m.sender_id != message.sender_id)
            kind = next(kinds)
            values = {
                "text": f"{TAPBACKS[kind]} " + (f"“{target.text}”" if target.text else "an image"),
                "associated_message_guid": f"p:0/{guid(target.source_id)}",
                "associated_message_type": kind,
                "associated_message_range_length": utf16_units(target.text) or 1,
            }
            yield message.source_id, values
        elif message.kind != "call":
            seen.append(message)


def _insert_attachment(db: sqlite3.Connection, message: Message, row: int) -> None:
    unique, attached = f"at_0_{guid(message.source_id)}", message.attachments[0]
    values = {
        "guid": unique,
        "original_guid": unique,
        "created_date": apple_seconds(message),
        "filename": f"~/Library/Messages/Attachments/{row % 256:02x}/{unique}/{attached['name']}",
        "uti": "public.jpeg" if message.medium == "image" else "public.audio",
        "mime_type": attached["mime"],
        "transfer_name": attached["name"],
        "transfer_state": 5,
        "is_outgoing": int(message.from_me),
    }
    attachment = insert(db, "attachment", **values)
    insert(db, "message_attachment_join", message_id=row, attachment_id=attachment)


# ---- WhatsApp: one text file a chat ------------------------------------------------------------------------------


def write_whatsapp(threads: list[Thread], folder: Path) -> None:
    """Writes one text file a chat, in turn as Android and as an iPhone would. Reactions are in neither."""
    folder.mkdir(exist_ok=True)
    for thread in threads:
        lines = _iphone_lines(thread) if thread.number % 2 else _android_lines(thread)
        (folder / f"{thread.messages[0].thread_id}.txt").write_text("".join(lines), encoding="utf-8", newline="\n")


def _android_lines(thread: Thread) -> Iterator[str]:
    markers = {"media": "<Media omitted>", "call": "Missed voice call"}
    yield f"{_android_time(thread.messages[0])} - {ENCRYPTED}\n"
    for message in thread.messages:
        if message.kind != "reaction":
            body = markers.get(message.kind, message.text)
            yield f"{_android_time(message)} - {message.sender_name}: {body}\n"


def _android_time(message: Message) -> str:
    return f"{message.when.month}/{message.when.day}/{message.when:%y, %H:%M}"


def _iphone_lines(thread: Thread) -> Iterator[str]:
    first = thread.messages[0]
    news = [ENCRYPTED, f"{first.sender_name} created this group"]
    for line in news if thread.is_group else news[:1]:
        yield f"[{first.when:%d/%m/%Y, %H:%M:%S}] {thread.name}: {LRM}{line}\n"
    markers = {"image": "image omitted", "audio": "audio omitted", "": "Missed voice call"}
    for message in thread.messages:
        header = f"[{message.when:%d/%m/%Y, %H:%M:%S}] {message.sender_name}: "
        if message.kind == "text":
            yield f"{header}{message.text}\n"
        elif message.kind != "reaction":
            yield f"{LRM}{header}{LRM}{markers[message.medium]}\n"


# ---- Telegram Desktop: result.json -------------------------------------------------------------------------------


def write_telegram(threads: list[Thread], path: Path) -> None:
    """Writes the export of a whole account, as Telegram Desktop does in its JSON form. Reactions are left out."""
    people = {m.sender_id: m.sender_name for t in threads for m in t.messages}
    me = my_number(threads)
    ids = {m.source_id: n for n, (_, m) in enumerate(by_time(threads), start=len(threads) + 1)}
    others = [_person(number, name) for number, name in people.items() if number != me]
    export = {
        "about": "Here is the data you requested.",
        "personal_information": _person(me, people[me]) | {"bio": ""},
        "contacts": {"about": "People in your address book.", "list": others},
        "chats": {"about": "This page lists all chats.", "list": [_chat(thread, ids) for thread in threads]},
    }
    path.write_text(json.dumps(export, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")


def _user_id(number: str) -> int:
    return int(number[-7:])


def _person(number: str, name: str) -> dict[str, Any]:
    first, _, last = name.partition(" ")
    return {"user_id": _user_id(number), "first_name": first, "last_name": last, "phone_number": number}


def _chat(thread: Thread, ids: dict[str, int]) -> dict[str, Any]:
    rows = [_row(m, ids[m.source_id]) for m in thread.messages if m.kind != "reaction"]
    if thread.is_group:
        kind, rows = "private_group", [_group_created(thread), *rows]
    else:
        kind = "personal_chat"
    return {"name": thread.name, "type": kind, "id": int(thread.key[-7:]), "messages": rows}


def _dates(message: Message) -> dict[str, str]:
    date = message.when.replace(tzinfo=None).isoformat()
    return {"date": date, "date_unixtime": str(int(message.when.timestamp()))}


def _service(message: Message, number: int, action: dict[str, Any]) -> dict[str, Any]:
    actor = {"actor": message.sender_name, "actor_id": f"user{_user_id(message.sender_id)}"}
    return {"id": number, "type": "service", **_dates(message), **actor, **action, "text": "", "text_entities": []}


def _group_created(thread: Thread) -> dict[str, Any]:
    members = list(dict.fromkeys(m.sender_name for m in thread.messages))
    action = {"action": "create_group", "title": thread.name, "members": members}
    return _service(thread.messages[0], thread.number + 1, action)


def _row(message: Message, number: int) -> dict[str, Any]:
    if message.kind == "call":
        return _service(message, number, {"action": "phone_call", "discard_reason": "missed"})
    author = {"from": message.sender_name, "from_id": f"user{_user_id(message.sender_id)}"}
    row = {"id": number, "type": "message", **_dates(message), **author, **_media(message)}
    head, space, last = message.text.rpartition(" ")
    if space and number % 10 == 0:  # some people write in italics: then the text comes in pieces
        plain, italic = {"type": "plain", "text": head + space}, {"type": "italic", "text": last}
        return row | {"text": [head + space, italic], "text_entities": [plain, italic]}
    entities = [{"type": "plain", "text": message.text}] if message.text else []
    return row | {"text": message.text, "text_entities": entities}


def _media(message: Message) -> dict[str, Any]:
    if message.kind != "media":
        return {}
    if message.medium == "image":
        return {"photo": NOT_INCLUDED, "width": 960, "height": 1280}
    mime = message.attachments[0]["mime"]
    return {"file": NOT_INCLUDED, "media_type": "voice_message", "mime_type": mime, "duration_seconds": 7}


def write_exports(source: Path, folder: Path) -> None:
    """Writes all three exports of *source* into *folder*; what was there under the same names is replaced."""
    threads = read_threads(source)
    (folder / "telegram").mkdir(parents=True, exist_ok=True)
    write_imessage(threads, folder / "chat.db")
    write_whatsapp(threads, folder / "whatsapp")
    write_telegram(threads, folder / "telegram" / "result.json")


if __name__ == "__main__":
    write_exports(HERE / "messages.jsonl", HERE / "exports")
