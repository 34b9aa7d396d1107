"""The parts of the training benchmarks that hold without measuring anything."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.lfm2 import Model, ModelArgs

from base_model.load import load_base
from benchmarks.figures import Panel, draw_bars
from benchmarks.first_step import apart_from, written_out
from benchmarks.mlx_lm_trainer import fit, loss_and_gradient, one_epoch, put_lora_on, read_rows
from benchmarks.random_lfm2 import LFM2_350M, write_random_lfm2
from benchmarks.train_speed import Took, merged, spread, summary
from prompt_format.chat_template import ChatTemplate
from tests.tiny import tiny_dataset, tiny_model
from training.config import TrainConfig
from training.reply_loss import mean_loss, reply_logits
from training.rows import load_dataset

SMALL = {**LFM2_350M, "vocab_size": 512, "hidden_size": 32, "block_dim": 32, "block_ff_dim": 96, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Of a tiny model and a tiny dataset."""
    folder = tmp_path_factory.mktemp("tiny")
    data = tiny_dataset(folder / "data").folder
    model = str(tiny_model(folder / "model", "lfm2"))
    return TrainConfig(name="tiny", model=model, data=data, rank=2, scale=0.01, batch_size=4, max_tokens=2048)


def worn(config: TrainConfig) -> tuple[Any, Any, Any]:
    """(model with a LoRA on it, its tokenizer, the dataset)."""
    base = load_base(config.model)
    put_lora_on(base.model, config)
    return base.model, base.tokenizer, load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [9, 5]), (2, [9, 3, 8]), (5, [9, 1, 3, 5, 8, 9]), (50, [9, 1, 3, 5, 8, 9])],
)
def test_steps_are_spread_over_an_epoch(count: int, expected: list[int]) -> None:
    """The largest batch comes first, to warm up; then as many as asked for, evenly from small to large."""
    assert expected == spread([5, 9, 1, 8, 3], lambda size: size, count)


def test_a_rate_is_of_whole_steps() -> None:
    """Examples a second are those of the counted steps over their seconds; the rounds give median and range."""
    turns = [Took(8, [1.0, 3.0], 1.0, 2.0), Took(8, [1.0, 1.0], 1.0, 2.0), Took(8, [4.0, 4.0], 1.0, 2.0)]

    found = summary(turns)

    assert (2.0, 1.0, 4.0) == (found["examples_a_second"], found["lowest"], found["highest"])


def test_a_case_that_is_not_run_stays(tmp_path: Path) -> None:
    """With where and when it was measured, also when a second run leaves it out; a case that is run is written anew."""
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"cases": {"lfm2-350m": {"rate": 1}, "starter": {"rate": 2}}, "measured": "monday"}))

    once = merged(path, {"starter": {"rate": 3}})
    path.write_text(json.dumps({"cases": once, "measured": "tuesday"}))
    twice = merged(path, {"starter": {"rate": 4}})

    assert {"starter": {"rate": 3}, "lfm2-350m": {"rate": 1, "measured": "monday"}} == once
    assert {"starter": {"rate": 4}, "lfm2-350m": {"rate": 1, "measured": "monday"}} == twice
    assert {"starter": {"rate": 5}} == merged(tmp_path / "none.json", {"starter": {"rate": 5}})


def test_lfm2_350m_has_its_number_of_parameters() -> None:
    """The config makes a model of 354 million parameters; nothing is computed for it."""
    model = Model(ModelArgs.from_dict(LFM2_350M))

    assert 354_483_968 == sum(array.size for _, array in tree_flatten(model.parameters()))


def test_a_random_model_is_a_base(tmp_path: Path, config: TrainConfig) -> None:
    """What is written loads as any base does; the seed decides the weights."""
    sizes = {write_random_lfm2(tmp_path / name, Path(config.model), SMALL, seed) for name, seed in (("a", 0), ("b", 1))}
    a, b = load_base(str(tmp_path / "a")), load_base(str(tmp_path / "b"))
    write_random_lfm2(tmp_path / "c", Path(config.model), SMALL)

    assert sizes == {sum(array.size for _, array in tree_flatten(a.model.parameters()))}
    assert a.fingerprint != b.fingerprint
    assert a.fingerprint == load_base(str(tmp_path / "c")).fingerprint


def test_the_loss_written_out_is_ours(config: TrainConfig) -> None:
    """Each row alone gives the mean loss that training measures."""
    model, _, dataset = worn(config)
    rows = dataset.splits["train"][:5]

    loss, _, tokens = written_out(model, rows)

    assert loss == pytest.approx(mean_loss(model, rows, reply_logits(model)), abs=1e-5)
    assert tokens == sum(len(row.ids) - row.reply_start for row in rows)


def test_gradients_that_are_not_the_same_are_apart(config: TrainConfig) -> None:
    """A gradient is no distance from itself, and a tenth of its norm from one that is a tenth longer."""
    model, _, dataset = worn(config)
    _, gradient, _ = written_out(model, dataset.splits["train"][:2])

    assert apart_from(gradient, gradient) == 0
    assert apart_from(gradient, tree_map(lambda array: 1.1 * array, gradient)) == pytest.approx(0.1, rel=1e-3)


def test_mlx_lm_counts_more_tokens(config: TrainConfig) -> None:
    """Its loss is over what stands behind the end of turn and over one token of padding a row too."""
    model, tokenizer, dataset = worn(config)
    ours = [row.ids for row in dataset.splits["train"][:3]]
    rows = read_rows(config.data / "train.jsonl", tokenizer, range(3))

    _, _, tokens = loss_and_gradient(model, rows)

    behind = sum(len(rows[i][0]) - len(ids) for i, ids in enumerate(ours))
    assert tokens == sum(len(row.ids) - row.reply_start for row in dataset.splits["train"][:3]) + behind + 3


def test_mlx_lm_trains_on_the_batches_it_is_given(config: TrainConfig) -> None:
    """Its trainer takes one step for each, tells of it, and leaves the last weights on the model."""
    base = load_base(config.model)
    rows = read_rows(config.data / "train.jsonl", base.tokenizer)
    losses: list[float] = []

    fit(base.model, rows, config, 2, 1e-2, losses.append, one_epoch(rows, config.batch_size, 0)[:2])

    trained = dict(tree_flatten(base.model.trainable_parameters()))
    assert len(losses) == 2
    assert all(bool(mx.any(value != 0).item()) for name, value in trained.items() if name.endswith("lora_b"))


def test_bars_are_drawn(tmp_path: Path) -> None:
    """A benchmark's bars are one PNG file."""
    panel = Panel("speed", "examples a second", {"a": 1.0, "b": 2.0}, {"a": (0.9, 1.1)})

    path = draw_bars("x", [[panel]], folder=tmp_path)

    assert path.read_bytes().startswith(b"\x89PNG")
