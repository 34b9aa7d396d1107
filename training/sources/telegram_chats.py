"""What stands around the messages of a Telegram export: whose account it is, which chats there are, who writes in them.

Found by one reading of the whole file before any message is read, as the keys of a JSON object may come in any order.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any

from training.identifiers import canonical_name
from training.sources.export import DamagedFile
from training.sources.json_stream import events
from training.sources.options import Options, ask_who_is_me
from training.sources.telegram_repair import repaired

# Where a chat can stand: in the list of an account, in that of groups left, or as the whole file.
ROOTS = ("chats.list.item.", "left_chats.list.item.", "")
KINDS = {
    "personal_chat": "user", "bot_chat": "user", "saved_messages": "user", "replies": "user",
    "verification_codes": "user", "private_group": "chat", "private_supergroup": "channel",
    "public_supergroup": "channel", "private_channel": "channel", "public_channel": "channel",
}  # fmt: skip
_NO_CONVERSATION = {
    "saved_messages": "self_chat", "bot_chat": "bot", "replies": "channel", "private_channel": "channel",
    "public_channel": "channel", "verification_codes": "business",
}  # fmt: skip
_SERVICE_ACCOUNTS = {777000, 42777}  # Telegram itself: codes and news
_OLD_PEERS = {1: "user", 2: "chat", 3: "channel"}  # the upper half of an account id written as a number
_OWNER = {f"personal_information.{key}" for key in ("user_id", "phone_number", "username", "first_name", "last_name")}


@dataclass
class Chat:
    """One chat without its messages. ``senders`` counts those of each account; ``names`` are as shown last."""

    root: str
    place: str
    kind: str | None = None
    number: int | None = None
    name: str | None = None
    messages: int = 0
    old_numbers: bool = False
    senders: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """What Telegram calls it (``user5``, ``channel7``); its name or place where it has no number."""
        if self.number is None:
            return canonical_name("telegram", self.name).removeprefix("telegram:") if self.name else self.place
        if self.old_numbers:
            return account(self.number)
        return f"{KINDS.get(self.kind or '', 'user' if self.is_direct else 'chat')}{self.number}"

    @property
    def thread_id(self) -> str:
        return f"telegram:{self.key}"

    @property
    def is_direct(self) -> bool:
        """Whether it has two sides; by who wrote in it where the export does not say."""
        return self.kind == "personal_chat" if self.kind in KINDS else len(self.senders) <= 2

    @property
    def skipped(self) -> str | None:
        """Why none of its messages is wanted."""
        if self.number in _SERVICE_ACCOUNTS and self.is_direct:
            return "business"
        return _NO_CONVERSATION.get(self.kind or "")


def account(number: int) -> str:
    """``user5`` for an account id written as a number, as before 2021: what kind it is stands in its upper half."""
    kind = _OLD_PEERS.get(number >> 32)
    return f"{kind}{number & 0xFFFFFFFF}" if kind else f"user{number}"


def sender_of(account_id: Any, name: Any) -> str | None:
    """The identifier of who has this ``from_id`` and ``from``: by name where there is no id, None without either."""
    if isinstance(account_id, int) and not isinstance(account_id, bool):
        return f"telegram:{account(account_id)}"
    if isinstance(account_id, str) and account_id.strip():
        return f"telegram:{account_id.strip()}"
    return canonical_name("telegram", name) if isinstance(name, str) and name.strip() else None


class Outline:
    """The chats of one file and what it says of its owner, as far as it could be read; *damage* says where it ends."""

    def __init__(self, file: IO[bytes], name: str):
        self.name = name
        self.chats: list[Chat] = []
        self.owner: dict[str, Any] = {}
        self.damage: DamagedFile | None = None
        self._current: dict[str, Chat] = {}
        self._sender: dict[str, Any] = {}
        try:
            for prefix, event, value in events(repaired(file), name):
                if place := _PLACES.get(prefix):
                    self._take(*place, event, value)
        except DamagedFile as damage:
            self.damage = damage

    def _take(self, root: str, place: str, event: str, value: Any) -> None:
        if event == "map_key" or event == "end_array":
            return
        if place == "owner":
            self.owner.setdefault(root, value)
        elif place == "chat":
            if event == "start_map":
                self._begin(root)
        elif place == "message":
            self._message(self._chat(root), event)
        elif place in ("from", "from_id"):
            self._sender[place] = value
        else:
            self._describe(self._chat(root), place, value)

    def _begin(self, root: str) -> Chat:
        chat = self._current[root] = Chat(root, f"{self.name}#{len(self.chats)}")
        self.chats.append(chat)
        return chat

    def _chat(self, root: str) -> Chat:
        return self._current.get(root) or self._begin(root)

    def _message(self, chat: Chat, event: str) -> None:
        if event != "end_map":
            chat.messages += 1
            self._sender = {}
            return
        account_id, name = self._sender.get("from_id"), self._sender.get("from")
        chat.old_numbers = chat.old_numbers or isinstance(account_id, int)
        if sender := sender_of(account_id, name):
            chat.senders[sender] += 1
            chat.names[sender] = name if isinstance(name, str) and name.strip() else sender.removeprefix("telegram:")

    def _describe(self, chat: Chat, field: str, value: Any) -> None:
        if field == "id":
            if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
                value = int(value)
            chat.number = value if isinstance(value, int) and not isinstance(value, bool) else None
        elif isinstance(value, str) and value.strip():
            if field == "type":
                chat.kind = value
            else:
                chat.name = value


_PLACES = {prefix: (prefix.removeprefix("personal_information."), "owner") for prefix in _OWNER} | {
    root + key: (root, place)
    for root in ROOTS
    for key, place in [
        ("type", "type"), ("id", "id"), ("name", "name"), ("messages.item", "message"),
        ("messages.item.from", "from"), ("messages.item.from_id", "from_id"),
    ]
} | {root.removesuffix("."): (root, "chat") for root in ROOTS}  # fmt: skip


class Owner:
    """Who is me: what the user said, else what the exports say.

    Raises:
        DataRefused: If neither does.
    """

    def __init__(self, outlines: list[Outline], options: Options):
        self._options = options
        self._known: dict[tuple[str, str | None], bool] = {}
        told = [outline.owner for outline in outlines if _is_told(outline.owner, options)] if options.me else []
        self.accounts = _accounts(told)
        chats = [chat for outline in outlines for chat in outline.chats]
        if not options.me:
            self.accounts = _accounts([outline.owner for outline in outlines]) or _from_chats(chats)
            candidates = _candidates(chats)
            if not self.accounts and any(chat.senders for chat in chats if not chat.skipped):
                raise ask_who_is_me(candidates)

    def wrote(self, sender: str, name: str | None) -> bool:
        """Whether *sender*, shown as *name*, is me."""
        known = self._known.get((sender, name))
        if known is None:
            bare = sender.removeprefix("telegram:")
            spellings = (sender, bare, bare.removeprefix("user"), name)
            known = sender in self.accounts or bool(self._options.me) and self._options.is_me(*spellings)
            self._known[sender, name] = known
        return known


def _accounts(owners: Iterable[dict[str, Any]]) -> set[str]:
    return {f"telegram:user{number}" for owner in owners if isinstance(number := owner.get("user_id"), int)}


def _is_told(owner: dict[str, Any], options: Options) -> bool:
    named = {key: value for key, value in owner.items() if isinstance(value, str)}
    full = f"{named.get('first_name', '')} {named.get('last_name', '')}"
    user_name = named.get("username", "")
    return options.is_me(str(owner.get("user_id")), full, named.get("phone_number"), user_name, user_name.lstrip("@"))


def _from_chats(chats: list[Chat]) -> set[str]:
    """The owner of saved messages; else who is the other side of most people: a chat's number is the other person's."""
    if saved := {chat.thread_id for chat in chats if chat.kind == "saved_messages" and chat.number is not None}:
        return saved
    votes: Counter[str] = Counter()
    for chat in chats:
        others = set(chat.senders) - {chat.thread_id}
        if chat.is_direct and chat.number is not None and len(chat.senders) == 2 and len(others) == 1:
            votes.update(others)
    return {sender for sender, _ in votes.most_common(1)}


def _candidates(chats: list[Chat]) -> list[str]:
    """Who may be me, those in most chats first; by account where two have one name."""
    present: Counter[str] = Counter()
    names: dict[str, str] = {}
    for chat in chats:
        if not chat.skipped:
            present.update(set(chat.senders) - {chat.thread_id} if chat.is_direct else set(chat.senders))
            names |= chat.names
    shared = Counter(names[sender] for sender in present)
    return [
        names[sender] if shared[names[sender]] == 1 else sender.removeprefix("telegram:")
        for sender, _ in present.most_common()
    ]
