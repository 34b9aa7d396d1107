"""One message of a Messenger or Instagram export: when, what kind, which words, which attachments.

The ordinary layout and that of end-to-end encrypted chats differ only in their keys: ``content`` and ``text``,
``photos`` and ``media``. Knows nothing of files, threads or who is me.
"""

import mimetypes
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from training.records import Attachment, Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LISTS = ("photos", "videos", "audio_files", "gifs", "files", "media")
_NOT_EXPORTED = "Failed to download media"  # stands where the name of a file should


@dataclass
class Content:
    """What a message says. ``text`` is empty unless ``kind`` is text."""

    kind: Kind
    text: str = ""
    flags: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)


def repaired(text: str) -> str:
    """*text* with its bytes read as UTF-8, where each was written as a character of its own; else unchanged."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:  # a character above 0xFF, or bytes that are no UTF-8: it is right as it is
        return text


def words(value: Any) -> str:
    """*value* repaired if it is text that shows something, else nothing."""
    text = repaired(value) if isinstance(value, str) else ""
    return text if text.strip() else ""


def moment(value: Any) -> datetime | None:
    """The time *value* milliseconds after 1970; None if it is no number or no time."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return _EPOCH + timedelta(milliseconds=value)
    except (OverflowError, ValueError):
        return None


def content_of(message: dict[str, Any], service_kind: Callable[[str], Kind | None]) -> Content:
    """What *message* says.

    Args:
        service_kind: Tells a sentence of the service itself from what a person typed (``meta_phrases``).
    """
    kind = str(message.get("type")).lower()
    if message.get("is_unsent") is True or message.get("isUnsent") is True:
        return Content("deleted")
    if kind == "call" or _is_number(message.get("call_duration")) or message.get("missed") is True:
        return Content("call", flags=["missed"] if message.get("missed") is True else [])
    if kind in ("subscribe", "unsubscribe"):
        return Content("system")
    if kind in ("payment", "placeholder"):
        return Content("media", flags=["payment" if kind == "payment" else "unavailable"])
    return _said(message, service_kind)


def _said(message: dict[str, Any], service_kind: Callable[[str], Kind | None]) -> Content:
    attachments = list(_attachments(message))
    flags = [name for name in ("sticker", "share") if isinstance(message.get(name), dict)]
    text = words(message.get("content")) or words(message.get("text"))
    service = service_kind(text) if text else None
    if text and service is None:
        return Content("text", text, flags, attachments)
    if attachments or flags:
        return Content("media", "", flags, attachments)
    return Content(service) if service else Content("media", flags=["unavailable"])


def _attachments(message: dict[str, Any]) -> Iterator[Attachment]:
    files = [message.get("sticker")]
    for name in _LISTS:
        listed = message.get(name)
        files += listed if isinstance(listed, list) else []
    for file in files:
        if isinstance(file, dict):
            yield _attachment(file.get("uri"))


def _attachment(uri: Any) -> Attachment:
    name = posixpath.basename(words(uri))
    if not name or name == _NOT_EXPORTED:
        return Attachment()
    return Attachment(mime=mimetypes.guess_type(name)[0], name=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
