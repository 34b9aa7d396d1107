"""What a row of ``message`` is and says, once its columns show that it is no plain text."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from training.records import Attachment, Kind
from training.sources.export import DamagedFile
from training.sources.imessage_database import Database
from training.sources.imessage_edits import Edits, read_edits
from training.sources.typedstream import Bodies

_MESSAGE_TYPES = (None, 0, 2, 3)  # associated_message_type: every other is a tapback, sticker or vote
_REACTIONS = (("sticker", (1000, 2007, 3007)), ("removed", range(3000, 4000)), ("poll", (4000,)))
_LINK_PREVIEW = "URLBalloonProvider"
_ATTACHMENT, _APP = "\ufffc", "\ufffd"  # they stand in a text for one attachment, one app payload
_SCHEDULED = 2
ONE_TIME_CODE = b"__kIMOneTimeCodeAttributeName"
MENTION = b"__kIMMentionConfirmedMention"
_FLAGS = (
    ("auto", "is_auto_reply"), ("failed", "error"), ("spam", "is_spam"), ("corrupt", "is_corrupt"),
    ("audio", "is_audio_message"),
)  # fmt: skip


class Details(NamedTuple):
    """The columns looked at besides those of an ordinary message; None for one that is not there."""

    item_type: Any
    other_handle: Any
    share_direction: Any
    associated_message_guid: Any
    associated_message_type: Any
    balloon_bundle_id: Any
    thread_originator_guid: Any
    error: Any
    is_sent: Any
    is_spam: Any
    is_corrupt: Any
    is_auto_reply: Any
    is_audio_message: Any
    schedule_type: Any
    subject: Any
    date_edited: Any
    date_retracted: Any
    message_summary_info: Any
    cache_has_attachments: Any
    cache_roomnames: Any
    ck_chat_id: Any


@dataclass
class Content:
    """The fields of a record that the content of a message decides."""

    kind: Kind
    parts: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    reply_to: str | None = None
    may_have_attachments: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.parts)


def read_content(row: Details, text: Any, blob: Any, bodies: Bodies) -> Content | None:
    """What the message says.

    Args:
        text, blob: The ``text`` and ``attributedBody``.

    Returns:
        None if it has a body that cannot be decoded. A text of no parts is an empty message.
    """
    if row.item_type:
        return Content("system")
    if row.associated_message_type not in _MESSAGE_TYPES:
        return _reaction(row)
    balloon = _string(row.balloon_bundle_id)
    if balloon and _LINK_PREVIEW not in balloon:
        return Content("media", flags=["poll" if balloon.endswith("Polls") else "app", *_flags(row, None)])
    return _words(row, _string(text), blob if isinstance(blob, bytes) else None, bodies)


def is_from_me(row: Details, mine: Any) -> bool:
    """Who did it; where a location is shared the column alone does not say."""
    if row.item_type == 4 and row.other_handle and row.share_direction == 0:
        return True
    return bool(mine)


def _reaction(row: Details) -> Content:
    kind = row.associated_message_type
    target = _string(row.associated_message_guid) or ""  # p:<part>/GUID or bp:GUID
    flags = [flag for flag, kinds in _REACTIONS if kind in kinds]
    return Content("reaction", flags=flags, reply_to=target.rpartition("/")[2].removeprefix("bp:") or None)


def _words(row: Details, text: str | None, blob: bytes | None, bodies: Bodies) -> Content | None:
    was_touched = bool(row.date_edited or row.date_retracted) or not (text or blob)
    edits = read_edits(row.message_summary_info, bodies) if was_touched else Edits()
    if edits.nothing_left:
        return Content("deleted")
    body = _body(text, blob, bodies, prefer_blob=was_touched)
    parts = edits.final(body)
    if body is None and parts is None and blob:
        return None
    whole = [body or ""] if parts is None else parts
    bubbles = _bubbles(whole, _string(row.subject))
    flags = ["edited"] * bool(row.date_edited or edits.last) + _flags(row, blob)
    reply_to = _string(row.thread_originator_guid) or None
    if bubbles:
        return Content("text", bubbles, flags, reply_to, may_have_attachments=not row.balloon_bundle_id)
    if row.date_retracted:
        return Content("deleted")
    has_attachment = row.cache_has_attachments or any(_ATTACHMENT in part or _APP in part for part in whole)
    kind: Kind = "media" if has_attachment or row.is_audio_message else "text"
    return Content(kind, [], flags, reply_to, may_have_attachments=True)


def _body(text: str | None, blob: bytes | None, bodies: Bodies, prefer_blob: bool) -> str | None:
    if text and not (prefer_blob and blob):
        return text
    decoded = bodies.text(blob) if blob else None
    return (decoded or text) if text else decoded


def _bubbles(parts: list[str], subject: str | None) -> list[str]:
    """The texts between attachments: each is a bubble of its own. A subject stands on a line above the first."""
    pieces = [piece for part in parts for piece in part.replace(_APP, "").split(_ATTACHMENT)]
    pieces = [piece.replace("\r\n", "\n").replace("\r", "\n") for piece in pieces if piece.strip()]
    if len(pieces) > 1:
        pieces = [piece.strip("\n") for piece in pieces]
    if subject and subject.strip():
        return ["\n".join([subject.strip(), *pieces[:1]]), *pieces[1:]]
    return pieces


def _flags(row: Details, blob: bytes | None) -> list[str]:
    flags = [flag for flag, column in _FLAGS if getattr(row, column)]
    if row.schedule_type == _SCHEDULED and not row.is_sent:
        flags.append("scheduled")
    if blob:
        flags += [flag for flag, attribute in (("otp", ONE_TIME_CODE), ("mention", MENTION)) if attribute in blob]
    return flags


def _string(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else None


class Attachments:
    """What hangs on each message. Asked for in rising order of messages, it goes through its tables once."""

    def __init__(self, database: Database):
        self._rows = self._read(database)
        self._next: tuple[int, Attachment, bool] | None = next(self._rows, None)

    def of(self, message: int) -> list[tuple[Attachment, bool]]:
        """(attachment, whether it is a sticker) for each of those of *message*."""
        found = []
        while self._next is not None and self._next[0] <= message:
            if self._next[0] == message:
                found.append(self._next[1:])
            self._next = next(self._rows, None)
        return found

    def _read(self, database: Database) -> Iterator[tuple[int, Attachment, bool]]:
        there = database.columns("attachment")
        if not there or not {"message_id", "attachment_id"} <= database.columns("message_attachment_join"):
            return
        names = ", ".join(f"a.{n}" if n in there else "NULL" for n in ("mime_type", "transfer_name", "is_sticker"))
        try:
            for message, mime, name, is_sticker in database.rows(
                f"SELECT j.message_id, {names} FROM message_attachment_join j "
                "CROSS JOIN attachment a ON a.ROWID = j.attachment_id "
                "WHERE typeof(j.message_id) = 'integer' ORDER BY j.message_id"
            ):
                yield message, Attachment(_string(mime), _string(name)), bool(is_sticker)
        except DamagedFile:
            database.unread.append("attachment")
