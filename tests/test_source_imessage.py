"""Messages databases: what each row becomes, whose it is, and which conversation it belongs to."""

import json
import os
import plistlib
import sqlite3
import stat
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import History, histories, imported, read, words
from tests.hostile import QUICK
from tests.writers.imessage import (
    EPOCH,
    JOINS,
    MINE,
    TABLES,
    address,
    body,
    create,
    insert,
    nanoseconds,
    summary,
    write,
    write_many,
)
from training.history import Coverage
from training.records import Attachment, Record
from training.sources.export import Export
from training.sources.imessage import recognises
from training.sources.imessage_database import opened
from training.sources.options import Options

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "imessage"
AT = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
GUID = "0A1B2C3D-0000-4000-8000-{:012}"

# U+FFFC and U+FFFD stand for attachments and app payloads; \r is a line break that becomes \n.
TYPED = words(exclude="\ufffc\ufffd\r")


@QUICK
@given(histories(TYPED), st.booleans())
def test_a_history_comes_back_as_it_was_written(history: History, bodies: bool) -> None:
    """Who said what, where and when, to the letter, from either column."""
    with TemporaryDirectory() as name:
        records = imported("imessage", write(history, Path(name), bodies), Path(name))
    found = [(r.thread_id, r.thread_kind == "group", r.sender_id, r.from_me, r.sent_at, r.text) for r in records]

    assert found == [
        (
            f"group:chat{said.thread}" if said.thread in history.groups else address(said.thread + 1),
            said.thread in history.groups,
            address(said.sender) if said.sender else None,
            said.sender == 0,
            said.at,
            said.text,
        )
        for said in history.said
    ]


class Phone:
    """A database with one friend (chat 1) and a group of two (chat 2), to which a test adds messages."""

    def __init__(self, folder: Path, tables: tuple[str, ...] = (*TABLES, *JOINS)):
        self.path, self.folder = folder / "chat.db", folder
        self.database = create(self.path, tables, indexed=False)
        self.number = 0
        if "handle" in tables:
            self.add("handle", *({"ROWID": n, "id": address(n), "service": "iMessage"} for n in (1, 2)))
        if "chat" in tables:
            self.add("chat", {"ROWID": 1, "guid": "a", "style": 45, "chat_identifier": address(1)})
            self.add("chat", {"ROWID": 2, "guid": "b", "style": 43, "chat_identifier": "chat9", "display_name": "Boat"})
            self.members(1, 1)
            self.members(2, 1, 2)

    def add(self, table: str, *rows: dict[str, Any]) -> None:
        insert(self.database, table, *rows)

    def members(self, chat: int, *handles: int) -> None:
        self.add("chat_handle_join", *({"chat_id": chat, "handle_id": handle} for handle in handles))

    def send(self, *chats: int, **columns: Any) -> int:
        """Add a message to *chats*; by the friend unless is_from_me is given. Its number."""
        self.number += 1
        at = nanoseconds(AT) + self.number * 10**9
        row = {"ROWID": self.number, "guid": GUID.format(self.number), "handle_id": 1, "date": at, "is_from_me": 0}
        self.add("message", {**row, "destination_caller_id": MINE, **columns})
        self.add("chat_message_join", *({"chat_id": chat, "message_id": self.number} for chat in chats))
        return self.number

    def read(self, *me: str) -> tuple[list[Record], Coverage]:
        """What an import finds; one message of mine is added, as a history without any is refused."""
        self.send(1, text="mine", is_from_me=1, handle_id=0)
        self.database.commit()
        records, coverage = read("imessage", self.path, self.folder, *me)
        assert records.pop().text == "mine"
        return records, coverage


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path)


def only(phone: Phone) -> Record:
    (record,), _ = phone.read()
    return record


