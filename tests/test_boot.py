"""C40 to C47: what serves after a start, whatever state the store was left in."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prompt_format.adapter_store import current
from prompt_format.manifest import CONFIG, MANIFEST, WEIGHTS
from service.last_good import RECORD
from service.registry import MOST_IN_VAIN
from tests.fakes import FakeDevice, facts, make_adapter, publish_altered, scenario, write
from tests.registries import codes, registered, spoil, state, statuses, wrote


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def now(store: Path) -> Path:
    """The folder of the current generation of jo."""
    return store / "jo" / current(store, "jo")


def zeroed(store: Path) -> None:
    """As after a power cut: the size is right, the bytes are not there."""
    path = now(store) / WEIGHTS
    write(path, bytes(path.stat().st_size))


def linked(store: Path) -> None:
    (now(store) / WEIGHTS).rename(store.parent / "weights")
    (now(store) / WEIGHTS).symlink_to(store.parent / "weights")


def gate_not_passed(store: Path) -> str:
    """The current generation of jo, as one that did not pass and that nobody made current knowingly."""
    return publish_altered(
        store, "jo", current(store, "jo"), manifest=lambda m: m["gate"].update(passed=False, reasons=["it echoes"])
    )


BAD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "A04 the generation is gone": ("missing_file", lambda store: shutil.rmtree(now(store))),
    "A05 CURRENT says nothing": ("current_invalid", lambda store: write(store / "jo" / "CURRENT", b"latest\n")),
    "A10 no config": ("missing_file", lambda store: (now(store) / CONFIG).unlink()),
    "A12 no manifest": ("unlabelled", lambda store: (now(store) / MANIFEST).unlink()),
    "A14 torn": ("digest_mismatch", lambda store: os.truncate(now(store) / WEIGHTS, 100)),
    "A15 zeroed": ("digest_mismatch", zeroed),
    "A32 a link": ("not_a_regular_file", linked),
    "A41 others may write": ("unsafe_file", lambda store: (now(store) / WEIGHTS).chmod(0o622)),
    "A50 config": ("digest_mismatch", lambda store: write(now(store) / CONFIG, b"{}")),
    "A60 manifest": ("manifest_malformed", lambda store: write(now(store) / MANIFEST, b"")),
    "A67 another base": ("base_mismatch", lambda store: spoil(store, "jo")),
    "A91 rank above the slots'": ("config_invalid", lambda store: make_adapter(store, rank=5, seed=3)),
    "A95 gate not passed": ("gate_not_passed", gate_not_passed),
    "C42 no CURRENT": ("missing_file", lambda store: (store / "jo" / "CURRENT").unlink()),
}


@pytest.mark.parametrize("case", BAD)
def test_where_current_is_bad_the_last_good_generation_serves(store: Path, case: str) -> None:
    """C41, C42: a start that cannot serve CURRENT serves what last served, and says what was wrong."""
    code, change = BAD[case]

    async def work() -> None:
        good = make_adapter(store)
        async with registered(store):
            pass
        make_adapter(store, seed=1)
        change(store)
        for _ in range(2):  # the second start finds what the first has left
            async with registered(store) as (registry, engine):
                row = registry.describe_one("jo")
                assert ("serving", good, code) == (row["status"], row["generation"], row["last_refusal"]["code"])
                assert ("jo", good) == (registry.default, await wrote(registry, engine, None))
                assert {"jo": [code]} == codes(await registry.reload())
                assert good == await wrote(registry, engine, "jo")

    scenario(work)


@pytest.mark.parametrize("case", BAD)
def test_where_everything_is_bad_the_base_serves(store: Path, case: str) -> None:
    """C43: each refusal is listed, and the base answers."""
    code, change = BAD[case]

    async def work() -> None:
        make_adapter(store)
        change(store)
        async with registered(store) as (registry, engine):
            row = registry.describe_one("jo")
            assert (None, None, code) == (row["generation"], row["slot"], row["last_refusal"]["code"])
            assert ("unlabelled" if code == "unlabelled" else "refused") == row["status"]
            assert registry.default is None and "written by the base" == await wrote(registry, engine, None)

    scenario(work)


def test_a_good_current_is_served_whatever_served_last(store: Path) -> None:
    """C40: the record is for bad days only."""

    async def work() -> None:
        make_adapter(store)
        async with registered(store):
            pass
        new = make_adapter(store, seed=1)
        async with registered(store) as (registry, engine):
            assert new == await wrote(registry, engine, None)
            assert registry.describe_one("jo")["last_refusal"] is None

    scenario(work)


@pytest.mark.parametrize("record", [None, b"", b'{"last_good": {"jo": "0123456789abcdef"}}'])
def test_a_record_that_is_of_no_use_is_ignored(store: Path, record: bytes | None) -> None:
    """C44: without a record, or with a torn or foreign one, a bad CURRENT is refused like any other."""

    async def work() -> None:
        make_adapter(store)
        async with registered(store):
            pass
        (store / RECORD).unlink()
        if record is not None:
            write(store / RECORD, record)
        spoil(store, "jo")
        async with registered(store) as (registry, _):
            assert {"jo": "refused"} == state(registry)

    scenario(work)


def test_what_a_pin_served_is_not_what_the_next_start_serves(store: Path) -> None:
    """A pin lasts as long as the service: the next start follows CURRENT."""

    async def work() -> None:
        old, new = make_adapter(store, seed=1), make_adapter(store, seed=2)
        async with registered(store) as (registry, engine):
            await registry.reload("jo", old)
            assert old == await wrote(registry, engine, None)
        async with registered(store) as (registry, engine):
            assert new == await wrote(registry, engine, None)

    scenario(work)


@pytest.mark.parametrize("there", [False, True])
def test_an_empty_store_serves_the_base(store: Path, there: bool) -> None:
    """C45: no store, or nothing in it, is no error."""
    if there:
        store.mkdir()

    async def work() -> None:
        async with registered(store) as (registry, engine):
            assert [] == registry.describe() and "written by the base" == await wrote(registry, engine, None)

    scenario(work)


def test_what_a_dead_publisher_left_is_not_seen(store: Path) -> None:
    """C46: staging folders are no names, and a start leaves them where they are."""

    async def work() -> None:
        generation = make_adapter(store)
        left = store / ".staging-jo-0123456789abcdef"
        shutil.copytree(store / "jo" / generation, left)
        async with registered(store) as (registry, _):
            assert {"jo": "serving"} == state(registry) and left.is_dir()

    scenario(work)


def many(store: Path, names: int, generations: int) -> None:
    """As many names with one generation folder each, and one name with as many *generations*."""
    for number in range(names):
        folder = store / f"name{number}"
        (folder / "0123456789abcdef").mkdir(parents=True)
        write(folder / "CURRENT", b"0123456789abcdef\n")
        os.utime(folder / "CURRENT", (1, 1))
    for number in range(generations):
        (store / "jo" / f"{number:016x}").mkdir()


def test_a_large_store_starts_soon(store: Path) -> None:
    """C47: of ten thousand generations and two thousand names only CURRENTs are read, and what fills the slots."""

    async def work() -> None:
        generation = make_adapter(store)
        other = make_adapter(store, "mo")
        many(store, 2000, 10_000)
        began = time.perf_counter()
        async with registered(store) as (registry, engine):
            assert time.perf_counter() - began < 2
            assert {"jo", "mo"} == set(registry.serving) and 2002 == len(registry.describe())
            assert [other, generation] == [await wrote(registry, engine, name) for name in ("mo", "jo")]

    scenario(work)


def test_a_start_does_not_read_every_bad_adapter(store: Path) -> None:
    """Where a base was exchanged, adapters made for the other one are not all read before the base answers."""

    async def work() -> None:
        make_adapter(store)
        for number in range(MOST_IN_VAIN + 3):  # another name than its manifest's
            shutil.copytree(store / "jo", store / f"copy{number:02}")
            os.utime(store / f"copy{number:02}" / "CURRENT", (100 - number, 100 - number))
        shutil.rmtree(store / "jo")
        async with registered(store) as (registry, engine):
            read = [status == "refused" for status in state(registry).values()]
            assert [True] * MOST_IN_VAIN + [False] * 3 == read
            assert "written by the base" == await wrote(registry, engine, None)

    scenario(work)


def test_the_next_newest_is_the_default_where_the_newest_is_bad(store: Path) -> None:
    """However few slots there are, bad adapters do not keep a good one from being the default."""

    async def work() -> None:
        for second, name in enumerate(("ann", "ben", "cleo")):
            make_adapter(store, name)
            if name != "ann":
                spoil(store, name)
            os.utime(store / name / "CURRENT", (second, second))
        async with registered(store, FakeDevice(facts(slots=2))) as (registry, engine):
            assert ("ann", current(store, "ann")) == (registry.default, await wrote(registry, engine, None))

    scenario(work)


def test_the_chosen_default_is_loaded_first(store: Path) -> None:
    """Whatever is newer, the adapter that was chosen stands in a slot from the start."""

    async def work() -> None:
        for name in ("ann", "ben", "cleo"):
            make_adapter(store, name)
        async with registered(store, FakeDevice(facts(slots=2)), default="ann") as (registry, _):
            assert ["ann"] == list(registry.serving)
            assert statuses(await registry.reload()) == dict.fromkeys(("ann", "ben", "cleo"), "unchanged")

    scenario(work)


def test_the_newest_is_decided_by_a_reload_not_by_a_request(store: Path) -> None:
    """A request that loads another name leaves the default alone; going back to an older generation does too."""

    async def work() -> None:
        for second, name in enumerate(("ann", "ben", "cleo")):
            make_adapter(store, name)
            os.utime(store / name / "CURRENT", (second, second))
        old = make_adapter(store, "cleo", seed=1, activate=False)
        text = (store / "cleo" / old / MANIFEST).read_text()
        moment = text.split('"created_at": "')[1].split('"')[0]
        write(store / "cleo" / old / MANIFEST, text.replace(moment, "2020-01-01T00:00:00Z").encode())
        async with registered(store, FakeDevice(facts(slots=3))) as (registry, engine):
            assert "cleo" == registry.default
            await wrote(registry, engine, "ann")
            assert "cleo" == registry.default
            await registry.reload("cleo", old)
            assert "cleo" == registry.default

    scenario(work)
