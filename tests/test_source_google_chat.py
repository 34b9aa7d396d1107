"""Google Chat exports: written dates, who is me, kinds of messages."""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import History, histories, imported, read
from tests.hostile import QUICK
from tests.writers.google_chat import ME, PEOPLE, message, put_group, put_owner, write, written
from training.records import Record
from training.sources import google_chat
from training.sources.export import Export
from training.sources.google_dates import _MONTHS, written_moment

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT.parent / "shared" / "fixtures" / "google_chat" / "chatlab_test_values.json"
AT = "Friday, May 29, 2026 at 3:00:29\u202fAM UTC"
MOMENT = datetime(2026, 5, 29, 3, 0, 29, tzinfo=UTC)


@QUICK
@given(histories())
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Who said what, where and when, to the letter; who is me stands in the export, in other letters."""
    with TemporaryDirectory() as name:
        records = imported("auto", write(history, Path(name)), Path(name))
    found = [(r.thread_id, r.thread_kind == "group", r.from_me, r.sender_id, r.sent_at, r.text) for r in records]
    threads = {
        said.thread: f"google-chat:Space {said.thread}"
        if said.thread in history.groups
        else f"p{said.thread + 1}@example.org"
        for said in history.said
    }

    assert sorted(found, key=lambda row: row[0]) == sorted(
        (
            (
                threads[s.thread],
                s.thread in history.groups,
                s.sender == 0,
                PEOPLE[s.sender]["email"].lower(),
                s.at,
                s.text,
            )
            for s in history.said
        ),
        key=lambda row: row[0],
    )


@QUICK
@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_an_american_date_is_read_back(at: datetime) -> None:
    """Midnight and noon are twelve o'clock."""
    assert written_moment(written(at)) == at.replace(microsecond=0)


@pytest.mark.parametrize(
    "text",
    [
        AT, "Friday, May 29, 2026 at 3:00:29 AM UTC", "Friday, 29 May 2026 at 03:00:29 UTC",
        "Freitag, 29. Mai 2026 um 03:00:29 UTC", "vendredi 29 mai 2026 à 03:00:29 UTC",
        "viernes, 29 de mayo de 2026, 3:00:29 UTC", "viernes, 29 de mayo de 2026, 3:00:29 a. m. UTC",
        "sexta-feira, 29 de maio de 2026 às 03:00:29 UTC", "venerdì 29 maggio 2026 alle ore 03:00:29 UTC",
        "vrijdag 29 mei 2026 om 03:00:29 UTC", "fredag den 29. maj 2026 kl. 03.00.29 UTC",
        "perjantai 29. toukokuuta 2026 klo 3.00.29 UTC", "piątek, 29 maja 2026 03:00:29 UTC",
        "2026. május 29., péntek 3:00:29 UTC", "29 Mayıs 2026 Cuma 03:00:29 UTC",
        "пятница, 29 мая 2026 г. в 03:00:29 UTC", "2026年5月29日星期五 UTC 03:00:29",
        "2026年5月29日金曜日 3時00分29秒 UTC", "2026년 5월 29일 금요일 오전 3시 0분 29초 UTC",
    ],
)  # fmt: skip
def test_a_date_in_the_words_of_an_account(text: str) -> None:
    """In each language that is known, all of one moment."""
    assert written_moment(text) == MOMENT


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "Friday, May 29, 2026 at 3:00:29 AM", "Friday, May 29, 2026 at 3:00:29 AM CET",
        "Friday, May 29, 2026 at 13:00:29 PM UTC", "Friday, Foo 29, 2026 at 3:00:29 AM UTC",
        "Friday, February 30, 2026 at 3:00:29 AM UTC", "29 Mayıs 2026 Cuma ÖS 03:00:29 UTC",
        "Παρασκευή 29 Μαΐου 2026 στις 3:00:29 μ.μ. UTC", "2026年13月29日星期五 UTC 03:00:29",
        "2026年5月29日星期五 UTC 25:00:29",
    ],
)  # fmt: skip
def test_a_date_that_is_not_surely_understood_is_none(text: str) -> None:
    """An unknown word could mean the afternoon."""
    assert written_moment(text) is None


def test_no_word_is_two_months() -> None:
    """Twelve to a language, and languages agree where they share one."""
    assert (_MONTHS["march"], _MONTHS["mars"], _MONTHS["listopadu"], _MONTHS["декабря"]) == (3, 3, 11, 12)
    assert sorted(set(_MONTHS.values())) == list(range(1, 13))


