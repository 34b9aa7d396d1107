"""Message files in the project's own form, and JSON Lines of other programs."""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given

from errors import DataRefused
from tests.histories import History, histories, imported, read
from tests.hostile import QUICK
from tests.writers.jsonl import sample, write, write_foreign
from training.sources.export import Export
from training.sources.jsonl import recognises
from training.sources.options import Options


@QUICK
@given(histories())
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Who said what, where and when, to the letter."""
    with TemporaryDirectory() as name:
        records = imported("jsonl", write(history, Path(name)), Path(name))
    found = [(r.thread_id, r.thread_kind == "group", r.from_me, r.sent_at, r.text) for r in records]

    assert found == [
        (f"thread {said.thread}", said.thread in history.groups, said.sender == 0, said.at, said.text)
        for said in history.said
    ]


@QUICK
@given(histories())
def test_the_keys_of_another_program_are_known(history: History) -> None:
    """Objects within objects too; the conversation's own id is kept."""
    assume(not any("\ufffc" in said.text for said in history.said))  # stands for an attachment, and is no text
    with TemporaryDirectory() as name:
        records, coverage = read("auto", write_foreign(history, Path(name)), Path(name))
    found = [(r.thread_id, r.thread_kind == "group", r.from_me, r.sender_id, r.sent_at, r.text) for r in records]

    assert found == [
        (f"thread {s.thread}", s.thread in history.groups, s.sender == 0, f"+1402555010{s.sender}", s.at, s.text)
        for s in history.said
    ]
    assert (coverage.source, coverage.not_understood) == ("jsonl", 0)


def lines(folder: Path, *rows: Any) -> Path:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


HERS = {"k1": "Ida", "k2": "hi", "k3": 1728042180}
MINE = {"k1": "me", "k2": "ho", "k3": "2024-10-04 11:44", "k4": {"deep": {"er": "yes"}}}


def test_keys_can_be_told(tmp_path: Path) -> None:
    """As columns of a table can, also for a key within objects."""
    told = {"sender": "k1", "text": "k2", "time": "k3", "mine": "k4.deep.er"}
    options = Options(zone=UTC, me=("me",), columns=told)
    records, _ = read("jsonl", lines(tmp_path, HERS, MINE), tmp_path, options=options)

    assert [(r.from_me, r.text, r.thread_id) for r in records] == [
        (False, "hi", "jsonl:Ida"),
        (True, "ho", "jsonl:Ida"),
    ]
    assert records[0].sent_at == datetime(2024, 10, 4, 11, 43, tzinfo=UTC)


def test_keys_that_do_not_exist_are_refused_with_those_that_do(tmp_path: Path) -> None:
    """All at once."""
    with pytest.raises(DataRefused) as refused:
        read("jsonl", lines(tmp_path, HERS), tmp_path, options=Options(columns={"text": "x", "who": "k1"}))
    with pytest.raises(DataRefused) as unknown:
        read("jsonl", lines(tmp_path, HERS), tmp_path)

    assert refused.value.details[1:] == ["no column 'x'", "the columns are: 'k1', 'k2', 'k3'"]
    assert unknown.value.code == "unknown_column"


def test_a_record_of_ours_stays_as_it_is(tmp_path: Path) -> None:
    """Parts, flags and order are kept, whatever else stands in the row."""
    row = {
        "thread_id": "a",
        "from_me": True,
        "text": "x\ny",
        "parts": ["x", "y"],
        "flags": ["auto"],
        "lang": "en",
        "id": 5,
    }
    record = imported("jsonl", lines(tmp_path, row), tmp_path)[0]

    assert (record.parts, record.flags, record.source_id) == (["x", "y"], ["auto"], None)


def test_a_row_with_a_thread_but_other_keys_is_another_programs(tmp_path: Path) -> None:
    """Otherwise its time would be lost."""
    row = {"thread_id": "a", "from_me": True, "text": "x", "timestamp": 1728042180}
    record = imported("jsonl", lines(tmp_path, row), tmp_path)[0]

    assert record.sent_at == datetime(2024, 10, 4, 11, 43, tzinfo=UTC)


def test_a_list_for_a_text_is_not_understood(tmp_path: Path) -> None:
    """Nor is a row that is no object, or names nobody."""
    good = {"from": "Ida", "text": "a", "is_me": False}
    rows = [good, {**good, "text": ["a"]}, [1], {"text": "b"}, {**good, "is_me": True, "from": None, "text": "c"}]
    records, coverage = read("jsonl", lines(tmp_path, *rows), tmp_path)

    assert [record.text for record in records] == ["a", "c"]
    assert coverage.where == [f"t.jsonl line {number}: not a message record" for number in (2, 3, 4)]


def test_a_sample_is_recognised_and_other_objects_are_not(tmp_path: Path) -> None:
    """A row must have words, a sender and a time, or a thread of ours."""
    assert recognises(Export(sample(tmp_path).path))
    assert not recognises(Export(lines(tmp_path, {"text": "a", "label": 1})))
    assert not recognises(Export(lines(tmp_path, {"version": 1})))
