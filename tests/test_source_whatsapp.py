"""WhatsApp's "Export chat": shapes of many phones, who is who, and what is nobody's words."""

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import UTC, History, histories, imported, read, words
from tests.hostile import QUICK
from tests.writers.whatsapp import ME, NOTICE, STYLES, name_of, sample, title_of, write
from training.history import Coverage
from training.records import Record
from training.sources.export import Export
from training.sources.options import Options
from training.sources.registry import find
from training.sources.whatsapp_headers import CONTROLS, DateVotes, header_of, local_time

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "whatsapp"
EXAMPLE = ROOT / "data" / "example"
LRM = "\u200e"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the sample files of others are not here")

# A carriage return ends lines of some exports; marks before a text are WhatsApp's, "null" is what it could not show.
TEXTS = words(exclude="\r" + LRM).filter(lambda text: text[0] not in CONTROLS and text != "null")


def of_lines(folder: Path, *lines: str, me: str = "Jo", file: str = "_chat.txt", **told: bool | None) -> list[Record]:
    """The records of a chat of *lines*."""
    (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(imported("whatsapp", folder / file, folder, options=Options((me,) if me else (), zone=UTC, **told)))


def of_bodies(folder: Path, *bodies: str) -> list[Record]:
    """The records of a chat in which Jo says hi and then Ana sends *bodies*."""
    lines = [f"[13/01/2024, 10:00:{number:02}] Ana: {body}" for number, body in enumerate(bodies)]
    return of_lines(folder, "[13/01/2024, 09:00:00] Jo: hi", *lines)[1:]


def said(records: Sequence[Record]) -> list[tuple[str | None, str, str]]:
    """(name, kind, text) of each."""
    return [(record.sender_name, record.kind, record.text) for record in records]


@QUICK
@given(histories(TEXTS), st.sampled_from(sorted(STYLES)))
def test_a_history_comes_back_as_it_was_written(history: History, style: str) -> None:
    """Who said what, where and when (Android knows no seconds), in every shape of header."""
    with TemporaryDirectory() as name:
        records = imported("whatsapp", write(history, Path(name), STYLES[style]), Path(name), ME)
    found = [
        (r.thread_id, r.thread_kind, r.from_me, r.sender_name, r.sent_at, r.text) for r in records if r.kind == "text"
    ]
    expected = []
    for message in sorted(history.said, key=lambda message: title_of(history, message.thread)):
        is_group = message.thread in history.groups
        title = title_of(history, message.thread)
        at = message.at.replace(second=0) if STYLES[style].step == 60 else message.at
        expected.append((
            f"whatsapp:{'group:' * is_group}{title}", "group" if is_group else "dm",
            message.sender == 0, name_of(message.sender), at, message.text,
        ))  # fmt: skip

    assert sorted(found, key=lambda row: row[0]) == sorted(expected, key=lambda row: row[0])


@pytest.mark.parametrize(
    ("line", "local", "author"),
    [
        ("13.06.18 21.25.15: Al: x", "2018-06-13T21:25:15", "Al"),
        ("13.6.2018 klo 21.25.15 - Al: x", "2018-06-13T21:25:15", "Al"),
        ("13. 6. 2018. 21:25:15 Al: x", "2018-06-13T21:25:15", "Al"),
        ("[2018/06/13, 21:25:15] Al: x", "2018-06-13T21:25:15", "Al"),
        ("[06/2018/13, 21:25:15] Al: x", "2018-06-13T21:25:15", "Al"),
        ("[2026/7/19 02:28:09] Al: x", "2026-07-19T02:28:09", "Al"),
        ("2024/03/15, 9:15 pm - Al: x", "2024-03-15T21:15:00", "Al"),
        ("15-03-2024, 09:15 - Al: x", "2024-03-15T09:15:00", "Al"),
        ("15/3/24, 00:08 a. m. - Al: x", "2024-03-15T00:08:00", "Al"),
        ("15/3/24, 12:08 p.\u00a0m. - Al: x", "2024-03-15T12:08:00", "Al"),
        ("3/15/24, 7:02\u202fPM - Al: x", "2024-03-15T19:02:00", "Al"),
        ("3/15/24, 7:02_AM - Al: x", "2024-03-15T07:02:00", "Al"),
        ("3/15/24 7:02\u2009AM – Al: x", "2024-03-15T07:02:00", "Al"),
        ("[15/3/2024, 2:14:40 a.m.] Al: x", "2024-03-15T02:14:40", "Al"),
        ("2024/3/15 下午9:15 - Al: x", "2024-03-15T21:15:00", "Al"),
        ("2024/3/15 中午12:15 - Al: x", "2024-03-15T12:15:00", "Al"),
        ("2024/3/15 午後9:15 - Al: x", "2024-03-15T21:15:00", "Al"),
        ("2024. 3. 15. 오전 9:15 - Al: x", "2024-03-15T09:15:00", "Al"),
        ("2024-03-15 21 h 15 - Al: x", "2024-03-15T21:15:00", "Al"),
        ("15/3/2567 21:15 - Al: x", "2024-03-15T21:15:00", "Al"),
        ("\u200f[\u200f15\u200f/3\u200f/2024، ٩:١٥:٠٧ م] Al: x", "2024-03-15T21:15:07", "Al"),
        (f"{LRM}[15/03/2024, 21:15:07] Al: x", "2024-03-15T21:15:07", "Al"),
        ("[15/03/2024, 21:15:07] ~\u202fAl: x", "2024-03-15T21:15:07", "~ Al"),
        ("15/03/2024, 21:15 - \u202a+46\u00a070 174 06 05\u202c: x", "2024-03-15T21:15:00", "+46 70 174 06 05"),
        ("15/03/2024, 21:15 - 🤓: x", "2024-03-15T21:15:00", "🤓"),
    ],
)  # fmt: skip
def test_every_shape_of_header_is_read(tmp_path: Path, line: str, local: str, author: str) -> None:
    """Local time and author, whatever the language of the phone."""
    (record,) = of_lines(tmp_path, line, me=author)

    assert (local, author, "x") == (record.sent_local, record.sender_name, record.text)


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_both_ends_of_lines_are_read(tmp_path: Path, bom: str, end: str) -> None:
    """A text of two lines is one message."""
    (tmp_path / "_chat.txt").write_bytes(f"{bom}[13/01/2024, 09:00:00] Jo: one{end}two{end}".encode())

    assert ["one\ntwo"] == [record.text for record in imported("whatsapp", tmp_path / "_chat.txt", tmp_path, "Jo")]


@pytest.mark.parametrize(
    ("dates", "day_first", "expected"),
    [
        (["1/2/24, 10:00", "13/2/24, 10:00"], None, ("dmy", True)),
        (["2/1/24, 10:00", "2/13/24, 10:00"], None, ("mdy", True)),
        (["2/1/24, 10:00", "2/13/24, 10:00"], True, ("mdy", True)),
        (["1/2/24, 10:00", "1/3/24, 10:00", "2/1/24, 10:00"], None, ("mdy", True)),
        (["1/2/24, 10:00", "1/3/24, 10:00", "2/1/24, 10:00"], True, ("dmy", True)),
        (["1/2/24, 10:00", "1/3/24, 10:00", "1/4/24, 10:00", "1/5/24, 10:00", "1/6/24, 10:00"], None, ("mdy", True)),
        (["1/2/24, 10:00"], None, ("dmy", False)),
        (["1/2/24, 10:00"], False, ("mdy", True)),
        (["1/2/24, 10:00 AM"], None, ("mdy", False)),
        (["1/2/24, 10:00 am"], None, ("dmy", False)),
        (["3/3/24, 10:00"], None, ("dmy", True)),
        (["24-01-15, 10:00", "24-02-20, 10:00", "24-02-21, 10:00", "24-02-22, 10:00"], None, ("ymd", True)),
        (["15-01-20, 10:00", "16-01-20, 10:00", "28-01-20, 10:00", "02-02-20, 10:00"], None, ("dmy", True)),
        (["2024/03/05, 10:00"], True, ("ymd", True)),
        (["2024/13/05, 10:00"], None, ("ydm", True)),
    ],
)  # fmt: skip
def test_the_dates_of_a_file_show_which_number_is_the_day(
    dates: list[str], day_first: bool | None, expected: tuple[str, bool]
) -> None:
    """Impossible days first, then what the user says, then time running backwards, then what changes more often."""
    headers = [header for date in dates if (header := header_of(f"{date} - Al: x"))]
    votes = DateVotes(headers[0].shape)
    for header in headers:
        votes.add(header.date)

    assert len(dates) == len(headers)
    assert expected == votes.order(day_first)


def test_an_order_that_nothing_decides_is_guessed_and_said(tmp_path: Path) -> None:
    """The note names the option that says otherwise; the option is silent."""
    (tmp_path / "_chat.txt").write_text("1/2/24, 10:00 - Jo: x\n")
    records, coverage = read("whatsapp", tmp_path / "_chat.txt", tmp_path, "Jo")
    told, quiet = read(
        "whatsapp", tmp_path / "_chat.txt", tmp_path, options=Options(("Jo",), zone=UTC, day_first=False)
    )

    assert ("2024-02-01T10:00:00", "2024-01-02T10:00:00") == (records[0].sent_local, told[0].sent_local)
    assert (1, 0) == (len(coverage.notes), len(quiet.notes))
    assert "--no-day-first" in coverage.notes[0]


def test_a_chat_that_shows_no_order_follows_the_others_of_its_phone(tmp_path: Path) -> None:
    """The chats of one phone are written alike."""
    (tmp_path / "a.txt").write_text("2/13/24, 10:00 - Jo: x\n2/13/24, 10:01 - Al: y\n")
    (tmp_path / "b.txt").write_text("1/2/24, 10:00 - Jo: x\n1/2/24, 10:00 - Bo: y\n")
    records, _ = read("whatsapp", tmp_path, tmp_path, "Jo")

    assert {"2024-02-13", "2024-01-02"} == {str(record.sent_local)[:10] for record in records}


def test_lines_in_another_shape_of_header_are_text_and_said(tmp_path: Path) -> None:
    """The width of the year, brackets, commas and the clock are all part of a shape."""
    pasted = [
        "[13/01/2024, 10:00:00] Al: a",
        "13/01/2024, 10:00 - Al: b",
        "13/01/24 10:00 - Al: c",
        "13.01.24, 10:00 - Al: d",
    ]
    (tmp_path / "_chat.txt").write_text("\n".join(["13/01/24, 09:00 - Jo: look", *pasted, "13/01/24, 09:05 - Al: ah"]))
    records, coverage = read("whatsapp", tmp_path / "_chat.txt", tmp_path, "Jo")

    assert ["\n".join(["look", *pasted]), "ah"] == [record.text for record in records]
    assert "4 lines" in coverage.notes[0]


def test_a_file_whose_whole_tail_is_in_another_shape_is_read_to_its_end(tmp_path: Path) -> None:
    """A new phone or language; the note says where."""
    old = [f"1/{day}/24, 09:00 - Jo: old" for day in range(13, 17)]
    new = [f"[{day}/02/2024, 09:00:00] Jo: new" for day in range(13, 17)]
    (tmp_path / "_chat.txt").write_text("\n".join(old + new))
    records, coverage = read("whatsapp", tmp_path / "_chat.txt", tmp_path, "Jo")

    assert [1] * 4 + [2] * 4 == [record.sent_at.month for record in records if record.sent_at]
    assert "line 5" in coverage.notes[0]


def test_lines_of_no_message_and_impossible_times_are_not_understood(tmp_path: Path) -> None:
    """They are counted by their line; what they say is never repeated."""
    lines = [
        "secret",
        "",
        "[13/01/2024, 09:00:00] Jo: x",
        "[13/13/2024, 09:00:00] Jo: y",
        "[13/01/2024, 29:00:00] Jo: z",
    ]
    (tmp_path / "_chat.txt").write_text("\n".join(lines))
    _, coverage = read("whatsapp", tmp_path / "_chat.txt", tmp_path, "Jo")

    assert (1, 3) == (coverage.kept, coverage.not_understood)
    assert "line 1:" in coverage.where[0]
    assert "secret" not in str(coverage.as_json())


def test_bytes_that_are_no_utf8_are_replaced_and_said(tmp_path: Path) -> None:
    """The message is kept."""
    (tmp_path / "_chat.txt").write_bytes(b"[13/01/2024, 09:00:00] Jo: caf\xe9\n")
    records, coverage = read("whatsapp", tmp_path / "_chat.txt", tmp_path, "Jo")

    assert (["caf\ufffd"], 1) == ([record.text for record in records], len(coverage.notes))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Al: hey", "Bo:Hi"], [("Al", "text", "hey"), ("Bo", "text", "Hi")]),
        (["Al: hey", "Al:see: this"], [("Al", "text", "hey"), ("Al", "text", "see: this")]),
        (["Al: a : b: c"], [("Al", "text", "a : b: c")]),
        (["Al:"], [("Al", "media", "")]),
        (["Al: "], [("Al", "media", "")]),
        (["Al: \n\nlate"], [("Al", "text", "\n\nlate")]),
        (["Al: x\n"], [("Al", "text", "x\n")]),
        ([f"Dr: No: {text}" for text in "abcdef"], [("Dr: No", "text", text) for text in "abcdef"]),
        (["Al: ok: a", "Al: ok: b", "Al: c"], [("Al", "text", "ok: a"), ("Al", "text", "ok: b"), ("Al", "text", "c")]),
        (['Al changed the subject from "a: b" to "c: d"', "Al: x"], [(None, "system", ""), ("Al", "text", "x")]),
        (["Al's security code changed. See https://x.y", "Al: x"], [(None, "system", ""), ("Al", "text", "x")]),
        (["You were added", "Al: x"], [(None, "system", ""), ("Al", "text", "x")]),
    ],
)  # fmt: skip
def test_the_author_stands_before_the_colon_that_ends_a_name(
    tmp_path: Path, lines: list[str], expected: list[tuple[str | None, str, str]]
) -> None:
    """A missing space, further colons and lines without any author."""
    records = of_lines(tmp_path, "13/01/24, 09:00 - Jo: hi", *(f"13/01/24, 10:00 - {line}" for line in lines))

    assert expected == said(records)[1:]


