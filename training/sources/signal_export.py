"""What the program signal-export writes of Signal Desktop's database: per chat a folder with ``data.json``.

    {"date": "2024-05-01T18:30:00", "sender": "Me", "body": "home yet?  ", "reactions": [], "attachments": [], ...}

One object a line, times local and without a zone, no ids. Neither edits nor which message was answered are in it,
back ticks are gone from the texts, and two spaces stand at the end of each.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from training.identifiers import canonical_name, visible
from training.records import Attachment, Kind, Record
from training.sources.export import DamagedFile, Export, each_file, lines
from training.sources.loose_json import mapping, sequence, string
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

_ME = "Me"
_NOBODY = "No-Sender"


def files(export: Export) -> list[str]:
    """The chats of the export: each ``data.json`` that begins as one."""
    named = export.names if export.is_single_file else [n for n in export.names if n.rpartition("/")[2] == "data.json"]
    return [name for name in named if _is_chat(export.head(name))]


def read(export: Export, names: list[str], options: Options) -> Iterator[Item]:
    """Every line of the chats *names*."""
    yield Note("signal-export has taken the back ticks out of all texts: Signal's own export keeps them")
    yield from each_file(export, names, lambda name: _read(export, name, options))


def _is_chat(head: bytes) -> bool:
    first = head.partition(b"\n")[0]
    return first.startswith(b'{"date": "') and b'"sender": ' in first


def _read(export: Export, name: str, options: Options) -> Iterator[Item]:
    # What stands at the end of an export that was put into one folder is the chat's name.
    folder = visible(name.rpartition("/")[0].rpartition("/")[2] or export.path.absolute().parent.name)
    if folder == "Note to Self":
        yield from (Skipped("self_chat") for line in _lines(export, name) if line is None or line.strip())
        return
    others = _others(export, name, options)
    # Whether it is a group is not said: in a direct chat all others bear the chat's own name.
    is_group = len(others) > 1 or (len(others) == 1 and "/" in name and others != {folder})
    person = next(iter(others)) if len(others) == 1 else folder
    thread_id = f"group:{folder}" if is_group else canonical_name("signal", person, options.region)
    for number, line in enumerate(_lines(export, name), 1):
        row = _row(line)
        if row is None:
            if line is None or line.strip():
                yield NotUnderstood(f"{name} line {number}: not a message of signal-export")
            continue
        record = _record(row, number, options)
        record.thread_id, record.thread_name, record.thread_kind = thread_id, folder, "group" if is_group else "dm"
        yield record if record.text or record.kind != "text" else Skipped("empty")


def _lines(export: Export, name: str) -> Iterator[bytes | None]:
    with export.open(name) as file:
        yield from lines(file)


def _row(line: bytes | None) -> dict[str, Any] | None:
    try:
        row = json.loads(line or b"")
    except (ValueError, RecursionError):
        return None
    is_message = isinstance(row, dict) and isinstance(row.get("sender"), str) and isinstance(row.get("body"), str)
    return row if is_message else None


def _others(export: Export, name: str, options: Options) -> set[str]:
    """The names of all who write in a chat and are not me."""
    found = set()
    try:
        for line in _lines(export, name):
            sender = mapping(_row(line)).get("sender", _NOBODY)
            if sender != _NOBODY and not _is_me(sender, options):
                found.add(visible(sender))
    except DamagedFile:
        pass  # it is damaged for the second reading too, which says so
    return found


def _record(row: dict[str, Any], number: int, options: Options) -> Record:
    sender = row["sender"]
    from_me = _is_me(sender, options)
    attached = [Attachment(name=string(mapping(file).get("name")) or None) for file in sequence(row.get("attachments"))]
    body = row["body"].removesuffix("  ")
    kind = _kind(row, body, bool(attached))
    sent_at, sent_local = _time(row.get("date"), options)
    return Record(
        source="signal",
        thread_id="signal",
        from_me=from_me,
        sender_id=None if from_me or sender == _NOBODY else canonical_name("signal", sender, options.region),
        sender_name=None if sender == _NOBODY else sender,
        sent_at=sent_at,
        sent_local=sent_local,
        text=body if kind == "text" and body.strip() else "",
        kind=kind,
        flags=["sticker"] if row.get("sticker") else [],
        order=number,
        attachments=attached,
    )


def _is_me(sender: str, options: Options) -> bool:
    return sender == _ME or options.is_me(sender)


def _kind(row: dict[str, Any], body: str, attached: bool) -> Kind:
    if row.get("deleted") is True:
        return "deleted"
    if row.get("call") is True or row.get("missed") is True:
        return "call"
    return "text" if body.strip() or not (attached or row.get("sticker")) else "media"


def _time(date: Any, options: Options) -> tuple[datetime | None, str | None]:
    """(in UTC, as written); messages without a time were given the year 1970."""
    try:
        local = datetime.fromisoformat(string(date))
        if local.year <= 1970:
            return None, None
        return (local.astimezone(UTC), None) if local.tzinfo else (options.aware(local), string(date))
    except (ValueError, OverflowError, OSError):
        return None, None
