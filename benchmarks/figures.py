"""Figures as files: each says on what machine, with what versions and when it was measured; bars, lines to look at."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path("docs/figures")
# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind people.
NARROW = 1000  # a logarithmic axis whose ends differ by less has room for more than powers of ten
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#595959")


@dataclass(frozen=True)
class Panel:
    """One set of bars.

    Attributes:
        bars: label -> height, in the order they are drawn.
        spread: label -> (lowest, highest) that was measured, for the bars that have one.
        begin: Where the axis begins.
    """

    title: str
    unit: str
    bars: dict[str, float]
    spread: dict[str, tuple[float, float]]
    begin: float = 0.0


@dataclass(frozen=True)
class Graph:
    """One set of lines.

    Attributes:
        across: What is along the horizontal axis.
        lines: label -> (across, height) of its points.
        log: Which axes are logarithmic: "", "x", "y" or "xy".
        begin: Where the vertical axis begins; None is just below the lowest point.
        left: The same of the horizontal one.
    """

    title: str
    across: str
    unit: str
    lines: dict[str, tuple[Sequence[float], Sequence[float]]]
    log: str = ""
    begin: float | None = None
    left: float | None = None


def write_figures(name: str, figures: dict[str, Any]) -> Path:
    """``docs/figures/<name>.json`` with *figures* and where they come from."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    where = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("mlx", "mlx-lm", "transformers")},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({**figures, "measured": where}, indent=1) + "\n")
    return path


def draw_bars(name: str, rows: Sequence[Sequence[Panel]], width: float = 3.0, folder: Path = FOLDER) -> Path:
    """``docs/figures/<name>.png``: *rows* of panels, each *width* inches wide."""
    # Here and by its figure object alone: the processes that measure have no need of it, and no window can open.
    from matplotlib.figure import Figure

    size = (width * max(map(len, rows)), 2.9 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
    for axes, panel in ((grid[i][j], panel) for i, row in enumerate(rows) for j, panel in enumerate(row)):
        colours = [COLOURS[number % len(COLOURS)] for number in range(len(panel.bars))]
        heights = list(panel.bars.values())
        drawn = axes.bar(list(panel.bars), heights, color=colours, width=0.6)
        axes.bar_label(drawn, fmt="%.4g", padding=3)
        for place, label in enumerate(panel.bars):
            if label in panel.spread:
                axes.vlines(place, *panel.spread[label], color="black", linewidth=1.5)
        axes.set(title=panel.title, ylabel=panel.unit)
        axes.set_ylim(panel.begin, panel.begin + 1.18 * (max(heights) - panel.begin))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    return path


def draw_lines(name: str, graphs: Sequence[Graph], width: float = 4.2, folder: Path = FOLDER) -> Path:
    """``docs/figures/<name>.png``: *graphs* beside each other, each *width* inches wide."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(width * len(graphs), 3.2), layout="constrained")
    row = figure.subplots(1, len(graphs), squeeze=False)[0]
    for axes, graph in zip(row, graphs, strict=True):
        for number, (label, (across, height)) in enumerate(graph.lines.items()):
            axes.plot(across, height, color=COLOURS[number % len(COLOURS)], label=label)
        axes.set(title=graph.title, xlabel=graph.across, ylabel=graph.unit)
        for letter in graph.log:
            axes.set(**{f"{letter}scale": "log"})
            axis = getattr(axes, f"{letter}axis")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if letter == "x" and high < NARROW * low else (1,)))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())
        if graph.begin is not None:
            axes.set_ylim(bottom=graph.begin)
        if graph.left is not None:
            axes.set_xlim(left=graph.left)
        axes.grid(alpha=0.3)
        if len(graph.lines) > 1:
            axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    return path


def longer_than(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A line of how many take long: (each of *values*, the share of all that take at least as long)."""
    ordered = sorted(values)
    return ordered, [1 - number / len(ordered) for number in range(len(ordered))]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """How many there are, the median, what one in a hundred exceeds, and the largest."""
    if not values:
        return {"count": 0}
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"count": len(values), "p50": round(p50, 3), "p99": round(p99, 3), "largest": round(max(values), 3)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
