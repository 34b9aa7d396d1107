"""Slots in a base model: which row uses which, and that an unused slot changes nothing at all."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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

from base_model.load import linear_size, load_base, projections, vocabulary_head
from prompt_format.manifest import CONFIG, WEIGHTS
from service.slots import BASE_SLOT, DENSE, FIRST_RANK, Route, RoutedLinear, RoutedModel, slot_bytes
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
    write(model, slot, save(weights), 2.0, modules, kind == "dora")
    return weights


def write(model: RoutedModel, *what: Any) -> None:
    """Every piece of it."""
    for _ in model.write(*what):
        pass


def projections_of(model: RoutedModel) -> dict[str, tuple[int, int]]:
    return {path: linear_size(layer.linear) for path, layer in model.routed.items()}


def logits(model: RoutedModel, rows: Sequence[tuple[int, Sequence[int]]]) -> mx.array:
    """The last logits of *rows* of (slot, ids of equal length), run together."""
    return model.last_logits(mx.array([list(ids) for _, ids in rows]), model.make_cache(), [slot for slot, _ in rows])


# -- one layer


Factors = dict[int, tuple[mx.array, mx.array]]
FAR = DENSE // 4 + 1  # a slot so far from the first that rows of both are not multiplied as one


@dataclass
class Layer:
    """A routed layer with some slots filled.

    Attributes:
        linear: The one inside.
        factors: What was put in, by slot.
    """

    routed: RoutedLinear
    route: Route
    linear: Any
    factors: Factors

    def expected(self, x: mx.array, slot: int) -> mx.array:
        """For *x* (tokens, inputs)."""
        y: mx.array = self.linear(x)
        if slot in self.factors:
            a, b = self.factors[slot]
            y = y + x @ a @ b
        return y


@pytest.fixture
def layer() -> Layer:
    """Its slots 1, 2 and a far one are filled, of lower rank than there is room for; the others are empty."""
    mx.random.seed(0)
    linear, route = nn.Linear(6, 5), Route(4)
    routed = RoutedLinear(linear, FAR + 1, route)
    factors = {slot: (mx.random.normal((6, 3)), mx.random.normal((3, 5))) for slot in (1, 2, FAR)}
    for slot, (a, b) in factors.items():
        routed.fill(slot, a, b)
    return Layer(routed, route, linear, factors)


@pytest.mark.parametrize("others", [(1, 2), (1, FAR)])
def test_a_row_of_the_base_is_untouched(layer: Layer, others: tuple[int, int]) -> None:
    """Alone or beside rows of adapters, a row of slot 0 is bit for bit what the base gives."""
    x = mx.random.normal((3, 2, 6))
    layer.route.use([BASE_SLOT])
    assert mx.array_equal(layer.linear(x), layer.routed(x))
    layer.route.use([0, *others])
    assert mx.array_equal(layer.linear(x)[0], layer.routed(x)[0])


@pytest.mark.parametrize("slots", [(2, 0, 1, 2), (2, 1, 2, 1), (FAR, 0, 1, 3), (FAR, FAR, FAR, FAR), (1,), (FAR,)])
def test_a_row_of_a_slot_gets_its_low_rank_product(layer: Layer, slots: tuple[int, ...]) -> None:
    """Each row of a batch is the base plus x A B of its own slot, whichever way the products are made."""
    x = mx.random.normal((len(slots), 2, 6))
    layer.route.use(slots)
    together = layer.routed(x)
    for row, slot in enumerate(slots):
        assert mx.allclose(layer.expected(x[row], slot), together[row], atol=1e-5)
        layer.route.use([slot])
        assert mx.allclose(together[row], layer.routed(x[row : row + 1])[0], atol=1e-5)


@pytest.mark.parametrize("slots", [(1, 2), (1, FAR)])
def test_rows_without_slots_are_an_error(layer: Layer, slots: tuple[int, int]) -> None:
    """A pass with other rows than its slots stops, where a product would have broadcast in silence."""
    layer.route.use(slots)
    with pytest.raises(AssertionError, match="other rows"):
        layer.routed(mx.zeros((3, 2, 6)))


@pytest.mark.parametrize("slots", [(1, 3), (1, 3, FAR)])
@pytest.mark.parametrize("part", ["a", "b"])
def test_what_overflows_in_a_slot_stays_there(layer: Layer, slots: tuple[int, ...], part: str) -> None:
    """Factors that no product can hold do not reach rows of the slots around them."""
    a, b = layer.factors[2]
    layer.routed.fill(2, a * 3e38 if part == "a" else a, b * 3e38 if part == "b" else b)
    x = mx.random.normal((len(slots), 2, 6))
    layer.route.use(slots)
    found = layer.routed(x)

    for row, slot in enumerate(slots):
        assert mx.allclose(layer.expected(x[row], slot), found[row], atol=1e-5)


def test_what_was_put_in_a_slot_leaves_with_the_next(layer: Layer) -> None:
    """Rows that were written before do not keep it, alone or in a mixed batch."""
    x = mx.random.normal((2, 2, 6))
    for slots in ((1, 1), (1, 2)):
        layer.route.use(slots)
        mx.eval(layer.routed(x))
    layer.factors[1] = (mx.random.normal((6, 1)), mx.random.normal((1, 5)))
    layer.routed.fill(1, *layer.factors[1])
    for slots in ((1, 1), (1, 2)):
        layer.route.use(slots)
        assert mx.allclose(layer.expected(x[0], 1), layer.routed(x)[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
def test_a_layer_keeps_the_base_s_type(dtype: Any) -> None:
    """Slots are float32 whatever the base is, and the output has the base's type."""
    linear, route = nn.Linear(6, 5), Route(4)
    linear.set_dtype(dtype)
    wrapped = RoutedLinear(linear, 2, route)
    x = mx.ones((2, 1, 6), dtype)
    for slots in ([0], [1], [0, 1]):
        route.use(slots)
        assert dtype == wrapped(x[: len(slots)] if len(slots) > 1 else x).dtype
    assert mx.float32 == wrapped.a.dtype == wrapped.b.dtype


