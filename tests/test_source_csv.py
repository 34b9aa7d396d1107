"""CSV of any program: round trips, what each program does differently, and damage."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import History, histories, read
from tests.hostile import QUICK
from tests.writers.csv import Dialect, sample, write, write_imazing, write_wechat
from training.sources.columns import ALIASES, SHORT
from training.sources.csv_table import recognises
from training.sources.export import Export
from training.sources.options import Options
from training.sources.registry import find

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "fixtures" / "wechat_csv"


# What stands for an attachment in a text is no text, and Python's csv leaves a lone \r unquoted in some dialects.
LEFT_OUT = str.maketrans("", "", "\ufffc\r")


@st.composite
def table_histories(draw: st.DrawFn) -> History:
    history = draw(histories())
    texts = [said.text.translate(LEFT_OUT) for said in history.said]
    pairs = zip(history.said, texts, strict=True)
    return replace(history, said=tuple(replace(said, text=text if text.strip() else "x") for said, text in pairs))


DIALECTS = st.builds(
    Dialect,
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    quote_all=st.booleans(),
)
ZONE = Options(zone=UTC)


@QUICK
@given(table_histories(), DIALECTS)
def test_a_history_comes_back_as_it_was_written(history: History, dialect: Dialect) -> None:
    """Who said what, where and when, to the letter, however the table is delimited and encoded."""
    with TemporaryDirectory() as name:
        records, coverage = read("csv", write(history, Path(name), dialect), Path(name))
    found = [(r.thread_id, r.thread_kind == "group", r.from_me, r.sender_id, r.sent_at, r.text) for r in records]

    assert found == [
        (f"thread {s.thread}", s.thread in history.groups, s.sender == 0, f"+1402555010{s.sender}", s.at, s.text)
        for s in history.said
    ]
    assert (coverage.not_understood, coverage.skipped.total()) == (0, 0)


@QUICK
@given(table_histories())
def test_a_wechat_table_needs_nothing_told(history: History) -> None:
    """WeClone's columns are known; the flag says what is mine."""
    with TemporaryDirectory() as name:
        records, _ = read("auto", write_wechat(history, Path(name)), Path(name))
    found = [(r.source, r.thread_id, r.from_me, r.sender_id, r.sent_at, r.text) for r in records]

    assert found == [
        ("csv", f"room{s.thread}", s.sender == 0, f"csv:wxid_{s.sender}", s.at, s.text) for s in history.said
    ]


@QUICK
@given(table_histories())
def test_an_imazing_table_needs_nothing_told(history: History) -> None:
    """Incoming and Outgoing say what is mine; a conversation named after one person has that person's number."""
    with TemporaryDirectory() as name:
        records, _ = read("auto", write_imazing(history, Path(name)), Path(name))
    heard = {s.thread for s in history.said if s.sender}

    assert [(r.from_me, r.sent_at, r.text) for r in records] == [(s.sender == 0, s.at, s.text) for s in history.said]
    for record, said in zip(records, history.said, strict=True):
        if said.thread not in history.groups and said.thread in heard:
            assert record.thread_id == f"+1402555010{said.thread + 1}"


def table(folder: Path, *lines: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PLAIN = "time,sender,text,is_me"


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        ("1728042180", "2024-10-04T11:43:00+00:00"),
        ("1728042180.25", "2024-10-04T11:43:00.250000+00:00"),
        ("1728042180123", "2024-10-04T11:43:00.123000+00:00"),
        ("1728042180123456", "2024-10-04T11:43:00.123456+00:00"),
        ("1728042180123456789", "2024-10-04T11:43:00.123456+00:00"),
        ("1.72804218E9", "2024-10-04T11:43:00+00:00"),
        ("20241004114300", "2024-10-04T11:43:00+00:00"),
        ("2024-10-04T11:43:00Z", "2024-10-04T11:43:00+00:00"),
        ("2024-10-04T13:43:00+02:00", "2024-10-04T11:43:00+00:00"),
        ("2024-10-04 13:43:00 +0200", "2024-10-04T11:43:00+00:00"),
        ("2024-10-04 11:43:00 UTC", "2024-10-04T11:43:00+00:00"),
        ("2024/10/4 11:43", "2024-10-04T11:43:00+00:00"),
        ("13/10/2024 11:43", "2024-10-13T11:43:00+00:00"),
        ("10/13/24 11:43 PM", "2024-10-13T23:43:00+00:00"),
        ("12/12/24 12:05\u202fAM", "2024-12-12T00:05:00+00:00"),
        ("4.10.2024 11:43:05", "2024-10-04T11:43:05+00:00"),
        ('"Jul 23, 2011 6:12:54 AM"', "2011-07-23T06:12:54+00:00"),
        ("23 July 2011 06:12", "2011-07-23T06:12:00+00:00"),
        ('"Friday, May 29, 2026 at 3:00:29 AM UTC"', "2026-05-29T03:00:29+00:00"),
        ("2024年10月4日 下午3:04", "2024-10-04T15:04:00+00:00"),
    ],
)
def test_a_time_is_read_however_it_is_written(tmp_path: Path, time: str, moment: str) -> None:
    """Epochs by magnitude, ISO, numeric, with names of months, in Chinese."""
    records, _ = read("csv", table(tmp_path, PLAIN, f"{time},Ida,hi,0", f"{time},me,ho,1"), tmp_path, options=ZONE)

    assert records[0].sent_at == datetime.fromisoformat(moment)


