"""Exports of Messenger and Instagram: folders of newest-first files, flat files of encrypted chats, their mojibake."""

import json
from pathlib import Path
from typing import Any

from tests.histories import History, Said

ME = "Mia Sømmer"
PEOPLE = [ME, "Anna Lind", "Béla Őry", "Jo", "Ира Лис", "Tom O’Hara"]


def mangled(value: Any) -> Any:
    """*value* with each byte of its texts written as a character of its own, as Meta does."""
    if isinstance(value, str):
        return value.encode().decode("latin-1")
    if isinstance(value, list):
        return [mangled(item) for item in value]
    return {key: mangled(item) for key, item in value.items()} if isinstance(value, dict) else value


def put(path: Path, document: Any) -> Path:
    """*document* as a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def put_thread(
    folder: Path, names: list[str], messages: list[dict[str, Any]], title: str, per_file: int = 10_000
) -> None:
    """*messages*, oldest first, as ``message_1.json`` (the newest) and so on in *folder*."""
    newest_first = messages[::-1]
    for number, start in enumerate(range(0, max(len(messages), 1), per_file), 1):
        document = {
            "participants": [{"name": name} for name in names],
            "messages": newest_first[start : start + per_file],
            "title": title,
            "is_still_participant": True,
            "thread_path": f"inbox/{folder.name}",
            "magic_words": [],
        }
        put(folder / f"message_{number}.json", mangled(document))


def write_meta(history: History, root: Path, per_file: int = 3) -> Path:
    """*history* as one folder a thread under *root*/messages/inbox."""
    for thread, said in _threads(history).items():
        names, title = people_of(thread, history)
        rows = [{"sender_name": PEOPLE[one.sender], "timestamp_ms": _ms(one), "content": one.text} for one in said]
        put_thread(root / "messages" / "inbox" / f"thread_{thread}", names, rows, title, per_file)
    return root


def write_encrypted(history: History, folder: Path, newest_first: bool) -> Path:
    """*history* as one flat file a thread in *folder*."""
    for thread, said in _threads(history).items():
        names, title = people_of(thread, history)
        rows = [
            {
                "isUnsent": False, "media": [], "reactions": [], "senderName": PEOPLE[one.sender], "text": one.text,
                "timestamp": _ms(one), "type": "text",
            }
            for one in said
        ]  # fmt: skip
        document = {
            "participants": names,
            "threadName": f"{title}_{thread}",
            "messages": rows[:: -1 if newest_first else 1],
        }
        put(folder / f"{title}_{thread}.json", document)
    return folder


def people_of(thread: int, history: History) -> tuple[list[str], str]:
    """Who is in *thread*, and its title."""
    if thread in history.groups:
        return [PEOPLE[thread + 1], PEOPLE[4], PEOPLE[5], ME], f"Gruppe {thread}"
    return [PEOPLE[thread + 1], ME], PEOPLE[thread + 1]


def _threads(history: History) -> dict[int, list[Said]]:
    threads: dict[int, list[Said]] = {}
    for said in history.said:
        threads.setdefault(said.thread, []).append(said)
    return threads


def _ms(said: Said) -> int:
    return int(said.at.timestamp() * 1000)


def some_of_everything(media: str) -> list[dict[str, Any]]:
    """Messages of every kind, oldest first; *media* is the folder that files lie in."""
    anna, kinds = PEOPLE[1], []
    for number, (sender, more) in enumerate([
        (anna, {"content": "You are now connected on Messenger"}),
        (anna, {"content": "kommst du? 🎈", "reactions": [{"reaction": "❤", "actor": ME}]}),
        (ME, {"content": "gleich\nda"}),
        (anna, {"photos": [{"uri": f"{media}/photos/1.jpg", "creation_timestamp": 1700000000}]}),
        (ME, {"sticker": {"uri": f"{media}/stickers_used/2.png", "ai_stickers": []}}),
        (ME, {"content": "schau", "share": {"link": "https://example.org/a", "share_text": "ein Bild"}}),
        (anna, {"content": f"{anna} sent an attachment.", "share": {"link": "https://example.org/b"}}),
        (anna, {"is_unsent": True}),
        (ME, {"call_duration": 61, "content": "The video call ended."}),
        (anna, {"content": "Reacted 😂 to your message "}),
        (anna, {"is_geoblocked_for_viewer": False, "ip": "192.0.2.1"}),
    ]):  # fmt: skip
        kinds.append({"sender_name": sender, "timestamp_ms": 1_700_000_000_000 + number * 60_000, **more})
    return kinds
