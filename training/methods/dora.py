"""DoRA: direction and length of each row of a weight are trained apart.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024): y = m / ||W + s BA|| * (W + s BA) x + bias, where the
norm is of each row and counts as a constant for the gradient (section 4.3), so that once a step is enough for it.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from errors import ConfigRefused
from training.lora import put_back, set_adapter, take_off, wear
from training.methods.low_rank import LowRank
from training.methods.method import Exported


class Dora(LowRank):
    """Trained with layers of our own, which are faster; exported as mlx-lm's."""

    def put_on(self) -> None:
        _check_bits(self.model, self.modules)
        self.adapter = self.adapter.model_copy(update={"fine_tune_type": "dora"})
        wear(self.model, self.adapter)
        self._theirs = take_off(self.model)
        self._ours = [(path, QuickDora(layer)) for path, layer in self._theirs]
        put_back(self.model, self._ours)

    def restore(self, trained: dict[str, mx.array]) -> None:
        super().restore(trained)
        self._settle()

    def update(self, gradients: Any, rate: float) -> None:
        super().update(gradients, rate)
        self._settle()

    def _settle(self) -> None:
        for _, layer in self._ours:
            layer.settle()

    def export(self) -> Exported:
        trained = self.trained()
        put_back(self.model, self._theirs)
        set_adapter(self.model, trained)
        return Exported(trained, self.adapter, self.modules)


class QuickDora(nn.Module):
    """mlx-lm's DoRALinear with the same parameters. Where that forms the adapted weight and its norm at every
    forward, this one never forms it, and finds the norm when A or B has changed: whoever changes them says ``settle``.
    """

    def __init__(self, theirs: Any):
        super().__init__()
        self.linear, self.dropout, self.scale = theirs.linear, theirs.dropout, theirs.scale
        self.lora_a, self.lora_b, self.m = theirs.lora_a, theirs.lora_b, theirs.m
        self._squares = mx.square(theirs.m)  # m begins as the norm of W; the underscore: no parameter
        self.settle()

    def settle(self) -> None:
        self._norm = self.norm()

    def __call__(self, x: mx.array) -> mx.array:
        z = (self.dropout(x) @ self.lora_a) @ self.lora_b
        adapted = _product(self.linear, x) + (self.scale * z).astype(x.dtype)
        out: mx.array = (self.m / self._norm).astype(x.dtype) * adapted
        return out + self.linear.bias if "bias" in self.linear else out

    def norm(self) -> mx.array:
        """
        Of each row of W + s BA, without forming it: ||W||^2 + 2s <W, BA> + s^2 ||BA||^2 by rows, where all but
        ||W||^2 needs products with the rank on one side only.

        Returns:
            Shape (outputs,), float32.
        """
        a, b, s = self.lora_a, self.lora_b, self.scale
        inner = 2 * s * _product(self.linear, a.T) + s * s * ((a.T @ a) @ b)  # (rank, outputs)
        return mx.sqrt(self._squares + (inner * b).sum(axis=0))


def _product(linear: Any, x: mx.array) -> Any:
    """*linear* of *x* without its bias, which DoRA does not scale."""
    if not isinstance(linear, nn.QuantizedLinear):
        return x @ linear.weight.T
    settings = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}
    return mx.quantized_matmul(x, linear.weight, linear.scales, linear.get("biases"), transpose=True, **settings)


def _check_bits(model: Any, modules: list[str]) -> None:
    layers = dict(model.named_modules())
    bits = {layers[path].bits for path in modules if isinstance(layers[path], nn.QuantizedLinear)}
    odd = sorted(width for width in bits if 32 % width)
    if odd:
        raise ConfigRefused(
            f"method dora: the base is quantised to {', '.join(map(str, odd))} bits, which mlx-lm's DoRA layer cannot "
            "take (2, 4 and 8 it can): use method lora, or another base",
            code="config_invalid",
        )
