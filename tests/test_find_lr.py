"""The sweep of learning rates: what it suggests of a curve, and that it finds one."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from PIL import Image

from base_model.load import load_base
from errors import TrainingStopped
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import Example
from tests.tiny import files_in, tiny_dataset, tiny_model
from training.config import TrainConfig, parse_config
from training.find_lr import HIGHEST, LOWEST, STEPS, Sweep, find_rate
from training.finetune import finetune
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset, load_dataset
from training.watch import Step

RATES = [1e-4, 1e-3, 1e-2, 1e-1]


class Recorded:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[Step] = []
        self.validations = 0

    def say(self, line: str) -> None:
        self.said.append(line)

    def stepped(self, step: Step) -> None:
        self.steps.append(step)

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        self.validations += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(folder / "llama")
    tiny_dataset(folder, blocks=5)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(folder / "raw_style", ChatTemplate(load_base(str(folder / "llama")).tokenizer), 32)


@pytest.fixture(scope="module")
def model(folder: Path) -> Callable[[], Any]:
    """A fresh one each time."""
    return lambda: load_base(str(folder / "llama")).model


@pytest.fixture(scope="module")
def swept(model: Callable[[], Any], dataset: Dataset) -> tuple[Sweep, Recorded, Any]:
    """A whole sweep, who watched it and the model it left."""
    used, watch = model(), Recorded()
    return find_rate(used, dataset, config(), watch), watch, used


def config(**settings: Any) -> TrainConfig:
    return parse_config({"name": "jo", "data": "d", "rank": 4, "batch_size": 6, **settings}, "jo.yaml")


# -- what a curve says


@pytest.mark.parametrize(
    ("losses", "broke", "suggested"),
    [
        ([4.0, 3.0, 5.0, 9.0], True, 2.5e-3),  # back at 5 at 1e-2: a quarter of that
        ([4.0, 3.0, 3.0, 7.0], True, 7.9e-3),  # half way from 3 to 7, between 1e-2 and 1e-1 on the log axis
        ([4.0, 5.5, 3.0, 7.0], True, 7.9e-3),  # what was undone once and learned again does not count
        ([4.0, 3.0, 3.5, 4.0], True, 2.5e-2),  # from there to no number at all: the last rate that gave one
        ([4.0, 3.5, 3.0, 3.2], False, 1e-2),  # never undone: the lowest
        ([4.9, 4.5, 4.0, 3.2], False, 1e-1),
        ([5.0, 5.1, 6.0, 9.0], True, None),
        ([], True, None),
    ],
)
def test_a_quarter_of_the_rate_that_undoes_what_was_learned(
    losses: list[float], broke: bool, suggested: float | None
) -> None:
    """With a base of 5 nats."""
    assert suggested == Sweep(RATES[: len(losses)], losses, 5.0, broke).suggested


def test_the_lines_end_in_a_line_of_a_config() -> None:
    """Below the curve, in ASCII, whose lowest point is marked; the bar of a loss that broke away stops at the edge."""
    lines = Sweep(RATES, [4.0, 3.0, 3.0, 70.0], 5.0, True).lines()

    assert [
        "   rate      loss",
        "1.0e-04    4.0000  " + "#" * 7,
        "1.0e-03    3.0000  # <",
        "1.0e-02    3.0000  #",
        "1.0e-01   70.0000  " + "#" * 30,
        "learning_rate: 2.7e-03",
    ] == lines


def test_a_config_reads_the_last_line() -> None:
    """As the same rate."""
    sweep = Sweep(RATES, [4.0, 3.0, 3.0, 70.0], 5.0, True)
    name, _, value = sweep.lines()[-1].partition(": ")

    assert sweep.suggested == config(**{name: value}).learning_rate


def test_a_long_sweep_is_shown_in_part_and_its_lowest_point_always() -> None:
    """At most two dozen rows."""
    rates = [1e-5 * 1.2**number for number in range(60)]
    for lowest in range(59):
        lines = Sweep(rates, [3.0 if number == lowest else 4.0 for number in range(60)], 5.0, False).lines()
        assert 1 == sum(line.endswith("# <") for line in lines)
        assert len(lines) <= 1 + 24 + 2


def test_a_sweep_that_was_never_too_high_says_so() -> None:
    """Before the suggestion."""
    assert ["no rate up to 1 was too high", "learning_rate: 1.0e-02"] == Sweep(
        RATES, [4.0, 3.5, 3.0, 3.2], 5.0, False
    ).lines()[-2:]


@pytest.mark.parametrize("losses", [[], [9.0], [5.0, 5.0]])
def test_a_sweep_that_found_nothing_says_what_to_do(losses: list[float]) -> None:
    """And has no line for a config."""
    lines = Sweep(RATES[: len(losses)], losses, 5.0, True).lines()

    assert "lower scale, or look at the rows" in lines[-1]
    assert not any("learning_rate" in line for line in lines)


def test_the_picture_is_that_of_the_curve() -> None:
    """Another curve, another picture."""
    one, other = (Sweep(RATES, [4.0, 3.0, last, 7.0], 5.0, True).png() for last in (3.0, 4.0))

    assert (1400, 840) == Image.open(io.BytesIO(one)).size
    assert one != other


# -- a sweep


def test_rates_rise_evenly_on_the_log_axis(swept: tuple[Sweep, Recorded, Any]) -> None:
    """From the lowest on, one a step, and each was the rate of that step."""
    sweep, watch, _ = swept
    ratio = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))

    assert [pytest.approx(LOWEST * ratio**number) for number in range(len(sweep.rates))] == sweep.rates
    assert sweep.rates == [step.learning_rate for step in watch.steps][: len(sweep.rates)]


def test_a_sweep_stops_where_the_loss_breaks_away(model: Callable[[], Any], dataset: Dataset) -> None:
    """At half as much again as the base's: here what is learned is contrary to what is held out, and told loudly."""
    loud = model()
    loud.lm_head.weight = 4 * loud.lm_head.weight
    train, valid = [Example([7, 8, 9, 20, 21, 260], 3)] * 6, [Example([7, 8, 9, 30, 31, 250], 3)]
    contrary = replace(dataset, splits={**dataset.splits, "train": train, "valid": valid})
    sweep = find_rate(loud, contrary, config(), Recorded())

    assert sweep.broke and 1 < len(sweep.rates) < STEPS
    assert max(sweep.losses[:-1]) <= 1.5 * sweep.base_loss < sweep.losses[-1]


