"""What rows begin with, computed once: the same logits and gradients as of whole rows."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from base_model.load import load_base
from prompt_format.format import Example
from tests.hostile import QUICK
from tests.test_families import SYSTEM, rows_that_begin_alike, thread
from tests.tiny import tiny_model
from training.config import TrainConfig
from training.families import lay_out
from training.lora import choose_layers, wear
from training.reply_loss import loss_sum, make_batch, reply_logits
from training.shared_prefix import Shared, how_shared

KINDS = ["llama", "lfm2"]  # attention alone; attention with convolutions, whose state is no list of keys
ROWS = [*thread(4, 9, 100), *thread(1, 9, 150), Example([*SYSTEM, 7, 30, 260], len(SYSTEM) + 1)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: load_base(str(tiny_model(folder / kind, kind))).model for kind in KINDS}


@pytest.fixture(params=KINDS)
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    return load_base(str(tiny_model(tmp_path / request.param, request.param))).model


@pytest.mark.parametrize("share", Shared)
def test_the_logits_are_those_of_whole_rows(model: Any, share: Shared) -> None:
    """At every place that predicts a token of a reply, to rounding; all that begins alike is shared."""
    logits = reply_logits(model)
    whole, shared = make_batch(ROWS), make_batch(ROWS, share=share)

    assert Shared.TRUNKS == logits.shares
    assert (bool(shared.layout.prefix), len(shared.layout.trunks)) == (share > 0, 2 if share == 2 else len(ROWS))
    assert whole.targets.tolist() == shared.targets.tolist()
    assert mx.allclose(logits(model, whole), logits(model, shared), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(rows=rows_that_begin_alike())
def test_whatever_rows_share_the_logits_stay(models: dict[str, Any], kind: str, rows: list[Example]) -> None:
    """Of rows that leave one another anywhere."""
    logits = reply_logits(models[kind])
    whole, shared = make_batch(rows), make_batch(rows, share=Shared.TRUNKS)

    assert mx.allclose(logits(models[kind], whole), logits(models[kind], shared), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [Shared.PREFIX, Shared.TRUNKS])
def test_the_gradient_is_that_of_whole_rows(model: Any, share: Shared) -> None:
    """Of every weight of an adapter, as a relative distance: what is shared is learnt through as well."""
    wear(model, choose_layers(model, TrainConfig(name="jo", model=".", data=Path("data"), rank=4))[0])
    for name, module in model.named_modules():
        if hasattr(module, "lora_b"):
            module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(len(name))) * 0.1
    step = nn.value_and_grad(model, loss_sum(reply_logits(model)))
    whole = nn.utils.tree_flatten(step(model, make_batch(ROWS))[1])
    shared = dict(nn.utils.tree_flatten(step(model, make_batch(ROWS, share=share))[1]))

    assert len(whole) == len(shared) > 10
    for name, gradient in whole:
        assert mx.linalg.norm(gradient - shared[name]).item() <= 1e-4 * mx.linalg.norm(gradient).item() + 1e-7, name


def test_the_model_is_left_as_it_was(model: Any) -> None:
    """Nothing that overheard its convolutions stays in it."""
    before = [(name, type(module)) for name, module in model.named_modules()]
    reply_logits(model)(model, make_batch(ROWS, share=Shared.TRUNKS))

    assert before == [(name, type(module)) for name, module in model.named_modules()]


def test_with_a_prompt_weight_no_prefix_is_shared(model: Any) -> None:
    """The loss then needs the prefix of each row as well; it is the loss of whole rows all the same."""
    logits = reply_logits(model)
    batch = make_batch(ROWS, 0.1, Shared.TRUNKS)

    assert [] == batch.layout.prefix and batch.layout.tokens < lay_out(ROWS, False, False).tokens
    expected = loss_sum(logits)(model, make_batch(ROWS, 0.1)).item()
    assert expected == pytest.approx(loss_sum(logits)(model, batch).item(), rel=1e-5)


class Many(ArraysCache):
    """A cache that keeps more than the inputs of a convolution."""


@pytest.mark.parametrize(
    ("cache", "shares"),
    [
        (lambda: RotatingKVCache(4), Shared.NOTHING),
        (lambda: Many(1), Shared.NOTHING),
        (KVCache, Shared.TRUNKS),
    ],
    ids=["forgets", "of its own", "keeps all"],
)
def test_a_model_with_other_caches_computes_each_row(tmp_path: Path, cache: Any, shares: Shared) -> None:
    """One that forgets, say, could not be told what it has forgotten: it falls back, to the same loss."""
    model = load_base(str(tiny_model(tmp_path))).model
    expected = loss_sum(reply_logits(model))(model, make_batch(ROWS)).item()
    model.make_cache = lambda: [cache() for _ in model.layers]
    logits = reply_logits(model)

    assert shares == how_shared(model) == logits.shares
    found = loss_sum(logits)(model, make_batch(ROWS, share=logits.shares)).item()
    assert expected == pytest.approx(found, rel=1e-5)


def test_a_second_convolution_in_a_block_keeps_tails_whole(tmp_path: Path) -> None:
    """Which one the cache belongs to is not known: the prefix alone is shared."""
    model = load_base(str(tiny_model(tmp_path, "lfm2"))).model
    block = next(block for block in model.layers if "conv" in block)
    block.another = nn.Conv1d(2, 2, 2)

    assert Shared.PREFIX == how_shared(model)
