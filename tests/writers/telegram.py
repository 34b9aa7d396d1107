"""Exports as Telegram Desktop writes them: an account, or single chats; control characters in its own escape."""

import json
import re
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History, Said

ME = 100
_ESCAPE = re.compile(r"\\(?:u00([01][0-9a-f])|([bf])|.)", re.DOTALL)
_SHORT = {"b": "08", "f": "0c"}


def as_telegram(export: Any) -> str:
    """*export* as Telegram Desktop 4 would write it: control characters as ``\\x01``, which is no JSON."""

    def escape(found: re.Match[str]) -> str:
        digits = found[1] or _SHORT.get(found[2] or "")
        return f"\\x{digits.upper()}" if digits else found[0]

    return _ESCAPE.sub(escape, json.dumps(export, ensure_ascii=False, indent=1))


def row(number: int, said: Said) -> dict[str, Any]:
    """One message; every third comes in two pieces, as text that is partly bold does."""
    half = len(said.text) // 2
    pieces = [said.text[:half], {"type": "bold", "text": said.text[half:]}]
    return {
        "id": number,
        "type": "message",
        "date": said.at.replace(tzinfo=None).isoformat(),
        "date_unixtime": str(int(said.at.timestamp())),
        "from": f"Person {said.sender}",
        "from_id": f"user{ME + said.sender}",
        "text": pieces if number % 3 == 0 else said.text,
        "text_entities": [{"type": "plain", "text": said.text}],
    }


def chats(history: History) -> list[dict[str, Any]]:
    """The chats of *history*, by number of the thread."""
    found = []
    for thread in sorted({said.thread for said in history.said}):
        is_group = thread in history.groups
        rows = [row(number, said) for number, said in enumerate(history.said, 1) if said.thread == thread]
        kind, number = ("private_supergroup", 900 + thread) if is_group else ("personal_chat", ME + thread + 1)
        found.append({"name": f"Chat {thread}", "type": kind, "id": number, "messages": rows})
    return found


def account(chat_list: list[dict[str, Any]]) -> dict[str, Any]:
    """The export of the whole account ME."""
    return {
        "about": "Here is the data you requested.",
        "personal_information": {
            "user_id": ME, "first_name": "Person", "last_name": "0", "phone_number": "+14025550100",
            "username": "@person0",
        },
        "contacts": {"about": "", "list": [{"user_id": 101, "first_name": "Person", "date_unixtime": "0"}]},
        "chats": {"about": "", "list": chat_list},
    }  # fmt: skip


def backwards(value: Any) -> Any:
    """*value* with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


def write(history: History, folder: Path, layout: str = "account") -> Path:
    """*history* as an ``account``, one with its keys ``backwards``, or single ``chats``, one a folder."""
    if layout == "chats":
        for number, chat in enumerate(chats(history)):
            place = folder / "export" / f"ChatExport_{number}"
            place.mkdir(parents=True)
            (place / "result.json").write_text(as_telegram(chat), encoding="utf-8", newline="")
        return folder / "export"
    export = account(chats(history))
    path = folder / "result.json"
    path.write_text(as_telegram(backwards(export) if layout == "backwards" else export), encoding="utf-8", newline="")
    return path


def message(number: int, sender: int = 1, **fields: Any) -> dict[str, Any]:
    """A message by hand, a minute after the one before."""
    return {
        "id": number,
        "type": "message",
        "date": f"2024-03-10T10:{number % 60:02}:00",
        "date_unixtime": str(1710064800 + 60 * number),
        "from": f"Person {sender}",
        "from_id": f"user{ME + sender}",
        "text": "",
        **fields,
    }


def service(number: int, action: str) -> dict[str, Any]:
    """Something that happened, done by person 1."""
    return {**message(number), "type": "service", "actor": "Person 1", "actor_id": "user101", "action": action}


def sample(folder: Path) -> Sample:
    """Some of everything."""
    link = {"type": "link", "text": "https://example.com"}
    direct = [
        service(1, "joined_telegram"),
        message(2, text="did you eat\n\tyet? \x01"),
        message(3, 0, text=["ya ", {"type": "bold", "text": "pasta"}, "!"], reply_to_message_id=2),
        message(4, photo="(File not included. Change data exporting settings to download.)", width=9, height=9),
        message(5, 0, text="look", file="files/cat.mp4", media_type="video_file", mime_type="video/mp4"),
        message(6, 0, text=[link], text_entities=[link], edited="2024-03-10T11:00:00"),
        message(7, text="news", forwarded_from=None),
        message(8, 0, media_type="sticker", file="stickers/a.webp", sticker_emoji="👍"),
        {"id": 9, "type": "unsupported"},
        service(10, "phone_call"),
        message(11, text="👍🏽 \\o/ \"q\"", reactions=[{"type": "emoji", "count": 1, "emoji": "❤"}]),
        message(12, 0, text=[{"type": "custom_emoji", "text": "😮", "document_id": "BARE"}]),
    ]  # fmt: skip
    group = [message(1, 2, poll={"question": "when", "answers": []}), message(2, 0, text="9"), message(3, text="ok")]
    chat_list = [
        {"name": "Person 1", "type": "personal_chat", "id": 101, "messages": direct},
        {"name": "walks", "type": "private_group", "id": 901, "messages": group},
        {"type": "saved_messages", "id": ME, "messages": [message(1, 0, text="milk")]},
        {"name": None, "type": "personal_chat", "id": 103, "messages": [{**message(1, 3, text="hi"), "from": None}]},
    ]
    left = {"left_chats": {"about": "", "list": [{"name": "old", "type": "private_group", "id": 5, "messages": group}]}}
    path = folder / "result.json"
    text = as_telegram(account(chat_list) | left).replace('"BARE"', "stickers/sticker (2).webm")
    path.write_text(text, encoding="utf-8", newline="")
    return Sample(path)
