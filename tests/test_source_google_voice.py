"""Pages of Google Voice."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given

from tests.histories import History, histories, imported
from tests.hostile import QUICK
from tests.writers.google_voice import ME, call, me, members, message, number, page, participants, person, write
from training.records import Record
from training.sources.export import Export
from training.sources.google_voice import read, recognises
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.registry import find

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "google_voice"
ANA, BEN = person(number(1), "Ana Example"), person(number(2))
AT = "2024-02-28T18:50:00.000-05:00"
LATER = "2024-02-28T18:51:00.000-05:00"
STAMP = "2024-02-28T23_50_00Z"
IMAGE = '<div><img src="a-1-1" alt="Image MMS Attachment" /></div>'


def expressible(history: History) -> History:
    """A page has no NUL, its carriage returns are line ends of its source, a break at the end may be Google's own."""
    said = [replace(one, text=re.sub("[\0\r]", "?", one.text).rstrip("\n")) for one in history.said]
    return replace(history, said=tuple(said))


def items(folder: Path, pages: dict[str, str], *me: str) -> list[Item]:
    """What reading *pages* gives, by file name without its ending."""
    for name, content in pages.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return list(read(Export(folder), Options(me=me, zone=UTC)))


def records(found: Sequence[Item]) -> list[Record]:
    """The records among *found*."""
    return [item for item in found if isinstance(item, Record)]


def told(found: Sequence[Item]) -> list[str]:
    """What was said about the others."""
    names = {Skipped: "reason", NotUnderstood: "where", Note: "text"}
    return [getattr(item, names[type(item)]) for item in found if not isinstance(item, Record)]


