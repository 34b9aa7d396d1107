"""A float linear layer laid out for a CPU's BLAS. Imports mlx.

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
        self.transposed = mx.contiguous(linear.weight.T)  # (inputs, outputs)
        if "bias" in linear:
            self.bias = linear.bias
        mx.eval(self.transposed)

    @property
    def weight(self) -> mx.array:
        """(outputs, inputs), as in the layer this was made of."""
        transposed: mx.array = self["transposed"]
        return transposed.T

    def __call__(self, x: mx.array) -> mx.array:
        rows = x.size // x.shape[-1]
        missing = -rows % WHOLE
        if missing and WHOLE - missing > FEW:
            filled = mx.pad(x.reshape(rows, -1), [(0, missing), (0, 0)])
            y: mx.array = (filled @ self["transposed"])[:rows].reshape(*x.shape[:-1], -1)
        else:
            y = x @ self["transposed"]
        return y + self["bias"] if "bias" in self else y


def laid_out(linear: Any, on_cpu: bool) -> Any:
    """*linear* as the device multiplies by it fastest: itself, but for plain float32 ones on a CPU."""
    return CpuLinear(linear) if on_cpu and type(linear) is nn.Linear and linear.weight.dtype == mx.float32 else linear
