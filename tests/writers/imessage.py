"""Messages databases (chat.db of macOS, sms.db of iOS), with the columns and indexes of a recent one."""

import plistlib
import random
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History

EPOCH = datetime(2001, 1, 1, tzinfo=UTC)
MINE = "+14025550100"
LOVED = 2000
MESSAGE = (
    "guid text! text text replace service_center text handle_id subject text country text attributedBody blob version "
    "type service text account text account_guid text error date date_read date_delivered is_delivered is_finished "
    "is_emote is_from_me is_empty is_delayed is_auto_reply is_prepared is_read is_system_message is_sent "
    "has_dd_results is_service_message is_forward was_downgraded is_archive cache_has_attachments "
    "cache_roomnames text was_data_detected was_deduplicated is_audio_message is_played date_played item_type "
    "other_handle group_title text group_action_type share_status share_direction is_expirable expire_state "
    "message_action_type message_source associated_message_guid text associated_message_type balloon_bundle_id text "
    "payload_data blob expressive_send_style_id text associated_message_range_location associated_message_range_length "
    "time_expressive_send_played message_summary_info blob ck_sync_state ck_record_id text ck_record_change_tag text "
    "destination_caller_id text is_corrupt reply_to_guid text sort_id is_spam has_unseen_mention "
    "thread_originator_guid text thread_originator_part text date_retracted date_edited was_detonated part_count "
    "associated_message_emoji text schedule_type schedule_state"
)
TABLES: dict[str, str] = {
    "message": MESSAGE,
    "handle": "id text country text service text uncanonicalized_id text person_centric_id text",
    "chat": "guid text! style state account_id text properties blob chat_identifier text service_name text "
    "room_name text account_login text is_archived last_addressed_handle text display_name text group_id text",
    "attachment": "guid text! created_date filename text uti text mime_type text is_outgoing transfer_name text "
    "total_bytes is_sticker hide_attachment",
}
JOINS = {
    "chat_message_join": "chat_id INTEGER, message_id INTEGER, message_date INTEGER, PRIMARY KEY (chat_id, message_id)",
    "chat_handle_join": "chat_id INTEGER, handle_id INTEGER, UNIQUE (chat_id, handle_id)",
    "message_attachment_join": "message_id INTEGER, attachment_id INTEGER, UNIQUE (message_id, attachment_id)",
    "chat_recoverable_message_join": "chat_id INTEGER, message_id INTEGER, PRIMARY KEY (chat_id, message_id)",
    "chat_lookup": "identifier TEXT, domain TEXT, chat INTEGER, UNIQUE (identifier, domain)",
}
INDEXES = {
    "message": ["date", "handle_id, date", "associated_message_guid", "is_read, is_from_me, item_type", "expire_state",
                "cache_has_attachments", "is_sent, is_from_me, error", "thread_originator_guid", "other_handle"],
    "chat_message_join": ["message_id", "chat_id, message_date, message_id"],
    "message_attachment_join": ["message_id", "attachment_id"],
}  # fmt: skip

# A number in an archive: its classes are spelt out, its value is 0.
VALUE = b"\x84\x84\x84\x08NSNumber\x00\x84\x84\x07NSValue\x00\x94\x84\x01*\x84\x99\x99\x00\x86"

Row = Mapping[str, Any]


def create(path: Path, tables: Iterable[str] = (*TABLES, *JOINS), indexed: bool = True) -> sqlite3.Connection:
    """An empty database at *path* with *tables*."""
    database = sqlite3.connect(path)
    for table in tables:
        columns = JOINS[table] if table in JOINS else _declared(TABLES[table])
        database.execute(f"CREATE TABLE {table} ({columns})")
    if indexed:
        _add_indexes(database)
    return database


def insert(database: sqlite3.Connection, table: str, *rows: Row) -> None:
    """Add *rows*, each a dict of its columns."""
    for row in rows:
        names = ", ".join(row)
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))


def nanoseconds(at: datetime) -> int:
    """*at* as the database has it."""
    return (at - EPOCH) // timedelta(microseconds=1) * 1000


