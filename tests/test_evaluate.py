"""The gate on numbers, and what is measured on a tiny model."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from base_model.load import load_base
from errors import AdapterRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.manifest import Gate
from tests.tiny import tiny_dataset, tiny_model
from tests.toy_tokenizers import byte_level
from training.config import TrainConfig, parse_config
from training.evaluate import REPLIES, Verdict, evaluate
from training.gate import WORDS, chance_of_so_many, gate
from training.lora import adapter_weights, choose_layers, put_back, set_adapter, take_off, wear
from training.measures.faults import FAULTS
from training.previous import Generation, Previous, Worn
from training.rows import Dataset, load_dataset
from training.samples import reply_of, spread, turn_before

# What is measured of base and adapter, and what these are held against.
BOTH = (
    "valid_loss", "test_loss", "bits_per_char", "echo", "loop", "endless", "copy_rate", "label_rate", "empty_rate",
    "style_distance", "authorship",
)  # fmt: skip
REFERENCES = (
    "style_distance_own", "style_distance_others", "authorship_own", "authorship_others", "copy_rate_own",
)  # fmt: skip
AMOUNTS = ("replies_held_out", "replies_generated")


def config(**settings: Any) -> TrainConfig:
    return parse_config({"name": "jo", "data": "d", "rank": 4, **settings}, "jo.yaml")


def judge(
    loss: float = 3.0, new: int = 0, gone: int = 0, both: int = 0, fault: str = "echo", of: int = 64, **settings: Any
) -> Gate:
    """The gate on an adapter over a base of loss 4, of whose replies so many alone have a fault that the base's to the
    same threads have not, the other way round, and both."""
    kinds = [(False, True)] * new + [(True, False)] * gone + [(True, True)] * both
    pairs = [*kinds, *[(False, False)] * (of - len(kinds))]
    base, adapter = ([frozenset([fault] if pair[side] else []) for pair in pairs] for side in (0, 1))
    return gate(config(**settings), 4.0, loss, base, adapter)


# -- the gate


def test_an_adapter_that_is_better_passes() -> None:
    """With a lower loss and no new faults there is no reason against it."""
    assert Gate(passed=True) == judge()


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (4.0, "validation loss 4.000 is 1.000 times the base's; the limit is 1.0"),
        (4.4, "validation loss 4.400 is 1.100 times the base's; the limit is 1.0"),
        (math.nan, "validation loss nan is nan times the base's; the limit is 1.0"),
        (math.inf, "validation loss inf is inf times the base's; the limit is 1.0"),
    ],
    ids=str,
)
def test_an_adapter_that_is_worse_does_not_pass(loss: float, reason: str) -> None:
    """The reason gives both numbers."""
    assert Gate(passed=False, reasons=[reason]) == judge(loss)


@pytest.mark.parametrize(("fault", "words"), WORDS.items())
def test_more_faults_than_chance_explains_do_not_pass(fault: str, words: str) -> None:
    """The reason gives both counts, how likely chance is, and the limit."""
    reason = f"8 of 64 replies {words}; of the base's 2. Chance alone would do so in 1.6 % of cases; the limit is 5 %"

    assert Gate(passed=False, reasons=[reason]) == judge(new=6, both=2, fault=fault)


def test_copies_are_no_reason() -> None:
    """A person repeats phrases as well: they are shown, and somebody judges."""
    assert {*FAULTS} - {*WORDS} == {"copy"}
    assert judge(new=64, fault="copy").passed


def test_every_reason_is_given() -> None:
    """Not only the first."""
    every = [frozenset(FAULTS)] * 24

    assert 6 == len(gate(config(), 4.0, 5.0, [frozenset()] * 24, every).reasons)


@pytest.mark.parametrize(
    ("new", "gone", "passed"),
    [(4, 0, True), (5, 0, False), (6, 1, True), (7, 1, False), (8, 2, True), (9, 2, False), (0, 9, True)],
)
@pytest.mark.parametrize("of", [24, 64])
def test_how_many_new_faults_are_chance(new: int, gone: int, passed: bool, of: int) -> None:
    """As many as coins would give in more than 5 of 100 tries; replies that are alike in both say nothing."""
    assert passed == judge(new=new, gone=gone, of=of).passed == judge(new=new, gone=gone, both=3, of=of).passed


@pytest.mark.parametrize(
    ("new", "gone", "expected"), [(0, 0, 1.0), (1, 0, 0.5), (0, 1, 1.0), (1, 1, 0.75), (5, 0, 1 / 32), (4, 1, 6 / 32)]
)
def test_the_chance_is_exact(new: int, gone: int, expected: float) -> None:
    """A tail of the binomial distribution of a fair coin: so many heads or more."""
    pairs = [(False, True)] * new + [(True, False)] * gone
    base, adapter = ([frozenset(["loop"] if pair[side] else []) for pair in pairs] for side in (0, 1))

    assert expected == chance_of_so_many("loop", base, adapter)


@pytest.mark.parametrize(("limit", "passed"), [(0.7, False), (0.75, False), (0.76, True), (1.0, True)])
def test_the_limit_is_a_setting(limit: float, passed: bool) -> None:
    """An adapter must stay below it: at 3.0 over 4.0 a limit of 0.75 is not passed."""
    assert passed == judge(gate={"max_valid_ratio": limit}).passed


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
    assert all(re.fullmatch(r"[^:]* 2\.[01] of 010[12]", " / ".join(sample.asked)) for sample in verdict.samples)
    assert [row[-1]["content"] for row in dataset.messages["test"]] == [" / ".join(s.real) for s in verdict.samples]


def test_every_bubble_of_a_turn_is_what_was_asked(dataset: Dataset) -> None:
    """An echo is looked for in the bubbles, not in the line that a prompt makes of them."""
    row = [{"role": "user", "content": r"Them: no\nJo: hi\nThem: home / yet?"}, {"role": "assistant", "content": "ya"}]
    row[0]["content"] = row[0]["content"].replace(r"\n", "\n")

    assert (["home", "yet?"], ["ya"]) == (turn_before(dataset.format, row), reply_of(dataset.format, row))


def test_so_many_rows_are_answered(dataset: Dataset) -> None:
    """Far apart, from first to last, and no more than there are."""
    rows = spread(1000, REPLIES)

    assert (REPLIES, 0) == (len(set(rows)), rows[0]) and rows[-1] >= 1000 - 1000 / REPLIES - 1
    assert [0, 1, 2] == spread(3, REPLIES)


def test_every_figure_has_its_place(verdict: Verdict) -> None:
    """Each of base and adapter, some to hold them against; all but losses, bits and amounts are from 0 to 1."""
    shares = {name: value for name, value in verdict.metrics.items() if not re.search("loss|bits|replies", name)}

    assert {*BOTH, *(f"base_{name}" for name in BOTH), *REFERENCES, *AMOUNTS} == set(verdict.metrics)
    assert [] == [name for name, value in shares.items() if not 0 <= value <= 1]
    assert (4, 4) == tuple(verdict.metrics[name] for name in AMOUNTS)


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


# -- the generation before


def other(model: Any, kind: str, **settings: Any) -> Generation:
    """A generation of *kind* with weights of its own, for the base that *model* wears an adapter on."""
    worn = take_off(model)
    adapter = choose_layers(model, config(**settings))[0].model_copy(update={"fine_tune_type": kind})
    wear(model, adapter)
    weights = {name: mx.full(value.shape, 0.1) for name, value in adapter_weights(model).items()}
    take_off(model)
    put_back(model, worn)
    manifest: Any = None  # nobody asks for it here
    return Generation("jo", "0123456789abcdef", manifest, adapter, weights)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("lora", {}), ("lora", {"rank": 2, "layers": 1}), ("dora", {"rank": 3, "modules": ["q_proj"], "dropout": 0.5})],
    ids=["the same", "other rank and layers", "dora"],
)
def test_the_generation_before_is_measured_on_the_same_base(
    kind: str, settings: dict[str, Any], model: Any, dataset: Dataset, verdict: Verdict
) -> None:
    """Its figures are those that it has alone on the base; the others' are what they are without it, and the adapter is
    worn again."""
    before = other(model, kind, **settings)
    found = evaluate(model, dataset, config(), Previous(before))
    worn = adapter_weights(model)

    alone = load_base(str(dataset.folder.parent / "model")).model
    wear(alone, before.adapter, before.weights)
    alone.eval()
    expected = evaluate(alone, dataset, config()).metrics
    assert {name: expected[name] for name in BOTH} == {name: found.metrics[f"previous_{name}"] for name in BOTH}
    assert expected["test_loss"] != verdict.metrics["test_loss"]
    assert (verdict.base, verdict.adapter, "") == (found.base, found.adapter, found.note)
    assert all(sample.previous is not None for sample in found.samples)
    assert all(not array.any() for name, array in worn.items() if name.endswith("lora_b"))


def test_a_base_that_wore_it_is_bare_again(model: Any, dataset: Dataset) -> None:
    """Whatever layers it covers, and also when it does not fit."""
    before = other(model, "lora")
    misfit = replace(before, weights={})
    bare = load_base(str(dataset.folder.parent / "model")).model
    with Worn(bare, before):
        assert {*before.weights} == adapter_weights(bare).keys()
    with pytest.raises(AdapterRefused, match="name other tensors"), Worn(bare, misfit):
        pass

    assert {} == adapter_weights(bare)
    assert [] == [name for name, _ in tree_flatten(bare.parameters()) if "lora" in name]


@pytest.mark.parametrize("damage", ["missing", "misshapen", "strange"])
def test_a_generation_that_does_not_fit_is_left_out(
    damage: str, model: Any, dataset: Dataset, verdict: Verdict
) -> None:
    """With the reason; nothing else changes."""
    before = other(model, "lora")
    name = min(before.weights)
    array = before.weights.pop(name)
    if damage != "missing":
        before.weights[name if damage == "misshapen" else "other"] = array[:, :1]
    found = evaluate(model, dataset, config(), Previous(before))

    assert found.note == (
        "not compared with jo@0123456789abcdef: adapters.safetensors and its config name other tensors"
    )
    assert verdict.metrics == found.metrics and found.previous is None
