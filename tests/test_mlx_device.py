"""The real device: rows of several adapters in one batch are, token for token, what plain mlx-lm gives each alone.

The models are small and random, a Llama and an LFM2; the adapters are published as training does it, and the
reference loads the same folders with mlx-lm's own ``load_adapters``.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors
from safetensors.numpy import load, load_file, save, save_file

from base_model.load import load_base, projections
from errors import AdapterRefused, BaseRefused
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.adapter_store import read_generation
from service.choice import Sampling
from service.engine import Engine, Job, Written
from service.mlx_device import MlxDevice
from tests.exact import GREEDY, LENGTH, PATIENCE, PREFIX_BYTES, OnThread, World
from tests.fakes import altered, checked_files
from tests.tiny import tiny_model

PROMPTS = [[5, 40, 9, 71, 33, 8], [200, 3, 3, 17], [*range(90, 125)]]
# The adapters of each model: rank, and the layers they change.
ADAPTERS = {
    "llama": {
        "large": (24, ["self_attn.q_proj", "mlp.up_proj"]),
        "ann": (4, ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]),
        "ben": (8, ["mlp.up_proj", "self_attn.o_proj"]),
    },
    "lfm2": {
        "ann": (4, ["conv.in_proj", "self_attn.q_proj", "feed_forward.w2"]),
        "ben": (8, ["feed_forward.w1", "self_attn.out_proj"]),
    },
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    @cache
    def made(kind: str) -> World:
        path = tmp_path_factory.mktemp(kind)
        folder = lively(tiny_model(path / "model", kind, seed=3))
        with OnThread(folder) as device:
            world = World(folder, path / "adapters", device.device.facts)
        for name, (rank, keys) in ADAPTERS[kind].items():
            world.publish(name, rank, keys)
        return world

    return made


@pytest.fixture(params=list(ADAPTERS))
def world(request: pytest.FixtureRequest, worlds: Callable[[str], World]) -> World:
    """Each kind of model in turn."""
    return worlds(request.param)


@pytest.fixture
def llama(worlds: Callable[[str], World]) -> World:
    """One kind of model, for what does not depend on it."""
    return worlds("llama")


def lively(folder: Path) -> Path:
    """The model in *folder* with blocks that say more than its embedding does: it would repeat one token."""
    weights = load_file(folder / "model.safetensors")
    last = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "w2.weight")
    louder = {name: value * np.float32(6 if name.endswith(last) else 1) for name, value in weights.items()}
    save_file(louder, folder / "model.safetensors", {"format": "mlx"})
    return folder


@pytest.fixture
def device(world: World) -> Iterator[OnThread]:
    with OnThread(world.folder) as device:
        yield device


@pytest.fixture
def llamas(llama: World) -> Iterator[OnThread]:
    """A device with that one model."""
    with OnThread(llama.folder) as device:
        yield device


# -- exactly what each gives alone


def test_the_adapters_of_these_tests_differ(world: World) -> None:
    """Base and adapters write other tokens after every prompt, and various ones: what follows compares something."""
    for ids in PROMPTS:
        written = [tuple(world.alone(name, ids)) for name in ("base", "ann", "ben")]
        assert 3 == len(set(written))
        assert min(len(set(tokens)) for tokens in written) > LENGTH // 4


def test_rows_of_one_batch_are_what_each_is_alone(world: World, device: OnThread) -> None:
    """Rows of the base and of two adapters of different rank, in one batch, give exactly the tokens of each alone."""
    device.stage(1, world.adapters["ann"])
    device.stage(3, world.adapters["ben"])
    slots = {"base": 0, "ann": 1, "ben": 3}
    keys = {
        (name, number): device.insert(ids, slot) for number, ids in enumerate(PROMPTS) for name, slot in slots.items()
    }
    device.finish()

    assert {key: world.alone(key[0], PROMPTS[key[1]]) for key in keys} == {
        key: device.written[keys[key]] for key in keys
    }


def test_a_generation_joins_a_batch_that_is_decoding(world: World, device: OnThread) -> None:
    """An adapter staged while rows decode serves new rows at once, and the rows that were there go on as before."""
    device.stage(1, world.adapters["ann"])
    before = [device.insert(PROMPTS[0], 0), device.insert(PROMPTS[1], 1)]
    while min(len(device.written[key]) for key in before) < 4:
        device.step()
    device.stage(2, world.adapters["ben"])
    after = [device.insert(PROMPTS[2], 2), device.insert(PROMPTS[0], 1), device.insert(PROMPTS[1], 0)]
    device.finish()

    expected = [("base", 0), ("ann", 1), ("ben", 2), ("ann", 0), ("base", 1)]
    assert [world.alone(name, PROMPTS[number]) for name, number in expected] == [
        device.written[key] for key in before + after
    ]


def test_a_slot_can_be_taken_over_while_others_decode(world: World, device: OnThread) -> None:
    """A slot whose rows have left is filled anew beside rows of other slots; the larger adapter leaves no trace."""
    device.stage(1, world.adapters["ben"])
    leaves, stays = device.insert(PROMPTS[0], 1), device.insert(PROMPTS[1], 0)
    while len(device.written[stays]) < 3:
        device.step()
    device.remove(leaves)
    device.stage(1, world.adapters["ann"])
    joins = device.insert(PROMPTS[0], 1)
    device.finish()

    assert [world.alone("base", PROMPTS[1]), world.alone("ann", PROMPTS[0])] == [
        device.written[key] for key in (stays, joins)
    ]


def test_a_row_that_leaves_changes_no_other(world: World, device: OnThread) -> None:
    """Rows taken out before, in the middle of, and after their prefill leave the others' tokens as they are."""
    device.stage(1, world.adapters["ann"])
    long = Job(list(range(10, 250)) * 3, 1, (0,))
    stays, leaves = device.insert(PROMPTS[0], 0), device.insert(PROMPTS[1], 1)
    dropped = [device.begin(long), device.begin(long)]
    device.feed(dropped[0], 200)  # and never the rest of it
    device.step()
    later = device.insert(PROMPTS[2], 1)
    while len(device.written[leaves]) < 5:
        device.step()
    device.remove(leaves)
    device.finish()

    assert [world.alone("base", PROMPTS[0]), world.alone("ann", PROMPTS[2])] == [
        device.written[key] for key in (stays, later)
    ]


