"""How much memory a step may take, and so how much of a batch is computed at once."""

import math
import os
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from base_model.load import projections

KEPT = 4
"""How many times the inputs and outputs of its linear layers a token keeps in memory until the gradient is there:
measured on the starter and on a 350M LFM2 (2 on both), with room for attention over long prompts."""


def bytes_a_token(model: Any) -> int:
    """About how many bytes the activations of one token take in a step."""
    numbers = sum(inputs + outputs for inputs, outputs in projections(model).values())
    size: int = max(array.dtype.size for _, array in tree_flatten(model.trainable_parameters()))
    return KEPT * numbers * size


def budget(limit_gb: float | None) -> int:
    """Bytes that a step may take: *limit_gb*, or half of what the machine has for it."""
    if limit_gb is not None:
        return int(limit_gb * 1e9)
    if mx.default_device() == mx.gpu:
        known: dict[str, Any] = mx.device_info()
        size = known.get("max_recommended_working_set_size") or known.get("memory_size") or known.get("total_memory")
        if size:
            return int(size) // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def passes(tokens: int, a_token: int, allowed: int) -> int:
    """In how many passes, one after the other, so many tokens stay within *allowed* bytes."""
    return max(1, math.ceil(tokens * a_token / allowed))
