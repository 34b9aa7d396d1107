"""What the reliability benchmarks call right and wrong, without measuring anything."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.broken_generations import CURRENT_FAULTS, Fault, faults, write_broken
from benchmarks.figures import Graph, draw_lines, longer_than, percentiles
from benchmarks.http_client import Client, Refusal
from benchmarks.known_replies import Known, told_apart, write_replies
from benchmarks.many_adapters import Request, figures_of, is_miss, loads_in, zipf_weights
from benchmarks.reliability_world import SPREAD
from benchmarks.reload_under_load import gap_figures
from benchmarks.reloads import Live, Reloads, prepare_bad
from benchmarks.serving_world import World, formats_of, publish_random
from benchmarks.swaps import left_behind
from benchmarks.talkers import Heard, verdicts
from errors import AdapterRefused
from prompt_format.adapter_store import AdapterFiles, current, read_generation
from tests.fakes import checked_files, make_adapter
from tests.tiny import tiny_model

FAULTS = dict(faults())
# Shown by the probe, which needs the model, or by who asks.
LATER = {"probe_is_base", "probe_disagrees", "gate_not_passed"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> AdapterFiles:
    """A good generation of the toy base."""
    store = tmp_path_factory.mktemp("good") / "adapters"
    return read_generation(store, "jo", make_adapter(store))


@pytest.mark.parametrize("kind", FAULTS)
def test_each_broken_generation_is_broken_in_its_own_way(good: AdapterFiles, kind: str, tmp_path: Path) -> None:
    """It is refused by the code that its kind names; what only the probe or the gate can show passes until then."""
    generation = write_broken(FAULTS[kind], good, tmp_path / "jo")

    try:
        checked_files(read_generation(tmp_path, "jo", generation), "jo", generation)
        code = "none"
    except AdapterRefused as refused:
        code = refused.code

    assert ("none" if FAULTS[kind].code in LATER else FAULTS[kind].code) == code


def test_a_kind_without_a_fault_is_good(good: AdapterFiles, tmp_path: Path) -> None:
    """Signed anew or as it was, the generation that all kinds begin with is accepted."""
    for signed in (True, False):
        parent = tmp_path / str(signed) / "jo"
        generation = write_broken(replace(Fault("none"), signed=signed), good, parent)

        assert checked_files(read_generation(parent.parent, "jo", generation), "jo", generation)


# -- reloads


class Answering(Client):
    """A service that answers each reload with the same."""

    def __init__(self, answered: int, **result: Any):
        self._status, self._result = answered, result

    def post(self, path: str, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        before = {"errors": [], "timing_ms": {}, "status": "unchanged", "generation": "0" * 16}
        answer = {"results": [{**before, "name": body.get("name", "jo"), **self._result}], "error": {"code": "x"}}
        if self._status == 200:
            return 0.0, answer
        refusal = Refusal.__new__(Refusal)
        refusal.status, refusal.answer = self._status, answer
        raise refusal


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An adapter of two generations on the toy base."""
    store = tmp_path / "adapters"
    return World(tmp_path, store, {"jo": [make_adapter(store, seed=seed) for seed in (1, 2)]}, {})


def reloads_of(world: World, client: Client, folder: Path) -> Reloads:
    spare = World(world.model, folder / "spare", {"jo": [make_adapter(folder / "spare", seed=3)]}, {})
    return Reloads(world, client, prepare_bad(spare, folder), random.Random(0))


def test_a_bad_generation_that_is_loaded_is_noticed(world: World, tmp_path: Path) -> None:
    """A service that loads all it is told to is right in no bad reload, whatever the kind and the way of asking."""
    reloads = reloads_of(world, Answering(200, status="loaded"), tmp_path / "bad")
    while not reloads.all_kinds_done:
        reloads.some()

    bad = [one for one in reloads.done if not one.good]

    assert len(FAULTS) + len(CURRENT_FAULTS) <= len(bad)
    assert all(one.wrong for one in bad)


def test_a_refusal_by_another_code_is_wrong(world: World, tmp_path: Path) -> None:
    """A service that refuses everything by one code is right only in the kinds of that code."""
    reloads = reloads_of(world, Answering(409, status="refused", errors=[{"code": "missing_file"}]), tmp_path / "bad")
    reloads.now["jo"] = "0" * 16  # what it says it serves
    for bad in reloads.bad:
        reloads.refuse(bad, bad.ways[0])

    right = {one.kind for one in reloads.done if not one.wrong}

    assert {"config missing", "weights missing", "a PEFT folder", "CURRENT of a generation that is gone"} == right


def test_after_a_bad_reload_the_store_is_as_it_was(world: World, tmp_path: Path) -> None:
    """CURRENT names what serves, and the bad generation lies beside the store again."""
    reloads = reloads_of(world, Answering(409), tmp_path / "bad")
    before = sorted(path.name for path in (world.store / "jo").iterdir())
    for bad in reloads.bad:
        for way in bad.ways:
            reloads.refuse(bad, way)

    assert before == sorted(path.name for path in (world.store / "jo").iterdir())
    assert reloads.now["jo"] == current(world.store, "jo")


# -- replies

A, B = "a" * 16, "b" * 16
KNOWN = [Known([], {("jo", A): "hi", ("jo", B): "hello"})]
LIVE = [Live("jo", A, 0, 0), Live("jo", B, 10, 12)]


