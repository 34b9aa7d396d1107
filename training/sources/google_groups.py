"""The conversations of a Google Chat export, their members, and which of them is me.

Google Chat/Groups/DM abc/messages.json      "Space abc" for a room; group_info.json has the members
Google Chat/Users/User 123/user_info.json    the owner
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname
from typing import Any

from training.identifiers import canonical_handle, visible
from training.records import ThreadKind
from training.sources.export import DamagedFile, Export
from training.sources.json_file import small_object
from training.sources.json_stream import entries
from training.sources.options import Options, ask_who_is_me

SOURCE = "google-chat"
_GROUP = re.compile(r"(?:^|/)(?:Groups/[^/]+|(?:DM|Space) [^/]+)/messages\.json$")


@dataclass(frozen=True)
class User:
    """Somebody as the export names them; deleted accounts have no e-mail address, and all the same name."""

    email: str = ""
    name: str = ""

    def identifier(self, place: str) -> str:
        """Canonical; without an address one that means something in the conversation *place* only."""
        return canonical_handle(self.email) if self.email else f"{SOURCE}:{visible(self.name) or 'somebody'} in {place}"


@dataclass(frozen=True)
class Room:
    """What the export says of one conversation: its title, and who is or was in it."""

    place: str
    title: str
    members: list[User]


@dataclass(frozen=True)
class Group:
    """One conversation; ``is_self`` where it is mine alone, with myself."""

    place: str
    thread_id: str
    kind: ThreadKind
    name: str
    is_self: bool


class Me:
    """Tells whether somebody is the owner of the export."""

    def __init__(self, options: Options, owners: Sequence[User]):
        self._options = options
        self._owners = {user.email.casefold() for user in owners if user.email}

    def __call__(self, user: User) -> bool:
        if self._options.me:
            return self._options.is_me(user.email, user.name)
        return user.email.casefold() in self._owners


def message_files(export: Export) -> list[str]:
    """Names of the files of messages, those of one conversation together."""
    if export.is_single_file:
        return list(export.names)
    found = [name for name in export.names if _GROUP.search(name)]
    found = found or [name for name in export.names if basename(name) == "messages.json"]
    return sorted(found, key=lambda name: (place_of(export, name), name))


def place_of(export: Export, name: str) -> str:
    """What the export calls the conversation: the name of its folder."""
    return basename(dirname(name)) or (export.path.parent if export.is_single_file else export.path).name


def user_of(value: Any) -> User | None:
    """The user that *value* describes; None if it names nobody."""
    if not isinstance(value, dict):
        return None
    email, name = (text if isinstance(text := value.get(key), str) else "" for key in ("email", "name"))
    return User(email.strip(), name) if email.strip() or visible(name) else None


def who_is_me(export: Export, options: Options, rooms: Iterable[Room]) -> Me:
    """By ``--me``, else by user_info.json.

    Raises:
        DataRefused: If neither says it.
    """
    owners = [user for name in export.names if basename(name) == "user_info.json" for user in _owner(export, name)]
    counts = Counter(user.email or user.name for room in rooms for user in room.members)
    if counts and not options.me and not owners:
        raise ask_who_is_me([name for name, _ in counts.most_common()])
    return Me(options, owners)


def rooms_of(export: Export, names: Sequence[str]) -> dict[str, Room]:
    """The conversations that the files *names* are of, by place."""
    infos = {place_of(export, name): name for name in export.names if basename(name) == "group_info.json"}
    rooms: dict[str, Room] = {}
    for name in names:
        place = place_of(export, name)
        info = small_object(export, infos[place]) if place in infos else {}
        listed = info.get("members")
        users = {user for value in listed if (user := user_of(value))} if isinstance(listed, list) else set()
        if len(users) < 2:  # people who left, or whose account was deleted, are known by what they wrote
            users |= _writers(export, name) | (set(rooms[place].members) if place in rooms else set())
        title = info.get("name")
        rooms[place] = Room(place, title if isinstance(title, str) else "", _one_each(users, place))
    return rooms


def group_of(room: Room, is_me: Me) -> Group:
    """The conversation in *room*."""
    others = [user for user in room.members if not is_me(user)]
    place = room.place
    if place.startswith("Space ") or len(others) > 1:
        return Group(place, f"{SOURCE}:{place}", "group", room.title or place, is_self=False)
    if not others:
        return Group(place, f"{SOURCE}:{place}", "dm", room.title or place, is_self=bool(room.members))
    (other,) = others
    return Group(place, other.identifier(place), "dm", room.title or other.name or other.email, is_self=False)


def _one_each(users: Iterable[User], place: str) -> list[User]:
    """Under one address somebody may have had several names."""
    ordered = sorted(users, key=lambda user: (user.email, user.name))
    return list({user.identifier(place): user for user in ordered}.values())


def _owner(export: Export, name: str) -> Iterator[User]:
    user = user_of(small_object(export, name).get("user"))
    if user and user.email:
        yield user


def _writers(export: Export, name: str) -> set[User]:
    found: set[User] = set()
    try:
        with export.open(name) as file:
            for creator in entries(file, "messages.item.creator", name):
                if user := user_of(creator):
                    found.add(user)
    except DamagedFile:
        pass  # said when its messages are read
    return found
