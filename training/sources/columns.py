"""Which column of a foreign table, or key of a foreign JSON object, is which field of a message.

By name: the spellings that exporters use, and whatever the user says with ``--column FIELD=COLUMN``. Knows nothing of
what stands in the columns.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from errors import DataRefused

# Field -> what exporters call it, likeliest first; compared without case, spaces and punctuation.
_SPELLINGS = {
    "sent_at": "sent_at message_date timestamp datetime date_time CreateTime created_at created sent_date date_sent "
    "sent_time message_time timestamp_ms ts date time when utc StrTime 时间 日期 发送时间",
    "time_of_day": "time_of_day time",
    "text": "text message body content contents msg message_text message_body message_content StrContent 内容 消息 "
    "消息内容",
    "from_me": "from_me is_from_me is_me is_sender mine is_mine is_sent is_send is_outgoing outgoing sent_by_me "
    "direction message_direction 方向",
    "sender_id": "sender_id sender_address sender_number from_number from_id author_id user_id sent_by_id sender from "
    "author talker user username sent_by speaker 发送者 发送人",
    "sender_name": "sender_name author_name user_name from_name display_name nickname speaker_name sender author 昵称",
    "thread_id": "thread_id chat_id conversation_id room_id channel_id thread chat_session conversation chat room "
    "room_name channel chat_name thread_name conversation_name group_name group 会话",
    "thread_name": "thread_name chat_name conversation_name room_name chat_session group_name title",
    "thread_kind": "thread_kind chat_type conversation_type thread_type is_group",
    "kind": "kind type_name message_type msg_type type 类型 消息类型",
    "source_id": "source_id MsgSvrID message_id msg_id guid uuid id",
    "reply_to": "reply_to reply_to_id reply_to_message_id in_reply_to quoted_message_id",
    "attachment": "attachment attachments attachment_name media_file media file file_name src",
    "attachment_type": "attachment_type mime mime_type",
    "edited": "edited edited_date is_edited edited_at",
    "forwarded": "forwarded is_forward is_forwarded",
    "deleted": "deleted is_deleted deleted_date deleted_at",
}
# The other side of a conversation, whichever way a message went: where a flag tells the way, these name the thread.
_PARTNER = {
    "id": "address number phone phone_number contact contact_name name",
    "name": "contact_name contact name display_name",
}
# Words that may be used for --column instead of the names of the record.
SHORT = {"time": "sent_at", "sender": "sender_id", "thread": "thread_id", "mine": "from_me"}


def plain(name: str) -> str:
    """*name* without case, spaces and punctuation."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


ALIASES = {field: tuple(map(plain, names.split())) for field, names in _SPELLINGS.items()}
_PARTNER_ALIASES = {field: tuple(map(plain, names.split())) for field, names in _PARTNER.items()}


@lru_cache(maxsize=1024)
def find_columns(names: tuple[str, ...], told: tuple[tuple[str, str], ...] = ()) -> dict[str, int]:
    """Field -> place in *names*, by what the user *told* (field, column) first and then by alias.

    A field that was told a column which is not there is left out: ``check_told`` says so.
    """
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        places.setdefault(plain(name), number)
    by_told = {SHORT.get(field, field): _place(names, column) for field, column in told}
    found = {field: place for field, place in by_told.items() if place is not None}
    taken = set(found.values())
    for field, aliases in ALIASES.items():
        place = next((places[alias] for alias in aliases if alias in places), None)
        if field not in by_told and place is not None and place not in taken:
            found[field] = place
    _settle_time(found, names)
    _settle_partner(found, places)
    return found


def _place(names: Sequence[str], column: str) -> int | None:
    if column in names:
        return names.index(column)
    return next((place for place, name in enumerate(names) if plain(name) == plain(column) != ""), None)


def _settle_time(found: dict[str, int], names: Sequence[str]) -> None:
    """A column "time" is half of a moment only beside a column "date"."""
    if "time_of_day" in found and plain(names[found.get("sent_at", 0)]) not in ("date", "日期"):
        del found["time_of_day"]


def _settle_partner(found: dict[str, int], places: Mapping[str, int]) -> None:
    """A column with somebody's address is the sender's, or the conversation's where no column names the sender."""
    if "sender_id" in found or "sender_name" in found:
        return
    kind = "thread" if "thread_id" not in found and {"from_me", "kind"} & found.keys() else "sender"
    for part, aliases in _PARTNER_ALIASES.items():
        place = next((places[alias] for alias in aliases if alias in places), None)
        if place is not None and place not in found.values():
            found.setdefault(f"{kind}_{part}", place)


def is_entry(found: Mapping[str, int]) -> bool:
    """Whether an object with these fields is an entry of a history: who wrote it stands there, and words or a time."""
    return bool({"text", "sent_at"} & found.keys()) and bool({"sender_id", "sender_name", "from_me"} & found.keys())


def is_message(found: Mapping[str, int]) -> bool:
    """Whether a table with these fields holds messages: words, and something that tells who wrote them."""
    return "text" in found and is_entry(found)


def check_told(told: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse a ``--column`` whose field or column does not exist, all of them at once.

    Args:
        names: The columns there are.

    Raises:
        DataRefused: With everything that is wrong.
    """
    fields = [*ALIASES, *SHORT]
    wrong = [f"no field '{field}': there are {', '.join(fields)}" for field in told if field not in fields]
    wrong += [f"no column '{column}'" for column in told.values() if _place(names, column) is None]
    targets = [SHORT.get(field, field) for field in told]
    wrong += [f"'{field}' is given twice" for field in dict.fromkeys(targets) if targets.count(field) > 1]
    if wrong:
        raise DataRefused("--column does not fit this export", code="unknown_column", details=[*wrong, shown(names)])


def no_messages(where: str, names: Sequence[str]) -> DataRefused:
    """The refusal of a table in which no text or no sender could be found."""
    return DataRefused(
        f"'{where}' has no column for the text of a message or none for who wrote it: name them, for example "
        "--column text=Message --column sender=From --column time=Date",
        code="unknown_column",
        details=[shown(names)],
    )


def shown(names: Sequence[str]) -> str:
    """The columns there are, for an error; cut short, as a table without a header has a message there."""
    return "the columns are: " + ", ".join(f"'{name[:40]}'" for name in names[:40])


def told_columns(told: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """``--column`` as ``find_columns`` takes it."""
    return tuple(sorted(told.items()))
