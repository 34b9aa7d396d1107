"""Importing: every entry is kept or counted, and an import that fails changes nothing."""

import json
import os
import stat
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import read_records
from tests.hostile import QUICK
from tests.tiny import files_in, files_no_larger_than, read_jsonl, record, write_jsonl
from training.history import Coverage, import_messages
from training.records import Record
from training.sources.export import Damage
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

ROWS = [record("0101", 0, False, "home yet?"), record("0101", 1, True, "ya"), record("0102", 2, False, "who won")]
NAMED = [{**row, "sender_name": "Jo Varga" if row["from_me"] else "Ilona"} for row in ROWS]
START = datetime(2024, 2, 28, tzinfo=UTC)


def imported(folder: Path, rows: list[dict[str, Any]] = ROWS, *me: str) -> tuple[Coverage, list[Any]]:
    """(coverage, the lines written)."""
    return imported_file(folder, write_jsonl(folder / "export.jsonl", rows), *me)


def imported_file(folder: Path, export: Path, *me: str, source: str = "jsonl") -> tuple[Coverage, list[Any]]:
    out = folder / "out" / "jo.jsonl"
    coverage = import_messages(source, export, Options(me=me), out)
    return coverage, read_jsonl(out)


def refusal(folder: Path, export: Path, *me: str) -> DataRefused:
    with pytest.raises(DataRefused) as refused:
        imported_file(folder, export, *me)
    return refused.value


def counted(*items: Item) -> Coverage:
    coverage = Coverage("example")
    for item in items:
        coverage.count(item)
    coverage.settle()
    return coverage


def said(thread: str = "ana", **fields: Any) -> Record:
    return Record(**{"source": "example", "thread_id": thread, "from_me": False, "sender_id": thread, **fields})


# -- what is kept


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


@pytest.mark.parametrize("me", ["+1 (402) 555-0100", "JO VARGA"], ids=["by address", "by name"])
def test_me_decides_which_messages_are_mine(tmp_path: Path, me: str) -> None:
    """With --me a row's own from_me does not count."""
    _, written = imported(tmp_path, [{**row, "from_me": False} for row in NAMED], me)

    assert [False, True, False] == [row["from_me"] for row in written]


def test_auto_finds_the_source(tmp_path: Path) -> None:
    """And the report says which."""
    coverage, _ = imported_file(tmp_path, write_jsonl(tmp_path / "export.jsonl", ROWS), source="auto")

    assert "jsonl" == coverage.source


def test_a_second_import_replaces_the_first(tmp_path: Path) -> None:
    """The output and the report are those of the last import alone, and nothing lies beside them."""
    imported(tmp_path)
    _, written = imported(tmp_path, ROWS[:2])

    assert ROWS[:2] == written
    assert ["jo.jsonl", "jo.report.json"] == sorted(files_in(tmp_path / "out"))
    assert 2 == json.loads((tmp_path / "out" / "jo.report.json").read_text())["seen"]


def test_an_import_may_replace_its_own_export(tmp_path: Path) -> None:
    """It is read to the end before it is replaced."""
    path = write_jsonl(tmp_path / "jo.jsonl", ROWS)
    import_messages("jsonl", path, Options(), path)

    assert ROWS == read_jsonl(path)


def test_only_their_owner_may_read_the_messages(tmp_path: Path) -> None:
    """And the report; whatever the umask is."""
    imported(tmp_path)

    assert [0o600, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()]


def test_half_a_character_in_a_name_does_not_stop_the_import(tmp_path: Path) -> None:
    """The row is not one of ours; the others are kept."""
    coverage, written = imported(tmp_path, [{**ROWS[0], "sender_name": "Jo \ud83d"}, ROWS[1]])

    assert 2 == coverage.seen == coverage.kept + coverage.not_understood
    assert ROWS[1] == written[-1]


def test_a_byte_order_mark_costs_no_message(tmp_path: Path) -> None:
    """The first line of a file from Windows is read like the others."""
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[1]).encode())

    assert 1 == imported_file(tmp_path, export)[0].kept


# -- what is counted


