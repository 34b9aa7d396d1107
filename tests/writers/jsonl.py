"""Message files in the project's own form, as another program would write them, and in a form of their own."""

import json
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History


def rows(history: History) -> list[dict[str, Any]]:
    """The lines of *history* as dicts."""
    return [
        {
            "source": "example",
            "thread_id": f"thread {said.thread}",
            "thread_kind": "group" if said.thread in history.groups else "dm",
            "sender_id": f"+1402555010{said.sender}",
            "from_me": said.sender == 0,
            "sent_at": said.at.isoformat(),
            "text": said.text,
        }
        for said in history.said
    ]


def write(history: History, folder: Path) -> Path:
    """*history* as a message file in *folder*."""
    path = folder / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(history)), encoding="utf-8")
    return path


def write_foreign(history: History, folder: Path) -> Path:
    """*history* under keys that some other program uses, the sender within an object."""
    path = folder / "foreign.jsonl"
    keys = [
        {
            "chat": {"id": row["thread_id"], "title": "a chat"},
            "chat_type": "room" if row["thread_kind"] == "group" else "direct",
            "from": {"id": row["sender_id"], "name": None},
            "outgoing": row["from_me"],
            "timestamp": int(said.at.timestamp() * 1000),
            "body": said.text,
        }
        for row, said in zip(rows(history), history.said, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in keys), encoding="utf-8")
    return path


def sample(folder: Path) -> Sample:
    """Some of everything."""
    kinds = [
        {"text": "home yet?", "from_me": False, "sent_at": "2026-01-05T09:00:00Z"},
        {"text": "ya \\ud83d\\udc4d", "from_me": True, "reply_to": "m1", "flags": ["edited"], "source_id": "m2"},
        {"kind": "media", "from_me": False, "attachments": [{"mime": "image/jpeg", "name": "cat.jpg"}]},
        {"text": "one\ntwo", "parts": ["one", "two"], "from_me": True, "sent_at": None, "order": 7},
    ]
    path = folder / "export"
    path.mkdir()
    own = "".join(json.dumps({"source": "example", "thread_id": "mum", **row}) + "\n" for row in kinds * 3)
    (path / "sample.jsonl").write_text(own)
    foreign = [
        {"chat": "mum", "from": {"id": "+14025550101"}, "is_me": 0, "ts": 1767603600, "text": "home yet?"},
        {"chat": "mum", "from": None, "is_me": 1, "ts": "2026-01-05T09:00:00Z", "text": "ya 👍🏽", "edited": True},
        {"chat": "mum", "is_me": True, "ts": None, "type": "image", "attachment": "cat.jpg", "id": 7, "tags": ["a"]},
    ]
    (path / "foreign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in foreign * 3))
    return Sample(path)
