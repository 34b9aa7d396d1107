"""Messenger and Instagram, which share one export: every message of every conversation as an item.

Reads each file twice: once for the people, as nothing else says who is me, and once for the messages.
"""

from collections.abc import Iterator
from typing import Any

from errors import DataRefused
from training.records import Record
from training.sources.export import Export, each_file
from training.sources.json_stream import entries
from training.sources.meta_files import ChatFile, Platform, chat_files, only_as_html, scanned
from training.sources.meta_message import content_of, moment, repaired
from training.sources.meta_people import Conversation, conversations, person, who_is_me
from training.sources.meta_phrases import service_kind
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

_FILE = 1 << 32  # more than the messages of a file: later files of a conversation are older


def read_meta(export: Export, options: Options, source: Platform) -> Iterator[Item]:
    """The messages of all conversations of *source*, file by file.

    Raises:
        DataRefused: If there is none to read, or it is not clear who is me.
    """
    names, of_the_other = chat_files(export, source)
    if not names:
        raise _nothing_to_read(export)
    chats = [scanned(export, name) for name in names]
    mine, guess = who_is_me(export, chats, options)
    found, namesakes = conversations(source, chats, mine, options.region)
    reader = _Reader(export, source, mine, options.region)
    for conversation in found:
        yield from reader.read(conversation)
    notes = (
        (guess, guess),
        (reader.timeless, f"{reader.timeless} messages have no readable time"),
        (namesakes, f"{namesakes} names have several conversations each: each name was taken for one person"),
        (of_the_other, f"{len(of_the_other)} files are of the other platform: import them as such"),
        (count := only_as_html(export), f"{count} conversations are there as HTML only: export them as JSON"),
    )
    yield from (Note(text) for said, text in notes if said and text)


def _nothing_to_read(export: Export) -> DataRefused:
    if only_as_html(export):
        return DataRefused(
            f"'{export.path}' is an HTML export: ask for it again in the format JSON", code="html_export"
        )
    return DataRefused(
        f"no conversation in '{export.path}': they are inbox/NAME/message_1.json, or NAME_1.json where encrypted",
        code="no_messages",
    )


class _Reader:
    """Reads conversations. ``timeless`` counts the messages without a time."""

    def __init__(self, export: Export, source: Platform, mine: set[str], region: str | None):
        self.timeless = 0
        self._export, self._source, self._mine, self._region = export, source, mine, region

    def read(self, conversation: Conversation) -> Iterator[Item]:
        """The items of one conversation; messages that two downloads hold come once."""
        files = {chat.name: chat for chat in conversation.files}
        orders = {name: -number * _FILE for number, name in enumerate(files)}
        seen: dict[int, str] | None = {} if len({chat.folder for chat in files.values()}) > 1 else None
        thread = _Thread(conversation, self._source, self._mine, self._region)

        def items(name: str) -> Iterator[Item]:
            for item in self._file(files[name], thread, orders[name]):
                yield Skipped("duplicate") if _is_duplicate(item, files[name].folder, seen) else item

        yield from each_file(self._export, files, items)

    def _file(self, chat: ChatFile, thread: "_Thread", order: int) -> Iterator[Item]:
        newest_first = chat.falls > 0 or (chat.falls == 0 and not chat.is_flat)
        direction = -1 if newest_first else 1
        with self._export.open(chat.name) as file:
            for number, message in enumerate(entries(file, "messages.item", chat.name), 1):
                item = thread.item(message, order + direction * number)
                if item is None:
                    yield NotUnderstood(f"{chat.name} message {number}: nobody sent it")
                else:
                    self.timeless += isinstance(item, Record) and item.sent_at is None
                    yield item
        if not chat.has_messages:
            yield NotUnderstood(f"{chat.name}: holds no list of messages")


class _Thread:
    """Makes records of the messages of one conversation."""

    def __init__(self, conversation: Conversation, source: Platform, mine: set[str], region: str | None):
        self._conversation, self._source, self._mine, self._region = conversation, source, mine, region
        self._known_as = conversation.known_as
        self._place = conversation.files[0].place
        self._ids: dict[str, str] = {}

    def item(self, message: Any, order: int) -> Item | None:
        """*message* as an item; None if it is no message."""
        sender = message.get("sender_name", message.get("senderName")) if isinstance(message, dict) else None
        if not isinstance(sender, str):
            return None
        if self._conversation.is_self:
            return Skipped("self_chat")
        sender = repaired(sender)
        mine = sender in self._mine
        content = content_of(message, lambda text: service_kind(text, sender, self._known_as, mine))
        return Record(
            source=self._source,
            thread_id=self._conversation.thread_id,
            thread_kind=self._conversation.kind,
            thread_name=self._conversation.name,
            from_me=mine,
            sender_id=self._id(sender, mine),
            sender_name=sender,
            sent_at=moment(message.get("timestamp_ms", message.get("timestamp"))),
            kind=content.kind,
            text=content.text,
            flags=content.flags,
            attachments=content.attachments,
            order=order,
        )

    def _id(self, sender: str, mine: bool) -> str:
        if self._conversation.kind == "dm" and not mine:
            return self._conversation.thread_id
        if sender not in self._ids:
            self._ids[sender] = person(self._source, sender, self._place, self._region)
        return self._ids[sender]


def _is_duplicate(item: Item, folder: str, seen: dict[int, str] | None) -> bool:
    if seen is None or not isinstance(item, Record) or item.sent_at is None:
        return False
    return seen.setdefault(hash((item.sender_name, item.sent_at, item.kind, item.text)), folder) != folder
