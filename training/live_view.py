"""A run as a person at a terminal sees it: a picture that changes below the lines that are said.

Where the stream is no terminal, or one that cannot move its cursor, ``watching`` gives plain lines instead
(``training.watch.Lines``). rich is imported when a live view begins, so that nothing else waits for it.
Look at it: ``python -m training train CONFIG.yaml`` in a terminal; NO_COLOR takes the colours away.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TextIO

from training.plots import smoothed
from training.watch import Lines, Step, Watch, speed

if TYPE_CHECKING:
    from rich.console import Group

BARS = "▁▂▃▄▅▆▇█"
WIDEST = 78  # columns: a terminal made narrower than what was drawn folds it, and the fold stays in its history
SIDE_BY_SIDE = 58  # columns from which two figures stand in a row
WINDOW = 20  # steps that speed is measured over
REFRESHES_A_SECOND = 4


def watching(stream: TextIO) -> AbstractContextManager[Watch]:
    """What tells *stream* of a run: a live view on a terminal, plain lines elsewhere. Used in a ``with``."""
    encoding = (stream.encoding or "").lower()
    if stream.isatty() and os.environ.get("TERM") not in (None, "dumb", "unknown") and encoding.startswith("utf"):
        return LiveView(stream)
    return nullcontext(Lines(lambda line: print(line, file=stream, flush=True)))


@dataclass
class Told:
    """What a run has told so far.

    Attributes:
        steps: All that were taken while somebody looked; a run that goes on after a kill does not begin at 1.
        validation: (step, nats a token).
        began, last: When the first of *steps* began and the last one ended, seconds of some clock.
    """

    steps: list[Step] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    began: float = 0.0
    last: float = 0.0


class LiveView:
    """Draws on the terminal *stream* while it is entered; however it is left, the cursor is back."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream, self._clock = stream, clock
        self._told = Told()
        self._live: Any = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        # The picture is drawn by a thread of rich's: it only reads, and lists here only grow.
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=REFRESHES_A_SECOND)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        # As it is, to be folded by the terminal: what is copied from there is then the line that was said.
        self._live.console.print(line, soft_wrap=True)

    def stepped(self, step: Step) -> None:
        told = self._told
        told.last = self._clock()
        if not told.steps:
            told.began = told.last - step.seconds
        told.steps.append(step)
        self._live.start()  # only the first time: what is said before stands alone

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        self._told.validation.append((step, loss))

    def _picture(self) -> "Group | str":
        if not self._told.steps:
            return ""
        return picture(self._told, self._clock(), min(self._live.console.width, WIDEST))


def picture(told: Told, now: float, width: int) -> "Group":
    """What *told*, with at least one step, looks like at *now* in *width* columns, as rich draws it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    step = told.steps[-1]
    count = f" {step.step:,}/{step.total:,}"
    head = Table.grid()
    head.add_row(ProgressBar(step.total, step.step, width=max(4, width - len(count))), Text(count))
    cells = [Text(text, style) for pair in figures(told, now) for text, style in zip(pair, ("dim", ""), strict=True)]
    across = 4 if width >= SIDE_BY_SIDE else 2
    body = Table.grid(padding=(0, 2, 0, 0))
    for begin in range(0, len(cells), across):
        body.add_row(*cells[begin : begin + across])
    curve = sparkline(smoothed([taken.loss for taken in told.steps]), width)
    return Group(head, Text(curve, "cyan", no_wrap=True), body)


def figures(told: Told, now: float) -> list[tuple[str, str]]:
    """(name, value with its unit) of everything that is shown as text."""
    step, recent = told.steps[-1], told.steps[-WINDOW:]
    taken = told.steps[-1].step - told.steps[0].step + 1
    left = (step.total - step.step) * (told.last - told.began) / taken - (now - told.last)
    best = min(told.validation, key=lambda item: item[1], default=None)
    last = told.validation[-1] if told.validation else None
    return [
        ("training loss", f"{smoothed([taken.loss for taken in told.steps])[-1]:.4f}"),
        ("learning rate", f"{step.learning_rate:.2e}"),
        ("validation", "-" if last is None else f"{last[1]:.4f}{' (best)' if last == best else ''}"),
        ("best", "-" if best is None else f"{best[1]:.4f} at {best[0]:,}"),
        ("speed", speed(recent)),
        ("examples", f"{sum(one.rows for one in recent) / sum(one.seconds for one in recent):.1f}/s"),
        ("time", clock_time(now - told.began)),
        ("left", clock_time(max(0.0, left))),
        ("peak memory", f"{step.peak_bytes / 1e9:.2f} GB"),
    ]


def clock_time(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sparkline(values: Sequence[float], width: int) -> str:
    """*values* as bars in at most *width* columns, the lowest of them as the lowest bar; each column is a mean."""
    columns = min(width, len(values))
    edges = [len(values) * number // columns for number in range(columns + 1)] if columns else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    top = len(BARS) - 1
    return "".join(BARS[round(top * (mean - low) / (high - low))] if high > low else BARS[0] for mean in means)
