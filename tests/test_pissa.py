"""PiSSA: what A and B begin as, what is taken away again, and what of it is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from base_model.load import load_base
from tests.tiny import tiny_model
from training.config import parse_config
from training.methods.pissa import Pissa, PissaLinear, factors, principal, weight_of

IDS = mx.array([[7, 8, 9, 20, 21]])


def pissa(model: Any, **settings: Any) -> Pissa:
    return Pissa(model, parse_config({"name": "jo", "data": "d", "method": "pissa", "rank": 4, **settings}, "jo.yaml"))


def falling(rows: int, columns: int) -> np.ndarray:
    """A matrix whose singular values fall by a tenth each."""
    random_numbers = np.random.default_rng(3)
    size = min(rows, columns)
    left = np.linalg.qr(random_numbers.normal(size=(rows, size)))[0]
    right = np.linalg.qr(random_numbers.normal(size=(columns, size)))[0]
    return ((left * 0.9 ** np.arange(size)) @ right.T).astype(np.float32)


def step(model: Any, method: Pissa) -> None:
    def loss(model: Any) -> mx.array:
        return nn.losses.cross_entropy(model(IDS), IDS).mean()

    method.update(nn.value_and_grad(model, loss)(model)[1], 0.01)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Any]:
    folder = tiny_model(tmp_path / "model")
    return lambda: load_base(str(folder)).model


@pytest.mark.parametrize("bits", [None, 3, 4, 8])
def test_it_begins_as_the_base(bits: int | None, fresh: Callable[[], Any]) -> None:
    """Quantised or not: what A and B begin as is taken away."""
    model = fresh()
    if bits:
        nn.quantize(model, 32, bits)
    before = model(IDS)
    pissa(model)

    assert mx.allclose(before, model(IDS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [None, 4])
def test_a_and_b_begin_as_the_principal_components(bits: int | None, fresh: Callable[[], Any]) -> None:
    """What is left of the weight has the singular values that come after them."""
    model = fresh()
    if bits:
        nn.quantize(model, 32, bits)
    path = "model.layers.1.mlp.up_proj"
    weight = weight_of(dict(model.named_modules())[path])
    layer = pissa(model, scale=3.0).layers[path]
    rest = weight - 3.0 * np.array(layer.lora_a @ layer.lora_b).T
    values = np.linalg.svd(weight)[1]

    assert (64, 32) == weight.shape
    np.testing.assert_allclose(np.linalg.svd(rest)[1][:28], values[4:], rtol=1e-4, atol=1e-5)


def test_the_second_half_stays_as_it_began(fresh: Callable[[], Any]) -> None:
    """And has no gradient that could make the clipping stricter."""
    model = fresh()
    method = pissa(model)
    began = method.trained()
    step(model, method)
    went = method.trained()

    assert {(32, 4), (4, 32), (64, 4), (4, 64), (4, 16)} == {
        v.shape for _, v in tree_flatten(model.trainable_parameters())
    }
    for path in method.modules:
        (a0, b0), (a, b) = ((t[f"{path}.lora_a"], t[f"{path}.lora_b"]) for t in (began, went))
        assert mx.array_equal(a0[:, 4:], a[:, 4:]) and mx.array_equal(b0[4:], b[4:])
        assert mx.array_equal(a0[:, :4], a0[:, 4:]) and mx.array_equal(b0[:4], -b0[4:])
        assert not mx.allclose(a0[:, :4], a[:, :4]) and not mx.allclose(b0[:4], b[:4])


def test_the_adapter_has_twice_the_rank(fresh: Callable[[], Any]) -> None:
    """Of the config; the scale is the config's."""
    exported = pissa(fresh(), rank=5, scale=1.5).export()
    parameters = exported.adapter.lora_parameters

    assert (10, 1.5) == (parameters.rank, parameters.scale)
    assert {10} == {v.shape[1] for name, v in exported.weights.items() if name.endswith("lora_a")}


def test_what_was_restored_is_what_was_trained(fresh: Callable[[], Any]) -> None:
    """Also over layers whose beginning was another."""
    model, other = fresh(), fresh()
    method = pissa(model)
    step(model, method)
    elsewhere = pissa(other, scale=1.0)
    elsewhere.restore(method.trained())
    found = elsewhere.trained()

    assert all(mx.array_equal(value, found[name]) for name, value in method.trained().items())


def test_dropout_leaves_the_beginning_alone() -> None:
    """Both halves see the same part of the input, so that it is the base whatever is dropped; later it is not."""
    linear = nn.Linear(32, 16)
    layer = PissaLinear(linear, *factors(weight_of(linear), 4, 2.0), 2.0, dropout=0.5)
    x = mx.random.normal((5, 32))
    assert mx.allclose(linear(x), layer(x), rtol=0, atol=1e-5)

    layer.lora_a = 2 * layer.lora_a
    assert not mx.allclose(layer(x), layer(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (30, 20)])
def test_the_principal_part_is_the_best_of_its_rank(shape: tuple[int, int]) -> None:
    """The largest matrices from random products, the smallest in full: as near as the exact one."""
    matrix = falling(*shape)
    left, values, right = principal(matrix, 8)
    exact = np.linalg.svd(matrix)[1]

    assert ((shape[0], 8), (8,), (8, shape[1])) == (left.shape, values.shape, right.shape)
    np.testing.assert_allclose(values, exact[:8], rtol=1e-4)
    rest = np.linalg.norm(matrix - (left * values) @ right)
    np.testing.assert_allclose(rest, np.sqrt((exact[8:] ** 2).sum()), rtol=1e-4)


def test_the_principal_part_is_always_the_same() -> None:
    """A run that goes on looks for it again."""
    for first, second in zip(principal(falling(300, 200), 8), principal(falling(300, 200), 8), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_rank_above_the_matrixs_own_is_filled_with_zeros() -> None:
    """The product is then all of it."""
    matrix = falling(6, 9)
    a, b = factors(matrix, 8, 0.5)

    assert ((9, 8), (8, 6)) == (a.shape, b.shape)
    np.testing.assert_allclose(0.5 * (a @ b).T, matrix, atol=1e-5)
    assert not a[:, 6:].any() and not b[6:].any()
