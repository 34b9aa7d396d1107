"""Conversations exported by DiscordChatExporter, and Discord's own package, which is refused."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import History, histories, imported, read
from tests.hostile import QUICK
from tests.writers.discord import ME, author, conversation, message, sample, write
from training.records import Record
from training.sources import discord
from training.sources.export import Export
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "discord"


@QUICK
@given(histories(), st.booleans())
def test_a_history_comes_back_as_it_was_written(history: History, overlap: bool) -> None:
    """Who said what, where and when, to the letter; parts of a channel that overlap give each message once."""
    with TemporaryDirectory() as name:
        records = imported("discord", write(history, Path(name), overlap), Path(name), ME)
    found = [(r.thread_id, r.thread_kind == "group", r.sender_id, r.from_me, r.sent_at, r.text) for r in records]

    assert found == [
        (
            f"discord:{900 + said.thread}",
            said.thread in history.groups,
            f"discord:{700_000_000_000_000_000 + said.sender}",
            said.sender == 0,
            said.at,
            said.text,
        )
        for said in sorted(history.said, key=lambda said: said.thread)
    ]


def _items(folder: Path, *rows: Any, me: str = ME, **fields: Any) -> list[Item]:
    """What is read of one conversation with *rows*."""
    path = folder / "chat.json"
    path.write_text(json.dumps(conversation(901, list(rows), **fields)))
    return list(discord.read(Export(path), Options(me=(me,))))


def _one(folder: Path, **fields: Any) -> Record:
    (item,) = _items(folder, message(1, 0, **fields))
    assert isinstance(item, Record)
    return item


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Default", "text"),
        ("Reply", "text"),
        ("19", "text"),
        (0, "text"),
        ("Call", "call"),
        ("ChannelNameChange", "system"),
        ("RecipientAdd", "system"),
        ("20", "system"),
        (None, "system"),
    ],
)
def test_only_what_a_person_typed_is_text(tmp_path: Path, kind: Any, expected: str) -> None:
    """The content of anything else is filler; kinds that the exporter does not know are numbers."""
    record = _one(tmp_path, type=kind, content="Pinned a message.")

    assert (record.kind, record.text) == (expected, "Pinned a message." if expected == "text" else "")


@pytest.mark.parametrize(
    ("fields", "kind", "flags"),
    [
        ({"content": "a"}, "text", []),
        ({"content": "a", "timestampEdited": "2024-03-10T11:00:00+00:00"}, "text", ["edited"]),
        ({"forwardedMessage": {"content": "old"}}, "media", ["forwarded"]),
        ({"reference": {"type": "Forward", "messageId": "1"}}, "media", ["forwarded"]),
        ({"stickers": [{"id": "1", "name": "wave"}]}, "media", ["sticker"]),
        ({"poll": {"question": "when"}}, "media", ["poll"]),
        ({"content": "a", "interaction": {"name": "roll"}}, "text", ["auto"]),
        ({"embeds": [{"title": "a page"}]}, "media", []),
        ({}, "media", []),
    ],
)
def test_flags_are_what_the_export_says(tmp_path: Path, fields: dict[str, Any], kind: str, flags: list[str]) -> None:
    """Words of others within a message are never its text."""
    record = _one(tmp_path, **fields)

    assert (record.kind, record.flags, record.text) == (kind, flags, fields.get("content", ""))


def test_attachments_are_named(tmp_path: Path) -> None:
    """A message of them alone is media."""
    record = _one(tmp_path, attachments=[{"fileName": "cat.jpg"}, {"fileName": None}, "odd"])

    assert (record.kind, [a.name for a in record.attachments]) == ("media", ["cat.jpg", None])


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"messageId": "7", "channelId": "901"}, "7"),
        ({"messageId": 7}, "7"),
        ({"messageId": "7", "channelId": "5"}, None),
        ({"messageId": None}, None),
        ([], None),
    ],
)
def test_an_answer_points_to_a_message_of_its_channel(tmp_path: Path, reference: Any, expected: str | None) -> None:
    """A message of another channel is no question to it."""
    assert _one(tmp_path, content="a", reference=reference).reply_to == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-03-10T10:00:00.1234567-05:00", datetime(2024, 3, 10, 15, 0, 0, 123456, UTC)),
        ("2024-03-10T10:00:00Z", datetime(2024, 3, 10, 10, tzinfo=UTC)),
        ("2024-03-10T10:00:00", datetime(2024, 3, 10, 10, tzinfo=UTC)),
    ],
)
def test_times_are_read_with_their_offset(tmp_path: Path, written: str, expected: datetime) -> None:
    """Without one they are UTC."""
    assert _one(tmp_path, content="a", timestamp=written).sent_at == expected


@pytest.mark.parametrize("me", [ME, "Person 0", "person0#0000", "700000000000000000", "discord:700000000000000000"])
def test_the_user_is_known_by_any_of_the_names(tmp_path: Path, me: str) -> None:
    """Name, nickname, tag or id; a nickname may be missing."""
    rows = [message(1, 0, content="a"), message(2, content="b", author=author(1, nickname=None))]
    records = [item for item in _items(tmp_path, *rows, me=me) if isinstance(item, Record)]

    assert [(r.from_me, r.sender_name) for r in records] == [(True, "Person 0"), (False, "person1")]


def test_the_user_is_asked_who_they_are(tmp_path: Path) -> None:
    """Whoever is in most conversations comes first, bots do not come; an id where two have one name."""
    chats = [
        [message(1, 1), message(2, 0)],
        [message(3, 2), message(4, 0), message(5, 8, author=author(8, isBot=True))],
        [message(6, 3, author=author(3, name="person2"))],
    ]
    for number, rows in enumerate(chats):
        (tmp_path / f"{number}.json").write_text(json.dumps(conversation(number, rows)))
    with pytest.raises(DataRefused) as refused:
        list(discord.read(Export(tmp_path), Options()))

    assert refused.value.code == "who_is_me" and refused.value.details[0] == "person0"
    assert sorted(refused.value.details[1:]) == ["700000000000000002", "700000000000000003", "person1"]


def test_bots_are_skipped(tmp_path: Path) -> None:
    """Unless I am one; what happened through one is kept."""
    bot, me = author(1, isBot=True), author(0, isBot=True)
    items = _items(
        tmp_path, message(1, author=bot, content="a"), message(2, author=bot, type="Call"), message(3, author=me)
    )

    assert items[0] == Skipped("bot")
    assert [item.kind for item in items[1:] if isinstance(item, Record)] == ["call", "media"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("DirectTextChat", "dm"),
        (1, "dm"),
        ("DirectGroupTextChat", "group"),
        ("GuildTextChat", "group"),
        ("GuildPublicThread", "group"),
    ],
)
def test_a_channel_of_two_is_direct(tmp_path: Path, kind: Any, expected: str) -> None:
    """Every other is a group."""
    (record,) = _items(tmp_path, message(1, content="a"), kind=kind)

    assert isinstance(record, Record) and record.thread_kind == expected


def test_news_are_no_conversation(tmp_path: Path) -> None:
    """They are broadcast."""
    assert _items(tmp_path, message(1, content="a"), kind="GuildNews") == [Skipped("channel")]


def test_a_wrong_count_is_told(tmp_path: Path) -> None:
    """And not trusted."""
    *records, note = _items(tmp_path, message(1, content="a"), message(2, content="b"), messageCount=1)

    assert len(records) == 2
    assert note == Note("'chat.json' says that it holds 1 messages, and there are 2")


def test_the_same_words_twice_are_two_messages(tmp_path: Path) -> None:
    """An order that ids give is kept for ties."""
    one = _items(tmp_path, message(1, content="ok"), message(2, content="ok"))

    assert [(r.text, r.order) for r in one if isinstance(r, Record)] == [("ok", 5 * 10**17 + 1), ("ok", 5 * 10**17 + 2)]


@pytest.mark.parametrize(
    "row",
    [
        None,
        7,
        "a",
        message(1, author=None),
        message(1, author={"name": None}),
        message(1, content=None),
        message(1, content=["a"]),
        message(1, timestamp=None),
        message(1, timestamp="yesterday"),
        message(1, timestamp="0001-01-01T00:00:00+05:00"),
    ],
)
def test_a_row_that_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path, row: Any) -> None:
    """It is named by its place."""
    first, second = _items(tmp_path, row, message(2, content="b"))

    assert isinstance(first, NotUnderstood) and first.where.startswith("chat.json, message 1: ")
    assert isinstance(second, Record) and second.text == "b"


def test_keys_may_come_in_any_order(tmp_path: Path) -> None:
    """The channel behind its messages, too."""
    whole = conversation(901, [message(1, content="a")])
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({key: whole[key] for key in reversed(whole)}))
    (record,) = imported("auto", path, tmp_path, "person1")

    assert (record.thread_id, record.thread_kind, record.text) == ("discord:901", "dm", "a")


def test_a_damaged_file_does_not_stop_the_others(tmp_path: Path) -> None:
    """What is whole of it is kept."""
    text = json.dumps(conversation(901, [message(1, content="a"), message(2, content="b")]))
    (tmp_path / "a.json").write_text(text[: text.rindex('"author"')])
    (tmp_path / "b.json").write_text(json.dumps(conversation(902, [message(3, content="c")])))
    items = list(discord.read(Export(tmp_path), Options(me=(ME,))))

    assert [item.text for item in items if isinstance(item, Record)] == ["a", "c"]
    assert sum(isinstance(item, NotUnderstood) for item in items) == 1


PACKAGES = [
    {"messages/index.json": "{}", "messages/c123/channel.json": '{"id": "123"}', "messages/c123/messages.csv": ""},
    {"package/Messages/123/messages.json": "[]", "package/Account/user.json": "{}"},
    {"messages.csv": "ID,Timestamp,Contents,Attachments\n1,2023-05-01 18:30:45,hi,\n"},
    {"messages.json": '[{"ID": 1, "Timestamp": "2023-05-01 18:30:45", "Contents": "hi", "Attachments": ""}]'},
]


@pytest.mark.parametrize("files", PACKAGES)
def test_discords_own_package_is_refused_with_what_to_do_instead(tmp_path: Path, files: dict[str, str]) -> None:
    """In every layout it has had: it holds only the user's own messages."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    export = tmp_path / next(iter(files)) if len(files) == 1 else tmp_path
    with pytest.raises(DataRefused, match="DiscordChatExporter") as refused:
        read("auto", export, tmp_path, ME)

    assert refused.value.code == "own_messages_only"


