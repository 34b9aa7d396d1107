"""Signal: the plaintext export of its own apps, a folder or zip with ``main.jsonl``, one frame a line.

    {"version": "1", "backupTimeMs": ...}                      the first line
    {"recipient": {"id": "4", "contact": {...}}}               who there is; the owner is the one with "self"
    {"chat": {"id": "2", "recipientId": "4"}}
    {"chatItem": {"chatId": "2", "authorId": "4", "dateSent": "1700000000000", "incoming": {}, "standardMessage": {}}}

Numbers of 64 bits are text there, and what has its default is left out. Folders that the program signal-export wrote
are read too (``training.sources.signal_export``). What disappears by a timer is never exported.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from errors import DataRefused
from training.records import Record
from training.sources import signal_export
from training.sources.export import DamagedFile, Export, each_file, lines
from training.sources.loose_json import mapping, sequence, whole_number
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.signal_item import Content, UnknownContent, content
from training.sources.signal_people import People, Recipient, local_id

_FRAMES = (b'"account"', b'"recipient"', b'"chat"')  # in a line that may describe people
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def recognises(export: Export) -> bool:
    """A ``main.jsonl`` that begins as a backup, a ``data.json`` of signal-export, or what sigtop writes."""
    return (
        any(_is_backup(export.head(name)) for name in _main_files(export))
        or bool(signal_export.files(export))
        or _is_sigtop(export)
    )


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every chat item of every ``main.jsonl``, the latest export first; else what signal-export wrote.

    Raises:
        DataRefused: If it is the output of sigtop, which has no text.
    """
    if _is_sigtop(export):
        raise DataRefused(
            f"'{export.path}' is by sigtop, whose JSON has no text since Signal Desktop 7.61: export the chats with "
            "Signal itself (Desktop or Android)",
            code="no_text",
        )
    if chats := signal_export.files(export):
        yield from signal_export.read(export, chats, options)
    else:
        yield from _read_all(export, _main_files(export)[::-1], options)


def _main_files(export: Export) -> list[str]:
    if export.is_single_file:
        return export.names
    return [name for name in export.names if name.rpartition("/")[2] == "main.jsonl"]


def _is_backup(head: bytes) -> bool:
    return any(sign in head for sign in (b'"backupTimeMs"', b'{"recipient":{"id"', b'{"chatItem":{'))


def _is_sigtop(export: Export) -> bool:
    """By the first file: all of them are alike."""
    head = next((export.head(name) for name in export.names if name.endswith(".json")), b"")
    return head.startswith(b"[") and b'"conversationId"' in head and b'"sent_at"' in head


def _read_all(export: Export, names: list[str], options: Options) -> Iterator[Item]:
    if len(names) == 1:  # nothing to remember
        yield from each_file(export, names, lambda name: _read(export, name, options))
        return
    known: set[int] = set()
    yield from each_file(export, names, lambda name: _without_known(_read(export, name, options), known))


def _without_known(items: Iterator[Item], known: set[int]) -> Iterator[Item]:
    """*items* less those that another file had: exports of different days overlap. Adds these to *known*."""
    here = set()
    for item in items:
        if isinstance(item, Record) and item.sent_at is not None:
            identity = hash((item.thread_id, item.source_id))
            if identity in known:
                item = Skipped("duplicate")
            here.add(identity)
        yield item
    known |= here


def _read(export: Export, name: str, options: Options) -> Iterator[Item]:
    people = _people(export, name)
    if people.disappearing:
        yield Note(f"messages disappear in {people.disappearing} of the conversations: Signal does not export those")
    reader = _Items(people, people.chosen(options))
    with export.open(name) as file:
        for number, line in enumerate(lines(file), 1):
            where = f"{name} line {number}"
            if line is None:
                yield NotUnderstood(f"{where}: longer than 16 MB")
            elif line.strip():
                yield from reader.items(_frame(line), number, where)


def _people(export: Export, name: str) -> People:
    """Everybody in the file, before its first message: the owner may stand anywhere in it."""
    people = People()
    try:
        with export.open(name) as file:
            for line in lines(file):
                if line and any(frame in line for frame in _FRAMES):
                    people.learn(_frame(line) or {})
    except DamagedFile:
        pass  # it is damaged for the second reading too, which says so
    return people