LENGTHS = [0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0x1FFFF]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["NSString", "NSMutableString"])
def test_a_body_of_any_length_is_read_whole(phone: Phone, length: int, kind: str) -> None:
    """One, two and four bytes of length; nothing is cut and nothing added."""
    phone.send(1, attributedBody=body("x" * length, kind=kind))

    assert "x" * length == only(phone).text


def test_a_body_of_long_words_in_japanese_keeps_its_last_letter(phone: Phone) -> None:
    """Lengths count bytes, not letters."""
    phone.send(1, attributedBody=body("日" * 60 + "本"))

    assert "日" * 60 + "本" == only(phone).text


def test_an_empty_text_is_looked_up_in_the_body(phone: Phone) -> None:
    """As NULL is."""
    phone.send(1, text="", attributedBody=body("there"))

    assert "there" == only(phone).text


def test_a_body_whose_length_is_wrong_is_read_to_its_end_mark_and_counted(phone: Phone) -> None:
    """And the note says so."""
    phone.send(1, attributedBody=body("hello").replace(b"+\x05hello", b"+\x82\xff\xff\xff\x7fhello"))
    records, coverage = phone.read()

    assert ["hello"] == [record.text for record in records]
    assert ["chat.db: 1 message bodies gave a wrong length and were read up to their end mark"] == coverage.notes


def test_a_body_that_is_a_keyed_archive_is_read(phone: Phone) -> None:
    """Of a plain and of a mutable string."""
    for string in ("sailed", {"NS.string": "sailed", "$class": plistlib.UID(3)}):
        objects = ["$null", {"NSString": plistlib.UID(2)}, string, {"$classname": "x"}]
        archive = {"$top": {"root": plistlib.UID(1)}, "$objects": objects}
        phone.send(1, attributedBody=plistlib.dumps(archive, fmt=plistlib.FMT_BINARY))

    assert ["sailed"] * 2 == [record.text for record in phone.read()[0]]


@pytest.mark.parametrize("blob", [b"\x04\x0bstreamtyped", b"\x84\x01+", b"\x84\x01+\x81", b"bplist00" + b"\xff" * 60])
def test_a_body_that_cannot_be_read_is_counted_and_a_text_beside_it_taken(phone: Phone, blob: bytes) -> None:
    """Never an empty message."""
    phone.send(1, attributedBody=blob)
    phone.send(1, attributedBody=blob, text="kept")
    records, coverage = phone.read()

    assert ["kept"] == [record.text for record in records]
    assert ["chat.db message 1: its body cannot be decoded"] == coverage.where


def test_a_text_that_is_not_utf_8_does_not_end_the_import(phone: Phone) -> None:
    """What is wrong in it is replaced or left out, and the next message read."""
    phone.send(1, text="x")
    phone.database.execute("UPDATE message SET text = CAST(x'636166e9' AS TEXT), guid = CAST(x'ff' AS TEXT)")
    phone.send(1, text="next")

    assert ["caf", "next"] == [record.text for record in phone.read()[0]]


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (nanoseconds(AT), AT),
        (nanoseconds(AT) + 123_456_789, AT + timedelta(microseconds=123_457)),
        (400_000_000, EPOCH + timedelta(seconds=400_000_000)),
        (-86_400, EPOCH - timedelta(days=1)),
        (0, None),
        (None, None),
        ("yesterday", None),
        (999_999_999_999, None),
    ],
)
def test_a_date_counts_nanoseconds_or_seconds(phone: Phone, date: Any, expected: datetime | None) -> None:
    """Decided for each row; neither 0 nor NULL nor nonsense is a date."""
    phone.send(1, text="x", date=date)

    assert expected == only(phone).sent_at


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"associated_message_type": 2000}, ("reaction", [])),
        ({"associated_message_type": 3001}, ("reaction", ["removed"])),
        ({"associated_message_type": 2006}, ("reaction", [])),
        ({"associated_message_type": 1000}, ("reaction", ["sticker"])),
        ({"associated_message_type": 4000}, ("reaction", ["poll"])),
        ({"associated_message_type": 9999}, ("reaction", [])),
        ({"item_type": 1}, ("system", [])),
        ({"item_type": 6}, ("system", [])),
        ({"balloon_bundle_id": "com.example.Games"}, ("media", ["app"])),
        ({"balloon_bundle_id": "com.apple.messages.Polls"}, ("media", ["poll"])),
    ],
)
def test_what_nobody_typed_has_no_text(phone: Phone, columns: dict[str, Any], expected: tuple[str, list[str]]) -> None:
    """Tapbacks, votes, system rows and app payloads have bodies, which are not kept."""
    phone.send(1, attributedBody=body("Loved “x”"), **columns)
    record = only(phone)

    assert (*expected, "") == (record.kind, record.flags, record.text)


