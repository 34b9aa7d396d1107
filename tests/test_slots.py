"""Slots in a base model: which row uses which, and that an unused slot changes nothing at all."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from safetensors.numpy import save

from base_model.load import load_base, projections
from service.slots import BASE_SLOT, Route, RoutedLinear, RoutedModel, RowTag, slot_bytes
from tests.fakes import make_weights
from tests.tiny import tiny_model

IDS = [5, 40, 9, 71, 33, 8]


@pytest.fixture(scope="module", params=["llama", "lfm2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("slots") / request.param, request.param)


def routed(folder: Path, slots: int = 4, rank: int = 8) -> RoutedModel:
    return RoutedModel(load_base(str(folder)).model, slots, rank)


def fill(
    model: RoutedModel, slot: int, rank: int, seed: int, modules: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Random factors in *slot*; they are strong, so that nothing else looks like them."""
    shapes = projections_of(model)
    modules = modules or list(shapes)
    weights = make_weights(rank, modules, seed, shapes, spread=0.3)
    model.write(slot, save(weights), 2.0, modules)
    return weights


def projections_of(model: RoutedModel) -> dict[str, tuple[int, int]]:
    return {path: (layer.a.shape[1], layer.b.shape[2]) for path, layer in model.routed.items()}


def logits(model: RoutedModel, rows: Sequence[tuple[int, Sequence[int]]]) -> mx.array:
    """The last logits of *rows* of (slot, ids of equal length), run together."""
    cache = [*nn_cache(model), RowTag(slot for slot, _ in rows)]
    return model(mx.array([list(ids) for _, ids in rows]), cache)[:, -1]


def nn_cache(model: RoutedModel) -> list[Any]:
    return model.make_cache()[:-1]


# -- row tags


def test_tags_follow_their_rows() -> None:
    """Merging, extending, filtering and extracting tags is what mlx-lm does to the rows of a cache."""
    tag = RowTag.merge([RowTag([1]), RowTag([2, 3])])
    assert [1, 2, 3] == tag.slots
    tag.extend(RowTag([4]))
    tag.filter([0, 2, 3])
    assert [1, 3, 4] == tag.slots
    tag.filter(mx.array([2, 0]))
    assert [4, 1] == tag.slots
    assert [1] == tag.extract(1).slots
    tag.filter([])
    assert [] == tag.slots


def test_a_tag_costs_nothing() -> None:
    """A tag has no bytes and no state, can be trimmed to any length, and needs no preparation."""
    tag = RowTag([1, 2])
    tag.prepare(left_padding=[0, 1], lengths=[3, 2])
    tag.finalize()

    assert (0, [], True, 5, [1, 2]) == (tag.nbytes, tag.state, tag.is_trimmable(), tag.trim(5), tag.slots)


def test_extending_leaves_the_other_alone() -> None:
    """Two batches that are joined share no list."""
    one, other = RowTag([1]), RowTag([2])
    one.extend(other)
    one.filter([0])

    assert ([1], [2]) == (one.slots, other.slots)


# -- one layer


@pytest.fixture
def layer() -> tuple[RoutedLinear, Route, Any]:
    """A routed layer with slots 1 and 2 filled, its route, and the linear layer inside."""
    mx.random.seed(0)
    linear, route = nn.Linear(6, 5), Route()
    layer = RoutedLinear(linear, 3, 4, route)
    layer.a[1:], layer.b[1:] = mx.random.normal((2, 6, 4)), mx.random.normal((2, 4, 5))
    return layer, route, linear


def test_a_row_of_the_base_is_untouched(layer: tuple[RoutedLinear, Route, Any]) -> None:
    """Alone or beside rows of adapters, a row of slot 0 is bit for bit what the base gives."""
    wrapped, route, linear = layer
    x = mx.random.normal((3, 2, 6))
    route.use([BASE_SLOT])
    assert mx.array_equal(linear(x), wrapped(x))
    route.use([0, 1, 2])
    assert mx.array_equal(linear(x)[0], wrapped(x)[0])


def test_a_row_of_a_slot_gets_its_low_rank_product(layer: tuple[RoutedLinear, Route, Any]) -> None:
    """Each row of a mixed batch is the base plus x A B of its own slot, the same as alone."""
    wrapped, route, linear = layer
    x = mx.random.normal((4, 2, 6))
    slots = [2, 0, 1, 2]
    route.use(slots)
    together = wrapped(x)
    for row, slot in enumerate(slots):
        expected = linear(x[row]) + x[row] @ wrapped.a[slot] @ wrapped.b[slot]
        assert mx.allclose(expected, together[row], atol=1e-5)
        route.use([slot])
        assert mx.allclose(together[row], wrapped(x[row : row + 1])[0], atol=1e-5)


def test_rows_without_tags_are_an_error(layer: tuple[RoutedLinear, Route, Any]) -> None:
    """A pass with other rows than its tags stops, where a product would have broadcast in silence."""
    wrapped, route, _ = layer
    route.use([1, 2])
    with pytest.raises(AssertionError, match="other rows"):
        wrapped(mx.zeros((3, 2, 6)))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_a_layer_keeps_the_base_s_type(dtype: Any) -> None:
    """Slots are float32 whatever the base is, and the output has the base's type."""
    linear, route = nn.Linear(6, 5), Route()
    linear.set_dtype(dtype)
    wrapped = RoutedLinear(linear, 2, 4, route)
    x = mx.ones((2, 1, 6), dtype)
    for slots in ([0], [1], [0, 1]):
        route.use(slots)
        assert dtype == wrapped(x[: len(slots)] if len(slots) > 1 else x).dtype
    assert mx.float32 == wrapped.a.dtype == wrapped.b.dtype


