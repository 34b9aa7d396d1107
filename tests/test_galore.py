"""GaLore: which directions a weight is trained in, and what of its change an adapter can hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from base_model.load import load_base
from errors import ConfigRefused
from tests.tiny import tiny_model
from training.config import parse_config
from training.methods.galore import ALPHA, FullLinear, Galore, GaloreAdam

IDS = mx.array([[7, 8, 9, 20, 21]])


def galore(model: Any, **settings: Any) -> Galore:
    told = {"name": "jo", "data": "d", "method": "galore", "rank": 4, "scale": 2.0, **settings}
    return Galore(model, parse_config(told, "jo.yaml"))


def matrix(rows: int, columns: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))


def rank_of(change: mx.array) -> int:
    values = np.linalg.svd(np.array(change))[1]
    return int((values > 1e-4 * values[0]).sum())


def steps(model: Any, method: Galore, count: int = 3) -> None:
    def loss(model: Any) -> mx.array:
        return nn.losses.cross_entropy(model(IDS), IDS).mean()

    for _ in range(count):
        method.update(nn.value_and_grad(model, loss)(model)[1], 0.05)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Any]:
    folder = tiny_model(tmp_path / "model")
    return lambda: load_base(str(folder)).model


# -- the optimizer


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 8)])
def test_the_first_step_is_adams_in_the_largest_directions(shape: tuple[int, int]) -> None:
    """On the shorter side of the gradient, and back again times alpha. Without bias correction Adam's first step is
    the gradient's sign times 0.1 / sqrt(0.001)."""
    optimizer = GaloreAdam(0.01, rank=2)
    weight, gradient = matrix(*shape), matrix(*shape, seed=1)
    moved = np.array(optimizer.apply_gradients({"w": gradient}, {"w": weight})["w"] - weight)
    left, _, right = np.linalg.svd(np.array(gradient), full_matrices=False)
    tall = shape[0] >= shape[1]
    p = right[:2].T if tall else left[:, :2]
    low = np.sign(np.array(gradient) @ p if tall else p.T @ np.array(gradient))
    expected = -0.01 * ALPHA * 0.1 / np.sqrt(0.001) * (low @ p.T if tall else p @ low)

    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-6)


def test_at_full_rank_nothing_of_a_gradient_is_left_out() -> None:
    """The directions are then a rotation."""
    optimizer = GaloreAdam(0.01, rank=99)
    weight = matrix(6, 4)
    optimizer.apply_gradients({"w": matrix(6, 4, seed=1)}, {"w": weight})
    p = optimizer.state["w"]["projection"]

    assert (4, 4) == p.shape and mx.allclose(p @ p.T, mx.eye(4), atol=1e-5)


def test_the_optimizer_remembers_in_the_few_directions_only() -> None:
    """That is what the method is for: 2 columns in place of 8."""
    optimizer = GaloreAdam(0.01, rank=2)
    optimizer.init({"tall": matrix(12, 8), "wide": matrix(8, 12)})
    state = optimizer.state

    assert ((12, 2), (12, 2), (8, 2)) == tuple(state["tall"][name].shape for name in ("m", "v", "projection"))
    assert ((2, 12), (2, 12), (8, 2)) == tuple(state["wide"][name].shape for name in ("m", "v", "projection"))


def test_directions_stay_for_so_many_steps() -> None:
    """Until then the weight changes by no more than the rank, and then by more."""
    optimizer = GaloreAdam(0.01, rank=2, every=3)
    began = {"w": matrix(12, 8)}
    weight, ranks = began, []
    for number in range(6):
        weight = optimizer.apply_gradients({"w": matrix(12, 8, seed=number + 1)}, weight)
        ranks.append(rank_of(weight["w"] - began["w"]))

    assert [2, 2, 2, 4, 4, 4] == ranks


def test_directions_go_on_with_the_state() -> None:
    """Another optimizer takes it over between two changes of directions: the same weights, to the last bit."""
    first, second = GaloreAdam(0.01, rank=2, every=3), GaloreAdam(0.01, rank=2, every=3)
    gradients = [{"w": matrix(12, 8, seed=number)} for number in range(6)]
    weight = {"w": matrix(12, 8)}
    for gradient in gradients[:2]:
        weight = first.apply_gradients(gradient, weight)
    second.state = {"step": first.state["step"], "learning_rate": mx.array(0.01), "w": dict(first.state["w"])}
    one = other = weight
    for gradient in gradients[2:]:
        one, other = first.apply_gradients(gradient, one), second.apply_gradients(gradient, other)

    assert mx.array_equal(one["w"], other["w"])


