"""What the rows of a batch begin with, computed once."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache, RotatingKVCache

from base_model.load import load_base
from prompt_format.format import Example
from tests.hostile import QUICK
from tests.tiny import tiny_model
from training.config import TrainConfig
from training.lora import choose_layers, wear
from training.reply_loss import loss_sum, make_batch, reply_logits
from training.shared_prefix import WORTH_IT, can_share, common_prefix

SYSTEM = list(range(40, 40 + WORTH_IT + 3))
ROWS = [
    Example([*SYSTEM, 7, 8, 9, 20, 21, 260], len(SYSTEM) + 3),
    Example([*SYSTEM, 7, 30, 260], len(SYSTEM) + 1),
    Example([*SYSTEM, 50, 51, 52, 53, 54, 55, 11, 12, 13, 14, 260], len(SYSTEM) + 6),
]


@pytest.fixture(params=["llama", "lfm2"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Attention alone, and attention with convolutions, whose state is no list of keys."""
    return load_base(str(tiny_model(tmp_path / request.param, request.param))).model


def test_the_logits_are_those_of_whole_rows(model: Any) -> None:
    """At every place that predicts a token of a reply, to rounding."""
    logits = reply_logits(model)
    whole, shared = make_batch(ROWS), make_batch(ROWS, share=True)

    assert logits.shares and shared.prefix is not None and len(SYSTEM) == shared.prefix.shape[1]
    assert whole.targets.tolist() == shared.targets.tolist()
    assert mx.allclose(logits(model, whole), logits(model, shared), rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_whole_rows(model: Any) -> None:
    """Of every weight of an adapter, as a relative distance: the prefix is learnt through as well."""
    wear(model, choose_layers(model, TrainConfig(name="jo", model=".", data=Path("data"), rank=4))[0])
    for name, module in model.named_modules():
        if hasattr(module, "lora_b"):
            module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(len(name))) * 0.1
    step = nn.value_and_grad(model, loss_sum(reply_logits(model)))
    whole = nn.utils.tree_flatten(step(model, make_batch(ROWS))[1])
    shared = dict(nn.utils.tree_flatten(step(model, make_batch(ROWS, share=True))[1]))

    assert len(whole) == len(shared) > 10
    for name, gradient in whole:
        assert mx.linalg.norm(gradient - shared[name]).item() <= 1e-4 * mx.linalg.norm(gradient).item() + 1e-7, name


@QUICK
@given(st.integers(0, 30), st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=2, max_size=5))
def test_a_prefix_is_what_all_rows_begin_with(length: int, tails: list[list[int]]) -> None:
    """And ends before the token that predicts the shortest row's reply."""
    rows = [Example([*range(100, 100 + length), *tail], length + 1) for tail in tails]
    found = common_prefix(rows)

    assert all(row.ids[:found] == rows[0].ids[:found] and found < row.reply_start for row in rows)
    assert found in (0, length) or found > length
    assert found == 0 or found >= WORTH_IT


def test_one_row_shares_with_nobody() -> None:
    """It is computed whole."""
    assert make_batch(ROWS[:1], share=True).prefix is None


def test_with_a_prompt_weight_nothing_is_shared() -> None:
    """The loss then needs the prefix of each row as well."""
    assert make_batch(ROWS, 0.1, share=True).prefix is None


def test_a_model_with_other_caches_computes_each_row(tmp_path: Path) -> None:
    """One that forgets, say, could not be told what it has forgotten."""
    model = load_base(str(tiny_model(tmp_path))).model
    model.make_cache = lambda: [RotatingKVCache(4) for _ in model.layers]

    assert not can_share(model) and not reply_logits(model).shares
    model.make_cache = lambda: [KVCache() for _ in model.layers]
    assert can_share(model)