@pytest.mark.parametrize(
    ("body", "kind", "text", "flags"),
    [
        ("<Media omitted>", "media", "", []),
        ("<media omitted>\nmy caption", "text", "my caption", []),
        ("<Medien ausgeschlossen>", "media", "", []),
        ("<Archivo omitido>", "media", "", []),
        ("<メディアなし>", "media", "", []),
        (f"{LRM}image omitted", "media", "", []),
        (f"{LRM}sticker omitted", "media", "", ["sticker"]),
        (f"{LRM}Contact card omitted", "media", "", []),
        ("IMG-20240113-WA0001.jpg (file attached)", "media", "", []),
        ("IMG-20240113-WA0001.jpg (unknown tongue)", "media", "", []),
        ("my notes.pdf (Datei angehängt)\nread them", "text", "read them", []),
        (".jpg (archivo adjunto)", "media", "", []),
        ("STK-20240113-WA0001.webp (fichier joint)", "media", "", ["sticker"]),
        (f"{LRM}<attached: 00000042-PHOTO-2024-01-13-10-00-00.jpg>", "media", "", []),
        ("< attached: 00000042-PHOTO-2024-01-13-10-00-00.jpg >", "media", "", []),
        (f"2024-01-13-PHOTO-00004762.jpg <{LRM}attached>", "media", "", []),
        (f"words before {LRM}<attached: 00000042-PHOTO.jpg>", "text", "words before", []),
        (f"plan.pdf • {LRM}4 pages {LRM}document omitted", "media", "", []),
        (f"{LRM}<attached: 00000030-PHOTO.jpg> {LRM}<This message was edited>", "media", "", ["edited"]),
        ("x <This message was edited>", "text", "x", ["edited"]),
        (f"x {LRM}<unknown tongue>", "text", "x", ["edited"]),
        ("This message was deleted", "deleted", "", []),
        (f"{LRM}You deleted this message.", "deleted", "", []),
        ("Du hast diese Nachricht gelöscht.", "deleted", "", []),
        (f"{LRM}Missed voice call", "call", "", []),
        (f"{LRM}Voice call, {LRM}3 min", "call", "", []),
        ("Waiting for this message. This may take a while.", "media", "", ["missing"]),
        ("null", "media", "", ["missing"]),
        ("POLL:\nWhich?\nOPTION: a (1 vote)", "media", "", ["poll"]),
        ("location: https://maps.google.com/?q=1.0,2.0", "media", "", ["location"]),
        ("Contact: Tove.vcf", "media", "", []),
        (NOTICE, "system", "", []),
        (f"{LRM}Ana changed their phone number", "system", "", []),
        ("Ana left", "system", "", []),
        (f"{LRM}typed\nby a person", "text", "typed\nby a person", []),
        ("I left my keys", "text", "I left my keys", []),
        ("Ana added sugar", "text", "Ana added sugar", []),
        ("Jo left", "text", "Jo left", []),
        ("who removed the POLL:", "text", "who removed the POLL:", []),
        ("see notes.pdf (page 2)", "text", "see notes.pdf (page 2)", []),
        ("the plan (attached)", "text", "the plan (attached)", []),
        ("<3 you <3", "text", "<3 you <3", []),
        ("<grins>", "text", "<grins>", []),
        ("missed video call? I'll ring you", "text", "missed video call? I'll ring you", []),
        ("video call, maybe later?", "text", "video call, maybe later?", []),
        ("a <b> c", "text", "a <b> c", []),
        ("👩\u200d👩\u200d👧 e\u0301 a\u200eb", "text", "👩\u200d👩\u200d👧 e\u0301 a\u200eb", []),
    ],
)  # fmt: skip
def test_what_whatsapp_says_is_told_from_what_people_say(
    tmp_path: Path, body: str, kind: str, text: str, flags: list[str]
) -> None:
    """By its place, its mark or as a whole phrase, never by a part of one."""
    _, record = of_bodies(tmp_path, "before", body)

    assert (kind, text, flags) == (record.kind, record.text, record.flags)