def test_a_gradient_that_is_no_number_gets_to_the_weights() -> None:
    """Where the loop finds it: looking for directions in it would end in an error of the linear algebra."""
    optimizer = GaloreAdam(0.01, rank=2)
    weight = optimizer.apply_gradients({"w": mx.full((6, 4), float("nan"))}, {"w": matrix(6, 4)})["w"]

    assert mx.isnan(weight).all()


# -- on a model


def test_it_begins_as_the_base(fresh: Callable[[], Any]) -> None:
    """To the last bit."""
    model = fresh()
    before = model(IDS)
    galore(model)

    assert mx.array_equal(before, model(IDS))


@pytest.mark.parametrize("bias", [True, False])
def test_small_steps_are_not_rounded_away(bias: bool) -> None:
    """The weight that is trained is float32 over a base in half precision, whose output type stays."""
    linear = nn.Linear(8, 4, bias=bias)
    linear.set_dtype(mx.bfloat16)
    layer = FullLinear(linear)
    x = matrix(3, 8).astype(mx.bfloat16)

    assert mx.float32 == layer.weight.dtype
    assert mx.bfloat16 == layer(x).dtype and mx.array_equal(linear(x), layer(x))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_at_full_rank_the_export_loses_nothing(scale: float, fresh: Callable[[], Any]) -> None:
    """The model wears it on the base, and gives the logits that it gave in training."""
    model = fresh()
    method = galore(model, rank=32, scale=scale)
    steps(model, method)
    before = model(IDS)
    exported = method.export()

    assert exported.figures["galore_part_lost"] < 1e-5
    assert mx.allclose(before, model(IDS), rtol=0, atol=1e-4)
    assert (32, scale) == (exported.adapter.lora_parameters.rank, exported.adapter.lora_parameters.scale)


def test_the_part_that_is_lost_is_told(fresh: Callable[[], Any]) -> None:
    """It is the norm of what the adapter lacks over that of the change, all layers taken together: here after
    directions have changed with every step."""
    model, base = fresh(), dict(fresh().named_modules())
    method = galore(model, rank=2)
    method.optimizer.every = 1
    steps(model, method, 5)
    changes = {path: np.array(layer.weight - base[path].weight) for path, layer in method.layers.items()}
    exported = method.export()
    lost = 0.0
    for path, change in changes.items():
        a, b = (np.array(exported.weights[f"{path}.lora_{half}"]) for half in "ab")
        values = np.linalg.svd(change)[1]
        np.testing.assert_allclose(np.linalg.norm(change - 2.0 * (a @ b).T), np.linalg.norm(values[2:]), rtol=1e-3)
        lost += float((values[2:] ** 2).sum())
    whole = sum(float((change**2).sum()) for change in changes.values())

    np.testing.assert_allclose(exported.figures["galore_part_lost"], (lost / whole) ** 0.5, rtol=1e-3)
    assert exported.figures["galore_part_lost"] > 0.1


def test_the_weights_of_the_base_are_back_after_the_export(fresh: Callable[[], Any]) -> None:
    """To the last bit, under the adapter."""
    model, base = fresh(), dict(fresh().named_modules())
    method = galore(model)
    steps(model, method)
    exported = method.export()
    layers = dict(model.named_modules())

    assert all(mx.array_equal(base[path].weight, layers[path].linear.weight) for path in exported.modules)


def test_what_was_not_trained_is_exported_as_nothing(fresh: Callable[[], Any]) -> None:
    """No part of it is lost."""
    exported = galore(fresh()).export()

    assert {"galore_part_lost": 0.0} == exported.figures
    assert not any(value.any() for value in exported.weights.values())


def test_a_quantised_base_is_refused(fresh: Callable[[], Any]) -> None:
    """Its weights have no gradient."""
    model = fresh()
    nn.quantize(model, 32, 4)

    with pytest.raises(ConfigRefused, match="method galore trains whole weights, and those of this base are quantised"):
        galore(model)