def test_a_quantised_layer_can_be_routed() -> None:
    """The sizes of a quantised layer are those of the layer it was."""
    mx.random.seed(0)
    linear, route = nn.Linear(64, 32).to_quantized(32, 4), Route()
    wrapped = RoutedLinear(linear, 2, 4, route)
    wrapped.a[1], wrapped.b[1] = mx.random.normal((64, 4)), mx.random.normal((4, 32))
    x = mx.random.normal((1, 3, 64))
    route.use([1])

    assert mx.allclose(linear(x) + x @ wrapped.a[1] @ wrapped.b[1], wrapped(x), atol=1e-3)


# -- a whole model


def test_every_linear_layer_of_the_blocks_is_routed(folder: Path) -> None:
    """What projections names is what is wrapped, with its sizes, and nothing outside the blocks."""
    base = load_base(str(folder))
    expected = projections(base.model)
    model = RoutedModel(base.model, 3, 4)

    assert expected == projections_of(model)
    assert all(".layers." in path for path in model.routed)
    assert slot_bytes(expected, 4) * 3 == sum(layer.a.nbytes + layer.b.nbytes for layer in model.routed.values())


def test_a_routed_model_is_the_base_where_no_slot_is_used(folder: Path) -> None:
    """With slots filled, rows of the base have bit for bit the logits of the plain model."""
    plain = load_base(str(folder)).model(mx.array([IDS, IDS[::-1]]))[:, -1]
    model = routed(folder)
    fill(model, 2, 8, seed=1)

    assert mx.array_equal(plain, logits(model, [(0, IDS), (0, IDS[::-1])]))


def test_rows_of_one_batch_use_their_own_slots(folder: Path) -> None:
    """The logits of a mixed batch are, row for row, those of each row alone."""
    model = routed(folder)
    fill(model, 1, 8, seed=1)
    fill(model, 3, 3, seed=2)
    slots = [3, 0, 1, 2, 1]
    together = logits(model, [(slot, IDS) for slot in slots])

    for row, slot in enumerate(slots):
        assert mx.allclose(logits(model, [(slot, IDS)])[0], together[row], atol=1e-4)
    assert mx.allclose(together[1], together[3], atol=1e-5)  # an empty slot is the base
    assert min(float(mx.abs(together[a] - together[b]).max()) for a, b in ((0, 1), (1, 2), (0, 2))) > 0.1


def test_a_slot_holds_what_was_written_last(folder: Path) -> None:
    """A smaller adapter in a slot leaves nothing of the larger one before it, and clearing leaves nothing at all."""
    model, fresh = routed(folder), routed(folder)
    base = logits(model, [(0, IDS)])
    some = list(projections_of(model))[::2]
    fill(model, 1, 8, seed=1)
    fill(model, 1, 2, seed=2, modules=some)
    fill(fresh, 1, 2, seed=2, modules=some)

    assert mx.array_equal(logits(fresh, [(1, IDS)]), logits(model, [(1, IDS)]))
    model.clear(1)
    assert mx.array_equal(base, logits(model, [(1, IDS)]))


def test_writing_one_slot_leaves_the_others(folder: Path) -> None:
    """What stands in other slots is untouched by a new adapter."""
    model = routed(folder)
    fill(model, 1, 4, seed=1)
    before = logits(model, [(1, IDS)])
    fill(model, 2, 8, seed=2)
    model.clear(3)

    assert mx.array_equal(before, logits(model, [(1, IDS)]))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_weights_are_written_as_float32(folder: Path, dtype: str) -> None:
    """A81: F16 and BF16 adapters serve as the float32 values they stand for."""
    kind = {"F16": mx.float16, "BF16": mx.bfloat16}[dtype]
    model, wide = routed(folder), routed(folder)
    shapes = projections_of(model)
    rounded = {
        name: mx.array(value).astype(kind) for name, value in make_weights(4, list(shapes), 1, shapes, 0.3).items()
    }
    buffer = io.BytesIO()
    mx.save_safetensors(buffer, rounded)
    model.write(1, buffer.getvalue(), 1.5, list(shapes))
    wide.write(
        1, save({name: np.array(value.astype(mx.float32)) for name, value in rounded.items()}), 1.5, list(shapes)
    )

    assert mx.array_equal(logits(wide, [(1, IDS)]), logits(model, [(1, IDS)]))


def test_the_probe_looks_at_one_slot(folder: Path) -> None:
    """The logits of a probe are those of a reply's first token in that slot."""
    model = routed(folder)
    fill(model, 2, 4, seed=1)

    for slot in (0, 2):
        expected = logits(model, [(slot, IDS)])[0, :7].tolist()
        assert np.allclose(expected, model.logits_after(IDS, slot, 7), atol=1e-4)


def test_a_cache_ends_with_its_tag(folder: Path) -> None:
    """A row's cache has one entry a block, and the tag of its slot behind them."""
    model = routed(folder)
    cache = model.make_cache(3)

    assert len(model.layers) + 1 == len(cache)
    assert [3] == cache[-1].slots
    assert [BASE_SLOT] == model.make_cache()[-1].slots