def test_a_phrase_in_angle_brackets_that_recurs_is_a_medium_in_an_unknown_language(tmp_path: Path) -> None:
    """Three times the same; less often it may be typed."""
    records = of_bodies(tmp_path, "<ei mediaa>", "x", "<ei mediaa>", "<ei mediaa>", "<hm hm>")

    assert ["media", "text", "media", "media", "text"] == [record.kind for record in records]


def test_an_attachment_has_its_name_and_type(tmp_path: Path) -> None:
    """Also where a document's name stands as a caption."""
    records = of_bodies(
        tmp_path, "PTT-20240113-WA0002.opus (file attached)", "<Media omitted>\nplan.pdf", "Tove.vcf (file attached)"
    )
    found = [(attached.mime, attached.name) for record in records for attached in record.attachments]

    assert [
        ("audio/ogg", "PTT-20240113-WA0002.opus"),
        ("application/pdf", "plan.pdf"),
        ("text/vcard", "Tove.vcf"),
    ] == found
    assert ["media"] * 3 == [record.kind for record in records]


def test_an_author_who_only_says_what_whatsapp_says_is_no_person_but_names_the_group(tmp_path: Path) -> None:
    """As an iPhone writes groups, also those of two."""
    records = of_lines(
        tmp_path, f"[13/01/2024, 09:00:00] Fern club: {LRM}{NOTICE}",
        f"[13/01/2024, 09:00:00] Fern club: {LRM}Al added you",
        "[13/01/2024, 09:00:01] Jo: hi", "[13/01/2024, 09:00:02] Al: hi",
    )  # fmt: skip

    assert {("whatsapp:group:Fern club", "group", "Fern club")} == {
        (record.thread_id, record.thread_kind, record.thread_name) for record in records
    }
    assert [None, None, "Jo", "Al"] == [record.sender_name for record in records]