def test_rows_that_come_one_after_the_other_keep_their_slots(world: World, device: OnThread) -> None:
    """Rows of any length join while others have just left."""
    names = ["ann", "base", "ben", "ann", "ben", "base"]
    slots = {"base": 0, "ann": 1, "ben": 2}
    device.stage(1, world.adapters["ann"])
    device.stage(2, world.adapters["ben"])
    keys = [device.insert(PROMPTS[n % 3], slots[name], length=4 + n) for n, name in enumerate(names)]
    device.finish()

    expected = [world.alone(name, PROMPTS[n % 3], 4 + n) for n, name in enumerate(names)]
    assert expected == [device.written[key] for key in keys]


def test_replies_to_one_prompt_share_its_prefill(world: World, device: OnThread) -> None:
    """Three replies from one prefill are each what it is alone, and a prompt that has no seeds writes none."""
    device.stage(1, world.adapters["ann"])
    keys = device.ask(Job(PROMPTS[2], 1, (1, 2, 3), LENGTH, GREEDY)).keys
    assert [] == device.ask(Job(PROMPTS[0], 1)).keys
    device.finish()

    assert [world.alone("ann", PROMPTS[2])] * 3 == [device.written[key] for key in keys]


# -- prompts that are known


def cached(device: OnThread, ids: list[int], slot: int = 0, **what: Any) -> int:
    """How much of *ids* was known when it was asked for; it is written to its end."""
    feeding = device.ask(Job(ids, slot, (0,), LENGTH, GREEDY, **what))
    device.finish()
    return feeding.cached


