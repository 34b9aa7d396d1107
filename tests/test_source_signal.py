"""Signal: the export of its own apps, and the folders of the program signal-export."""

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given

from errors import DataRefused
from tests.histories import START, History, histories, imported, read
from tests.hostile import QUICK
from tests.writers.signal import (
    ACCOUNT,
    HEAD,
    SELF,
    account_id,
    chat,
    contact,
    group,
    item,
    said,
    sample,
    save,
    write,
    write_signal_export,
)
from training.history import Coverage
from training.records import Record
from training.sources import signal
from training.sources.export import Export
from training.sources.options import Options
from training.sources.outcome import Item, NotUnderstood, Skipped
from training.sources.registry import find

FIXTURES = Path(__file__).resolve().parents[1].parent / "shared" / "fixtures" / "signal"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="no fixtures beside the repository")

SENT = int(START.timestamp() * 1000)
MINE = item(1, 1, SENT, standardMessage=said("on my way"))
PEOPLE = [HEAD, ACCOUNT, SELF, contact(1), contact(2), group(1, "Rowing"), chat(1, 11), chat(2, 51)]


def records(folder: Path, *frames: dict[str, Any], me: Sequence[str] = ()) -> list[Record]:
    """The records of an export of *frames*, those that describe people first."""
    return read("signal", save([*PEOPLE, MINE, *frames], folder), folder, *me)[0][1:]


def report(folder: Path, *frames: dict[str, Any]) -> Coverage:
    return read("signal", save([*PEOPLE, MINE, *frames], folder), folder)[1]


def items(path: Path) -> list[Item]:
    return list(signal.read(Export(path), Options()))


