"""``report.html`` and ``report.json`` of an evaluation: the verdict, the figures, and replies side by side.

One file without scripts or anything from elsewhere. It holds messages: it is for their owner alone. There is no clock
in it: the same evaluation gives the same bytes.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prompt_format.manifest import Gate
from training.config import TrainConfig
from training.evaluate import MOST_TOKENS, Verdict
from training.evaluation_figures import FAULTS, GROUPS, Figure, columns, figures
from training.gate import CHANCE
from training.measures.bundles import BUNDLE
from training.measures.faults import COPY_WORDS, STOCK_REPLIES
from training.rows import Dataset

HTML, JSON, CURVE = "report.html", "report.json", "loss.png"
SHOWN_SAMPLES = 12  # the others unfold


@dataclass(frozen=True)
class About:
    """What was evaluated: an adapter, as name@generation, of *steps* steps, and the *dataset* it was held against."""

    adapter: str
    base: str
    variant: str
    method: str
    steps: int
    dataset: str

    @classmethod
    def of(cls, adapter: str, base: str, config: TrainConfig, steps: int, dataset: Dataset) -> "About":
        return cls(adapter, base, dataset.format.variant, config.method, steps, str(dataset.folder))


@dataclass(frozen=True)
class Row:
    """A figure with the width of its bar in each column, in per cent."""

    figure: Figure
    widths: dict[str, float]


@dataclass(frozen=True)
class Group:
    """Rows under one heading, and what they were measured on where that is the same."""

    title: str
    low_is_good: bool
    counted: str
    rows: list[Row]


def report_files(about: About, verdict: Verdict, gate: Gate, curve: bytes | None) -> dict[str, bytes]:
    """File name -> content: the page, the same as JSON, and the loss curve where there is one.

    Args:
        gate: The verdict's, with what was made of it.
        curve: A PNG.
    """
    page = _page(about, verdict, gate, curve).encode(errors="replace")
    data = json.dumps(_data(about, verdict, gate), indent=1, ensure_ascii=False, allow_nan=False)
    files = {HTML: page, JSON: (data + "\n").encode(errors="replace")}
    return files if curve is None else {**files, CURVE: curve}


def _page(about: About, verdict: Verdict, gate: Gate, curve: bytes | None) -> str:
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pages.filters["number"] = lambda value: f"{value:,}"
    return pages.get_template("evaluation_report.html").render(
        about=about,
        verdict=verdict,
        gate=gate,
        amounts=verdict.amounts,
        figures={figure.key: figure for figure in figures(verdict)},
        columns=columns(verdict),
        groups=_groups(figures(verdict)),
        copies=verdict.adapter.measures.faults.copy,
        faults=FAULTS,
        samples=verdict.samples,
        shown=SHOWN_SAMPLES,
        curve=base64.b64encode(curve).decode() if curve else "",
        chance=CHANCE,
        bundle=BUNDLE,
        copy_words=COPY_WORDS,
        stock=STOCK_REPLIES,
        most_tokens=MOST_TOKENS,
    )


def _groups(rows: Sequence[Figure]) -> list[Group]:
    found = [(group, list(some)) for group, some in groupby(rows, key=lambda row: row.group)]
    return [
        Group(GROUPS[group], some[0].low_is_good, _common(some), [_row(row) for row in some]) for group, some in found
    ]


def _common(rows: Sequence[Figure]) -> str:
    """What all *rows* are measured on; empty where that differs."""
    counted = {row.counted for row in rows}
    return counted.pop() if len(counted) == 1 else ""


def _row(figure: Figure) -> Row:
    """Bars are drawn against the longest of the row, but shares and likeness against one."""
    is_of_one = figure.is_share or figure.group == "authorship"
    values = {column: value or 0.0 for column, value in figure.values.items()}
    longest = 1.0 if is_of_one else max(values.values()) or 1.0
    return Row(figure, {column: 100 * value / longest for column, value in values.items()})


def _data(about: About, verdict: Verdict, gate: Gate) -> dict[str, Any]:
    rows = [{"key": row.key, "group": row.group, "counted": row.counted, **row.values} for row in figures(verdict)]
    samples = [{**asdict(sample), "faults": sorted(sample.faults)} for sample in verdict.samples]
    return {
        "about": asdict(about),
        "gate": gate.model_dump(),
        "note": verdict.note,
        "replies": asdict(verdict.amounts),
        "figures": rows,
        "samples": samples,
    }
