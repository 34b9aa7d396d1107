"""Backups of "SMS Backup & Restore"."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given

from tests.histories import History, histories, imported
from tests.hostile import QUICK
from tests.writers.sms import ME, backup, element, members, mms, number, picture, sent_at, sms, text, write
from training.records import Record
from training.sources.export import Export
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.registry import find
from training.sources.sms import read, recognises

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "sms"
AT = 1_709_164_800_000
ANA, BEN = number(1), number(2)
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def expressible(history: History) -> History:
    """XML has no control characters and no U+FFFE; "null" is how a backup writes that there is no text."""
    said = [replace(said, text=_FORBIDDEN.sub("?", said.text)) for said in history.said]
    return replace(history, said=tuple(replace(s, text="nil") if s.text == "null" else s for s in said))


def items(folder: Path, content: str | bytes, *me: str, region: str | None = None) -> list[Item]:
    """What reading a backup with *content* gives."""
    path = folder / "sms.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(Export(path), Options(me=me, region=region, zone=UTC)))


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
    """Who said what, where and when, to the letter and to the millisecond."""
    with TemporaryDirectory() as name:
        found = imported("sms", write(history, Path(name)), Path(name))

    assert [
        (
            ",".join(map(number, members(said.thread))) if said.thread in history.groups else number(said.thread + 1),
            "group" if said.thread in history.groups else "dm",
            number(said.sender) if said.sender else None,
            datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=sent_at(history, index)),
            said.text,
        )
        for index, said in enumerate(history.said)
    ] == [(r.thread_id, r.thread_kind, r.sender_id, r.sent_at, r.text) for r in found]
    assert [said.sender == 0 for said in history.said] == [record.from_me for record in found]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (sms(ANA, AT, "3", "not yet"), "draft"),
        (sms(ANA, AT, "4", "not yet"), "not_sent"),
        (sms(ANA, AT, "5", "not yet"), "not_sent"),
        (sms(ANA, AT, "6", "not yet"), "not_sent"),
        (sms(ANA, AT, "1", ""), "empty"),
        (sms(ANA, AT, "1", "null"), "empty"),
        (sms("12345", AT, "1", "code"), "business"),
        (sms("12345", AT, "2", "STOP"), "business"),
        (sms("BANK-OF X", AT, "1", "offer"), "business"),
        (sms(ME, AT, "1", "note to self"), "self_chat"),
        (mms(ANA, AT, "1", [], []), "empty"),
        (mms(ANA, AT, "1", [], [], m_type="130"), "not_downloaded"),
        (mms(ANA, AT, "1", [], [], sub="Only this"), "subject_only"),
        (mms(ANA, AT, "1", [], [], sub="NoSubject"), "empty"),
        (element("call", number=ANA, type="1", date="1"), "call"),
        (sms(ANA, AT, "9", "x"), "sms.xml entry 1: neither received nor sent"),
        (sms("null", AT, "1", "x"), "sms.xml entry 1: no address"),
        (mms("null", AT, "1", [text("x")], []), "sms.xml entry 1: no address"),
        (mms("group_1@rcs.google.com", AT, "1", [text("x")], []), "sms.xml entry 1: nobody is named who sent it"),
        (element("strange"), "sms.xml entry 1: neither a message nor a call"),
    ],
)
def test_an_entry_that_is_no_message_is_counted(tmp_path: Path, entry: str, said: str) -> None:
    """Each gives one item and its reason."""
    assert [said] == told(items(tmp_path, backup(entry), ME))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"date": "1709164800123"}, datetime(2024, 2, 29, 0, 0, 0, 123000, tzinfo=UTC)),
        ({"date": "1709164800"}, datetime(2024, 2, 29, tzinfo=UTC)),
        ({"date": "null", "date_sent": "1709164800"}, datetime(2024, 2, 29, tzinfo=UTC)),
        ({"date": "99999999999999999999"}, None),
        ({"date": "9999999999999999"}, None),
        ({"date": "-5"}, None),
        ({"date": "bad"}, None),
    ],
)
def test_times_are_read_in_seconds_and_in_milliseconds(
    tmp_path: Path, attributes: dict[str, str], expected: datetime | None
) -> None:
    """By their size: picture messages have both. Without one that can be read the message stays, undated."""
    found = items(tmp_path, backup(mms(ANA, AT, "1", [text("hi")], [], **attributes)))

    assert [expected] == [record.sent_at for record in records(found)]
    assert (expected is None) == ("1 messages have no date that can be read" in told(found))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("&#55357;&#56832; and &#xD83D;&#xde00;", "😀 and 😀"),
        ("&#55357;.", "\ufffd."),
        ("a&#0;b&#8;c&#x1f;d&#65535;e", "abcde"),
        ("a\x00b\x08c\x1fd\ufffee", "abcde"),
        ("one\ntwo\r\nthree\tfour", "one\ntwo\nthree\tfour"),
        ("one&#10;two&#13;&#10;", "one\ntwo\r\n"),
        ("Tom &amp; &lt;b&gt; &quot;x&quot; &apos;", 'Tom & <b> "x" \''),
        ("a > b", "a > b"),
        ("&#38;#60;", "&#60;"),
    ],
)
def test_what_xml_forbids_does_not_lose_a_message(tmp_path: Path, body: str, expected: str) -> None:
    """Halves of an emoji are joined, control characters dropped, line breaks kept."""
    entry = f'<sms address="{ANA}"\n date="{AT}"\n type="1"\n body="{body}" />'

    assert [expected] == [record.text for record in records(items(tmp_path, backup(entry)))]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_backup_that_an_editor_saved_again_is_read(tmp_path: Path, encoding: str) -> None:
    """With a byte order mark, or in another Unicode encoding, whatever its declaration says."""
    content = backup(sms(ANA, AT, "1", "é 😀 日")).encode(encoding)

    assert ["é 😀 日"] == [record.text for record in records(items(tmp_path, content))]
    assert recognises(Export(tmp_path / "sms.xml"))


def test_bytes_that_are_no_utf8_are_said(tmp_path: Path) -> None:
    """The message stays."""
    found = items(tmp_path, backup(sms(ANA, AT, "1", "caf_")).encode().replace(b"caf_", b"caf\xe9"))

    assert ["caf\ufffd"] == [record.text for record in records(found)]
    assert ["'sms.xml' has bytes that are not UTF-8: they read as U+FFFD"] == told(found)


def test_a_file_that_ends_within_an_entry_gives_those_before(tmp_path: Path) -> None:
    """And says so; the half of an entry is none."""
    whole = backup(sms(ANA, AT, "1", "one"), mms(ANA, AT, "1", [text("two")], []), count=7)
    found = items(tmp_path, whole[: whole.index("</mms>")])

    assert ["one"] == [record.text for record in records(found)]
    assert [
        "sms.xml entry 2: the file ends within it",
        "'sms.xml' was cut off: it has no end",
        "'sms.xml' says it has 7 entries; 2 were found",
    ] == told(found)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ('<sms address="1" body="a<b" />', "not well-formed (invalid token)"),
        ('<sms address="1" body="unclosed />', "not well-formed (invalid token)"),
        ('<sms address="1" address="2" />', "duplicate attribute"),
        ('<sms address="1" body="&b;" />', "undefined entity"),
        ('<mms address="1"><parts><part ct="text/plain" text="x" /></parts>', "it has no end"),
        (f'<sms body="{"x" * 5_000_000}" />', "a tag of more than 4 MB"),
        ('<mms address="1"><parts>' + f'<part text="{"x" * 2_000_000}" />' * 9, "it is too long for a message"),
    ],
)
def test_an_entry_that_is_no_xml_costs_only_itself(tmp_path: Path, broken: str, why: str) -> None:
    """Reading goes on at the next."""
    found = items(tmp_path, backup(sms(ANA, AT, "1", "before"), broken, sms(ANA, AT + 1, "2", "after")))

    assert ["before", "after"] == [record.text for record in records(found)]
    assert f"sms.xml entry 2: {why}" == told(found)[0]


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    """No backup declares any: a file that does is not read."""
    declared = '<!DOCTYPE smses [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    content = backup(sms(ANA, AT, "1", "_")).replace("<smses", declared + "<smses").replace("_", "&b;")

    assert ["'sms.xml' has a document type declaration, as no backup has: it is not read"] == told(
        items(tmp_path, content)
    )


@pytest.mark.parametrize("size", [10, 1000, 300_000, 3_000_000])
def test_a_picture_of_any_size_is_named_and_not_read(tmp_path: Path, size: int) -> None:
    """Also where its data is no base64, and where the text beside it looks like data."""
    typed = f'he wrote data="{"A" * 40}" and so on'
    parts = [picture("cat.jpg", "A" * size + "*"), text(typed)]
    found = items(tmp_path, backup(mms(ANA, AT, "1", parts, []), sms(ANA, AT, "1", "next")))

    assert [(typed, 1), ("next", 0)] == [(record.text, len(record.attachments)) for record in records(found)]
    assert [("image/jpeg", "cat.jpg")] == [(a.mime, a.name) for a in records(found)[0].attachments]


def test_text_parts_stand_in_their_order_without_layout_and_subject(tmp_path: Path) -> None:
    """A text of "null" is none; a text file is an attachment."""
    parts = [
        text("second", "2"), element("part", seq="-1", ct="application/smil", text="<smil/>"), text("first", "1"),
        text("null", "0"), element("part", seq="x", ct="Text/Plain; charset=utf-8", cl="a.txt", data="aGk="),
    ]  # fmt: skip
    (record,) = records(items(tmp_path, backup(mms(ANA, AT, "1", parts, [], sub="Subject"))))

    assert ("first\nsecond", ["a.txt"]) == (record.text, [attachment.name for attachment in record.attachments])


def test_a_direct_message_is_by_its_address_whatever_its_rows_say(tmp_path: Path) -> None:
    """Other tools write the roles the wrong way round, or only one."""
    entries = [
        mms(ANA, AT, "1", [text("one")], [(ME, "137"), (ANA, "151")]),
        mms(ANA, AT, "1", [text("two")], [(ANA, "130"), (ANA, "137")], tr_id="proto:x"),
        mms(ANA, AT, "2", [text("three")], [(ANA, "137")]),
        mms(ANA, AT, "null", [text("four")], [], m_type="128"),
    ]
    found = records(items(tmp_path, backup(*entries)))

    assert [(ANA, "dm", ANA), (ANA, "dm", ANA), (ANA, "dm", None), (ANA, "dm", None)] == [
        (record.thread_id, record.thread_kind, record.sender_id) for record in found
    ]


@pytest.mark.parametrize(
    "address",
    [f"{ANA}~{BEN}", f"{BEN},~;{ANA}", f"{ANA}, {BEN}", "14025550101~14025550102", "group_1@rcs.google.com", "null"],
)
def test_a_group_is_its_members_however_its_address_is_written(tmp_path: Path, address: str) -> None:
    """Mine is the number from which I sent; the row of whom it was sent by names the sender."""
    sent = mms(address, AT, "2", [text("mine")], [(ME, "137"), (ANA, "151"), (BEN, "151")])
    received = mms(address, AT + 1, "1", [text("hers")], [(ANA, "137"), (ME, "151"), (BEN, "130"), (ANA, "130")])
    token = mms(address, AT + 2, "2", [text("too")], [("insert-address-token", "137"), (ANA, "151"), (BEN, "151")])
    found = items(tmp_path, backup(sent, received, token))

    assert [(f"{ANA},{BEN}", "group", None), (f"{ANA},{BEN}", "group", ANA), (f"{ANA},{BEN}", "group", None)] == [
        (record.thread_id, record.thread_kind, record.sender_id) for record in records(found)
    ]
    assert [] == told(found)


def test_a_group_whose_owner_is_not_known_is_said(tmp_path: Path) -> None:
    """Until --me tells."""
    received = backup(mms("null", AT, "1", [text("hi")], [(ANA, "137"), (ME, "151")]))

    assert ["your number was not found: groups may count you as a member. Give --me your number"] == told(
        items(tmp_path, received)
    )
    assert [(ANA, "dm")] == [(r.thread_id, r.thread_kind) for r in records(items(tmp_path, received, ME))]


def test_a_message_in_two_backups_is_one(tmp_path: Path) -> None:
    """Two pictures of one moment are two."""
    both = [sms(ANA, AT, "1", "ok"), mms(ANA, AT, "1", [picture("a.jpg")], [])]
    other = [sms(ANA, AT + 1, "1", "ok"), mms(ANA, AT, "1", [picture("b.jpg")], [])]
    (tmp_path / "old.xml").write_text(backup(*both, *other))
    (tmp_path / "new.xml").write_text(backup(*both))
    (tmp_path / "pom.xml").write_text("<project/>")
    found = list(read(Export(tmp_path), Options()))

    assert 4 == len(records(found))
    assert ["duplicate", "duplicate", "1 XML files are no backups of messages and were not read"] == told(found)


def test_the_country_of_most_numbers_is_that_of_those_without_one(tmp_path: Path) -> None:
    """So that one person is one thread; the user's word is stronger."""
    entries = [sms(ANA, AT, "1", "a"), sms("(402) 555-0101", AT, "1", "b"), sms("0044 7700 900123", AT, "1", "c")]

    assert [ANA, ANA, "+447700900123"] == [r.thread_id for r in records(items(tmp_path, backup(*entries)))]
    assert (
        "+447700900123" == records(items(tmp_path, backup(sms("07700900123", AT, "1", "c")), region="GB"))[0].thread_id
    )


