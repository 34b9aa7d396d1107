"""What all rows of a batch begin with, computed once: the system prompt, and whatever else they share.

The prefix runs as one row through the model into the model's own caches; these are then held once for each row
(broadcast, no copies), and the rest of the rows goes on from them. Exact: what stands at a position depends on the
positions before it alone. Models whose caches are of another kind than the two known here compute every row whole.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, KVCache, make_prompt_cache

from prompt_format.format import Example

WORTH_IT = 8  # tokens; below, the second pass costs more than it saves


def common_prefix(examples: Sequence[Example]) -> int:
    """How many tokens all of *examples* begin with; none where sharing them is not worth it.

    The token that predicts a row's first reply token is never among them.
    """
    if len(examples) < 2:
        return 0
    first = examples[0].ids
    length = min(example.reply_start for example in examples) - 1
    for example in examples[1:]:
        length = next((place for place in range(length) if example.ids[place] != first[place]), length)
    return length if length >= WORTH_IT else 0


def can_share(model: Any) -> bool:
    """Whether the caches of *model* can be filled once and held for many rows, found by trying it.

    Needs a model with ``model`` inside, whose output is the last hidden state.
    """
    caches = make_prompt_cache(model)
    if not all(type(cache) in (KVCache, ArraysCache) for cache in caches):
        return False
    ids = mx.array([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 8, 9, 10]])
    whole = model.model(ids)[:, 4:]
    shared = hidden_after(model, ids[:1, :4], ids[:, 4:])
    return whole.shape == shared.shape and bool(mx.allclose(whole, shared, rtol=1e-3, atol=1e-3).item())


def hidden_after(model: Any, prefix: mx.array, inputs: mx.array) -> mx.array:
    """The last hidden states (rows, tokens, width) of *inputs* (rows, tokens), whose rows follow *prefix* (1, n)."""
    caches = make_prompt_cache(model)
    model.model(prefix, cache=caches)
    for cache in caches:
        _hold_for(cache, inputs.shape[0])
    hidden: mx.array = model.model(inputs, cache=caches)
    return hidden


def _hold_for(cache: Any, rows: int) -> None:
    """Let *cache*, filled by one row, stand for *rows* of them."""
    if isinstance(cache, KVCache):
        keys, values = cache.keys_and_values()
        cache.keys, cache.values = _rows(keys, rows), _rows(values, rows)
    else:
        cache.cache = [None if array is None else _rows(array, rows) for array in cache.cache]


def _rows(array: mx.array, rows: int) -> mx.array:
    return mx.broadcast_to(array, (rows, *array.shape[1:]))
