"""What a line of a message file must be, and what becomes of those that are not."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import read_records
from tests.hostile import QUICK
from training.records import Attachment, Record, from_line, records_with_places, to_line

ROW = {"source": "example", "thread_id": "mum", "from_me": False, "text": "home yet?"}
WORDS = st.text(st.characters(exclude_categories=["Cs"]))
TIMES = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))]))
RECORDS = st.builds(
    Record, source=WORDS, thread_id=WORDS.filter(bool), from_me=st.booleans(),
    thread_kind=st.sampled_from(["dm", "group"]),
    sender_id=st.none() | WORDS, sent_at=st.none() | TIMES, text=WORDS,
    kind=st.sampled_from(["text", "media", "reaction", "system", "deleted", "call"]), reply_to=st.none() | WORDS,
    flags=st.lists(WORDS), source_id=st.none() | WORDS, thread_name=st.none() | WORDS, sender_name=st.none() | WORDS,
    sent_local=st.none() | WORDS, order=st.integers(0, 2**63 - 1), parts=st.lists(WORDS),
    attachments=st.lists(st.builds(Attachment, st.none() | WORDS, st.none() | WORDS)),
)  # fmt: skip


def read(folder: Path, *lines: str | dict[str, Any]) -> list[Record | None]:
    path = folder / "messages.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return list(read_records(path))


def only(folder: Path, **fields: Any) -> Record | None:
    (found,) = read(folder, {**ROW, **fields})
    return found


def test_what_a_record_may_leave_out(tmp_path: Path) -> None:
    """Source, thread and who wrote it must be there; the rest has defaults."""
    expected = Record(source="example", thread_id="mum", from_me=False, text="home yet?")

    assert expected == only(tmp_path)
    assert ("dm", "text", None, []) == (expected.thread_kind, expected.kind, expected.sent_at, expected.flags)


@pytest.mark.parametrize("field", ["source", "thread_id", "from_me"])
def test_what_a_record_must_have(tmp_path: Path, field: str) -> None:
    """A line without one of these is no record."""
    assert [None] == read(tmp_path, {name: value for name, value in ROW.items() if name != field})


@pytest.mark.parametrize(
    "fields",
    [
        {"thread_id": ""},
        {"thread_id": 5},
        {"thread_kind": "channel"},
        {"from_me": None},
        {"from_me": 2},
        {"text": None},
        {"text": ["hi"]},
        {"text": "\ud83d"},
        {"kind": "photo"},
        {"flags": "otp"},
        {"sender_id": 14025550101},
        {"order": "first"},
        {"attachments": ["photo.jpg"]},
        {"parts": [None]},
    ],
    ids=ascii,
)
def test_values_that_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A value of another kind makes the line none."""
    assert only(tmp_path, **fields) is None


@pytest.mark.parametrize(
    ("sent_at", "moment"),
    [
        ("2026-01-03T18:20:00Z", datetime(2026, 1, 3, 18, 20, tzinfo=UTC)),
        ("2026-01-03T18:20:00.250Z", datetime(2026, 1, 3, 18, 20, 0, 250_000, tzinfo=UTC)),
        ("2026-01-03T18:20:00-05:00", datetime(2026, 1, 3, 18, 20, tzinfo=timezone(timedelta(hours=-5)))),
        (None, None),
    ],
)
def test_times_that_are_taken(tmp_path: Path, sent_at: str | None, moment: datetime | None) -> None:
    """A time is RFC 3339 with its zone, or unknown."""
    found = only(tmp_path, sent_at=sent_at)

    assert found is not None
    assert moment == found.sent_at


@pytest.mark.parametrize(
    "sent_at",
    [1767464400, 1767464400.5, True, "1767464400", "2026-01-03", "2026-01-03T18:20:00", "yesterday", ""],
    ids=ascii,
)
def test_times_that_are_refused(tmp_path: Path, sent_at: Any) -> None:
    """Seconds since 1970, a day, or a time without a zone is not guessed at."""
    assert only(tmp_path, sent_at=sent_at) is None


