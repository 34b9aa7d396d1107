"""The invented history in data/example, and that its exports hold the same words. Runs alone: needs no importer."""

import importlib.util
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "data" / "example"
EXPORTS = EXAMPLE / "exports"
ROWS: list[dict[str, Any]] = list(map(json.loads, (EXAMPLE / "messages.jsonl").read_bytes().splitlines()))
MARKER = b"\x84\x01+"
HEADERS = {
    "android": r"\d+/\d+/\d\d, \d\d:\d\d - (?:([^:\n]+): )?",
    "iphone": r"\u200e?\[\d\d/\d\d/\d{4}, \d\d:\d\d:\d\d\] ([^:\n]+): ",
}

Said = list[tuple[bool, str]]  # one conversation in order: (from me, text)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_exports", EXAMPLE / "make_exports.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_exports = load_script()


def said_in_history() -> list[Said]:
    threads: dict[str, list[dict[str, Any]]] = {}
    for row in ROWS:
        threads.setdefault(row["thread_id"], []).append(row)
    ordered = [sorted(rows, key=lambda row: row["sent_at"]) for rows in threads.values()]
    return [[(row["from_me"], row["text"]) for row in rows if row["kind"] == "text"] for rows in ordered]


def decode(blob: bytes) -> str:
    """The words of an attributedBody: exactly as many bytes as it says."""
    at = blob.index(MARKER) + len(MARKER)
    width = {0x81: 2, 0x82: 4}.get(blob[at], 0)
    size = int.from_bytes(blob[at + 1 : at + 1 + width], "little") if width else blob[at]
    start = at + 1 + width
    assert blob[start + size :].startswith(b"\x86\x84\x02iI")
    return blob[start : start + size].decode()


