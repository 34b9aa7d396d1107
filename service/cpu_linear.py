"""Float layers laid out for a CPU's BLAS. Imports mlx.

OpenBLAS first copies a matrix into its own order, whatever it is multiplied by, so for few rows that copy is the cost.
It is cheapest where the outputs of an input lie side by side, and where the rows are a whole multiple of 16: twelve
rows take twice the time of sixteen (OpenBLAS 0.3.21, AVX2). Values and sums are the same either way.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

WHOLE = 16  # rows
FEW = 3  # beyond a multiple, these cost less than what they would be filled up with


class CpuLinear(nn.Module):
    """``x W^T + bias`` with the weight held transposed: x (..., inputs) -> (..., outputs)."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.transposed = _transposed(linear.weight)  # (inputs, outputs)
        if "bias" in linear:
            self.bias = linear.bias

    @property
    def weight(self) -> mx.array:
        """(outputs, inputs), as in the layer this was made of."""
        return _transpose_of(self)

    def __call__(self, x: mx.array) -> mx.array:
        y = _product(x, self["transposed"])
        return y + self["bias"] if "bias" in self else y


class CpuEmbedding(nn.Module):
    """An embedding that is also the vocabulary projection, held as that multiplies best.

    To look a token up is slower so, by about ten milliseconds for five hundred tokens of a large vocabulary: nothing
    beside what they cost then.
    """

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.transposed = _transposed(embedding.weight)  # (size, vocabulary)

    @property
    def weight(self) -> mx.array:
        """(vocabulary, size), as in the layer this was made of."""
        return _transpose_of(self)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight[ids]

    def as_linear(self, x: mx.array) -> mx.array:
        """Logits (..., vocabulary) of hidden states x (..., size)."""
        return _product(x, self["transposed"])


def laid_out(layer: Any) -> Any:
    """*layer* as a CPU multiplies by it fastest: itself, but for MLX's own float32 linear layers and embeddings."""
    fitting: dict[type, Any] = {nn.Linear: CpuLinear, nn.Embedding: CpuEmbedding}
    return fitting[type(layer)](layer) if type(layer) in fitting and layer.weight.dtype == mx.float32 else layer


def _transposed(weight: mx.array) -> mx.array:
    transposed = mx.contiguous(weight.T)
    mx.eval(transposed)
    return transposed


def _transpose_of(layer: nn.Module) -> mx.array:
    transposed: mx.array = layer["transposed"]
    return transposed.T


def _product(x: mx.array, transposed: mx.array) -> mx.array:
    """x @ transposed; the rows are filled up to a whole multiple where that costs less."""
    rows = x.size // x.shape[-1]
    missing = -rows % WHOLE
    if not missing or WHOLE - missing <= FEW:
        return x @ transposed
    filled = mx.pad(x.reshape(rows, -1), [(0, missing), (0, 0)])
    return (filled @ transposed)[:rows].reshape(*x.shape[:-1], -1)
