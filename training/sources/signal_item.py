"""What one ``chatItem`` of Signal's plaintext export says: its kind, its bubbles, its flags.

Knows nothing of who wrote it, where and when: that is ``training.sources.signal``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.records import Attachment, Kind
from training.sources.loose_json import mapping, sequence, string, whole_number

Mention = Callable[[str], str]  # account id, as the export has it -> the name to show

# The fields of an item that are not its content.
_AROUND = {
    "chatId", "authorId", "dateSent", "expireStartDate", "expiresInMs", "revisions", "sms", "incoming", "outgoing",
    "directionless", "pinDetails",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """The inside of an item. ``bubbles`` are texts a person typed, none of them blank."""

    kind: Kind
    bubbles: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return self.kind == "text" and not self.bubbles


class UnknownContent(ValueError):
    """The content is of a kind or shape that this version does not know."""


def content(item: dict[str, Any], mention: Mention) -> Content:
    """What *item* says; ``is_empty`` where it says nothing.

    Raises:
        UnknownContent: If it cannot be told.
    """
    found = next((key for key in _READERS if item.get(key) is not None), None)
    if found is None:
        if any(value is not None for key, value in item.items() if key not in _AROUND):
            raise UnknownContent("a kind of message that this version does not know")
        return Content("text")
    if not isinstance(item[found], dict):
        raise UnknownContent(f"its {found} is no object")
    inside = _READERS[found](item[found], mention)
    # Nobody sends what has no direction: only updates and their like have none.
    if isinstance(item.get("directionless"), dict) and inside.kind != "call":
        return Content("system")
    return inside


def with_mentions(text: dict[str, Any], mention: Mention) -> str:
    """The body of a ``Text``, its mentions replaced by names. Ranges count UTF-16 units; those outside are left out.

    Raises:
        UnknownContent: If the body is no text.
    """
    body = text.get("body") or ""
    if not isinstance(body, str):
        raise UnknownContent("its text is none")
    ranges = [span for span in map(mapping, sequence(text.get("bodyRanges"))) if string(span.get("mentionAci"))]
    if not ranges:
        return body
    units = body.encode("utf-16-le", "surrogatepass")
    end = len(units) // 2  # from the last to the first, so that those before stay where they are
    for span in sorted(ranges, key=lambda span: whole_number(span.get("start")) or 0, reverse=True):
        start, length = whole_number(span.get("start", 0)), whole_number(span.get("length"))
        if start is None or not length or start + length > end:
            continue
        name = f"@{mention(span['mentionAci'])}".encode("utf-16-le", "surrogatepass")
        units = units[: 2 * start] + name + units[2 * (start + length) :]
        end = start
    return units.decode("utf-16-le", "surrogatepass")


def _standard(message: dict[str, Any], mention: Mention) -> Content:
    sent = [mapping(attachment) for attachment in sequence(message.get("attachments"))]
    pointers = [mapping(attachment.get("pointer")) for attachment in sent]
    captions = [string(pointer.get("caption")) for pointer in pointers]
    bubbles = [text for text in (with_mentions(mapping(message.get("text")), mention), *captions) if text.strip()]
    flags = ["truncated"] if message.get("longText") else []
    if any(attachment.get("flag") == "VOICE_MESSAGE" for attachment in sent):
        flags.append("voice")
    is_media = not bubbles and bool(sent or flags or message.get("linkPreview"))
    return Content("media" if is_media else "text", bubbles, flags, [_attachment(pointer) for pointer in pointers])


def _story_reply(message: dict[str, Any], mention: Mention) -> Content:
    reply = mapping(message.get("textReply"))
    body = with_mentions(mapping(reply.get("text")), mention)
    if not body.strip() and string(message.get("emoji")):
        return Content("reaction", flags=["story_reply"])
    flags = ["story_reply", *(["truncated"] if reply.get("longText") else [])]
    return Content("text", [body] if body.strip() else [], flags)


def _sticker(message: dict[str, Any], _: Mention) -> Content:
    data = mapping(mapping(message.get("sticker")).get("data"))
    return Content("media", flags=["sticker"], attachments=[_attachment(data)])


def _update(message: dict[str, Any], _: Mention) -> Content:
    is_call = any(message.get(call) is not None for call in ("individualCall", "groupCall"))
    return Content("call" if is_call else "system")


def _always(kind: Kind, *flags: str) -> Callable[[dict[str, Any], Mention], Content]:
    return lambda _message, _mention: Content(kind, flags=list(flags))


def _attachment(pointer: dict[str, Any]) -> Attachment:
    return Attachment(string(pointer.get("contentType")) or None, string(pointer.get("fileName")) or None)


_READERS: dict[str, Callable[[dict[str, Any], Mention], Content]] = {
    "standardMessage": _standard,
    "directStoryReplyMessage": _story_reply,
    "updateMessage": _update,
    "stickerMessage": _sticker,
    "contactMessage": _always("media", "contact"),
    "remoteDeletedMessage": _always("deleted"),
    "adminDeletedMessage": _always("deleted"),
    "paymentNotification": _always("media", "payment"),
    "giftBadge": _always("media", "gift"),
    "viewOnceMessage": _always("media", "view_once"),
    "poll": _always("media", "poll"),
}
