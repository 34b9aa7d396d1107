"""Telegram Desktop's JSON export: of an account, of single chats, and of versions that wrote what is no JSON."""

import json
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import History, histories, imported, read, read_records
from tests.hostile import QUICK
from tests.writers.telegram import ME, account, as_telegram, backwards, message, sample, service, write
from training.records import Record
from training.sources import telegram
from training.sources.export import Export
from training.sources.options import Options
from training.sources.outcome import Item, NotUnderstood, Skipped
from training.sources.telegram_repair import repaired

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT.parent / "shared" / "fixtures" / "telegram"
EXAMPLE = ROOT / "data" / "example"


@QUICK
@given(histories(), st.sampled_from(["account", "backwards", "chats"]))
def test_a_history_comes_back_as_it_was_written(history: History, layout: str) -> None:
    """Who said what, where and when, to the letter, chat by chat, whatever the order of the keys."""
    with TemporaryDirectory() as name:
        me = [f"user{ME}"] if layout == "chats" else []  # one group alone does not say
        records = imported("telegram", write(history, Path(name), layout), Path(name), *me)
    found = [(r.thread_id, r.thread_kind, r.sender_id, r.from_me, r.sent_at, r.text) for r in records]

    assert found == [
        (
            f"telegram:channel{900 + said.thread}" if is_group else f"telegram:user{ME + said.thread + 1}",
            "group" if is_group else "dm",
            f"telegram:user{ME + said.sender}",
            said.sender == 0,
            said.at,
            said.text,
        )
        for said in sorted(history.said, key=lambda said: said.thread)
        for is_group in [said.thread in history.groups]
    ]


def _items(folder: Path, export: Any, *me: str, zone: timezone = UTC) -> list[Item]:
    """What is read of *export*: an object, or text as it stands in the file."""
    path = folder / "result.json"
    text = export if isinstance(export, str) else json.dumps(export)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return list(telegram.read(Export(path), Options(me=me, zone=zone)))


def _chat(*rows: Any, kind: str | None = "personal_chat", number: Any = 101, **fields: Any) -> dict[str, Any]:
    return {"name": "Person 1", "type": kind, "id": number, "messages": list(rows), **fields}


def _one(folder: Path, **fields: Any) -> Record:
    """The record of one message of mine with these fields."""
    item = _items(folder, account([_chat(message(1, 0, **fields))]))[0]
    assert isinstance(item, Record)
    return item


LINK = {"type": "link", "text": "https://example.com"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        (["a", {"type": "bold", "text": "b"}, "c"], "abc"),
        ([LINK, " see"], "https://example.com see"),
        ([{"type": "custom_emoji", "text": "😮", "document_id": "x"}, ""], "😮"),
        ("", ""),
        ([], ""),
        ("  \n", ""),
    ],
)
def test_pieces_of_text_are_joined_with_nothing_between_them(tmp_path: Path, text: Any, expected: str) -> None:
    """A space would change what was written."""
    assert _one(tmp_path, text=text).text == expected


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"text": "a"}, []),
        ({"text": [LINK]}, ["link_only"]),
        ({"text": [LINK, " "]}, ["link_only"]),
        ({"text": [LINK, " see"]}, []),
        ({"text": [{"type": "phone", "text": "555 0101"}]}, []),
        ({"text": [{"type": "text_link", "text": "here", "href": "https://example.com"}]}, []),
        ({"text": "a", "forwarded_from": "Person 2"}, ["forwarded"]),
        ({"text": "a", "forwarded_from": None}, ["forwarded"]),
        ({"text": "a", "saved_from": "Person 2"}, ["forwarded"]),
        ({"text": "a", "via_bot": "@gif"}, ["auto"]),
        ({"text": "a", "edited": "2024-03-10T11:00:00", "edited_unixtime": "1710068400"}, ["edited"]),
        ({"text": "a", "edited": "1970-01-01T01:00:00"}, []),
        ({"text": "a", "edited": "2024-03-10T11:00:00", "reactions": [{"type": "emoji", "count": 1}]}, []),
        ({"media_type": "sticker", "file": "stickers/a.webp"}, ["sticker"]),
        ({"poll": {"question": "when", "answers": []}}, ["poll"]),
    ],
)
def test_flags_are_what_the_export_says(tmp_path: Path, fields: dict[str, Any], flags: list[str]) -> None:
    """And only that: what a text means is judged elsewhere."""
    assert _one(tmp_path, **fields).flags == flags


