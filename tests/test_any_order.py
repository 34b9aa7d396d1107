"""Requests, reloads and removals in any order: no slot is ever two generations', and nothing is left over."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from errors import AdapterRefused, Busy, RequestRefused, UnknownAdapter
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.adapter_store import CURRENT
from prompt_format.manifest import WEIGHTS
from service.engine import Engine
from service.registry import Registry
from service.slot_pool import Serving
from tests.fakes import FakeDevice, facts, make_adapter, scenario, write
from tests.registries import PATIENCE_S, running

NAMES = ("ann", "ben", "cleo", "dora", "emil", "finn")
SLOTS = 3
LIKELY = (0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5)  # which name something happens to


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Each name's generations in a store that is only copied: three good ones, one too large, one torn."""
    store = tmp_path_factory.mktemp("store")
    found = {}
    for number, name in enumerate(NAMES):
        found[name] = [make_adapter(store, name, seed=10 * number + n, rank=5 if n == 3 else 2) for n in range(5)]
        os.truncate(store / name / found[name][-1] / WEIGHTS, 100)
        write(store / name / CURRENT, f"{found[name][0]}\n".encode())
    found["store"] = [str(store)]
    return found


class WatchedDevice(FakeDevice):
    """A device that fails the test when a slot that is in use is written to or given back."""

    def __init__(self) -> None:
        super().__init__(facts(slots=SLOTS))
        self.in_use: dict[int, int] = {}
        self.faults: list[str] = []

    def stage(self, slot: int, adapter: CheckedAdapter) -> Iterator[str]:
        self._check("staged", slot)
        time.sleep(0.002)  # so that something happens meanwhile
        if slot in self.slots:
            self.faults.append(f"slot {slot} staged over {self.slots[slot].name}")
        return super().stage(slot, adapter)

    def free(self, slot: int) -> None:
        self._check("freed", slot)
        super().free(slot)

    def _check(self, what: str, slot: int) -> None:
        if self.in_use.get(slot):
            self.faults.append(f"slot {slot} {what} under a lease")


@dataclass
class Request:
    """One client: it asks for *name*, and holds what it got until it is told to go."""

    name: str
    go: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class World:
    """A service in the middle of its life, and its clients."""

    def __init__(self, store: Path, device: WatchedDevice, registry: Registry, engine: Engine, published: object):
        self.store, self.device, self.registry, self.engine = store, device, registry, engine
        self.published = published
        self.requests: list[Request] = []
        self.reloads: list[asyncio.Task[object]] = []
        self.removed: set[str] = set()

    async def ask(self, request: Request) -> None:
        try:
            async with self.registry.lease(request.name) as serving:
                assert serving is not None
                self.hold(serving, 1)
                generation = serving.checked.generation
                try:
                    await request.go.wait()
                    assert self.device.slots[serving.slot].generation == generation
                    assert serving.checked.name == request.name
                finally:
                    self.hold(serving, -1)
        except (UnknownAdapter, AdapterRefused, Busy):
            pass

    def hold(self, serving: Serving, count: int) -> None:
        self.device.in_use[serving.slot] = self.device.in_use.get(serving.slot, 0) + count

    async def reload(self, name: str | None, generation: str | None = None, dry_run: bool = False) -> None:
        try:
            await self.registry.reload(name, generation, dry_run=dry_run)
        except (RequestRefused, AdapterRefused):
            pass

    async def do(self, step: tuple[str, int, int]) -> None:
        """One thing that can happen."""
        what, number, pick = step
        name = NAMES[number]
        generations = self.published[name]  # type: ignore[index]
        if what == "ask":
            request = Request(name)
            request.task = asyncio.create_task(self.ask(request))
            self.requests.append(request)
        elif what in ("end", "leave") and self.requests:
            request = self.requests.pop(pick % len(self.requests))
            assert request.task is not None
            request.go.set() if what == "end" else request.task.cancel()
            await asyncio.wait([request.task])
            assert request.task.cancelled() or request.task.exception() is None
        elif what in ("publish", "retrain") and name not in self.removed:
            write(self.store / name / CURRENT, f"{generations[pick % len(generations)]}\n".encode())
            if what == "retrain":
                await self.reload(name)
        elif what == "remove":
            self.removed.add(name)
            shutil.rmtree(self.store / name, ignore_errors=True)
        elif what.startswith("reload"):
            chosen = {"reload": None, "reload all": None, "reload pinned": generations[pick % len(generations)]}
            asked = None if what == "reload all" else name
            task = asyncio.create_task(self.reload(asked, chosen.get(what), dry_run=what == "reload dry"))
            self.reloads.append(task)
            if pick % 3 == 0:
                await asyncio.sleep(0.001 * pick)
                task.cancel()
        await asyncio.sleep(0.001 * (pick % 4))


STEPS = (
    "ask", "ask", "ask", "end", "leave", "publish", "retrain", "retrain", "remove", "reload", "reload all",
    "reload pinned", "reload dry",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@example([("ask", 0, 2), ("retrain", 0, 1), ("ask", 0, 1), ("retrain", 0, 2), ("end", 0, 0)])  # two old ones at once
@example([("retrain", 0, 3), ("retrain", 1, 4), ("reload all", 0, 1)])  # refused by the device, and by the checks
@example([("publish", 0, 1), ("reload", 0, 3), ("publish", 1, 2), ("reload all", 0, 6)])  # cut while being staged
@example([("ask", name, 1) for name in range(6)] + [("retrain", 5, 1), ("end", 0, 0), ("ask", 0, 3)])  # all in use
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from(LIKELY), st.integers(0, 9)), min_size=10, max_size=40
    )
)
def test_no_slot_is_shared_and_nothing_is_left(
    published: dict[str, list[str]], steps: list[tuple[str, int, int]]
) -> None:
    """Whatever comes in whatever order, a lease's slot holds its generation to the end; then all slots are free."""

    async def work(store: Path) -> None:
        device = WatchedDevice()
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(running(device))
            registry = Registry(store, engine, device.facts, None, PATIENCE_S)
            await registry.start()
            world = World(store, device, registry, engine, published)
            for step in steps:
                await world.do(step)
            for request in world.requests:
                request.go.set()
            ends = [request.task for request in world.requests if request.task] + world.reloads
            if ends:
                await asyncio.wait(ends)
            assert [] == [end.exception() for end in ends if not end.cancelled() and end.exception()]
            while registry._loads:  # those that everybody has left
                await asyncio.sleep(0.005)
            await engine.memory()
            in_slots = {serving.slot: serving.checked.generation for serving in registry.serving.values()}
            assert in_slots == {slot: adapter.generation for slot, adapter in device.slots.items()}
            assert all(0 == row["in_flight"] == row["in_flight_on_previous"] for row in registry.describe())
            shutil.rmtree(store)
            store.mkdir()
            await registry.reload()
            await engine.memory()
            assert ([], {}, [1, 2, 3]) == (registry.describe(), device.slots, sorted(registry._pool._free))
        assert [] == device.faults

    with tempfile.TemporaryDirectory() as folder:
        store = Path(shutil.copytree(published["store"][0], Path(folder) / "adapters"))
        scenario(lambda: work(store))
