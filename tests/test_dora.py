"""The layer that DoRA trains with: mlx-lm's own, faster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.dora import DoRALinear

from base_model.load import load_base
from errors import ConfigRefused
from prompt_format.adapter_check import expected_tensors
from tests.tiny import tiny_model
from training.config import TrainConfig, parse_config
from training.lora import adapter_weights
from training.methods.dora import Dora, QuickDora

BITS = [None, 2, 4, 8]


def config(**settings: Any) -> TrainConfig:
    return parse_config({"name": "jo", "data": "d", "method": "dora", "rank": 4, **settings}, "jo.yaml")


def linear(bits: int | None, bias: bool = True) -> Any:
    """Of 64 inputs and 48 outputs, frozen as in a model."""
    mx.random.seed(0)
    layer = nn.Linear(64, 48, bias=bias)
    return (layer if bits is None else nn.QuantizedLinear.from_linear(layer, 32, bits)).freeze()


def both(layer: Any, **settings: Any) -> tuple[Any, QuickDora]:
    """mlx-lm's layer and ours over *layer*, as if training had moved all of each to the same place."""
    theirs = DoRALinear.from_base(layer, r=4, **settings)
    ours = QuickDora(theirs)
    lora_b, m = mx.random.normal(theirs.lora_b.shape), theirs.m * mx.random.uniform(0.5, 2, theirs.m.shape)
    for one in (theirs, ours):
        one.lora_b, one.m = lora_b, m
    ours.settle()
    return theirs, ours


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Any]:
    folder = tiny_model(tmp_path / "model")
    return lambda: load_base(str(folder)).model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_it_gives_what_mlx_lms_layer_gives(bits: int | None, bias: bool) -> None:
    """Output and gradients, quantised or not; the bias comes after the scaling."""
    theirs, ours = both(linear(bits, bias), scale=2.0)
    x = mx.random.normal((2, 5, 64))

    def loss(layer: Any) -> mx.array:
        return mx.square(layer(x)).mean()

    expected, found = (nn.value_and_grad(layer, loss)(layer)[1] for layer in (theirs, ours))
    gradients = dict(tree_flatten(found))
    assert mx.allclose(theirs(x), ours(x), rtol=1e-5, atol=1e-5)
    assert {"lora_a", "lora_b", "m"} == set(gradients)
    assert all(mx.allclose(value, gradients[name], rtol=1e-4, atol=1e-5) for name, value in tree_flatten(expected))


@pytest.mark.parametrize("bits", BITS)
def test_it_begins_as_the_base(bits: int | None) -> None:
    """But for the rounding of a bias that is added apart."""
    layer = linear(bits)
    x = mx.random.normal((5, 64))

    assert mx.allclose(layer(x), QuickDora(DoRALinear.from_base(layer, r=4))(x), rtol=0, atol=1e-6)


def test_the_norm_is_that_of_the_rows_of_the_adapted_weight() -> None:
    """Formed here, as it never is in training."""
    layer = linear(None)
    ours = both(layer, scale=3.0)[1]
    adapted = layer.weight + 3.0 * (ours.lora_a @ ours.lora_b).T

    assert mx.allclose(mx.linalg.norm(adapted, axis=1), ours.norm(), rtol=1e-5)


def test_in_half_precision_the_output_is_of_the_inputs_type() -> None:
    """As mlx-lm's is, and close to it."""
    layer = linear(None)
    layer.set_dtype(mx.bfloat16)
    theirs, ours = both(layer)
    x = mx.random.normal((5, 64)).astype(mx.bfloat16)
    expected, found = theirs(x), ours(x)

    assert mx.bfloat16 == found.dtype == expected.dtype
    assert mx.allclose(expected, found, rtol=0.02, atol=0.02)


def test_dropout_is_mlx_lms() -> None:
    """On what goes into the adapter, not on what goes into the base."""
    theirs, ours = both(linear(None), dropout=0.5)
    x = mx.random.normal((5, 64))
    mx.random.seed(1)
    expected = theirs(x)
    mx.random.seed(1)

    assert mx.allclose(expected, ours(x), rtol=1e-5, atol=1e-5)
    assert not mx.allclose(expected, ours(x), atol=1e-2)


def test_the_model_wears_mlx_lms_layers_after_the_export(fresh: Callable[[], Any]) -> None:
    """With the tensors that were trained: A, B and m of each layer."""
    model = fresh()
    method = Dora(model, config())
    trained = method.trained()
    exported = method.export()
    layers = dict(model.named_modules())

    assert all(type(layers[path]) is DoRALinear for path in exported.modules)
    assert trained.keys() == exported.weights.keys() == adapter_weights(model).keys()
    sizes = {path: (layers[path].lora_a.shape[0], layers[path].lora_b.shape[1]) for path in exported.modules}
    expected = expected_tensors(tuple(exported.modules), sizes, 4, "dora")
    assert expected == {name: value.shape for name, value in exported.weights.items()}


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_bits_that_mlx_lms_layer_cannot_take_are_refused(bits: int, fresh: Callable[[], Any]) -> None:
    """Before anything is trained: it would fail at the first forward."""
    model = fresh()
    nn.quantize(model, 32, bits)

    with pytest.raises(ConfigRefused, match=f"method dora: the base is quantised to {bits} bits"):
        Dora(model, config())


def test_bits_of_layers_that_are_not_trained_do_not_matter(fresh: Callable[[], Any]) -> None:
    """Here those of the feed-forward layers."""
    model = fresh()
    nn.quantize(model, 32, 6, class_predicate=lambda path, _: path.endswith("up_proj"))

    assert 2 == len(Dora(model, config(modules=["q_proj"])).modules)