def dm(folder: Path, *messages: Any, members: list[dict[str, str]] | None = None) -> Path:
    """An export of mine with one direct conversation."""
    put_owner(folder / "T", ME)
    put_group(folder / "T", "DM a", [ME, PEOPLE[1]] if members is None else members, list(messages))
    return folder / "T"


def one(folder: Path, **more: Any) -> Record:
    """The record of one message of mine."""
    return imported("google-chat", dm(folder, message(ME, AT, **more)), folder)[0]


@pytest.mark.parametrize(
    ("more", "kind", "flags"),
    [
        ({"text": "hi"}, "text", []),
        ({"text": "hi", "updated_date": "later"}, "text", ["edited"]),
        ({"text": "hi", "updated_date": AT}, "text", []),
        ({"text": "hi", "annotations": [{"format_metadata": {}}]}, "text", []),
        ({"attached_files": [{"original_name": "a.png", "export_name": "File-a.png"}]}, "media", []),
        ({"annotations": [{"drive_metadata": {}}]}, "media", []),
        ({"text": "", "annotations": [{"video_call_metadata": {}}]}, "call", []),
        ({"text": "x", "annotations": [{"gsuite_integration_metadata": {"call_data": {}}}]}, "call", []),
        (
            {"text": "Created a task", "annotations": [{"gsuite_integration_metadata": {"tasks_data": {}}}]},
            "media",
            ["tasks"],
        ),
        ({"text": "x", "message_state": "DELETED"}, "deleted", []),
        ({"text": ["x"], "annotations": 7, "attached_files": "x"}, "media", []),
        ({}, "media", ["unavailable"]),
    ],
)
def test_the_kind_of_a_message(tmp_path: Path, more: dict[str, Any], kind: str, flags: list[str]) -> None:
    """Only what was typed is text."""
    record = one(tmp_path, **more)

    assert (record.kind, record.flags, bool(record.text)) == (kind, flags, kind == "text")


def test_a_quotation_is_an_answer_and_no_text(tmp_path: Path) -> None:
    """What is quoted is somebody's earlier message."""
    record = one(tmp_path, text="mine", message_id="2", quoted_message_metadata={"message_id": "1", "text": "theirs"})

    assert (record.text, record.source_id, record.reply_to) == ("mine", "2", "1")


def test_dates_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    """The messages stay, in the order of the file."""
    said = [message(ME, date, text=str(number)) for number, date in enumerate(["εχθές", AT, "demain"])]
    records, coverage = read("google-chat", dm(tmp_path, *said), tmp_path)

    assert [(r.text, r.sent_at) for r in records] == [("0", None), ("1", MOMENT), ("2", None)]
    assert [r.order for r in records] == sorted(r.order for r in records)
    assert [note for note in coverage.notes if note.startswith("2 messages")]


def test_a_deleted_message_names_nobody(tmp_path: Path) -> None:
    """It is known that there was one; anything else without a creator is not understood."""
    gone = {
        "message_state": "DELETED",
        "deleted_date": AT,
        "message_id": "1",
        "deletion_metadata": {"deletion_type": "CREATOR"},
    }
    records, coverage = read("google-chat", dm(tmp_path, gone, {"text": "x"}, 7, message(ME, AT, text="y")), tmp_path)

    assert [(r.kind, r.from_me, r.sender_id) for r in records] == [
        ("deleted", False, None),
        ("text", True, "mia@example.org"),
    ]
    assert coverage.not_understood == 2 and not coverage.notes


def test_without_an_owner_the_export_asks(tmp_path: Path) -> None:
    """It names everybody who is in a conversation."""
    put_group(tmp_path / "T", "DM a", [ME, PEOPLE[1]], [message(ME, AT, text="x")])
    with pytest.raises(DataRefused) as refused:
        imported("google-chat", tmp_path / "T", tmp_path)
    records = imported("google-chat", tmp_path / "T", tmp_path, "mia@example.org")

    assert refused.value.code == "who_is_me" and set(refused.value.details) == {ME["email"], PEOPLE[1]["email"]}
    assert [r.from_me for r in records] == [True]


