"""What is laid out for a CPU's BLAS gives what it gave before, for any number of rows."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from base_model.load import linear_size
from service.cpu_linear import CpuEmbedding, CpuLinear, laid_out

INPUTS, OUTPUTS = 24, 40


def linear(bias: bool = True) -> nn.Linear:
    """One with weights, and a bias that is not zero."""
    mx.random.seed(3)
    layer = nn.Linear(INPUTS, OUTPUTS, bias=bias)
    if bias:
        layer.bias = mx.random.normal((OUTPUTS,))
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (12, 1), (3, 7), (1, 16), (1, 17), (2, 33)])
def test_any_number_of_rows_gives_what_the_layer_gave(shape: tuple[int, int], bias: bool) -> None:
    """Filled up to a whole multiple or not: the same outputs in the same places, of the same shape."""
    before = linear(bias)
    x = mx.random.normal((*shape, INPUTS))

    found = CpuLinear(before)(x)

    assert found.shape == (*shape, OUTPUTS)
    assert mx.allclose(found, before(x), rtol=1e-5, atol=1e-5)


def test_what_fills_the_rows_up_is_seen_by_none() -> None:
    """A row that is infinite touches no other, and a row is the same beside others as alone."""
    layer = CpuLinear(linear())
    x = mx.random.normal((1, 5, INPUTS))
    wild = mx.concatenate([x, mx.full((1, 1, INPUTS), float("inf"))], axis=1)

    assert mx.allclose(layer(wild)[:, :5], layer(x), rtol=1e-5, atol=1e-5)


def test_its_weight_is_the_layers_own() -> None:
    """Who asks for the weight or the sizes, as a DoRA does, gets them as of any linear layer."""
    before = linear()
    after = CpuLinear(before)

    assert mx.array_equal(after.weight, before.weight)
    assert linear_size(after) == linear_size(before) == (INPUTS, OUTPUTS)


def test_an_embedding_looks_up_and_projects_as_before() -> None:
    """Both uses of a tied embedding, for one token and for many."""
    mx.random.seed(3)
    before = nn.Embedding(OUTPUTS, INPUTS)
    after = CpuEmbedding(before)

    assert mx.array_equal(after.weight, before.weight)
    for shape in [(1, 1), (2, 5), (1, 40)]:
        ids = mx.random.randint(0, OUTPUTS, shape)
        x = mx.random.normal((*shape, INPUTS))
        assert mx.array_equal(after(ids), before(ids))
        assert mx.allclose(after.as_linear(x), before.as_linear(x), rtol=1e-5, atol=1e-5)


def test_only_what_gains_is_laid_out_anew() -> None:
    """Float32; a quantised layer, another type, and an architecture's own kind of layer stay as they are."""

    class Own(nn.Linear):
        """A kind of its own, whose call may do anything."""

    half, own = linear(), Own(INPUTS, OUTPUTS)
    half.set_dtype(mx.bfloat16)
    others = [half, own, nn.QuantizedLinear(64, OUTPUTS), nn.QuantizedEmbedding(OUTPUTS, 64)]

    assert isinstance(laid_out(linear()), CpuLinear)
    assert isinstance(laid_out(nn.Embedding(OUTPUTS, INPUTS)), CpuEmbedding)
    assert [laid_out(layer) for layer in others] == others