def test_a_sweep_that_never_breaks_away_ends_at_the_highest_rate(swept: tuple[Sweep, Recorded, Any]) -> None:
    """The tiny model bears them all."""
    sweep, _, _ = swept

    assert not sweep.broke
    assert (STEPS, pytest.approx(HIGHEST)) == (len(sweep.rates), sweep.rates[-1])


def test_losses_are_of_the_same_rows_and_begin_at_the_bases(swept: tuple[Sweep, Recorded, Any]) -> None:
    """The first step changes next to nothing, however much batches differ."""
    sweep, _, _ = swept

    assert pytest.approx(sweep.base_loss, rel=1e-3) == sweep.losses[0]


def test_a_dataset_with_fewer_rows_than_steps_is_enough(swept: tuple[Sweep, Recorded, Any], dataset: Dataset) -> None:
    """Batches come again."""
    sweep, watch, _ = swept

    assert len(dataset.splits["train"]) < sum(step.rows for step in watch.steps)
    assert sweep.suggested is not None


def test_the_model_is_left_as_good_as_untouched(swept: tuple[Sweep, Recorded, Any], dataset: Dataset) -> None:
    """Its adapter changes nothing, and it is not left in training."""
    sweep, _, used = swept

    assert not used.training
    assert pytest.approx(sweep.base_loss, rel=1e-5) == mean_loss(used, dataset.splits["valid"][:16], reply_logits(used))


def test_a_sweep_says_what_it_does_and_validates_nothing(swept: tuple[Sweep, Recorded, Any]) -> None:
    """One line; a watch counts to the number of steps."""
    _, watch, _ = swept

    assert 1 == len(watch.said) and 0 == watch.validations
    assert {STEPS} == {step.total for step in watch.steps}


def test_the_suggestion_trains_better_than_ten_times_as_much_or_as_little(
    swept: tuple[Sweep, Recorded, Any], model: Callable[[], Any], dataset: Dataset
) -> None:
    """Over thirty steps, by the best loss of held-out replies."""
    rate = swept[0].suggested
    assert rate is not None

    def best(factor: float) -> float:
        chosen = config(learning_rate=rate * factor, iters=30)
        try:
            return finetune(model(), dataset, chosen, Recorded()).position.best_loss
        except TrainingStopped:
            return math.inf

    assert best(1) < min(best(0.1), best(10))


def test_a_model_that_is_broken_from_the_start_has_no_rate(model: Callable[[], Any], dataset: Dataset) -> None:
    """The first step cannot be taken: no error, and nothing suggested."""
    broken = model()
    broken.model.norm.weight = mx.full(broken.model.norm.weight.shape, math.nan)
    sweep = find_rate(broken, dataset, config(), Recorded())

    assert ([], None) == (sweep.losses, sweep.suggested)
    assert 1 == len(sweep.lines())


def test_one_held_out_row_is_enough_and_nothing_is_written(
    model: Callable[[], Any], dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where it runs nor beside the data."""
    monkeypatch.chdir(tmp_path)
    before = files_in(dataset.folder)
    few = replace(dataset, splits={**dataset.splits, "valid": dataset.splits["valid"][:1]})

    assert find_rate(model(), few, config(), Recorded()).losses
    assert ({}, before) == (files_in(tmp_path), files_in(dataset.folder))
