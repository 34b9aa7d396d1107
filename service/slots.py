"""Many adapters on one base model: each row of a batch carries the number of its slot.

Every linear layer of the decoder blocks is wrapped once, at start, by a layer with stacked low-rank slots (slot 0 is
the base). A DoRA is a LoRA with a scale for each output, the gain of its slot, which is one in all others. The model
handed to mlx-lm's ``BatchGenerator`` adds one entry to each row's cache: its slot number. The generator moves that
entry with the row as it moves the KV cache, so the wrapper always knows which row wants which adapter. Imports mlx;
everything here runs on the engine thread.
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
        self.dora: set[int] = set()  # the slots that hold a DoRA
        self.use([BASE_SLOT])

    def use(self, slots: Sequence[int]) -> None:
        self.rows = len(slots)
        self.scaled = not self.dora.isdisjoint(slots)
        self.only = slots[0] if len(set(slots)) == 1 else None
        self.slots = mx.array(list(slots), dtype=mx.int32)


class RoutedLinear(nn.Module):
    """``gain * (W x + B A x) + bias`` with A, B and gain of each row's slot: x (rows, tokens, inputs)."""

    def __init__(self, linear: Any, slots: int, rank: int, route: Route):
        super().__init__()
        inputs, outputs = linear_size(linear)
        self.linear, self._route = linear, route
        self.a = mx.zeros((slots, inputs, rank))  # float32 whatever the base: rounding must not depend on it
        self.b = mx.zeros((slots, rank, outputs))  # with the adapter's scale in it
        self.gain = mx.ones((slots, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.linear(x)
        route = self._route
        if route.only == BASE_SLOT:
            return y
        wide = x.astype(mx.float32)
        if route.only is not None:
            y = y + ((wide @ self.a[route.only]) @ self.b[route.only]).astype(y.dtype)
            return self._scaled(y, self.gain[route.only]) if route.scaled else y
        if route.rows != x.shape[0]:  # gather_mm would broadcast it silently
            raise AssertionError("a forward pass with other rows than its tags")
        z = mx.gather_mm(wide, self.a, rhs_indices=route.slots)
        y = y + mx.gather_mm(z, self.b, rhs_indices=route.slots).astype(y.dtype)
        return self._scaled(y, self.gain[route.slots[:, None]]) if route.scaled else y

    def _scaled(self, y: mx.array, gain: mx.array) -> mx.array:
        """*y* times *gain*, but for the bias, which is in it already. A gain of one changes no bit."""
        scaled = gain * y
        if "bias" in self.linear:
            scaled = scaled + (1 - gain) * self.linear.bias
        return scaled.astype(y.dtype)

    def fill(self, slot: int, a: mx.array, b: mx.array, m: mx.array | None = None) -> None:
        """Put a (inputs, r), b (r, outputs) with the scale in it, and a DoRA's m (outputs,) into a clear *slot*."""
        rank = a.shape[1]
        self.a[slot, :, :rank], self.b[slot, :rank] = a, b
        if m is not None:
            self.gain[slot] = m / _row_norms(self.linear, a, b)
            mx.eval(self.gain)  # layer by layer: each forms a whole weight in float32, which is freed again

    def clear(self, slot: int) -> None:
        """Make *slot* the base again."""
        self.a[slot], self.b[slot], self.gain[slot] = 0.0, 0.0, 1.0


def _row_norms(linear: Any, a: mx.array, b: mx.array) -> mx.array:
    """The lengths (outputs,) by which DoRA divides: those of the rows of W + s BA.

    Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), equation 5. Nothing in it depends on the input,
    so that once a slot is enough.
    """
    weight = linear.weight
    if isinstance(linear, nn.QuantizedLinear):
        settings = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}
        weight = mx.dequantize(weight, linear.scales, linear.get("biases"), **settings)
    return mx.linalg.norm(weight.astype(mx.float32) + b.T @ a.T, axis=1)


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

    def write(self, slot: int, weights: bytes, scale: float, modules: Sequence[str], dora: bool = False) -> None:
        """Fill *slot* from checked safetensors bytes; layers the adapter lacks become the base's."""
        tensors = mx.load(io.BytesIO(weights), format="safetensors")
        assert isinstance(tensors, dict)
        wide = {name: value.astype(mx.float32) for name, value in tensors.items()}
        self.clear(slot)
        for path in modules:
            a, b, m = wide[f"{path}.lora_a"], wide[f"{path}.lora_b"] * scale, wide[f"{path}.m"] if dora else None
            self.routed[path].fill(slot, a, b, m)
        if dora:
            self.route.dora.add(slot)
        mx.eval([layer.parameters() for layer in self.routed.values()])

    def clear(self, slot: int) -> None:
        """Make *slot* the base again."""
        self.route.dora.discard(slot)
        for layer in self.routed.values():
            layer.clear(slot)
        mx.eval([layer.parameters() for layer in self.routed.values()])

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
    return sum(4 * (rank * (inputs + outputs) + outputs) for inputs, outputs in shapes.values())
