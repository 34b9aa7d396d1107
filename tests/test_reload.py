"""What a reload may be told, and what it does beside what answers: gate, adapters without a manifest, warming, room."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from errors import AdapterRefused, Busy, GenerationConflict, InvalidField, UnknownAdapter
from prompt_format.adapter_store import current
from prompt_format.manifest import CONFIG, MANIFEST, WEIGHTS
from service.engine import Prefix
from service.schemas import ReloadRequest
from tests.fakes import FakeDevice, facts, make_adapter, publish_altered, scenario, write
from tests.registries import codes, in_flight, registered, spoil, state, statuses, waiting, wrote


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def not_passed(store: Path, name: str = "jo", seed: int = 5) -> str:
    """A current generation that did not pass its gate, which nobody has overridden."""
    generation = make_adapter(store, name, seed=seed)
    publish_altered(store, name, generation, manifest=lambda m: m["gate"].update(passed=False, reasons=["it echoes"]))
    return generation


# -- the gate


def test_what_did_not_pass_its_gate_is_not_picked_up(store: Path) -> None:
    """A95: neither by a reload of everything nor of its name; the reasons are in the answer, the old one serves on."""

    async def work() -> None:
        old = make_adapter(store)
        async with registered(store) as (registry, engine):
            not_passed(store)
            for name in (None, "jo"):
                (result,) = await registry.reload(name)
                assert ("refused", old, "gate_not_passed", ["it echoes"]) == (
                    result.status, result.generation, result.errors[0]["code"], result.errors[0]["details"],
                )  # fmt: skip
            assert old == await wrote(registry, engine, "jo")

    scenario(work)


@pytest.mark.parametrize("how", ["generation", "activate"])
def test_what_did_not_pass_its_gate_is_loaded_when_asked_for(store: Path, how: str) -> None:
    """A95: by generation or with activate. The default stays, and the next start serves it as what last served."""

    async def work() -> None:
        make_adapter(store, "ann")
        generation = not_passed(store)
        async with registered(store) as (registry, engine):
            assert ("ann", "refused") == (registry.default, state(registry)["jo"])
            asked = {"generation": generation} if how == "generation" else {"activate": True}
            assert {"jo": "loaded"} == statuses(await registry.reload("jo", **asked))  # type: ignore[arg-type]
            assert ("ann", generation) == (registry.default, await wrote(registry, engine, "jo"))
            assert {"ann": "unchanged", "jo": "unchanged"} == statuses(await registry.reload())
        async with registered(store) as (registry, engine):
            assert ("ann", generation) == (registry.default, await wrote(registry, engine, "jo"))

    scenario(work)


def test_a_gate_that_was_overridden_is_no_hindrance(store: Path) -> None:
    """Who made an adapter current against its gate has been asked already, by the command that did it."""

    async def work() -> None:
        generation = make_adapter(store)
        publish_altered(store, "jo", generation, manifest=lambda m: m["gate"].update(passed=False, overridden=True))
        async with registered(store) as (registry, engine):
            assert ("jo", generation) == (registry.default, await wrote(registry, engine, "jo"))

    scenario(work)


# -- without a manifest


def plain(store: Path, name: str = "plain") -> None:
    """mlx-lm's two files in a name folder, as a person would drop them there."""
    generation = make_adapter(store, name, seed=4)
    for file in (WEIGHTS, CONFIG):
        (store / name / generation / file).rename(store / name / file)
    shutil.rmtree(store / name / generation)
    (store / name / "CURRENT").unlink()


def without_manifest(store: Path, name: str = "plain") -> None:
    """A generation that is current and has lost its manifest."""
    (store / name / make_adapter(store, name, seed=4) / MANIFEST).unlink()


@pytest.mark.parametrize("make", [plain, without_manifest])
def test_an_unlabelled_adapter_is_served_on_somebodys_word(store: Path, make: object) -> None:
    """A12: listed as unlabelled, refused as such, and loaded when the reload allows it and names the variant."""
    assert callable(make)

    async def work() -> None:
        make_adapter(store, "jo")
        make(store)
        async with registered(store, FakeDevice(facts(slots=2))) as (registry, engine):
            assert {"jo": "serving", "plain": "unlabelled"} == state(registry)
            assert {"plain": ["unlabelled"]} == codes(await registry.reload())
            with pytest.raises(AdapterRefused) as refusal:
                await wrote(registry, engine, "plain")
            assert "unlabelled" == refusal.value.code

            (result,) = await registry.reload("plain", allow_unlabelled=True, variant="raw_style")
            assert "loaded" == result.status
            generation = await wrote(registry, engine, "plain")
            assert (result.generation, "jo") == (generation, registry.default)
            await wrote(registry, engine, "jo")  # takes its slot
            assert {"jo": "serving", "plain": "available"} == state(registry)
            assert {"jo": "unchanged", "plain": "unchanged"} == statuses(await registry.reload())
            assert generation == await wrote(registry, engine, "plain")
        async with registered(store) as (registry, _):
            assert "unlabelled" == state(registry)["plain"]  # each start has to be told anew

    scenario(work)