def heard(generation: str, text: str, at: float = 1.0, streamed: str | None = None) -> Heard:
    answer = {"adapter": {"name": "jo", "generation": generation}, "reply": text}
    return Heard(0, "jo", at, at + 1, answer, text if streamed is None else streamed)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (heard(A, "hi"), "right"),
        (heard(A, "hi", at=11.5), "right"),
        (heard(B, "hello", at=9.5), "right"),
        (heard(A, "hi", at=12.5), "stale"),
        (heard(B, "hello", at=5), "stale"),
        (heard(A, "hello"), "mixed"),
        (heard(A, "hi", streamed="h"), "mixed"),
        (heard("c" * 16, "hi"), "of a generation that must not answer"),
        (Heard(0, "jo", 1, 2, None, failure="503 shutting_down"), "failed"),
    ],
)
def test_a_reply_is_right_or_wrong(reply: Heard, verdict: str) -> None:
    """Right is the known reply of the generation that it names, whole, while that one could answer."""
    (found,) = verdicts([reply], KNOWN, LIVE)

    assert verdict == found.partition(":")[0]


def test_replies_that_are_alike_are_counted() -> None:
    """Two generations of one adapter and one of another: how many of the three pairs differ."""
    known = [Known([], {("a", A): "x", ("a", B): "y", ("b", A): "x"})]

    assert [1, 1, 3, 2] == list(told_apart(known).values())


def test_known_replies_do_not_depend_on_what_was_loaded_before(tmp_path: Path) -> None:
    """Each is of its own adapter alone, and two random adapters do not say the same."""
    from base_model.load import load_base

    model, store = tiny_model(tmp_path / "model", "lfm2"), tmp_path / "adapters"
    base, form = load_base(str(model)), formats_of(model)["raw_style_variable"]
    pairs = [("a", publish_random(base, store, "a", form, seed, SPREAD)) for seed in (1, 2)]
    prompts = [World(model, store, {}, {"raw_style_variable": form}).threads("raw_style_variable", 1)[0].ids]

    there, back = (write_replies(model, store, order, prompts, 8) for order in (pairs, pairs[::-1]))

    assert there == back
    assert there[pairs[0]] != there[pairs[1]]


# -- figures


def test_what_takes_long_is_compared_turn_by_turn() -> None:
    """The ratio is the median of the turns'; twice as long is still met, more is not."""

    def turn(gap: float) -> list[Heard]:
        return [Heard(0, "jo", 0, gaps_ms=[gap])]

    found = gap_figures({"calm": [turn(1), turn(10), turn(1)], "busy": [turn(2), turn(20), turn(9)]})

    assert (2.0, True) == (found["p99_ratio"]["median"], found["target"]["met"])
    assert not gap_figures({"calm": [turn(1)], "busy": [turn(2.1)]})["target"]["met"]


@pytest.mark.parametrize(("bytes_", "descriptors", "met"), [(1009, 9, (True, True)), (1011, 10, (False, False))])
def test_what_is_left_behind_is_noticed(bytes_: int, descriptors: int, met: tuple[bool, bool]) -> None:
    """More than a per cent of the device's memory, or one file descriptor."""
    first = {"device_bytes": 1000, "descriptors": 9, "threads": 5, "resident_bytes": 10}

    found = left_behind([first, {**first, "device_bytes": bytes_, "descriptors": descriptors}])

    assert met == (found["device_memory"]["met"], found["descriptors"]["met"])
    assert found["threads"]["met"]


LINES = """loading: model = x
2026-01-03 10:00:00,500 samevoice.adapters INFO adapter jo: generation aaaaaaaaaaaaaaaa is in a slot
2026-01-03 10:00:01,500 samevoice.adapters INFO adapter mo now serves generation aaaaaaaaaaaaaaaa
2026-01-03 10:00:02,500 samevoice.adapters INFO adapter jo: generation aaaaaaaaaaaaaaaa is in a slot
"""


def test_a_miss_is_a_load_while_somebody_waits() -> None:
    """The service's lines say when a name came into a slot; a request of another name or time is a hit."""
    loads = loads_in(LINES)
    (first, second) = loads["jo"]

    assert 2.0 == second - first
    assert is_miss(Request("jo", first - 1, first + 0.1), loads)
    assert not is_miss(Request("jo", first + 0.5, second - 0.5), loads)
    assert not is_miss(Request("mo", first - 1, first + 1), loads)


def test_hits_retries_and_failures_are_counted() -> None:
    """Of three requests one is a miss, one was retried twice, one failed."""
    done = [Request("jo", 0, 2), Request("jo", 3, 4, retries=2), Request("mo", 3, 4, failure="503 x")]

    found = figures_of(done, {"jo": [1.0]})

    assert (0.6667, 2, 1, ["503 x"]) == (
        found["hit_rate"], found["retried_for_want_of_a_slot"], found["failed"], found["failures"],
    )  # fmt: skip
    assert 2000 == found["latency_ms"]["misses"]["p50"]


def test_the_second_is_asked_for_half_as_often() -> None:
    """Zipf's law."""
    assert [1, 1 / 2, 1 / 3] == zipf_weights(3)


def test_lines_are_drawn(tmp_path: Path) -> None:
    """Of how many take how long, on logarithmic axes too; a percentile is a plain number."""
    line = longer_than([3.0, 1.0])

    assert ([1.0, 3.0], [1.0, 0.5]) == line
    assert {"count": 2, "p50": 2.0, "p99": 2.98, "largest": 3.0} == percentiles([3.0, 1.0])
    assert {"count": 0} == percentiles([])
    assert draw_lines("x", [Graph("t", "ms", "share", {"a": line, "b": line}, "xy", left=1)], folder=tmp_path).is_file()


def test_a_good_reload_that_is_refused_is_noticed(world: World, tmp_path: Path) -> None:
    """In each way that a good one is asked for."""
    reloads = reloads_of(world, Answering(409, status="refused"), tmp_path / "bad")
    for _ in range(5):
        reloads.some()

    good = [one for one in reloads.done if one.good]

    assert {"by name", "all", "by generation", "back", "dry run", "not expected"} == {one.kind for one in good}
    assert all(one.wrong for one in good)
