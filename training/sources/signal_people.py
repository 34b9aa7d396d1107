"""Who and what the ids in Signal's plaintext export stand for: its account, recipients and chats."""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from training.identifiers import canonical_address, visible
from training.sources.loose_json import mapping, string, whole_number
from training.sources.options import Options


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody or something that messages come from or go to.

    Attributes:
        kind: A channel is what nobody talks in: release notes, stories, call links.
        id: Canonical identifier; None for the owner, whose number the export does not tell.
        name: As Signal shows it.
    """

    kind: Literal["contact", "group", "self", "channel"]
    id: str | None
    name: str | None


class People:
    """The recipients and chats of one file. Ids mean something within that file only."""

    def __init__(self) -> None:
        self.recipients: dict[str, Recipient] = {}
        self.disappearing = 0
        self._chats: dict[str, str] = {}
        self._accounts: dict[str, str] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._owner: str | None = None

    def learn(self, frame: dict[str, Any]) -> None:
        """Take note of a frame that describes an account, a recipient or a chat."""
        if isinstance(frame.get("account"), dict):
            self._owner = _name(frame["account"], "givenName", "familyName") or None
        if isinstance(frame.get("recipient"), dict):
            self._learn_recipient(frame["recipient"])
        if isinstance(frame.get("chat"), dict):
            chat = frame["chat"]
            self._chats[local_id(chat.get("id"))] = local_id(chat.get("recipientId"))
            self.disappearing += bool(whole_number(chat.get("expirationTimerMs")))

    def chat(self, chat_id: str) -> Recipient | None:
        """The other side of a chat; None where the file does not say."""
        return self.recipients.get(self._chats.get(chat_id, ""))

    def named(self, account: str) -> str:
        """The name for a mention of *account* (base64)."""
        recipient = self.recipients.get(self._accounts.get(account, ""))
        return self.name_of(recipient) or "someone"

    def name_of(self, recipient: Recipient | None) -> str | None:
        """The name shown for *recipient*; the owner's stands with the account."""
        if recipient is None:
            return None
        return self._owner if recipient.kind == "self" else recipient.name

    def chosen(self, options: Options) -> frozenset[str]:
        """Ids of the recipients that ``--me`` names; none where it names only what this file does not know."""
        return frozenset(number for number, spellings in self._addresses.items() if options.is_me(*spellings))

    def _learn_recipient(self, recipient: dict[str, Any]) -> None:
        number = local_id(recipient.get("id"))
        if isinstance(recipient.get("self"), dict):
            self.recipients[number] = Recipient("self", None, None)
        elif isinstance(recipient.get("group"), dict):
            self.recipients[number] = _group(recipient["group"], number)
        elif isinstance(recipient.get("contact"), dict):
            self._learn_contact(recipient["contact"], number)
        else:
            self.recipients[number] = Recipient("channel", None, None)

    def _learn_contact(self, contact: dict[str, Any], number: str) -> None:
        digits = string(contact.get("e164")) or str(whole_number(contact.get("e164")) or "")
        address = canonical_address("+" + digits.removeprefix("+")) or ""
        if not address.startswith("+"):
            address = ""
        account = string(contact.get("aci")) or string(contact.get("pni"))
        username = string(contact.get("username"))
        name = _shown(contact) or username or address or None
        known_by = _uuid(account) or username or name or f"recipient {number}"
        self.recipients[number] = Recipient("contact", address or f"signal:{visible(known_by) or number}", name)
        self._addresses[number] = tuple(filter(None, (address, name, username, _uuid(account))))
        if account:
            self._accounts[account] = number


def local_id(value: Any) -> str:
    """A number that identifies within one file, as text; one that is left out is 0."""
    return str(whole_number(value) or 0)


def _group(group: dict[str, Any], number: str) -> Recipient:
    """A group; its id is made of the master key, which is the same in every export but nobody else's business."""
    title = string(mapping(mapping(group.get("snapshot")).get("title")).get("title"))
    key = string(group.get("masterKey"))
    known_by = hashlib.sha256(key.encode(errors="replace")).hexdigest()[:24] if key else f"recipient {number}"
    return Recipient("group", f"group:{known_by}", title or None)


def _shown(contact: dict[str, Any]) -> str:
    """The first name there is: the one the owner gave, the address book's, the person's own."""
    return (
        _name(mapping(contact.get("nickname")), "given", "family")
        or _name(contact, "systemGivenName", "systemFamilyName")
        or _name(contact, "profileGivenName", "profileFamilyName")
        or string(contact.get("systemNickname"))
    )


def _name(holder: dict[str, Any], *keys: str) -> str:
    return visible(" ".join(string(holder.get(key)) for key in keys))


def _uuid(account: str) -> str:
    try:
        return str(UUID(bytes=base64.b64decode(account, validate=True)))
    except (binascii.Error, ValueError):
        return account