@pytest.mark.parametrize("prefix", ["p:0/", "p:3/", "bp:", ""])
def test_a_tapback_names_the_message_it_is_for(phone: Phone, prefix: str) -> None:
    """Whatever stands before the guid."""
    phone.send(1, associated_message_type=2001, associated_message_guid=prefix + GUID.format(1))

    assert GUID.format(1) == only(phone).reply_to


@pytest.mark.parametrize(
    ("columns", "flags"),
    [
        ({"associated_message_type": 2}, []),
        ({"balloon_bundle_id": "com.apple.messages.URLBalloonProvider"}, []),
        ({"is_auto_reply": 1}, ["auto"]),
        ({"error": 22}, ["failed"]),
        ({"is_spam": 1}, ["spam"]),
        ({"is_corrupt": 1}, ["corrupt"]),
        ({"schedule_type": 2, "is_sent": 0}, ["scheduled"]),
        ({"schedule_type": 2, "is_sent": 1}, []),
        ({"date_edited": 1}, ["edited"]),
        ({"attributedBody": body("x", "__kIMOneTimeCodeAttributeName")}, ["otp"]),
        ({"attributedBody": body("x", "__kIMMentionConfirmedMention")}, ["mention"]),
        ({"attributedBody": body("x", "__kIMLinkAttributeName")}, []),
    ],
)
def test_what_the_columns_say_of_a_text_is_a_flag(phone: Phone, columns: dict[str, Any], flags: list[str]) -> None:
    """And the text is kept."""
    phone.send(1, text="x", **columns)
    record = only(phone)

    assert ("text", "x", flags) == (record.kind, record.text, record.flags)


def test_each_text_between_attachments_is_a_bubble(phone: Phone) -> None:
    """Line breaks around them are not part of it, those inside stay."""
    phone.send(1, attributedBody=body("\ufffcone\rmore\r\ufffctwo\ufffd\ufffc"), cache_has_attachments=1)
    phone.add("attachment", {"ROWID": 5, "guid": "p", "mime_type": "image/heic", "transfer_name": "a.heic"})
    phone.add("message_attachment_join", {"message_id": 1, "attachment_id": 5})
    record = only(phone)

    assert (["one\nmore", "two"], "one\nmore\ntwo") == (record.parts, record.text)
    assert [Attachment("image/heic", "a.heic")] == record.attachments


def test_attachments_alone_are_media(phone: Phone) -> None:
    """A sticker is flagged; the next message gets its own."""
    for number, is_sticker in ((1, 0), (2, 1)):
        phone.send(1, text="\ufffc", cache_has_attachments=1)
        phone.add("attachment", {"ROWID": number, "guid": str(number), "is_sticker": is_sticker})
        phone.add("message_attachment_join", {"message_id": number, "attachment_id": number})
    phone.send(1, text="\ufffc", is_audio_message=1)
    records, _ = phone.read()

    assert [("media", "", []), ("media", "", ["sticker"]), ("media", "", ["audio"])] == [
        (record.kind, record.text, record.flags) for record in records
    ]
    assert [1, 1, 0] == [len(record.attachments) for record in records]