@QUICK
@given(histories())
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Who said what, where and when, to the letter."""
    with TemporaryDirectory() as name:
        found = imported("signal", write(history, Path(name)), Path(name))

    assert [(r.thread_kind, r.from_me, r.sender_id, r.sent_at, r.text) for r in found] == [
        ("group" if s.thread in history.groups else "dm", s.sender == 0, f"+1402555010{s.sender}" if s.sender else None,
         s.at, s.text)
        for s in history.said
    ]  # fmt: skip
    assert [r.thread_name if r.thread_kind == "group" else r.thread_id for r in found] == [
        f"Group {s.thread}" if s.thread in history.groups else f"+1402555010{s.thread + 1}" for s in history.said
    ]


@QUICK
@given(histories().filter(lambda history: not any("`" in said.text for said in history.said)))  # it takes them out
def test_a_history_comes_back_from_signal_export(history: History) -> None:
    """Chats come in the order of their folders, each to the letter."""
    with TemporaryDirectory() as name:
        found = imported("auto", write_signal_export(history, Path(name)), Path(name))
    ordered = sorted(history.said, key=lambda s: (s.thread not in history.groups, s.thread))

    assert [(r.from_me, r.sender_name, r.sent_at, r.text) for r in found] == [
        (s.sender == 0, f"Person {s.sender}" if s.sender else "Me", s.at, s.text) for s in ordered
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"standardMessage": said("hi")}, ("text", "hi", [])),
        (
            {"standardMessage": said("hi", longText={"contentType": "text/x-signal-plain"})},
            ("text", "hi", ["truncated"]),
        ),
        ({"standardMessage": said("x" * 130_000)}, ("text", "x" * 130_000, [])),
        ({"standardMessage": {"longText": {}}, "sms": True}, None),
        ({"standardMessage": said("hi"), "sms": True}, ("text", "hi", ["sms"])),
        ({"standardMessage": {"attachments": [{"pointer": {"contentType": "image/png"}}]}}, ("media", "", [])),
        ({"standardMessage": {"attachments": [{"flag": "VOICE_MESSAGE", "pointer": {}}]}}, ("media", "", ["voice"])),
        ({"standardMessage": {"attachments": [{"pointer": {"caption": "us"}}]}}, ("text", "us", [])),
        ({"standardMessage": {"linkPreview": [{"url": "https://example.com"}]}}, ("media", "", [])),
        ({"standardMessage": said(" \n")}, None),
        ({"standardMessage": {"text": {"body": ["a", "list"]}}}, "its text is none"),
        ({"standardMessage": "a text"}, "its standardMessage is no object"),
        ({"directStoryReplyMessage": {"textReply": said("nice")}}, ("text", "nice", ["story_reply"])),
        ({"directStoryReplyMessage": {"emoji": "🎉"}}, ("reaction", "", ["story_reply"])),
        ({"directStoryReplyMessage": {}}, None),
        ({"contactMessage": {"contact": {}}}, ("media", "", ["contact"])),
        ({"stickerMessage": {"sticker": {"emoji": "👍"}}}, ("media", "", ["sticker"])),
        ({"paymentNotification": {"note": "for lunch"}}, ("media", "", ["payment"])),
        ({"giftBadge": {"state": "OPENED"}}, ("media", "", ["gift"])),
        ({"viewOnceMessage": {}}, ("media", "", ["view_once"])),
        ({"poll": {"question": "when?"}}, ("media", "", ["poll"])),
        ({"remoteDeletedMessage": {}}, ("deleted", "", [])),
        ({"adminDeletedMessage": {"adminId": "1"}}, ("deleted", "", [])),
        ({"updateMessage": {"profileChange": {}}, "directionless": {}}, ("system", "", [])),
        ({"updateMessage": {"groupCall": {}}, "directionless": {}}, ("call", "", [])),
        ({"standardMessage": said("hi"), "directionless": {}}, ("system", "", [])),
        ({}, None),
        ({"hologramMessage": {}}, "a kind of message that this version does not know"),
    ],
)
def test_each_kind_of_message_is_what_it_is(content: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    """A record; nothing, which is counted; or an entry not understood, which is named."""
    found = items(save([*PEOPLE, item(1, 11, SENT, **content)], tmp_path))[-1]

    if expected is None:
        assert found == Skipped("empty")
    elif isinstance(expected, str):
        assert isinstance(found, NotUnderstood) and found.where.endswith(f"main.jsonl line 9: {expected}")
    else:
        assert isinstance(found, Record) and (found.kind, found.text, found.flags) == expected


def test_an_edited_message_has_its_last_text_and_its_first_time(tmp_path: Path) -> None:
    """And an answer to any of its versions finds it."""
    first, second = (item(1, 11, SENT + n, standardMessage=said("helo"))["chatItem"] for n in (0, 1000))
    edited = item(1, 11, SENT + 9000, standardMessage=said("hello"), revisions=[first, second])
    answers = [
        item(1, 1, SENT + 10_000 + n, standardMessage=said("hi", quote=quote))
        for n, quote in enumerate({"targetSentTimestamp": str(SENT + at), "authorId": "11"} for at in (0, 1000, 9000))
    ]
    record, *replies = records(tmp_path, edited, *answers)

    assert (record.text, record.sent_at, record.flags) == ("hello", START, ["edited"])
    assert [reply.reply_to for reply in replies] == [record.source_id] * 3


@pytest.mark.parametrize(
    ("body", "ranges", "expected"),
    [
        ("hi \ufffc!", [{"start": 3, "length": 1, "mentionAci": account_id(2)}], "hi @Person 2!"),
        ("👍🏽 \ufffc", [{"start": 5, "length": 1, "mentionAci": account_id(2)}], "👍🏽 @Person 2"),
        ("\ufffc \ufffc", [{"length": 1, "mentionAci": account_id(2)}, {"start": 2, "length": 1, "mentionAci": "AA=="}],
         "@Person 2 @someone"),
        ("hi", [{"start": 2, "length": 1, "mentionAci": account_id(2)}], "hi"),
        ("hi", [{"start": "99999999999999999999", "length": 1, "mentionAci": account_id(2)}, None, 7], "hi"),
        ("so bold", [{"start": 3, "length": 4, "style": "BOLD"}], "so bold"),
    ],
)  # fmt: skip
def test_mentions_become_names(body: str, ranges: list[Any], expected: str, tmp_path: Path) -> None:
    """Places count UTF-16 units; those outside of the text are left alone."""
    (record,) = records(tmp_path, item(2, 11, SENT, standardMessage={"text": {"body": body, "bodyRanges": ranges}}))

    assert record.text == expected


@pytest.mark.parametrize(
    ("states", "flags"),
    [([{"failed": {}}, {"skipped": {}}], ["failed"]), ([{"failed": {}}, {"sent": {}}], []), ([], []), ([{}], [])],
)
def test_what_reached_nobody_is_marked(states: list[dict[str, Any]], flags: list[str], tmp_path: Path) -> None:
    """Failed or skipped for all is not sent."""
    (record,) = records(tmp_path, item(2, 1, SENT, outgoing={"sendStatus": states}, standardMessage=said("hi")))

    assert record.flags == flags


def test_the_owner_may_stand_at_the_end_of_the_file(tmp_path: Path) -> None:
    """So may everybody else."""
    found = items(save([HEAD, item(2, 1, SENT, directionless={}, updateMessage={}), *PEOPLE], tmp_path))

    assert [(r.from_me, r.thread_name) for r in found if isinstance(r, Record)] == [(True, "Rowing")]


@pytest.mark.parametrize(("me", "mine"), [((), [False]), (("Person 1",), [True]), (("+1 402 555 0101",), [True])])
def test_me_is_who_was_told_else_the_owner(me: Sequence[str], mine: list[bool], tmp_path: Path) -> None:
    """A name that no contact has is the owner's own, whose number the export does not tell."""
    frames = save([*PEOPLE, item(1, 11, SENT, standardMessage=said("hi"))], tmp_path)
    found = list(signal.read(Export(frames), Options(me=tuple(me))))

    assert [r.from_me for r in found if isinstance(r, Record)] == mine


