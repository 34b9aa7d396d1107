"""Names, generations and slots: what a reload changes, and what it never does."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from errors import AdapterRefused, Busy, GenerationConflict, NotReady, UnknownAdapter
from prompt_format.adapter_store import current
from prompt_format.manifest import WEIGHTS
from tests.fakes import FakeDevice, begun, facts, make_adapter, scenario, staging, write
from tests.registries import codes, in_flight, registered, spoil, statuses, wrote
from training.publish import point_to


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


# -- loading


def test_an_empty_store_serves_the_base(store: Path) -> None:
    """Without adapters the base answers, and that is no error."""

    async def work() -> None:
        async with registered(store) as (registry, engine):
            assert [] == await registry.reload() == registry.describe()
            assert registry.default is None
            assert "written by the base" == await wrote(registry, engine, None)

    scenario(work)


def test_a_published_adapter_is_loaded_and_answers(store: Path) -> None:
    """What training has published is picked up by a reload, and the result says what happened."""

    async def work() -> None:
        async with registered(store) as (registry, engine):
            generation = make_adapter(store)
            (result,) = await registry.reload()
            assert ("jo", "loaded", generation, None, []) == (
                result.name, result.status, result.generation, result.previous_generation, result.errors,
            )  # fmt: skip
            assert {"read", "verify", "stage", "probe", "warm", "cutover"} == set(result.timing_ms)
            assert {"before": 0, "after": 1000} == result.memory_bytes
            assert generation == await wrote(registry, engine, "jo")

    scenario(work)


def test_a_new_generation_takes_over(store: Path) -> None:
    """After a reload the name answers with its new generation, and the old slot is free again."""
    device = FakeDevice(facts(slots=2))

    async def work() -> None:
        first = make_adapter(store)
        async with registered(store, device) as (registry, engine):
            for seed in range(1, 6):  # more generations than slots
                generation = make_adapter(store, seed=seed)
                (result,) = await registry.reload("jo")
                assert ("loaded", generation, first) == (result.status, result.generation, result.previous_generation)
                assert generation == await wrote(registry, engine, "jo")
                first = generation

    scenario(work)


def test_the_same_generation_is_left_alone(store: Path) -> None:
    """A96: reloading what is served already touches no slot."""
    device = FakeDevice()

    async def work() -> None:
        generation = make_adapter(store)
        async with registered(store, device) as (registry, _):
            slots = dict(device.slots)
            (result,) = await registry.reload()
            assert ("unchanged", generation, generation) == (
                result.status,
                result.generation,
                result.previous_generation,
            )
            assert slots == device.slots and 1 == device.staged.qsize()

    scenario(work)


def test_a_generation_can_be_pinned_and_taken_back(store: Path) -> None:
    """A generation that was named stays over a reload of everything; a reload of the name follows CURRENT again."""

    async def work() -> None:
        old, new = make_adapter(store, seed=1), make_adapter(store, seed=2)
        async with registered(store) as (registry, engine):
            assert new == await wrote(registry, engine, "jo")
            (result,) = await registry.reload("jo", old)
            assert ("loaded", old, new) == (result.status, result.generation, result.previous_generation)
            assert {"jo": "unchanged"} == statuses(await registry.reload())
            assert (old, True) == (await wrote(registry, engine, "jo"), registry.describe_one("jo")["pinned"])
            assert {"jo": "loaded"} == statuses(await registry.reload("jo"))
            assert (new, False) == (await wrote(registry, engine, "jo"), registry.describe_one("jo")["pinned"])

    scenario(work)


def test_a_pin_ends_when_something_new_is_published(store: Path) -> None:
    """A reload of everything leaves a pinned name alone until CURRENT names another generation than it did."""

    async def work() -> None:
        old, _ = make_adapter(store, seed=1), make_adapter(store, seed=2)
        async with registered(store) as (registry, engine):
            await registry.reload("jo", old)
            newer = make_adapter(store, seed=3)
            assert {"jo": "loaded"} == statuses(await registry.reload())
            assert newer == await wrote(registry, engine, "jo")

    scenario(work)


def test_a_rollback_is_one_reload_away(store: Path) -> None:
    """When CURRENT is pointed back, a reload follows it."""

    async def work() -> None:
        old, _ = make_adapter(store, seed=1), make_adapter(store, seed=2)
        async with registered(store) as (registry, engine):
            point_to(store, "jo", old)
            await registry.reload()
            assert old == await wrote(registry, engine, None)

    scenario(work)


def test_a_generation_that_is_not_current_is_not_loaded(store: Path) -> None:
    """What training published without making it current is left alone."""

    async def work() -> None:
        now = make_adapter(store, seed=1)
        async with registered(store) as (registry, _):
            make_adapter(store, seed=2, activate=False)
            assert {"jo": "unchanged"} == statuses(await registry.reload())
            assert now == registry.describe_one("jo")["generation"]

    scenario(work)


def test_names_are_judged_each_alone(store: Path) -> None:
    """A100: of five new generations the good ones are loaded although others are refused."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=8))) as (registry, engine):
            good = {name: make_adapter(store, name) for name in ("ann", "ben", "cleo")}
            for name in ("bad", "worse"):
                make_adapter(store, name)
                spoil(store, name)
            results = await registry.reload()
            assert {**dict.fromkeys(good, "loaded"), "bad": "refused", "worse": "refused"} == statuses(results)
            assert {"bad": ["base_mismatch"], "worse": ["base_mismatch"]} == codes(results)
            assert good == {name: await wrote(registry, engine, name) for name in good}
            assert ["refused"] * 2 == [registry.describe_one(name)["status"] for name in ("bad", "worse")]
            with pytest.raises(AdapterRefused) as refusal:
                await wrote(registry, engine, "bad")
            assert "base_mismatch" == refusal.value.code

    scenario(work)


