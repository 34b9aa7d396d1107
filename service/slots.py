"""Many adapters on one base model: each row of a batch says which slot it uses.

Every linear layer of the decoder blocks is wrapped once, at start, by a layer with stacked low-rank slots (slot 0 is
the base). A DoRA is a LoRA with a scale for each output, the gain of its slot, which is one in all others. Imports
mlx; everything here runs on the engine thread.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.cache import make_prompt_cache

from base_model.load import linear_size, vocabulary_head
from service.cpu_linear import laid_out

BASE_SLOT = 0
FIRST_RANK = 8  # of a slot, until an adapter comes that needs more
DENSE = 256  # rank times slots up to which rows of different slots are multiplied together
FINITE = 3e38  # of float32
PIECE_S = 0.005  # how long rows that are being written wait for a piece of an adapter


class Route:
    """Which slot each row of the present forward pass uses; shared by the model and its routed layers.

    Attributes:
        only: The slot of all rows, where they share one.
        slots: (rows,) int32, the slot of each.
        low, top, span: The lowest of them, and one more than the highest; the two together.
        mask: Whether a column of the slots' product is a row's own, where they are so few that all are multiplied at
            once; else None.
        zeros: As many as the mask has places.
        scaled: Whether a row uses a DoRA.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank  # of every slot
        self.dora: set[int] = set()  # the slots that hold a DoRA
        self._used: tuple[tuple[int, ...], int] | None = None
        self.use([BASE_SLOT])

    def use(self, slots: Sequence[int]) -> None:
        """The next forward pass has these *slots*, one a row."""
        self.rows = tuple(slots)
        self.scaled = not self.dora.isdisjoint(self.rows)
        if (self.rows, self.rank) == self._used:
            return  # as in the step before
        self._used = self.rows, self.rank
        self.only = self.rows[0] if len(set(self.rows)) == 1 else None
        if self.only is None:
            self.low, self.top = self.span = min(self.rows), max(self.rows) + 1
            self.slots = mx.array(self.rows, dtype=mx.int32)
            self.mask = self._mask() if (self.top - self.low) * self.rank <= DENSE else None
            self.zeros = mx.zeros((1,) if self.mask is None else self.mask.shape)

    def _mask(self) -> mx.array:
        """(rows, 1, (top - low) * rank): whether a column is of the row's own slot."""
        owner = mx.arange(self.low * self.rank, self.top * self.rank) // self.rank
        return owner == self.slots[:, None, None]


