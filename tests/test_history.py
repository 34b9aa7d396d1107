"""Importing JSON Lines: what is kept, what is counted, and that nothing is written by an import that fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from errors import DataRefused
from tests.tiny import files_in, read_jsonl, record, write_jsonl
from training.history import Coverage, import_messages
from training.records import Record, read_records

ROWS = [record("0101", 0, False, "home yet?"), record("0101", 1, True, "ya"), record("0102", 2, False, "who won")]


def imported(folder: Path, rows: list[dict[str, Any]] = ROWS, me: str | None = None) -> tuple[Coverage, list[Any]]:
    """(coverage, the lines written)."""
    out = folder / "out" / "jo.jsonl"
    coverage = import_messages("jsonl", write_jsonl(folder / "export.jsonl", rows), me, out)
    return coverage, read_jsonl(out)


def test_every_row_is_kept_as_it_was(tmp_path: Path) -> None:
    """Rows in the normalised form come out as they went in, in their order, further fields included."""
    rows = [{**row, "thread_name": "Ilona Varga", "attachments": [{"mime": "image/jpeg"}]} for row in ROWS]

    assert rows == imported(tmp_path, rows)[1]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """Every line of the output is a record."""
    imported(tmp_path)

    assert [Record] * 3 == [type(found) for found in read_records(tmp_path / "out" / "jo.jsonl")]


def test_the_source_is_jsonl_where_a_row_names_none(tmp_path: Path) -> None:
    """A row that says where it comes from keeps that."""
    nameless = {name: value for name, value in ROWS[1].items() if name != "source"}
    _, written = imported(tmp_path, [ROWS[0], nameless])

    assert ["example", "jsonl"] == [row["source"] for row in written]


@pytest.mark.parametrize("me", ["+14025550100", "Jo Varga"], ids=["by address", "by name"])
def test_me_decides_which_messages_are_mine(tmp_path: Path, me: str) -> None:
    """With --me a row's own from_me does not count."""
    rows = [{**row, "sender_name": "Jo Varga" if row["from_me"] else "Ilona", "from_me": False} for row in ROWS]
    _, written = imported(tmp_path, rows, me)

    assert [False, True, False] == [row["from_me"] for row in written]


def test_the_coverage_counts_every_row(tmp_path: Path) -> None:
    """Seen, kept, mine, threads, kinds and the time from first to last."""
    rows = [ROWS[2], *ROWS[:2], {**ROWS[0], "kind": "media", "text": "", "sent_at": None}]
    coverage, _ = imported(tmp_path, rows)

    assert (4, 4, 1) == (coverage.seen, coverage.kept, coverage.mine)
    assert {"0101", "0102"} == coverage.threads
    assert {"text": 3, "media": 1} == coverage.kinds
    assert (ROWS[0]["sent_at"], ROWS[2]["sent_at"]) == (coverage.first, coverage.last)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: not a message record"),
        ('{"text": "no thread"}', "line 2: not a message record"),
        (json.dumps({**ROWS[0], "kind": "photo"}), "line 2: not a message record"),
        (json.dumps({**ROWS[0], "text": "\ud83d"}), "line 2: not a message record"),
    ],
    ids=["text", "deep", "list", "no thread", "unknown kind", "half a character"],
)
def test_a_row_that_is_not_understood_is_counted(tmp_path: Path, line: str, reason: str) -> None:
    """It is named by its line and never repeated; the others are kept."""
    export = write_jsonl(tmp_path / "export.jsonl", [ROWS[0]])
    export.write_text(export.read_text() + line + "\n" + json.dumps(ROWS[1]) + "\n")
    coverage = import_messages("jsonl", export, None, tmp_path / "jo.jsonl")

    assert (3, 2, [reason]) == (coverage.seen, coverage.kept, coverage.not_understood)


def test_many_rows_not_understood_are_a_warning(tmp_path: Path) -> None:
    """More than one in two hundred is said aloud; fewer are only counted."""
    few, many = Coverage(seen=1000, kept=995), Coverage(seen=1000, kept=994)
    few.not_understood += ["line 7: not JSON"] * 5
    many.not_understood += ["line 7: not JSON"] * 6

    assert not any("WARNING" in line for line in few.lines())
    assert "WARNING: 6 rows were not understood, the first: line 7: not JSON" == many.lines()[-1]


def test_the_report_lies_beside_the_messages(tmp_path: Path) -> None:
    """It holds the counts and no message."""
    imported(tmp_path)
    report = json.loads((tmp_path / "out" / "jo.report.json").read_text())

    assert (3, 3, 1, 2) == (report["seen"], report["kept"], report["mine"], report["threads"])
    assert "home yet?" not in json.dumps(report)


def test_half_a_character_in_a_name_does_not_stop_the_import(tmp_path: Path) -> None:
    """It is written as a question mark: names are for reports only."""
    _, written = imported(tmp_path, [{**ROWS[1], "sender_name": "Jo \ud83d"}])

    assert ["Jo ?"] == [row["sender_name"] for row in written]


def test_a_byte_order_mark_costs_no_message(tmp_path: Path) -> None:
    """The first line of a file from Windows is read like the others."""
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[1]).encode())

    assert 1 == import_messages("jsonl", export, None, tmp_path / "jo.jsonl").kept


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing in '.*export.jsonl' could be imported"),
        (b"\n\n", "nothing in '.*export.jsonl' could be imported"),
        (b"rubbish\n", "nothing in '.*export.jsonl' could be imported"),
        (json.dumps(ROWS[0]).encode(), "no message in '.*export.jsonl' is yours: give --me"),
        (b"\xff\xfe\n", "export.jsonl' is not UTF-8"),
        (None, "no export at '.*export.jsonl'"),
    ],
    ids=["empty", "blank", "rubbish", "none mine", "not UTF-8", "absent"],
)
def test_an_import_that_fails_leaves_what_was_there(tmp_path: Path, content: bytes | None, message: str) -> None:
    """The messages and the report of an earlier import stay, byte for byte, and nothing lies beside them."""
    imported(tmp_path)
    before = files_in(tmp_path / "out")
    export = tmp_path / "export.jsonl"
    export.unlink()
    if content is not None:
        export.write_bytes(content)

    with pytest.raises(DataRefused, match=message):
        import_messages("jsonl", export, None, tmp_path / "out" / "jo.jsonl")
    assert before == files_in(tmp_path / "out")


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    """The message says which there are."""
    with pytest.raises(DataRefused, match="no importer 'smoke-signals' in this version; there are: .*jsonl"):
        import_messages("smoke-signals", tmp_path / "export", None, tmp_path / "out" / "jo.jsonl")
    assert {} == files_in(tmp_path)


def test_a_second_import_replaces_the_first(tmp_path: Path) -> None:
    """The output is that of the last import alone."""
    imported(tmp_path)
    _, written = imported(tmp_path, ROWS[:2])

    assert ROWS[:2] == written
