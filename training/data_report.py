"""``report.html`` of a build: what went in, what was left out, and rows as the model sees them. One file, no scripts.

It holds messages and names: it lies beside the datasets, for their owner alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prompt_format.format import PromptFormat
from training.chosen import Chosen
from training.dataset_files import Written
from training.private_files import replace_file
from training.selection import SPLITS
from training.statistics import GAPS, SESSION_GAPS

SHOWN_ROWS = 3
SHOWN_CONTACTS = 30
_LONGEST = 30  # words, bubbles: what is longer is one bar


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: heights in per cent of the highest, a second part on top of the first."""

    label: str
    count: int
    height: float
    second: float = 0.0


@dataclass(frozen=True)
class Row:
    """A training row as text: what stands before the reply, and what the loss is on."""

    prompt: str
    trained: str
    tokens: int


def write_report(formats: Sequence[PromptFormat], chosen: Chosen, written: Sequence[Written], out: Path) -> Path:
    """Write ``report.html`` into *out*; returns its path."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pages.filters["number"] = lambda value: f"{value:,}"
    page = pages.get_template("data_report.html").render(_facts(formats, chosen, written))
    path = out / "report.html"
    replace_file(path, page.encode(errors="replace"))
    return path


def _facts(formats: Sequence[PromptFormat], chosen: Chosen, written: Sequence[Written]) -> dict[str, Any]:
    found = chosen.statistics
    contacts = sorted(found.contacts.values(), key=lambda contact: -contact.messages)
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "name": chosen.plan.name,
        "statistics": found,
        "messages": sum(contact.messages for contact in contacts),
        "mine": sum(contact.mine for contact in contacts),
        "contacts": contacts[:SHOWN_CONTACTS],
        "more_contacts": max(0, len(contacts) - SHOWN_CONTACTS),
        "most": max((contact.messages for contact in contacts), default=1),
        "months": _months(found.months),
        "hours": _bars([(f"{hour:02}", found.hours[hour]) for hour in range(24)]),
        "words": _lengths(found.reply_words),
        "bubbles": _lengths(found.reply_bubbles),
        "gaps": _bars([(name, found.gaps[name]) for name in (*GAPS, "longer")]),
        "sessions": [(gap, found.sessions[gap], found.answered_within[gap]) for gap in SESSION_GAPS],
        "session_minutes": chosen.plan.gaps.session_minutes,
        "sources": chosen.history.sources,
        "splits": SPLITS,
        "variants": [(one, _rows(form, one.folder)) for form, one in zip(formats, written, strict=True)],
    }


def _bars(counts: Sequence[tuple[str, int]]) -> list[Bar]:
    highest = max((count for _, count in counts), default=0) or 1
    return [Bar(label, count, 100 * count / highest) for label, count in counts]


def _months(counts: Counter[tuple[str, bool]]) -> list[Bar]:
    """Every month from the first to the last, mine at the bottom."""
    names = sorted({name for name, _ in counts})
    if not names:
        return []
    totals = {name: (counts[name, True], counts[name, False]) for name in _every_month(names[0], names[-1])}
    highest = max(map(sum, totals.values())) or 1
    return [
        Bar(name, mine + theirs, 100 * mine / highest, 100 * theirs / highest)
        for name, (mine, theirs) in islice(totals.items(), 600)
    ]


def _every_month(first: str, last: str) -> Iterable[str]:
    year, month = map(int, first.split("-"))
    while f"{year:04}-{month:02}" <= last:
        yield f"{year:04}-{month:02}"
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _lengths(counts: Counter[int]) -> list[Bar]:
    longest = min(max(counts, default=0), _LONGEST)
    bars = [(str(length), counts[length]) for length in range(1, longest)]
    return _bars([*bars, (f"{longest}+", sum(count for length, count in counts.items() if length >= longest))])


def _rows(form: PromptFormat, folder: Path) -> list[Row]:
    """Some rows of train, far apart, encoded as training encodes them."""
    path = folder / "train.jsonl"
    with path.open("rb") as file:
        count = sum(1 for _ in file)
    wanted = {(2 * number + 1) * count // (2 * SHOWN_ROWS) for number in range(SHOWN_ROWS)}
    with path.open("rb") as file:
        return [_row(form, line) for number, line in enumerate(file) if number in wanted]


def _row(form: PromptFormat, line: bytes) -> Row:
    example = form.encode_row(msgspec.json.decode(line)["messages"])
    return Row(*form.texts(example), tokens=len(example.ids))