def test_a_row_that_says_nothing_is_skipped(phone: Phone) -> None:
    """No text, no body, no attachment; or blanks."""
    phone.send(1)
    phone.send(1, text=" ")
    phone.send(1, attributedBody=body(""))

    assert {"empty": 3} == phone.read()[1].skipped


def test_a_reply_names_what_it_answers_and_a_subject_stands_above(phone: Phone) -> None:
    """reply_to_guid is only the message before; it is no reply."""
    phone.send(1, text="yes", thread_originator_guid="G", reply_to_guid="other", subject="Dinner")
    phone.send(1, text="no", reply_to_guid="other")
    records, _ = phone.read()

    assert [("G", "Dinner\nyes"), (None, "no")] == [(record.reply_to, record.text) for record in records]


def edit(*texts: str) -> list[dict[str, Any]]:
    return [{"d": 700000000.5 + number, "t": body(text)} for number, text in enumerate(texts)]


def span(*lengths: int) -> dict[str, dict[str, int]]:
    return {str(n): {"lo": sum(lengths[:n]), "le": length} for n, length in reversed(list(enumerate(lengths)))}


@pytest.mark.parametrize(
    ("info", "blob", "kind", "parts"),
    [
        ({"otr": span(3), "ec": {"0": edit("sup", "supper")}, "ep": [0]}, None, "text", ["supper"]),
        ({"otr": span(3), "ec": {"0": edit("sup", "supper")}, "ep": [0]}, "supper", "text", ["supper"]),
        ({"otr": span(3), "rp": [0]}, None, "deleted", []),
        ({"otr": span(3, 1), "rp": [1, 0]}, "abc\ufffc", "deleted", []),
        ({"otr": span(2, 1, 2), "rp": [2]}, "👍\ufffcno", "text", ["👍"]),
        ({"otr": span(2, 1, 2), "rp": [2]}, "ab\ufffc", "text", ["ab"]),
        (
            {"otr": span(1, 2, 1, 2), "ec": {"3": edit("cd", "CD!")}, "ep": [3]},
            "\ufffcab\ufffccd",
            "text",
            ["ab", "CD!"],
        ),
        ({"otr": span(2, 1, 2), "ec": {"0": edit("ab", "A")}, "ep": [0]}, "A\ufffccd", "text", ["A", "cd"]),
        ({"otr": span(2, 1, 2), "ec": {"2": edit("cd", "e")}, "rp": [0]}, None, "text", ["e"]),
        ({"otr": [], "ec": [4], "rp": "x", "ep": None}, "whole", "text", ["whole"]),
        ({"otr": {"x": 1, "0": {"lo": -1, "le": "a"}}, "ec": {"0": [1, {"t": 5}, {}]}}, "whole", "text", ["whole"]),
        ({"tmp": body("traduit")}, "whole", "text", ["whole"]),
    ],
)
def test_an_edited_message_is_what_it_was_last(
    phone: Phone, info: dict[str, Any], blob: str | None, kind: str, parts: list[str]
) -> None:
    """Without the parts that were unsent; deleted where nothing is left."""
    stored = body(blob) if blob else None
    phone.send(1, attributedBody=stored, date_edited=nanoseconds(AT), message_summary_info=summary(**info))
    record = only(phone)

    assert (kind, "\n".join(parts)) == (record.kind, record.text)


def test_a_message_that_is_not_edited_keeps_its_words(phone: Phone) -> None:
    """Every row has a summary; it matters only where something was edited."""
    phone.send(1, text="mine", message_summary_info=summary(ec={"0": edit("other")}))

    assert "mine" == only(phone).text


def test_recently_deleted_messages_are_skipped(phone: Phone) -> None:
    """They are in no chat any more, or still in one."""
    phone.send(text="a")
    phone.send(1, text="b")
    phone.add("chat_recoverable_message_join", *({"chat_id": 1, "message_id": n} for n in (1, 2)))

    assert {"recently_deleted": 2} == phone.read()[1].skipped


