"""What the cells of one foreign row say: is it mine, what kind of entry, who, which conversation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from training.identifiers import canonical_name, visible
from training.records import Attachment, Kind

_YES = frozenset("1 1.0 true yes y t me mine self own outgoing outbound out sent send 是 发送 发出".split())
_NO = frozenset("0 0.0 false no n f other them incoming inbound in received receive inbox 否 接收 收到".split())
_WAYS = frozenset("incoming outgoing sent received inbound outbound".split())
_NOTHING = _NO | frozenset(["", "none", "null", "nan", "nat"])
_TEXT = _WAYS | frozenset("text sms mms rcs imessage message chat plain whatsapp 1 文本 引用回复".split()) | {""}
# In this order: a voice call is no voice message. Chinese names are looked for within a word.
_KINDS: dict[Kind, frozenset[str]] = {
    "system": frozenset("system notification service notice event 系统 拍一拍 撤回 添加好友 打招呼 群公告".split()),
    "call": frozenset("call phone_call missed_call video_call voice_call 通话".split()),
    "reaction": frozenset("reaction tapback".split()),
    "deleted": frozenset("deleted unsent revoked".split()),
    "media": frozenset(
        "image photo picture video audio voice gif file document media attachment location contact card link share "
        "music poll sticker emoji 图片 照片 语音 视频 表情 文件 位置 名片 链接 分享 转发 小程序 转账 红包 音乐 笔记 "
        "接龙 公众号 游戏".split()
    ),
}
_PLACEHOLDER = "\ufffc"  # where an attachment stands in a text


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: where it stands, what to call its conversation if that has no name, and its cells by field."""

    where: str
    home: str
    cells: Mapping[str, str]

    @property
    def thread(self) -> str:
        """Its conversation, as one word for all of an export."""
        return shown(self.cells.get("thread_id") or self.cells.get("thread_name") or "") or f"\x00{self.home}"


@lru_cache(maxsize=65536)
def shown(raw: str) -> str:
    return visible(raw)


@lru_cache(maxsize=65536)
def identified(source: str, raw: str, region: str | None) -> str | None:
    """The identifier of whom a cell names; None if it names nobody."""
    return canonical_name(source, raw, region) if visible(raw) else None


def sender(cells: Mapping[str, str], source: str, region: str | None) -> str | None:
    """The identifier of who wrote a row."""
    by_id = identified(source, cells.get("sender_id", ""), region)
    return by_id or identified(source, cells.get("sender_name", ""), region)


def sender_name(cells: Mapping[str, str]) -> str | None:
    """How a row shows who wrote it."""
    return shown(cells.get("sender_name", "")) or shown(cells.get("sender_id", "")) or None


def is_mine(cells: Mapping[str, str]) -> bool | None:
    """What a row says itself: by a flag, or by a type that is a direction; None where it says nothing."""
    word = _word(cells.get("from_me", ""))
    if not word:
        word = _word(cells.get("kind", ""))
        word = word if word in _WAYS else ""
    return True if word in _YES else False if word in _NO else None


def is_group(cells: Mapping[str, str]) -> bool | None:
    """What a row says of its conversation; None where it says nothing."""
    word = _word(cells.get("thread_kind", ""))
    if word in ("group", "room", "mpim", "supergroup", "群聊") or word in _YES:
        return True
    return False if word in ("dm", "direct", "private", "individual", "single", "私聊") or word in _NO else None


@lru_cache(maxsize=1024)
def kind_of(raw: str) -> Kind:
    """The kind that a cell names; a word not known is text."""
    word = _word(raw)
    for kind, names in _KINDS.items():
        if word in names or (not word.isascii() and any(name in word for name in names)):
            return kind
    return "text"


def is_known_kind(raw: str) -> bool:
    return _word(raw) in _TEXT or kind_of(raw) != "text"


def content(cells: Mapping[str, str]) -> tuple[Kind, str] | None:
    """(kind, words) of a row; None for one that holds nothing. Only what a person typed is words."""
    kind, text = kind_of(cells.get("kind", "")), cells.get("text", "")
    if is_said(cells, "deleted"):
        return "deleted", ""
    if kind != "text":
        return kind, ""
    if text.replace(_PLACEHOLDER, "").strip():
        return "text", text
    return ("media", "") if cells.get("attachment", "").strip() else None


def is_said(cells: Mapping[str, str], field: str) -> bool:
    """Whether a cell holds a yes, or a date where one stands only if something happened."""
    return _word(cells.get(field, "")) not in _NOTHING


def attachments(cells: Mapping[str, str]) -> list[Attachment]:
    """What was sent along, by name and type."""
    name = shown(cells.get("attachment", "")).replace("\\", "/").rpartition("/")[2]
    mime = shown(cells.get("attachment_type", ""))
    return [Attachment(mime if "/" in mime else None, name)] if name else []


@lru_cache(maxsize=1024)
def _word(raw: str) -> str:
    return visible(raw).casefold().replace(" ", "_").replace("-", "_")