def test_people_are_known_by_number_then_by_account(tmp_path: Path) -> None:
    """And shown by the name that the owner gave, the address book's, their own."""
    nameless = {"recipient": {"id": "20", "contact": {"aci": account_id(7)}}}
    broken = {"recipient": {"id": "21", "contact": {"aci": 5, "e164": "1", "username": ["x"]}}}
    named = contact(3, nickname={"given": "Bea"}, systemGivenName="Beatrix", systemFamilyName="Holm")
    frames = [nameless, broken, named, chat(5, 20), chat(6, 21), chat(7, 13)]
    said_by = [item(n, n + 15 if n < 7 else 13, SENT, standardMessage=said("hi")) for n in (5, 6, 7)]
    found = records(tmp_path, *frames, *said_by)

    assert [(r.thread_id, r.thread_name) for r in found] == [
        ("signal:07070707-0707-0707-0707-070707070707", None), ("signal:recipient 21", None), ("+14025550103", "Bea"),
    ]  # fmt: skip
    assert [r.sender_id for r in found] == [r.thread_id for r in found]


def test_a_group_has_the_same_id_in_every_export(tmp_path: Path) -> None:
    """Though it is called otherwise and counted otherwise; its key is told to nobody."""
    moved = {"recipient": {**group(1, "Rowers")["recipient"], "id": "99"}}
    (one,) = records(tmp_path / "one", item(2, 11, SENT, standardMessage=said("hi")))
    (two,) = records(tmp_path / "two", moved, chat(8, 99), item(8, 11, SENT, standardMessage=said("hi")))

    assert one.thread_id == two.thread_id and "AQEB" not in one.thread_id


def test_what_nobody_says_to_anybody_is_counted(tmp_path: Path) -> None:
    """Notes to oneself, Signal's own news, calls by link; reactions are no messages."""
    coverage = report(
        tmp_path, {"recipient": {"id": "2", "releaseNotes": {}}}, chat(3, 1), chat(4, 2),
        {"adHocCall": {"callId": "1"}}, {}, {"stickerPack": {}}, {"chatFolder": {}},
        item(3, 1, SENT, standardMessage=said("milk")), item(4, 2, SENT, standardMessage=said("What is new")),
        item(1, 11, SENT, standardMessage=said("ok", reactions=[{"emoji": "👍", "authorId": "1"}])),
    )  # fmt: skip

    assert coverage.skipped == Counter(self_chat=1, channel=1, call_link=1)
    assert (coverage.kept, coverage.not_understood) == (2, 0)