@QUICK
@given(
    st.lists(
        st.builds(said, st.sampled_from("abc"), from_me=st.booleans(), kind=st.sampled_from(["text", "media"]))
        | st.builds(Skipped, st.sampled_from(["empty", "receipt"]))
        | st.builds(NotUnderstood, st.text(st.characters()))
        | st.builds(Note, st.text(st.characters()))
    )
)
def test_what_was_seen_is_kept_skipped_or_not_understood(items: list[Item]) -> None:
    """Nothing is lost and nothing counted twice; a note is none of these."""
    coverage = counted(*items)
    report = coverage.as_json()
    kinds = Counter(type(item) for item in items)

    assert len(items) - kinds[Note] == coverage.seen
    assert (kinds[Record], kinds[Skipped], kinds[NotUnderstood], kinds[Note]) == (
        report["kept"],
        sum(report["skipped"].values()),
        report["not_understood"],
        len(report["notes"]),
    )
    assert report["kept"] == sum(report["kinds"].values())
    assert json.loads(json.dumps(report)) == report
    assert "\n".join(coverage.lines()).encode()


def test_the_coverage_counts_every_row(tmp_path: Path) -> None:
    """Seen, kept, mine, threads, kinds and the time from first to last."""
    rows = [ROWS[2], *ROWS[:2], {**ROWS[0], "kind": "media", "text": "", "sent_at": None}]
    coverage, _ = imported(tmp_path, rows)

    assert (4, 4, 1) == (coverage.seen, coverage.kept, coverage.mine)
    assert {("0101", "dm"): 3, ("0102", "dm"): 1} == coverage.threads
    assert {"text": 3, "media": 1} == coverage.kinds
    assert ["+14025550101", "+14025550102"] == sorted(identifier for identifier, _ in coverage.people)
    assert [datetime.fromisoformat(str(ROWS[n]["sent_at"])) for n in (0, 2)] == [coverage.first, coverage.last]


@pytest.mark.parametrize(
    "line",
    ["not json", "[" * 100_000, "[1]", '{"text": "no thread"}', json.dumps({**ROWS[0], "kind": "photo"})],
    ids=["text", "deep", "list", "no thread", "unknown kind"],
)
def test_a_row_that_is_not_understood_is_counted(tmp_path: Path, line: str) -> None:
    """It is named by its line and never repeated; the others are kept."""
    export = write_jsonl(tmp_path / "export.jsonl", [ROWS[0]])
    export.write_text(export.read_text() + line + "\n" + json.dumps(ROWS[1]) + "\n")
    coverage, _ = imported_file(tmp_path, export)

    assert (3, 2, ["export.jsonl line 2: not a message record"]) == (coverage.seen, coverage.kept, coverage.where)


def test_no_more_than_ten_of_what_is_not_understood_are_named() -> None:
    """All are counted."""
    coverage = counted(*(NotUnderstood(f"line {number}") for number in range(1000)))

    assert (1000, [f"line {number}" for number in range(10)]) == (coverage.not_understood, coverage.where)


def test_a_damaged_file_is_always_named() -> None:
    """However late it comes: any number of messages may be missing behind it."""
    entries = [NotUnderstood(f"line {number}") for number in range(50)]
    coverage = counted(*[said()] * 50_000, *entries, Damage("'a' is damaged"), *entries, Damage("'b' is damaged"))

    assert (102, ["'a' is damaged", "'b' is damaged"]) == (coverage.not_understood, coverage.damaged)
    assert [f"line {number}" for number in range(10)] == coverage.where
    assert [
        "  WARNING: 'a' is damaged: messages are missing",
        "  WARNING: 'b' is damaged: messages are missing",
        "  not understood: 102 of 50,102, such as line 0",
    ] == coverage.lines()[-3:]