def test_a_prompt_begins_where_one_before_it_ended(world: World, device: OnThread) -> None:
    """Up to a mark that both have, or all but its last token; the replies are those of a cold prompt."""
    first, other = [*range(40, 90)], [*range(40, 70), 7, 8, 9]
    asked = [(first, (30,)), (other, (30,)), (first, (30,)), ([*first, 11, 12], (30, 50))]
    found = [cached(device, ids, marks=marks) for ids, marks in asked]

    assert [0, 30] == found[:2]
    assert found[2] in (30, 49) and found[3] in (30, 50)
    assert [world.alone("base", ids) for ids, _ in asked] == list(device.written.values())


@pytest.mark.parametrize("chunk", [1, 16, 29, 30, 31, 50])
def test_a_mark_is_kept_wherever_chunks_end(world: World, device: OnThread, chunk: int) -> None:
    """Just behind the end of a chunk too; a second mark close behind it is not worth a place of its own."""
    job = Job([*range(40, 90)], 0, marks=(30, 33))
    device.ask(job, chunk)
    branch = device.ask(Job([*job.ids[:35], 7, 8, 9], 0, (0,), LENGTH, GREEDY))
    device.finish()

    assert branch.cached in (30, 33, 35)
    assert world.alone("base", [*job.ids[:35], 7, 8, 9]) == device.written[branch.keys[0]]


def test_a_prompt_goes_on_from_a_reply(world: World, device: OnThread) -> None:
    """Where a job says that later prompts may begin with its reply, they begin with it."""
    device.stage(1, world.adapters["ann"])
    assert 0 == cached(device, PROMPTS[2], 1, extends=True)
    longer = [*PROMPTS[2], *next(iter(device.written.values())), 7, 8, 9]

    assert len(longer) - 4 <= cached(device, longer, 1, extends=True) < len(longer)
    assert world.alone("ann", longer) == list(device.written.values())[1]


def test_what_one_adapter_computed_is_never_used_under_another(world: World, device: OnThread) -> None:
    """Each slot has its own beginnings of prompts, and they go with its adapter and when it is freed."""
    device.stage(1, world.adapters["ann"])
    assert [0, 0] == [cached(device, PROMPTS[2], slot, marks=(30,)) for slot in (0, 1)]
    assert 0 < cached(device, PROMPTS[2], 1, marks=(30,))
    device.stage(1, world.adapters["ben"])
    assert 0 == cached(device, PROMPTS[2], 1, marks=(30,))
    device.call(device.device.free, 1)
    assert 0 == cached(device, PROMPTS[2], 1, marks=(30,))
    assert 0 < cached(device, PROMPTS[2], 0, marks=(30,))
    assert [world.alone("ben", PROMPTS[2])] * 2 == list(device.written.values())[3:5]


def test_the_hottest_prompts_are_those_used_last(llamas: OnThread) -> None:
    """With their marks, the last one first, and none that another begins with; each can be fed for another slot."""
    for ids in (PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0]):
        cached(llamas, ids, marks=(3,))
    hottest = llamas.call(llamas.device.hottest, 0)
    for ids, marks in hottest:
        llamas.ask(Job(ids, 2, marks=marks))

    assert [(PROMPTS[0], (3,)), (PROMPTS[2], (3,)), (PROMPTS[1], (3,))] == hottest
    assert [] == llamas.call(llamas.device.hottest, 1)
    assert all(cached(llamas, ids, 2) == len(ids) - 1 for ids in PROMPTS)