def test_date_and_time_may_be_two_columns(tmp_path: Path) -> None:
    """They are joined only where both are there."""
    path = table(tmp_path, "Date,Time,From,Message,Mine", "2024-10-04,11:43,Ida,hi,no", "2024-10-04,11:44,me,ho,yes")
    records, _ = read("csv", path, tmp_path, options=ZONE)

    assert records[1].sent_at == datetime(2024, 10, 4, 11, 44, tzinfo=UTC)
    assert records[1].sent_local == "2024-10-04T11:44:00"


def test_dates_that_can_be_read_both_ways_are_asked_about(tmp_path: Path) -> None:
    """With advice; an answer settles it, and so does one date that can be read only one way."""
    rows = [PLAIN, "3/4/2024 10:00,Ida,hi,0", "3/4/2024 10:01,me,ho,1"]
    with pytest.raises(DataRefused, match="--day-first") as refused:
        read("csv", table(tmp_path, *rows), tmp_path)
    april, _ = read("csv", tmp_path / "t.csv", tmp_path, options=Options(zone=UTC, day_first=True))
    march, _ = read("csv", table(tmp_path, *rows, "3/25/2024 1:00,me,x,1"), tmp_path, options=ZONE)

    assert refused.value.code == "ambiguous_dates" and refused.value.details == ["such as t.csv line 2"]
    assert (april[0].sent_at, march[0].sent_at) == (
        datetime(2024, 4, 3, 10, tzinfo=UTC),
        datetime(2024, 3, 4, 10, tzinfo=UTC),
    )
    with pytest.raises(DataRefused, match="others only month first"):
        read("csv", table(tmp_path, *rows, "3/25/2024,me,x,1", "25/3/2024,me,x,1"), tmp_path)


def test_words_that_look_like_missing_values_are_messages(tmp_path: Path) -> None:
    """NA, null, FALSE, NaN and None are what people write; a row without words is skipped and counted."""
    said = ["NA", "null", "FALSE", "NaN", "None", "0", " x "]
    path = table(tmp_path, PLAIN, *(f"2024-01-01,{'me' if n else 'Ida'},{t},{int(n > 0)}" for n, t in enumerate(said)))
    path.write_text(path.read_text() + "2024-01-01,Ida,,0\n\n,,,\n")
    records, coverage = read("csv", path, tmp_path)

    assert [record.text for record in records] == said
    assert coverage.skipped == {"empty": 2}


def test_a_flag_that_contradicts_the_senders_is_asked_about(tmp_path: Path) -> None:
    """--me says that the senders are right, --column from_me=... that the flag is; neither is a guess."""
    path = table(tmp_path, PLAIN, "2024-01-01,Ida,hi,0", "2024-01-01,Ida,ho,1", "2024-01-01,Ben,hm,0")
    with pytest.raises(DataRefused, match="disagree") as refused:
        read("csv", path, tmp_path)
    by_name, _ = read("csv", path, tmp_path, "Ida")
    by_flag, _ = read("csv", path, tmp_path, options=Options(columns={"from_me": "is_me"}))

    assert refused.value.details == ["Ida: 1 marked as yours, 1 not"]
    assert [record.from_me for record in by_name] == [True, True, False]
    assert [record.from_me for record in by_flag] == [False, True, False]