def test_lines_that_are_no_frames_are_named_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    """A cut last line, a list, a chat that is not there."""
    path = save([*PEOPLE, MINE, item(77, 1, SENT, standardMessage=said("hi")), {"chatItem": []}], tmp_path)
    with next(path.rglob("main.jsonl")).open("a") as file:
        file.write('[1]\n{"chatItem": {"chatI')
    coverage = read("signal", path, tmp_path)[1]

    assert coverage.kept == 1
    assert [where.partition("main.jsonl ")[2] for where in coverage.where] == [
        "line 10: of a chat that the file does not describe", "line 11: its chatItem is no object",
        "line 12: not a JSON object", "line 13: not a JSON object",
    ]  # fmt: skip


@pytest.mark.parametrize("sent", ["0", None, "-5", "9" * 30, 1.5, True, "12e3"])
def test_a_time_that_is_none_is_unknown(sent: Any, tmp_path: Path) -> None:
    """The message stays."""
    frame = item(1, 11, 0, standardMessage=said("hi"))
    frame["chatItem"]["dateSent"] = sent

    assert [r.sent_at for r in records(tmp_path, frame)] == [None]


def test_conversations_with_holes_are_told(tmp_path: Path) -> None:
    """Messages that disappear are never exported."""
    timer = {"chat": {**chat(3, 12)["chat"], "expirationTimerMs": "86400000"}}

    assert report(tmp_path, timer).notes == [
        "messages disappear in 1 of the conversations: Signal does not export those"
    ]


def test_exports_of_two_days_in_one_folder_count_once(tmp_path: Path) -> None:
    """The same file twice, one of them zipped, as found by name."""
    path = save([*PEOPLE, MINE, item(1, 11, SENT, standardMessage=said("ok"))], tmp_path)
    main = next(path.rglob("main.jsonl"))
    with zipfile.ZipFile(path / "older.zip", "w") as archive:
        archive.write(main, "signal-export-2025/signal-backup-2025/main.jsonl")
    coverage = read("auto", path, tmp_path)[1]

    assert (coverage.kept, coverage.skipped) == (2, Counter(duplicate=2))


def test_the_sample_is_whole(tmp_path: Path) -> None:
    """It has some of everything, all of it understood, as folder, zip or file."""
    folder = sample(tmp_path).path
    main = next(folder.rglob("main.jsonl"))
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(main, "backup/main.jsonl")
    kinds = [read("auto", path, tmp_path)[1].kinds for path in (folder, main, tmp_path / "export.zip")]

    expected = Counter(text=7, media=3, system=1, call=1, deleted=1, reaction=1)
    assert kinds == [expected] * 3


def save_rows(folder: Path, chat_name: str, *rows: dict[str, Any]) -> Path:
    """A chat as signal-export writes it; each row completed by what they all have."""
    place = folder / "chats" / chat_name
    place.mkdir(parents=True)
    full = [
        {"date": "2024-05-01T18:30:00", "sender": "Me", "body": "  ", "quote": "", "sticker": None, **row}
        for row in rows
    ]
    (place / "data.json").write_text("".join(json.dumps(row) + "\n" for row in full))
    return folder / "chats"


def test_rows_of_signal_export_are_what_they_say(tmp_path: Path) -> None:
    """Deleted, calls, stickers, attachments, and nothing at all."""
    path = save_rows(
        tmp_path, "Ilo Varga",
        {"body": "two spaces  \nand two  "}, {"sender": "Ilo Varga", "body": "gone  ", "deleted": True},
        {"body": "Missed voice call  ", "call": True, "missed": True}, {"sticker": {"emoji": "👍"}},
        {"attachments": [{"name": "boat.jpg", "path": "media/boat.jpg"}]}, {}, {"sender": "No-Sender", "body": "hm  "},
        {"date": "1970-01-01T01:00:00", "body": "when?  "}, {"sender": 5}, {"date": 7, "body": "x  "},
    )  # fmt: skip
    found, coverage = read("auto", path, tmp_path)

    assert [(r.kind, r.text, r.flags) for r in found] == [
        ("text", "two spaces  \nand two", []), ("deleted", "", []), ("call", "", []), ("media", "", ["sticker"]),
        ("media", "", []), ("text", "hm", []), ("text", "when?", []), ("text", "x", []),
    ]  # fmt: skip
    assert [r.sent_at is None for r in found] == [False] * 6 + [True] * 2
    assert {(r.thread_id, r.thread_kind) for r in found} == {("signal:Ilo Varga", "dm")}
    assert coverage.skipped == Counter(empty=1) and coverage.where == [
        "Ilo Varga/data.json line 9: not a message of signal-export"
    ]


