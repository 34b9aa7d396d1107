"""The curves of a run, drawn and read back."""

import io
import math
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image

from training.plots import loss_curve, rate_curve, smoothed

LOSSES = [(step, 2 + 2 * math.exp(-step / 10) + 0.3 * (-1) ** step) for step in range(1, 41)]
VALIDATION = [(10, 3.0), (20, 2.4), (30, 2.5)]
RATES = [10 ** (-5 + number / 10) for number in range(30)]
SWEPT = [4.0 - 0.05 * number if number < 25 else 6.0 for number in range(30)]

DRAWN: dict[str, Callable[[], bytes]] = {
    "loss": lambda: loss_curve(LOSSES, VALIDATION, 4.1),
    "rate": lambda: rate_curve(RATES, SWEPT, 2e-3),
}
BLUE, ORANGE, GREY = (0, 114, 178), (213, 94, 0), (89, 89, 89)


@cache
def drawn(kind: str) -> bytes:
    """Once: drawing takes its time."""
    return DRAWN[kind]()


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 3), 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count(png: bytes, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((pixels(png) == np.array(colour)).all(axis=2).sum())


def chunks(png: bytes) -> list[bytes]:
    """The kinds of its parts, in order."""
    kinds, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kinds.append(png[at + 4 : at + 8])
        at += 12 + length
    return kinds


@pytest.mark.parametrize("kind", DRAWN)
def test_a_curve_is_a_picture_of_1400_pixels_with_both_colours(kind: str) -> None:
    """Twice the 700 that a page gives it."""
    png = drawn(kind)

    assert (840, 1400, 3) == pixels(png).shape
    assert count(png, BLUE) > 500 and count(png, ORANGE) > 300


@pytest.mark.parametrize("kind", DRAWN)
def test_same_numbers_give_the_same_bytes(kind: str) -> None:
    """And nothing in the file says when or by what it was made."""
    png = drawn(kind)

    assert DRAWN[kind]() == png
    assert {b"IHDR", b"pHYs", b"IDAT", b"IEND"} == set(chunks(png))


def test_other_numbers_give_another_picture() -> None:
    """What is drawn is what was given."""
    assert drawn("loss") != loss_curve(LOSSES, [*VALIDATION, (40, 2.2)], 4.1)
    assert drawn("rate") != rate_curve(RATES, SWEPT, 1e-3)


def test_without_a_suggestion_there_is_only_the_curve() -> None:
    """Nothing of the colour that marks it."""
    assert 0 == count(rate_curve(RATES, SWEPT, None), ORANGE)


@pytest.mark.parametrize(
    ("losses", "validation"), [([], []), ([(1, 4.0)], []), ([(1, 4.0), (2, math.nan), (3, math.inf)], [(1, 3.9)])]
)
def test_a_run_that_hardly_began_is_drawn(losses: list[tuple[int, float]], validation: list[tuple[int, float]]) -> None:
    """And a loss that is not a number is left out."""
    assert (840, 1400, 3) == pixels(loss_curve(losses, validation, 4.1)).shape


@pytest.mark.parametrize("losses", [[], [4.0], [4.0, math.inf]])
def test_a_sweep_that_broke_at_once_is_drawn(losses: list[float]) -> None:
    """With what there is."""
    assert (840, 1400, 3) == pixels(rate_curve(RATES[: len(losses)], losses, None)).shape


def test_one_wild_batch_does_not_flatten_the_curve() -> None:
    """It leaves the picture at the top: the base's line stays in the upper half."""
    wild = [(step, 400.0 if step == 5 else loss) for step, loss in LOSSES]
    grey = (pixels(loss_curve(wild, VALIDATION, 4.1)) == GREY).all(axis=2).sum(axis=1)

    assert grey.max() > 400 and grey.argmax() < 420


def test_the_smoothed_line_of_a_constant_is_the_constant() -> None:
    """From the first value on: it does not lean to zero."""
    assert [pytest.approx(3.0)] * 4 == smoothed([3.0] * 4)


def test_the_smoothed_line_follows_and_lags() -> None:
    """After a step from 1 to 0 it comes down, each time by a tenth of what is left, once it has run long enough."""
    line = smoothed([1.0] * 200 + [0.0] * 2)

    assert [pytest.approx(0.9), pytest.approx(0.81)] == line[-2:]


def test_matplotlib_waits_for_the_first_plot_and_opens_no_window() -> None:
    """Importing the module does not import it; drawing does, and never its part with the global state."""
    code = (
        "import sys, training.plots as plots; assert 'matplotlib' not in sys.modules;"
        "plots.rate_curve([1e-3], [2.0], None); assert 'matplotlib.pyplot' not in sys.modules"
    )

    assert 0 == subprocess.run([sys.executable, "-c", code]).returncode
