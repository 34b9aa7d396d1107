"""Signal's plaintext export, as its apps write it, and the folders of the program signal-export."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.fuzz_source import Sample
from tests.histories import History

Json = dict[str, Any]

HEAD: Json = {"version": "1", "backupTimeMs": "1767225600000", "currentAppVersion": "Signal-Desktop 8.0.0"}
ACCOUNT: Json = {"account": {"givenName": "Nora", "familyName": "Lind", "username": "nora.07", "accountSettings": {}}}
SELF: Json = {"recipient": {"id": "1", "self": {"avatarColor": "A100"}}}


def account_id(person: int) -> str:
    """The base64 account id of *person*."""
    return base64.b64encode(bytes([person] * 16)).decode()


def contact(person: int, **more: Any) -> Json:
    """The frame of *person*, whose recipient id is 10 + their number."""
    known = {"aci": account_id(person), "e164": f"1402555010{person}", "profileGivenName": f"Person {person}"}
    return {"recipient": {"id": str(10 + person), "contact": {**known, **more}}}


def group(number: int, title: str) -> Json:
    """The frame of a group, whose recipient id is 50 + its number."""
    key = base64.b64encode(bytes([number] * 32)).decode()
    return {"recipient": {"id": str(50 + number), "group": {"masterKey": key, "snapshot": {"title": {"title": title}}}}}


def chat(number: int, recipient: int) -> Json:
    return {"chat": {"id": str(number), "recipientId": str(recipient), "expireTimerVersion": 1}}


def item(chat: int, author: int, sent_ms: int, **inside: Any) -> Json:
    """A chat item by recipient *author*, 1 being the owner; *inside* has its content and may set the direction."""
    direction: Json = {"outgoing": {"sendStatus": []}} if author == 1 else {"incoming": {"read": True}}
    if {"incoming", "outgoing", "directionless"} & inside.keys():
        direction = {}
    return {"chatItem": {"chatId": str(chat), "authorId": str(author), "dateSent": str(sent_ms), **direction, **inside}}


def said(text: str, **more: Any) -> Json:
    return {"text": {"body": text}, **more}


def save(frames: Iterable[Json], folder: Path) -> Path:
    """*frames* as an export in *folder*, as Signal Desktop names it."""
    inner = folder / "signal-export-2026-01-01" / "signal-backup-2026-01-01"
    inner.mkdir(parents=True)
    text = "".join(json.dumps(frame, ensure_ascii=False) + "\n" for frame in frames)
    (inner / "main.jsonl").write_text(text, encoding="utf-8")
    return inner.parent


def write(history: History, folder: Path) -> Path:
    """*history* as the official export."""
    threads = sorted({message.thread for message in history.said})
    frames = [HEAD, ACCOUNT, *(contact(person) for person in range(1, 6)), SELF]
    frames += [group(thread, f"Group {thread}") for thread in threads if thread in history.groups]
    frames += [chat(thread, 50 + thread if thread in history.groups else 11 + thread) for thread in threads]
    for message in history.said:
        author = 10 + message.sender if message.sender else 1
        sent = int(message.at.timestamp() * 1000)
        frames.append(item(message.thread, author, sent, standardMessage=said(message.text)))
    return save(frames, folder)


def write_signal_export(history: History, folder: Path) -> Path:
    """*history* as signal-export writes it; times are UTC without saying so."""
    root = folder / "chats"
    for message in history.said:
        is_group = message.thread in history.groups
        place = root / (f"Group {message.thread}" if is_group else f"Person {message.thread + 1}")
        place.mkdir(parents=True, exist_ok=True)
        row = {
            "date": message.at.replace(tzinfo=None).isoformat(),
            "sender": f"Person {message.sender}" if message.sender else "Me",
            "body": message.text.replace("`", "") + "  ",
            "quote": "", "sticker": None, "reactions": [], "attachments": [],
            "deleted": False, "call": False, "missed": False,
        }  # fmt: skip
        with (place / "data.json").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return root


def sample(folder: Path) -> Sample:
    """Some of everything."""
    photo = {"pointer": {"contentType": "image/jpeg", "fileName": "boat.jpg", "caption": "our boat"}, "flag": "GIF"}
    quote = {"targetSentTimestamp": "1767000000000", "authorId": "11", "text": {"body": "lunch?"}, "type": "NORMAL"}
    first = item(1, 11, 1767000300000, standardMessage=said("runing late"))["chatItem"]
    mention = [{"start": 3, "length": 1, "mentionAci": account_id(2)}, {"start": 5, "length": 4, "style": "BOLD"}]
    failed = {"sendStatus": [{"recipientId": "11", "failed": {"reason": "NETWORK"}}]}
    reactions = [{"emoji": "👍", "authorId": "1", "sentTimestamp": "1767000001000", "sortOrder": "1"}]
    return Sample(save([
        HEAD, ACCOUNT, contact(1, nickname={"given": "Ilo"}), contact(2), SELF,
        {"recipient": {"id": "2", "releaseNotes": {}}}, group(1, "Rowing"),
        chat(1, 11), chat(2, 51), chat(3, 1), chat(4, 2),
        {"stickerPack": {"packId": "AAAA"}}, {},
        item(1, 11, 1767000000000, standardMessage=said("lunch?", reactions=reactions)),
        item(1, 1, 1767000060000, standardMessage=said("ya\nwhere 👍🏽", quote=quote)),
        item(1, 11, 1767000360000, standardMessage=said("running late"), revisions=[first]),
        item(1, 1, 1767000400000, outgoing=failed, sms=True, standardMessage={"attachments": [photo]}),
        item(1, 11, 1767000500000, standardMessage=said("cut off", longText={"contentType": "text/x-signal-plain"})),
        item(2, 12, 1767000600000, standardMessage={"text": {"body": "hi \ufffc fast", "bodyRanges": mention}}),
        item(2, 1, 1767000700000, stickerMessage={"sticker": {"emoji": "👍", "data": {"contentType": "image/webp"}}}),
        item(2, 12, 1767000800000, remoteDeletedMessage={}),
        item(2, 12, 1767000900000, poll={"question": "which day?", "options": [{"option": "today"}]}),
        item(2, 1, 1767001000000, directionless={}, updateMessage={"simpleUpdate": {"type": "JOINED_SIGNAL"}}),
        item(1, 11, 1767001100000, directionless={}, updateMessage={"individualCall": {"type": "AUDIO_CALL"}}),
        item(1, 1, 1767001200000, directStoryReplyMessage={"textReply": {"text": {"body": "nice"}}}),
        item(1, 1, 1767001300000, directStoryReplyMessage={"emoji": "🎉"}),
        item(3, 1, 1767001400000, standardMessage=said("milk, eggs")),
        item(4, 2, 1767001500000, standardMessage=said("What is new")),
        item(1, 11, 1767001600000, viewOnceMessage={}),
    ], folder))  # fmt: skip
