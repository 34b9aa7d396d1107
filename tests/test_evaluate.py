"""The gate on numbers, and what is measured on a tiny model."""

import math
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from base_model.load import load_base
from prompt_format.chat_template import ChatTemplate
from tests.tiny import tiny_dataset, tiny_model
from tests.toy_tokenizers import byte_level
from training.config import TrainConfig, parse_config
from training.evaluate import Verdict, evaluate, gate
from training.lora import adapter_weights, choose_layers, set_adapter, wear
from training.rows import Dataset, load_dataset

# What is measured of base and adapter, and what these are held against.
BOTH = (
    "valid_loss", "test_loss", "bits_per_char", "echo", "loop", "endless", "copy_rate", "label_rate", "empty_rate",
    "style_distance", "authorship",
)  # fmt: skip
REFERENCES = ("style_distance_own", "style_distance_others", "authorship_own", "authorship_others")
GOOD = {
    "base_valid_loss": 4.0, "valid_loss": 3.0, "base_test_loss": 4.1, "test_loss": 3.1,
    "base_echo": 0.0, "echo": 0.0, "base_loop": 0.25, "loop": 0.25, "base_endless": 0.5, "endless": 0.1,
}  # fmt: skip


def config(**settings: Any) -> TrainConfig:
    return parse_config({"name": "jo", "data": "d", "rank": 4, **settings}, "jo.yaml")


# -- the gate


def test_an_adapter_that_is_better_passes() -> None:
    """With a lower loss and no new faults there is no reason against it."""
    assert (True, []) == (gate(GOOD, config()).passed, gate(GOOD, config()).reasons)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"valid_loss": 4.0}, "validation loss 4.000 is 1.000 times the base's; the limit is 1.0"),
        ({"valid_loss": 4.4}, "validation loss 4.400 is 1.100 times the base's; the limit is 1.0"),
        ({"valid_loss": float("nan")}, "validation loss nan is nan times the base's; the limit is 1.0"),
        ({"valid_loss": float("inf")}, "validation loss inf is inf times the base's; the limit is 1.0"),
        ({"echo": 0.125}, "12% of replies repeat the message; of the base's 0%"),
        ({"loop": 0.5}, "50% of replies loop; of the base's 25%"),
        ({"endless": 0.625}, "62% of replies never end; of the base's 50%"),
    ],
    ids=str,
)
def test_an_adapter_that_is_worse_does_not_pass(metrics: dict[str, float], reason: str) -> None:
    """The reason gives both numbers."""
    verdict = gate({**GOOD, **metrics}, config())

    assert (False, [reason]) == (verdict.passed, verdict.reasons)


def test_every_reason_is_given() -> None:
    """Not only the first."""
    worse = {"valid_loss": 5.0, "echo": 1.0, "loop": 1.0, "endless": 1.0}

    assert 4 == len(gate({**GOOD, **worse}, config()).reasons)


@pytest.mark.parametrize("fault", ["echo", "loop", "endless"])
def test_one_bad_reply_in_twelve_is_chance(fault: str) -> None:
    """Two of the twenty-four more than the base's are let pass, three are not."""
    allowed, too_many = ({**GOOD, fault: GOOD[f"base_{fault}"] + count / 24} for count in (2, 3))

    assert (True, False) == (gate(allowed, config()).passed, gate(too_many, config()).passed)


@pytest.mark.parametrize(("limit", "passed"), [(0.7, False), (0.75, False), (0.76, True), (1.0, True)])
def test_the_limit_is_a_setting(limit: float, passed: bool) -> None:
    """An adapter must stay below it: at 3.0 over 4.0 a limit of 0.75 is not passed."""
    assert passed == gate(GOOD, config(gate={"max_valid_ratio": limit})).passed


# -- what is measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """A base that wears a new adapter."""
    found = load_base(str(tiny_model(folder / "model"))).model
    wear(found, choose_layers(found, config())[0])
    found.eval()
    return found


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    template = ChatTemplate(byte_level())
    return load_dataset(tiny_dataset(folder, blocks=3).folder, template, 512)


@pytest.fixture(scope="module")
def verdict(model: Any, dataset: Dataset) -> Verdict:
    return evaluate(model, dataset, config())


def test_a_new_adapter_is_the_base(verdict: Verdict) -> None:
    """With lora_b at zero every number is the base's, and so it does not pass."""
    assert [] == [name for name in BOTH if verdict.metrics[f"base_{name}"] != verdict.metrics[name]]
    assert not verdict.gate.passed


def test_the_base_is_measured_with_the_adapter_off(model: Any, dataset: Dataset, verdict: Verdict) -> None:
    """Its numbers do not depend on the adapter that the model wears, which is put back afterwards."""
    new = adapter_weights(model)
    worn = {name: mx.full(value.shape, 0.1) for name, value in new.items()}
    set_adapter(model, worn)
    metrics = evaluate(model, dataset, config()).metrics
    after = adapter_weights(model)
    set_adapter(model, new)

    assert [] == [name for name in metrics if name.startswith("base_") and metrics[name] != verdict.metrics[name]]
    assert metrics["test_loss"] != verdict.metrics["test_loss"]
    assert all(mx.array_equal(worn[name], value) for name, value in after.items())


def test_the_same_weights_give_the_same_numbers(model: Any, dataset: Dataset, verdict: Verdict) -> None:
    """The whole split is measured each time."""
    assert verdict == evaluate(model, dataset, config())


def test_samples_show_what_was_asked_and_answered(dataset: Dataset, verdict: Verdict) -> None:
    """One for each held-out row of so few: the question without its label, and the real bubbles."""
    assert len(dataset.splits["test"]) == len(verdict.samples)
    assert all(re.fullmatch(r"[^:]* 2\.[01] of 010[12]", sample.asked) for sample in verdict.samples)
    assert [row[-1]["content"] for row in dataset.messages["test"]] == [" / ".join(s.real) for s in verdict.samples]


def test_every_figure_has_its_place(verdict: Verdict) -> None:
    """Each of base and adapter, four to hold them against; all but the losses and bits are from 0 to 1."""
    shares = {name: value for name, value in verdict.metrics.items() if "loss" not in name and "bits" not in name}

    assert {*BOTH, *(f"base_{name}" for name in BOTH), *REFERENCES} == set(verdict.metrics)
    assert [] == [name for name, value in shares.items() if not 0 <= value <= 1]


def test_with_a_token_a_character_bits_are_the_loss(verdict: Verdict) -> None:
    """But for the unit: the tokenizer is of bytes, replies are of ASCII, and what ends a reply counts on both sides."""
    assert verdict.metrics["test_loss"] / math.log(2) == pytest.approx(verdict.metrics["bits_per_char"])


@pytest.mark.parametrize("variant", ["raw_style_variable", "turns"])
def test_reference_points_do_not_depend_on_the_variant(
    variant: str, model: Any, verdict: Verdict, tmp_path: Path
) -> None:
    """The texts of both sides are the same, however prompts write them."""
    other = load_dataset(tiny_dataset(tmp_path, variant, blocks=3).folder, ChatTemplate(byte_level()), 512)
    metrics = evaluate(model, other, config()).metrics

    assert [verdict.metrics[name] for name in REFERENCES] == [metrics[name] for name in REFERENCES]
