"""Who the handles of a Messages database are, and which of its chats are one conversation.

One person is several handles (number and e-mail address; iMessage, SMS and RCS), and so one conversation is several
chats. Handles are joined by address, ``person_centric_id`` and what a direct chat brings together; groups by their
members and identifiers; either by ``chat_lookup``.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from training.identifiers import canonical_address, canonical_handle, region_of
from training.records import ThreadKind
from training.sources.imessage_database import Database
from training.sources.options import Options

_GROUP, _DIRECT = 43, 45  # chat.style


@dataclass(frozen=True, slots=True)
class Conversation:
    """Where a message belongs. ``is_self``: nobody is in it but me."""

    thread_id: str
    kind: ThreadKind
    name: str | None = None
    is_self: bool = False


@dataclass
class Chat:
    """One row of ``chat``, with the handles of its members."""

    number: int
    is_group: bool
    identifiers: tuple[str, ...]
    name: str | None
    members: list[str]


class Joined:
    """Sets of names that mean the same (union-find)."""

    def __init__(self) -> None:
        self._above: dict[Any, Any] = {}

    def root(self, name: Any) -> Any:
        """The name that stands for all that were joined with *name*."""
        while (above := self._above.get(name, name)) != name:
            self._above[name] = self._above.get(above, above)
            name = above
        return name

    def join(self, names: Iterable[Any]) -> None:
        """Say that *names* are one."""
        roots = [self.root(name) for name in names]
        for root in roots[1:]:
            self._above[self.root(root)] = self.root(roots[0])


class Conversations:
    """The people and conversations of one database.

    Attributes:
        by_chat: Conversation of each ``chat`` row, by its number.
        people: Canonical identifier of the person behind each ``handle`` row, by its number.
        me: Identifiers of the user, as far as ``--me`` gave them.
    """

    def __init__(self, database: Database, options: Options):
        self._joined = Joined()
        self._spoken_for: dict[str, str] = {}
        self._own_rows = database.table("message", "destination_caller_id", distinct=True)
        handles = database.table("handle", "ROWID", "id", "country", "person_centric_id")
        self._region = options.region or self._own_region(handles)
        self._addresses = dict(self._handles(handles))
        chats = self._chats(database)
        self._join_people(handles, chats)
        self.people = {number: self.person(address) for number, address in self._addresses.items()}
        self.me = self._persons(options.me)
        self._own = self.me | self._persons(_text(row[0]) for row in self._own_rows)
        self.by_chat = self._conversations(chats)
        self._by_identifier = {
            identifier: self.by_chat[chat.number] for chat in chats for identifier in chat.identifiers if chat.is_group
        }
        self._direct: dict[str, Conversation] = {}

    def person(self, address: str) -> str:
        """The one identifier of whoever has the canonical *address*."""
        root = self._joined.root(address)
        return self._spoken_for.get(root, address)

    def sender(self, handle: Any) -> str | None:
        """Who a ``handle_id`` is: the number of a handle, also one that is not there, or by mistake an address."""
        if isinstance(handle, bytes):
            return self.person(self._canonical(_text(handle) or ""))
        if not isinstance(handle, int) or handle == 0:
            return None
        return self.people.get(handle) or f"imessage:handle {handle}"

    def without_chat(self, handle: Any, room: Any, cloud_chat: Any) -> Conversation | None:
        """Where a message that is in no chat belongs, as its own columns tell it; None if they do not.

        Args:
            room: ``cache_roomnames``.
            cloud_chat: ``ck_chat_id``: ``service;-;address`` or the identifier of a group.
        """
        room, cloud_chat = _text(room), _text(cloud_chat) or ""
        address = cloud_chat.partition(";-;")[2]
        identifier = room or ("" if address else cloud_chat)
        if identifier:
            return self._by_identifier.get(identifier) or Conversation(f"group:{identifier}", "group")
        person = self.sender(handle) or (self.person(self._canonical(address)) if address else None)
        return self.direct(person) if person else None

    def direct(self, person: str) -> Conversation:
        """The conversation with *person* alone."""
        if person not in self._direct:
            self._direct[person] = Conversation(person, "dm", None, person in self._own)
        return self._direct[person]

    def _own_region(self, handles: list[tuple[Any, ...]]) -> str | None:
        """The country of my own number, else of most of the others'."""
        for texts in ([row[0] for row in self._own_rows], [row[1] for row in handles]):
            numbers = [text for raw in texts if (text := _text(raw)) and text.startswith("+")]
            regions = Counter(region for number in numbers if (region := region_of(number)))
            if regions:
                return regions.most_common(1)[0][0]
        return None

    def _canonical(self, raw: str, country: str | None = None) -> str:
        return canonical_handle(raw, country or self._region)

    def _handles(self, handles: list[tuple[Any, ...]]) -> Iterator[tuple[int, str]]:
        for number, raw, country, _ in handles:
            address = _text(raw)
            if isinstance(number, int) and address:
                yield number, self._canonical(address, (_text(country) or "").upper() or None)

    def _persons(self, names: Iterable[str | None]) -> set[str]:
        addresses = (canonical_address(name, self._region) for name in names if name)
        return {self.person(address) for address in addresses if address}

    def _chats(self, database: Database) -> list[Chat]:
        members = defaultdict(list)
        for chat, handle in database.table("chat_handle_join", "chat_id", "handle_id"):
            if handle in self._addresses:
                members[chat].append(self._addresses[handle])
        looked_up = defaultdict(list)
        for identifier, chat in database.table("chat_lookup", "identifier", "chat"):
            if text := _text(identifier):
                looked_up[chat].append(text)
        columns = ("ROWID", "style", "guid", "chat_identifier", "room_name", "group_id", "display_name")
        chats = []
        for number, style, guid, *named in database.table("chat", *columns):
            identifier, room, group, name = (_text(value) for value in named)
            if not isinstance(number, int):
                continue
            is_group = style == _GROUP or (style != _DIRECT and _looks_like_group(_text(guid), room, members[number]))
            if not is_group and not members[number] and identifier:
                members[number].append(self._canonical(identifier))
            ids = [identifier, room, group if is_group else None, *looked_up[number]]
            known = tuple(dict.fromkeys(text for text in ids if text)) or (_text(guid) or f"chat {number}",)
            chats.append(Chat(number, is_group, known, name or None, members[number]))
        return chats

    def _join_people(self, handles: list[tuple[Any, ...]], chats: list[Chat]) -> None:
        """Make one of all the addresses of a person; the first number speaks for them, else the first address."""
        for number, _, _, centric in handles:
            if (text := _text(centric)) and number in self._addresses:
                self._joined.join([self._addresses[number], ("person", text)])
        for chat in chats:
            if not chat.is_group:
                self._joined.join([*chat.members, *(("direct", identifier) for identifier in chat.identifiers)])
        ranked = sorted(self._addresses.items(), key=lambda item: (not item[1].startswith("+"), item[0]))
        for _, address in ranked:
            self._spoken_for.setdefault(self._joined.root(address), address)

    def _conversations(self, chats: list[Chat]) -> dict[int, Conversation]:
        groups = Joined()
        members: dict[int, frozenset[str]] = {}
        for chat in chats:
            members[chat.number] = frozenset(self.person(address) for address in chat.members) - self._own
            same: list[Any] = [chat.number, *chat.identifiers]
            if len(members[chat.number]) > 1:
                same.append(members[chat.number])
            if chat.is_group:
                groups.join(same)
        spoken_for: dict[Any, str] = {}
        for chat in sorted(chats, key=lambda chat: chat.number):
            if chat.is_group:
                spoken_for.setdefault(groups.root(chat.number), chat.identifiers[0])
        return {
            chat.number: self._group(chat, spoken_for[groups.root(chat.number)], members[chat.number])
            if chat.is_group
            else self._one_to_one(chat)
            for chat in chats
        }

    def _group(self, chat: Chat, identifier: str, others: frozenset[str]) -> Conversation:
        return Conversation(f"group:{identifier}", "group", chat.name, bool(chat.members) and not others)

    def _one_to_one(self, chat: Chat) -> Conversation:
        person = self.person(chat.members[0]) if chat.members else f"imessage:{chat.identifiers[0]}"
        return Conversation(person, "dm", chat.name, person in self._own)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace").strip() if isinstance(value, bytes) else None


def _looks_like_group(guid: str | None, room: str | None, members: list[str]) -> bool:
    return bool(room) or ";+;" in (guid or "") or len(set(members)) > 1
