"""What the user tells an importer: who they are, where their phone was, what the columns mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import cached_property

from errors import DataRefused
from training.identifiers import canonical_address, visible


@dataclass(frozen=True)
class Options:
    """The answers to what an export does not say itself.

    Attributes:
        me: Names, addresses or account ids of the user, as the export has them.
        region: Country (``US``) of phone numbers written without a country code.
        zone: Where times have none: the time zone of the phone; None is this computer's.
        day_first: Whether 3/4 is the third of April; None where the export must show it.
        columns: For tables (csv, jsonl): field of the record -> name of the column.
    """

    me: tuple[str, ...] = ()
    region: str | None = None
    zone: tzinfo | None = None
    day_first: bool | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def is_me(self, *names: str | None) -> bool:
        """Whether one of *names* (a display name, an address, an account id) is one that the user gave."""
        return any(self._spelling(name) in self._mine for name in names if name)

    @cached_property
    def _mine(self) -> frozenset[str]:
        """Also without the source, as in ``whatsapp:Jo Varga``: so message files and reports name people."""
        given = [*self.me, *(re.sub(r"^[a-z]+:", "", name) for name in self.me)]
        return frozenset(self._spelling(name) for name in given) - {""}

    def _spelling(self, name: str) -> str:
        return canonical_address(name, self.region) or visible(name).casefold()

    def aware(self, local: datetime) -> datetime:
        """*local*, a time without a zone, in UTC.

        Raises:
            ValueError, OverflowError: At the first and the last day that there are.
        """
        return local.replace(tzinfo=self.zone).astimezone(UTC) if self.zone else local.astimezone(UTC)


def ask_who_is_me(candidates: Sequence[str]) -> DataRefused:
    """The question to raise when an export does not say who its owner is.

    Args:
        candidates: Names or addresses to choose from, as ``--me`` takes them, likeliest first.
    """
    return DataRefused(
        "which of these people are you? Give --me with one of them",
        code="who_is_me",
        details=list(dict.fromkeys(filter(None, map(visible, candidates))))[:20] or ["(the export names nobody)"],
    )
