"""Slots in a base model: which row uses which, and that an unused slot changes nothing at all."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import save

from base_model.load import load_base, projections
from prompt_format.manifest import CONFIG, WEIGHTS
from service.slots import BASE_SLOT, Route, RoutedLinear, RoutedModel, RowTag, slot_bytes
from tests.fakes import facts, make_candidate, make_weights
from tests.tiny import tiny_model
from training.publish import Candidate

IDS = [5, 40, 9, 71, 33, 8]


@pytest.fixture(scope="module", params=["llama", "lfm2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("slots") / request.param, request.param)


def loaded(folder: Path, bits: int | None = None) -> Any:
    """The base model in *folder*; with *bits*, quantised."""
    model = load_base(str(folder)).model
    if bits is not None:
        nn.quantize(model, 32, bits)
    return model


def routed(folder: Path, slots: int = 4, rank: int = 8, bits: int | None = None) -> RoutedModel:
    return RoutedModel(loaded(folder, bits), slots, rank)


def fill(
    model: RoutedModel, slot: int, rank: int, seed: int, modules: Sequence[str] | None = None, kind: str = "lora"
) -> dict[str, np.ndarray]:
    """Random factors in *slot*; they are strong, so that nothing else looks like them."""
    shapes = projections_of(model)
    modules = modules or list(shapes)
    weights = make_weights(rank, modules, seed, shapes, 0.3, kind)
    model.write(slot, save(weights), 2.0, modules, kind == "dora")
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


# -- one layer with a DoRA


def a_dora(linear: Any) -> tuple[RoutedLinear, Route, Any]:
    """*linear* with a LoRA in slot 1 and a DoRA in slot 2, its route, and mlx-lm's layer with that DoRA."""
    theirs = DoRALinear.from_base(linear, r=3, scale=2.5)
    theirs.lora_b = mx.random.normal(theirs.lora_b.shape)
    theirs.m = theirs.m * mx.random.uniform(0.5, 2, theirs.m.shape)
    route = Route()
    layer = RoutedLinear(linear, 3, 4, route)
    layer.fill(1, mx.random.normal(theirs.lora_a.shape), mx.random.normal(theirs.lora_b.shape))
    layer.fill(2, theirs.lora_a, theirs.scale * theirs.lora_b, theirs.m)
    route.dora.add(2)
    return layer, route, theirs


def of_size(bits: int | None, bias: bool) -> Any:
    """A layer of 64 inputs and 48 outputs, its bias as large as its outputs."""
    mx.random.seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    if bias:
        linear.bias = mx.random.normal((48,))
    return linear if bits is None else nn.QuantizedLinear.from_linear(linear, 32, bits)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [None, 2, 4, 8])
