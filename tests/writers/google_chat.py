"""Exports of Google Chat by Google Takeout."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History

ME = {"name": "Mia Sommer", "email": "Mia@Example.org", "user_type": "Human"}
PEOPLE = [ME] + [{"name": f"Person {n}", "email": f"p{n}@Example.org", "user_type": "Human"} for n in range(1, 6)]


def written(at: datetime) -> str:
    """*at* in the words of an American account."""
    return (
        f"{at:%A, %B} {at.day}, {at.year} at {at.hour % 12 or 12}:{at:%M:%S}\u202f{'PM' if at.hour > 11 else 'AM'} UTC"
    )


def put_group(folder: Path, name: str, members: list[dict[str, str]], messages: list[Any], title: str = "") -> None:
    """One conversation, *name* being its folder."""
    group = folder / "Google Chat" / "Groups" / name
    group.mkdir(parents=True, exist_ok=True)
    info = {"members": members, **({"name": title} if title else {})}
    (group / "group_info.json").write_text(json.dumps(info), encoding="utf-8")
    (group / "messages.json").write_text(json.dumps({"messages": messages}), encoding="utf-8")


def put_owner(folder: Path, owner: dict[str, str]) -> None:
    """The file that says whose export it is."""
    user = folder / "Google Chat" / "Users" / "User 1"
    user.mkdir(parents=True)
    (user / "user_info.json").write_text(json.dumps({"user": owner}), encoding="utf-8")


def message(sender: dict[str, str], at: str, **more: Any) -> dict[str, Any]:
    """One entry of messages.json."""
    return {"creator": sender, "created_date": at, "topic_id": "t", **more}


def write(history: History, folder: Path) -> Path:
    """*history* as a Takeout folder."""
    export = folder / "Takeout"
    put_owner(export, {**ME, "email": ME["email"].lower()})
    for thread in {said.thread for said in history.said}:
        is_group = thread in history.groups
        members = [ME, PEOPLE[thread + 1], *(PEOPLE[4:] if is_group else [])]
        messages = [
            message(PEOPLE[said.sender], written(said.at), text=said.text, message_id=f"{thread}/{number}")
            for number, said in enumerate(history.said)
            if said.thread == thread
        ]
        put_group(export, f"{'Space' if is_group else 'DM'} {thread}", members, messages, "Room" if is_group else "")
    return export


def sample(folder: Path) -> Sample:
    """A direct conversation and a room with messages of every kind."""
    export = folder / "Takeout"
    put_owner(export, ME)
    at = "Friday, May 29, 2026 at 3:00:29\u202fAM UTC"
    kinds = [
        message(PEOPLE[1], at, text="hi 🎈", message_id="1", reactions=[{"emoji": {"unicode": "👍"}}]),
        message(ME, "2026年5月29日星期五 UTC 03:01:29", text="hey\nyou", message_id="2", updated_date=at),
        message(
            ME, "Freitag, 29. Mai 2026 um 03:02:29 UTC", message_id="3", attached_files=[{"original_name": "a.png"}]
        ),
        message(PEOPLE[1], at, text="yes", message_id="4", quoted_message_metadata={"message_id": "2", "text": "you"}),
        message(
            PEOPLE[1], at, text="", annotations=[{"gsuite_integration_metadata": {"call_data": {"call_status": "x"}}}]
        ),
        {"message_state": "DELETED", "deleted_date": at, "message_id": "6", "deletion_metadata": {}},
    ]
    put_group(export, "DM a", [ME, PEOPLE[1]], kinds)
    put_group(export, "Space b", PEOPLE[:4], [message(PEOPLE[3], at, text="all", message_id="7"), *kinds[1:3]], "Room")
    return Sample(export)
