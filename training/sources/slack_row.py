"""What one row of a Slack export says: its words and whose they are, its kind, its moment."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from training.records import Attachment, Kind
from training.sources.loose_json import mapping, sequence, string

# Subtypes of what happened, where it is neither said nor a mere notice.
HAPPENINGS: dict[str, Kind] = {
    "tombstone": "deleted", "message_deleted": "deleted", "huddle_thread": "call", "sh_room_created": "call",
}  # fmt: skip
_ABOUT_FILES = {"file_share", "file_comment", "file_mention"}
_OWN_WORDS = {"", "me_message", "thread_broadcast", *_ABOUT_FILES}
_SERVICE = re.compile(r"<@[^<>]+> (?:uploaded|shared|commented on|mentioned) ")  # how the service's own texts begin
_TS = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,6}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Content:
    """What a person sent with a row: the words as they are marked up, and their author's id."""

    text: str
    by: str
    files: list[Attachment] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def content_of(row: dict[str, Any], subtype: str) -> Content | None:
    """What a person sent; None where the text is of a wrong type."""
    text = row.get("text") or ""
    if not isinstance(text, str):
        return None
    content = Content(text, string(row.get("user")))
    files = [mapping(file) for file in [*sequence(row.get("files")), row.get("file")] if isinstance(file, dict)]
    content.files = [
        Attachment(string(file.get("mimetype")) or None, string(file.get("name")) or None) for file in files
    ]
    is_old = "file" in row and "files" not in row
    if subtype in _ABOUT_FILES and (is_old or isinstance(row.get("comment"), dict) or _SERVICE.match(text)):
        _take_comment(content, row, files)
    if row.get("edited"):
        content.flags.append("edited")
    if row.get("bot_id"):
        content.flags.append("auto")
    if any(mapping(shared).get("is_share") is True for shared in sequence(row.get("attachments"))):
        content.flags.append("forwarded")
    return content


def _take_comment(content: Content, row: dict[str, Any], files: list[dict[str, Any]]) -> None:
    """Old rows about a file: the text is the service's, what a person wrote stands in a comment."""
    if isinstance(row.get("comment"), dict):
        comment = row["comment"]
    else:
        comment = next((file["initial_comment"] for file in files if isinstance(file.get("initial_comment"), dict)), {})
    content.text = string(comment.get("comment"))
    content.by = content.by or string(comment.get("user"))


def kind_of(row: dict[str, Any], subtype: str, content: Content) -> Kind:
    """The kind of a row whose words are those of *content*."""
    if subtype not in _OWN_WORDS:
        return HAPPENINGS.get(subtype, "system")
    if content.text.strip():
        return "text"
    sent_along = content.files or sequence(row.get("attachments")) or sequence(row.get("blocks"))
    return "media" if sent_along or subtype in _ABOUT_FILES else "text"


def moment_of(ts: Any) -> tuple[datetime, str] | None:
    """(time, id) of a ``ts``; None where it is none."""
    if isinstance(ts, float) and 0 <= ts < 1e11:
        ts = f"{ts:.6f}"
    if isinstance(ts, int) and not isinstance(ts, bool):
        ts = str(ts) if 0 <= ts < 10**11 else ""
    match = _TS.fullmatch(ts) if isinstance(ts, str) else None
    if match is None:
        return None
    return _EPOCH + timedelta(seconds=int(match[1]), microseconds=int((match[2] or "").ljust(6, "0"))), match[0]
