"""``training import``: an export -> ``data/messages/NAME.jsonl`` and a coverage report."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import DataRefused
from training.private_files import replace_file
from training.records import write_line
from training.sources import SOURCES

WARN_ABOVE = 0.005


@dataclass
class Coverage:
    """What became of an export: every row is kept or counted here."""

    seen: int = 0
    kept: int = 0
    mine: int = 0
    not_understood: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    threads: set[str] = field(default_factory=set)
    first: str | None = None
    last: str | None = None

    def add(self, row: dict[str, Any]) -> None:
        self.kept += 1
        self.mine += bool(row["from_me"])
        self.kinds[row.get("kind", "text")] += 1
        self.threads.add(row["thread_id"])
        when = row.get("sent_at")
        if when:
            self.first = min(self.first or when, when)
            self.last = max(self.last or when, when)

    def as_json(self) -> dict[str, Any]:
        return {
            "seen": self.seen, "kept": self.kept, "mine": self.mine, "threads": len(self.threads),
            "first": self.first, "last": self.last, "kinds": dict(self.kinds),
            "not_understood": len(self.not_understood), "examples": self.not_understood[:10],
        }  # fmt: skip

    def lines(self) -> list[str]:
        share = 100 * self.mine / max(self.kept, 1)
        text = [
            f"{self.kept} of {self.seen} messages kept, {share:.0f} % of them mine, in {len(self.threads)} threads",
            f"from {self.first or 'unknown'} to {self.last or 'unknown'}; "
            + ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common()),
        ]
        if len(self.not_understood) > WARN_ABOVE * self.seen:
            text.append(
                f"WARNING: {len(self.not_understood)} rows were not understood, the first: {self.not_understood[0]}"
            )
        return text


def import_messages(source: str, path: Path, me: str | None, out: Path) -> Coverage:
    """Read *path* with the importer *source* and write *out* and its report, both or neither.

    Raises:
        DataRefused: If the source is unknown, or nothing could be imported, or none of it is mine.
    """
    if source not in SOURCES:
        raise DataRefused(
            f"no importer '{source}' in this version; there are: {', '.join(SOURCES)}", code="unknown_source"
        )
    if not path.exists():
        raise DataRefused(f"no export at '{path}'", code="no_such_file")
    coverage = Coverage()
    staged = out.with_name(f".staging-{out.name}-{os.getpid()}")
    out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        # Half a surrogate pair, which no UTF-8 file can hold, may stand in what is kept for reports: a sender's name.
        with staged.open("x", encoding="utf-8", errors="replace") as file:
            file.writelines(_kept(SOURCES[source](path, me), coverage))
        if coverage.kept == 0:
            raise DataRefused(f"nothing in '{path}' could be imported as {source}", code="no_messages")
        if coverage.mine == 0:
            raise DataRefused(
                f"no message in '{path}' is yours: give --me your address or name as the export has it",
                code="no_messages",
            )
        os.replace(staged, out)
    finally:
        staged.unlink(missing_ok=True)
    report = json.dumps(coverage.as_json(), indent=1, ensure_ascii=False) + "\n"
    replace_file(out.with_suffix(".report.json"), report.encode())
    return coverage


def _kept(rows: Iterator[dict[str, Any] | str], coverage: Coverage) -> Iterator[str]:
    for row in rows:
        coverage.seen += 1
        if isinstance(row, str):
            coverage.not_understood.append(row)
        else:
            coverage.add(row)
            yield write_line(row)
