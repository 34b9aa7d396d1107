"""Who and where: a Slack export's users and conversations, from the lists that stand beside the messages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from training.sources.export import DamagedFile, Export
from training.sources.json_stream import entries
from training.sources.loose_json import mapping, sequence, string
from training.sources.options import Options, ask_who_is_me
from training.sources.outcome import Note

_LISTS: dict[str, Literal["channel", "dm", "mpim"]] = {
    "channels.json": "channel", "groups.json": "channel", "dms.json": "dm", "mpims.json": "mpim",
}  # fmt: skip
LISTS = {*_LISTS, "users.json", "org_users.json"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A channel, a group or a direct conversation. The members of the last two never change."""

    id: str
    name: str
    kind: Literal["channel", "dm", "mpim"]
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """Somebody of ``users.json``, or of a message's ``user_profile``."""

    name: str | None
    spellings: tuple[str, ...]
    is_bot: bool


class People:
    """The users and conversations of an export; ``notes`` has what could not be read of them."""

    def __init__(self, export: Export):
        self.users: dict[str, User] = {}
        self.notes: list[Note] = []
        self._conversations: dict[tuple[str, str], Conversation] = {}
        self._channels: dict[str, str] = {}
        for name in export.names:
            root, _, base = name.rpartition("/")
            if base in ("users.json", "org_users.json"):
                self._learn_users(self._rows(export, name))
            elif base in _LISTS:
                self._learn_conversations(self._rows(export, name), root, _LISTS[base])

    def conversation(self, root: str, folder: str) -> Conversation:
        """What the messages of *folder* belong to; folders that no list names are direct where theirs is such an id."""
        is_dm = folder.startswith("D") and folder.isalnum() and folder.isupper()
        unlisted = Conversation(folder, folder, "dm" if is_dm else "channel")
        return self._conversations.get((root, folder), unlisted)

    def channel_name(self, channel: str) -> str | None:
        """The name of a channel by its id."""
        return self._channels.get(channel)

    def name(self, user: str) -> str | None:
        """The name that a user is shown by."""
        known = self.users.get(user)
        return known.name if known else None

    def meet(self, user: str, profile: Any) -> None:
        """Take note of the author of a message: not all are in ``users.json``."""
        if user not in self.users and isinstance(profile, dict):
            self.users[user] = _user(user, profile, profile)

    def is_bot(self, user: str) -> bool:
        """Whether *user* is known to be a program."""
        return user == "USLACKBOT" or (user in self.users and self.users[user].is_bot)

    def is_me(self, user: str, options: Options) -> bool:
        """Whether ``--me`` means *user*."""
        known = self.users.get(user)
        return options.is_me(user, *(known.spellings if known else ()))

    def refuse_ambiguous(self, options: Options) -> None:
        """Make sure that no name given as ``--me`` is that of several people.

        Raises:
            DataRefused: If one is; the account ids tell them apart.
        """
        for name in options.me:
            only = Options(me=(name,), region=options.region)
            found = [user for user in self.users if self.is_me(user, only)]
            if len(found) > 1 and not all(options.is_me(user) for user in found):
                raise ask_who_is_me(found)

    def direct_partners(self) -> Iterator[str]:
        """Each member of each direct conversation: the owner of the export is in all of them."""
        for conversation in self._conversations.values():
            if conversation.kind == "dm":
                yield from set(conversation.members)

    def _rows(self, export: Export, name: str) -> Iterator[dict[str, Any]]:
        try:
            with export.open(name) as file:
                yield from map(mapping, entries(file, "item", name))
        except DamagedFile as damaged:
            self.notes.append(Note(damaged.message))

    def _learn_users(self, rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            if user := string(row.get("id")):
                self.users[user] = _user(user, row, mapping(row.get("profile")))

    def _learn_conversations(
        self, rows: Iterator[dict[str, Any]], root: str, kind: Literal["channel", "dm", "mpim"]
    ) -> None:
        for row in rows:
            known_by = string(row.get("id")) or string(row.get("name"))
            name = string(row.get("name")) or known_by
            members = tuple(filter(None, map(string, sequence(row.get("members")))))
            if known_by:
                # Messages lie in a folder that is named as the channel is; those of direct ones by their id.
                self._conversations[root, name] = Conversation(known_by, name, kind, members)
                self._channels[known_by] = name


def _user(user: str, row: dict[str, Any], profile: dict[str, Any]) -> User:
    names = [
        string(profile.get("display_name")), string(row.get("real_name")), string(profile.get("real_name")),
        string(row.get("name")), string(profile.get("email")),
    ]  # fmt: skip
    given = [name for name in names if name.strip()]
    return User(given[0] if given else None, tuple(given), row.get("is_bot") is True or user == "USLACKBOT")
