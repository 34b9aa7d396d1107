"""What became of an iMessage that was edited or partly unsent: its ``message_summary_info``, a property list.

    otr   {part: {lo, le}}: where each part stands in the first version, in UTF-16 code units
    ec    {part: [{d: when, t: typedstream}]}: the versions of an edited part, oldest first
    rp    [part]: those unsent

Parts are numbered; the keys are texts, in any order. ``tmp``, a translation somebody asked for, is not looked at.
"""

from dataclasses import dataclass, field
from typing import Any

from training.sources.typedstream import Bodies, property_list


@dataclass(frozen=True)
class Edits:
    """Attributes:
    ranges: Start and end of each part in the first version.
    first, last: The first and the last version of each edited part.
    unsent: The parts taken back.
    """

    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    first: dict[int, str] = field(default_factory=dict)
    last: dict[int, str] = field(default_factory=dict)
    unsent: frozenset[int] = frozenset()

    @property
    def nothing_left(self) -> bool:
        """Whether every part was unsent."""
        known = self.ranges.keys() | self.last.keys()
        return bool(self.unsent) and known <= self.unsent

    def final(self, body: str | None) -> list[str] | None:
        """The parts as they were last, from *body*, which is the first or the last version of the message.

        None if all is told by *body* itself, as nothing was edited or unsent that it does not show.
        """
        if not self.last and not self.unsent:
            return None
        originals = self._originals(body) if body else None
        if originals is not None:
            return [self.last.get(part, text) for part, text in originals if part not in self.unsent]
        if body and len(self.ranges) > 1:
            return None  # the last version: what was unsent is no longer there
        return [text for part, text in sorted(self.last.items()) if part not in self.unsent] or None

    def _originals(self, body: str) -> list[tuple[int, str]] | None:
        """The parts of *body* if it is the first version, else None."""
        units = body.encode("utf-16-le", "surrogatepass")
        if len(units) != 2 * max((end for _, end in self.ranges.values()), default=-1):
            return None
        parts = [
            (part, units[2 * start : 2 * end].decode("utf-16-le", "replace"))
            for part, (start, end) in sorted(self.ranges.items())
        ]
        edited = [self.first[part] == text for part, text in parts if part in self.first]
        return parts if all(edited) else None


def read_edits(summary: Any, bodies: Bodies) -> Edits:
    """The edits told by *summary*; none where it is no property list, and what is malformed in it is left out."""
    info = property_list(summary)
    if not isinstance(info, dict):
        return Edits()
    versions = {part: _texts(entries, bodies) for part, entries in _by_part(info.get("ec")).items()}
    versions = {part: texts for part, texts in versions.items() if texts}
    unsent = info.get("rp")
    return Edits(
        {part: found for part, entry in _by_part(info.get("otr")).items() if (found := _range(entry))},
        {part: texts[0] for part, texts in versions.items()},
        {part: texts[-1] for part, texts in versions.items()},
        frozenset(part for part in unsent if isinstance(part, int)) if isinstance(unsent, list) else frozenset(),
    )


def _by_part(value: Any) -> dict[int, Any]:
    if not isinstance(value, dict):
        return {}
    return {int(key): entry for key, entry in value.items() if isinstance(key, str) and key.isdecimal()}


def _texts(entries: Any, bodies: Bodies) -> list[str]:
    if not isinstance(entries, list):
        return []
    blobs = [entry.get("t") for entry in entries if isinstance(entry, dict)]
    return [text for blob in blobs if isinstance(blob, bytes) and (text := bodies.text(blob)) is not None]


def _range(entry: Any) -> tuple[int, int] | None:
    if not isinstance(entry, dict):
        return None
    start, length = entry.get("lo"), entry.get("le")
    if not isinstance(start, int) or not isinstance(length, int) or not 0 <= start <= start + length < 1 << 31:
        return None
    return start, start + length
