"""Exports of a Slack workspace."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given

from errors import DataRefused
from tests.histories import History, histories, imported, read
from tests.hostile import QUICK
from tests.writers.slack import ME, row, sample, save, user, write, zipped
from training.history import Coverage
from training.records import Record
from training.sources import slack
from training.sources.export import Export
from training.sources.options import Options
from training.sources.outcome import Item, NotUnderstood, Skipped
from training.sources.registry import find

FIXTURE = Path(__file__).resolve().parents[1].parent / "shared" / "fixtures" / "slack" / "langchain_slack_export.zip"
LISTS = {
    "users": [user(0), user(1), user(2), user(3, is_bot=True)],
    "channels": [{"id": "C01", "name": "crew", "members": [ME, "U01"]}],
    "dms": [{"id": "D01", "members": [ME, "U01"]}, {"id": "D02", "members": [ME, ME]},
            {"id": "D03", "members": ["U01", "U02"]}, {"id": "D04", "members": [ME, "U03"]}],
    "mpims": [{"id": "G01", "name": "mpdm-a--b--c-1", "members": [ME, "U01", "U02"]}],
}  # fmt: skip


def exported(folder: Path, *rows: Any, place: str = "crew", **lists: Any) -> Path:
    """An export of one day in which I said something first."""
    days = {"crew/2024-05-01": [row(0, "1714550000.000100", "hi")]}
    days[f"{place}/2024-05-02"] = list(rows)
    return save(days, folder / "workspace", **{**LISTS, **lists})


def records(folder: Path, *rows: Any, place: str = "crew") -> list[Record]:
    return read("slack", exported(folder, *rows, place=place), folder, ME)[0][1:]


def report(folder: Path, *rows: Any, place: str = "crew") -> Coverage:
    return read("slack", exported(folder, *rows, place=place), folder, ME)[1]


def items(path: Path, *me: str) -> list[Item]:
    return list(slack.read(Export(path), Options(me=me)))


@QUICK
@given(histories())
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Who said what, where and when, to the letter; conversation by conversation."""
    with TemporaryDirectory() as name:
        found = imported("auto", write(history, Path(name)), Path(name), "person 0")
    ordered = sorted(history.said, key=lambda said: (said.thread in history.groups, said.thread))

    assert [(r.thread_id, r.thread_kind, r.from_me, r.sender_id, r.text) for r in found] == [
        (f"slack:C0{s.thread}" if s.thread in history.groups else f"slack:U0{s.thread + 1}",
         "group" if s.thread in history.groups else "dm", s.sender == 0, f"slack:U0{s.sender or 'ME'}", s.text)
        for s in ordered
    ]  # fmt: skip
    assert [r.sent_at and r.sent_at.replace(microsecond=0) for r in found] == [s.at for s in ordered]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&lt;b&gt; &amp;amp; &amp;lt;", "<b> &amp; &lt;"),
        ("hi <@U01> and <@U01|ana>", "hi @Person 1 and @Person 1"),
        ("<@U99|ana> <@U99>", "@ana @someone"),
        ("<#C01> <#C01|crew> <#C01|> <#C99>", "#crew #crew #crew #channel"),
        ("<!here> <!channel> <!subteam^S01|@cooks> <!subteam^S01>", "@here @channel @cooks @subteam"),
        ("<!date^1392734382^{date}|on Monday>", "on Monday"),
        ("<https://example.com/?a=1&amp;b=2>", "https://example.com/?a=1&b=2"),
        ("<https://example.com|our &lt;page&gt;>", "our <page>"),
        ("<mailto:jo@example.com|jo@example.com> <tel:+14025550101|402 555 0101>", "jo@example.com 402 555 0101"),
        ("<tel:+14025550101> <mailto:jo@example.com>", "+14025550101 jo@example.com"),
        ("a <b> c <", "a <b> c <"),
        (":tada: :+1::skin-tone-3: :rocket: :crew_logo: 10:30:45", "🎉 👍🏼 🚀 :crew_logo: 10:30:45"),
        ("*bold* _and_ `code`\n&gt; quoted", "*bold* _and_ `code`\n> quoted"),
    ],
)
def test_markup_becomes_what_was_shown(text: str, expected: str, tmp_path: Path) -> None:
    """Unescaped once, with names for ids and labels for links."""
    (record,) = records(tmp_path, row(1, "1714640000.000100", text))

    assert record.text == expected


def test_blocks_say_which_characters_an_emoji_is(tmp_path: Path) -> None:
    """Newer rows carry them; codes that are none are left."""
    known = [("kite", "1fa81"), ("family", "1f468-200d-1f467"), ("odd", "d800"), ("odder", "ffffff"), ("oddest", 7)]
    blocks = [{"elements": [{"elements": [{"type": "emoji", "name": n, "unicode": u} for n, u in known]}]}, None, 5]
    (record,) = records(tmp_path, row(1, "1714640000.000100", ":kite: :family: :odd: :odder: :oddest:", blocks=blocks))

    assert record.text == "🪁 👨\u200d👧 :odd: :odder: :oddest:"