def _frame(line: bytes) -> dict[str, Any] | None:
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


class _Items:
    """Turns the chat items of one file into records."""

    def __init__(self, people: People, chosen: frozenset[str]):
        self._people = people
        self._chosen = chosen
        self._edits: dict[str, str] = {}  # id by the time of an edit -> id by the time it was first sent

    def items(self, frame: dict[str, Any] | None, number: int, where: str) -> Iterator[Item]:
        """The message of one line; nothing for the other frames."""
        if frame is None:
            yield NotUnderstood(f"{where}: not a JSON object")
        elif frame.get("adHocCall") is not None:
            yield Skipped("call_link")
        elif isinstance(frame.get("chatItem"), dict):
            yield self._item(frame["chatItem"], number, where)
        elif frame.get("chatItem") is not None:
            yield NotUnderstood(f"{where}: its chatItem is no object")

    def _item(self, item: dict[str, Any], number: int, where: str) -> Item:
        chat = self._people.chat(local_id(item.get("chatId")))
        if chat is None:
            return NotUnderstood(f"{where}: of a chat that the file does not describe")
        if chat.kind in ("self", "channel"):
            return Skipped("self_chat" if chat.kind == "self" else "channel")
        try:
            inside = content(item, self._people.named)
        except UnknownContent as problem:
            return NotUnderstood(f"{where}: {problem}")
        return Skipped("empty") if inside.is_empty else self._record(item, chat, inside, number)

    def _record(self, item: dict[str, Any], chat: Recipient, inside: Content, number: int) -> Record:
        author = local_id(item.get("authorId"))
        sender = self._people.recipients.get(author)
        revisions = [mapping(revision) for revision in sequence(item.get("revisions"))]
        # The time of an edited item is that of its last edit; its first version has the one that counts.
        versions = [*revisions, item]
        source_id = self._id(author, versions[0].get("dateSent"))
        self._edits.update((self._id(author, version.get("dateSent")), source_id) for version in versions[1:])
        return Record(
            source="signal",
            thread_id=chat.id or "signal:unknown",
            thread_kind="group" if chat.kind == "group" else "dm",
            thread_name=chat.name,
            from_me=self._from_me(item, author),
            sender_id=sender.id if sender else None,
            sender_name=self._people.name_of(sender),
            sent_at=_time(versions[0].get("dateSent")),
            text="\n".join(inside.bubbles),
            parts=inside.bubbles if len(inside.bubbles) > 1 else [],
            kind=inside.kind,
            reply_to=self._answered(mapping(item.get("standardMessage")).get("quote")),
            flags=[*inside.flags, *_flags(item, revisions)],
            source_id=source_id,
            order=number,
            attachments=inside.attachments,
        )

    def _id(self, author: str, sent: Any) -> str:
        """What identifies a message in Signal: who sent it in which millisecond."""
        sender = self._people.recipients.get(author)
        return f"{whole_number(sent) or 0}:{sender.id or 'me' if sender else 'unknown'}"

    def _from_me(self, item: dict[str, Any], author: str) -> bool:
        if self._chosen:
            return author in self._chosen
        if "outgoing" in item or "incoming" in item:
            return item.get("outgoing") is not None
        sender = self._people.recipients.get(author)
        return sender is not None and sender.kind == "self"

    def _answered(self, quote: Any) -> str | None:
        if not isinstance(quote, dict) or not whole_number(quote.get("targetSentTimestamp")):
            return None
        found = self._id(local_id(quote.get("authorId")), quote["targetSentTimestamp"])
        return self._edits.get(found, found)


def _flags(item: dict[str, Any], revisions: list[dict[str, Any]]) -> list[str]:
    flags = ["edited"] if revisions else []
    if item.get("sms") is True:
        flags.append("sms")
    states = [mapping(status) for status in sequence(mapping(item.get("outgoing")).get("sendStatus"))]
    if states and all("failed" in state or "skipped" in state for state in states):
        flags.append("failed")
    return flags


def _time(sent: Any) -> datetime | None:
    milliseconds = whole_number(sent)
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds) if milliseconds else None
    except OverflowError:
        return None
