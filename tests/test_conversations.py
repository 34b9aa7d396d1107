"""Message files by conversation, without holding them in memory."""

import pickle
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from errors import DataRefused
from tests.tiny import record, write_jsonl
from training.conversations import History, read_history

Rows = Sequence[dict[str, Any]]


def history_of(folder: Path, *files: Rows, since: datetime | None = None) -> History:
    return read_history([write_jsonl(folder / f"{n}.jsonl", rows) for n, rows in enumerate(files)], since)


def texts(history: History) -> dict[tuple[str, str, str], list[str]]:
    return {key: [record.text for record in history.records(key)] for key in history.places}


def test_messages_are_found_again_by_conversation_in_order_of_time(tmp_path: Path) -> None:
    """However the lines of the files were mixed."""
    first = [record("0101", 3, True, "c"), record("0102", 1, False, "x"), record("0101", 1, False, "a")]
    second = [record("0101", 2, False, "b"), record("0102", 2, True, "ÿ 👍")]

    assert {
        ("example", "dm", "0101"): ["a", "b", "c"],
        ("example", "dm", "0102"): ["x", "ÿ 👍"],
    } == texts(history_of(tmp_path, first, second))


def test_one_thread_id_in_two_sources_is_two_conversations(tmp_path: Path) -> None:
    """Identifiers mean something within their source only."""
    rows = [record("7", 0, False, "a"), {**record("7", 1, False, "b"), "source": "other"}]

    assert {("example", "dm", "7"): ["a"], ("other", "dm", "7"): ["b"]} == texts(history_of(tmp_path, rows))


@pytest.mark.parametrize("address", ["+14025550101", "ilona@example.com"])
def test_an_address_is_the_same_person_in_every_source(tmp_path: Path, address: str) -> None:
    """A direct conversation goes on when somebody changes the phone; a group of that name does not."""
    rows = [record(address, 0, False, "a"), {**record(address, 1, False, "b"), "source": "other"}]
    group = {**record(address, 2, False, "c"), "thread_kind": "group"}

    assert {("", "dm", address): ["a", "b"], ("example", "group", address): ["c"]} == texts(
        history_of(tmp_path, [*rows, group])
    )


def test_what_stood_in_an_earlier_file_is_left_out(tmp_path: Path) -> None:
    """By its identifier in the source, or by who said what in which second. Within a file nothing is."""
    rows = [record("0101", 0, False, "a"), record("0101", 0, False, "a"), record("0101", 1, True, "b", source_id="7")]
    moved = {**record("0101", 5, True, "b, edited"), "source_id": "7"}
    history = history_of(tmp_path, rows, [rows[0], moved, record("0101", 9, False, "c")])

    assert {("example", "dm", "0101"): ["a", "a", "b", "c"]} == texts(history)
    assert {"in_an_earlier_file": 2} == history.dropped


def test_what_was_written_before_since_is_left_out(tmp_path: Path) -> None:
    """And what has no time, as nobody knows."""
    rows = [
        record("0101", 0, False, "a"),
        record("0101", 60, False, "b"),
        {**record("0101", 0, False, "c"), "sent_at": None},
    ]
    history = history_of(tmp_path, rows, since=datetime(2026, 1, 5, 9, 30, tzinfo=UTC))

    assert ({"before_since": 2}, [["b"]]) == (history.dropped, list(texts(history).values()))


def test_sources_are_named_with_count_and_digest(tmp_path: Path) -> None:
    """Two files of one name are two sources."""
    history = history_of(tmp_path / "a", [record("0101", 0, False, "a")])
    other = history_of(tmp_path / "b", [record("0101", 0, False, "b"), {"text": "no record"}])

    assert [("0.jsonl", 1)] == [(one["file"], one["messages"]) for one in history.sources]
    assert history.sources[0]["sha256"] != other.sources[0]["sha256"]
    assert {"not_understood": 1} == other.dropped


def test_my_own_identifiers_are_known(tmp_path: Path) -> None:
    """Those that my messages were sent from."""
    assert {"+14025550100"} == history_of(tmp_path, [record("0101", 0, False, "a"), record("0101", 1, True, "b")]).mine


def test_a_byte_order_mark_costs_no_message(tmp_path: Path) -> None:
    """Places are counted from the beginning of the file."""
    path = write_jsonl(tmp_path / "a.jsonl", [record("0101", 0, False, "a"), record("0101", 1, True, "b")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert [["a", "b"]] == list(texts(read_history([path])).values())


def test_a_history_can_be_sent_to_another_process(tmp_path: Path) -> None:
    """It holds places, no open files."""
    history = history_of(tmp_path, [record("0101", 0, False, "a")])

    assert texts(history) == texts(pickle.loads(pickle.dumps(history)))


def test_no_message_is_an_error(tmp_path: Path) -> None:
    """It says which files, and what stood in them."""
    with pytest.raises(DataRefused, match="no messages to build from .*0.jsonl(.|\n)*not_understood: 1 lines"):
        history_of(tmp_path, [{"text": "no record"}])