# -- refusing


def gone(store: Path) -> None:
    shutil.rmtree(store / "jo" / current(store, "jo"))


def torn(store: Path) -> None:
    folder = store / "jo" / make_adapter(store, seed=7)
    os.truncate(folder / WEIGHTS, 100)


REFUSED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "A04 CURRENT names what is gone": ("missing_file", gone),
    "A05 CURRENT names nothing": ("current_invalid", lambda store: write(store / "jo" / "CURRENT", b"latest\n")),
    "A05 no CURRENT": ("missing_file", lambda store: (store / "jo" / "CURRENT").unlink()),
    "A07 others may write": ("unsafe_file", lambda store: (store / "jo").chmod(0o722)),
    "A65 torn": ("digest_mismatch", torn),
    "A67 another base": ("base_mismatch", lambda store: spoil(store, "jo")),
    "A91 rank above the slots'": ("config_invalid", lambda store: make_adapter(store, rank=5)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_reload_that_fails_leaves_the_old_adapter_serving(store: Path, case: str) -> None:
    """Whatever is wrong with the new generation, the old one goes on, its slot and the other names untouched."""
    code, change = REFUSED[case]
    device = FakeDevice()

    async def work() -> None:
        old, other = make_adapter(store), make_adapter(store, "mo")
        async with registered(store, device) as (registry, engine):
            before = [{**row, "last_refusal": None} for row in registry.describe()]
            change(store)
            results = await registry.reload()
            assert {"jo": "refused", "mo": "unchanged"} == statuses(results)
            assert {"jo": [code]} == codes(results)
            assert (old, old) == (results[0].generation, results[0].previous_generation)
            assert code == registry.describe_one("jo")["last_refusal"]["code"]
            assert before == [{**row, "last_refusal": None} for row in registry.describe()]
            assert [old, other] == [await wrote(registry, engine, name) for name in ("jo", "mo")]
            assert {old, other} <= {adapter.generation for adapter in device.slots.values()}

    scenario(work)


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_adapter_does_not_keep_the_service_from_starting(store: Path, case: str) -> None:
    """At the start a bad adapter is listed as refused, and the others serve."""
    code, change = REFUSED[case]

    async def work() -> None:
        make_adapter(store)
        make_adapter(store, "mo")
        change(store)
        async with registered(store) as (registry, engine):
            assert ["refused", "serving"] == [row["status"] for row in registry.describe()]
            assert code == registry.describe_one("jo")["last_refusal"]["code"]
            assert current(store, "mo") == await wrote(registry, engine, None)

    scenario(work)


def test_a_refusal_is_forgotten_when_it_is_mended(store: Path) -> None:
    """A generation that loads, and a name that is gone, leave no refusal behind."""

    async def work() -> None:
        async with registered(store) as (registry, _):
            for name in ("jo", "mo"):
                make_adapter(store, name)
                spoil(store, name)
            await registry.reload()
            assert ["jo", "mo"] == [row["name"] for row in registry.describe()]
            make_adapter(store, seed=1)
            shutil.rmtree(store / "mo")
            await registry.reload()
            assert [("jo", None)] == [(row["name"], row["last_refusal"]) for row in registry.describe()]

    scenario(work)


def test_a_probe_that_refuses_gives_its_slot_back(store: Path) -> None:
    """A refusal by the device costs no slot, however often it happens."""
    device = FakeDevice(facts(slots=2))

    async def work() -> None:
        old = make_adapter(store)
        async with registered(store, device) as (registry, engine):
            make_adapter(store, seed=1)
            device.raises["stage"] = AdapterRefused("it is the base", code="probe_is_base")
            for _ in range(5):
                assert {"jo": ["probe_is_base"]} == codes(await registry.reload())
                assert old == await wrote(registry, engine, "jo")
            device.raises.clear()
            assert {"jo": "loaded"} == statuses(await registry.reload())

    scenario(work)


def test_an_engine_that_fails_while_it_stages_ends_the_reload(store: Path) -> None:
    """That is no refusal of the adapter: the engine has failed."""
    device = FakeDevice()

    async def work() -> None:
        async with registered(store, device) as (registry, _):
            make_adapter(store)
            device.raises["stage"] = RuntimeError("no")
            with pytest.raises(NotReady):
                await registry.reload()
            assert [] == registry.describe()

    scenario(work)


@pytest.mark.parametrize("generation", [None, "0" * 16])
def test_a_reload_of_an_unknown_name_is_not_found(store: Path, generation: str | None) -> None:
    """A02: one name asked for that is not there is an error of the request, and nothing is remembered of it."""

    async def work() -> None:
        make_adapter(store)
        async with registered(store) as (registry, _):
            with pytest.raises(UnknownAdapter):
                await registry.reload("mum", generation)
            assert ["jo"] == [row["name"] for row in registry.describe()]

    scenario(work)


def test_a_reload_of_an_unknown_generation_is_not_found(store: Path) -> None:
    """A03: a generation asked for that is not there leaves the served one alone."""

    async def work() -> None:
        now = make_adapter(store)
        async with registered(store) as (registry, engine):
            with pytest.raises(UnknownAdapter) as refusal:
                await registry.reload("jo", "0" * 16)
            assert "unknown_generation" == refusal.value.code
            assert now == await wrote(registry, engine, "jo")

    scenario(work)


# -- leases


def test_a_lease_keeps_the_old_slot_until_its_reply_ends(store: Path) -> None:
    """A reply that has begun is written to its end by the generation that began it, in the slot it had."""
    device = FakeDevice(facts(slots=2))

    async def work() -> None:
        old = make_adapter(store)
        async with registered(store, device) as (registry, engine):
            device.going.clear()
            writing = asyncio.create_task(wrote(registry, engine, "jo"))
            await begun(device)
            new = make_adapter(store, seed=1)
            (result,) = await registry.reload("jo")
            assert ("loaded", 1) == (result.status, result.in_flight_on_previous)
            assert (0, 1) == in_flight(registry, "jo")

            make_adapter(store, seed=2)  # both slots are taken: by the new one, and by the old one's reply
            with pytest.raises(Busy) as refusal:
                await registry.reload("jo")
            assert "no_slot" == refusal.value.code
            assert {"jo": ["no_slot"]} == codes(await registry.reload())
            assert registry.describe_one("jo")["last_refusal"] is None  # it is not the adapter's fault
            device.going.set()
            assert [old, new] == [await writing, await wrote(registry, engine, "jo")]
            assert (0, 0) == in_flight(registry, "jo")
            assert {"jo": "loaded"} == statuses(await registry.reload("jo"))

    scenario(work)


def test_a_slot_is_free_after_the_last_of_several_leases(store: Path) -> None:
    """Several replies may hold one generation; the slot goes back when the last has ended, and only once."""
    device = FakeDevice()

    async def work() -> None:
        make_adapter(store)
        async with registered(store, device) as (registry, engine):
            async with registry.lease("jo") as serving:
                assert serving is not None
                async with registry.lease("jo"):
                    make_adapter(store, seed=1)
                    await registry.reload()
                await engine.memory()
                assert [] == device.freed
            await engine.memory()
            assert [serving.slot] == device.freed

    scenario(work)


def test_a_reply_that_fails_gives_its_lease_back(store: Path) -> None:
    """A lease ends with its block, whatever happened in it."""

    async def work() -> None:
        make_adapter(store)
        async with registered(store) as (registry, _):
            with pytest.raises(KeyError):
                async with registry.lease("jo"):
                    raise KeyError
            assert (0, 0) == in_flight(registry, "jo")

    scenario(work)


# -- one reload at a time


def test_a_second_reload_is_busy(store: Path) -> None:
    """One reload runs at a time; another is told so, and the first is not disturbed."""
    device = FakeDevice()

    async def work() -> None:
        async with registered(store, device) as (registry, _):
            make_adapter(store)
            device.staging.clear()
            first = asyncio.create_task(registry.reload())
            await staging(device)
            with pytest.raises(Busy) as refusal:
                await registry.reload("jo")
            assert "reload_busy" == refusal.value.code
            device.staging.set()
            assert {"jo": "loaded"} == statuses(await first)

    scenario(work)


def test_a_reload_nobody_waits_for_leaves_a_working_registry(store: Path) -> None:
    """A reload that is cancelled in the middle keeps the old generation and gives lock and slot back."""
    device = FakeDevice(facts(slots=2))

    async def work() -> None:
        old = make_adapter(store)
        async with registered(store, device) as (registry, engine):
            await staging(device)
            new = make_adapter(store, seed=1)
            device.staging.clear()
            reloading = asyncio.create_task(registry.reload())
            await staging(device)
            reloading.cancel()
            await asyncio.wait([reloading])
            assert reloading.cancelled()
            device.staging.set()
            assert old == await wrote(registry, engine, "jo")
            assert {"jo": "loaded"} == statuses(await registry.reload())
            assert new == await wrote(registry, engine, "jo")

    scenario(work)


# -- expected generation, dry run


def test_an_unexpected_generation_stops_the_reload(store: Path) -> None:
    """A97: where another generation serves than the caller thinks, nothing is loaded."""

    async def work() -> None:
        old = make_adapter(store)
        async with registered(store) as (registry, engine):
            new = make_adapter(store, seed=1)
            for expected in (new, "0" * 16):
                with pytest.raises(GenerationConflict, match=f"serves generation {old}, not the expected {expected}"):
                    await registry.reload("jo", None, expected)
            assert old == await wrote(registry, engine, "jo")
            assert {"jo": "loaded"} == statuses(await registry.reload("jo", None, old))

    scenario(work)


def test_a_dry_run_changes_nothing(store: Path) -> None:
    """A99: a dry run says what a reload would, and neither serves nor keeps a slot."""
    device = FakeDevice(facts(slots=2))

    async def work() -> None:
        old = make_adapter(store)
        async with registered(store, device) as (registry, engine):
            new = make_adapter(store, seed=1)
            for _ in range(4):
                (result,) = await registry.reload("jo", dry_run=True)
                assert ([], new) == (result.errors, result.generation)
                assert "stage" in result.timing_ms
            assert old == await wrote(registry, engine, "jo")
            assert [old] == [adapter.generation for adapter in device.slots.values()]
            spoil(store, "jo")
            assert {"jo": ["base_mismatch"]} == codes(await registry.reload("jo", dry_run=True))
            assert old == await wrote(registry, engine, "jo")

    scenario(work)


# -- removing


def test_a_name_that_left_the_store_is_removed(store: Path) -> None:
    """A101: a removed name answers no more after a reload; replies that have begun end."""
    device = FakeDevice()

    async def work() -> None:
        generation = make_adapter(store)
        make_adapter(store, "mo")
        async with registered(store, device) as (registry, engine):
            device.going.clear()
            writing = asyncio.create_task(wrote(registry, engine, "jo"))
            await begun(device)
            shutil.rmtree(store / "jo")
            results = await registry.reload()
            assert {"jo": "removed", "mo": "unchanged"} == statuses(results)
            gone = next(result for result in results if result.name == "jo")
            assert (None, generation, 1) == (gone.generation, gone.previous_generation, gone.in_flight_on_previous)
            device.going.set()
            assert generation == await writing
            with pytest.raises(UnknownAdapter):
                await wrote(registry, engine, "jo")

    scenario(work)


def test_a_dry_run_removes_nothing(store: Path) -> None:
    """A dry run of everything leaves names that are gone in their slots."""

    async def work() -> None:
        make_adapter(store)
        async with registered(store) as (registry, _):
            shutil.rmtree(store / "jo")
            await registry.reload(dry_run=True)
            assert ["jo"] == list(registry.serving)

    scenario(work)


def test_a_store_that_is_gone_takes_nothing_with_it(store: Path) -> None:
    """A09: when the whole store is away, a reload is refused and the adapters in slots go on."""

    async def work() -> None:
        generation = make_adapter(store)
        async with registered(store) as (registry, engine):
            store.rename(store.with_name("unmounted"))
            with pytest.raises(AdapterRefused) as refusal:
                await registry.reload()
            assert "missing_file" == refusal.value.code
            assert generation == await wrote(registry, engine, "jo")

    scenario(work)


# -- finding


def test_a_name_may_say_its_generation(store: Path) -> None:
    """``name@generation`` is that generation or nothing; of one that has retired, the present one is named."""

    async def work() -> None:
        generation = make_adapter(store)
        async with registered(store) as (registry, engine):
            assert [generation] * 3 == [
                await wrote(registry, engine, wanted) for wanted in ("jo", f"jo@{generation}", None)
            ]
            new = make_adapter(store, seed=1)
            await registry.reload()
            with pytest.raises(UnknownAdapter, match=f"'jo' serves generation {new}, not {generation}") as refusal:
                await wrote(registry, engine, f"jo@{generation}")
            assert "unknown_generation" == refusal.value.code

    scenario(work)


def test_an_unknown_name_is_told_what_is_served(store: Path) -> None:
    """The refusal of an unknown name lists those that would answer; what is no name is not repeated."""

    async def work() -> None:
        make_adapter(store)
        make_adapter(store, "work")
        async with registered(store) as (registry, engine):
            told = "no adapter named 'mum' is being served; there are: base, jo, work"
            with pytest.raises(UnknownAdapter, match=told):
                await wrote(registry, engine, "mum")
            with pytest.raises(UnknownAdapter, match="no adapter of that name"):
                await registry.formatter("Purple Walrus")
            with pytest.raises(UnknownAdapter, match="no adapter of that name"):
                registry.describe_one("Purple Walrus")

    scenario(work)


@pytest.mark.parametrize("name", ["base", "jo@0123456789abcdef", "mum"])
def test_only_an_adapter_can_be_described(store: Path, name: str) -> None:
    """What is no adapter's name is not found, the base included."""

    async def work() -> None:
        make_adapter(store)
        async with registered(store) as (registry, _):
            with pytest.raises(UnknownAdapter):
                registry.describe_one(name)

    scenario(work)


def test_the_default_is_the_chosen_one(store: Path) -> None:
    """Where a default was chosen it answers; where it is not served, a request without a name is not found."""

    async def work() -> None:
        make_adapter(store)
        make_adapter(store, "mo")
        async with registered(store, default="jo") as (registry, engine):
            assert [True, False] == [row["default"] for row in registry.describe()]
            assert current(store, "jo") == await wrote(registry, engine, None)
        async with registered(store, default="mum") as (registry, engine):
            with pytest.raises(UnknownAdapter):
                await wrote(registry, engine, None)

    scenario(work)


def test_without_a_choice_the_newest_is_the_default(store: Path) -> None:
    """The adapter that was published last answers requests that name none."""

    async def work() -> None:
        for name, moment in (
            ("ann", "2026-01-02T00:00:00Z"),
            ("ben", "2026-01-03T00:00:00Z"),
            ("cleo", "2026-01-01T00:00:00Z"),
        ):
            generation = make_adapter(store, name, activate=False)
            text = (store / name / generation / "manifest.json").read_text()
            publish_again = text.replace(text.split('"created_at": "')[1].split('"')[0], moment)
            write(store / name / generation / "manifest.json", publish_again.encode())
            point_to(store, name, generation)
        async with registered(store) as (registry, _):
            assert "ben" == registry.default

    scenario(work)
