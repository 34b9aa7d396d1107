"""PiSSA: A and B begin as the principal components of each weight, so that what matters most moves first.

Meng, Wang, Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models" (2024).
There the rest of the weight, W - s A0 B0, takes the base's place. Here the base stays as it is, quantised or not, and
the layer takes away what A and B begin as: W + s (A B - A0 B0), a plain LoRA of twice the rank, [A, A0] [B; -B0].
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from training.lora import take_off, wear
from training.methods.low_rank import LowRank, put_instead
from training.methods.method import Exported

OVERSAMPLE = 10  # columns more than are asked for, and rounds of products: Halko, Martinsson, Tropp, section 4
ROUNDS = 4


class Pissa(LowRank):
    """Only A and B are trained, and only they have a gradient to be clipped. ``trained`` holds A0 and B0 as well:
    another machine would find them with other rounding."""

    def put_on(self) -> None:
        parameters = self.adapter.lora_parameters
        rank, scale, dropout = parameters.rank, parameters.scale, parameters.dropout
        self.layers = put_instead(
            self.model,
            self.modules,
            lambda linear: PissaLinear(linear, *factors(weight_of(linear), rank, scale), scale, dropout),
        )
        twice = parameters.model_copy(update={"rank": 2 * rank})
        self.adapter = self.adapter.model_copy(update={"lora_parameters": twice})

    def trained(self) -> dict[str, mx.array]:
        whole = {}
        for path, layer in self.layers.items():
            whole[f"{path}.lora_a"], whole[f"{path}.lora_b"] = layer.whole()
        return whole

    def restore(self, trained: dict[str, mx.array]) -> None:
        for path, layer in self.layers.items():
            layer.set_whole(trained[f"{path}.lora_a"], trained[f"{path}.lora_b"])
        mx.eval(self.model.parameters())

    def export(self) -> Exported:
        trained = self.trained()
        take_off(self.model)
        wear(self.model, self.adapter, trained)
        return Exported(trained, self.adapter, self.modules)


class PissaLinear(nn.Module):
    """mlx-lm's LoRALinear of twice the rank, one half of which is constant."""

    def __init__(self, linear: Any, a: np.ndarray, b: np.ndarray, scale: float, dropout: float):
        super().__init__()
        self.linear, self.scale, self.dropout = linear, scale, nn.Dropout(dropout)
        self.lora_a, self.lora_b = mx.array(a), mx.array(b)
        self._minus = (self.lora_a, -self.lora_b)  # the underscore: no parameters

    def __call__(self, x: mx.array) -> mx.array:
        a, b = self.whole()
        out: mx.array = self.linear(x) + (self.scale * ((self.dropout(x) @ a) @ b)).astype(x.dtype)
        return out

    def whole(self) -> tuple[mx.array, mx.array]:
        """[A, A0] and [B; -B0], shapes (inputs, 2 rank) and (2 rank, outputs)."""
        a0, b0 = self._minus
        return mx.concatenate([self.lora_a, a0], axis=1), mx.concatenate([self.lora_b, b0], axis=0)

    def set_whole(self, a: mx.array, b: mx.array) -> None:
        rank = a.shape[1] // 2
        self.lora_a, self.lora_b = a[:, :rank], b[:rank]
        self._minus = (a[:, rank:], b[rank:])


def weight_of(linear: Any) -> np.ndarray:
    """The weight of a linear layer, quantised or not: (outputs, inputs), float32."""
    weight = linear.weight
    if isinstance(linear, nn.QuantizedLinear):
        settings = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}
        weight = mx.dequantize(weight, linear.scales, linear.get("biases"), **settings)
    return np.array(weight.astype(mx.float32))


def factors(matrix: np.ndarray, rank: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """
    A and B whose *scale* * A B comes closest to the transpose of *matrix*, (outputs, inputs), the singular values
    shared out evenly.

    Returns:
        Shapes (inputs, rank) and (rank, outputs), float32; zeros where *matrix* has not so many singular values.
    """
    left, values, right = principal(matrix, rank)
    share = np.sqrt(values / scale)
    more = rank - len(values)
    a, b = (right * share[:, None]).T, (left * share).T
    return np.pad(a, ((0, 0), (0, more))), np.pad(b, ((0, more), (0, 0)))


def principal(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The largest singular values of *matrix*, (m, n), and their vectors: at most *rank*, always the same ones.

    Where *rank* is a small part of the matrix they are found in the range of a few random products with it: Halko,
    Martinsson, Tropp, "Finding Structure with Randomness" (2011), algorithms 4.4 and 5.1.

    Returns:
        U, S, V^T: shapes (m, k), (k,), (k, n), float32.
    """
    width = rank + OVERSAMPLE
    basis = None
    if 4 * width < min(matrix.shape):
        start = np.random.default_rng(0).standard_normal((matrix.shape[1], width), np.float32)
        basis = np.linalg.qr(matrix @ start)[0]
        for _ in range(ROUNDS):
            basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    left, values, right = np.linalg.svd(matrix if basis is None else basis.T @ matrix, full_matrices=False)
    left = left if basis is None else basis @ left
    return left[:, :rank], values[:rank], right[:rank]