@pytest.mark.parametrize(
    ("file", "lines", "thread"),
    [
        ("_chat.txt", ["Jo: a", "Al: b"], "whatsapp:Al"),
        ("_chat.txt", ["Jo: a", "+46 70 174 06 05: b"], "+46701740605"),
        ("_chat.txt", ["Jo: a", f"Al: {LRM}{NOTICE}"], "whatsapp:Al"),
        ("WhatsApp Chat with Al.txt", ["Jo: a"], "whatsapp:Al"),
        ("WhatsApp Chat with Ferns (1).txt", ["Jo: a", "Al: b", "Bo: c"], "whatsapp:group:Ferns"),
        ("_chat.txt", ['Al created group "Ferns"', "Jo: a", "Al: b"], "whatsapp:group:Ferns"),
        ("_chat.txt", ['Al created group "Old"', 'Al changed the subject to "Ferns"', "Jo: a"], "whatsapp:group:Ferns"),
        ("_chat.txt", ["Jo: a", "Al: b", "Bo: c"], "whatsapp:group:2024-01-13T09:00:00"),
        ("ferns.txt", ["Jo: a", "Al: b", "Bo: c"], "whatsapp:group:ferns"),
    ],
)  # fmt: skip
def test_a_thread_is_the_other_side_or_the_group(tmp_path: Path, file: str, lines: list[str], thread: str) -> None:
    """The same in every export of a chat."""
    records = of_lines(tmp_path, *(f"13/01/2024, 09:00 - {line}" for line in lines), file=file)

    assert {thread} == {record.thread_id for record in records}
    assert {"group" if ":group:" in thread else "dm"} == {record.thread_kind for record in records}


