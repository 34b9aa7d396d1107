"""What is known of each name in the store: what it answers with, whether that is pinned, and why more was refused.

Plain facts, no files and no slots. A name is *available* where it could answer but stands in no slot.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from errors import AdapterRefused, SamevoiceError, UnknownAdapter
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.manifest import NAME_PATTERN
from service.store_reader import Look, Source

log = logging.getLogger("samevoice.adapters")

MOST_LISTED = 20  # names in one message


@dataclass
class Known:
    """One name.

    Attributes:
        generation: What it answers with, in a slot or not; None where nothing of it can be served.
        source: Where that is read from, when it is needed again.
        current: What CURRENT said when that was decided.
        pinned: Another generation was asked for than CURRENT's: it stays until CURRENT says something new.
        refusal: The code, message and details of what was refused last, unless something was loaded since.
        trained_at: Of its newest generation that a start or a reload has loaded.
    """

    generation: str | None = None
    source: Source | None = None
    current: str | None = None
    pinned: bool = False
    refusal: dict[str, Any] | None = None
    trained_at: str | None = None


class Catalogue:
    """The names of a store. *chosen* answers when a request names none; without it the newest does."""

    def __init__(self, chosen: str | None):
        self.names: dict[str, Known] = {}
        self._chosen = chosen
        self._newest: str | None = None

    @property
    def default(self) -> str | None:
        """The chosen one, served or not; else the one trained last of those that a start or a reload has loaded."""
        return self._chosen or self._newest

    def resolve(self, wanted: str | None) -> str | None:
        """The name in *wanted*: None = the default, ``base``, ``name`` or ``name@generation``. The base has none.

        Raises:
            UnknownAdapter: If there is none such; ``unknown_generation`` if the name answers with another.
            AdapterRefused: If nothing of it can be served.
        """
        wanted = wanted or self.default or "base"
        if wanted == "base":
            return None
        name, _, generation = wanted.partition("@")
        known = self.names.get(name)
        if known is None:
            there = listed(["base", *sorted(self.names)])
            raise UnknownAdapter(f"no adapter {_named(name)} is being served; there are: {there}")
        if known.generation is None:
            fault = known.refusal or fault_of(AdapterRefused("nothing of it can be served"))
            raise AdapterRefused(f"'{name}': {fault['message']}", code=fault["code"], details=fault["details"])
        if generation and generation != known.generation:
            raise UnknownAdapter(
                f"'{name}' serves generation {known.generation}, not {generation[:16]}", code="unknown_generation"
            )
        return name

    def find(self, name: str) -> Known:
        """What is known of *name*. Raises UnknownAdapter."""
        if name not in self.names:
            there = listed(sorted(self.names)) or "none"
            raise UnknownAdapter(f"no adapter {_named(name)}; there are: {there}")
        return self.names[name]

    def see(self, name: str, look: Look, last_good: str | None = None) -> None:
        """*name* answers with what CURRENT names, which has not been read, or else with what last served."""
        known = self.names.setdefault(name, Known())
        known.current, known.pinned, known.refusal = look.generation, False, None
        known.generation = look.generation or last_good
        known.source = Source(name, known.generation) if known.generation else None
        if look.refusal is not None:
            self.refuse(name, look.refusal)

    def answer(self, name: str, source: Source, generation: str) -> None:
        """*name* answers with *generation*, read from *source*, whatever CURRENT says."""
        known = self.names[name]
        known.source, known.generation = source, generation

    def load(self, name: str, source: Source, checked: CheckedAdapter, look: Look) -> None:
        """A reload has decided that *name* answers with *checked*, where CURRENT says *look*."""
        known = self.names.setdefault(name, Known())
        known.source, known.generation = source, checked.generation
        known.current, known.refusal = look.generation, None
        known.pinned = source.variant is not None or source.folder != look.generation
        self.note_time(name, checked)

    def note_time(self, name: str, checked: CheckedAdapter) -> None:
        """*checked* may make *name* the newest, unless it did not pass its gate; going back does not make it older."""
        known, gate = self.names[name], checked.manifest.gate
        if gate.passed or gate.overridden:
            known.trained_at = max(known.trained_at or "", checked.manifest.created_at)

    def refuse(self, name: str, error: SamevoiceError) -> None:
        """*error* is why *name* did not get what the store has for it; what it answered with it still does."""
        self.names.setdefault(name, Known()).refusal = fault_of(error)
        log.warning("adapter %s refused: %s", name, error.code)

    def choose_newest(self) -> None:
        """The default from now on, where none was chosen."""
        times = [(known.trained_at, name) for name, known in self.names.items() if known.trained_at]
        self._newest = max(times)[1] if times else None

    def in_order(self, looks: Mapping[str, Look]) -> list[str]:
        """The names of *looks*: the default, then those whose CURRENT was written last."""
        return sorted(looks, key=lambda name: (name != self.default, -looks[name].written_at, name))


def fault_of(error: SamevoiceError) -> dict[str, Any]:
    """*error* as results and listings show it."""
    return {"code": error.code, "message": error.message, "details": error.details}


def listed(names: Iterable[str]) -> str:
    """Some of *names*, for a message."""
    all_of_them = list(names)
    more = len(all_of_them) - MOST_LISTED
    return ", ".join(all_of_them[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _named(name: str) -> str:
    """*name* for a message, if it is one at all: it came from outside."""
    return f"named '{name}'" if re.fullmatch(NAME_PATTERN, name) else "of that name"
