"""More names than slots: what is loaded when it is asked for, what leaves its slot for it, and who waits."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from errors import AdapterRefused, Busy, UnknownAdapter
from prompt_format.adapter_store import current
from service.registry import Registry
from tests.fakes import PATIENCE, FakeDevice, begun, facts, make_adapter, scenario, staging
from tests.registries import in_flight, registered, spoil, state, statuses, waiting, wrote

NAMES = ("ann", "ben", "cleo", "dora")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four names, published in the order of the alphabet."""
    store = tmp_path_factory.mktemp("store") / "adapters"
    for second, name in enumerate(NAMES):
        make_adapter(store, name, seed=second)
        os.utime(store / name / "CURRENT", (second, second))
    return store


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(published, tmp_path / "adapters"))


def nothing_staged(device: FakeDevice) -> None:
    """What has been staged so far is forgotten."""
    while not device.staged.empty():
        device.staged.get()


def in_slots(registry: Registry) -> set[str]:
    return set(registry.serving)


def test_every_name_in_the_store_answers(store: Path) -> None:
    """A102: four names share two slots, and each is answered by its own generation."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            assert {"ann": "available", "ben": "available", "cleo": "serving", "dora": "serving"} == state(registry)
            for _ in range(2):
                for name in NAMES:
                    assert current(store, name) == await wrote(registry, engine, name)
                    assert "serving" == registry.describe_one(name)["status"] and 2 == len(registry.serving)
            assert [None, 0] == [registry.describe_one("ann")[key] for key in ("slot", "in_flight")]

    scenario(work)


def test_the_one_not_used_for_longest_leaves(store: Path) -> None:
    """A102: the least recently used idle slot is replaced; at first that of the oldest name, never the default's."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3)), default="ann") as (registry, engine):
            assert {"ann", "dora"} == in_slots(registry)
            await wrote(registry, engine, "ben")
            assert {"ann", "ben"} == in_slots(registry)
            await wrote(registry, engine, "ann")
            await wrote(registry, engine, "cleo")
            assert {"ann", "cleo"} == in_slots(registry)

    scenario(work)


def test_a_reload_does_not_make_a_name_look_unused(store: Path) -> None:
    """What was asked for last stays in its slot although its generation is a new one, which nobody has asked yet."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            for name in ("cleo", "dora"):
                await wrote(registry, engine, name)
            make_adapter(store, "dora", seed=9)
            await registry.reload("dora")
            await wrote(registry, engine, "ann")
            assert {"ann", "dora"} == in_slots(registry)

    scenario(work)


def test_requests_for_one_name_share_one_load(store: Path) -> None:
    """Ten requests for a name in no slot read and stage it once, and each gets its lease."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            staged = device.staged.qsize()
            generation = current(store, "ann")
            assert [generation] * 10 == await asyncio.gather(*[wrote(registry, engine, "ann") for _ in range(10)])
            assert staged + 1 == device.staged.qsize()
            assert (0, 0) == in_flight(registry, "ann")

    scenario(work)


def test_with_every_slot_in_use_a_load_is_refused(store: Path) -> None:
    """A102: nothing is taken from a reply that is being written; the request may try again."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            async with registry.lease("cleo"), registry.lease("dora"):
                with pytest.raises(Busy, match="every slot is in use") as refusal:
                    await wrote(registry, engine, "ann")
                assert "no_slot" == refusal.value.code
                assert current(store, "dora") == await wrote(registry, engine, "dora")
            assert {"cleo", "dora"} == in_slots(registry)
            assert current(store, "ann") == await wrote(registry, engine, "ann")

    scenario(work)


def test_a_load_waits_a_moment_for_a_slot(store: Path) -> None:
    """A slot whose last reply ends soon enough is taken."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3)), patience_s=PATIENCE) as (registry, engine):
            async with registry.lease("dora"):
                async with registry.lease("cleo"):
                    asking = asyncio.create_task(wrote(registry, engine, "ann"))
                    await waiting()
                    assert not asking.done()
                assert current(store, "ann") == await asking
            assert {"ann", "dora"} == in_slots(registry)

    scenario(work)


