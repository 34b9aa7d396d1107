"""What a reader yields: every entry of an export becomes one of these, so that none is lost silently."""

from dataclasses import dataclass

from training.records import Record


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that was understood and is on purpose no record. The reason is one of few, and counted."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """An entry that could not be read: where it stands and what is wrong, never what it says."""

    where: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know of the whole: a count that does not match, a guess that was made."""

    text: str


Item = Record | Skipped | NotUnderstood | Note