@pytest.mark.parametrize(
    "file",
    [
        "WhatsApp Chat with Al.txt", "WhatsApp-Chat mit Al.txt", "Chat de WhatsApp con Al.txt",
        "与Al的 WhatsApp 聊天.txt",
        "Discussion WhatsApp avec Al (2).txt", "Keskustelu WhatsApp Al.txt",
    ],
)  # fmt: skip
def test_the_name_of_a_file_shows_whose_phone_wrote_it(tmp_path: Path, file: str) -> None:
    """Of two people, the one whom it does not name."""
    records = of_lines(tmp_path, "13/01/2024, 09:00 - Alma: a", "13/01/2024, 09:00 - Al: b", file=file, me="")

    assert {("Alma", True), ("Al", False)} == {(record.sender_name, record.from_me) for record in records}


def test_the_name_of_an_iphones_zip_shows_whose_phone_wrote_it(tmp_path: Path) -> None:
    """Its text file has the same name in every chat."""
    with zipfile.ZipFile(tmp_path / "WhatsApp Chat - Al.zip", "w") as archive:
        archive.writestr("_chat.txt", "[13/01/2024, 09:00:00] Jo: a\n[13/01/2024, 09:00:01] Al: b\n")
        archive.writestr("00000001-PHOTO.jpg", b"\xff\xd8")
    records = imported("whatsapp", tmp_path / "WhatsApp Chat - Al.zip", tmp_path)

    assert [True, False] == [record.from_me for record in records]