PHOTO = {"id": "F01", "name": "boat.jpg", "mimetype": "image/jpeg"}
UPLOADED = "<@U01|ana> uploaded a file: <https://files.example|boat>"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("text", "hi", [])),
        ({"subtype": "me_message"}, ("text", "hi", [])),
        ({"subtype": "thread_broadcast"}, ("text", "hi", [])),
        ({"subtype": "file_share", "files": [PHOTO]}, ("text", "hi", [])),
        ({"files": [PHOTO]}, ("text", "hi", [])),
        ({"files": [PHOTO], "text": ""}, ("media", "", [])),
        ({"files": [{"mode": "tombstone"}], "text": None}, ("media", "", [])),
        ({"edited": {"ts": "1714640005.000000"}}, ("text", "hi", ["edited"])),
        ({"bot_id": "B01"}, ("text", "hi", ["auto"])),
        ({"attachments": [{"is_share": True}], "text": ""}, ("media", "", ["forwarded"])),
        ({"subtype": "file_share", "file": PHOTO, "text": UPLOADED}, ("media", "", [])),
        ({"subtype": "file_share", "file": {"initial_comment": {"comment": "us"}}}, ("text", "us", [])),
        ({"subtype": "file_comment", "comment": {"comment": "nice", "user": "U02"}}, ("text", "nice", [])),
        ({"subtype": "channel_join"}, ("system", "", [])),
        ({"subtype": "bot_add"}, ("system", "", [])),
        ({"subtype": "a_new_one"}, ("system", "", [])),
        ({"subtype": "tombstone", "user": "USLACKBOT", "hidden": True}, ("deleted", "", [])),
        ({"subtype": "huddle_thread"}, ("call", "", [])),
        ({"subtype": "bot_message", "user": None, "bot_id": "B01"}, "bot"),
        ({"user": "U03"}, "bot"),
        ({"user": "U77", "bot_id": "B01"}, "bot"),
        ({"user": "USLACKBOT"}, "bot"),
        ({"subtype": "message_changed", "hidden": True}, "hidden"),
        ({"subtype": "reply_broadcast"}, "duplicate"),
        ({"type": "reaction_added"}, "event"),
        ({"text": " "}, "empty"),
        ({"text": ["hi"]}, None),
        ({"ts": None}, None),
        ({"ts": "yesterday"}, None),
        ({"ts": "99999999999.000001"}, ("text", "hi", [])),
    ],
)  # fmt: skip
def test_each_row_is_what_its_subtype_says(more: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    """A record; skipped for a reason; or not understood."""
    found = items(exported(tmp_path, {**row(1, "1714640000.000100", "hi"), **more}), ME)[1]

    if expected is None:
        assert isinstance(found, NotUnderstood)
    elif isinstance(expected, str):
        assert found == Skipped(expected)
    else:
        assert isinstance(found, Record) and (found.kind, found.text, found.flags) == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("crew", ("slack:C01", "group", "crew")), ("D01", ("slack:U01", "dm", "Person 1")), ("D02", "self_chat"),
        ("D03", "others_chat"), ("D04", "bot"), ("mpdm-a--b--c-1", ("slack:G01", "group", "mpdm-a--b--c-1")),
        ("unlisted", ("slack:unlisted", "group", "unlisted")), ("D0AB12", ("slack:D0AB12", "dm", "D0AB12")),
    ],
)  # fmt: skip
def test_each_conversation_is_of_its_kind(place: str, expected: Any, tmp_path: Path) -> None:
    """A direct one is called as the other side; those without me, or with a program, are none of mine."""
    found = items(exported(tmp_path, row(0, "1714640000.000100", "hi"), place=place), ME)
    record = next(item for item in found if isinstance(item, Skipped) or item.sent_at.day == 2)

    if isinstance(expected, str):
        assert record == Skipped(expected)
    else:
        assert isinstance(record, Record)
        assert (record.thread_id, record.thread_kind, record.thread_name) == expected


def test_an_answer_names_the_message_that_began_its_thread(tmp_path: Path) -> None:
    """The beginning itself answers nothing."""
    first = row(1, "1714640000.000100", "lunch?", thread_ts="1714640000.000100", reply_count=1)
    one, two = records(tmp_path, first, row(0, "1714640009.000100", "ya", thread_ts="1714640000.000100"))

    assert (one.reply_to, two.reply_to) == (None, one.source_id)


def test_without_me_the_likeliest_are_asked_for(tmp_path: Path) -> None:
    """Who is in most direct conversations; names that two people share are told apart by account."""
    namesakes = [user(0), user(1), user(2, profile={"display_name": "Person 1"})]
    export = exported(tmp_path, row(2, "1714640000.000100", "hi"), users=namesakes)

    with pytest.raises(DataRefused) as refused:
        items(export)
    assert refused.value.code == "who_is_me" and refused.value.details == ["Person 0", "U01", "U02", "U03"]