@pytest.mark.parametrize("line", ["not json", "[]", "null", '"text"', "{", "[" * 5000, '{"a":' * 5000, "5"])
def test_a_line_that_is_no_record_does_not_stop_the_reader(tmp_path: Path, line: str) -> None:
    """It is None, and the lines around it are read."""
    before, bad, after = read(tmp_path, ROW, line, ROW)

    assert bad is None
    assert [Record, Record] == [type(before), type(after)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps({**ROW, "kind": "my pin is 4711"}), "not a message record at `$.kind`"),
        (json.dumps({**ROW, "thread_kind": "4711"}), "not a message record at `$.thread_kind`"),
        (json.dumps({**ROW, "text": ["4711"]}), "not a message record at `$.text`"),
        (json.dumps({**ROW, "sent_at": "4711 - at `4711`"}), "not a message record at `$.sent_at`"),
        ("{}", "not a message record at the line"),
        ("my pin is 4711", "JSON is malformed"),
        ('{"text": "4711', "Input data was truncated"),
        (b'{"text": "4711\xff"}', ""),
    ],
    ids=ascii,
)
def test_an_error_does_not_repeat_the_message(line: str | bytes, message: str) -> None:
    """It says where, and nothing that a person wrote."""
    with pytest.raises(msgspec.DecodeError) as refused:
        from_line(line if isinstance(line, bytes) else line.encode())
    assert str(refused.value).startswith(message)
    assert "4711" not in str(refused.value)


def test_a_line_that_is_not_utf_8_is_no_record(tmp_path: Path) -> None:
    """The others are read."""
    path = tmp_path / "messages.jsonl"
    row = json.dumps(ROW).encode()
    path.write_bytes(row + b"\n" + row.replace(b"home", b"h\xf6me") + b"\n" + row)

    assert [True, False, True] == [record is not None for record in read_records(path)]


def test_empty_lines_are_nothing(tmp_path: Path) -> None:
    """A line of white space is neither a record nor an error."""
    assert 1 == len(read(tmp_path, "", ROW, "   ", ""))


def test_further_fields_are_ignored(tmp_path: Path) -> None:
    """Files of a later version can be read."""
    assert only(tmp_path) == only(tmp_path, mood="good")


def test_the_place_in_the_file_is_the_order(tmp_path: Path) -> None:
    """Records without an order of their own get their line's number; one that has it keeps it."""
    found = read(tmp_path, ROW, ROW, {**ROW, "order": 40})

    assert [0, 1, 40] == [record.order for record in found if record]


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path) -> None:
    """Files written on Windows begin with one."""
    path = tmp_path / "messages.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode())

    assert [Record] == [type(found) for found in read_records(path)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "mark"])
def test_a_record_stands_where_its_place_says(tmp_path: Path, mark: bytes) -> None:
    """Also behind a byte order mark, blank lines, ends of Windows and lines that are no records."""
    path = tmp_path / "messages.jsonl"
    row = json.dumps(ROW).encode()
    path.write_bytes(mark + row + b"\n\n  \nnot json\n" + row + b"\r\n" + row)
    found = list(records_with_places(path))
    data = path.read_bytes()

    assert [True, False, True, True] == [record is not None for _, _, record in found]
    assert all(data[offset : offset + len(line)] == line for offset, line, _ in found)


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "a\u2028b", "a\rb", "\x00", "👩‍👩‍👧", "ไทย"], ids=ascii)
def test_a_line_gives_back_what_was_written(text: str) -> None:
    """Whatever a message holds, it is one line, and comes back."""
    line = to_line(Record(source="example", thread_id="mum", from_me=False, text=text))

    assert (1, text) == (line.count(b"\n"), from_line(line).text)


@QUICK
@given(RECORDS)
def test_a_record_comes_back_whole(record: Record) -> None:
    """Every field of it."""
    assert record == from_line(to_line(record))


@pytest.mark.parametrize("field", ["text", "sender_name", "thread_id"])
def test_half_a_character_is_written_as_a_question_mark(field: str) -> None:
    """No UTF-8 file can hold it; the rest is as it was."""
    when = datetime(2026, 1, 3, tzinfo=UTC)
    row: dict[str, Any] = {"source": "example", "thread_id": "mum", "from_me": True, "sent_at": when, "parts": ["a"]}
    attached = [Attachment("image/png", "\udc00.png")]
    found = from_line(to_line(Record(**{**row, field: "Jo \ud83d"}, attachments=attached)))

    assert Record(**{**row, field: "Jo ?"}, attachments=[Attachment("image/png", "?.png")]) == found


def test_what_has_its_default_is_not_written() -> None:
    """Files stay small, and a row that lacks it reads the same."""
    line = to_line(Record(source="example", thread_id="mum", from_me=False, text="hi"))

    assert {"source": "example", "thread_id": "mum", "from_me": False, "text": "hi"} == json.loads(line)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is refused by its name, with what to do."""
    with pytest.raises(DataRefused, match="no file '.*messages.jsonl': import messages first") as refused:
        list(read_records(tmp_path / "messages.jsonl"))
    assert "no_such_file" == refused.value.code


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in the place of a file is refused."""
    with pytest.raises(DataRefused) as refused:
        list(read_records(tmp_path))
    assert "unreadable_file" == refused.value.code