def test_log_probabilities_are_those_of_the_model(world: World, device: OnThread) -> None:
    """A row's log-probability is the sum over its tokens of what plain mlx-lm gives them."""
    device.stage(1, world.adapters["ann"])
    key = device.insert(PROMPTS[0], 1, length=6)
    device.finish()
    tokens, ids = device.written[key], PROMPTS[0]
    logits = world.reference("ann")(mx.array([ids + tokens]))[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    expected = sum(float(logprobs[len(ids) - 1 + n, token].item()) for n, token in enumerate(tokens))

    assert ("length", 6) == (device.ends[key], len(tokens))
    assert math.isclose(expected, device.logprobs[key], abs_tol=1e-3)


# -- sampling


def sampled(device: OnThread, *rows: tuple[Sampling, int], length: int = LENGTH) -> list[list[int]]:
    keys = [device.insert(PROMPTS[0], 0, sampling, seed, length) for sampling, seed in rows]
    device.finish()
    return [device.written[key] for key in keys]


def test_a_seed_decides_a_row_whatever_else_is_in_the_batch(llamas: OnThread) -> None:
    """The same seed gives the same tokens alone and beside others; another seed gives others."""
    warm = Sampling(temperature=1.5)
    (by_itself,) = sampled(llamas, (warm, 7))
    beside = sampled(llamas, (warm, 8), (GREEDY, 0), (warm, 7), (warm, 2**64 - 1), (warm, 0))

    assert by_itself == beside[2]
    assert 5 == len({tuple(tokens) for tokens in beside})


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=2, top_k=1),
        Sampling(temperature=2, top_p=1e-9),
        Sampling(temperature=2, min_p=1.0),
        Sampling(temperature=1e-9),
        Sampling(temperature=5e-324),
        Sampling(temperature=0, top_p=0.1, top_k=3, min_p=0.5),
    ],
    ids=["top_k", "top_p", "min_p", "cold", "coldest", "greedy"],
)
def test_the_narrowest_sampling_is_greedy(llama: World, llamas: OnThread, sampling: Sampling) -> None:
    """Where only the likeliest token is left, or it is as cold as can be, it is taken."""
    assert [llama.alone("base", PROMPTS[0])] == sampled(llamas, (sampling, 5))


def test_sampling_at_its_bounds_harms_nobody(llama: World, llamas: OnThread) -> None:
    """O11: the most hostile parameters that the schema lets through leave a normal row beside them as it is."""
    hostile = [
        Sampling(2, 1e-300, 10**6, 1.0, 2.0),
        Sampling(1e-300, 5e-324, 1, 0.0, 0.5),
        Sampling(5e-324, 1.0, 0, 1e-300, 1.0),
        Sampling(2, 1.0, 260, 0.0, 0.5),
    ]
    *_, normal = sampled(llamas, *((sampling, 2**64 - 1) for sampling in hostile), (GREEDY, 0))

    assert llama.alone("base", PROMPTS[0]) == normal


def test_a_repetition_penalty_is_the_row_s_own(llama: World, llamas: OnThread) -> None:
    """A penalty makes a row repeat less, exactly as mlx-lm's does, and its neighbour as much as before."""
    punished, normal = sampled(llamas, (Sampling(0, repetition_penalty=2.0), 0), (GREEDY, 0), length=40)
    theirs = make_logits_processors(repetition_penalty=2.0)
    model = llama.reference("base")
    steps = generate_step(mx.array(PROMPTS[0]), model, max_tokens=len(punished), logits_processors=theirs)

    assert [int(token) for token, _ in steps] == punished
    assert llama.alone("base", PROMPTS[0], 40) == normal
    assert len(set(punished)) > len(set(normal))


def test_a_row_ends_with_its_turn(llama: World, llamas: OnThread) -> None:
    """A row that writes a token that ends the turn has finished, and none of those tokens is in it."""
    written = sampled(llamas, *((Sampling(temperature=2), seed) for seed in range(8)), length=100)
    ends = [llamas.ends[key] for key in llamas.written]

    assert {"stop"} <= set(ends) <= {"stop", "length"}
    assert not any(llama.facts.template.stop_ids & set(tokens) for tokens in written)
    assert all((len(tokens) == 100) == (end == "length") for tokens, end in zip(written, ends, strict=True))


# -- the probe