@pytest.mark.parametrize("me", [ME, "u0me", "Person 0", "person0", "PERSON 0 Bell", "person0@example.com"])
def test_me_may_be_any_of_the_names(me: str, tmp_path: Path) -> None:
    """The account, the display, real and user name, or the address."""
    assert read("slack", exported(tmp_path), tmp_path, me)[1].mine == 1


def test_a_name_that_several_people_bear_is_asked_about(tmp_path: Path) -> None:
    """Accounts tell them apart, and both may be mine."""
    export = exported(tmp_path, users=[user(0), user(1, real_name="Person 0")])

    with pytest.raises(DataRefused) as refused:
        items(export, "Person 0")
    assert refused.value.details == [ME, "U01"]
    assert len(items(export, ME, "U01", "Person 0")) == 1


def test_people_who_are_in_no_list_are_known_by_their_messages(tmp_path: Path) -> None:
    """As me, too, and from the first message on."""
    profile = {"display_name": "", "real_name": "Ida Holm", "name": "ida"}
    rows = [{**row(7, f"171464000{n}.000100", "hi"), **more} for n, more in enumerate([{}, {"user_profile": profile}])]
    found = [item for item in items(exported(tmp_path, *rows), "Ida Holm") if isinstance(item, Record)]

    assert [(r.sender_name, r.from_me) for r in found] == [("Person 0", False), ("Ida Holm", True), ("Ida Holm", True)]


def test_exports_that_overlap_count_once(tmp_path: Path) -> None:
    """Two zips of a workspace in one folder."""
    folder = tmp_path / "both"
    for name in ("january", "february"):
        rows = [row(1, "1714640000.000100", "hi"), row(1, "1714640000.000200", "hi")]
        zipped(exported(folder / name, *rows)).rename(folder / f"{name}.zip")
        for file in sorted((folder / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    coverage = read("auto", folder, tmp_path, ME)[1]

    assert (coverage.kept, coverage.skipped) == (3, Counter(duplicate=3))


def test_damaged_files_do_not_stop_the_others(tmp_path: Path) -> None:
    """What is whole in them is kept; lists that cannot be read are told."""
    export = exported(tmp_path, row(1, "1714640000.000100", "hi"), 5, row(1, "1714640001.000100", "ho"))
    (export / "crew" / "2024-05-03.json").write_text('{"messages": []}')
    (export / "crew" / "2024-05-04.json").write_text("[]")
    (export / "crew" / "2024-05-05.json").write_text(json.dumps([row(1, "1714640002.000100", "hm")])[:-3])
    (export / "dms.json").write_text("[{")
    coverage = read("slack", export, tmp_path, ME)[1]

    assert coverage.kept == 3 and len(coverage.notes) == 1
    assert [where.split("'")[-1] for where in coverage.where] == [
        "crew/2024-05-02.json entry 2: no object", "crew/2024-05-03.json: not a list of messages",
        " is not whole JSON: it was read as far as it goes (IncompleteJSONError)",
    ]  # fmt: skip


def test_a_single_channel_and_a_single_day_are_recognised(tmp_path: Path) -> None:
    """By what is in them; other JSON files are not."""
    export = exported(tmp_path, row(1, "1714640000.000100", "hi"))
    day = export / "crew" / "2024-05-02.json"
    (tmp_path / "2024-05-02.json").write_text('[{"when": 1}]')

    assert [find("auto", Export(path))[0] for path in (export, export / "crew", day)] == ["slack"] * 3
    assert not slack.recognises(Export(tmp_path / "2024-05-02.json"))
    assert [r.thread_id for r in items(export / "crew", "U01") if isinstance(r, Record)] == ["slack:crew"] * 2


def test_the_sample_is_whole(tmp_path: Path) -> None:
    """It has some of everything, all of it understood."""
    made = sample(tmp_path)
    coverage = read("auto", made.path, tmp_path, *made.me)[1]

    assert coverage.kinds == Counter(text=4, media=1, system=1, deleted=1)
    assert (coverage.skipped, coverage.not_understood, coverage.notes) == (Counter(bot=1), 0, [])


@pytest.mark.skipif(not FIXTURE.exists(), reason="no fixtures beside the repository")
def test_the_public_sample_has_four_texts_and_one_system_row() -> None:
    """All by one user, who is not in users.json."""
    found = items(FIXTURE, "U0500003428")
    records = [item for item in found if isinstance(item, Record)]

    assert len(found) == len(records) == 5
    assert Counter((r.thread_name, r.kind) for r in records) == {
        ("general", "text"): 2, ("random", "text"): 1, ("example-channel", "text"): 1, ("example-channel", "system"): 1,
    }  # fmt: skip
    assert all(r.from_me for r in records)
