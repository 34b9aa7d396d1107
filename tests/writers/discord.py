"""Conversations as DiscordChatExporter writes them as JSON: one file a channel, or overlapping parts of it."""

import json
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History, Said

ME = "person0"
ZONE = timezone(timedelta(hours=-5))  # of the computer that exported


def author(sender: int, **fields: Any) -> dict[str, Any]:
    """The account of person *sender*."""
    return {
        "id": str(700_000_000_000_000_000 + sender), "name": f"person{sender}", "discriminator": "0000",
        "nickname": f"Person {sender}", "color": None, "isBot": False, "roles": [], **fields,
    }  # fmt: skip


def message(number: int, sender: int = 1, **fields: Any) -> dict[str, Any]:
    """A message by hand, a minute after the one before."""
    return {
        "id": str(500_000_000_000_000_000 + number),
        "type": "Default",
        "timestamp": f"2024-03-10T10:{number % 60:02}:00.5+00:00",
        "timestampEdited": None,
        "callEndedTimestamp": None,
        "isPinned": False,
        "content": "",
        "author": author(sender),
        "attachments": [],
        "embeds": [],
        "stickers": [],
        "reactions": [],
        "mentions": [],
        **fields,
    }


def conversation(
    number: int, rows: list[dict[str, Any]], kind: str = "DirectTextChat", **fields: Any
) -> dict[str, Any]:
    """A file around *rows*."""
    return {
        "guild": {"id": "0", "name": "Direct Messages", "iconUrl": ""},
        "channel": {"id": str(number), "type": kind, "categoryId": "0", "name": f"channel {number}", "topic": None},
        "dateRange": {"after": None, "before": None},
        "exportedAt": "2024-05-01T00:00:00-05:00",
        "messages": rows,
        "messageCount": len(rows),
        **fields,
    }


def write(history: History, folder: Path, overlap: bool = False) -> Path:
    """*history* in a folder; with *overlap* each channel in two parts which share a message."""
    out = folder / "export"
    out.mkdir()
    for thread in sorted({said.thread for said in history.said}):
        rows = [_row(number, said) for number, said in enumerate(history.said, 1) if said.thread == thread]
        kind = "DirectGroupTextChat" if thread in history.groups else "DirectTextChat"
        half = len(rows) // 2
        parts = [rows[: half + 1], rows[half:]] if overlap else [rows]
        for number, part in enumerate(parts, 1):
            text = json.dumps(conversation(900 + thread, part, kind), indent=2)
            (out / f"Direct - {thread} [part {number}].json").write_text(text, encoding="utf-8")
    return out


def _row(number: int, said: Said) -> dict[str, Any]:
    return message(number, said.sender, timestamp=said.at.astimezone(ZONE).isoformat(), content=said.text)


def sample(folder: Path) -> Sample:
    """Some of everything."""
    direct = [
        message(1, content="did you eat\nyet? 👍🏽"),
        message(2, 0, type="Reply", content="ya", reference={"messageId": "500000000000000001", "channelId": "901"}),
        message(3, attachments=[{"id": "1", "url": "u", "fileName": "cat.jpg", "fileSizeBytes": 9}]),
        message(4, 0, content="pasta", timestampEdited="2024-03-10T11:00:00+00:00"),
        message(5, type="Call", content="Started a call that lasted 3 minutes."),
        message(6, 0, stickers=[{"id": "1", "name": "wave", "format": "Png"}]),
        message(7, 0, forwardedMessage={"timestamp": "2024-03-01T00:00:00+00:00", "content": "old"}),
        message(8, 9, author=author(9, isBot=True), content="beep"),
    ]
    group = [message(9, 2, type="ChannelNameChange", content="Changed the channel name."), message(10, 0, content="9")]
    out = folder / "export"
    out.mkdir()
    (out / "a.json").write_text(json.dumps(conversation(901, direct), indent=2))
    (out / "b [part 1].json").write_text(json.dumps(conversation(902, group, "GuildTextChat")))
    (out / "b [part 2].json").write_text(json.dumps(conversation(902, [group[1], message(11, content="ok")], "3")))
    return Sample(out, (ME,))