def test_a_reload_has_a_slot_of_its_own(store: Path) -> None:
    """Loads on demand leave one slot to the next generation, whatever is asked for."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            async with registry.lease("cleo"), registry.lease("dora"):
                with pytest.raises(Busy):
                    await wrote(registry, engine, "ann")
                generation = make_adapter(store, "dora", seed=9)
                assert {"dora": "loaded"} == statuses(await registry.reload("dora"))
                assert generation == await wrote(registry, engine, "dora")

    scenario(work)


def test_what_is_bad_is_refused_when_it_is_asked_for(store: Path) -> None:
    """A name whose generation cannot be served says so, each time, and takes no slot from another."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        spoil(store, "ann")
        os.utime(store / "ann" / "CURRENT", (0, 0))
        async with registered(store, device) as (registry, engine):
            assert "available" == registry.describe_one("ann")["status"]
            staged = device.staged.qsize()
            for _ in range(2):
                with pytest.raises(AdapterRefused, match="manifest says something else") as refusal:
                    await wrote(registry, engine, "ann")
                assert "base_mismatch" == refusal.value.code
                shutil.rmtree(store / "ann", ignore_errors=True)  # a refusal is not read again
            row = registry.describe_one("ann")
            assert ("refused", "base_mismatch") == (row["status"], row["last_refusal"]["code"])
            assert {"cleo", "dora"} == in_slots(registry) and staged == device.staged.qsize()

    scenario(work)


def test_a_probe_that_refuses_on_demand_takes_no_slot(store: Path) -> None:
    """What the device refuses leaves the adapters in slots where they are."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            slots = {name: serving.slot for name, serving in registry.serving.items()}
            device.raises["stage"] = AdapterRefused("it is the base", code="probe_is_base")
            for name in ("ann", "ben"):
                with pytest.raises(AdapterRefused):
                    await wrote(registry, engine, name)
            device.raises.clear()
            assert slots == {name: serving.slot for name, serving in registry.serving.items()}
            assert {"ann": "loaded"} == statuses(await registry.reload("ann"))

    scenario(work)


def test_a_name_keeps_its_generation_out_of_its_slot(store: Path) -> None:
    """Publishing alone moves no name: one that has left its slot comes back as it was, pinned ones too."""

    async def work() -> None:
        first = current(store, "ann")
        pinned = make_adapter(store, "ben", seed=9, activate=False)
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            await registry.reload("ben", pinned)
            assert first == await wrote(registry, engine, "ann")
            new = make_adapter(store, "ann", seed=8)
            for name in ("cleo", "dora"):
                await wrote(registry, engine, name)
            assert [first, pinned] == [await wrote(registry, engine, name) for name in ("ann", "ben")]
            assert {"cleo": "unchanged", "dora": "unchanged", "ben": "unchanged", "ann": "loaded"} == statuses(
                await registry.reload()
            )
            assert new == await wrote(registry, engine, "ann")

    scenario(work)


def test_the_last_good_generation_answers_for_one_that_has_gone_bad(store: Path) -> None:
    """C41 on demand: a name whose generation turns out bad is answered by the one that last served, with a refusal."""

    async def work() -> None:
        device = FakeDevice(facts(slots=3))
        good = current(store, "ann")
        async with registered(store, device) as (registry, engine):
            await wrote(registry, engine, "ann")
        bad = spoil(store, "ann")
        os.utime(store / "ann" / "CURRENT", (0, 0))
        async with registered(store, device) as (registry, engine):
            assert bad == registry.describe_one("ann")["generation"]
            assert good == await wrote(registry, engine, "ann")
            row = registry.describe_one("ann")
            assert ("serving", good, "base_mismatch") == (
                row["status"], row["generation"], row["last_refusal"]["code"],
            )  # fmt: skip
            with pytest.raises(UnknownAdapter, match=f"serves generation {good}"):
                await wrote(registry, engine, f"ann@{bad}")

    scenario(work)


def test_a_generation_that_was_asked_for_is_not_exchanged_for_another(store: Path) -> None:
    """``name@generation``, whose load falls back to the last good one, is not found; no lease stays behind."""

    async def work() -> None:
        async with registered(store) as (registry, engine):
            await wrote(registry, engine, "ann")
        bad = spoil(store, "ann")
        os.utime(store / "ann" / "CURRENT", (0, 0))
        async with registered(store) as (registry, engine):
            with pytest.raises(UnknownAdapter) as refusal:
                await wrote(registry, engine, f"ann@{bad}")
            assert "unknown_generation" == refusal.value.code
            assert (0, 0) == in_flight(registry, "ann")

    scenario(work)


# -- who waits, and who leaves


def test_who_leaves_leaves_the_load_to_the_others(store: Path) -> None:
    """A client that goes away while its adapter is loaded holds nothing; who waits with it is answered."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            nothing_staged(device)
            device.staging.clear()
            first, second = (asyncio.create_task(wrote(registry, engine, "ann")) for _ in range(2))
            await staging(device)
            first.cancel()
            await asyncio.wait([first])
            device.staging.set()
            assert current(store, "ann") == await second
            assert first.cancelled() and (0, 0) == in_flight(registry, "ann")

    scenario(work)


