"""GaLore: whole weights are trained, with an optimizer that sees their gradients in a few directions only.

Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection" (2024), algorithm 2. What the
weights changed by is exported as a LoRA, so a part of it may be lost: ``galore_part_lost`` says which.
"""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from errors import ConfigRefused
from training.lora import put_back, wear
from training.methods.low_rank import LowRank, put_instead
from training.methods.method import Exported
from training.methods.pissa import factors, principal, weight_of

# Steps with the same directions; the paper's T, for which it finds anything from 50 to 1000 as good. Up to the first
# change of directions the weights change by no more than the rank, so that shorter runs are exported without loss.
EVERY = 200
ALPHA = 0.25  # the paper's, beside the learning rate


class Galore(LowRank):
    """The rank of the config is that of the projection and of the exported LoRA."""

    def put_on(self) -> None:
        layers = dict(self.model.named_modules())
        if any(isinstance(layers[path], nn.QuantizedLinear) for path in self.modules):
            raise ConfigRefused(
                "method galore trains whole weights, and those of this base are quantised: use a base that is not, "
                "or method lora or pissa",
                code="config_invalid",
            )
        self.layers = put_instead(self.model, self.modules, FullLinear)

    def new_optimizer(self) -> Any:
        return GaloreAdam(self.config.learning_rate, self.config.rank)

    def export(self) -> Exported:
        weights, lost, changed = {}, 0.0, 0.0
        scale = self.adapter.lora_parameters.scale
        for path, layer in self.layers.items():
            change = np.array(layer.weight) - weight_of(layer.linear)
            a, b = factors(change, self.config.rank, scale)
            weights[f"{path}.lora_a"], weights[f"{path}.lora_b"] = mx.array(a), mx.array(b)
            lost += float(np.square(change - scale * (a @ b).T).sum())
            changed += float(np.square(change).sum())
        put_back(self.model, [(path, layer.linear) for path, layer in self.layers.items()])
        wear(self.model, self.adapter, weights)
        part = math.sqrt(lost / changed) if changed else 0.0
        return Exported(weights, self.adapter, self.modules, {"galore_part_lost": part})


class FullLinear(nn.Module):
    """A linear layer whose weight is trained, in float32 whatever the base has: small steps would be rounded away.
    Holds the base's layer, which stays as it is."""

    def __init__(self, linear: Any):
        super().__init__()
        self.linear = linear
        self.weight = linear.weight.astype(mx.float32)

    def __call__(self, x: mx.array) -> mx.array:
        weight = self.weight.astype(x.dtype).T
        return mx.addmm(self.linear.bias, x, weight) if "bias" in self.linear else x @ weight


class GaloreAdam(optim.AdamW):
    """Adam on each gradient G projected on its largest singular vectors P: G P where G is tall, P^T G where it is
    wide. P is part of the state."""

    def __init__(self, learning_rate: float, rank: int, every: int = EVERY):
        super().__init__(learning_rate=learning_rate, weight_decay=0.0)
        self.rank, self.every = rank, every

    def init_single(self, parameter: mx.array, state: dict[str, mx.array]) -> None:
        rank, longer = min(self.rank, *parameter.shape), max(parameter.shape)
        state["projection"] = mx.zeros((min(parameter.shape), rank))
        super().init_single(mx.zeros((longer, rank) if _tall(parameter) else (rank, longer)), state)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        if (self.step.item() - 1) % self.every == 0:
            state["projection"] = _directions(gradient, state["projection"])
        p = state["projection"]
        low = gradient @ p if _tall(gradient) else p.T @ gradient
        step: mx.array = super().apply_single(low, mx.zeros_like(low), state)
        return parameter + ALPHA * (step @ p.T if _tall(gradient) else p @ step)


def _tall(matrix: mx.array) -> bool:
    return bool(matrix.shape[0] >= matrix.shape[1])


def _directions(gradient: mx.array, before: mx.array) -> mx.array:
    matrix = np.array(gradient)
    if not np.isfinite(matrix).all():
        return before  # it has no singular vectors; the loop looks at the loss after this, and stops the run
    left, _, right = principal(matrix, before.shape[1])
    return mx.array(right.T if _tall(gradient) else left)