def test_names_and_a_failed_delivery_are_kept(tmp_path: Path) -> None:
    """A name of "(Unknown)" is none."""
    entries = [sms(ANA, AT, "1", "a", contact_name="Ana Example"), sms(BEN, AT, "2", "b", status="64")]
    found = records(items(tmp_path, backup(*entries)))

    assert [("Ana Example", "Ana Example", []), (None, None, ["failed"])] == [
        (record.thread_name, record.sender_name, record.flags) for record in found
    ]


def test_a_backup_is_recognised_by_its_root(tmp_path: Path) -> None:
    """And by nothing else."""
    (tmp_path / "a.xml").write_text(backup())
    (tmp_path / "b.xml").write_text("<calls count='0'/>")
    (tmp_path / "c.xml").write_text("<project><smsesque/></project>")

    assert [True, True, False] == [recognises(Export(tmp_path / name)) for name in ("a.xml", "b.xml", "c.xml")]
    assert "sms" == find("auto", Export(tmp_path))[0]


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the samples of others are not here")
@pytest.mark.parametrize(
    ("name", "kept", "said"),
    [
        ("shruggietech/edge_cases.xml", 2, ["empty", "empty"]),
        ("shruggietech/minimal_sms.xml", 1, []),
        ("shruggietech/minimal_mms.xml", 1, []),
        ("shruggietech/minimal_calls.xml", 0, ["call"]),
        ("shruggietech/malformed.xml", 0, ["malformed.xml entry 1: not well-formed (invalid token)"]),
        ("devadvance/empty.xml", 0, []),
        ("devadvance/sample_small.xml", 7, []),
        ("devadvance/sample_mms.xml", 4, []),
    ],
)
def test_samples_of_other_programs_are_read(name: str, kept: int, said: list[str]) -> None:
    """As many messages as their description says."""
    found = list(read(Export(FIXTURES / name), Options()))

    assert (kept, said) == (len(records(found)), told(found))


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the samples of others are not here")
def test_samples_of_other_programs_have_the_right_threads() -> None:
    """Two direct ones of 4 and 3; a group message by its sender; a picture with its text."""
    small = records(list(read(Export(FIXTURES / "devadvance/sample_small.xml"), Options())))
    group = records(list(read(Export(FIXTURES / "extracted/msgvault_group_mms.xml"), Options())))
    picture_message = records(list(read(Export(FIXTURES / "shruggietech/minimal_mms.xml"), Options())))[0]

    assert ["+15550000001"] * 4 + ["+15550000002"] * 3 == [record.thread_id for record in small]
    assert [("dm", "+15551234567"), ("group", "+15550000001")] == [(r.thread_kind, r.sender_id) for r in group]
    assert ("+15551234567", 1) == (picture_message.sender_id, len(picture_message.attachments))
