"""Message files by conversation: an index of where each message stands, so that no file is ever held in memory."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from errors import DataRefused
from training.identifiers import canonical_address
from training.records import Record, from_line, records_with_places

_FILE_BITS = 44  # a place is the file's number and, below it, the offset of the line
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

Key = tuple[str, str, str]
"""(source, kind, thread). An address is the same person whatever the source, so such a thread has no source."""


@dataclass
class History:
    """Every conversation of some message files.

    Attributes:
        places: For each conversation where its messages stand.
        dropped: How many messages were left out, by reason.
        mine: My own identifiers.
        sources: For each file its name, digest and number of messages.
    """

    paths: tuple[Path, ...]
    places: dict[Key, "array[int]"] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    mine: set[str] = field(default_factory=set)
    sources: list[dict[str, Any]] = field(default_factory=list)

    def records(self, key: Key) -> list[Record]:
        """The messages of one conversation in the order they were sent."""
        found: list[Record] = []
        for number, path in enumerate(self.paths):
            offsets = [place & ((1 << _FILE_BITS) - 1) for place in self.places[key] if place >> _FILE_BITS == number]
            if offsets:
                found += _at(path, offsets)
        found.sort(key=lambda record: (record.sent_at or _LONG_AGO, record.order))
        return found


def read_history(paths: Sequence[Path], since: datetime | None = None) -> History:
    """The index of *paths*; messages before *since*, or of unknown time then, are left out and counted.

    Raises:
        DataRefused: If a file is not there, or no message was found.
    """
    history = History(tuple(paths))
    earlier: set[int] = set()  # what stood in the files before this one
    for number, path in enumerate(paths):
        here: set[int] | None = set() if len(paths) > 1 else None
        _index_file(history, number, path, since, earlier, here)
        earlier |= here or set()
    if not history.places:
        given = ", ".join(map(str, paths)) or "no file given"
        raise DataRefused(
            f"no messages to build from ({given}): run `python -m training import SOURCE PATH --me ...` first",
            code="no_messages",
            details=[f"{reason}: {count} lines" for reason, count in sorted(history.dropped.items())],
        )
    return history


def _index_file(
    history: History, number: int, path: Path, since: datetime | None, earlier: set[int], here: set[int] | None
) -> None:
    digest = hashlib.sha256()
    count = 0
    for offset, line, record in records_with_places(path):
        digest.update(line)
        reason = _why_not(record, since, earlier)
        if record is None or reason:
            history.dropped[reason or "not_understood"] += 1
            continue
        if here is not None:
            here.update(_marks(record))
        history.places.setdefault(_key(record), array("Q")).append(number << _FILE_BITS | offset)
        if record.from_me and record.sender_id:
            history.mine.add(record.sender_id)
        count += 1
    history.sources.append({"file": path.name, "sha256": digest.hexdigest(), "messages": count})


def _why_not(record: Record | None, since: datetime | None, earlier: set[int]) -> str | None:
    if record is None:
        return "not_understood"
    if since is not None and (record.sent_at is None or record.sent_at < since):
        return "before_since"
    if earlier and not earlier.isdisjoint(_marks(record)):
        return "in_an_earlier_file"
    return None


def _key(record: Record) -> Key:
    thread = record.thread_id
    is_address = thread.startswith("+") or "@" in thread
    if record.thread_kind == "dm" and is_address and canonical_address(thread) == thread:
        return ("", "dm", thread)
    return (record.source, record.thread_kind, thread)


def _marks(record: Record) -> Iterator[int]:
    """What shows that a message of one file is one of another file too: overlapping exports are usual.

    Within a file two equal messages of one second can both be real. Hashes, as there can be millions.
    """
    key = _key(record)
    if record.source_id is not None:
        yield hash((record.source, record.thread_id, record.source_id))
    if record.sent_at is not None:
        second = record.sent_at.replace(microsecond=0)
        yield hash((key, record.from_me, record.sender_id, second, record.kind, record.text))


def _at(path: Path, offsets: Sequence[int]) -> Iterator[Record]:
    with path.open("rb") as file:
        for place, offset in enumerate(offsets):
            file.seek(offset)
            record = from_line(file.readline())
            record.order = record.order or place
            yield record