class RoutedLinear(nn.Module):
    """``gain * (W x + B A x) + bias`` with A, B and gain of each row's slot: x (rows, tokens, inputs).

    The factors of all slots stand below each other: A (slots * rank, inputs), B (slots * rank, outputs). So one slot's
    are a piece of memory of their own, and all slots' are a single matrix too.
    """

    def __init__(self, linear: Any, slots: int, route: Route):
        super().__init__()
        inputs, outputs = linear_size(linear)
        self.linear, self._route = linear, route
        self.a = mx.zeros((slots * route.rank, inputs))  # float32 whatever the base: rounding must not depend on it
        self.b = mx.zeros((slots * route.rank, outputs))  # with the adapter's scale in it
        self.gain = mx.ones((slots, outputs))
        self._views: dict[int | tuple[int, int], tuple[mx.array, mx.array]] = {}
        self._lengths: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self["linear"](x)  # as attributes, modules are found slowly: this runs at every step
        route = self._route
        slot = route.only
        if slot == BASE_SLOT:
            return y
        wide = x if x.dtype == mx.float32 else x.astype(mx.float32)
        if slot is None:
            y = y + self._mixed(wide).astype(y.dtype)
        else:
            a, b = self._views.get(slot) or self._view(slot, slot, slot + 1)
            if y.dtype == mx.float32 and x.shape[0] == x.shape[1] == 1:
                y = mx.addmm(y, wide @ a, b)  # one operation less; for many tokens it is slow
            else:
                y = y + ((wide @ a) @ b).astype(y.dtype)
        if not route.scaled:
            return y
        return self._scaled(y, self.gain[slot] if slot is not None else self.gain[route.slots[:, None]])

    def _mixed(self, x: mx.array) -> mx.array:
        """The low-rank product of each row under its own slot.

        Few slots are multiplied as one matrix, and what is not a row's own is masked: two products for all rows cost
        less than two for each, and adding zeros changes no bit. Chosen, not multiplied by zero: what overflows in
        another slot must not come out as NaN here.
        """
        route = self._route
        if len(route.rows) != x.shape[0]:  # it would be broadcast silently
            raise AssertionError("a forward pass with other rows than its slots")
        if route.mask is not None:
            a, b = self._views.get(route.span) or self._view(route.span, route.low, route.top)
            return mx.where(route.mask, x @ a, route.zeros) @ b
        a, b = (each.reshape(-1, route.rank, each.shape[1]) for each in (self.a, self.b))
        z = mx.gather_mm(x, a.swapaxes(1, 2), rhs_indices=route.slots)
        return mx.gather_mm(z, b, rhs_indices=route.slots)

    def _scaled(self, y: mx.array, gain: mx.array) -> mx.array:
        """*y* times *gain*, but for the bias, which is in it already. A gain of one changes no bit."""
        scaled = gain * y
        if "bias" in self.linear:
            scaled = scaled + (1 - gain) * self.linear.bias
        return scaled.astype(y.dtype)

    def _view(self, key: int | tuple[int, int], begin: int, end: int) -> tuple[mx.array, mx.array]:
        """A transposed and B of some slots, without a copy, kept under *key*: to cut them out at each step would cost
        more than to use them.
        """
        rows = slice(begin * self._route.rank, end * self._route.rank)
        known = self._views[key] = (self.a[rows].T, self.b[rows])
        mx.eval(*known)
        return known

    def fill(self, slot: int, a: mx.array, b: mx.array, m: mx.array | None = None) -> None:
        """Put a (inputs, r), b (r, outputs) with the scale in it, and a DoRA's m (outputs,) into *slot*."""
        gain = mx.ones((b.shape[1],)) if m is None else m / self._row_lengths(a, b)
        rank = self._route.rank
        below = [(0, rank - b.shape[0]), (0, 0)]
        rows = slice(slot * rank, (slot + 1) * rank)
        self._views.clear()  # they share the factors' memory: while one is left, writing would copy them all
        b = mx.clip(b, -FINITE, FINITE)  # the scale in it may overflow, and infinity times another row's zero is NaN
        self.a[rows], self.b[rows], self.gain[slot] = mx.pad(a.T, below), mx.pad(b, below), gain
        mx.eval(self.a, self.b, self.gain)

    def clear(self, slot: int) -> None:
        """Make *slot* the base again."""
        rows = slice(slot * self._route.rank, (slot + 1) * self._route.rank)
        self._views.clear()
        self.a[rows], self.b[rows], self.gain[slot] = 0.0, 0.0, 1.0
        mx.eval(self.a, self.b, self.gain)

    def grow(self, before: int) -> None:
        """Room for the route's rank in each slot, where it was *before*."""
        room = [(0, 0), (0, self._route.rank - before), (0, 0)]
        self._views.clear()
        self.a, self.b = (
            mx.pad(each.reshape(-1, before, each.shape[1]), room).reshape(-1, each.shape[1])
            for each in (self.a, self.b)
        )
        mx.eval(self.a, self.b)

    def _row_lengths(self, a: mx.array, b: mx.array) -> mx.array:
        """The lengths (outputs,) by which DoRA divides: those of the rows of W + s BA.

        Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), equation 5. Nothing in it depends on the
        input, so that once a slot is enough. |w + v|^2 = |w|^2 + 2 w.v + |v|^2 with v = s BA needs no sum of two
        whole weights, and the first of the three is the base's.
        """
        weight = _dense(self.linear)
        if self.linear.weight.dtype != mx.float32:
            return mx.linalg.norm(weight + b.T @ a.T, axis=1)
        if self._lengths is None:
            self._lengths = (weight * weight).sum(axis=1)
            mx.eval(self._lengths)
        crossed = weight @ a  # (outputs, r)
        squares = self._lengths + (2 * crossed * b.T).sum(axis=1) + (((a.T @ a) @ b) * b).sum(axis=0)
        return mx.sqrt(mx.maximum(squares, 0.0))


def _dense(linear: Any) -> mx.array:
    """The weight (outputs, inputs) in float32."""
    weight = linear.weight
    if isinstance(linear, nn.QuantizedLinear):
        settings = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}
        weight = mx.dequantize(weight, linear.scales, linear.get("biases"), **settings)
    wide: mx.array = weight.astype(mx.float32)
    return wide