@QUICK
@given(histories().map(expressible))
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Who said what, where and when, though it is spread over pages that are not in order."""
    with TemporaryDirectory() as name:
        found = imported("google-voice", write(history, Path(name)), Path(name))
    by_thread: dict[str, list[Record]] = {}
    for record in sorted(found, key=lambda record: record.sent_at or datetime.max):
        by_thread.setdefault(record.thread_id, []).append(record)

    assert sum(map(len, by_thread.values())) == len(history.said)
    for thread in {said.thread for said in history.said}:
        is_group = thread in history.groups
        thread_id = ",".join(map(number, members(thread))) if is_group else number(thread + 1)
        assert [
            ("group" if is_group else "dm", said.sender == 0, number(said.sender), said.at, said.text)
            for said in history.said
            if said.thread == thread
        ] == [
            (r.thread_kind, r.from_me, r.sender_id, r.sent_at.replace(microsecond=0) if r.sent_at else None, r.text)
            for r in by_thread[thread_id]
        ]


@pytest.mark.parametrize(
    ("words", "more", "expected"),
    [
        ("one<br>two<br><br>three<br>", "", ("text", "one\ntwo\n\nthree", [])),
        ("Ana&#39;s &lt;b&gt; &amp;amp; &quot;x&quot;", "", ("text", 'Ana\'s <b> &amp; "x"', [])),
        ("\n    wrapped by\n    an editor<br />\n   here\n  ", "", ("text", "wrapped by an editor\nhere", [])),
        ("two  spaces ", "", ("text", "two  spaces ", [])),
        ("MMS Received", IMAGE, ("media", "", [("image", "a-1-1")])),
        ("MMS Sent", "", ("media", "", [])),
        ("", IMAGE, ("media", "", [("image", "a-1-1")])),
        ("look", IMAGE + IMAGE, ("text", "look", [("image", "a-1-1"), ("image", "a-1-1")])),
        ("", '<div><audio src="b"></audio></div>', ("media", "", [("audio", "b")])),
        ("", '<div><a class="video" href="c">Video</a></div>', ("media", "", [("video", "c")])),
        ("", '<div><a class="vcard" href="d">Card</a></div>', ("media", "", [("text/vcard", "d")])),
    ],
)
def test_words_and_what_was_sent_along(tmp_path: Path, words: str, more: str, expected: object) -> None:
    """Line breaks are kept; a placeholder is no text."""
    (record,) = records(items(tmp_path, {f"Ana - Text - {STAMP}": page(message(AT, ANA, words, more))}))

    assert expected == (record.kind, record.text, [(a.mime, a.name) for a in record.attachments])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (f"- Missed - {STAMP}", call("", ""), ["call"]),
        (f"+14025550101 - {STAMP}", call(number(1)), ["call"]),
        (f"Ana - Voicemail - {STAMP}", call(number(1), "Ana"), ["call"]),
        (f"Ana - Text - {STAMP}", page(message(AT, ANA, "")), ["empty"]),
        (f"262966 - Text - {STAMP}", page(message(AT, person("262966"), "code")), ["business"]),
        (f"262966 - Text - {STAMP}", page(message(AT, me(), "STOP")), ["business"]),
        (f"x - Text - {STAMP}", page(message(AT, me(), "a"), message(AT, person(ME), "a")), ["self_chat"] * 2),
        (f"Ana - Text - {STAMP}", page(message(AT, ANA, "hi"), deleted="True"), ["recently_deleted"]),
        (f"Ana - Text - {STAMP}", page(message("soon", ANA, "hi")), ["message 1: no time that can be read"]),
        (f"Ana - Text - {STAMP}", page(message(AT, "", "hi")), ["message 1: no sender that can be read"]),
        (f"Ana - Text - {STAMP}", "<html></html>", ["neither a conversation nor a call"]),
        (
            f"Group Conversation - {STAMP}",
            page(message(AT, person(""), "hi"), group=participants(ANA, BEN)),
            ["message 1: nobody is named who sent it"],
        ),
    ],
)
def test_what_is_no_message_is_counted(tmp_path: Path, name: str, content: str, said: list[str]) -> None:
    """Calls, services, notes to myself, what the user deleted, what cannot be read."""
    found = items(tmp_path, {name: content})

    assert [] == records(found)
    assert len(said) == len(told(found)) and all(map(str.endswith, told(found), said))


def test_a_page_of_mine_alone_belongs_to_the_contact(tmp_path: Path) -> None:
    """By the number that another page, even of a call, gives the name; by the name where there is none."""
    found = items(
        tmp_path,
        {
            f"Ana Example - Missed - {STAMP}": call(number(1), "Ana Example"),
            f"Ana Example - Text - {STAMP}": page(message(AT, me(), "ana?"), title="Me to\nAna Example"),
            f"{number(2)} - Text - {STAMP}": page(message(AT, me(), "ben?"), title="Me to\n"),
            f"Cy - Text - {STAMP}": page(message(AT, me(), "cy?")),
            f" - Text - {STAMP}": page(message(AT, me(), "who?")),
        },
    )

    assert {
        "ana?": number(1),
        "ben?": number(2),
        "cy?": "google-voice:Cy",
        "who?": f"google-voice: - Text - {STAMP}.html",
    } == {record.text: record.thread_id for record in records(found)}


def test_a_group_is_its_members_without_me(tmp_path: Path) -> None:
    """Whoever of them wrote; e-mail addresses are members too."""
    group = participants(BEN, ANA, person("Jo@Example.com", "jo"), person(ME))
    found = records(items(tmp_path, {f"Group Conversation - {STAMP}": page(message(AT, me(), "hi"), group=group)}))

    assert [(f"{number(1)},{number(2)},jo@example.com", "group")] == [(r.thread_id, r.thread_kind) for r in found]


def test_a_page_that_was_downloaded_twice_counts_once(tmp_path: Path) -> None:
    """The same words twice in one page are two messages."""
    content = page(message(AT, ANA, "ok"), message(AT, ANA, "ok"))
    more = page(message(AT, ANA, "ok"), message(LATER, ANA, "ok"))
    found = items(
        tmp_path, {f"A - Text - {STAMP}": content, f"A - Text - {STAMP} (1)": content, f"B - Text - {STAMP}": more}
    )

    assert 3 == len(records(found))
    assert ["duplicate"] * 3 == told(found)


def test_the_list_of_phones_says_which_number_is_mine(tmp_path: Path) -> None:
    """So that a conversation with myself is known where only the other side is in it."""
    (tmp_path / "Phones.vcf").write_text(
        f"BEGIN:VCARD\r\nitem1.TEL:{number(2)}\r\nitem1.X-ABLabel:\r\n"
        f"item2.TEL;TYPE=x:{ME}\r\nitem2.X-ABLabel:Google Voice\r\nEND:VCARD\r\n"
    )
    pages = {
        f"x - Text - {STAMP}": page(message(AT, person(ME), "a")),
        f"y - Text - {STAMP}": page(message(AT, BEN, "b")),
    }

    assert ["self_chat"] == told(items(tmp_path, pages))


def test_a_page_that_was_cut_off_gives_the_messages_before(tmp_path: Path) -> None:
    """And says so."""
    name = f"Ana - Text - {STAMP}"
    whole = page(message(AT, ANA, "one"), message(LATER, ANA, "two is long"))
    found = items(tmp_path, {name: whole[: whole.index(" is long")]})

    assert ["one"] == [record.text for record in records(found)]
    assert [f"'{name}.html' message 2: no text that can be read", f"'{name}.html' was cut off: it has no end"] == told(
        found
    )


def test_markup_that_does_not_fit_costs_one_message(tmp_path: Path) -> None:
    """The next begins where it begins."""
    name = f"Ana - Text - {STAMP}"
    broken = page(message(AT, ANA, "one").replace("</q>", ""), message(LATER, ANA, "two"))

    assert ["two"] == [record.text for record in records(items(tmp_path, {name: broken}))]
    assert ["one"] == [
        record.text for record in records(items(tmp_path, {name: page(message(AT, ANA, "one")) + "<![odd"}))
    ]


def test_a_time_without_a_zone_is_local(tmp_path: Path) -> None:
    """And kept as it was written."""
    (record,) = records(items(tmp_path, {f"Ana - Text - {STAMP}": page(message("2024-02-28T18:50:00", ANA, "hi"))}))

    assert (datetime(2024, 2, 28, 18, 50, tzinfo=UTC), "2024-02-28T18:50:00") == (record.sent_at, record.sent_local)


def test_names_and_labels_are_kept(tmp_path: Path) -> None:
    """Spam is a flag."""
    content = page(message(AT, ANA, "hi"), labels="sms spam", title="Ana Example")
    (record,) = records(items(tmp_path, {f"Ana Example - Text - {STAMP}": content}))

    assert ("Ana Example", "Ana Example", ["spam"]) == (record.thread_name, record.sender_name, record.flags)


def test_pages_are_recognised_by_name_or_content(tmp_path: Path) -> None:
    """Other web pages are none, and are not read."""
    (tmp_path / "archive_browser.html").write_text("<html></html>")
    assert not recognises(Export(tmp_path))

    (tmp_path / "odd.html").write_text(page(message(AT, ANA, "hi")))
    assert recognises(Export(tmp_path)) and "google-voice" == find("auto", Export(tmp_path))[0]
    assert ["hi"] == [record.text for record in records(list(read(Export(tmp_path), Options())))]

    (tmp_path / "odd.html").rename(tmp_path / f" - Text - {STAMP}.html")
    assert recognises(Export(tmp_path))


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the samples of others are not here")
def test_single_pages_of_another_program_are_read() -> None:
    """As many rows of each kind as their description says."""
    counts = {}
    for name in ("sms", "sms2", "mms", "missedcall", "voicemail"):
        found = records(list(read(Export(FIXTURES / "psanford" / f"{name}.html"), Options())))
        counts[name] = [
            sum(r.kind == kind and r.from_me == mine for r in found)
            for kind in ("text", "media")
            for mine in (True, False)
        ]

    assert {
        "sms": [1, 3, 1, 0], "sms2": [5, 0, 1, 0], "mms": [0, 3, 2, 1], "missedcall": [0] * 4, "voicemail": [0] * 4
    } == counts  # fmt: skip


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the samples of others are not here")
def test_a_folder_of_another_program_is_read() -> None:
    """Texts, media and mine of each conversation; 6 calls, one conversation with myself."""
    found = list(read(Export(FIXTURES / "lbeder"), Options()))
    counts: dict[str, list[int]] = {}
    for record in records(found):
        count = counts.setdefault(record.thread_id, [0, 0, 0])
        count[0] += record.kind == "text"
        count[1] += record.kind == "media"
        count[2] += record.from_me

    assert {
        "+12025550149": [1, 1, 0],
        "+14045550102": [3, 1, 1],
        "+17015550147": [2, 1, 1],
        "+17175550148,+18605550137": [4, 1, 2],
        "+17175550148,+18605550137,john@example.com": [2, 1, 0],
    } == counts
    assert ["call"] * 6 + ["self_chat"] * 2 == sorted(told(found))
