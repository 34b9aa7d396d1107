"""Many adapters on one base model: each row of a batch carries the number of its slot.

Every linear layer of the decoder blocks is wrapped once, at start, by a layer with stacked low-rank slots (slot 0 is
the base). The model handed to mlx-lm's ``BatchGenerator`` adds one entry to each row's cache: its slot number. The
generator moves that entry with the row as it moves the KV cache, so the wrapper always knows which row wants which
adapter. Imports mlx; everything here runs on the engine thread.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from base_model.load import linear_size

BASE_SLOT = 0


class RowTag:
    """The slot of each row, as one more entry of the cache list; follows mlx-lm's row-cache protocol."""

    def __init__(self, slots: Iterable[int]):
        self.slots = list(slots)

    @classmethod
    def merge(cls, tags: Sequence["RowTag"]) -> "RowTag":
        return cls(slot for tag in tags for slot in tag.slots)

    def extend(self, other: "RowTag") -> None:
        self.slots = self.slots + other.slots

    def filter(self, keep: Any) -> None:
        self.slots = [self.slots[int(row)] for row in keep]

    def extract(self, row: int) -> "RowTag":
        return RowTag([self.slots[row]])

    def prepare(self, **_: Any) -> None: ...

    def finalize(self) -> None: ...

    def is_trimmable(self) -> bool:
        return True

    def trim(self, tokens: int) -> int:
        return tokens

    @property
    def state(self) -> list[mx.array]:
        return []

    @property
    def nbytes(self) -> int:
        return 0


class Route:
    """Which slot each row of the present forward pass uses; shared by the model and its routed layers."""

    def __init__(self) -> None:
        self.use([BASE_SLOT])

    def use(self, slots: Sequence[int]) -> None:
        self.rows = len(slots)
        self.only = slots[0] if len(set(slots)) == 1 else None
        self.slots = mx.array(list(slots), dtype=mx.int32)


class RoutedLinear(nn.Module):
    """``linear(x)`` plus the low-rank product of each row's slot: x (rows, tokens, inputs)."""

    def __init__(self, linear: Any, slots: int, rank: int, route: Route):
        super().__init__()
        inputs, outputs = linear_size(linear)
        self.linear, self._route = linear, route
        self.a = mx.zeros((slots, inputs, rank))  # float32 whatever the base: rounding must not depend on it
        self.b = mx.zeros((slots, rank, outputs))  # with the adapter's scale in it

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.linear(x)
        route = self._route
        if route.only == BASE_SLOT:
            return y
        wide = x.astype(mx.float32)
        if route.only is not None:
            return y + ((wide @ self.a[route.only]) @ self.b[route.only]).astype(y.dtype)
        if route.rows != x.shape[0]:  # gather_mm would broadcast it silently
            raise AssertionError("a forward pass with other rows than its tags")
        z = mx.gather_mm(wide, self.a, rhs_indices=route.slots)
        return y + mx.gather_mm(z, self.b, rhs_indices=route.slots).astype(y.dtype)


class RoutedModel:
    """What ``BatchGenerator`` is given in place of the model."""

    def __init__(self, model: Any, slots: int, rank: int):
        self.model, self.layers, self.rank = model, model.layers, rank
        self.route = Route()
        self.routed: dict[str, RoutedLinear] = {}
        blocks = {id(block) for block in model.layers}
        for path, block in list(model.named_modules()):
            if id(block) in blocks:
                self._wrap(path, block, slots)
        mx.eval([layer.parameters() for layer in self.routed.values()])

    def _wrap(self, path: str, block: Any, slots: int) -> None:
        replaced = []
        for inner, layer in block.named_modules():
            if isinstance(layer, (nn.Linear, nn.QuantizedLinear)):
                routed = RoutedLinear(layer, slots, self.rank, self.route)
                self.routed[f"{path}.{inner}"] = routed
                replaced.append((inner, routed))
        block.update_modules(_tree(replaced))

    def make_cache(self, slot: int = BASE_SLOT) -> list[Any]:
        """A fresh cache for one row that uses *slot*."""
        return [*make_prompt_cache(self.model), RowTag([slot])]

    def __call__(self, tokens: mx.array, cache: Sequence[Any]) -> mx.array:
        *own, tag = cache
        self.route.use(tag.slots)
        logits: mx.array = self.model(tokens, cache=own)
        return logits

    def write(self, slot: int, weights: bytes, scale: float, modules: Sequence[str]) -> None:
        """Fill *slot* from checked safetensors bytes; layers the adapter lacks become zero."""
        tensors = mx.load(io.BytesIO(weights), format="safetensors")
        assert isinstance(tensors, dict)
        for path, layer in self.routed.items():
            a = mx.zeros(layer.a.shape[1:])
            b = mx.zeros(layer.b.shape[1:])
            if path in modules:
                given_a, given_b = tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"]
                rank = given_a.shape[1]
                a[:, :rank] = given_a.astype(mx.float32)
                b[:rank] = given_b.astype(mx.float32) * scale
            layer.a[slot], layer.b[slot] = a, b
        mx.eval([(layer.a, layer.b) for layer in self.routed.values()])

    def clear(self, slot: int) -> None:
        """Make *slot* the base again."""
        for layer in self.routed.values():
            layer.a[slot], layer.b[slot] = mx.zeros(layer.a.shape[1:]), mx.zeros(layer.b.shape[1:])
        mx.eval([(layer.a, layer.b) for layer in self.routed.values()])

    def logits_after(self, ids: Sequence[int], slot: int, count: int) -> list[float]:
        """The first *count* logits after the prompt *ids* under *slot*."""
        self.route.use([slot])
        values: list[float] = self.model(mx.array([list(ids)]))[0, -1, :count].astype(mx.float32).tolist()
        return values


def _tree(pairs: Sequence[tuple[str, Any]]) -> Any:
    from mlx.utils import tree_unflatten

    return tree_unflatten(list(pairs))


def slot_bytes(shapes: Mapping[str, tuple[int, int]], rank: int) -> int:
    """Memory of one slot."""
    return sum(4 * rank * (inputs + outputs) for inputs, outputs in shapes.values())
