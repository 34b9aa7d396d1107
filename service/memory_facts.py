"""The sizes that only the loaded model and its device know: weights, one row's cache, working room. Imports mlx.

``memory_budget`` adds them up. Measure before the slots are made, so that what does not fit is refused before it is
spent, and on the engine thread, to which the model belongs. Nothing is computed: shapes are enough.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

from base_model.load import linear_size
from errors import BaseRefused

FLOAT = 4  # bytes; scores and adapters' products are float32 whatever the base
LOGITS = 6  # copies of a step's logits: themselves, their logarithms now and of the step before, a sampler's sorting
HEADS = ("num_attention_heads", "n_heads", "num_heads", "n_head")  # how mlx-lm's attention layers call their number


def weight_bytes(model: Any) -> int:
    """Bytes of all parameters of *model*."""
    return _bytes(model.parameters())


def cache_bytes_per_row(model: Any, context: int) -> int:
    """The most bytes that one row's cache can take once *context* tokens have gone through *model*.

    One token is put in, and what it leaves is stretched: keys and values grow with the tokens, by a whole step at a
    time and up to their window where they have one; what a recurrent layer keeps does not grow. Where in a step the
    tokens end depends on how they were fed, so that the last step counts as just begun.

    Raises:
        BaseRefused: If the model keeps something else, which cannot be served in batches either.
    """
    return sum(_entry_sizes(model, context))


def workspace_bytes(model: Any, context: int, rows: int, chunk: int) -> int:
    """About how many bytes one turn of the engine takes for a while, beside weights, slots and caches; rather too many.

    The sum of what is alive at once, at worst, while one prompt is read *chunk* tokens at a time and *rows* rows
    decode. Per token: the inputs and outputs of the widest block's linear layers, and one layer's attention scores over
    *context*, which a CPU, and a GPU for some head sizes, does form. Logits: of a whole chunk, since some architectures
    give them for every token, and several times of each row's. Copies of caches: the prompt's own on its way into the
    batch, and one layer's of all rows, since a cache that grows is there twice. And where that is more, the largest
    linear layer twice in float32: to stage a DoRA its weight is formed.
    """
    sizes = _entry_sizes(model, context)
    activations = (chunk + rows) * FLOAT * (_widest_block(model) + _heads(model) * context)
    logits = (chunk + LOGITS * rows) * FLOAT * _vocabulary(model)
    copies = sum(sizes) + rows * max(sizes, default=0)
    return max(activations + logits + copies, 2 * FLOAT * _largest_layer(model))


def device_limit() -> int | None:
    """Bytes the GPU has for us now; None on a CPU, and where MLX does not say: then the host's memory is the limit."""
    return limit_told(mx.device_info()) if mx.default_device() == mx.gpu else None


def limit_told(device: Mapping[str, str | int]) -> int | None:
    """The limit in what MLX tells of a *device*: what Metal recommends to use at most, what is free under CUDA."""
    told = (device.get(name) for name in ("max_recommended_working_set_size", "free_memory", "total_memory"))
    return next((int(size) for size in told if size), None)


def _bytes(tree: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(tree) if isinstance(array, mx.array))


def _entry_sizes(model: Any, context: int) -> list[int]:
    cache = make_prompt_cache(model)
    model(mx.array([[0]]), cache=cache)
    return [_stretched(entry, context) for entry in cache]


def _stretched(entry: Any, context: int) -> int:
    if isinstance(entry, CacheList):
        return sum(_stretched(inner, context) for inner in entry.caches)
    if isinstance(entry, ArraysCache):
        return int(entry.nbytes)
    if not hasattr(entry, "keys"):
        raise BaseRefused(
            f"this model keeps its past in a {type(entry).__name__}, which cannot be served in batches",
            code="cache_unknown",
        )
    most = context + getattr(entry, "step", 1) - 1
    window = getattr(entry, "max_size", None)
    tokens = most if window is None else min(most, window)
    # Keys and values are (rows, heads, tokens, size), in a tuple with their scales where they are quantised.
    arrays = [array for _, array in tree_flatten([entry.keys, entry.values]) if isinstance(array, mx.array)]
    return sum(array.nbytes // array.shape[-2] * tokens for array in arrays)


def _linears(block: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of each linear layer."""
    kinds = (nn.Linear, nn.QuantizedLinear)
    return [linear_size(module) for _, module in block.named_modules() if isinstance(module, kinds)]


def _widest_block(model: Any) -> int:
    """Inputs and outputs of the linear layers of one block: the most numbers that a token is at once."""
    return max((sum(map(sum, _linears(block))) for block in model.layers), default=0)


def _largest_layer(model: Any) -> int:
    return max((inputs * outputs for block in model.layers for inputs, outputs in _linears(block)), default=0)


def _heads(model: Any) -> int:
    told = (getattr(module, name, 0) for _, module in model.named_modules() for name in HEADS)
    return max((number for number in told if isinstance(number, int)), default=0)


def _vocabulary(model: Any) -> int:
    modules = (module for _, module in model.named_modules())
    return max((m.weight.shape[0] for m in modules if isinstance(m, (nn.Embedding, nn.QuantizedEmbedding))), default=0)
