"""The files of a Discord export: which hold conversations, of which channel, by whom; which are Discord's package."""

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from errors import DataRefused
from training.identifiers import canonical_name
from training.sources.export import DamagedFile, Export
from training.sources.json_stream import entries, first

_PACKAGE = re.compile(r"(?:^|/)messages/c?\d+/(?:channel\.json|messages\.(?:csv|json))$", re.IGNORECASE)
_PACKAGE_HEAD = re.compile(
    rb'^(?:\xef\xbb\xbf)?(?:ID,Timestamp,Contents,Attachments\r?\n|\s*\[\s*\{\s*"ID"\s*:\s*"?\d)'
)
_HEADER = {"channel.id", "channel.type", "channel.name"}


@dataclass(frozen=True)
class Channel:
    """The conversation that a file holds, or a part of."""

    key: str
    kind: str
    name: str | None

    @property
    def is_direct(self) -> bool:
        return self.kind in ("DirectTextChat", "1")

    @property
    def is_broadcast(self) -> bool:
        return self.kind in ("GuildNews", "GuildNewsThread", "5", "10")


def json_files(export: Export) -> list[str]:
    """Names of what may be a conversation; a single file may be called anything."""
    return export.names if export.is_single_file else [name for name in export.names if name.lower().endswith(".json")]


def conversations(export: Export) -> list[str]:
    """Names of the files that begin as DiscordChatExporter's do."""
    return [name for name in json_files(export) if _is_conversation(export.head(name))]


def _is_conversation(head: bytes) -> bool:
    return (b'"guild"' in head and b'"channel"' in head) or b'"callEndedTimestamp"' in head


def is_package(export: Export) -> bool:
    """Whether Discord's own data package, or a file of it, is there."""
    if any(_PACKAGE.search(name) for name in export.names):
        return True
    return export.is_single_file and bool(_PACKAGE_HEAD.match(export.head(export.names[0])))


def refused(package: bool) -> DataRefused:
    """What to raise where there is no conversation: what was given and what to give instead."""
    instead = "export the conversations with DiscordChatExporter as JSON and import those"
    if package:
        return DataRefused(
            f"this is Discord's own data package, which holds only your own messages, not what they answer: {instead}",
            code="own_messages_only",
            details=["Discord's terms may not allow exporting with a user account: read them first"],
        )
    return DataRefused(f"no conversation of DiscordChatExporter here: {instead}", code="no_messages")


def channel_of(export: Export, name: str) -> Channel:
    """The channel of one file; one without a kind, called like the file, where it cannot be told."""
    found: dict[str, Any] = {}
    with suppress(DamagedFile), export.open(name) as file:  # the messages before the damage are still read
        found = first(file, _HEADER, name)
    shown = found.get("channel.name")
    return Channel(
        plain(found.get("channel.id")) or name,
        plain(found.get("channel.type")) or "",
        shown if isinstance(shown, str) else None,
    )


def plain(value: Any) -> str | None:
    """An id or a name as text; ids are numbers in some exports."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def sender_of(author: dict[str, Any]) -> tuple[str | None, str | None]:
    """(canonical identifier, name as shown)"""
    name = plain(author.get("name"))
    if number := plain(author.get("id")):
        return f"discord:{number}", plain(author.get("nickname")) or name
    return (canonical_name("discord", name) if name else None), plain(author.get("nickname")) or name


def candidates(export: Export, names: list[str]) -> list[str]:
    """Who wrote, those in most conversations first: an account's name, or its id where two have one name."""
    present: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for name in names:
        present.update(_authors(export, name, shown))
    count = Counter(shown.values())
    return [
        shown[sender] if count[shown[sender]] == 1 else sender.removeprefix("discord:")
        for sender, _ in present.most_common()
    ]


def _authors(export: Export, name: str, shown: dict[str, str]) -> set[str]:
    here = set()
    with suppress(DamagedFile), export.open(name) as file:
        for author in entries(file, "messages.item.author", name):
            if isinstance(author, dict) and author.get("isBot") is not True and (sender := sender_of(author)[0]):
                here.add(sender)
                shown[sender] = plain(author.get("name")) or sender.removeprefix("discord:")
    return here