NOT_INCLUDED = "(File not included. Change data exporting settings to download.)"


@pytest.mark.parametrize(
    ("fields", "mime", "name"),
    [
        ({"photo": NOT_INCLUDED}, "image/jpeg", None),
        ({"photo": "photos/photo_1.jpg"}, "image/jpeg", "photo_1.jpg"),
        ({"file": "(File unavailable, please try again later)", "mime_type": "audio/ogg"}, "audio/ogg", None),
        ({"file": "files/a (2).pdf", "file_name": "a.pdf", "mime_type": "application/pdf"}, "application/pdf", "a.pdf"),
        ({"file": f"clip.mp4 {NOT_INCLUDED}"}, None, "clip.mp4"),
        ({"contact_information": {"first_name": "B"}, "contact_vcard": "contacts/c.vcard"}, "text/vcard", "c.vcard"),
    ],
)
def test_what_is_attached_is_named_and_placeholders_are_no_text(
    tmp_path: Path, fields: dict[str, Any], mime: str | None, name: str | None
) -> None:
    """Whether the file was exported or not."""
    record = _one(tmp_path, **fields)

    assert (record.kind, record.text, record.attachments[0].mime, record.attachments[0].name) == (
        "media",
        "",
        mime,
        name,
    )


def test_a_caption_is_text(tmp_path: Path) -> None:
    """With its photo."""
    record = _one(tmp_path, text="look", photo=NOT_INCLUDED)

    assert (record.kind, record.text, len(record.attachments)) == ("text", "look", 1)


@pytest.mark.parametrize(
    ("fields", "expected", "local"),
    [
        ({}, datetime(2024, 3, 10, 10, 1, tzinfo=UTC), "2024-03-10T10:01:00"),
        ({"date": None}, datetime(2024, 3, 10, 10, 1, tzinfo=UTC), None),
        ({"date_unixtime": 1710064860}, datetime(2024, 3, 10, 10, 1, tzinfo=UTC), "2024-03-10T10:01:00"),
        ({"date_unixtime": None}, datetime(2024, 3, 10, 8, 1, tzinfo=UTC), "2024-03-10T10:01:00"),
        ({"date_unixtime": "9" * 18}, datetime(2024, 3, 10, 8, 1, tzinfo=UTC), "2024-03-10T10:01:00"),
    ],
)
def test_the_time_is_the_number_or_else_the_local_time(
    tmp_path: Path, fields: dict[str, Any], expected: datetime, local: str | None
) -> None:
    """Old exports have no number; the user says where the phone was."""
    export = account([_chat(message(1, text="a", **fields))])
    (record,) = _items(tmp_path, export, zone=timezone(timedelta(hours=2)))

    assert isinstance(record, Record)
    assert (record.sent_at, record.sent_local) == (expected, local)


@pytest.mark.parametrize(
    "row",
    [
        message(1, text="a", date="invalid", date_unixtime="invalid"),
        message(1, text="a", date="0001-01-01T00:00:00", date_unixtime=[]),
        message(1, text=7),
        message(1, text=["a", 7], text_entities=None),
        {**message(1, text="a"), "from": None, "from_id": None},
        {**message(1, text="a"), "type": "whatever"},
        "a",
        None,
        [],
    ],
)
def test_a_row_that_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path, row: Any) -> None:
    """It is named by its place."""
    zone = timezone(timedelta(hours=2))
    first, second = _items(tmp_path, account([_chat(row, message(2, text="b"))]), zone=zone)

    assert isinstance(first, NotUnderstood) and first.where.startswith("result.json#1, message 1: ")
    assert isinstance(second, Record) and second.text == "b"


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ({"kind": "saved_messages", "number": ME}, "self_chat"),
        ({"kind": "personal_chat", "number": ME}, "self_chat"),
        ({"kind": "bot_chat"}, "bot"),
        ({"kind": "private_channel"}, "channel"),
        ({"kind": "public_channel"}, "channel"),
        ({"kind": "replies"}, "channel"),
        ({"number": 777000}, "business"),
    ],
)
def test_what_is_no_conversation_is_skipped(tmp_path: Path, chat: dict[str, Any], reason: str) -> None:
    """For a reason that is counted."""
    assert _items(tmp_path, account([_chat(message(1, 0, text="a"), **chat)])) == [Skipped(reason)]


