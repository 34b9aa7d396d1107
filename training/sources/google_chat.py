"""Google Chat, as Google Takeout exports it. Times are sentences in the language of the account (``google_dates``)."""

import mimetypes
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from errors import DataRefused
from training.records import Attachment, Kind, Record
from training.sources.export import Export, each_file
from training.sources.google_dates import written_moment
from training.sources.google_groups import (
    SOURCE,
    Group,
    Me,
    group_of,
    message_files,
    place_of,
    rooms_of,
    user_of,
    who_is_me,
)
from training.sources.json_stream import entries
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped

_LOOKED_AT = 5
_FILE = 1 << 32  # more than the messages of a file


def recognises(export: Export) -> bool:
    """A ``messages.json`` whose messages have a creator and a written date."""
    heads = (export.head(name, 1 << 16) for name in message_files(export)[:_LOOKED_AT])
    return any(b'"creator"' in head and b'"created_date"' in head for head in heads)


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every conversation, in the order of the files.

    Raises:
        DataRefused: If there is none, or it is not clear who is me.
    """
    names = message_files(export)
    if not names:
        raise DataRefused(f"no 'Google Chat/Groups/NAME/messages.json' in '{export.path}'", code="no_messages")
    rooms = rooms_of(export, names)
    is_me = who_is_me(export, options, rooms.values())
    groups = {place: group_of(room, is_me) for place, room in rooms.items()}
    reader = _Reader(export, groups, is_me, {name: number for number, name in enumerate(names)})
    yield from each_file(export, names, reader.read)
    if reader.timeless:
        yield Note(f"{reader.timeless} messages have no date, or one in a language or form that is not known")


class _Reader:
    """Reads files of messages. ``timeless`` counts the messages without a time."""

    def __init__(self, export: Export, groups: dict[str, Group], is_me: Me, numbers: dict[str, int]):
        self.timeless = 0
        self._export, self._groups, self._is_me, self._numbers = export, groups, is_me, numbers
        places = Counter(place_of(export, name) for name in numbers)
        self._repeated = {place for place, count in places.items() if count > 1}
        self._seen: dict[str, int] = {}

    def read(self, name: str) -> Iterator[Item]:
        """The items of one file; a message that an earlier file of the conversation holds too is a duplicate."""
        place = place_of(self._export, name)
        order = self._numbers[name] * _FILE
        with self._export.open(name) as file:
            for number, message in enumerate(entries(file, "messages.item", name), 1):
                item = self._item(message, self._groups[place], order + number)
                yield item or NotUnderstood(f"{name} message {number}: it names no creator")

    def _item(self, message: Any, group: Group, order: int) -> Item | None:
        if not isinstance(message, dict):
            return None
        deleted = _is_deleted(message)
        user = user_of(message.get("creator"))
        if user is None and not deleted:
            return None
        if group.is_self:
            return Skipped("self_chat")
        if self._is_repeated(message, group.place, order // _FILE):
            return Skipped("duplicate")
        kind, text, flags = ("deleted", "", []) if deleted else _said(message)
        sent_at = _moment(message)
        self.timeless += sent_at is None and not deleted
        return Record(
            source=SOURCE,
            source_id=_text(message.get("message_id")) or None,
            thread_id=group.thread_id,
            thread_kind=group.kind,
            thread_name=group.name,
            from_me=user is not None and self._is_me(user),
            sender_id=user.identifier(group.place) if user else None,
            sender_name=user.name or user.email if user else None,
            sent_at=sent_at,
            kind=kind,
            text=text,
            flags=flags,
            reply_to=_quoted(message),
            attachments=[] if deleted else list(_attachments(message)),
            order=order,
        )

    def _is_repeated(self, message: dict[str, Any], place: str, file: int) -> bool:
        """Several downloads of one conversation overlap; in a single one nothing needs to be remembered."""
        identifier = _text(message.get("message_id"))
        if not identifier or place not in self._repeated:
            return False
        return self._seen.setdefault(f"{place} {identifier}", file) != file


def _said(message: dict[str, Any]) -> tuple[Kind, str, list[str]]:
    text, marks = _text(message.get("text")), set(_annotations(message))
    flags = ["edited"] if _is_edited(message) else []
    creator = message.get("creator")
    if isinstance(creator, dict) and creator.get("user_type") == "Bot":
        flags.append("auto")
    if "call_data" in marks or ("video_call_metadata" in marks and not text.strip()):
        return "call", "", flags
    app = next((mark for mark in ("tasks_data", "calendar_event_data") if mark in marks), None)
    if app:  # the words are the app's
        return "media", "", [*flags, app.partition("_")[0]]
    if any(mark.startswith("membership") for mark in marks):
        return "system", "", flags
    if text.strip():
        return "text", text, flags
    return "media", "", flags if message.get("attached_files") or marks else [*flags, "unavailable"]


def _annotations(message: dict[str, Any]) -> Iterator[str]:
    """The names of what hangs on the text; of an app of Google's the name of what it did."""
    listed = message.get("annotations")
    for annotation in listed if isinstance(listed, list) else ():
        if isinstance(annotation, dict):
            yield from (key for key in annotation if key not in ("start_index", "length"))
            app = annotation.get("gsuite_integration_metadata")
            yield from app if isinstance(app, dict) else ()


def _attachments(message: dict[str, Any]) -> Iterator[Attachment]:
    listed = message.get("attached_files")
    for file in listed if isinstance(listed, list) else ():
        if isinstance(file, dict):
            name = _text(file.get("original_name")) or _text(file.get("export_name"))
            yield Attachment(mime=mimetypes.guess_type(name)[0], name=name or None)


def _is_deleted(message: dict[str, Any]) -> bool:
    return message.get("message_state") == "DELETED" or any(
        key in message for key in ("deletion_metadata", "deleted_date")
    )


def _is_edited(message: dict[str, Any]) -> bool:
    updated = _text(message.get("updated_date"))
    return bool(message.get("previous_message_versions")) or updated not in ("", message.get("created_date"))


def _moment(message: dict[str, Any]) -> datetime | None:
    return written_moment(_text(message.get("created_date")))


def _quoted(message: dict[str, Any]) -> str | None:
    quoted = message.get("quoted_message_metadata")
    return _text(quoted.get("message_id")) or None if isinstance(quoted, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