def test_conversations_beside_the_package_are_read(tmp_path: Path) -> None:
    """And the package is said to be left out."""
    (tmp_path / "messages" / "c1").mkdir(parents=True)
    (tmp_path / "messages" / "c1" / "channel.json").write_text("{}")
    (tmp_path / "chat.json").write_text(json.dumps(conversation(901, [message(1, 0, content="a")])))
    records, coverage = read("auto", tmp_path, tmp_path / "o", ME)

    assert [r.text for r in records] == ["a"] and len(coverage.notes) == 1


def test_the_sample_holds_what_it_says(tmp_path: Path) -> None:
    """With parts that overlap."""
    coverage = read("auto", sample(tmp_path).path, tmp_path, ME)[1]

    assert coverage.kinds == Counter(text=5, media=3, call=1, system=1)
    assert (coverage.skipped, coverage.not_understood) == (Counter(bot=1, duplicate=1), 0)


needs_samples = pytest.mark.skipif(not SAMPLES.exists(), reason="others' samples are not part of the repository")


@needs_samples
@pytest.mark.parametrize(
    ("file", "me", "kinds", "skipped", "notes"),
    [
        ("DM_2A_2M.json", "mlomb", {"text": 1, "call": 1}, {"bot": 1}, 0),
        ("GC_3A_5M.json", "theplant", {"system": 2, "text": 3, "call": 1}, {}, 1),
    ],
)
def test_public_samples_have_the_counts_they_should(
    tmp_path: Path, file: str, me: str, kinds: dict[str, int], skipped: dict[str, int], notes: int
) -> None:
    """As their description says."""
    records, coverage = read("auto", SAMPLES / "chat-analytics" / file, tmp_path, me)

    assert (dict(coverage.kinds), dict(coverage.skipped), len(coverage.notes)) == (kinds, skipped, notes)
    assert (coverage.source, coverage.mine, coverage.not_understood) == ("discord", 1, 0)
    assert [r.reply_to for r in records if r.reply_to] == ([] if "DM" in file else ["1064990824305274930"])


@needs_samples
def test_the_public_package_is_refused() -> None:
    """Own messages only."""
    export = Export(SAMPLES / "extracted_package")

    assert discord.recognises(export)
    with pytest.raises(DataRefused):
        list(discord.read(export, Options(me=("x",))))