def test_rows_of_the_service_are_kept_without_words(tmp_path: Path) -> None:
    """Calls as calls; what Telegram itself cannot show is skipped."""
    rows = [
        service(1, "phone_call"),
        service(2, "joined_telegram"),
        {**service(3, "send_webview_data"), "text": "a button", "actor": None, "actor_id": None},
        {"id": 4, "type": "unsupported"},
    ]
    call, joined, button, unsupported = _items(tmp_path, account([_chat(*rows)]))

    assert unsupported == Skipped("unsupported")
    assert isinstance(call, Record) and isinstance(joined, Record) and isinstance(button, Record)
    assert [(r.kind, r.text, r.sender_id) for r in (call, joined, button)] == [
        ("call", "", "telegram:user101"),
        ("system", "", "telegram:user101"),
        ("system", "", None),
    ]


def test_answers_point_to_the_message_of_the_same_chat_or_of_the_one_named(tmp_path: Path) -> None:
    """An id alone means nothing in another chat; 0 is none."""
    rows = [
        message(1, text="a"),
        message(2, text="b", reply_to_message_id=1),
        message(3, text="c", reply_to_message_id=1, reply_to_peer_id="channel7"),
        message(4, text="d", reply_to_message_id=0),
    ]
    records = [item for item in _items(tmp_path, account([_chat(*rows)])) if isinstance(item, Record)]

    assert [(r.source_id, r.reply_to) for r in records] == [
        ("user101:1", None),
        ("user101:2", "user101:1"),
        ("user101:3", "channel7:1"),
        ("user101:4", None),
    ]


def test_account_ids_written_as_numbers_are_those_of_today(tmp_path: Path) -> None:
    """Before 2021 the kind of an account stood in the upper half of a number."""
    old = [{**message(n, text="a"), "from_id": (1 << 32) + ME + n} for n in (0, 1)]
    export = _chat(*old, number=(1 << 32) + 101)

    found = [(r.thread_id, r.sender_id, r.from_me) for r in _items(tmp_path, export) if isinstance(r, Record)]
    assert found == [
        ("telegram:user101", "telegram:user100", True),
        ("telegram:user101", "telegram:user101", False),
    ]


TWO = [message(1, 0, text="a"), message(2, text="b")]


@pytest.mark.parametrize(
    "export",
    [
        _chat(*TWO),  # the number of a personal chat is the other person's
        {"chats": {"list": [_chat(*TWO)]}},  # an account exported without its personal information
        {"chats": {"list": [_chat(*TWO, kind="private_group", number=5), _chat(*TWO)]}},
        {"chats": {"list": [_chat(*TWO, number=7), {"type": "saved_messages", "id": ME, "messages": []}]}},
        {"chats": {"list": []}, "left_chats": {"list": [_chat(*TWO)]}, "personal_information": {"user_id": ME}},
        backwards(account([_chat(*TWO)])),
    ],
)
def test_the_export_says_who_i_am(tmp_path: Path, export: dict[str, Any]) -> None:
    """By its personal information, its saved messages, or the chats with others."""
    records = [item for item in _items(tmp_path, export) if isinstance(item, Record)]

    assert {r.sender_id for r in records if r.from_me} == {f"telegram:user{ME}"}


@pytest.mark.parametrize(
    ("export", "candidates"),
    [
        (_chat(*TWO, number=7), ["Person 0", "Person 1"]),
        (_chat(*TWO, kind="private_group"), ["Person 0", "Person 1"]),
        (_chat(message(1, text="b")), ["(the export names nobody)"]),
        (_chat({**message(1, 3, text="b"), "from": None}, kind="private_group"), ["user103"]),
        (_chat(*({**row, "from": "Jo"} for row in TWO), kind="private_group"), ["user100", "user101"]),
    ],
)
def test_the_user_is_asked_where_the_export_cannot_decide(
    tmp_path: Path, export: dict[str, Any], candidates: list[str]
) -> None:
    """With those to choose from: never guessed."""
    with pytest.raises(DataRefused) as refused:
        _items(tmp_path, export)

    assert (refused.value.code, sorted(refused.value.details)) == ("who_is_me", candidates)