def test_a_message_without_a_chat_is_with_its_handle(phone: Phone) -> None:
    """Or in the group its columns name; without either it is skipped."""
    phone.database.execute("ALTER TABLE message ADD COLUMN ck_chat_id TEXT")
    phone.send(text="a")
    phone.send(text="b", cache_roomnames="chat9", handle_id=2)
    phone.send(text="c", cache_roomnames="chat77")
    phone.send(text="d", handle_id=0, is_from_me=1, ck_chat_id=f"iMessage;-;{address(2)}")
    phone.send(99, text="e", handle_id=0)
    records, coverage = phone.read()

    assert [address(1), "group:chat9", "group:chat77", address(2)] == [record.thread_id for record in records]
    assert {"no_conversation": 1} == coverage.skipped


def test_a_message_in_two_chats_is_one_and_a_groups_stays_in_the_group(phone: Phone) -> None:
    """Which it is tells cache_roomnames."""
    phone.send(1, 2, text="a", cache_roomnames="chat9")
    phone.send(2, 1, text="b")
    records, _ = phone.read()

    assert [("a", "group:chat9"), ("b", address(1))] == [(record.text, record.thread_id) for record in records]


def test_a_handle_that_is_not_there_is_somebody_of_their_own(phone: Phone) -> None:
    """And one that is text is an address."""
    phone.send(2, text="a", handle_id=475)
    phone.send(2, text="b", handle_id="Ana@Example.com")
    phone.send(text="c", handle_id=475)
    records, _ = phone.read()

    senders = ["imessage:handle 475", "ana@example.com", "imessage:handle 475"]
    assert senders == [record.sender_id for record in records]
    assert "imessage:handle 475" == records[2].thread_id


def test_my_own_row_may_carry_the_handle_of_the_other(phone: Phone) -> None:
    """It never says who I am."""
    phone.send(1, text="a", is_from_me=1, handle_id=1)
    record = only(phone)

    assert (True, None, address(1)) == (record.from_me, record.sender_id, record.thread_id)


@pytest.mark.parametrize("how", ["person_centric_id", "chat_lookup", "both in one chat"])
def test_the_addresses_of_one_person_are_one_conversation(phone: Phone, how: str) -> None:
    """The number speaks for them."""
    centric = {"person_centric_id": "P"} if how == "person_centric_id" else {}
    phone.add("handle", {"ROWID": 3, "id": "ilona@example.com", **centric}, {"ROWID": 4, "id": address(4), **centric})
    phone.add("chat", {"ROWID": 3, "guid": "c", "style": 45, "chat_identifier": "ilona@example.com"})
    phone.add("chat", {"ROWID": 4, "guid": "d", "style": 45, "chat_identifier": address(4)})
    phone.members(3, *((3, 4) if how == "both in one chat" else (3,)))
    phone.members(4, 4)
    if how == "chat_lookup":
        phone.add("chat_lookup", *({"identifier": "I", "domain": f"d{chat}", "chat": chat} for chat in (3, 4)))
    phone.send(3, text="a", handle_id=3)
    phone.send(4, text="b", handle_id=4)
    phone.send(text="c", handle_id=3)
    records, _ = phone.read()

    assert [(address(4), address(4))] * 3 == [(record.thread_id, record.sender_id) for record in records]


def test_one_address_of_two_services_is_one_conversation(phone: Phone) -> None:
    """Written with and without its country."""
    phone.add("handle", {"ROWID": 3, "id": "(402) 555-0101", "service": "SMS"})
    phone.add("chat", {"ROWID": 3, "guid": "c", "style": 45, "chat_identifier": "4025550101"})
    phone.members(3, 3)
    phone.send(1, text="a")
    phone.send(3, text="b", handle_id=3)

    assert [address(1)] * 2 == [record.thread_id for record in phone.read()[0]]