class RoutedModel:
    """A base model whose rows each use a slot of their own.

    Args:
        slots: How many there are, the base's included.
        rank: The highest an adapter may have.
    """

    def __init__(self, model: Any, slots: int, rank: int):
        self.model, self.layers = model, model.layers
        self.route = Route(min(FIRST_RANK, rank))
        self.routed: dict[str, RoutedLinear] = {}
        self._filled: dict[int, tuple[str, ...]] = {}
        self._on_cpu = mx.default_device() == mx.cpu
        blocks = {id(block) for block in model.layers}
        for path, block in list(model.named_modules()):
            if id(block) in blocks:
                self._wrap(path, block, slots)
        mx.eval([layer.parameters() for layer in self.routed.values()])
        if self._on_cpu:
            _lay_out_head(model)
        self._body, self._head = _split(model)

    def _wrap(self, path: str, block: Any, slots: int) -> None:
        replaced = []
        for inner, layer in block.named_modules():
            if isinstance(layer, (nn.Linear, nn.QuantizedLinear)):
                routed = RoutedLinear(laid_out(layer) if self._on_cpu else layer, slots, self.route)
                self.routed[f"{path}.{inner}"] = routed
                replaced.append((inner, routed))
        block.update_modules(tree_unflatten(replaced))

    def make_cache(self) -> list[Any]:
        """A fresh cache for one row."""
        cache: list[Any] = make_prompt_cache(self.model)
        return cache

    def last_logits(self, tokens: mx.array, cache: Sequence[Any], slots: Sequence[int]) -> mx.array:
        """Logits (rows, vocabulary) after *tokens* (rows, length); the cache takes them in.

        The vocabulary projection runs on the last position alone where the architecture lets it.
        """
        self.route.use(slots)
        if self._body is None or self._head is None:
            logits: mx.array = self.model(tokens, cache=cache)[:, -1]
            return logits
        hidden = self._body(tokens, cache=cache)
        return self._head(hidden[:, -1:] if tokens.shape[1] > 1 else hidden)[:, -1]

    def feed(self, tokens: mx.array, cache: Sequence[Any], slot: int) -> None:
        """Take *tokens* (1, length) into the cache; no logits are computed."""
        self.route.use([slot])
        (self._body or self.model)(tokens, cache=cache)
        mx.eval([entry.state for entry in cache])

    def write(
        self, slot: int, weights: bytes, scale: float, modules: Sequence[str], dora: bool = False
    ) -> Iterator[None]:
        """Fill *slot* from checked safetensors bytes, piece by piece; layers the adapter lacks become the base's."""
        tensors = mx.load(io.BytesIO(weights), format="safetensors")
        assert isinstance(tensors, dict)
        rank = tensors[f"{modules[0]}.lora_a"].shape[1]
        if rank > self.route.rank:
            self._grow(rank)
        (self.route.dora.add if dora else self.route.dora.discard)(slot)
        stale = set(self._filled.pop(slot, ())).difference(modules)
        self._filled[slot] = tuple(modules)
        began = time.perf_counter()
        for path in (*stale, *modules):
            if path in stale:
                self.routed[path].clear(slot)
            else:
                a, b, m = (tensors.get(f"{path}.{name}") for name in ("lora_a", "lora_b", "m"))
                assert a is not None and b is not None
                self.routed[path].fill(slot, _wide(a), _wide(b) * scale, m if m is None else _wide(m))
            if time.perf_counter() - began > PIECE_S:
                yield
                began = time.perf_counter()

    def _grow(self, rank: int) -> None:
        """Room for *rank* in every slot: done once for each that is the highest yet."""
        before, self.route.rank = self.route.rank, rank
        for layer in self.routed.values():
            layer.grow(before)

    def clear(self, slot: int) -> None:
        """Make *slot* the base again."""
        self.route.dora.discard(slot)
        for path in self._filled.pop(slot, ()):
            self.routed[path].clear(slot)


def _wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32)


def _lay_out_head(model: Any) -> None:
    """The vocabulary projection as a CPU multiplies by it fastest, be it a layer of its own or the embedding."""
    if "lm_head" in model:
        model.lm_head = laid_out(model.lm_head)
    elif vocabulary_head(model) is not None:
        model.model.embed_tokens = laid_out(model.model.embed_tokens)


def _split(model: Any) -> tuple[Callable[..., mx.array] | None, Callable[[mx.array], mx.array] | None]:
    """(tokens -> hidden states, hidden states -> logits) of *model*, tried once; (None, None) where it is not so."""
    body, head = getattr(model, "model", None), vocabulary_head(model)
    if body is None or head is None:
        return None, None
    ids = mx.array([[1, 2, 3, 4]])
    try:
        short = head(body(ids, cache=make_prompt_cache(model)))
    except (TypeError, ValueError):  # its body is called otherwise
        return None, None
    whole = model(ids, cache=make_prompt_cache(model))
    same = whole.shape == short.shape and bool(mx.allclose(whole, short, rtol=1e-4, atol=1e-4).item())
    return (body, head) if same else (None, None)


def slot_bytes(shapes: Mapping[str, tuple[int, int]], rank: int) -> int:
    """Memory of one slot."""
    return sum(4 * (rank * (inputs + outputs) + outputs) for inputs, outputs in shapes.values())
