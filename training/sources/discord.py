"""Conversations exported by DiscordChatExporter as JSON: one file, or a folder or zip of many, which may overlap.

Discord's own data package is refused: it holds only what its owner wrote, so nobody's question to any answer.
An export never says whose it is: the user has to.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from training.records import Attachment, Kind, Record
from training.sources.discord_files import (
    Channel,
    candidates,
    channel_of,
    conversations,
    is_package,
    json_files,
    plain,
    refused,
    sender_of,
)
from training.sources.export import Export, each_file
from training.sources.json_stream import entries
from training.sources.options import Options, ask_who_is_me
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

_TYPED = {"Default", "Reply", "0", "19"}  # an exporter writes kinds newer than itself as numbers
_CALL = {"Call", "3"}
_BIGGEST = (1 << 63) - 1


def recognises(export: Export) -> bool:
    """A JSON file that begins with a guild and a channel; or Discord's own package, to be refused with a reason."""
    return bool(conversations(export)) or is_package(export)


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every file.

    Raises:
        DataRefused: If it is Discord's own data package, or the user did not say who they are.
    """
    package = is_package(export)
    names = conversations(export) or ([] if package else json_files(export))
    if not names:
        raise refused(package)
    if package:
        yield Note("Discord's own data package is left out: it holds nobody else's messages")
    if not options.me:
        raise ask_who_is_me(candidates(export, names))
    channels = {name: channel_of(export, name) for name in names}
    yield from (Note(f"'{name}' does not say of which channel it is") for name in names if not channels[name].kind)
    reader = _Reader(export, options, Counter(channel.key for channel in channels.values()))
    yield from each_file(export, names, lambda name: reader.file(name, channels[name]))


class _Reader:
    """Turns the messages of one file after the other into records."""

    def __init__(self, export: Export, options: Options, files: Counter[str]):
        self._export, self._options, self._files = export, options, files
        self._seen: defaultdict[str, set[str]] = defaultdict(set)
        self._mine: dict[tuple[str | None, ...], bool] = {}

    def file(self, name: str, channel: Channel) -> Iterator[Item]:
        count = 0
        with self._export.open(name) as file:
            for count, row in enumerate(entries(file, "messages.item", name), 1):
                yield self._item(row, channel, f"{name}, message {count}")
        with self._export.open(name) as file:
            declared = next(entries(file, "messageCount", name), None)
        if isinstance(declared, int) and declared != count:
            yield Note(f"'{name}' says that it holds {declared} messages, and there are {count}")

    def _item(self, row: Any, channel: Channel, where: str) -> Item:
        if not isinstance(row, dict) or not isinstance(row.get("author"), dict):
            return NotUnderstood(f"{where}: not a message with an author")
        if channel.is_broadcast:
            return Skipped("channel")
        if self._is_known(channel, plain(row.get("id"))):
            return Skipped("duplicate")
        record = self._record(row, row["author"], channel)
        if isinstance(record, str):
            return NotUnderstood(f"{where}: {record}")
        is_bot = row["author"].get("isBot") is True
        return Skipped("bot") if is_bot and record.kind in ("text", "media") and not record.from_me else record

    def _is_known(self, channel: Channel, number: str | None) -> bool:
        """Whether another file held it; within one file an id stands once."""
        if number is None or self._files[channel.key] < 2:
            return False
        seen = self._seen[channel.key]
        if number in seen:
            return True
        seen.add(number)
        return False

    def _record(self, row: dict[str, Any], author: dict[str, Any], channel: Channel) -> Record | str:
        sent_at, content, number = _when(row.get("timestamp")), row.get("content"), plain(row.get("id"))
        if sent_at is None:
            return "no readable time"
        if not isinstance(content, str):
            return "its content is no text"
        sender, shown = sender_of(author)
        if sender is None:
            return "no sender"
        kind = _kind(row, content)
        return Record(
            source="discord",
            thread_id=f"discord:{channel.key}",
            thread_kind="dm" if channel.is_direct else "group",
            thread_name=channel.name,
            sender_id=sender,
            sender_name=shown,
            from_me=self._is_mine(sender, author),
            sent_at=sent_at,
            kind=kind,
            text=content if kind == "text" else "",
            reply_to=_reply_to(row, channel) if kind in ("text", "media") else None,
            flags=_flags(row) if kind in ("text", "media") else [],
            source_id=number,
            order=min(int(number), _BIGGEST) if number and re.fullmatch("[0-9]{1,19}", number) else 0,
            attachments=_attachments(row),
        )

    def _is_mine(self, sender: str, author: dict[str, Any]) -> bool:
        name, tag = plain(author.get("name")), plain(author.get("discriminator"))
        names = (sender, plain(author.get("id")), name, plain(author.get("nickname")), f"{name}#{tag}")
        if names not in self._mine:
            self._mine[names] = self._options.is_me(*names)
        return self._mine[names]


def _kind(row: dict[str, Any], content: str) -> Kind:
    kind = plain(row.get("type"))
    if kind not in _TYPED:
        return "call" if kind in _CALL else "system"
    return "text" if content.strip() else "media"


def _when(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _reply_to(row: dict[str, Any], channel: Channel) -> str | None:
    reference = row.get("reference")
    if not isinstance(reference, dict) or _is_forward(row):
        return None
    elsewhere = plain(reference.get("channelId"))
    return plain(reference.get("messageId")) if elsewhere in (None, channel.key) else None


def _is_forward(row: dict[str, Any]) -> bool:
    reference = row.get("reference")
    is_forward = isinstance(reference, dict) and reference.get("type") in ("Forward", 1, "1")
    return is_forward or isinstance(row.get("forwardedMessage"), dict)


def _flags(row: dict[str, Any]) -> list[str]:
    found = {
        "edited": isinstance(row.get("timestampEdited"), str),
        "forwarded": _is_forward(row),
        "auto": isinstance(row.get("interaction"), dict),  # the answer to a command
        "sticker": bool(row.get("stickers")),
        "poll": isinstance(row.get("poll"), dict),
    }
    return [flag for flag, is_so in found.items() if is_so]


def _attachments(row: dict[str, Any]) -> list[Attachment]:
    files = row.get("attachments")
    if not isinstance(files, list):
        return []
    return [Attachment(name=plain(file.get("fileName"))) for file in files if isinstance(file, dict)]