def test_an_unlabelled_adapter_that_has_changed_is_not_loaded_again_by_itself(store: Path) -> None:
    """Its generation is a digest of its bytes: others in their place are somebody else's word."""

    async def work() -> None:
        make_adapter(store, "jo")
        plain(store)
        async with registered(store, FakeDevice(facts(slots=2))) as (registry, engine):
            await registry.reload("plain", allow_unlabelled=True, variant="raw_style")
            await wrote(registry, engine, "jo")
            other = make_adapter(store, "other", seed=9)
            write(store / "plain" / WEIGHTS, (store / "other" / other / WEIGHTS).read_bytes())
            with pytest.raises(AdapterRefused) as refusal:
                await wrote(registry, engine, "plain")
            assert "file_changed" == refusal.value.code

    scenario(work)


@pytest.mark.parametrize(
    "asked",
    [
        {"allow_unlabelled": True},
        {"variant": "raw_style"},
        {"allow_unlabelled": True, "variant": "no such variant"},
        {"allow_unlabelled": True, "variant": "raw_style"},
    ],
    ids=["no variant", "not allowed", "no such variant", "it has a manifest"],
)
def test_a_variant_is_for_adapters_without_a_manifest(store: Path, asked: dict[str, object]) -> None:
    """A98: allow_unlabelled without variant, a variant without it, or either for a labelled one is a wrong field."""

    async def work() -> None:
        generation = make_adapter(store)
        async with registered(store) as (registry, engine):
            make_adapter(store, seed=1)
            with pytest.raises(InvalidField):
                await registry.reload("jo", **asked)  # type: ignore[arg-type]
            assert generation == await wrote(registry, engine, "jo")
            assert registry.describe_one("jo")["last_refusal"] is None

    scenario(work)


def test_what_is_said_of_one_adapter_needs_its_name() -> None:
    """A reload of everything takes no generation, no expected one, and no permission; each such field is named."""
    request = ReloadRequest(generation="0" * 16, expected_generation="0" * 16, activate=True, variant="x")
    with pytest.raises(InvalidField) as refusal:
        request.check()
    assert ["generation", "expected_generation", "activate", "variant"] == [
        detail.split(":")[0] for detail in refusal.value.details
    ]
    ReloadRequest(dry_run=True).check()
    ReloadRequest(name="jo", generation="0" * 16, activate=True).check()