def test_who_is_me_is_asked_when_nothing_says_so(tmp_path: Path) -> None:
    """Whoever is in most conversations is named first; an answer in any spelling is understood."""
    rows = ["chat,time,from,text", "a,2024-01-01,Ida,1", "a,2024-01-01,+1 402 555 0100,2", "b,2024-01-01,Ben,3"]
    path = table(tmp_path, *rows, "b,2024-01-01,+1 (402) 555-0100,4")
    with pytest.raises(DataRefused, match="--me") as refused:
        read("csv", path, tmp_path)
    records, _ = read("csv", path, tmp_path, "+14025550100")

    assert refused.value.details[0] == "+1 402 555 0100"
    assert [record.from_me for record in records] == [False, True, False, True]


def test_columns_can_be_told(tmp_path: Path) -> None:
    """By the names of the record or by plain words; what does not exist is refused, all at once, with what there is."""
    path = table(tmp_path, "a,b,c,d,text", "2024-01-01,Ida,hi,no,x", "2024-01-02,me,ho,yes,x")
    told = {"time": "a", "sender_id": "B", "text": "c", "mine": "d"}
    records, _ = read("csv", path, tmp_path, options=Options(zone=UTC, columns=told))
    with pytest.raises(DataRefused) as refused:
        read("csv", path, tmp_path, options=Options(columns={"words": "c", "text": "z", "time": "a", "sent_at": "a"}))

    assert [(r.sender_name, r.text, r.from_me) for r in records] == [("Ida", "hi", False), ("me", "ho", True)]
    assert [detail.partition(":")[0] for detail in refused.value.details] == [
        "no field 'words'", "no column 'z'", "'sent_at' is given twice", "the columns are"
    ]  # fmt: skip
    assert refused.value.details[-1] == "the columns are: 'a', 'b', 'c', 'd', 'text'"


def test_a_table_without_words_or_senders_is_refused(tmp_path: Path) -> None:
    """The columns there are stand in the message."""
    with pytest.raises(DataRefused) as refused:
        read("csv", table(tmp_path, "when,amount", "2024-01-01,3"), tmp_path)

    assert (refused.value.code, refused.value.details) == ("unknown_column", ["the columns are: 'when', 'amount'"])


def test_every_field_has_a_spelling_of_its_own_name() -> None:
    """So that a table of the record's own columns needs nothing told."""
    assert all(field.replace("_", "") in aliases for field, aliases in ALIASES.items())
    assert set(SHORT.values()) <= set(ALIASES)


@pytest.mark.parametrize("rubbish", ['"never closed,0', "too,many,cells,by,far,0", "too few"])
def test_a_broken_row_costs_no_other(tmp_path: Path, rubbish: str) -> None:
    """Even a quote that is never closed: the rest of the file is read on line by line."""
    rows = [f"2024-01-01,{'me' if n % 2 else 'Ida'},m{n},{n % 2}" for n in range(40)]
    path = table(tmp_path, PLAIN, *rows[:20], f"2024-01-01,Ida,{rubbish}", *rows[20:])
    records, coverage = read("csv", path, tmp_path)

    assert [record.text for record in records] == [f"m{n}" for n in range(40)]
    assert (coverage.not_understood, coverage.where[0][:13]) == (1, "t.csv line 22")


def test_long_messages_are_whole_and_endless_ones_are_bounded(tmp_path: Path) -> None:
    """300 kB is a message; 3 MB is none, and neither is a row of 50,000 quoted lines."""
    long = "long\n" * 60_000
    huge = "x" * 3_000_000
    pieces = '2024-01-01,Ida,"' + f"{'x' * 40}\n" * 50_000
    rows = [f'2024-01-01,Ida,"{long}",0', f"2024-01-01,Ida,{huge},0", "2024-01-01,me,after,1", pieces]
    records, coverage = read("csv", table(tmp_path, PLAIN, *rows), tmp_path)

    assert [len(record.text) for record in records] == [300_000, 5]
    assert coverage.where[0].startswith("t.csv line 60003:") and coverage.not_understood > 1


def test_bytes_that_are_no_utf8_cost_their_row(tmp_path: Path) -> None:
    """And the advice is given."""
    path = tmp_path / "t.csv"
    path.write_bytes(f"{PLAIN}\n2024-01-01,Ida,caf\xe9,0\n2024-01-01,me,ok,1\n".encode("latin-1"))
    records, coverage = read("csv", path, tmp_path)

    assert [record.text for record in records] == ["ok"]
    assert coverage.where == ["t.csv line 2: not UTF-8 (save the file as UTF-8)"]


