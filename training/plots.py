"""Curves of a run as PNG files: the loss as it was trained, and the sweep of a learning-rate finder.

Same numbers, same bytes: no date, no version and no setting of the user's matplotlib goes in. matplotlib is imported
when a plot is drawn, by its figure objects alone: nothing is registered anywhere and no window can open.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[int, float]]
"""(step, loss in nats a token)."""

INCHES, DPI = (7.0, 4.2), 200  # 1400 x 840 pixels: sharp where a page shows it 700 wide
# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind people, and in grey.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#595959"
SPAN = 0.9  # what the smoothed line keeps of what it was, at each step


def loss_curve(losses: Points, validation: Points, base_loss: float) -> bytes:
    """A PNG of how a run went: training loss of each batch and smoothed, validation with its best, and the base.

    Args:
        losses, validation: (step, nats a token); values that are not finite are left out, and either may be empty.
        base_loss: Validation loss of the base without an adapter, nats a token.
    """

    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        steps, values = _columns(losses)
        axes.plot(steps, values, color=BLUE, linewidth=0.7, alpha=0.35, label="training, each step")
        axes.plot(steps, smoothed(values), color=BLUE, linewidth=1.8, label="training, smoothed")
        measured, found = _columns(validation)
        axes.plot(measured, found, "o-", color=ORANGE, markersize=5, linewidth=1.4, label="validation")
        if found:
            best = min(range(len(found)), key=found.__getitem__)
            label = f"best: {found[best]:.3f} at step {measured[best]}"
            axes.plot(
                measured[best], found[best], "*", color=ORANGE, markersize=15, markeredgecolor="white", label=label
            )
        axes.axhline(base_loss, color=GREY, linewidth=1.3, linestyle="--", label=f"validation, base: {base_loss:.3f}")
        axes.set(xlabel="step", ylabel="loss (nats a token)", title="Loss of replies")
        axes.set_ylim(_limits([*found, base_loss], values))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _png(draw)


def rate_curve(rates: Sequence[float], losses: Sequence[float], suggested: float | None) -> bytes:
    """A PNG of a sweep: the loss (nats a token) after a step over the rate of that step, and the rate it suggests.

    The rise of a loss that breaks away is cut off at the top: what matters is where it falls. Without a suggestion
    (None) there is only the curve.
    """

    def draw(axes: "Axes") -> None:
        kept = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
        values = [loss for _, loss in kept]
        axes.semilogx([rate for rate, _ in kept], values, "o-", color=BLUE, markersize=3.5, linewidth=1.5)
        if suggested is not None:
            axes.axvline(suggested, color=ORANGE, linewidth=1.5, linestyle="--", label=f"suggested: {suggested:.1e}")
        axes.set(xlabel="learning rate", ylabel="loss (nats a token)", title="Learning-rate sweep")
        if values:
            low, first = min(values), values[0]
            axes.set_ylim(_limits([low, min(max(values), first + 1.5 * (first - low) + 0.5)], []))

    return _png(draw)


def smoothed(values: Sequence[float], span: float = SPAN) -> list[float]:
    """The running mean of *values*, each counting *span* of the one after it.

    Divided by the sum of the weights so far, so that it does not lean to zero at first: Kingma and Ba, "Adam" (2014),
    section 3.
    """
    line: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = span * total + (1 - span) * value, span * weight + (1 - span)
        line.append(total / weight)
    return line


def _columns(points: Points) -> tuple[list[int], list[float]]:
    kept = [(step, loss) for step, loss in points if math.isfinite(loss)]
    return [step for step, _ in kept], [loss for _, loss in kept]


def _limits(shown: Sequence[float], noisy: Sequence[float]) -> tuple[float, float]:
    """Limits of the loss axis: all of *shown* and nearly all of *noisy*, so that one wild batch does not flatten it."""
    few = math.ceil(len(noisy) / 50) if len(noisy) > 10 else 0
    middle = sorted(noisy)[few : len(noisy) - few]
    low, high = min([*shown, *middle]), max([*shown, *middle])
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _png(draw: "Callable[[Axes], None]") -> bytes:
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):
        figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, frameon=False)  # covers no part of a curve
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