def test_deleted_accounts_are_not_one_person(tmp_path: Path) -> None:
    """They have no address and one name; the members no longer name them."""
    gone = {"name": "Deleted User", "user_type": "Human"}
    put_owner(tmp_path / "T", ME)
    for place in ("DM a", "DM b"):
        put_group(tmp_path / "T", place, [ME], [message(gone, AT, text="x"), message(ME, AT, text="y")])
    records = imported("google-chat", tmp_path / "T", tmp_path)

    assert {r.thread_id for r in records} == {f"google-chat:Deleted User in DM {letter}" for letter in "ab"}
    assert {r.thread_kind for r in records} == {"dm"}


def test_several_people_are_a_group_whatever_the_folder_says(tmp_path: Path) -> None:
    """A direct conversation of three, and a bot, whose words are automatic."""
    bot = {"name": "Helper", "user_type": "Bot"}
    export = dm(tmp_path, message(ME, AT, text="x"), message(bot, AT, text="y"), members=PEOPLE[:3])
    records = imported("google-chat", export, tmp_path)

    assert [(r.thread_kind, r.thread_id, r.flags) for r in records] == [
        ("group", "google-chat:DM a", []), ("group", "google-chat:DM a", ["auto"]),
    ]  # fmt: skip


def test_one_address_with_two_names_is_one_person(tmp_path: Path) -> None:
    """Also where the file of members is missing."""
    renamed = {**PEOPLE[1], "name": "New Name"}
    export = dm(tmp_path, *(message(who, AT, text="x") for who in (ME, PEOPLE[1], renamed)), members=[])

    assert {r.thread_id for r in imported("google-chat", export, tmp_path)} == {"p1@example.org"}


def test_notes_to_myself_are_no_conversation(tmp_path: Path) -> None:
    """They are counted, not kept."""
    export = dm(tmp_path, message(ME, AT, text="milk"), members=[ME])
    put_group(export, "DM b", [ME, PEOPLE[1]], [message(ME, AT, text="x")])
    records, coverage = read("google-chat", export, tmp_path)

    assert ([r.text for r in records], coverage.skipped) == (["x"], {"self_chat": 1})


def test_two_downloads_of_one_conversation_are_joined(tmp_path: Path) -> None:
    """By the identifiers of their messages; a message without one is kept."""
    for folder, numbers in (("1", (1, 2)), ("2", (2, 3))):
        said = [message(ME, AT, text=str(n), message_id=str(n)) for n in numbers]
        put_group(tmp_path / "T" / folder, "DM a", [ME, PEOPLE[1]], [*said, message(ME, AT, text="no id")])
    put_owner(tmp_path / "T/1", ME)
    records, coverage = read("google-chat", tmp_path / "T", tmp_path)

    assert [r.text for r in records] == ["1", "2", "no id", "3", "no id"]
    assert coverage.skipped == {"duplicate": 1}


def test_a_damaged_file_does_not_stop_its_siblings(tmp_path: Path) -> None:
    """A byte order mark is no damage."""
    export = dm(tmp_path, message(ME, AT, text="a"), message(ME, AT, text="b"))
    put_group(export, "DM b", [ME, PEOPLE[2]], [message(ME, AT, text="c")])
    damaged, whole = (export / f"Google Chat/Groups/DM {letter}/messages.json" for letter in "ab")
    damaged.write_bytes(damaged.read_bytes()[:-30])
    whole.write_bytes(b"\xef\xbb\xbf" + whole.read_bytes())
    records, coverage = read("google-chat", export, tmp_path)

    assert [r.text for r in records] == ["a", "c"]
    assert coverage.not_understood == 1 and "DM a/messages.json" in coverage.where[0]


def test_foreign_messages_files_are_not_recognised(tmp_path: Path) -> None:
    """The name alone is not enough."""
    (tmp_path / "messages.json").write_text('{"messages": [{"sender_name": "Jo"}]}')

    assert not google_chat.recognises(Export(tmp_path))
    assert google_chat.recognises(Export(dm(tmp_path, message(ME, AT, text="x"))))


@pytest.mark.skipif(not FIXTURE.is_file(), reason="samples of others lie outside the repository")
def test_samples_of_others(tmp_path: Path) -> None:
    """The counts that their README gives."""
    values = json.loads(FIXTURE.read_text())
    put_owner(tmp_path / "T", values["user_info.json"]["user"])
    put_group(tmp_path / "T", "DM a", values["group_info.json"]["members"], values["messages.json"]["messages"])
    records, coverage = read("auto", tmp_path / "T", tmp_path)

    assert (coverage.source, coverage.kinds, coverage.mine) == ("google-chat", {"text": 2, "media": 1}, 1)
    assert {r.sent_at for r in records} == {MOMENT} and records[2].text == "Current reply"
