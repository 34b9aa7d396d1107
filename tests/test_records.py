"""What a line of a message file must be, and what becomes of those that are not."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from errors import DataRefused
from training.records import Record, read_records, write_line

ROW = {"source": "example", "thread_id": "mum", "from_me": False, "text": "home yet?"}


def read(folder: Path, *lines: str | dict[str, Any]) -> list[Record | ValidationError]:
    path = folder / "messages.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return list(read_records(path))


def only(folder: Path, **fields: Any) -> Record | ValidationError:
    (found,) = read(folder, {**ROW, **fields})
    return found


def test_what_a_record_may_leave_out(tmp_path: Path) -> None:
    """Source, thread and who wrote it must be there; the rest has defaults."""
    expected = Record(source="example", thread_id="mum", from_me=False, text="home yet?")

    assert expected == only(tmp_path)
    assert ("dm", "text", None, []) == (expected.thread_kind, expected.kind, expected.sent_at, expected.flags)


@pytest.mark.parametrize("field", ["source", "thread_id", "from_me"])
def test_what_a_record_must_have(tmp_path: Path, field: str) -> None:
    """A line without one of these is an error, not a record."""
    (found,) = read(tmp_path, {name: value for name, value in ROW.items() if name != field})

    assert isinstance(found, ValidationError)


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
    ],
    ids=ascii,
)
def test_values_that_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A value of another kind makes the line an error."""
    assert isinstance(only(tmp_path, **fields), ValidationError)


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

    assert isinstance(found, Record)
    assert moment == found.sent_at


@pytest.mark.parametrize(
    "sent_at",
    [1767464400, 1767464400.5, True, "1767464400", "2026-01-03", "2026-01-03T18:20:00", "yesterday", ""],
    ids=ascii,
)
def test_times_that_are_refused(tmp_path: Path, sent_at: Any) -> None:
    """Seconds since 1970, a day, or a time without a zone is not guessed at."""
    assert isinstance(only(tmp_path, sent_at=sent_at), ValidationError)


@pytest.mark.parametrize("line", ["not json", "[]", "null", '"text"', "{", "[" * 5000])
def test_a_line_that_is_no_record_does_not_stop_the_reader(tmp_path: Path, line: str) -> None:
    """It is yielded as an error, and the lines around it are read."""
    before, bad, after = read(tmp_path, ROW, line, ROW)

    assert isinstance(bad, ValidationError)
    assert [Record, Record] == [type(before), type(after)]


def test_an_error_does_not_repeat_the_message(tmp_path: Path) -> None:
    """What a person wrote stands in no error."""
    found = only(tmp_path, text="my pin is 4711", kind="photo")

    assert "4711" not in str(found)


def test_empty_lines_are_nothing(tmp_path: Path) -> None:
    """A line of white space is neither a record nor an error."""
    assert 1 == len(read(tmp_path, "", ROW, "   ", ""))


def test_the_place_in_the_file_is_the_order(tmp_path: Path) -> None:
    """Records without an order of their own get their line's number; one that has it keeps it."""
    found = read(tmp_path, ROW, ROW, {**ROW, "order": 40})

    assert [0, 1, 40] == [record.order for record in found if isinstance(record, Record)]


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path) -> None:
    """Files written on Windows begin with one."""
    path = tmp_path / "messages.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode())

    assert [Record] == [type(found) for found in read_records(path)]


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "a\u2028b", "a\rb", "\x00", "👩‍👩‍👧", "ไทย"], ids=ascii)
def test_a_line_gives_back_what_was_written(tmp_path: Path, text: str) -> None:
    """Whatever a message holds, it is one line, and comes back."""
    line = write_line({**ROW, "text": text})
    (found,) = read(tmp_path, line.removesuffix("\n"))

    assert isinstance(found, Record)
    assert text == found.text


@pytest.mark.parametrize(
    ("content", "code"), [(None, "no_such_file"), (b"\xff\xfe{}", "unreadable_file")], ids=["absent", "not UTF-8"]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, code: str) -> None:
    """It is refused by its name."""
    path = tmp_path / "messages.jsonl"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataRefused, match="messages.jsonl") as refused:
        list(read_records(path))
    assert code == refused.value.code


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in the place of a file is refused like an unreadable file."""
    with pytest.raises(DataRefused) as refused:
        list(read_records(tmp_path))
    assert "unreadable_file" == refused.value.code