def test_a_quantised_layer_can_be_routed() -> None:
    """The sizes of a quantised layer are those of the layer it was."""
    mx.random.seed(0)
    linear, route = nn.Linear(64, 32).to_quantized(32, 4), Route(4)
    wrapped = RoutedLinear(linear, 2, route)
    a, b = mx.random.normal((64, 4)), mx.random.normal((4, 32))
    wrapped.fill(1, a, b)
    x = mx.random.normal((1, 3, 64))
    route.use([1])

    assert mx.allclose(linear(x) + x @ a @ b, wrapped(x), atol=1e-3)


# -- one layer with a DoRA


def a_dora(linear: Any) -> tuple[RoutedLinear, Route, Any]:
    """*linear* with a LoRA in slot 1 and a DoRA in slot 2, its route, and mlx-lm's layer with that DoRA."""
    theirs = DoRALinear.from_base(linear, r=3, scale=2.5)
    theirs.lora_b = mx.random.normal(theirs.lora_b.shape)
    theirs.m = theirs.m * mx.random.uniform(0.5, 2, theirs.m.shape)
    route = Route(4)
    layer = RoutedLinear(linear, 3, route)
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
    layer = RoutedLinear(linear, 3, route)
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
    route = Route(4)
    wrapped = RoutedLinear(linear, 2, route)
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
    """With slots filled, rows of the base have bit for bit the logits of the plain model's last hidden states."""
    base = loaded(folder)
    head = vocabulary_head(base)
    assert head is not None
    plain = head(base.model(mx.array([IDS, IDS[::-1]]))[:, -1:])[:, -1]
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
    write(model, 1, buffer.getvalue(), 1.5, list(shapes), kind == "dora")
    write(wide, 1, widened, 1.5, list(shapes), kind == "dora")

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


def under(model: RoutedModel, slots: Sequence[int]) -> Callable[..., mx.array]:
    """*model* as mlx-lm would call it, its rows each under their slot: logits (rows, 1, vocabulary)."""
    return lambda tokens, cache: model.last_logits(tokens, cache, slots)[:, None]


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
        write(model, slot, made.weights, made.lora.scale, made.lora.modules, made.lora.type == "dora")
        plain[slot] = through_mlx_lm(loaded(folder, bits), made, tmp_path / str(slot))
    slots = [3, 0, 1, 2, 1]
    tokens, found = greedy(under(model, slots), model.make_cache(), len(slots))

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


def test_a_prompt_can_be_fed_in_pieces(folder: Path) -> None:
    """Fed without logits, its last token then gives those of the whole prompt."""
    model = routed(folder)
    fill(model, 2, 4, seed=1)
    cache = model.make_cache()
    model.feed(mx.array([IDS[:2]]), cache, 2)
    model.feed(mx.array([IDS[2:-1]]), cache, 2)

    assert mx.allclose(logits(model, [(2, IDS)]), model.last_logits(mx.array([IDS[-1:]]), cache, [2]), atol=1e-4)


# -- rank


def test_slots_grow_when_an_adapter_needs_it(folder: Path) -> None:
    """They begin at a small rank, whatever the limit; what stands in other slots stays to the bit."""
    model, high = routed(folder, rank=32), routed(folder, rank=32)
    small = slots_of(model)
    fill(model, 1, FIRST_RANK, seed=1)
    before = logits(model, [(1, IDS)])
    assert small == slots_of(model)
    for each in (model, high):
        fill(each, 2, 20, seed=2, kind="dora")

    assert slots_of(model) > 2 * small
    assert mx.array_equal(before, logits(model, [(1, IDS)]))
    assert mx.array_equal(logits(high, [(2, IDS)]), logits(model, [(2, IDS)]))
    together = logits(model, [(2, IDS), (0, IDS), (1, IDS)])
    alone = [logits(model, [(slot, IDS)])[0] for slot in (2, 0, 1)]
    assert mx.allclose(mx.stack(alone), together, atol=1e-4)


def slots_of(model: RoutedModel) -> int:
    """Bytes of all factors."""
    return sum(layer.a.nbytes + layer.b.nbytes for layer in model.routed.values())


def test_rows_can_be_written_between_the_pieces_of_an_adapter(folder: Path) -> None:
    """Whatever of it is there already, rows of other slots are as before; at the end it is whole."""
    model, fresh = routed(folder, rank=32), routed(folder, rank=32)
    fill(model, 1, 4, seed=1)
    rows = [(1, IDS), (0, IDS), (3, IDS)]
    before = logits(model, rows)
    shapes = projections_of(model)
    weights = make_weights(20, list(shapes), 2, shapes, 0.3, "dora")
    for _ in slowly(model, 2, save(weights), 2.0, list(shapes), True):
        assert mx.allclose(before, logits(model, rows), atol=1e-4)
    write(fresh, 2, save(weights), 2.0, list(shapes), True)

    assert mx.array_equal(logits(fresh, [(2, IDS)]), logits(model, [(2, IDS)]))


def slowly(model: RoutedModel, *what: Any) -> Iterator[None]:
    """The pieces, however few they were: one more before the first and one after the last."""
    yield
    yield from model.write(*what)
    yield