def changed(llama: World, change: Callable[[dict[str, np.ndarray]], Any]) -> CheckedAdapter:
    """Ann's adapter with other weights, which a hostile publisher has signed."""
    files = read_generation(llama.store, "ann", llama.adapters["ann"].generation)
    arrays = {name: array.copy() for name, array in load(files.weights).items()}
    change(arrays)
    files, generation = altered(files, weights=save(arrays))
    return checked_files(files, "ann", generation, llama.facts)


def unchecked(llama: World, change: Callable[[dict[str, np.ndarray]], Any]) -> CheckedAdapter:
    """Ann's adapter with other weights, which nobody has looked at."""
    arrays = {name: array.copy() for name, array in load(llama.adapters["ann"].weights).items()}
    change(arrays)
    return replace(llama.adapters["ann"], weights=save(arrays))


def exchange(arrays: dict[str, np.ndarray]) -> None:
    """Two tensors of one shape, exchanged."""
    names = sorted(name for name in arrays if name.endswith("lora_a"))
    first, other = next((a, b) for a in names for b in names if a < b and arrays[a].shape == arrays[b].shape)
    arrays[first], arrays[other] = arrays[other], arrays[first]


def scaled(factor: float, suffix: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for name in arrays:
            if name.endswith(suffix):
                arrays[name] *= np.float32(factor)

    return change


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("probe_disagrees", exchange),
        ("probe_disagrees", scaled(-1, "lora_b")),
        ("probe_is_base", scaled(1e-30, "lora_b")),
    ],
    ids=["A30 exchanged", "another sign", "A94 is the base"],
)
def test_a_probe_refuses_what_does_not_do_what_was_trained(
    llama: World, llamas: OnThread, code: str, change: Callable[[dict[str, np.ndarray]], Any]
) -> None:
    """An adapter that passes every check of its bytes and computes something else is refused, its slot cleared."""
    with pytest.raises(AdapterRefused) as refusal:
        llamas.stage(2, changed(llama, change))
    key = llamas.insert(PROMPTS[0], 2)
    llamas.finish()

    assert code == refusal.value.code
    assert llama.alone("base", PROMPTS[0]) == llamas.written[key]


@pytest.mark.parametrize("part", ["lora_a", "lora_b"])
def test_a_probe_refuses_what_overflows(llama: World, llamas: OnThread, part: str) -> None:
    """A94: no finite logits. The checks of its bytes would have refused it too."""
    with pytest.raises(AdapterRefused) as refusal:
        llamas.stage(2, unchecked(llama, scaled(1e38, part)))
    key = llamas.insert(PROMPTS[0], 2)
    llamas.finish()

    assert "probe_not_finite" == refusal.value.code
    assert llama.alone("base", PROMPTS[0]) == llamas.written[key]


def test_a_refusal_harms_no_row(llama: World, llamas: OnThread) -> None:
    """Rows that decode while an adapter is refused go on as before."""
    llamas.stage(1, llama.adapters["ann"])
    keys = [llamas.insert(PROMPTS[0], 1), llamas.insert(PROMPTS[1], 0)]
    while len(llamas.written[keys[0]]) < 4:
        llamas.step()
    with pytest.raises(AdapterRefused):
        llamas.stage(2, changed(llama, exchange))
    llamas.finish()

    assert [llama.alone("ann", PROMPTS[0]), llama.alone("base", PROMPTS[1])] == [llamas.written[key] for key in keys]


def test_a_bad_adapter_harms_no_row_while_it_is_staged(llama: World, llamas: OnThread) -> None:
    """Factors that overflow, in a slot between those of rows that are written: these go on as before."""
    llamas.stage(1, llama.adapters["ann"])
    llamas.stage(3, llama.adapters["ben"])
    keys = [llamas.insert(PROMPTS[0], 1), llamas.insert(PROMPTS[1], 3)]
    for part in ("lora_a", "lora_b"):
        with pytest.raises(AdapterRefused):
            for _ in llamas.stage_piecewise(2, unchecked(llama, scaled(1e38, part))):
                llamas.step()
    llamas.finish()

    assert [llama.alone("ann", PROMPTS[0]), llama.alone("ben", PROMPTS[1])] == [llamas.written[key] for key in keys]
    assert all(math.isfinite(llamas.logprobs[key]) for key in keys)


