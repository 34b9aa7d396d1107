"""Whatever else is in the batch, a reply is the one that plain mlx-lm writes alone: token for token, by family of base.

Random prompts that begin alike, in random chunks, for four adapters, two generations of one of them and the base; rows
come, go, and are cancelled while adapters are staged beside them. ``tests/exact.py`` has what is compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from mlx_lm.tuner.dora import DoRALinear

from prompt_format.adapter_check import covered_modules
from service.choice import Sampling
from service.engine import Feeding, Job
from service.mlx_device import NEAR
from tests.exact import OnThread, World, plain
from tests.fakes import make_weights
from tests.families import FAMILIES, checkpoint
from tests.toy_tokenizers import FOLDERS, named

# A longer proof is these numbers with more noughts.
SEEDS = range(2)  # of a mixed batch, for each base
JOBS = 12  # prompts of a mixed batch
AGAIN = 4  # of them are asked again, the prefix cache warm
ROWS = 8  # at once
PROMPT = 120  # tokens, at most
LENGTH = 14
RELOADS = 100
CLOSE = 1e-4  # nats: where the two likeliest tokens are so near, rounding may choose
WARM = Sampling(temperature=1.0)

# Called so: name, rank, scale, kind, every so many-th layer of a block from which on, blocks from the last.
ADAPTERS: dict[str, tuple[str, int, float, str, slice, int | None]] = {
    "ann": ("ann", 2, 8.0, "lora", slice(0, None, 2), None),
    "ann, newer": ("ann", 11, 2.0, "lora", slice(1, None, 2), None),
    "ben": ("ben", 16, 16 / 16**0.5, "lora", slice(None), None),  # scaled as rsLoRA does: alpha / sqrt(rank)
    "cat": ("cat", 5, 2.0, "dora", slice(1, None), None),
    "dan": ("dan", 8, 0.7, "dora", slice(None), 1),
}
# Far apart, so that some batches have rows of slots that are multiplied as one, and others not.
SLOTS = {"base": 0, **dict(zip(ADAPTERS, (1, 2, 3, 17, 18), strict=True))}
LAST = max(SLOTS.values())
BASES = [
    *FAMILIES,
    *(f"{family}, {bits} bits" for family in ("llama", "lfm2") for bits in (4, 8)),
    *named("stories260k"),
]


def made(path: Path, base: str) -> World:
    """A base and its adapters in *path*."""
    if base in FOLDERS:
        folder = FOLDERS[base].path
    else:
        family, _, bits = base.partition(", ")
        folder = checkpoint(path / "model", family, int(bits.split()[0]) if bits else None)
    with OnThread(folder) as device:
        world = World(folder, path / "adapters", device.device.facts)
    keys = sorted({path.split(".", 3)[3] for path in world.facts.shapes})
    for called, (name, rank, scale, kind, which, blocks) in ADAPTERS.items():
        what = {"scale": scale, "kind": kind, "num_layers": blocks}
        weights = weights_for(world, called, keys[which])
        world.publish(called, rank, keys[which], weights, name, **what)
    return world


def weights_for(world: World, called: str, keys: list[str]) -> dict[str, np.ndarray]:
    """As strong as the layers that they change; the lengths of a DoRA are near those of the base."""
    _, rank, scale, kind, _, blocks = ADAPTERS[called]
    facts = world.facts
    modules = covered_modules(facts.shapes, blocks or facts.blocks, keys, facts.blocks)
    weights = make_weights(rank, modules, len(called), facts.shapes, (64 * rank) ** -0.25 * scale**-0.5, kind)
    layers = dict(plain(world.folder).named_modules())
    for path in modules:
        lengths = np.array(DoRALinear.from_base(layers[path], r=1).m)
        weights[f"{path}.lora_b"] *= lengths.mean()
        if kind == "dora":
            weights[f"{path}.m"] *= lengths
    return weights


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    return cache(lambda base: made(tmp_path_factory.mktemp("base"), base))


@pytest.fixture(params=BASES)
def world(request: pytest.FixtureRequest, worlds: Callable[[str], World]) -> World:
    """Each base in turn."""
    return worlds(request.param)


def opened(world: World, ahead: bool = False) -> OnThread:
    """A device with all those slots."""
    return OnThread(world.folder, LAST, 16, ahead)


# -- a mixed batch


@dataclass
class Asked:
    """A job, which adapter it is for, and its rows."""

    called: str
    job: Job
    feeding: Feeding


@dataclass
class Mixed:
    """Jobs that come, are fed, written and cancelled in an order that *random* decides.

    Attributes:
        staged: The adapters that may be asked for.
        staging: What is being staged meanwhile.
    """

    world: World
    device: OnThread
    random: Random
    sampling: Sampling = Sampling(temperature=0)
    staged: list[str] = field(default_factory=lambda: ["base"])
    staging: Iterator[None] | None = None
    fed: list[Asked] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)

    def run(self, jobs: int = JOBS) -> None:
        """Everything that is not cancelled is written to its end."""
        turns = [self.ask] * 3 + [self.feed] * 4 + [self.step] * 6 + [self.cancel, self.stage]
        end = len(self.asked) + jobs
        while len(self.asked) < end or self.fed or self.staging:
            turn = self.random.choice(turns)
            if turn != self.ask or (len(self.asked) < end and len(self.device.unfinished) < ROWS):
                turn()
        self.device.finish()

    def ask(self) -> None:
        called, ids = self.random.choice(self.staged), self.prompt()
        marks = tuple(sorted({self.random.randint(1, len(ids)) for _ in range(3)}))
        seeds = tuple(self.random.getrandbits(64) for _ in range(self.random.randint(1, 3)))
        job = Job(
            ids, SLOTS[called], seeds, self.random.randint(1, LENGTH), self.sampling, marks, self.random.random() < 0.5
        )
        self.asked.append(Asked(called, job, self.device.begin(job)))
        self.fed.append(self.asked[-1])

    def prompt(self) -> list[int]:
        """Of 1 to 120 tokens; most begin as one before."""
        begins = self.random.choice(self.prompts)[: self.random.randint(0, PROMPT - 20)] if self.prompts else []
        most = PROMPT - len(begins) if self.random.random() < 0.3 else 20
        ids = [*begins, *(self.random.randrange(3, 250) for _ in range(self.random.randint(1, most)))]
        self.prompts.append(ids)
        return ids

    def feed(self) -> None:
        if self.fed:
            asked = self.random.choice(self.fed)
            self.device.feed(asked.feeding, self.random.choice([1, 7, 16, 40, PROMPT]))
            if not asked.feeding.left:
                self.fed.remove(asked)

    def step(self) -> None:
        if self.device.unfinished:
            self.device.step()

    def cancel(self) -> None:
        """Take one reply out, or a prompt that is still being fed."""
        if self.random.random() < 0.5 and self.device.unfinished:
            self.device.remove(self.random.choice(self.device.unfinished))
        elif self.random.random() < 0.2 and self.fed:
            self.asked.remove(self.fed.pop())

    def stage(self) -> None:
        """A piece of the next adapter."""
        left = [called for called in ADAPTERS if called not in self.staged]
        if self.staging is None and left:
            self.staging = self._staging(self.random.choice(left))
        if self.staging is not None and next(self.staging, self) is self:
            self.staging = None

    def _staging(self, called: str) -> Iterator[None]:
        yield from self.device.stage_piecewise(SLOTS[called], self.world.adapters[called])
        self.staged.append(called)

    def replies(self) -> Iterator[tuple[str, Job, int, list[int]]]:
        """(which adapter, its job, the seed, the tokens) of every reply that was finished."""
        for asked in self.asked:
            for key, seed in zip(asked.feeding.keys, asked.job.seeds, strict=True):
                if key in self.device.written:
                    yield asked.called, asked.job, seed, self.device.written[key]


def compare(world: World, mixed: Mixed) -> int:
    """Every finished reply is what plain mlx-lm writes; returns how many there were."""
    replies = list(mixed.replies())
    near = 0
    for called, job, seed, found in replies:
        expected = world.alone(called, job.ids, job.max_tokens, job.sampling, seed)
        if found != expected:
            assert job.sampling.temperature == 0 and is_near(world, called, job.ids, expected, found), (called, job)
            near += 1
    assert near <= len(replies) / 50
    return len(replies)


def is_near(world: World, called: str, ids: list[int], expected: list[int], found: list[int]) -> bool:
    """Whether the two first differ where mlx-lm itself could hardly choose."""
    same = next(at for at in range(LENGTH) if expected[at : at + 1] != found[at : at + 1])
    return world.lead(called, [*ids, *expected[:same]]) < CLOSE


def stage_all(device: OnThread, world: World) -> None:
    for called, adapter in world.adapters.items():
        device.stage(SLOTS[called], adapter)


# -- the facts


def test_the_adapters_of_these_tests_differ(world: World) -> None:
    """The base and all five write other replies, and various ones: what follows compares something."""
    random = Random(0)
    prompts = [[random.randrange(3, 250) for _ in range(length)] for length in (1, 30, PROMPT)]
    written = [[world.alone(called, ids) for ids in prompts] for called in SLOTS]

    for each in zip(*written, strict=True):
        assert len({tuple(tokens) for tokens in each}) >= len(SLOTS) - 1  # some end at once
    assert min(len({token for tokens in each for token in tokens}) for each in written) > 8


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_a_mixed_batch_are_what_each_is_alone(world: World, seed: int) -> None:
    """While adapters are staged, prompts fed and rows cancelled; then again, the prefix cache warm; then longer.

    With every other seed the next pass begins before the tokens of the last are read, as on a GPU.
    """
    with opened(world, ahead=bool(seed % 2)) as device:
        mixed = Mixed(world, device, Random(seed))
        mixed.run()
        assert compare(world, mixed) > JOBS / 2
        again = [asked for asked in mixed.asked if len(asked.job.ids) > 20][-AGAIN:]
        for asked in again:
            device.ask(asked.job)
        device.finish()
        warm = Mixed(world, device, Random(seed))
        for asked in again:
            follow(warm, asked)
        device.finish()

        assert compare(world, warm) >= 2 * len(again) == 2 * AGAIN


def follow(mixed: Mixed, asked: Asked) -> None:
    """Ask the same once more, and a longer one: both begin with what is known."""
    job = asked.job
    longer = Job([*job.ids, 7, 9, 11], job.slot, (1,), LENGTH, marks=job.marks, sampling=job.sampling)
    for each in (job, longer):
        feeding = mixed.device.ask(each, mixed.random.choice([1, 16, PROMPT]))
        assert feeding.cached > 0 or max(job.marks) < NEAR
        mixed.asked.append(Asked(asked.called, each, feeding))


@pytest.mark.parametrize("base", ["llama", "lfm2, 4 bits"])
def test_a_hundred_reloads_leave_no_trace(worlds: Callable[[str], World], base: str) -> None:
    """After adapters of all kinds and ranks were staged into all slots in turn, rows are still what each is alone."""
    world, random = worlds(base), Random(3)
    with opened(world) as device:
        for number in range(RELOADS):
            device.stage(1 + number % LAST, world.adapters[random.choice(list(ADAPTERS))])
        stage_all(device, world)
        mixed = Mixed(world, device, random, staged=list(SLOTS))
        mixed.run()

        assert compare(world, mixed) > JOBS / 2


def test_a_seed_decides_a_reply_whatever_the_batch(world: World) -> None:
    """At temperature 1 every reply of a mixed batch is what mlx-lm writes alone with the same draws."""
    with opened(world) as device:
        stage_all(device, world)
        mixed = Mixed(world, device, Random(5), WARM, staged=list(SLOTS))
        mixed.run(JOBS // 2)

    assert compare(world, mixed) > JOBS / 4
    assert any(found != world.alone(called, job.ids, job.max_tokens) for called, job, _, found in mixed.replies())


def test_the_window_of_gemma_comes_round(worlds: Callable[[str], World]) -> None:
    """The prompts of these tests are longer than what its sliding layers keep, and can be branched off at a mark."""
    world = worlds("gemma3")
    model: Any = plain(world.folder)
    with opened(world) as device:
        asked = []
        for last in (7, 8, 7):
            asked.append(device.ask(Job([*range(10, 100), last], 0, (0,), LENGTH, Sampling(temperature=0), (50, 90))))
            device.finish()
        written = [device.written[feeding.keys[0]] for feeding in asked]

    assert [0, 90, 90] == [feeding.cached for feeding in asked]
    assert [world.alone("base", [*range(10, 100), last], LENGTH) for last in (7, 8, 7)] == written

    assert 16 == model.args.sliding_window < PROMPT / 4
    assert {"RotatingKVCache", "KVCache"} == {type(part).__name__ for part in model.make_cache()}