@pytest.mark.parametrize("me", ["Person 1", "user101", "101", "telegram:user101"])
def test_what_the_user_says_wins(tmp_path: Path, me: str) -> None:
    """Even over the export."""
    records = [item for item in _items(tmp_path, account([_chat(*TWO, number=7)]), me) if isinstance(item, Record)]

    assert [r.from_me for r in records] == [False, True]


@pytest.mark.parametrize("me", ["+1 402 555 0100", "person0", "@person0", "Person 0"])
def test_the_owner_can_be_named_by_what_the_export_says_of_them(tmp_path: Path, me: str) -> None:
    """Number or user name, which no message carries."""
    rows = [{**message(1, 0, text="a"), "from": "🌵"}, message(2, text="b")]
    records = [item for item in _items(tmp_path, account([_chat(*rows)]), me) if isinstance(item, Record)]

    assert [r.from_me for r in records] == [True, False]


def test_a_chat_without_number_and_kind_is_read(tmp_path: Path) -> None:
    """People are known by name then."""
    rows = [{"type": "message", "date_unixtime": "1710064800", "from": name, "text": name} for name in ("Ana", "Ben")]
    records = [r for r in _items(tmp_path, {"chats": {"list": [{"messages": rows}]}}, "Ana") if isinstance(r, Record)]

    assert [(r.thread_id, r.thread_kind, r.sender_id, r.from_me) for r in records] == [
        ("telegram:result.json#1", "dm", "telegram:Ana", True),
        ("telegram:result.json#1", "dm", "telegram:Ben", False),
    ]


def test_overlapping_exports_give_each_message_once(tmp_path: Path) -> None:
    """In a zip of several; within a file an id stands once."""
    path = tmp_path / "exports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ChatExport_1/result.json", json.dumps(_chat(*TWO)))
        archive.writestr("ChatExport_2/result.json", json.dumps(_chat(*TWO, message(3, text="c"))))
        archive.writestr("ChatExport_2/photos/photo_1.jpg", b"\xff\xd8")
    records, coverage = read("auto", path, tmp_path)

    assert ([r.text for r in records], coverage.skipped) == (["a", "b", "c"], Counter(duplicate=2))


def test_a_truncated_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """And its groups that were left as well, where the damage is behind them."""
    export = account([_chat(*TWO)]) | {"left_chats": {"list": [_chat(*TWO, kind="private_group", number=5)]}}
    text = as_telegram(export)
    items = _items(tmp_path, text[: text.rindex('"text": "b"')])

    assert [item.text for item in items if isinstance(item, Record)] == ["a", "b", "a"]
    assert isinstance(items[-1], NotUnderstood) and "not whole JSON" in items[-1].where


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (r'"\x01\x1F"', "\x01\x1f"),
        (r'"\\x01"', "\\x01"),
        (r'"\\\x01"', "\\\x01"),
        (r'"\u0041\n\"\\"', 'A\n"\\'),
        ('{"document_id": video_files/sticker (2).webm\n}', {"document_id": "video_files/sticker (2).webm"}),
        ('{"document_id": a "b" \\c,\n"d": 1}', {"document_id": 'a "b" \\c', "d": 1}),
        ('{"document_id": 1.webm\r\n}', {"document_id": "1.webm"}),
        ('{"document_id": "a",\n"b": 1}', {"document_id": "a", "b": 1}),
        ('{"document_id": -15,\n"b": null}', {"document_id": -15, "b": None}),
        ('{"document_id": null\n}', {"document_id": None}),
        ('{"a": "\\"document_id\\": b\\n"\n}', {"a": '"document_id": b\n'}),
        ('"\udcff"', "\ufffd"),
        ('"é😮"', "é😮"),
    ],
)
def test_what_is_no_json_is_repaired_and_what_is_stays(written: str, expected: Any) -> None:
    """Wherever the file is cut into pieces."""
    data = written.encode(errors="surrogateescape")
    before = b"\n" if b"document_id" in data else b""  # always on a line of its own
    for padding in [0, *range((1 << 16) - len(data) - 4, 1 << 16)]:
        mended = repaired(BytesIO(b" " * padding + before + data)).read()
        assert json.loads(mended[padding:]) == expected


def test_a_byte_order_mark_is_taken_off() -> None:
    """At the beginning only."""
    assert repaired(BytesIO("\ufeff[\ufeff]".encode())).read() == "[\ufeff]".encode()