def test_damage_in_the_middle_keeps_what_came_before(tmp_path: Path) -> None:
    """The damage is one entry that was not understood, and is said."""
    rows = [record("0101", minute, bool(minute % 2), f"{minute * 7919} words") for minute in range(4000)]
    export = tmp_path / "export.zip"
    with zipfile.ZipFile(export, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(write_jsonl(tmp_path / "a.jsonl", rows), "a.jsonl")
        archive.write(write_jsonl(tmp_path / "b.jsonl", ROWS), "b.jsonl")
    data = bytearray(export.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"\xff" * 50
    export.write_bytes(data)
    coverage, written = imported_file(tmp_path, export)

    count = len(written) - len(ROWS)
    assert 500 < count < len(rows)
    assert rows[: count - 1] == written[: count - 1]
    assert ROWS == written[-3:]
    (fault,) = coverage.damaged
    assert fault.startswith("'a.jsonl' is damaged or cannot be read (")
    assert f"  WARNING: {fault}: messages are missing" in coverage.lines()
    assert count == coverage.kept - len(ROWS) == coverage.seen - len(ROWS) - coverage.not_understood


def test_a_damaged_zip_beside_others_is_counted(tmp_path: Path) -> None:
    """It is an entry that was not understood, and a warning: nobody knows how many it held."""
    write_jsonl(tmp_path / "in" / "a.jsonl", ROWS)
    (tmp_path / "in" / "b.zip").write_bytes(b"PK\x03\x04")
    coverage, _ = imported_file(tmp_path, tmp_path / "in")

    assert (3, ["'b.zip' is damaged or cannot be read (BadZipFile)"]) == (coverage.kept, coverage.where)
    assert "  WARNING: 'b.zip' is damaged or cannot be read (BadZipFile): messages are missing" in coverage.lines()


# -- the report


def test_the_report_lies_beside_the_messages(tmp_path: Path) -> None:
    """It holds the counts, no message and no name of a person."""
    imported(tmp_path, NAMED)
    report = (tmp_path / "out" / "jo.report.json").read_text()

    assert {
        "source": "jsonl",
        "seen": 3,
        "kept": 3,
        "mine": 1,
        "share_mine": 0.3333,
        "threads": 2,
        "direct": 2,
        "groups": 0,
        "people": 2,
        "first": "2026-01-05T09:00:00+00:00",
        "last": "2026-01-05T09:02:00+00:00",
        "kinds": {"text": 3},
        "skipped": {},
        "not_understood": 0,
        "damaged": [],
        "where": [],
        "notes": [],
    } == json.loads(report)
    assert not any(word in report for word in ("home yet?", "Ilona", "+1402"))


def test_the_report_for_a_terminal() -> None:
    """All that a person should look at once."""
    coverage = counted(
        said(from_me=True, sent_at=START),
        said(sent_at=START + timedelta(days=400)),
        said("club", thread_kind="group", sender_id="ben", kind="media"),
        *[said()] * 1997,
        *[Skipped("receipt")] * 1200,
        Skipped("empty"),
        Note("the export counts 3,300 messages"),
        NotUnderstood("chat.txt line 7: no date"),
        NotUnderstood("chat.txt line 9: no date"),
    )

    assert [
        "example: 3,203 entries seen, 2,000 kept, 0 % of them yours",
        "  conversations  1 direct, 1 groups, 2 people",
        "  dates          2024-02-28 to 2025-04-03",
        "  kinds          text 1,999, media 1",
        "  skipped        receipt 1,200, empty 1",
        "  note           the export counts 3,300 messages",
        "  not understood: 2 of 3,203, such as chat.txt line 7: no date",
    ] == coverage.lines()


def test_the_report_of_an_export_without_times() -> None:
    """Nor anything skipped or said."""
    assert [
        "example: 1 entries seen, 1 kept, 100 % of them yours",
        "  conversations  1 direct, 0 groups, 0 people",
        "  dates          unknown to unknown",
        "  kinds          text 1",
    ] == counted(said(from_me=True)).lines()


@pytest.mark.parametrize(("count", "is_said_aloud"), [(0, False), (1, False), (5, False), (6, True), (500, True)])
def test_much_that_is_not_understood_is_a_warning(count: int, is_said_aloud: bool) -> None:
    """More than one in two hundred is said aloud; fewer are only counted."""
    coverage = counted(*[said()] * (1000 - count), *[NotUnderstood("line 7: not JSON")] * count)
    last = coverage.lines()[-1]

    assert is_said_aloud == ("WARNING: " in last)
    assert (count > 0) == (f"not understood: {count} of 1,000, such as line 7: not JSON" in last)


@pytest.mark.parametrize("name", ["a\nkept: 5", "a\x1b[2Jb", "a\ud83db", "\u202eb"], ids=ascii)
def test_a_hostile_file_name_stays_on_its_line(name: str) -> None:
    """Names of files come from the export; terminals would obey them, and no UTF-8 holds half a character."""
    lines = counted(said(), NotUnderstood(f"{name} line 1"), Note(f"{name} counts 5")).lines()

    assert 6 == len("\n".join(lines).encode().splitlines())
    assert "\x1b" not in "".join(lines)


# -- imports that fail


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing in '.*export.jsonl' could be imported as jsonl"),
        (b"\n\n", "nothing in '.*export.jsonl' could be imported as jsonl"),
        (b"rubbish\n", "nothing in '.*export.jsonl' could be imported as jsonl"),
        (b"\xff\xfe\n", "nothing in '.*export.jsonl' could be imported as jsonl"),
        (json.dumps(ROWS[0]).encode(), "no message in '.*export.jsonl' is yours: give --me"),
        (b"PK\x03\x04", "export.jsonl' is damaged"),
        (None, "no export at '.*export.jsonl'"),
    ],
    ids=["empty", "blank", "rubbish", "not UTF-8", "none mine", "half a zip", "absent"],
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
        imported_file(tmp_path, export)
    assert before == files_in(tmp_path / "out")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """Nothing of the new import stays."""
    imported(tmp_path)
    before = files_in(tmp_path / "out")
    export = write_jsonl(tmp_path / "export.jsonl", [record("0101", n, n % 2 == 0, "x" * 100) for n in range(1000)])

    with files_no_larger_than(50_000), pytest.raises(OSError, match="File too large"):
        imported_file(tmp_path, export)
    assert before == files_in(tmp_path / "out")


@pytest.mark.parametrize("name", ["jo.jsonl", "jo.report.json"])
def test_a_folder_in_the_way_is_an_error(tmp_path: Path, name: str) -> None:
    """Nothing is left of what was staged."""
    (tmp_path / "out" / name).mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        imported(tmp_path)
    assert not any(".staging" in path for path in files_in(tmp_path))


def test_what_a_killed_import_left_is_not_in_the_way(tmp_path: Path) -> None:
    """Even of one that had the same process number."""
    imported(tmp_path)
    for name in ("jo.jsonl", "jo.report.json"):
        (tmp_path / "out" / f".staging-{name}-{os.getpid()}").write_text("half")

    assert ROWS == imported(tmp_path)[1]
    assert ["jo.jsonl", "jo.report.json"] == sorted(files_in(tmp_path / "out"))


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    """The message says which there are."""
    (tmp_path / "export").touch()

    with pytest.raises(DataRefused, match="no importer 'smoke-signals'; there are auto and .*jsonl"):
        import_messages("smoke-signals", tmp_path / "export", Options(), tmp_path / "out" / "jo.jsonl")
    assert ["export"] == list(files_in(tmp_path))


def test_nothing_imported_is_an_error_with_every_reason(tmp_path: Path) -> None:
    """What was skipped, what was not understood, and where; never what it says."""
    export = tmp_path / "in"
    write_jsonl(export / "a.jsonl", [])
    (export / "a.jsonl").write_text("my pin is 4711\n[1]\n")
    (export / "b.zip").write_bytes(b"PK\x03\x04")
    refused = refusal(tmp_path, export)

    assert "no_messages" == refused.code
    assert [
        "not understood: a.jsonl line 1: not a message record",
        "not understood: a.jsonl line 2: not a message record",
        "not understood: 'b.zip' is damaged or cannot be read (BadZipFile)",
    ] == refused.details
    assert "4711" not in str(refused)


def test_none_of_mine_is_an_error_that_names_who_wrote(tmp_path: Path) -> None:
    """By name where there is one, those who wrote most first; never what they wrote."""
    rows = [*NAMED, {**ROWS[2], "sender_name": None}, {**NAMED[0], "sender_id": "x", "sender_name": "Be\x1b[2Jn"}]
    refused = refusal(tmp_path, write_jsonl(tmp_path / "export.jsonl", rows), "Joanna")

    assert ("no_messages", ["Ilona", "Ilona", "Jo Varga", "Be[2Jn"]) == (
        refused.code,
        [detail.removeprefix("there are messages by ") for detail in refused.details],
    )
    assert "home yet?" not in str(refused)


def test_who_is_named_can_be_given_as_me(tmp_path: Path) -> None:
    """As the error has it."""
    export = write_jsonl(
        tmp_path / "export.jsonl", [{**row, "sender_id": "whatsapp:Jo \t Varga\u200e"} for row in ROWS]
    )
    (named,) = refusal(tmp_path, export, "Joanna").details
    coverage, _ = imported_file(tmp_path, export, named.removeprefix("there are messages by "))

    assert 3 == coverage.mine


def test_auto_says_what_else_is_in_a_folder(tmp_path: Path) -> None:
    """It imports what it finds first, and names the importers that would find more."""
    write_jsonl(tmp_path / "all" / "history.jsonl", ROWS)
    table = "time,sender,text\n2024-03-13 10:00,Ana,home yet?\n2024-03-13 10:01,Jo,ya\n"
    (tmp_path / "all" / "chat.csv").write_text(table)
    coverage, _ = imported_file(tmp_path, tmp_path / "all", "Jo", source="auto")

    assert ["there is something of jsonl in it too: import that by its name"] == coverage.notes[:1]
    assert "csv" == coverage.source