def body(text: str, *attributes: str, kind: str = "NSString") -> bytes:
    """The ``attributedBody`` of *text*: an archive that ends with attributes, one run over all of it."""
    data = text.encode()
    chain = b"\x84\x84\x0fNSMutableString\x01\x84\x84\x08NSString\x01\x95" if kind == "NSMutableString" else (
        b"\x84\x84\x84\x08NSString\x01\x94"
    )  # fmt: skip
    names = ["__kIMMessagePartAttributeName", *attributes]
    runs = b"".join(b"\x92\x84\x96\x96" + _number(len(name)) + name.encode() + b"\x86\x92" + VALUE for name in names)
    return b"".join([
        b"\x04\x0bstreamtyped\x81\xe8\x03\x84\x01@\x84\x84\x84\x12NSAttributedString\x00\x84\x84\x08NSObject\x00\x85\x92",
        chain, b"\x84\x01+", _number(len(data)), data, b"\x86\x84\x02iI\x01",
        _number(len(text.encode("utf-16-le")) // 2), b"\x92\x84\x84\x84\x0cNSDictionary\x00\x94\x84\x01i",
        _number(len(names)), runs, b"\x86\x86",
    ])  # fmt: skip


def summary(**keys: Any) -> bytes:
    """A ``message_summary_info``: otr, ec, ep and rp are what matters of it."""
    return plistlib.dumps({"amc": 0, "ust": True, **keys}, fmt=plistlib.FMT_BINARY)


def write(history: History, folder: Path, bodies: bool = False) -> Path:
    """*history* as chat.db in *folder*. *bodies*: the words stand in attributedBody alone, as they often do."""
    path = folder / "chat.db"
    database = create(path)
    insert(database, "handle", *({"ROWID": n, "id": address(n), "service": "iMessage"} for n in range(1, 6)))
    for thread in sorted({said.thread for said in history.said}):
        _add_chat(database, history, thread)
    for number, said in enumerate(history.said, 1):
        insert(database, "message", {
            "ROWID": number, "guid": f"{number:036}", "text": None if bodies else said.text,
            "attributedBody": body(said.text), "handle_id": said.sender, "date": nanoseconds(said.at),
            "is_from_me": int(said.sender == 0), "destination_caller_id": MINE,
        })  # fmt: skip
        insert(database, "chat_message_join", {"chat_id": said.thread + 1, "message_id": number})
    database.commit()
    database.close()
    return path


def address(person: int) -> str:
    """The telephone number of *person*."""
    return f"+1402555010{person}"


def sample(folder: Path) -> Sample:
    """A direct conversation and a group; replies, edits, unsent parts, tapbacks, photos, system rows."""
    path = folder / "chat.db"
    database = create(path, indexed=False)
    database.execute("PRAGMA page_size = 512")
    database.execute("VACUUM")
    insert(database, "handle", {"id": address(1), "service": "iMessage"}, {"id": "ilona@example.com", "service": "SMS"})
    insert(
        database, "chat", {"guid": "a", "style": 45, "chat_identifier": address(1)},
        {"guid": "b", "style": 43, "chat_identifier": "chat1", "display_name": "Boat"},
    )  # fmt: skip
    insert(database, "chat_handle_join", *({"chat_id": c, "handle_id": h} for c, h in ((1, 1), (2, 1), (2, 2))))
    insert(database, "attachment", {"guid": "p", "mime_type": "image/jpeg", "transfer_name": "boat.jpg"})
    insert(database, "message_attachment_join", {"message_id": 5, "attachment_id": 1})
    for number, row in enumerate(_sample_rows(), 1):
        values = {"guid": f"{number:036}", "handle_id": 1, "is_from_me": number % 2, "destination_caller_id": MINE}
        insert(database, "message", {**values, "date": 750_000_000_000_000_000 + number * 10**10, **row})
        insert(database, "chat_message_join", {"chat_id": 1 + (number > 8), "message_id": number})
    insert(database, "chat_recoverable_message_join", {"chat_id": 1, "message_id": 12})
    database.commit()
    database.close()
    return Sample(path)


def write_many(path: Path, chats: int, messages_per_chat: int, seed: int = 7) -> None:
    """A large database of invented people and words, the chats taking turns.

    Every second body stands in attributedBody alone, every tenth chat is a group, every twelfth row a tapback, every
    fiftieth a photo.
    """
    database = create(path, indexed=False)
    for setting in ("journal_mode = off", "synchronous = off", "cache_size = -200000"):
        database.execute(f"PRAGMA {setting}")
    people = range(1, chats + 10)
    database.executemany(
        "INSERT INTO handle VALUES (?, ?, 'us', 'iMessage', NULL, NULL)",
        ((n, f"+1402{2000000 + n * 7919 % 7000000}") for n in people),
    )
    database.executemany(
        "INSERT INTO chat (ROWID, guid, style, chat_identifier, service_name, display_name) "
        "VALUES (?, ?, ?, ?, 'iMessage', ?)",
        (_many_chat(chat) for chat in range(1, chats + 1)),
    )
    database.executemany(
        "INSERT INTO chat_handle_join VALUES (?, ?)",
        ((chat, person) for chat in range(1, chats + 1) for person in _members(chat)),
    )
    total = chats * messages_per_chat
    database.executemany(
        f"INSERT INTO message ({', '.join(MANY)}) VALUES ({', '.join('?' * len(MANY))})",
        _many_messages(chats, total, random.Random(seed)),
    )
    database.executemany(
        "INSERT INTO chat_message_join VALUES (?, ?, ?)",
        ((1 + (n - 1) % chats, n, _many_date(n, chats)) for n in range(1, total + 1)),
    )
    photos = range(PHOTO_EVERY, total + 1, PHOTO_EVERY)
    database.executemany(
        "INSERT INTO attachment (ROWID, guid, mime_type, transfer_name) VALUES (?, ?, 'image/heic', ?)",
        ((n, f"at_0_{n}", f"IMG_{n % 10000:04}.HEIC") for n in photos),
    )
    database.executemany("INSERT INTO message_attachment_join VALUES (?, ?)", ((n, n) for n in photos))
    _add_indexes(database)
    database.commit()
    database.close()


MANY = (
    "ROWID", "guid", "text", "handle_id", "attributedBody", "version", "service", "account", "date", "date_read",
    "is_delivered", "is_finished", "is_from_me", "is_read", "is_sent", "cache_has_attachments", "was_data_detected",
    "associated_message_guid", "associated_message_type", "message_summary_info", "destination_caller_id",
    "reply_to_guid", "thread_originator_guid", "part_count",
)  # fmt: skip
WORDS = """
a about after again all almost already also always am an and another any are around as ask at away back bad be because
bed been before best better big bit book both bread bring bus but buy by call came can car cat change coffee cold come
could cup day did different dinner do does dog done door down drink drive early eat end enough even ever every eye far
feel few film find fine first food for forget found four free friend from fun game garden get give go going good got
great had half hand happy hard has have he head hear help her here him his home hope hot hour house how idea if in is
it job just keep kids kind kitchen know last late later laugh leave left let like line list little long look lot love
lunch made make many maybe me mean meet might milk mind mine minute miss money month more morning most move much mum
music must my name need never new next nice night no not nothing now of off okay old on once one only open or other our
out over own park party people phone place plan play please point put quick quiet rain read really red remember right
road room run said same saturday saw say school see seen send shall she shop should show sick side since sleep slow so
some someone soon sorry sort sound start station stay still stop story street stuff such summer sun sure table take
talk tea tell than thank that the their them then there these they thing think this those though three through ticket
time tired to today together told tomorrow tonight too town train try turn two under until up us use very wait walk
want was watch water way we week weekend well went were what when where which while who why will window with without
word work world would write yeah year yes yesterday yet you young your
"""
TAPBACK_EVERY, PHOTO_EVERY, REPLY_EVERY = 12, 50, 30
_PLAIN_SUMMARY = plistlib.dumps({"amc": 0, "ust": True}, fmt=plistlib.FMT_BINARY)


def _many_chat(chat: int) -> tuple[Any, ...]:
    if len(_members(chat)) > 1:
        return chat, f"iMessage;+;chat{chat:018}", 43, f"chat{chat:018}", f"Crew {chat}"
    number = f"+1402{2000000 + chat * 7919 % 7000000}"
    return chat, f"iMessage;-;{number}", 45, number, None


def _members(chat: int) -> Sequence[int]:
    return range(chat, chat + 4) if chat % 10 == 0 else (chat,)


def _many_date(number: int, chats: int) -> int:
    """Every chat has ten messages within half an hour or so, then nothing for twenty hours."""
    chat, place = (number - 1) % chats, (number - 1) // chats
    minutes = place // 10 * 1200 + place % 10 * 3 + chat % 7
    return 500_000_000_000_000_000 + minutes * 60_000_000_000 + number * 1_234_567


def _many_messages(chats: int, total: int, pick: random.Random) -> Iterator[tuple[Any, ...]]:
    words = [*WORDS.split(), "👍", "café", "…"]
    texts = [" ".join(pick.choices(words, k=pick.choice([1, 2, 3, 5, 5, 8, 8, 13, 25]))) for _ in range(200_000)]
    stored = [body(text) for text in texts]
    for number in range(1, total + 1):
        which = pick.randrange(len(texts))
        mine = pick.random() < 0.45
        member = pick.choice(_members(1 + (number - 1) % chats))
        text, data, target, reaction = texts[which], stored[which], None, 0
        if number % TAPBACK_EVERY == 0:
            target, reaction = f"p:0/{_many_guid(max(number - chats, 1))}", LOVED
            text, data = None, body(f"Loved “{text}”")
        elif number % PHOTO_EVERY == 0:
            text, data = "\ufffc", body("\ufffc")
        elif number % 2:
            text = None
        originator = _many_guid(max(number - chats, 1)) if number % REPLY_EVERY == 1 else None
        yield (
            number, _many_guid(number), text, 0 if mine else member, data, 10, "iMessage", "P:" + MINE,
            _many_date(number, chats), _many_date(number, chats) + 10**10, 1, 1, int(mine), 1, int(mine),
            int(number % PHOTO_EVERY == 0), 1, target, reaction, _PLAIN_SUMMARY, MINE,
            _many_guid(max(number - 1, 1)), originator, 1,
        )  # fmt: skip


def _many_guid(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08X}-4A5B-4C6D-8E7F-{number:012X}"


def _add_chat(database: sqlite3.Connection, history: History, thread: int) -> None:
    is_group = thread in history.groups
    members = {thread + 1, 4, 5} if is_group else {thread + 1}
    insert(database, "chat", {
        "ROWID": thread + 1, "guid": f"chat guid {thread}", "style": 43 if is_group else 45,
        "chat_identifier": f"chat{thread}" if is_group else address(thread + 1),
    })  # fmt: skip
    insert(database, "chat_handle_join", *({"chat_id": thread + 1, "handle_id": member} for member in sorted(members)))


def _sample_rows() -> list[dict[str, Any]]:
    edited = summary(
        otr={"0": {"lo": 0, "le": 5}, "1": {"lo": 5, "le": 6}}, ep=[0], rp=[1],
        ec={"0": [{"d": 750000000.5, "t": body("sup?")}, {"d": 750000009.5, "t": body("supper?")}]},
    )  # fmt: skip
    photo = {"text": None, "attributedBody": body("\ufffclook\ufffc"), "cache_has_attachments": 1}
    return [
        {"text": "home yet? " + "it is late " * 12},
        {"text": None, "attributedBody": body("nearly, ten more minutes 👍")},
        {"text": "fine", "thread_originator_guid": f"{2:036}", "thread_originator_part": "0:0:24", "subject": "Re"},
        {"associated_message_type": 2000, "associated_message_guid": f"p:0/{3:036}", "attributedBody": body("Loved")},
        photo,
        {"text": None, "date_edited": 750_000_009_500_000_000, "message_summary_info": edited},
        {"text": None, "attributedBody": body("я" * 80, kind="NSMutableString")},
        {"text": "https://example.org", "balloon_bundle_id": "com.apple.messages.URLBalloonProvider"},
        {"item_type": 2, "group_title": "Boat"},
        {"text": "Driving, will answer later", "is_auto_reply": 1},
        {"text": None, "attributedBody": _keyed("sailed"), "handle_id": 2, "date": 650_000_000},
        {"text": "gone"},
        {"text": None, "attributedBody": body("code 123456", "__kIMOneTimeCodeAttributeName"), "handle_id": 9},
        {"text": None, "balloon_bundle_id": "com.apple.messages.Polls", "payload_data": b"bplist00"},
    ]


def _keyed(text: str) -> bytes:
    objects = ["$null", {"NSString": plistlib.UID(2), "$class": plistlib.UID(3)}, text, {"$classname": "x"}]
    archive = {"$version": 100000, "$archiver": "NSKeyedArchiver", "$top": {"root": plistlib.UID(1)}}
    return plistlib.dumps({**archive, "$objects": objects}, fmt=plistlib.FMT_BINARY)


def _add_indexes(database: sqlite3.Connection) -> None:
    for table, indexes in INDEXES.items():
        for number, columns in enumerate(indexes):
            database.execute(f"CREATE INDEX {table}_{number} ON {table} ({columns})")


def _number(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    return b"\x81" + value.to_bytes(2, "little") if value < 0x8000 else b"\x82" + value.to_bytes(4, "little")


def _declared(columns: str) -> str:
    """Column names as SQL: each an INTEGER unless a type follows; text! is unique."""
    declared = ["ROWID INTEGER PRIMARY KEY AUTOINCREMENT"]
    types = {"text": "TEXT", "blob": "BLOB", "text!": "TEXT UNIQUE NOT NULL"}
    words = columns.split()
    skip = False
    for name, following in zip(words, [*words[1:], ""], strict=True):
        if skip:
            skip = False
            continue
        # The column called text is followed by its own type.
        skip = following in types
        declared.append(f"{name} {types.get(following, 'INTEGER DEFAULT 0')}")
    return ", ".join(declared)