def chats(folder: Path, *names: str) -> Path:
    """A folder of one chat for each of *names*, whose letters are the people in it."""
    (folder / "in").mkdir()
    for number, people in enumerate(names):
        text = "".join(f"13/01/2024, 09:00 - {name}: x\n" for name in people)
        (folder / "in" / f"{number}.txt").write_text(text)
    return folder / "in"


def test_the_one_who_is_in_every_chat_is_taken_to_be_the_user(tmp_path: Path) -> None:
    """The note says so."""
    records, coverage = read("whatsapp", chats(tmp_path, "JA", "BJ", "JBC"), tmp_path)

    assert {"J"} == {record.sender_name for record in records if record.from_me}
    assert any("--me" in note for note in coverage.notes)


@pytest.mark.parametrize("people", [("JA",), ("JA", "JA"), ("JA", "BC")], ids=["one chat", "two in both", "none"])
def test_an_export_that_cannot_decide_asks(tmp_path: Path, people: tuple[str, ...]) -> None:
    """The question lists the people."""
    with pytest.raises(DataRefused) as refused:
        read("whatsapp", chats(tmp_path, *people), tmp_path)

    assert refused.value.code == "who_is_me"


def test_a_chat_exported_twice_is_kept_once(tmp_path: Path) -> None:
    """Equal messages of one minute within a file are both kept."""
    lines = ["13/01/24, 09:00 - Jo: ok", "13/01/24, 09:00 - Jo: ok", "13/01/24, 09:01 - Al: x"]
    (tmp_path / "WhatsApp Chat with Al.txt").write_text("\n".join(lines))
    (tmp_path / "WhatsApp Chat with Al (1).txt").write_text("\n".join([*lines, "13/01/24, 09:02 - Al: new"]))
    records, coverage = read("whatsapp", tmp_path, tmp_path)

    assert ["new", "ok", "ok", "x"] == sorted(record.text for record in records)
    assert {"duplicate": 3} == coverage.skipped