def query(sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{EXPORTS / 'chat.db'}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def said_on_imessage() -> list[Said]:
    rows = query(
        "SELECT chat_id, is_from_me, text, attributedBody FROM message"
        " JOIN chat_message_join ON message_id = message.ROWID WHERE associated_message_type = 0 ORDER BY date"
    )
    chats: dict[int, Said] = {}
    for chat, from_me, text, blob in rows:
        words = text if text is not None else decode(blob)
        assert blob is None or decode(blob) == words
        if words != "\ufffc":
            chats.setdefault(chat, []).append((bool(from_me), words))
    return [chats[chat] for chat in sorted(chats)]


def said_on_whatsapp() -> list[Said]:
    stems = dict.fromkeys(row["thread_id"] for row in ROWS)
    return [whatsapp_chat((EXPORTS / "whatsapp" / f"{stem}.txt").read_text(encoding="utf-8")) for stem in stems]


def whatsapp_chat(content: str) -> Said:
    header = HEADERS["iphone" if content.startswith("[") else "android"]
    _, *pieces = re.split(f"^{header}", content, flags=re.MULTILINE)
    pairs = [(name == "Jo Varga", body[:-1]) for name, body in zip(pieces[::2], pieces[1::2], strict=True) if name]
    return [pair for pair in pairs if not re.match("\u200e|<Media omitted>|Missed voice call", pair[1])]


def said_on_telegram() -> list[Said]:
    export = telegram()
    me = f"user{export['personal_information']['user_id']}"
    chats = [[row for row in chat["messages"] if row["type"] == "message"] for chat in export["chats"]["list"]]
    said = [[(row["from_id"] == me, telegram_text(row)) for row in rows] for rows in chats]
    return [[pair for pair in chat if pair[1]] for chat in said]


def telegram_text(row: dict[str, Any]) -> str:
    pieces = [row["text"]] if isinstance(row["text"], str) else row["text"]
    text = "".join(piece if isinstance(piece, str) else piece["text"] for piece in pieces)
    assert text == "".join(entity["text"] for entity in row["text_entities"])
    return text


def telegram() -> dict[str, Any]:
    export: dict[str, Any] = json.loads((EXPORTS / "telegram" / "result.json").read_text(encoding="utf-8"))
    return export


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return list(db.iterdump())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_history_is_long_enough_and_has_a_group():
    """There are at least 1,200 messages over at least six threads, one of them a group."""

    assert len(ROWS) >= 1200
    assert len({row["thread_id"] for row in ROWS}) >= 6
    assert "group" in {row["thread_kind"] for row in ROWS}


def test_jo_never_writes_a_capital_letter():
    """No message of Jo's has a capital letter, and others' have."""

    assert any(row["from_me"] for row in ROWS)
    assert [] == [row["source_id"] for row in ROWS if row["from_me"] and row["text"] != row["text"].lower()]
    assert any(row["text"] != row["text"].lower() for row in ROWS if not row["from_me"])


def test_every_identifier_is_a_number_kept_for_fiction():
    """Whoever is named by a number has one from 555-0100 to 555-0199, and no text names a number or an address."""

    people = telegram()["contacts"]["list"] + [telegram()["personal_information"]]
    numbers = {row["sender_id"] for row in ROWS} | {person["phone_number"] for person in people}
    numbers |= {number for (number,) in query("SELECT id FROM handle UNION SELECT destination_caller_id FROM message")}

    assert [] == [number for number in numbers if not re.fullmatch(r"\+1\d{3}55501\d\d", number)]
    assert [] == [row["source_id"] for row in ROWS if re.search(r"@|\d{5}|\d{3}[-. ]\d{4}", row["text"])]


@pytest.mark.parametrize("said", [said_on_imessage, said_on_whatsapp, said_on_telegram])
def test_an_export_says_what_the_history_says(said: Callable[[], list[Said]]):
    """Every text is in the export, said by the same side, in the same order, and no other text is."""

    assert said_in_history() == said()


def test_chat_db_holds_what_real_ones_hold():
    """About a quarter of the texts are in the blob only; media, tapbacks and both styles of chat are there."""

    count = {kind: sum(row["kind"] == kind for row in ROWS) for kind in ("media", "reaction")}
    ((blob_only,),) = query("SELECT avg(text IS NULL) FROM message")
    tapbacks = query(
        "SELECT 1 FROM message a JOIN message b ON substr(a.associated_message_guid, 5) = b.guid"
        " WHERE a.associated_message_type BETWEEN 2000 AND 2005"
    )

    assert 0.2 < blob_only < 0.3
    assert count["media"] == len(query("SELECT 1 FROM message_attachment_join"))
    assert count["reaction"] == len(tapbacks)
    assert {(43,), (45,)} == set(query("SELECT style FROM chat"))
    assert {"chat.db"} == {path.name for path in EXPORTS.glob("chat.db*")}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 32768, 65535, 65536, 70000])
def test_a_blob_says_how_long_its_text_is(size: int):
    """A text of any length comes back from its blob, also where the length takes two bytes or four."""

    text = "é" * (size // 2) + "x" * (size % 2)

    assert text == decode(make_exports.streamtyped(text))


def test_the_script_writes_the_same_bytes_again(tmp_path: Path):
    """A second run over the first writes the same bytes, and they are the files that lie here."""

    make_exports.write_exports(EXAMPLE / "messages.jsonl", tmp_path)
    first, here = files(tmp_path), files(EXPORTS)
    make_exports.write_exports(EXAMPLE / "messages.jsonl", tmp_path)

    assert first == files(tmp_path)
    # Another SQLite may lay the same rows out otherwise.
    assert dump(tmp_path / "chat.db") == dump(EXPORTS / "chat.db")
    assert first | {"chat.db": b""} == here | {"chat.db": b""}


def test_no_file_is_large():
    """Every file of the example is below 4 MB: some 400 bytes a message, in the most wordy of the exports."""

    assert {} == {name: len(content) for name, content in files(EXAMPLE).items() if len(content) >= 4_000_000}
