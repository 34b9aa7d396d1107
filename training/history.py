"""``training import``: an export -> ``data/messages/NAME.jsonl`` and a coverage report.

Every entry of the export is kept, skipped for a reason that is counted, or not understood and counted.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from errors import DataRefused
from training.identifiers import visible
from training.people import People
from training.private_files import sync_folder, write_synced
from training.progress import Tell, silent
from training.records import Record, to_lines
from training.sources.export import Damage, DamagedFile, Export
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.registry import find, others_in

WARN_ABOVE = 0.005
_AT_ONCE = 200  # records written together
_NAMED = 10  # so many of the entries not understood are named


@dataclass
class Coverage:
    """What became of an export. ``seen`` is always kept + skipped + not understood.

    Attributes:
        where: The first of the entries not understood.
        damaged: Those of them that are files which could not be read (further), all of them.
    """

    source: str = ""
    kept: int = 0
    mine: int = 0
    not_understood: int = 0
    where: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    threads: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None
    people: People = field(default_factory=People)
    _alike: dict[tuple[str, str, str, bool, str | None, str | None], int] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        return self.kept + self.skipped.total() + self.not_understood

    def count(self, item: Item) -> None:
        """Take note of one item of a reader."""
        match item:
            case Record():
                self.keep([item])
            case Skipped():
                self.skipped[item.reason] += 1
            case NotUnderstood():
                self.not_understood += 1
                where = visible(item.where)  # file names may hold anything
                self.where += [where][: _NAMED - len(self.where)]
                self.damaged += [where] if isinstance(item, Damage) else []
            case Note():
                self.notes.append(visible(item.text))

    def keep(self, records: Sequence[Record]) -> None:
        """Take note of records. They are counted by what they share, which ``settle`` then takes apart."""
        alike, first, last = self._alike, self.first, self.last
        for record in records:
            shared = (
                record.thread_id, record.thread_kind, record.kind, record.from_me, record.sender_id, record.sender_name
            )  # fmt: skip
            alike[shared] = alike.get(shared, 0) + 1
            when = record.sent_at
            if when is not None:
                if first is None or last is None:
                    first = last = when
                elif when < first:
                    first = when
                elif when > last:
                    last = when
        self.first, self.last = first, last

    def settle(self) -> None:
        """Bring the numbers up to date; before it, those of records are not."""
        for (thread, thread_kind, kind, from_me, sender, name), count in self._alike.items():
            self.kept += count
            self.mine += count * from_me
            self.kinds[kind] += count
            self.threads[thread, thread_kind] += count
            if not from_me and sender is not None:
                self.people.met(sender, name, thread_kind, count)
        self._alike.clear()

    def as_json(self) -> dict[str, Any]:
        kinds = Counter(kind for _, kind in self.threads)
        return {
            "source": self.source, "seen": self.seen, "kept": self.kept, "mine": self.mine,
            "share_mine": round(self.mine / self.kept, 4) if self.kept else 0.0,
            "threads": len(self.threads), "direct": kinds["dm"], "groups": kinds["group"], "people": len(self.people),
            "first": self.first.isoformat() if self.first else None,
            "last": self.last.isoformat() if self.last else None,
            "kinds": dict(self.kinds.most_common()), "skipped": dict(self.skipped.most_common()),
            "not_understood": self.not_understood, "where": self.where, "damaged": self.damaged,
            "notes": self.notes,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The report for a terminal."""
        kinds = Counter(kind for _, kind in self.threads)
        share = 100 * self.mine / max(self.kept, 1)
        text = [
            f"{self.source}: {self.seen:,} entries seen, {self.kept:,} kept, {share:.0f} % of them yours",
            f"  conversations  {kinds['dm']} direct, {kinds['group']} groups, {len(self.people)} people",
            f"  dates          {_day(self.first)} to {_day(self.last)}",
            f"  kinds          {_counts(self.kinds)}",
        ]
        if self.skipped:
            text.append(f"  skipped        {_counts(self.skipped)}")
        text += [f"  note           {note}" for note in self.notes]
        text += [f"  WARNING: {where}: messages are missing" for where in self.damaged]
        if self.not_understood:
            warning = "WARNING: " if self.not_understood > WARN_ABOVE * self.seen else ""
            text.append(f"  {warning}not understood: {self.not_understood:,} of {self.seen:,}, such as {self.where[0]}")
        return text


def import_messages(source: str, path: Path, options: Options, out: Path, tell: Tell = silent) -> Coverage:
    """Read the export at *path* with the importer *source* (or ``auto``) and write *out* and its report, or neither.

    Raises:
        DataRefused: If the source is unknown, nothing could be imported, or none of it is mine.
    """
    export = Export(path)
    name, reader = find(source, export)
    coverage = Coverage(name)
    others = others_in(name, export) if source == "auto" else []
    if others:
        coverage.notes.append(f"there is something of {', '.join(others)} in it too: import that by its name")
    out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    report = out.with_suffix(".report.json")
    staged, staged_report = (path.with_name(f".staging-{path.name}-{os.getpid()}") for path in (out, report))
    try:
        staged.unlink(missing_ok=True)  # of a killed process that had this one's number, as in containers
        staged_report.unlink(missing_ok=True)
        staged.touch(mode=0o600)
        with staged.open("wb") as file:
            file.writelines(_kept(reader.read(export, options), coverage, tell))
        for fault in export.unreadable:
            coverage.count(Damage(fault))
        _refuse_nothing(coverage, path)
        written = json.dumps(coverage.as_json(), indent=1, ensure_ascii=False) + "\n"
        write_synced(staged_report, written.encode(errors="replace"))
        os.replace(staged, out)
        os.replace(staged_report, report)
    finally:
        staged.unlink(missing_ok=True)
        staged_report.unlink(missing_ok=True)
    sync_folder(out.parent)
    return coverage


def _kept(items: Iterator[Item], coverage: Coverage, tell: Tell) -> Iterator[bytes]:
    """The lines to write, some at a time: there can be millions."""
    some: list[Record] = []
    written = 0
    try:
        for item in items:
            if isinstance(item, Record):
                some.append(item)
                if len(some) == _AT_ONCE:
                    coverage.keep(some)
                    yield to_lines(some)
                    written += len(some)
                    tell("messages", written, None)
                    some = []
            else:
                coverage.count(item)
    except DamagedFile as damaged:  # what came before it is whole
        coverage.count(Damage(damaged.message))
    coverage.keep(some)
    yield to_lines(some)
    coverage.settle()


def _refuse_nothing(coverage: Coverage, path: Path) -> None:
    if coverage.kept == 0:
        raise DataRefused(
            f"nothing in '{path}' could be imported as {coverage.source}",
            code="no_messages",
            details=[
                *(f"skipped, {reason}: {count}" for reason, count in coverage.skipped.most_common()),
                *(f"not understood: {where}" for where in dict.fromkeys([*coverage.where, *coverage.damaged])),
                *coverage.notes,
            ],
        )
    if coverage.mine == 0:
        raise DataRefused(
            f"no message in '{path}' is yours: give --me your address or name as the export has it",
            code="no_messages",
            details=[f"there are messages by {visible(name)}" for name in coverage.people.most_active(20)],
        )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())


def _day(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d}" if when else "unknown"