def test_strangers_in_a_folder_are_left_alone(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A43: a pickle, a FIFO and the like beside an adapter hinder nothing, and are told of once."""

    async def work() -> None:
        folder = store / "jo" / make_adapter(store)
        write(folder / "x.pkl", b"no")
        os.mkfifo(folder / "pipe")
        async with registered(store) as (registry, _):
            for _ in range(3):
                assert {"jo": "unchanged"} == statuses(await registry.reload())

    scenario(work)
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "adapter jo: 2 entries of its folder are not ours and are left alone" == warning.getMessage()


# -- warming


def test_a_new_generation_is_warm_when_it_takes_over(store: Path) -> None:
    """Before the cut-over the new slot is fed what the old one was asked last."""
    device = FakeDevice()
    asked_last: Prefix = ([5, 6, 7], (2,))

    async def work() -> None:
        make_adapter(store)
        async with registered(store, device) as (registry, _):
            old = registry.serving["jo"]
            device.warm[old.slot] = [asked_last]
            make_adapter(store, seed=1)
            await registry.reload()
            new = registry.serving["jo"]
            assert new.slot != old.slot
            assert [(new.slot, *asked_last)] == [(job.slot, list(job.ids), job.marks) for job in device.jobs]

    scenario(work)


def test_prompts_of_another_format_are_not_taken_over(store: Path) -> None:
    """Where the contract differs, what the old generation was asked is of no use to the new one."""
    device = FakeDevice()

    async def work() -> None:
        make_adapter(store)
        async with registered(store, device) as (registry, _):
            device.warm[registry.serving["jo"].slot] = [([5, 6, 7], (2,))]
            make_adapter(store, seed=1, persona="Johanna")
            await registry.reload()
            assert [] == device.jobs

    scenario(work)


def test_a_cut_over_does_not_wait_for_ever_to_be_warm(store: Path) -> None:
    """Where warming takes too long the generation takes over cold."""
    device = FakeDevice()
    device.feeding.clear()

    async def work() -> None:
        make_adapter(store)
        async with registered(store, device) as (registry, _):
            device.warm[registry.serving["jo"].slot] = [([5, 6, 7], (2,))]
            registry._loader.warm_s = 0.02
            new = make_adapter(store, seed=1)
            reloading = asyncio.create_task(registry.reload())
            while registry.serving["jo"].checked.generation != new:
                await asyncio.sleep(0.01)
            device.feeding.set()
            assert {"jo": "loaded"} == statuses(await reloading)

    scenario(work)


# -- room


def test_a_reload_of_everything_fills_the_slots_and_no_more(store: Path) -> None:
    """Of more new names than slots those published last are loaded; the rest answer when they are asked for."""

    async def work() -> None:
        async with registered(store, FakeDevice(facts(slots=4))) as (registry, engine):
            old = make_adapter(store, "zoe")
            await registry.reload()
            published = {}
            for second, name in enumerate(("ann", "ben", "cleo", "dora", "emil")):
                published[name] = make_adapter(store, name, seed=second)
                os.utime(store / name / "CURRENT", (second, second))
            assert {
                "ann": "available", "ben": "available", "cleo": "loaded", "dora": "loaded", "emil": "loaded",
                "zoe": "unchanged",
            } == statuses(await registry.reload())  # fmt: skip
            assert {"cleo", "dora", "emil"} == set(registry.serving)
            assert dict.fromkeys(published, "unchanged") | {"zoe": "unchanged"} == statuses(await registry.reload())
            assert {**published, "zoe": old} == {
                name: await wrote(registry, engine, name) for name in (*published, "zoe")
            }

    scenario(work)


def test_a_dry_run_moves_nobody(store: Path) -> None:
    """A99: dry runs of good and bad ones take no adapter's slot, and are not remembered."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        for name in ("ann", "ben"):
            make_adapter(store, name)
        async with registered(store, device) as (registry, _):
            before = registry.describe()
            make_adapter(store, "cleo")
            make_adapter(store, "ann", seed=1)
            spoil(store, "ben")
            assert {"ann": "unchanged", "ben": "refused", "cleo": "unchanged"} == statuses(
                await registry.reload(dry_run=True)
            )
            for name in ("ann", "cleo"):
                (result,) = await registry.reload(name, dry_run=True)
                assert (current(store, name), "unchanged") == (result.generation, result.status)
            assert before == registry.describe()
            async with registry.lease("ann"), registry.lease("ben"):
                await registry.reload("ann")  # the spare slot is the retired one's now
                with pytest.raises(Busy):
                    await registry.reload("cleo", dry_run=True)

    scenario(work)


def test_what_was_expected_counts_out_of_a_slot_too(store: Path) -> None:
    """A97: the generation that a name would answer with is compared, whether it stands in a slot or not."""

    async def work() -> None:
        for name in ("ann", "ben"):
            make_adapter(store, name)
        async with registered(store, FakeDevice(facts(slots=2)), default="ben") as (registry, _):
            old, new = current(store, "ann"), make_adapter(store, "ann", seed=1)
            with pytest.raises(GenerationConflict):
                await registry.reload("ann", expected=new)
            (result,) = await registry.reload("ann", expected=old)
            assert ("loaded", old, new) == (result.status, result.previous_generation, result.generation)

    scenario(work)


def test_a_name_that_is_gone_is_removed_out_of_a_slot_too(store: Path) -> None:
    """A101: names in no slot, and refused ones, leave with their folders."""

    async def work() -> None:
        for name in ("ann", "ben", "cleo"):
            make_adapter(store, name)
        spoil(store, "cleo")
        async with registered(store, FakeDevice(facts(slots=2)), default="ben") as (registry, engine):
            for name in ("ann", "cleo"):
                shutil.rmtree(store / name)
            assert {"ann": "removed", "ben": "unchanged", "cleo": "removed"} == statuses(await registry.reload())
            assert {"ben": "serving"} == state(registry)
            with pytest.raises(UnknownAdapter):
                await wrote(registry, engine, "ann")

    scenario(work)


# -- a reload that nobody waits for


@pytest.mark.parametrize("turns", [*range(0, 24, 2), 30, 40, 60])
def test_a_reload_cut_at_any_point_is_whole(store: Path, turns: int) -> None:
    """C20 to C25 without the kill: each name answers with its old generation or its new one, and no slot is lost."""
    device = FakeDevice(facts(slots=3))

    async def work() -> None:
        old = {name: make_adapter(store, name) for name in ("ann", "ben")}
        async with registered(store, device) as (registry, engine):
            new = {name: make_adapter(store, name, seed=1) for name in ("ann", "ben")}
            reloading = asyncio.create_task(registry.reload())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            reloading.cancel()
            await asyncio.wait([reloading])
            for name in old:
                answers = await wrote(registry, engine, name)
                assert answers in (old[name], new[name])
                assert answers == registry.describe_one(name)["generation"]
                assert (0, 0) == in_flight(registry, name)
            assert {"loaded", "unchanged"} >= set(statuses(await registry.reload()).values())
            assert new == {name: await wrote(registry, engine, name) for name in new}
            await waiting()
            assert {adapter.generation for adapter in device.slots.values()} == set(new.values())

    scenario(work)