def test_a_folder_of_several_people_is_a_group_and_notes_to_oneself_are_none(tmp_path: Path) -> None:
    """The name of the folder is all that signal-export tells of the chat."""
    save_rows(tmp_path, "Rowing", {"body": "hi  "}, {"sender": "Ilo Varga", "body": "hey  "})
    path = save_rows(tmp_path, "Note to Self", {"body": "milk  "})
    found, coverage = read("signal", path, tmp_path)

    assert {(r.thread_id, r.thread_kind) for r in found} == {("group:Rowing", "group")}
    assert coverage.skipped == Counter(self_chat=1)


def test_what_sigtop_writes_is_refused_with_advice(tmp_path: Path) -> None:
    """It has no text."""
    (tmp_path / "Ilo.json").write_text('[\n{"conversationId":"a","sent_at":1700000000000,"type":"incoming"}\n]\n')

    assert find("auto", Export(tmp_path))[0] == "signal"
    with pytest.raises(DataRefused, match="Signal itself") as refused:
        read("signal", tmp_path, tmp_path)
    assert refused.value.code == "no_text"


@needs_fixtures
def test_all_cases_of_the_backup_tests_are_understood() -> None:
    """138 chat items; none is lost, and each is of the kind that its case says."""
    found = [item for path in sorted(FIXTURES.glob("plaintext_export/*")) for item in items(path)]
    kinds = Counter(item.kind if isinstance(item, Record) else item for item in found)

    assert len(list(FIXTURES.glob("plaintext_export/*"))) == 142
    assert sum(isinstance(item, (Record, Skipped, NotUnderstood)) for item in found) == 138
    assert not [item for item in found if isinstance(item, NotUnderstood)]
    assert (kinds["system"], kinds["call"], kinds["deleted"]) == (29, 8, 7)


@needs_fixtures
@pytest.mark.parametrize(
    ("case", "flags"),
    [*((f"text_only_0{n}", []) for n in range(4)), *((f"with_edits_0{n}", ["edited"]) for n in range(2))],
)
def test_a_case_of_one_text_gives_one_text(case: str, flags: list[str]) -> None:
    """Earlier versions of an edited message are no messages."""
    found = items(FIXTURES / "plaintext_export" / f"chat_item_standard_message_{case}")

    assert [(r.kind, r.flags) for r in found if isinstance(r, Record)] == [("text", flags)]


@needs_fixtures
@pytest.mark.parametrize("number", [0, 2])
def test_long_inline_bodies_are_whole(number: int) -> None:
    """Some 130,000 characters that are not cut."""
    (record,) = items(FIXTURES / "plaintext_export" / f"chat_item_standard_message_long_text_0{number}")

    assert isinstance(record, Record) and len(record.text) > 100_000 and "truncated" not in record.flags


@needs_fixtures
def test_files_without_messages_have_none() -> None:
    """Recipients, chats and the official file."""
    paths = [
        FIXTURES / "libsignal" / "canonical-backup.takeout-export.expected.jsonl",
        *FIXTURES.glob("plaintext_export/recipient_*"),
        *FIXTURES.glob("plaintext_export/chat_0*"),
    ]
    assert len(paths) == 17
    for path in paths:
        assert signal.recognises(Export(path))
        assert [item for item in items(path) if isinstance(item, (Record, NotUnderstood))] == []