def test_the_line_that_names_the_delimiter_for_excel_is_no_header(tmp_path: Path) -> None:
    """``sep=;`` and blank lines may come before it."""
    path = table(tmp_path, "sep=;", "", "time;sender;text;is_me", "2024-01-01;Ida;a, b;0", "2024-01-01;me;c;1")
    records, coverage = read("csv", path, tmp_path)

    assert ([record.text for record in records], coverage.seen) == (["a, b", "c"], 2)


def test_an_address_beside_a_direction_is_the_conversation(tmp_path: Path) -> None:
    """It is the other side's, whichever way a message went."""
    rows = ["Received,2024-01-01,Ida,+14025550101,hi", "Sent,2024-01-02,Ida,+14025550101,ho"]
    records, _ = read("csv", table(tmp_path, "direction,timestamp,name,number,content", *rows), tmp_path)

    assert [(r.thread_id, r.sender_id, r.from_me) for r in records] == [
        ("+14025550101", "+14025550101", False),
        ("+14025550101", None, True),
    ]


@pytest.mark.parametrize(
    ("word", "kind"),
    [("图片", "media"), ("语音", "media"), ("语音通话", "call"), ("系统通知", "system"), ("拍一拍", "system"),
     ("动画表情", "media"), ("(分享)卡片式链接", "media"), ("文本", "text"), ("引用回复", "text"), ("image", "media"),
     ("Notification", "system"), ("iMessage", "text"), ("deleted", "deleted"), ("tapback", "reaction")],
)  # fmt: skip
def test_only_what_was_typed_is_text(tmp_path: Path, word: str, kind: str) -> None:
    """The type of a row says what it is; placeholders of media are no words."""
    header = "type_name,is_sender,talker,msg,CreateTime"
    path = table(tmp_path, header, f"{word},0,ida,[x],1728042180", "文本,1,me,y,1728042181")
    records, _ = read("csv", path, tmp_path)

    assert (records[0].kind, records[0].text) == (kind, "[x]" if kind == "text" else "")


def test_a_folder_is_read_whole_and_other_tables_are_named(tmp_path: Path) -> None:
    """Each file without a column for it is a conversation of its own."""
    table(tmp_path, PLAIN, "2024-01-01,Ida,a,0", "2024-01-01,me,b,1", name="ida.csv")
    table(tmp_path, PLAIN, "2024-01-01,Ben,c,0", "2024-01-01,Ann,d,0", "2024-01-01,me,e,1", name="club.csv")
    table(tmp_path, "name,e-mail", "Ida,ida@example.com", name="contacts.csv")
    records, coverage = read("csv", tmp_path, tmp_path / "x")

    assert {(r.thread_id, r.thread_kind) for r in records} == {("csv:Ida", "dm"), ("club", "group")}
    assert coverage.notes == ["'contacts.csv' holds no messages"]


def test_a_row_whose_time_or_writer_cannot_be_read_is_not_understood(tmp_path: Path) -> None:
    """A row without a time has none; a word that is no time, or no yes or no, is said."""
    rows = ["soon,Ida,a,0", ",Ida,b,0", "2024-01-01,,c,maybe", "2024-01-01,me,d,1"]
    records, coverage = read("csv", table(tmp_path, PLAIN, *rows), tmp_path)

    assert [(record.text, record.sent_at is None) for record in records] == [("b", True), ("d", False)]
    assert coverage.where == ["t.csv line 2: its time is not understood", "t.csv line 4: it does not say who wrote it"]


def test_a_sample_is_recognised_and_other_tables_are_not(tmp_path: Path) -> None:
    """A table must have words, senders and times."""
    assert find("auto", Export(sample(tmp_path).path))[0] == "csv"
    for header in ("ID,Timestamp,Contents,Attachments", "name,number", "text,from", ""):
        assert not recognises(Export(table(tmp_path, header, "1,2,3,4")))


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared fixtures are not there")
def test_the_public_wechat_table_is_read_whole(tmp_path: Path) -> None:
    """62 rows, 31 of them mine with the word FALSE."""
    path = SHARED / "WeClone" / "test_PII" / "test_0_730.csv"
    records, coverage = read("auto", path, tmp_path, options=ZONE)

    assert (coverage.source, coverage.kept, coverage.seen) == ("csv", 62, 62)
    assert [record.text for record in records if record.from_me] == ["FALSE"] * 31
