"""What becomes of private data: masked where it is read, and a reply that holds some is not learnt."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.privacy.block_list import BlockList
from training.privacy.find import Found, find_private, mask, without_overlaps
from training.records import Record


@dataclass(frozen=True)
class Rules:
    """The rules of one build.

    Attributes:
        region: Country of phone numbers written without a country code.
        blocked: What the user never wants to see in a dataset.
        is_on: Whether private data is looked for; the user's block list holds in any case.
    """

    region: str | None = None
    blocked: BlockList | None = None
    is_on: bool = True

    def find(self, text: str) -> list[Found]:
        """The private data and the blocked words in *text*, in order and without overlaps."""
        found = find_private(text, self.region) if self.is_on else []
        if self.blocked is None:
            return found
        return without_overlaps([*self.blocked.find(text), *found])

    def mask(self, text: str, found: Sequence[Found]) -> str:
        """*text* with each of *found* replaced by a stand-in."""
        return mask(text, found) if found else text

    def blocks_conversation(self, names: Sequence[str]) -> bool:
        """Whether the user blocked a conversation: one of *names* is its thread's, or of a contact in it."""
        return self.blocked is not None and (self.blocked.blocks_thread(*names) or self.blocked.blocks_contact(*names))

    def blocks_message(self, record: Record) -> bool:
        """Whether the user blocked who wrote it or the day it was written on."""
        if self.blocked is None:
            return False
        return self.blocked.blocks_day(record.sent_at) or self.blocked.blocks_contact(
            record.sender_id, record.sender_name
        )
