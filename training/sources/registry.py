"""Every importer by the name the command line knows it by, and how ``auto`` finds the right one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from errors import DataRefused
from training.sources import (
    csv_table,
    discord,
    google_chat,
    google_voice,
    imessage,
    instagram,
    jsonl,
    messenger,
    signal,
    slack,
    sms,
    telegram,
    whatsapp,
)
from training.sources.export import Export
from training.sources.options import Options
from training.sources.outcome import Item


@dataclass(frozen=True)
class Source:
    """An importer.

    Attributes:
        title: What it reads, for help and errors.
        recognises: Whether an export looks like this source: by names and first bytes, never by reading it all.
        read: Every entry of the export as an item, in the export's order.
    """

    title: str
    recognises: Callable[[Export], bool]
    read: Callable[[Export, Options], Iterator[Item]]


# `auto` asks in this order: the particular before the general.
SOURCES: dict[str, Source] = {
    "imessage": Source("Apple Messages: chat.db, or sms.db of a backup", imessage.recognises, imessage.read),
    "signal": Source("Signal: plaintext export of the app, or signal-export folders", signal.recognises, signal.read),
    "slack": Source("Slack workspace export, zip or folder", slack.recognises, slack.read),
    "telegram": Source("Telegram Desktop: result.json", telegram.recognises, telegram.read),
    "discord": Source("Discord: JSON of DiscordChatExporter", discord.recognises, discord.read),
    "google-voice": Source("Google Voice: pages of Takeout", google_voice.recognises, google_voice.read),
    "sms": Source("Android: XML of SMS Backup & Restore", sms.recognises, sms.read),
    "instagram": Source("Instagram: JSON of Download your information", instagram.recognises, instagram.read),
    "messenger": Source("Facebook Messenger: JSON, also of encrypted chats", messenger.recognises, messenger.read),
    "google-chat": Source("Google Chat: JSON of Google Takeout", google_chat.recognises, google_chat.read),
    "whatsapp": Source('WhatsApp: text files of "Export chat", in zips or not', whatsapp.recognises, whatsapp.read),
    "csv": Source("CSV with a header: WeChat tables, iMazing, any other", csv_table.recognises, csv_table.read),
    "jsonl": Source("JSON Lines: normalised records, or objects of any keys", jsonl.recognises, jsonl.read),
}


def find(name: str, export: Export) -> tuple[str, Source]:
    """The importer called *name*, or for ``auto`` the first that recognises *export*.

    Raises:
        DataRefused: If there is none.
    """
    if name != "auto":
        if name not in SOURCES:
            raise DataRefused(f"no importer '{name}'; there are auto and {', '.join(SOURCES)}", code="unknown_source")
        return name, SOURCES[name]
    for source, entry in SOURCES.items():
        if entry.recognises(export):
            return source, entry
    raise DataRefused(
        f"'{export.path}' looks like no export this version knows: name the source",
        code="unknown_source",
        details=[f"{source}: {entry.title}" for source, entry in SOURCES.items()],
    )


def others_in(name: str, export: Export) -> list[str]:
    """Importers besides *name* that find something of theirs in a folder or zip."""
    if export.is_single_file:
        return []
    return [source for source, entry in SOURCES.items() if source != name and entry.recognises(export)]
