"""Apple Messages: chat.db of macOS, sms.db of iOS (in a backup a file with a long name), or a folder that holds one.

The text exports of imessage-exporter are refused: where a message of theirs ends cannot be told for certain.
"""

import re
from collections.abc import Iterator

from errors import DataRefused
from training.records import Record
from training.sources.export import DamagedFile, Export, each_file
from training.sources.imessage_chats import Conversations
from training.sources.imessage_database import opened
from training.sources.imessage_rows import Reader
from training.sources.options import Options
from training.sources.outcome import Item, Skipped

_NAMES = {"chat.db", "sms.db", "3d0d7e5fb2ce288813306e4d4636395e047a3d28"}
_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_SQLITE = b"SQLite format 3\x00"
_SCHEMA = 1 << 16  # bytes at the beginning, where a small database declares its tables
_EXPORTED_TEXT = re.compile(rb"[A-Z][a-z]{2} [ \d]\d, \d{4} +\d{1,2}:\d\d:\d\d [AP]M[^\n]*\n[^\n]+\n")


def recognises(export: Export) -> bool:
    """A database of Messages by its name or its tables, or what imessage-exporter makes of one."""
    return bool(_databases(export)) or _is_exported_text(export)


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every database in the export.

    Raises:
        DataRefused: If there is none, or only the output of imessage-exporter.
    """
    names = export.names if export.is_single_file else _databases(export)
    if not _databases(export) and _is_exported_text(export):
        raise DataRefused(
            "this is text that imessage-exporter wrote, and where a message in it ends cannot be told for certain: "
            "give the database itself (~/Library/Messages/chat.db, or sms.db of a backup)",
            code="unsupported_export",
        )
    if not names:
        raise DataRefused(f"no chat.db and no sms.db in '{export.path}'", code="no_messages")
    items = each_file(export, names, lambda name: _read(export, name, options))
    yield from items if len(names) == 1 else _once(items)


def _databases(export: Export) -> list[str]:
    return [name for name in export.names if _is_database(export, name)]


def _is_database(export: Export, name: str) -> bool:
    base = name.rpartition("/")[2]
    if base in _NAMES:
        return True
    if not (export.is_single_file or base.lower().endswith(_SUFFIXES)):
        return False
    head = export.head(name, _SCHEMA)
    return head.startswith(_SQLITE) and b"attributedBody" in head


def _is_exported_text(export: Export) -> bool:
    texts = [name for name in export.names if name.lower().endswith((".txt", ".html"))][:20]
    return any(_looks_exported(export, name) for name in texts)


def _looks_exported(export: Export, name: str) -> bool:
    head = export.head(name, _SCHEMA)
    if name.lower().endswith(".html"):
        return b'class="message"' in head and b'class="timestamp"' in head and b'"sent iMessage"' in head
    return bool(_EXPORTED_TEXT.match(head))


def _once(items: Iterator[Item]) -> Iterator[Item]:
    """The items of several databases, of which one is often an older copy of another."""
    seen = set()
    for item in items:
        if isinstance(item, Record) and item.source_id is not None:
            if item.source_id in seen:
                yield Skipped("duplicate")
                continue
            seen.add(item.source_id)
        yield item


def _read(export: Export, name: str, options: Options) -> Iterator[Item]:
    with opened(export.on_disk(name), name) as database:
        if not {"guid", "date"} <= database.columns("message"):
            raise DamagedFile(f"'{name}' is no Messages database: it has no table of messages")
        reader = Reader(database, name, Conversations(database, options))
        yield from reader.items()
        yield from reader.notes()
