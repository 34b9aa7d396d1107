"""Exports of a Slack workspace."""

import json
import zipfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History

Json = dict[str, Any]

ME = "U0ME"


def escaped(text: str) -> str:
    """*text* as Slack keeps it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def user(number: int, **more: Any) -> Json:
    """An entry of users.json."""
    account = ME if number == 0 else f"U0{number}"
    profile = {"display_name": f"Person {number}", "email": f"person{number}@example.com"}
    return {"id": account, "name": f"person{number}", "real_name": f"Person {number} Bell", "profile": profile, **more}


def row(by: int, ts: str, text: str, **more: Any) -> Json:
    """A message by person *by*, 0 being me; *text* as Slack keeps it."""
    return {"type": "message", "user": ME if by == 0 else f"U0{by}", "ts": ts, "text": text, **more}


def save(days: dict[str, list[Json]], folder: Path, **lists: list[Json]) -> Path:
    """A folder with *days* (``general/2024-05-01``) and *lists* (users, channels, dms ...)."""
    for name, rows in {**lists, **days}.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=4).replace("/", "\\/"), encoding="utf-8")
    return folder


def zipped(folder: Path) -> Path:
    """*folder* as a zip beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.json")):
            archive.write(file, file.relative_to(folder))
    return path


def write(history: History, folder: Path) -> Path:
    """*history* as an export with direct messages; the microseconds number the messages, as ``ts`` is an id."""
    days = defaultdict(list)
    for number, said in enumerate(history.said):
        place = f"group-{said.thread}" if said.thread in history.groups else f"D0{said.thread}"
        message = row(said.sender, f"{int(said.at.timestamp())}.{number:06}", escaped(said.text))
        days[f"{place}/{said.at:%Y-%m-%d}"].append(message)
    direct = {said.thread for said in history.said} - history.groups
    return zipped(save(
        days, folder / "workspace",
        users=[user(number) for number in range(6)],
        channels=[{"id": f"C0{thread}", "name": f"group-{thread}", "members": [ME]} for thread in history.groups],
        dms=[{"id": f"D0{thread}", "created": 1, "members": [ME, f"U0{thread + 1}"]} for thread in direct],
    ))  # fmt: skip


def sample(folder: Path) -> Sample:
    """Some of everything."""
    at = int(datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp())
    emoji = [{"type": "rich_text", "elements": [{"type": "emoji", "name": "kite", "unicode": "1fa81"}]}]
    photo = {"id": "F01", "name": "boat.jpg", "mimetype": "image/jpeg"}
    export = save(
        {
            "crew/2026-01-05": [
                row(1, f"{at}.000100", "<@U01|ana> has joined the channel", subtype="channel_join"),
                row(1, f"{at + 60}.000200", "lunch &amp; <https:\\/\\/example.com\\/menu|menu>? :kite:", blocks=emoji),
                row(0, f"{at + 90}.000300", "ya <@U01> :+1::skin-tone-2:", thread_ts=f"{at + 60}.000200",
                    edited={"user": ME, "ts": f"{at + 95}.000000"}, subtype="thread_broadcast"),
                row(1, f"{at + 99}.000400", "", files=[photo], reactions=[{"name": "tada", "users": [ME], "count": 1}]),
            ],
            "crew/2026-01-06": [
                row(4, f"{at + 90_000}.000450", "built", subtype="bot_message", bot_id="B01", user=None),
                row(2, f"{at + 90_100}.000500", "This message was deleted.", subtype="tombstone", user="USLACKBOT"),
            ],
            "D01/2026-01-05": [
                row(1, f"{at}.000600", "home yet?"), row(0, f"{at + 5}.000700", "waves", subtype="me_message"),
            ],
        },
        folder / "workspace",
        users=[user(0), user(1), user(3, is_bot=True)],
        channels=[{"id": "C01", "name": "crew", "members": [ME, "U01"]}],
        dms=[{"id": "D01", "members": [ME, "U01"]}],
    )  # fmt: skip
    return Sample(zipped(export), ("Person 0",))