def test_a_rank_above_the_slots_is_refused(llama: World) -> None:
    """A91: an adapter of a larger rank than the slots have is refused with the option that would take it."""
    with OnThread(llama.folder, slots=1, rank=4) as small:
        with pytest.raises(AdapterRefused, match="--rank 8") as refusal:
            small.stage(1, llama.adapters["ben"])
        assert "config_invalid" == refusal.value.code
        small.stage(1, llama.adapters["ann"])


def test_a_higher_rank_finds_room_while_rows_are_written(llama: World) -> None:
    """Slots begin small; an adapter that needs more makes all of them larger, and rows of the others go on."""
    with OnThread(llama.folder, rank=24) as device:
        device.stage(1, llama.adapters["ann"])
        keys = [device.insert(PROMPTS[0], 1), device.insert(PROMPTS[1], 0)]
        before = device.call(device.device.memory)
        for _ in device.stage_piecewise(2, llama.adapters["large"]):
            device.step()
        keys.append(device.insert(PROMPTS[0], 2))
        device.finish()
        assert device.call(device.device.memory) > before

    expected = [("ann", 0), ("base", 1), ("large", 0)]
    assert [llama.alone(name, PROMPTS[number]) for name, number in expected] == [device.written[key] for key in keys]


# -- memory


def test_staging_again_and_again_takes_no_more_memory(llama: World, llamas: OnThread) -> None:
    """After 200 adapters in slots, with replies in between, as much is in use as after the first of them."""
    adapters = [llama.adapters[name] for name in ("ann", "ben")]
    used = []
    for number in range(200):
        llamas.stage(1 + number % 3, adapters[number % 2])
        if number % 40 in (9, 39):
            for slot in range(1, 4):
                llamas.insert(PROMPTS[2], slot, length=3)
            llamas.finish()
            for slot in range(1, 4):
                llamas.call(llamas.device.free, slot)
            used.append(llamas.call(llamas.device.memory))

    assert max(used[1:]) <= 1.01 * used[1] and used[-1] <= 1.01 * used[1]


# -- what it says of itself


def test_the_facts_are_those_of_the_base(world: World) -> None:
    """A device tells the rest of the service what it must know of the base, without mlx."""
    base = load_base(str(world.folder))

    assert (base.name, base.fingerprint, projections(base.model), len(base.model.layers), base.context, 3, 8) == (
        world.facts.name, world.facts.fingerprint, world.facts.shapes, world.facts.blocks, world.facts.context,
        world.facts.slots, world.facts.rank,
    )  # fmt: skip


def test_the_engine_runs_it(world: World) -> None:
    """Behind the engine the device loads, stages, writes and ends on one thread."""
    engine = Engine(lambda: MlxDevice(str(world.folder), 3, 8, PREFIX_BYTES), rows=4)
    facts = engine.start().result(PATIENCE)

    async def work() -> list[Written]:
        await engine.stage(1, world.adapters["ann"])
        with pytest.raises(AdapterRefused):
            await engine.stage(2, changed(world, exchange))
        slots = [0, 1, 2, 1, 0]
        return await asyncio.gather(*(engine.write(Job(PROMPTS[0], slot, (0,), LENGTH, GREEDY)) for slot in slots))

    written = asyncio.run(asyncio.wait_for(work(), PATIENCE))
    engine.stop()
    names = ["base", "ann", "base", "ann", "base"]
    assert [world.alone(name, PROMPTS[0]) for name in names] == [each.replies[0].tokens for each in written]
    assert (world.facts.fingerprint, None) == (facts.fingerprint, engine.failure)


def test_a_base_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """A folder that is no model is the start's error."""
    engine = Engine(lambda: MlxDevice(str(tmp_path), 1, 4, PREFIX_BYTES))
    with pytest.raises(BaseRefused):
        engine.start().result(PATIENCE)