def test_a_damaged_zip_does_not_stop_its_siblings(tmp_path: Path) -> None:
    """What was whole is kept, the damage is said."""
    folder = tmp_path / "in"
    folder.mkdir()
    line = "[13/01/2024, 09:00:00] Jo: words that are long enough\n"
    for name in ("a", "b"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("_chat.txt", line * 50)
    data = bytearray((folder / "a.zip").read_bytes())
    data[200] ^= 1
    (folder / "a.zip").write_bytes(bytes(data))
    _, coverage = read("whatsapp", folder, tmp_path, "Jo")

    assert coverage.kept >= 50
    assert coverage.not_understood >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("13/01/24, 09:00 - Jo: x", True), (f"[13/01/2024, 09:00:00] Fern: {LRM}{NOTICE}", True),
        ("2024-01-13 09:00:00 INFO: started", False),
        ("[13/01/2024 9:15 PM] ana\nhello", False), ("dear diary", False), ("", False),
    ],
)  # fmt: skip
def test_only_text_files_with_headers_are_recognised(tmp_path: Path, text: str, expected: bool) -> None:
    """Logs of programs and other messengers' texts are not."""
    (tmp_path / "x.txt").write_text(text)
    try:
        found = find("auto", Export(tmp_path))[0] == "whatsapp"
    except DataRefused:
        found = False

    assert expected is found


def test_the_sample_is_whole(tmp_path: Path) -> None:
    """Nothing of it is skipped or not understood."""
    _, coverage = read("whatsapp", sample(tmp_path).path, tmp_path)

    assert (23, 0, []) == (coverage.kept, coverage.not_understood, coverage.notes)


def test_the_invented_history_comes_back(tmp_path: Path) -> None:
    """All that its exports hold: who, when (the Android ones without seconds), what kind and what words."""
    rows = [json.loads(line) for line in (EXAMPLE / "messages.jsonl").read_text(encoding="utf-8").splitlines()]
    threads = list(dict.fromkeys(row["thread_id"] for row in rows))
    expected = Counter(
        (
            row["thread_name"], row["thread_kind"], row["sender_name"], row["from_me"],
            row["sent_at"][:19] if threads.index(row["thread_id"]) % 2 else row["sent_at"][:16] + ":00",
            row["kind"], row["text"],
        )
        for row in rows if row["kind"] != "reaction"
    )  # fmt: skip
    found = Counter(
        (r.thread_name, r.thread_kind, r.sender_name, r.from_me, f"{r.sent_at:%Y-%m-%dT%H:%M:%S}", r.kind, r.text)
        for r in imported("whatsapp", EXAMPLE / "exports" / "whatsapp", tmp_path)
        if r.kind != "system"
    )

    assert expected == found


def kinds_of(records: Sequence[Record]) -> dict[str | None, int]:
    """Messages by name; those of nobody under "system"."""
    return dict(Counter("system" if record.kind == "system" else record.sender_name for record in records))


FILES = {
    "chat-analytics/2A_5M.txt": ("A", {"A": 3, "B": 2}),
    "chat-miner/test_ddmmyy_24hrs.txt": (
        "🤓", {"John Doe": 3, "Jahn Doe": 1, "John-John Doe": 1, "system": 2, "John Doe 🤓": 1, "🤓": 1},
    ),
    "chat-miner/test_mmddyyyy_12hrs.txt": (
        "🤓", {"John Doe": 3, "Jahn Doe": 1, "John-John Doe": 1, "system": 2, "John Doe 🤓": 1, "🤓": 1},
    ),
    "whats-reader/android-private-chat/WhatsApp Chat with Alice.txt": ("", {"Alice": 22, "Bob": 21, "system": 2}),
    "whats-reader/ios-group-chat/_chat.txt": ("Dad", {"Sarah": 8, "Mom": 10, "Dad": 8, "Jake": 7, "system": 6}),
    "whatstk/pokemon.txt": (
        "Misty", {"Ash Ketchum": 4, "Misty": 4, "Brock": 3, "Prof. Oak": 2, "Raichu": 2, "Jessie & James": 1,
                  "Meowth": 1, "Wobbuffet": 1, "system": 2},
    ),
    "whatstk/lorem.txt": ("Mary", {"Mary": 113, "+1 123 456 789": 145, "Giuseppe": 118, "John": 124}),
    "whatstk/lorem-merge-part1.txt": ("Mary", {"Mary": 80, "+1 123 456 789": 78, "Giuseppe": 75, "John": 67}),
}  # fmt: skip