def test_groups_of_the_same_people_are_one_conversation(phone: Phone) -> None:
    """And others are others, though they share a member; the name is each chat's own."""
    phone.add("handle", {"ROWID": 3, "id": address(3)})
    for chat, members in ((3, (2, 1)), (4, (1, 3))):
        phone.add("chat", {"ROWID": chat, "guid": str(chat), "style": 43, "chat_identifier": f"chat1{chat}"})
        phone.members(chat, *members)
    for chat in (2, 3, 4):
        phone.send(chat, text="x")
    records, _ = phone.read()

    assert ["group:chat9", "group:chat9", "group:chat14"] == [record.thread_id for record in records]
    assert ["Boat", None, None] == [record.thread_name for record in records]


def test_a_conversation_with_myself_is_skipped(phone: Phone) -> None:
    """Known by the addresses that messages were sent to, or by --me."""
    phone.add("handle", {"ROWID": 3, "id": MINE}, {"ROWID": 4, "id": "me@example.com"})
    for chat in (3, 4):
        phone.add("chat", {"ROWID": chat, "guid": str(chat), "style": 45})
        phone.members(chat, chat)
        phone.send(chat, text="note", handle_id=chat)

    assert {"self_chat": 2} == phone.read("Me@example.com")[1].skipped


def test_my_other_address_in_a_group_is_me(phone: Phone) -> None:
    """Once --me names it."""
    phone.send(2, text="hello", handle_id=2)

    assert [True] == [record.from_me for record in phone.read(address(2))[0]]


def test_a_message_written_twice_by_a_migration_is_one(phone: Phone) -> None:
    """The same words at the same instant; within one second both can be real."""
    exact, second = nanoseconds(AT) + 5_000, nanoseconds(AT)
    for date in (exact, exact, second, second):
        phone.send(1, text="ok", date=date)
    phone.send(1, text="other", date=exact)
    records, coverage = phone.read()

    assert (["ok", "ok", "ok", "other"], {"duplicate": 1}) == ([record.text for record in records], coverage.skipped)


def test_an_older_copy_of_the_database_adds_nothing(phone: Phone) -> None:
    """Both lie in the folder that is given."""
    phone.send(1, text="a", is_from_me=1)
    phone.database.commit()
    (phone.folder / "old").mkdir()
    (phone.folder / "old" / "chat.db").write_bytes(phone.path.read_bytes())
    phone.send(1, text="b")
    phone.database.commit()
    records, coverage = read("imessage", phone.folder, phone.folder)

    assert (["a", "b"], {"duplicate": 1}) == ([record.text for record in records], coverage.skipped)


def test_shared_location_is_by_whom_the_other_columns_say(phone: Phone) -> None:
    """is_from_me is 0 either way."""
    phone.send(1, item_type=4, other_handle=1, share_direction=0)
    phone.send(1, item_type=4, other_handle=1, share_direction=1)

    assert [True, False] == [record.from_me for record in phone.read()[0]]


def test_a_database_without_chats_is_read_by_handles(tmp_path: Path) -> None:
    """As old and cut-down ones are; columns may be missing too."""
    path = tmp_path / "sms.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE message (guid TEXT, text TEXT, handle_id INTEGER, date INTEGER, is_from_me)")
        database.execute("CREATE TABLE handle (id TEXT)")
        database.execute("INSERT INTO handle VALUES (?)", (address(1),))
        rows = [("a", "hi", 1, 400_000_000, 0), ("b", "ho", 1, nanoseconds(AT), 1)]
        database.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
    database.close()

    found = [(r.text, r.from_me, r.thread_id) for r in imported("imessage", path, tmp_path)]
    assert [("hi", False, address(1)), ("ho", True, address(1))] == found


