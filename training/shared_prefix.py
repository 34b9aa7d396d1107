"""What rows begin with runs through the model once: the prefix of a batch, and the trunk of each family.

The prefix runs as one row; the trunks go on from it, and the tails from their trunks, each from the place where it
leaves. What stands at a position depends on the positions before it alone, so the hidden states are those of the whole
rows, and gradients flow back through what was shared. This needs caches of our own, which hand on what was computed
without copying it into buffers: keys and values for attention; the last inputs for a short convolution, whose inputs
along a trunk are overheard. Which of it a model allows is found by trying (``how_shared``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import ArraysCache, KVCache, make_prompt_cache

from prompt_format.format import Example
from training.families import Layout, lay_out


class Shared(IntEnum):
    """How much of rows that begin alike a model lets be computed once."""

    NOTHING = 0
    PREFIX = 1
    TRUNKS = 2


class _Unknown(Exception):
    """A model asks something of its cache that it does not know."""


class _Attention:
    """Keys and values of the tokens before, and of those that a pass adds."""

    def __init__(self, past: tuple[mx.array, mx.array] | None = None, offset: Any = 0, seen: mx.array | None = None):
        """
        Args:
            past: Keys and values, (rows, heads, tokens, width) each.
            offset: The position of the first token added: one number, or (rows,) int32.
            seen: (rows, tokens) bool, which of *past* belong to a row; None: all.
        """
        self.past, self.offset, self.seen = past, offset, seen
        self.keys = self.values = mx.zeros(0)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.past is not None:
            keys, values = mx.concatenate([self.past[0], keys], axis=2), mx.concatenate([self.past[1], values], axis=2)
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, added: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if window_size is not None:
            raise _Unknown
        past = 0 if self.past is None else self.past[0].shape[2]
        if self.seen is None:
            return create_causal_mask(added, past) if return_array else ("causal" if added > 1 else None)
        rows = self.seen.shape[0]
        behind = mx.broadcast_to(self.seen[:, None, None, :], (rows, 1, added, past))
        return mx.concatenate([behind, mx.broadcast_to(create_causal_mask(added), (rows, 1, added, added))], axis=3)

    def for_all(self, rows: int) -> "_Attention":
        """For *rows* rows that go on from the end of the one row here."""
        past = tuple(mx.broadcast_to(array, (rows, *array.shape[1:])) for array in (self.keys, self.values))
        return _Attention((past[0], past[1]), self.keys.shape[2])

    def for_tails(self, trunks: mx.array, leaves: mx.array) -> "_Attention":
        """For rows that leave the rows here named by *trunks* after *leaves* of the tokens added last."""
        before = 0 if self.past is None else self.past[0].shape[2]
        ends = before + leaves
        seen = mx.arange(self.keys.shape[2])[None] < ends[:, None]
        return _Attention((self.keys[trunks], self.values[trunks]), ends, seen)


class _Convolution(ArraysCache):
    """The last inputs of a short convolution, and all of those of the pass that was overheard."""

    def __init__(self, state: mx.array | None = None):
        super().__init__(1)
        self[0] = state
        self.heard: mx.array | None = None

    def for_all(self, rows: int) -> "_Convolution":
        return _Convolution(mx.broadcast_to(self[0], (rows, *self[0].shape[1:])))

    def for_tails(self, trunks: mx.array, leaves: mx.array) -> "_Convolution":
        if self.heard is None:
            raise _Unknown
        # What was heard begins with the state before the pass: the inputs before place p are at p, p + 1 ...
        places = leaves[:, None] + mx.arange(self[0].shape[1])[None]
        return _Convolution(self.heard[trunks[:, None], places])


class _Ear(nn.Module):
    """A convolution that keeps what it is given."""

    def __init__(self, conv: nn.Module, cache: _Convolution):
        super().__init__()
        self.conv = conv
        self._cache = cache

    def __call__(self, x: mx.array) -> Any:
        self._cache.heard = x
        return self.conv(x)


def how_shared(model: Any) -> Shared:
    """How much of rows that begin alike *model* lets be computed once, each kind tried and compared with whole rows.

    Needs a model with ``model`` inside, whose output is the last hidden state.
    """
    begin = [1, 2, 3, 4, 5, 6, 7, 8]
    ends = [[9], [9, 10, 9], [9, 10, 1, 2, 3, 9], [10, 3, 2, 5, 6, 7, 1, 2, 3, 4, 5]]
    rows = [Example([*begin, *end, 1], 10) for end in ends]
    whole = [model.model(mx.array([row.ids[:-1]]))[0, len(begin) :] for row in rows]
    found = Shared.NOTHING
    for tails in (False, True):
        layout = lay_out(rows, tails=tails)
        try:
            hidden = hidden_states(model, layout)
        except _Unknown:
            return found
        for row, expected in enumerate(whole):
            places = mx.array(flat_places(layout, row, len(begin), len(rows[row].ids) - 1))
            if not bool(mx.allclose(hidden[places], expected, rtol=1e-3, atol=1e-3).item()):
                return found
        found = Shared.TRUNKS if tails else Shared.PREFIX
    return found


def flat_places(layout: Layout, row: int, first: int, end: int) -> list[int]:
    """Where the hidden states of the tokens *first* up to *end* of a row are in what ``hidden_states`` gives.

    Args:
        first, end: Places in the row; none of them in the prefix.
    """
    begin, width = len(layout.prefix), max(map(len, layout.trunks))
    trunk, tail = layout.rows[row]
    places = [trunk * width + place - begin for place in range(first, end)]
    if tail is None:
        return places
    leaves, longest = layout.tails[tail].leaves, max(len(one.ids) for one in layout.tails)
    shift = len(layout.trunks) * width + tail * longest - leaves - trunk * width
    return [place + (shift if place - trunk * width >= leaves else 0) for place in places]


def hidden_states(model: Any, layout: Layout) -> mx.array:
    """The last hidden states (tokens, width) of the trunks, padded to the longest, then of the tails, likewise.

    Raises:
        _Unknown: If the model keeps something else than these caches, or asks more of them.
    """
    caches = _new_caches(model)
    if layout.prefix:
        model.model(mx.array([layout.prefix], mx.int32), cache=caches)
        caches = [cache.for_all(len(layout.trunks)) for cache in caches]
    tokens = padded(layout.trunks)
    if not layout.tails:
        hidden: mx.array = model.model(tokens, cache=caches)
        return hidden.reshape(-1, hidden.shape[-1])
    with _overheard(model, caches):
        first = model.model(tokens, cache=caches)
    trunks = mx.array([tail.trunk for tail in layout.tails], mx.int32)
    leaves = mx.array([tail.leaves for tail in layout.tails], mx.int32)
    tails = [cache.for_tails(trunks, leaves) for cache in caches]
    second = model.model(padded([tail.ids for tail in layout.tails]), cache=tails)
    return mx.concatenate([array.reshape(-1, array.shape[-1]) for array in (first, second)])


def padded(rows: Sequence[Sequence[int]]) -> mx.array:
    """(rows, tokens) int32, filled up on the right with 0: what stands there is never looked at."""
    width = max(map(len, rows))
    return mx.array([[*row, *[0] * (width - len(row))] for row in rows], mx.int32)


def _new_caches(model: Any) -> list[Any]:
    kinds: dict[type, Callable[[Any], Any]] = {KVCache: lambda _: _Attention(), ArraysCache: _new_convolution}
    caches = make_prompt_cache(model)
    if not all(type(cache) in kinds for cache in caches):
        raise _Unknown
    return [kinds[type(cache)](cache) for cache in caches]


def _new_convolution(cache: ArraysCache) -> _Convolution:
    if len(cache.cache) != 1:
        raise _Unknown
    return _Convolution()


@contextmanager
def _overheard(model: Any, caches: Sequence[Any]) -> Iterator[None]:
    """While this lasts, each convolution cache hears the inputs of its block's one convolution."""
    swapped: list[tuple[Any, str, Any]] = []
    try:
        for block, cache in zip(model.layers, caches, strict=True):
            if isinstance(cache, _Convolution):
                parent, name = _the_convolution(block)
                swapped.append((parent, name, parent[name]))
                parent[name] = _Ear(parent[name], cache)
        yield
    finally:
        for parent, name, conv in swapped:
            parent[name] = conv


def _the_convolution(block: Any) -> tuple[Any, str]:
    """(the module that holds it, its name there). Raises _Unknown unless there is just one."""
    found = [
        (parent, name) for _, parent in block.named_modules() for name, m in parent.items() if type(m) is nn.Conv1d
    ]
    if len(found) != 1:
        raise _Unknown
    return found[0]