def test_a_load_that_everybody_has_left_ends_by_itself(store: Path) -> None:
    """Its adapter stands in a slot then, with no lease; a load that fails without an audience is no trouble."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            nothing_staged(device)
            for name, fault in (("ann", None), ("ben", AdapterRefused("no", code="probe_is_base"))):
                if fault is not None:
                    device.raises["stage"] = fault
                device.staging.clear()
                asking = asyncio.create_task(wrote(registry, engine, name))
                await staging(device)
                asking.cancel()
                await asyncio.wait([asking])
                device.staging.set()
                await waiting()
            assert ("serving", "refused") == (state(registry)["ann"], state(registry)["ben"])
            assert (0, 0) == in_flight(registry, "ann")

    scenario(work)


@pytest.mark.parametrize("turns", range(12))
def test_whenever_a_client_leaves_its_lease_goes_with_it(store: Path, turns: int) -> None:
    """Leaving at any step of the event loop, the one in which the load ends too, leaves no lease behind."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            task = asyncio.create_task(wrote(registry, engine, "ann"))
            await asyncio.sleep(0)
            (load,) = (load.task for load in registry._loads.values())
            assert load is not None
            load.add_done_callback(lambda _: after(turns, task.cancel))
            await asyncio.wait([task])
            await waiting()
            assert (0, 0) == in_flight(registry, "ann")

    scenario(work)


def after(turns: int, call: Callable[[], object]) -> None:
    """*call*, when the event loop has gone round *turns* times."""
    if turns:
        asyncio.get_running_loop().call_soon(after, turns - 1, call)
    else:
        call()


def test_two_names_that_want_one_slot_both_answer(store: Path) -> None:
    """A load that has just ended is not evicted by the next before its own requests have had it."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=2)), patience_s=PATIENCE) as (registry, engine):
            wanted = [*NAMES] * 3
            assert [current(store, name) for name in wanted] == await asyncio.gather(
                *[wrote(registry, engine, name) for name in wanted]
            )
            assert 1 == len(registry.serving)

    scenario(work)


def test_adapters_in_slots_do_not_wait_for_a_load(store: Path) -> None:
    """While another name is being staged, a lease on one in a slot is there at once."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            nothing_staged(device)
            device.staging.clear()
            loading = asyncio.create_task(wrote(registry, engine, "ann"))
            await staging(device)
            async with asyncio.timeout(1), registry.lease("dora") as serving:
                assert serving is registry.serving["dora"]
            device.staging.set()
            await loading

    scenario(work)


def test_a_removed_name_is_not_loaded_by_who_waited(store: Path) -> None:
    """A load that comes to its turn after a reload has removed its name is not found."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            nothing_staged(device)
            device.staging.clear()
            loading = asyncio.create_task(wrote(registry, engine, "ben"))
            await staging(device)
            for name in NAMES:
                shutil.rmtree(store / name)
            reloading = asyncio.create_task(registry.reload())
            await waiting()
            asking = asyncio.create_task(wrote(registry, engine, "ann"))
            await waiting()
            device.staging.set()
            await asyncio.wait([loading, asking, reloading])
            assert isinstance(asking.exception(), UnknownAdapter)
            assert {"removed"} == set(statuses(reloading.result()).values())

    scenario(work)


# -- what is kept


def test_a_prompt_needs_no_slot(store: Path) -> None:
    """The format of an adapter that has been read is known after it has left its slot; the base has none of its own."""
    device = FakeDevice(facts(slots=2))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            await wrote(registry, engine, "ann")
            staged = device.staged.qsize()
            async with registry.lease("dora"):
                form = await registry.formatter("ann")
                assert form is not None and "Jo" == form.persona.name
                assert await registry.formatter("base") is None
                with pytest.raises(Busy):
                    await registry.formatter("cleo")  # it has never been read
            assert staged + 1 == device.staged.qsize()
            assert await registry.formatter("cleo") is not None

    scenario(work)


def test_weights_are_not_held_twice(store: Path) -> None:
    """Once an adapter stands in its slot, its bytes are let go."""
    device = FakeDevice()

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            await wrote(registry, engine, "ann")
            assert [b""] * 2 == [serving.checked.weights for serving in registry.serving.values()]
            assert all(adapter.weights for adapter in device.slots.values())

    scenario(work)


def test_a_reload_goes_on_while_a_reply_is_written(store: Path) -> None:
    """A name that was loaded on demand is reloaded like any other: its reply ends with what it began with."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        async with registered(store, device) as (registry, engine):
            old = current(store, "ann")
            device.going.clear()
            writing = asyncio.create_task(wrote(registry, engine, "ann"))
            await begun(device)
            new = make_adapter(store, "ann", seed=9)
            (result,) = await registry.reload("ann")
            assert ("loaded", old, 1) == (result.status, result.previous_generation, result.in_flight_on_previous)
            device.going.set()
            assert [old, new] == [await writing, await wrote(registry, engine, "ann")]

    scenario(work)