def test_what_waits_in_the_wal_is_read_from_a_private_copy(tmp_path: Path) -> None:
    """The copy is nobody else's to read and is gone afterwards; nothing is written beside the original."""
    phone = Phone(tmp_path)
    phone.database.commit()
    phone.database.execute("PRAGMA journal_mode = wal")
    phone.send(1, text="late", is_from_me=1)
    phone.database.commit()
    before = sorted(os.listdir(tmp_path))
    with opened(phone.path, "chat.db") as database:
        (place,) = (Path(str(row[2], "utf-8")) for row in database.rows("PRAGMA database_list"))
        mode = stat.S_IMODE(place.parent.stat().st_mode)
        assert phone.path.parent != place.parent
        assert [(b"late",)] == list(database.rows("SELECT text FROM message"))
    assert (0o700, False, before) == (mode, place.parent.exists(), sorted(os.listdir(tmp_path)))


def test_a_database_in_wal_mode_without_a_wal_leaves_no_files_beside_it(tmp_path: Path) -> None:
    """Which SQLite would make even to read it, and could not in a folder that is read-only."""
    phone = Phone(tmp_path)
    phone.send(1, text="a", is_from_me=1)
    phone.database.commit()
    phone.database.execute("PRAGMA journal_mode = wal")
    phone.database.close()
    with opened(phone.path, "chat.db") as database:
        assert 1 == len(list(database.rows("SELECT * FROM message")))
    assert ["chat.db"] == os.listdir(tmp_path)


def test_a_damaged_stretch_costs_what_stands_in_it(tmp_path: Path) -> None:
    """What stands before and behind is read, and the report says where it is."""
    path = tmp_path / "chat.db"
    write_many(path, 3, 400)
    data = bytearray(path.read_bytes())
    with sqlite3.connect(path) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
    database.close()
    # A leaf of the table (13) somewhere in the middle: take its kind away.
    leaves = [at for at in range(0, len(data), size) if data[at] == 13 and b"streamtyped" in data[at : at + size]]
    data[leaves[len(leaves) // 2]] = 0
    path.write_bytes(data)
    records, coverage = read("imessage", path, tmp_path)

    assert 1100 < len(records) < 1200 and records[-1].order == 1200
    assert coverage.not_understood == 1 and "damaged" in coverage.where[0]
    assert not [record.text for record in records if record.text.startswith("Loved")]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"encrypted" * 1000])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """With the name of the file."""
    path = tmp_path / "chat.db"
    path.write_bytes(content)

    with pytest.raises(DataRefused) as refused:
        imported("imessage", path, tmp_path)
    assert "chat.db" in str(refused.value)


def test_another_database_is_not_taken_for_messages(tmp_path: Path) -> None:
    """Neither by auto nor when it is named."""
    path = tmp_path / "notes.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE note (words)")
    database.close()

    assert not recognises(Export(path))
    with pytest.raises(DataRefused):
        imported("imessage", path, tmp_path)


EXPORTED = "May 17, 2022  5:29:42 PM (Read by you after 3 seconds)\n+14025550101\nhello\n\n"
PAGE = '<html><div class="message"><div class="sent iMessage"><p><span class="timestamp">May 17, 2022</span></p>'


@pytest.mark.parametrize(("name", "text"), [("a.txt", EXPORTED), ("a.html", PAGE)])
def test_text_of_imessage_exporter_is_recognised_and_refused_with_advice(tmp_path: Path, name: str, text: str) -> None:
    """It names the file to give instead."""
    (tmp_path / name).write_text(text)
    assert recognises(Export(tmp_path))

    with pytest.raises(DataRefused, match=r"chat\.db") as refused:
        imported("auto", tmp_path, tmp_path)
    assert "unsupported_export" == refused.value.code


@pytest.mark.parametrize("text", ["[28/02/2024, 23:50:00] Ana: hi\n", "5/17/22, 5:29 PM - Ana: hi\n", "hello\n", ""])
def test_other_texts_are_not_taken_for_it(tmp_path: Path, text: str) -> None:
    """Such as those of WhatsApp."""
    (tmp_path / "a.txt").write_text(text)

    assert not recognises(Export(tmp_path))


