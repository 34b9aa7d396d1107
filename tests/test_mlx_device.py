"""The real device: rows of several adapters in one batch are, token for token, what plain mlx-lm gives each alone.

The models are small and random, a Llama and an LFM2; the adapters are published as training does it, and the
reference loads the same folders with mlx-lm's own ``load_adapters``.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from safetensors.numpy import load, load_file, save, save_file

from base_model.load import load_base, projections
from errors import AdapterRefused, BaseRefused
from prompt_format.adapter_check import CheckedAdapter, covered_modules
from prompt_format.adapter_store import read_generation
from prompt_format.format import format_for
from prompt_format.manifest import CONFIG, WEIGHTS
from prompt_format.probe import PROBE_LOGITS, probe_prompt
from service.choice import Sampling
from service.engine import BaseFacts, Engine, Row, Written
from service.mlx_device import MlxDevice
from tests.fakes import altered, checked, checked_files, make_candidate, make_weights
from tests.tiny import tiny_model
from training.publish import publish

PATIENCE = 60
GREEDY = Sampling(temperature=0)
LENGTH = 12
PROMPTS = [[5, 40, 9, 71, 33, 8], [200, 3, 3, 17], [*range(90, 125)]]
# The two adapters of each model: rank, and the layers they change.
ADAPTERS = {
    "llama": {
        "ann": (4, ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"]),
        "ben": (8, ["mlp.up_proj", "self_attn.o_proj"]),
    },
    "lfm2": {
        "ann": (4, ["conv.in_proj", "self_attn.q_proj", "feed_forward.w2"]),
        "ben": (8, ["feed_forward.w1", "self_attn.out_proj"]),
    },
}


@cache
def plain(folder: Path, adapter: Path | None = None) -> Any:
    """mlx-lm's own model, with *adapter* loaded by mlx-lm itself."""
    model, _ = load_model(folder)
    if adapter is not None:
        load_adapters(model, str(adapter))
    model.eval()
    return model


@dataclass
class World:
    """A base model and a store with two adapters for it."""

    folder: Path
    store: Path
    facts: BaseFacts
    adapters: dict[str, CheckedAdapter] = field(default_factory=dict)

    def publish(self, name: str, rank: int, keys: Sequence[str], weights: dict[str, np.ndarray] | None = None) -> None:
        """A strong random adapter, with the probe that its trainer would have measured."""
        modules = covered_modules(self.facts.shapes, self.facts.blocks, list(keys), self.facts.blocks)
        weights = weights or make_weights(rank, modules, len(name), self.facts.shapes, spread=0.3)
        candidate = make_candidate(name, base=self.facts, rank=rank, keys=keys, weights=weights)
        trained = self.store.parent / f"trained-{name}"
        trained.mkdir()
        (trained / WEIGHTS).write_bytes(candidate.weights)
        (trained / CONFIG).write_bytes(candidate.config)
        ids = probe_prompt(format_for(self.facts.template, candidate.contract))
        probe = plain(self.folder, trained)(mx.array([ids]))[0, -1, :PROBE_LOGITS].tolist()
        generation = publish(
            self.store, make_candidate(name, base=self.facts, rank=rank, keys=keys, weights=weights, probe=probe), True
        )
        self.adapters[name] = checked(self.store, name, generation, self.facts)

    def alone(self, name: str, ids: Sequence[int], length: int = LENGTH) -> list[int]:
        """The greedy tokens after *ids* as plain mlx-lm writes them, up to the end of the turn."""
        adapter = self.adapters.get(name)
        model = plain(self.folder, self.store / name / adapter.generation if adapter else None)
        tokens: list[int] = []
        for token, _ in generate_step(mx.array(list(ids)), model, max_tokens=length):
            if token in self.facts.template.stop_ids:
                break
            tokens.append(int(token))
        return tokens


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


