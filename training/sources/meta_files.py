"""The conversation files of a Messenger or Instagram export: where they lie, and what each says of its conversation.

messages/inbox/anna_123/message_1.json    one folder a conversation, 10,000 messages a file, newest first
Anna_7.json                               end-to-end encrypted chats, a download of their own: one file each
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from posixpath import basename, dirname
from typing import IO, Any, Literal

from training.sources.export import DamagedFile, Export
from training.sources.json_file import small_object
from training.sources.json_stream import events
from training.sources.meta_message import repaired, words

Platform = Literal["messenger", "instagram"]

_SECTIONS = "inbox|archived_threads|filtered_threads|message_requests|e2ee_cutover"
_PART = re.compile(r"(?:^|/)message(?:_([0-9]{1,9}))?\.json$")
_IN_SECTION = re.compile(rf"(?:^|/)(?:{_SECTIONS})/[^/]+/message(?:_[0-9]+)?\.(?:json|html)$")
_FLAT = re.compile(r"_[0-9]+\.json$")
_SAYS_INSTAGRAM = re.compile(r"(?:^|/)(?:your_instagram_activity|instagram-[^/]*)(?=/)")
_SAYS_FACEBOOK = re.compile(r"(?:^|/)(?:your_activity_across_facebook|your_facebook_activity|facebook-[^/]*)(?=/)")
_LOOKED_AT = 20  # so many files without a telling name are opened to recognise an export
_PROFILE = {"profile_information.json", "personal_information.json"}

_PARTICIPANTS = {"participants.item.name", "participants.item"}
_SENDERS = {"messages.item.sender_name", "messages.item.senderName"}
_TIMES = {"messages.item.timestamp_ms", "messages.item.timestamp"}
_TITLES = {"title", "threadName"}


@dataclass
class ChatFile:
    """One file of a conversation.

    Attributes:
        folder: Where it lies, a flat file its own path: two files of one folder never hold the same message.
        place: The last part of it: what the conversation is called in one download.
        falls: How much oftener a message is older than the one before it than newer.
    """

    name: str
    folder: str
    place: str
    part: int
    is_flat: bool
    participants: list[str] = field(default_factory=list)
    senders: set[str] = field(default_factory=set)
    title: str = ""
    falls: int = 0
    has_messages: bool = False


def recognised(export: Export) -> set[Platform]:
    """The platforms whose conversations *export* holds."""
    found = [name for name in export.names if _IN_SECTION.search(name)]
    if not found:
        likely = (n for n in export.names if _FLAT.search(n) or _PART.search(n) or export.is_single_file)
        found = [name for _, name in zip(range(_LOOKED_AT), likely, strict=False) if _is_chat(export, name)]
    said = {_platform(export, name) for name in found}
    if None in said:
        said.add(_platform_inside(export, next(name for name in found if _platform(export, name) is None)))
    return {platform for platform in said if platform}


def chat_files(export: Export, platform: Platform) -> tuple[list[str], list[str]]:
    """Names of *platform*'s own files, and of those that are the other's, both in the order of their numbers."""
    if export.is_single_file:
        return list(export.names), []
    flat = [name for name in export.names if _FLAT.search(name) and not _PART.search(name)]
    folders = {dirname(name) for name in flat if _is_chat(export, name)}
    found = [name for name in export.names if _PART.search(name)] + [name for name in flat if dirname(name) in folders]
    mine = [name for name in found if (_platform(export, name) or platform) == platform]
    return sorted(mine, key=_number), sorted(set(found) - set(mine))


def only_as_html(export: Export) -> int:
    """How many conversations are there as HTML and not as JSON."""
    folders = [
        {dirname(n) for n in export.names if _IN_SECTION.search(n) and n.endswith(end)} for end in ("html", "json")
    ]
    return len(folders[0] - folders[1])


def scanned(export: Export, name: str) -> ChatFile:
    """Everything but the messages of file *name*, as far as it can be read; reading it again will say what is wrong."""
    part = _PART.search(name)
    folder = dirname(name) if part else name
    place = basename(folder) or export.path.stem if part else basename(name).removesuffix(".json")
    chat = ChatFile(name, folder, place, int(part[1] or 0) if part else 0, is_flat=part is None)
    try:
        with export.open(name) as file:
            _scan(file, chat)
    except DamagedFile:
        pass
    chat.participants = [repaired(person) for person in chat.participants]
    chat.senders = {repaired(person) for person in chat.senders}
    chat.title = words(chat.title)
    if chat.is_flat:
        chat.title = re.sub(r"_[0-9]+$", "", chat.title)
    return chat


def own_names(export: Export) -> set[str]:
    """What the export's file of personal information calls its owner."""
    names: set[str] = set()
    for name in export.names:
        if "personal_information/" in name and basename(name) in _PROFILE:
            profile = small_object(export, name)
            names |= {repaired(text) for text in (*_facebook_names(profile), *_instagram_names(profile))}
    return names


def _scan(file: IO[bytes], chat: ChatFile) -> None:
    before: float | None = None
    for prefix, event, value in events(file, chat.name):
        if prefix in _SENDERS and event == "string":
            chat.senders.add(value)
        elif prefix in _TIMES and event == "number":
            chat.falls += 0 if before is None else (value < before) - (value > before)
            before = value
        elif prefix in _PARTICIPANTS and event == "string":
            chat.participants.append(value)
        elif prefix in _TITLES and event == "string":
            chat.title = value
        elif prefix == "messages" and event == "start_array":
            chat.has_messages = True


def _is_chat(export: Export, name: str) -> bool:
    head = export.head(name)
    return any(key in head for key in (b'"senderName"', b'"threadName"')) or (
        any(key in head for key in (b'"participants"', b'"messages"'))
        and b'"sender_name"' in export.head(name, 1 << 16)
    )


def _platform(export: Export, name: str) -> Platform | None:
    path = "/".join([*export.path.parts[-3:], name])
    last: list[tuple[int, Platform]] = [(match.start(), "instagram") for match in _SAYS_INSTAGRAM.finditer(path)]
    last += [(match.start(), "messenger") for match in _SAYS_FACEBOOK.finditer(path)]
    return max(last)[1] if last else None


def _platform_inside(export: Export, name: str) -> Platform:
    return "instagram" if b'"your_instagram_activity/' in export.head(name, 1 << 16) else "messenger"


def _number(name: str) -> tuple[str, int, str]:
    part = _PART.search(name)
    return dirname(name), int(part[1] or 0) if part else 0, name


def _facebook_names(profile: dict[str, Any]) -> Iterable[str]:
    for version in profile.values():
        name = version.get("name") if isinstance(version, dict) else None
        if isinstance(name, dict) and words(name.get("full_name")):
            yield name["full_name"]


def _instagram_names(profile: dict[str, Any]) -> Iterable[str]:
    """The keys are in the language of the account; of the values only a name is also somebody in a conversation."""
    users = profile.get("profile_user")
    for user in users if isinstance(users, list) else ():
        values = user.get("string_map_data") if isinstance(user, dict) else None
        for value in values.values() if isinstance(values, dict) else ():
            if isinstance(value, dict) and words(value.get("value")):
                yield value["value"]