@QUICK
@given(st.binary() | st.lists(st.sampled_from([b"\\", b"x", b"0", b"\n", b'"document_id":', b" ", b"1"])).map(b"".join))
def test_repairing_ends_on_any_bytes(data: bytes) -> None:
    """With all of them read."""
    assert len(repaired(BytesIO(data * 2000)).read()) >= len(data) // 4


def test_the_sample_holds_what_it_says(tmp_path: Path) -> None:
    """With both faults of old versions in one file."""
    records, coverage = read("auto", sample(tmp_path).path, tmp_path)

    assert coverage.source == "telegram" and coverage.not_understood == 0
    assert coverage.kinds == Counter(text=12, media=4, system=1, call=1)
    assert coverage.skipped == Counter(unsupported=1, self_chat=1)
    assert records[1].text == "did you eat\n\tyet? \x01"


def test_the_html_export_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """It does not hold what is needed."""
    (tmp_path / "messages.html").write_text("<html>")

    with pytest.raises(DataRefused, match="machine-readable JSON"):
        list(telegram.read(Export(tmp_path), Options()))


def test_the_example_history_comes_back_from_its_export(tmp_path: Path) -> None:
    """All but the reactions, which that export leaves out; groups have one line of the service in addition."""
    records, coverage = read("auto", EXAMPLE / "exports" / "telegram" / "result.json", tmp_path)
    written = [r for r in read_records(EXAMPLE / "messages.jsonl") if r is not None and r.kind != "reaction"]
    groups = {r.thread_id: "telegram:chat5550157" for r in written if r.thread_kind == "group"}
    others = {r.thread_id: _account(r) for r in written if not r.from_me and r.thread_kind == "dm"}

    def facts(r: Record, thread_id: str, sender_id: str) -> tuple[Any, ...]:
        return thread_id, r.thread_kind, r.thread_name, sender_id, r.sender_name, r.from_me, r.sent_at, r.kind, r.text

    expected = [facts(r, (groups | others)[r.thread_id], _account(r)) for r in written]
    found = [facts(r, r.thread_id, r.sender_id or "") for r in records if r.kind != "system"]
    assert coverage.source == "telegram" and coverage.not_understood == 0 and not coverage.notes
    assert coverage.kinds["system"] == 1
    assert Counter(found) == Counter(expected)


def _account(record: Record) -> str:
    """What the example's export calls who wrote *record*."""
    return f"telegram:user{(record.sender_id or '')[-7:]}"


@pytest.mark.skipif(not SAMPLES.exists(), reason="others' samples are not part of the repository")
@pytest.mark.parametrize(
    ("file", "me", "kinds", "mine", "not_understood"),
    [
        ("chat-analytics/DM_2A_7M.json", [], {"text": 4, "media": 2, "system": 1, "call": 1}, 5, 0),
        ("chat-miner/test_batch_export.json", ["Author 1"], {"text": 2}, 1, 0),
        ("langchain-community/telegram.json", ["Henry"], {"text": 3}, 2, 0),
        ("issue_snippets/chatlab_single.json", ["Bob"], {"text": 2, "system": 1}, 2, 1),
        ("issue_snippets/invalid_x_escape.json", ["A"], {"text": 1}, 1, 0),
        ("issue_snippets/unquoted_document_id.json", ["hidden"], {"text": 1}, 1, 0),
    ],
)
def test_public_samples_have_the_counts_they_should(
    tmp_path: Path, file: str, me: list[str], kinds: dict[str, int], mine: int, not_understood: int
) -> None:
    """As their description says."""
    coverage = read("telegram", SAMPLES / file, tmp_path, *me)[1]

    assert (dict(coverage.kinds), coverage.mine, coverage.not_understood) == (kinds, mine, not_understood)
    assert telegram.recognises(Export(SAMPLES / file))


@pytest.mark.skipif(not SAMPLES.exists(), reason="others' samples are not part of the repository")
def test_public_samples_that_do_not_say_who_is_me_are_asked_about(tmp_path: Path) -> None:
    """Neither participant is the chat."""
    with pytest.raises(DataRefused) as refused:
        read("telegram", SAMPLES / "langchain-community" / "telegram.json", tmp_path)

    assert refused.value.code == "who_is_me" and len(refused.value.details) == 2