def test_a_row_of_a_dora_gets_what_mlx_lms_layer_gives(bits: int | None, bias: bool) -> None:
    """DO2, DO4: alone and beside other rows, quantised or not; the bias comes after the scaling."""
    linear = of_size(bits, bias)
    wrapped, route, theirs = a_dora(linear)
    x = mx.random.normal((4, 5, 64))
    route.use([2])
    assert mx.allclose(theirs(x), wrapped(x), rtol=1e-5, atol=1e-5)
    route.use([1])
    lora = wrapped(x)
    route.use([2, 0, 1, 2])
    together = wrapped(x)

    assert mx.allclose(theirs(x)[::3], together[::3], rtol=1e-5, atol=1e-5)
    assert mx.array_equal(linear(x)[1], together[1])
    assert mx.allclose(lora[2], together[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [3, 5, 6])
def test_a_dora_on_bits_that_mlx_lms_layer_cannot_take_is_served(bits: int) -> None:
    """DO1: as over the same weights dequantised."""
    linear = of_size(bits, True)
    plain = nn.Linear(64, 48)
    plain.weight = mx.dequantize(linear.weight, linear.scales, linear.biases, linear.group_size, bits)
    plain.bias = linear.bias
    wrapped, route, theirs = a_dora(plain)
    layer = RoutedLinear(linear, 3, 4, route)
    layer.fill(2, theirs.lora_a, theirs.scale * theirs.lora_b, theirs.m)
    x = mx.random.normal((2, 5, 64))
    route.use([2])

    assert mx.allclose(wrapped(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
def test_a_dora_in_half_precision_is_close_to_mlx_lms(dtype: Any) -> None:
    """Of the base's type, and rows of the base beside it untouched; the gain is float32, as the factors are."""
    linear = of_size(None, True)
    linear.set_dtype(dtype)
    wrapped, route, theirs = a_dora(linear)
    x = mx.random.normal((2, 5, 64)).astype(dtype)
    route.use([2, 0])
    found = wrapped(x)

    assert (dtype, mx.float32) == (found.dtype, wrapped.gain.dtype)
    assert mx.allclose(theirs(x)[0], found[0], rtol=0.03, atol=0.06)
    assert mx.array_equal(linear(x)[1], found[1])


@pytest.mark.parametrize("bits", [None, 4])
def test_a_dora_that_changes_nothing_is_the_base_to_the_bit(bits: int | None) -> None:
    """With B zero and m the lengths of the base, as training begins: what a probe compares."""
    linear = of_size(bits, True)
    fresh = DoRALinear.from_base(linear, r=4)
    route = Route()
    wrapped = RoutedLinear(linear, 2, 4, route)
    wrapped.fill(1, fresh.lora_a, fresh.lora_b, fresh.m)
    route.dora.add(1)
    route.use([1])
    x = mx.random.normal((1, 3, 64))

    assert mx.array_equal(mx.ones((2, 48)), wrapped.gain)
    assert mx.array_equal(linear(x), wrapped(x))


def test_the_gain_is_looked_at_for_rows_of_a_dora_only() -> None:
    """It costs nothing where no row wants it: gains of NaN do not show then."""
    wrapped, route, _ = a_dora(of_size(None, True))
    wrapped.gain = mx.full(wrapped.gain.shape, math.nan)
    x = mx.random.normal((2, 5, 64))
    for slots, seen in (([0], False), ([1], False), ([0, 1], False), ([2], True), ([0, 2], True)):
        route.use(slots)
        assert seen == bool(mx.isnan(wrapped(x)).any())


# -- a whole model


def test_every_linear_layer_of_the_blocks_is_routed(folder: Path) -> None:
    """What projections names is what is wrapped, with its sizes, and nothing outside the blocks."""
    base = load_base(str(folder))
    expected = projections(base.model)
    model = RoutedModel(base.model, 3, 4)

    assert expected == projections_of(model)
    assert all(".layers." in path for path in model.routed)
    slots = [(layer.a, layer.b, layer.gain) for layer in model.routed.values()]
    assert slot_bytes(expected, 4) * 3 == sum(part.nbytes for parts in slots for part in parts)


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


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_weights_are_written_as_float32(folder: Path, dtype: str, kind: str) -> None:
    """A81: F16 and BF16 adapters serve as the float32 values they stand for."""
    half = {"F16": mx.float16, "BF16": mx.bfloat16}[dtype]
    model, wide = routed(folder), routed(folder)
    shapes = projections_of(model)
    weights = make_weights(4, list(shapes), 1, shapes, 0.3, kind)
    rounded = {name: mx.array(value).astype(half) for name, value in weights.items()}
    buffer = io.BytesIO()
    mx.save_safetensors(buffer, rounded)
    widened = save({name: np.array(value.astype(mx.float32)) for name, value in rounded.items()})
    model.write(1, buffer.getvalue(), 1.5, list(shapes), kind == "dora")
    wide.write(1, widened, 1.5, list(shapes), kind == "dora")

    assert mx.array_equal(logits(wide, [(1, IDS)]), logits(model, [(1, IDS)]))


# -- a whole model with a DoRA


def gains(model: RoutedModel, slot: int) -> mx.array:
    return mx.concatenate([layer.gain[slot] for layer in model.routed.values()])


def greedy(model: Callable[..., mx.array], cache: list[Any], rows: int, steps: int = 6) -> tuple[mx.array, mx.array]:
    """*rows* times the same prompt, each gone on with as its logits say: (tokens (rows, steps), all their logits)."""
    tokens, all_logits = [mx.array([IDS] * rows)], []
    for _ in range(steps):
        all_logits.append(model(tokens[-1], cache=cache)[:, -1])
        tokens.append(mx.argmax(all_logits[-1], axis=-1)[:, None])
    return mx.concatenate(tokens[1:], axis=1), mx.stack(all_logits, axis=1)


def through_mlx_lm(model: Any, made: Candidate, folder: Path) -> Any:
    """*model* with the adapter *made*, as mlx-lm itself loads it from *folder*."""
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(made.weights)
    (folder / CONFIG).write_bytes(made.config)
    load_adapters(model, str(folder))
    model.eval()
    return model


@pytest.mark.parametrize("bits", [None, 4], ids=["float32", "4 bits"])
def test_rows_of_a_mixed_batch_are_what_mlx_lm_gives_each_alone(folder: Path, bits: int | None, tmp_path: Path) -> None:
    """Two DoRAs, a LoRA and the base: the same tokens and logits as mlx-lm's own model with the adapter loaded."""
    model = routed(folder, bits=bits)
    shapes = projections_of(model)
    inner = sorted({path.split(".", 3)[3] for path in shapes})
    what: dict[int, dict[str, Any]] = {
        1: {"kind": "dora", "rank": 8, "keys": inner},
        2: {"kind": "lora", "rank": 8, "keys": inner},
        3: {"kind": "dora", "rank": 3, "keys": inner[::2], "scale": 0.7, "num_layers": 1},
    }
    base = replace(facts(), shapes=shapes, blocks=len(model.layers))
    plain = {0: loaded(folder, bits)}
    for slot, chosen in what.items():
        made = make_candidate(base=base, seed=slot, **chosen)
        model.write(slot, made.weights, made.lora.scale, made.lora.modules, made.lora.type == "dora")
        plain[slot] = through_mlx_lm(loaded(folder, bits), made, tmp_path / str(slot))
    slots = [3, 0, 1, 2, 1]
    tokens, found = greedy(model, [*nn_cache(model), RowTag(slots)], len(slots))

    for row, slot in enumerate(slots):
        expected_tokens, expected = greedy(plain[slot], make_prompt_cache(plain[slot]), 1)
        assert mx.array_equal(expected_tokens[0], tokens[row])
        assert mx.allclose(expected[0], found[row], rtol=0, atol=1e-4)
    assert min(float(mx.abs(found[a] - found[b]).max()) for a, b in ((0, 1), (1, 2), (2, 3), (0, 2))) > 0.1


def test_a_lora_in_the_slot_of_a_dora_is_scaled_by_nothing(folder: Path) -> None:
    """The gain is one again, and the logits are bit for bit those of a slot that never held a DoRA."""
    model, fresh = routed(folder), routed(folder)
    fill(model, 1, 8, seed=1, kind="dora")
    assert not mx.allclose(mx.ones(gains(model, 1).shape), gains(model, 1), atol=0.1)
    for each in (model, fresh):
        fill(each, 1, 2, seed=2)

    assert (gains(model, 1) == 1).all() and not model.route.dora
    assert mx.array_equal(logits(fresh, [(1, IDS), (0, IDS)]), logits(model, [(1, IDS), (0, IDS)]))


def test_a_smaller_dora_leaves_nothing_of_the_one_before(folder: Path) -> None:
    """In layers that it lacks the gain is one; and clearing leaves nothing at all."""
    model, fresh = routed(folder), routed(folder)
    base = logits(model, [(0, IDS)])
    some = list(projections_of(model))[::2]
    fill(model, 1, 8, seed=1, kind="dora")
    for each in (model, fresh):
        fill(each, 1, 2, seed=2, modules=some, kind="dora")

    assert mx.array_equal(logits(fresh, [(1, IDS)]), logits(model, [(1, IDS)]))
    assert all((layer.gain[1] == 1).all() == (path not in some) for path, layer in model.routed.items())
    model.clear(1)
    assert mx.array_equal(base, logits(model, [(1, IDS)]))
    assert (gains(model, 1) == 1).all() and not model.route.dora


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