def fixture(file: str, folder: Path, me: str, day_first: bool | None = None) -> tuple[list[Record], Coverage]:
    """What importing a sample file gives."""
    return read(
        "whatsapp", FIXTURES / file, folder, options=Options((me,) if me else (), zone=UTC, day_first=day_first)
    )


@needs_fixtures
@pytest.mark.parametrize("file", FILES)
def test_sample_files_hold_what_their_notes_say(tmp_path: Path, file: str) -> None:
    """Messages by author; none not understood."""
    me, expected = FILES[file]
    records, coverage = fixture(file, tmp_path, me)

    assert (expected, 0) == (kinds_of(records), coverage.not_understood)


@needs_fixtures
def test_a_sample_out_of_order_keeps_the_order_of_its_minute(tmp_path: Path) -> None:
    """By time and then by line, the late one comes last of its minute."""
    records, _ = fixture("chat-analytics/2A_5M.txt", tmp_path, "A")
    in_time = sorted(records, key=lambda record: (str(record.sent_at), record.order))

    assert [1, 2, 3, 5, 4] == [record.order for record in in_time]


@needs_fixtures
def test_both_orders_of_one_sample_give_the_same_times(tmp_path: Path) -> None:
    """Day first on 24 hours, month first on twelve; the texts of two lines keep their break."""
    first, _ = fixture("chat-miner/test_ddmmyy_24hrs.txt", tmp_path, "🤓")
    second, _ = fixture("chat-miner/test_mmddyyyy_12hrs.txt", tmp_path, "🤓")

    assert [(r.sent_at, r.text) for r in first] == [(r.sent_at, r.text) for r in second]
    assert [1, 1] == [record.text.count("\n") for record in first if "\n" in record.text]


@needs_fixtures
def test_the_catalogue_of_headers_is_read() -> None:
    """Times as its authors expect them, day first unless that is impossible."""
    cases = json.loads((FIXTURES / "extracted_lines" / "pustur_cases.json").read_text(encoding="utf-8"))
    found = []
    for case in cases["headers"]:
        header = header_of(case["line"])
        assert header is not None
        votes = DateVotes(header.shape)
        votes.add(header.date)
        local = local_time(header, votes.order(day_first=True)[0])
        found.append(local.isoformat() if local else None)

    assert [case["local_iso"] for case in cases["headers"]] == found


@needs_fixtures
def test_the_catalogue_of_formats_is_read() -> None:
    """All ninety-six, with years of two and of four digits."""
    values = {"%m": "11", "%d": "05", "%H": "21", "%I": "09", "%M": "15", "%S": "33", "%p": "PM", "%name": "Al Bo"}
    missed = []
    for entry in json.loads((FIXTURES / "whatstk" / "header_format_support.json").read_text(encoding="utf-8")):
        for year in ("2020", "20"):
            line = entry["format"].replace("%y", year) + " hi"
            for field, value in values.items():
                line = line.replace(field, value)
            header = header_of(line)
            if header is None or header.rest != "Al Bo: hi" or header.time[:2] != (21, 15):
                missed.append(line)

    assert missed == []


@needs_fixtures
def test_lines_from_reports_of_faults_are_read(tmp_path: Path) -> None:
    """Each line is a message, and none of a person's is lost."""
    for case in json.loads((FIXTURES / "extracted_lines" / "issue_lines.json").read_text(encoding="utf-8")):
        (tmp_path / "_chat.txt").write_text("\n".join(case["lines"]), encoding="utf-8")
        export = Export(tmp_path / "_chat.txt")
        name, source = find("auto", export)
        items = list(source.read(export, Options(("nobody",), zone=UTC)))

        assert (name, len(case["lines"])) == ("whatsapp", sum(isinstance(item, Record) for item in items))