def test_the_options_region_reads_numbers_without_their_country(tmp_path: Path) -> None:
    """It wins over the country of my own number."""
    phone = Phone(tmp_path)
    phone.add("handle", {"ROWID": 3, "id": "07911 123456"})
    phone.send(text="x", handle_id=3)
    phone.send(1, text="mine", is_from_me=1)
    phone.database.commit()

    records = imported("imessage", phone.path, tmp_path, options=Options(region="GB"))
    assert "+447911123456" == records[0].sender_id


def test_many_messages_are_what_was_written(tmp_path: Path) -> None:
    """The generator of benchmarks: kinds, people and conversations add up."""
    write_many(tmp_path / "chat.db", 20, 30)
    records, coverage = read("imessage", tmp_path, tmp_path)

    assert Counter(text=540, reaction=50, media=10) == coverage.kinds
    assert 20 == len(coverage.threads) and not coverage.not_understood and not coverage.notes
    assert all(record.text for record in records if record.kind == "text")


in_shared = pytest.mark.skipif(not FIXTURES.is_dir(), reason="no sample files here")


@in_shared
def test_the_langchain_sample_has_22_messages_and_a_tapback(tmp_path: Path) -> None:
    """It has neither chats nor members."""
    records, coverage = read("imessage", FIXTURES / "langchain-community" / "imessage_chat.db", tmp_path)
    by_number = {record.order: record for record in records}

    assert Counter(text=22, reaction=1) == coverage.kinds
    assert Counter({False: 10, True: 12}) == Counter(record.from_me for record in records if record.kind == "text")
    assert 1 == len(coverage.threads) and all(record.text for record in records if record.kind == "text")
    assert by_number[252037].source_id == by_number[252040].reply_to


@in_shared
def test_the_modern_sample_has_three_messages(tmp_path: Path) -> None:
    """Their words stand in the body alone, and their handles do not exist."""
    records, coverage = read("imessage", FIXTURES / "db" / "test.db", tmp_path)

    assert (3, 0, 1) == (coverage.kept, coverage.not_understood, coverage.mine)
    assert all(record.text for record in records)


@in_shared
def test_the_sample_bodies_and_edits_have_their_expected_texts(tmp_path: Path) -> None:
    """Each as a message of its own."""
    phone = Phone(tmp_path)
    bodies = json.loads((FIXTURES / "expected_typedstream.json").read_text())
    for name in bodies:
        phone.send(1, attributedBody=(FIXTURES / "typedstream" / name).read_bytes())
    edits = json.loads((FIXTURES / "expected_edited.json").read_text())
    for name in edits:
        info = (FIXTURES / "edited_message" / name).read_bytes()
        phone.send(1, date_edited=1, message_summary_info=info, cache_has_attachments=1)
    records, _ = phone.read()
    expected = [
        (
            "deleted" if len(found["unsent_parts"]) == found["parts"] else "text" if found["history"] else "media",
            "\n".join(versions[-1]["text"] for versions in found["history"].values()),
        )
        for found in edits.values()
    ]

    assert [*(("text", text) for text in bodies.values()), *expected] == [(r.kind, r.text) for r in records]


@in_shared
@pytest.mark.parametrize("name", ["Translation.plist", "PollCreate.plist", "Business.plist"])
def test_payloads_of_apps_are_never_text(tmp_path: Path, name: str) -> None:
    """Not as a summary, a payload or a body."""
    blob = (FIXTURES / "app_message" / name).read_bytes()
    phone = Phone(tmp_path)
    phone.send(1, text="original", message_summary_info=blob, payload_data=blob, date_edited=1)
    phone.send(1, attributedBody=blob)
    records, coverage = phone.read()

    assert ["original"] == [record.text for record in records]
    assert 1 == coverage.not_understood
