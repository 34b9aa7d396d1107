"""Telegram Desktop's JSON export (``result.json``), of a whole account or of one chat; several in a folder or a zip.

Each file is read twice: for its chats and its owner, then for the messages. Who wrote is known by Telegram's account
ids, which stay the same when a name changes. The HTML export is not read.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from errors import DataRefused
from training.records import Attachment, Kind, Record
from training.sources.export import DamagedFile, Export, each_file
from training.sources.json_stream import entries
from training.sources.options import Options
from training.sources.outcome import Item, NotUnderstood, Skipped
from training.sources.telegram_chats import KINDS, ROOTS, Chat, Outline, Owner, sender_of
from training.sources.telegram_repair import repaired

_HEAD = re.compile(
    rb'"type"\s*:\s*"(?:'
    + "|".join(KINDS).encode()
    + rb')"|"date_unixtime"|"personal_information"\s*:\s*\{\s*"user_id"|"frequent_contacts"'
    rb'|"from_id"\s*:\s*(?:"(?:user|channel|chat)\d|\d)'
)
_CALLS = {"phone_call", "group_call", "conference_call"}
_PLACEHOLDER = re.compile(r"\s*\((?:File|Photo|Video) [^()]*\)$")
# Key of the row -> what is known of its media type without "mime_type".
_MEDIA = {"photo": "image/jpeg", "file": None, "contact_vcard": "text/vcard"}


def recognises(export: Export) -> bool:
    """A JSON file that begins like an account or a chat of Telegram's."""
    return bool(_recognised(export))


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every chat, in the order of the files.

    Raises:
        DataRefused: If there is no JSON file, or nothing says who the owner is.
    """
    names = export.names if export.is_single_file else _recognised(export) or _json_files(export)
    if not names:
        raise DataRefused(
            "no result.json here: export from Telegram Desktop as machine-readable JSON, not as HTML",
            code="no_messages",
        )
    outlines: dict[str, Outline] = {}
    yield from each_file(export, names, lambda name: _outline(export, name, outlines))
    owner = Owner(list(outlines.values()), options)
    reader = _Reader(export, options, owner, several=len(outlines) > 1)
    yield from each_file(export, outlines, lambda name: reader.file(outlines[name]))


def _json_files(export: Export) -> list[str]:
    return [name for name in export.names if name.lower().endswith(".json")]


def _recognised(export: Export) -> list[str]:
    names = export.names if export.is_single_file else _json_files(export)
    return [name for name in names if _HEAD.search(export.head(name))]


def _outline(export: Export, name: str, outlines: dict[str, Outline]) -> Iterator[Item]:
    with export.open(name) as file:
        outlines[name] = Outline(file, name)
    yield from ()


class _Reader:
    """Turns the messages of one file after the other into records."""

    def __init__(self, export: Export, options: Options, owner: Owner, several: bool):
        self._export, self._options, self._owner = export, options, owner
        self._order = 0
        # Message ids are unique within a chat; only another file can hold a message again.
        self._seen: dict[str, set[int]] | None = {} if several else None

    def file(self, outline: Outline) -> Iterator[Item]:
        """Every message of the file; damage, which the outline met as well, ends each list of chats on its own."""
        for root in ROOTS:
            chats = [chat for chat in outline.chats if chat.root == root and chat.messages]
            if chats:
                with suppress(DamagedFile):
                    yield from self._rows(outline.name, root, chats)
        if outline.damage:
            raise outline.damage

    def _rows(self, name: str, root: str, chats: list[Chat]) -> Iterator[Item]:
        with self._export.open(name) as file:
            rows = entries(repaired(file), f"{root}messages.item", name)
            for chat in chats:
                for number, row in enumerate(islice(rows, chat.messages), 1):
                    self._order += 1
                    yield self._item(row, chat, f"{chat.place}, message {number}")

    def _item(self, row: Any, chat: Chat, where: str) -> Item:
        if reason := chat.skipped or (
            "self_chat" if chat.is_direct and self._owner.wrote(chat.thread_id, None) else None
        ):
            return Skipped(reason)
        if not isinstance(row, dict):
            return NotUnderstood(f"{where}: not an object")
        if self._is_known(chat, row.get("id")):
            return Skipped("duplicate")
        if row.get("type") == "unsupported":
            return Skipped("unsupported")
        sent_at, sent_local = _when(row, self._options)
        if sent_at is None:
            return NotUnderstood(f"{where}: no readable date")
        record = self._record(row, chat)
        if isinstance(record, str):
            return NotUnderstood(f"{where}: {record}")
        record.sent_at, record.sent_local, record.order = sent_at, sent_local, self._order
        return record

    def _is_known(self, chat: Chat, number: Any) -> bool:
        if self._seen is None or not isinstance(number, int):
            return False
        seen = self._seen.setdefault(chat.key, set())
        if number in seen:
            return True
        seen.add(number)
        return False

    def _record(self, row: dict[str, Any], chat: Chat) -> Record | str:
        """The record without its time, or what is wrong with *row*."""
        if row.get("type") == "service":
            kind: Kind = "call" if row.get("action") in _CALLS else "system"
            return self._by(row.get("actor_id"), row.get("actor"), chat, row, kind)
        if row.get("type") != "message":
            return "of an unknown type"
        parts = _parts(row)
        if parts is None:
            return "its text is of a wrong kind"
        text = "".join(words for _, words in parts)
        record = self._by(row.get("from_id"), row.get("from"), chat, row, "text" if text.strip() else "media")
        if record.sender_id is None:
            return "no sender"
        record.text = text if record.kind == "text" else ""
        record.reply_to = _reply_to(row, chat)
        record.flags = _flags(row, parts)
        record.attachments = _attachments(row)
        return record

    def _by(self, account_id: Any, name: Any, chat: Chat, row: dict[str, Any], kind: Kind) -> Record:
        sender = sender_of(account_id, name)
        shown = name if isinstance(name, str) and name.strip() else None
        return Record(
            source="telegram",
            thread_id=chat.thread_id,
            thread_kind="dm" if chat.is_direct else "group",
            thread_name=chat.name,
            sender_id=sender,
            sender_name=shown,
            from_me=sender is not None and self._owner.wrote(sender, shown),
            kind=kind,
            source_id=f"{chat.key}:{row['id']}" if isinstance(row.get("id"), int) else None,
        )


def _when(row: dict[str, Any], options: Options) -> tuple[datetime | None, str | None]:
    """(the moment, the local time as written); the moment is None where neither field can be read."""
    local = row.get("date")
    local = local if isinstance(local, str) else None
    seconds = _number(row.get("date_unixtime"))
    with suppress(ValueError, OverflowError, OSError):
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC), local
    with suppress(ValueError, OverflowError, OSError):
        if local is not None:
            when = datetime.fromisoformat(local)
            return (when.astimezone(UTC) if when.tzinfo else options.aware(when)), local
    return None, local


def _number(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _parts(row: dict[str, Any]) -> list[tuple[str, str]] | None:
    """(entity type, words) of each piece; None where the text is neither words nor pieces."""
    for key in ("text", "text_entities"):
        value = row.get(key)
        if value is None:
            continue
        pieces = [_piece(piece) for piece in value] if isinstance(value, list) else [_piece(value)]
        known = [piece for piece in pieces if piece is not None]
        if len(known) == len(pieces):
            return known
    return None if row.get("text") is not None else []


def _piece(piece: Any) -> tuple[str, str] | None:
    if isinstance(piece, str):
        return "plain", piece
    if isinstance(piece, dict) and isinstance(words := piece.get("text"), str):
        return str(piece.get("type")), words
    return None


def _reply_to(row: dict[str, Any], chat: Chat) -> str | None:
    number, peer = row.get("reply_to_message_id"), row.get("reply_to_peer_id")
    if not isinstance(number, int) or not number:  # old exports write 0
        return None
    return f"{peer if isinstance(peer, str) else chat.key}:{number}"


def _flags(row: dict[str, Any], parts: list[tuple[str, str]]) -> list[str]:
    said = [kind for kind, words in parts if words.strip()]
    found = {
        "edited": _is_edited(row),
        "forwarded": "forwarded_from" in row or "saved_from" in row,  # null where the author is hidden
        "auto": "via_bot" in row,
        "sticker": row.get("media_type") == "sticker",
        "poll": "poll" in row,
        "link_only": said == ["link"],
    }
    return [flag for flag, is_so in found.items() if is_so]


def _is_edited(row: dict[str, Any]) -> bool:
    """Whether the words may have changed: a reaction counts as an edit too, and 1970 is how old exports say never."""
    edited = row.get("edited")
    return not row.get("reactions") and (isinstance(edited, str) and not edited.startswith("1970"))


def _attachments(row: dict[str, Any]) -> list[Attachment]:
    found = []
    for key, mime in _MEDIA.items():
        path, own_mime, own_name = row.get(key), row.get("mime_type"), row.get("file_name")
        if isinstance(path, str):
            name = own_name if isinstance(own_name, str) else _PLACEHOLDER.sub("", path).rsplit("/", 1)[-1]
            found.append(Attachment(own_mime if isinstance(own_mime, str) else mime, name or None))
    return found