class OnThread:
    """A device used from a test: every call is made on a thread that is the device's alone, and ends with it."""

    def __init__(self, folder: Path, slots: int = 3, rank: int = 8, rows: int = 8):
        self.thread = ThreadPoolExecutor(1)
        self.device: MlxDevice = self.call(MlxDevice, str(folder), slots, rank, rows)
        self.written: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}
        self.logprobs: dict[int, float] = {}

    def __enter__(self) -> "OnThread":
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.device.close)
        self.thread.shutdown()

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return self.thread.submit(work, *arguments).result(PATIENCE)

    def insert(
        self, ids: Sequence[int], slot: int, sampling: Sampling = GREEDY, seed: int = 0, length: int = LENGTH
    ) -> int:
        key: int = self.call(self.device.insert, Row(list(ids), slot, length, sampling, seed))
        self.written[key], self.logprobs[key] = [], 0.0
        return key

    def stage(self, slot: int, adapter: CheckedAdapter) -> None:
        self.call(self.device.stage, slot, adapter)

    def remove(self, key: int) -> None:
        self.call(self.device.remove, [key])
        del self.written[key]

    def step(self) -> None:
        for token in self.call(self.device.step):
            self.logprobs[token.key] += token.logprob
            if token.end != "stop":
                self.written[token.key].append(token.token)
            if token.end is not None:
                self.ends[token.key] = token.end

    def finish(self) -> None:
        for _ in range(5000):
            if self.ends.keys() >= self.written.keys():
                return
            self.step()
        raise AssertionError("rows that never end")


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
    long = list(range(10, 250)) * 3
    rows = [device.insert(ids, slot) for ids, slot in [(PROMPTS[0], 0), (long, 1), (PROMPTS[1], 1), (PROMPTS[2], 1)]]
    device.step()
    device.remove(rows[1])  # in the middle of its prefill
    device.step()
    device.remove(device.insert(PROMPTS[0], 1))  # before it
    while len(device.written[rows[0]]) < 5:
        device.step()
    device.remove(rows[2])
    device.finish()

    expected = [world.alone("base", PROMPTS[0]), world.alone("ann", PROMPTS[2])]
    assert expected == [device.written[rows[0]], device.written[rows[3]]]


def test_more_rows_than_the_batch_holds_are_what_each_is_alone(world: World) -> None:
    """Rows that come one after the other into a small batch keep their slots."""
    names = ["ann", "base", "ben", "ann", "ben", "base"]
    slots = {"base": 0, "ann": 1, "ben": 2}
    with OnThread(world.folder, rows=2) as device:
        device.stage(1, world.adapters["ann"])
        device.stage(2, world.adapters["ben"])
        keys = [device.insert(PROMPTS[n % 3], slots[name], length=4 + n) for n, name in enumerate(names)]
        device.finish()

    expected = [world.alone(name, PROMPTS[n % 3], 4 + n) for n, name in enumerate(names)]
    assert expected == [device.written[key] for key in keys]


def test_a_cleared_slot_is_the_base(world: World, device: OnThread) -> None:
    """After clear a slot's rows are the base's."""
    device.stage(2, world.adapters["ben"])
    device.call(device.device.clear, 2)
    key = device.insert(PROMPTS[0], 2)
    device.finish()

    assert world.alone("base", PROMPTS[0]) == device.written[key]


def test_log_probabilities_are_those_of_the_model(world: World, device: OnThread) -> None:
    """A row's log-probability is the sum over its tokens of what plain mlx-lm gives them."""
    device.stage(1, world.adapters["ann"])
    key = device.insert(PROMPTS[0], 1, length=6)
    device.finish()
    tokens, ids = device.written[key], PROMPTS[0]
    model = plain(world.folder, world.store / "ann" / world.adapters["ann"].generation)
    logits = model(mx.array([ids + tokens]))[0]
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
    """A penalty makes a row repeat less, and its neighbour as much as before."""
    punished, normal = sampled(llamas, (Sampling(0, repetition_penalty=2.0), 0), (GREEDY, 0), length=40)

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
        ("probe_not_finite", scaled(1e38, "lora_b")),
    ],
    ids=["A30 exchanged", "another sign", "A94 is the base", "A94 not finite"],
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


def test_a_rank_above_the_slots_is_refused(llama: World) -> None:
    """A91: an adapter of a larger rank than the slots have is refused with the option that would take it."""
    with OnThread(llama.folder, slots=1, rank=4) as small:
        with pytest.raises(AdapterRefused, match="--rank 8") as refusal:
            small.stage(1, llama.adapters["ben"])
        assert "config_invalid" == refusal.value.code
        small.stage(1, llama.adapters["ann"])


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
    engine = Engine(lambda: MlxDevice(str(world.folder), 3, 8, 4), rows=4)
    facts = engine.start().result(PATIENCE)

    async def work() -> list[Written]:
        await engine.stage(1, world.adapters["ann"])
        with pytest.raises(AdapterRefused):
            await engine.stage(2, changed(world, exchange))
        slots = [0, 1, 2, 1, 0]
        return await asyncio.gather(*(engine.write(Row(PROMPTS[0], slot, LENGTH, GREEDY, 0)) for slot in slots))

    written = asyncio.run(asyncio.wait_for(work(), PATIENCE))
    engine.stop()
    names = ["base", "ann", "base", "ann", "base"]
    assert [world.alone(name, PROMPTS[0]) for name in names] == [each.tokens for each in written]
    assert (world.facts.fingerprint, None) == (facts.fingerprint, engine.failure)


def test_a_base_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """A folder that is no model is the start's error."""
    engine = Engine(lambda: MlxDevice(str(tmp_path), 1, 4, 2))
    with pytest.raises(BaseRefused):
        engine.start().result(PATIENCE)
