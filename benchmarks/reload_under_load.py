"""Adapters are reloaded all the time, good ones and bad ones, while clients talk to them.

    python -m benchmarks.reload_under_load [--seconds 60] [--calm 30] [--rounds 3] [--threads 24] [--kinds N]

Sixteen clients ask four adapters, thread after thread, in streams and greedily, each waiting for its reply. Meanwhile
adapters change between generations of different weights, in each way that a reload can be asked for, and between two
good reloads come bad ones: damaged, foreign or dishonest generations, of every kind in ``broken_generations``; the last
turn goes on until each was there.

Every reply must be, to the letter, what plain mlx-lm writes with the generation that the reply names; that generation
must have been the one to answer at some time while the reply was under way; none may fail; every bad generation must
be refused by its own code. Otherwise the exit code is 1. The time between tokens is compared with that of the same
clients while nothing is reloaded, in turns of both. Writes docs/figures/reload_under_load.json and .png.
"""

import argparse
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import perf_counter, sleep
from typing import Any

from benchmarks.alone import alone
from benchmarks.figures import Graph, draw_lines, longer_than, percentiles, write_figures
from benchmarks.http_client import Client
from benchmarks.known_replies import Known, known_replies, told_apart
from benchmarks.own_server import OwnServer, own_server
from benchmarks.reliability_world import make_reliability_world, publish_many
from benchmarks.reloads import Done, Live, Reloads, prepare_bad
from benchmarks.serving_world import World, prepared
from benchmarks.talkers import Heard, talk, verdicts

ADAPTERS = {"a": 3, "b": 2, "c": 2, "d": 2}  # name -> generations
CLIENTS, MAX_TOKENS = 16, 24
WARM_UP_S, NAP_S = 3.0, 0.05
TARGET = 2.0  # the most that the 99th percentile of the time between tokens may grow by
PARTS = ("verify", "read", "stage", "probe", "cutover", "warm")


def main() -> int:
    """Reload, listen, and write the figures; exit code 1 if a reply failed or was not right, or a reload went wrong."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        world = make_reliability_world(folder, ADAPTERS)
        spare = alone(prepared, publish_many, world.model, folder / "spare", dict.fromkeys(ADAPTERS, 1), 1000)
        bad = prepare_bad(World(world.model, folder / "spare", spare, world.formats), folder / "bad")[: options.kinds]
        print(f"{len(bad)} kinds of generations that must be refused; plain mlx-lm writes the replies", flush=True)
        known = known_replies(world, options.threads, MAX_TOKENS)
        print(f"{len(known)} threads, {told_apart(known)}", flush=True)
        with own_server(world, folder / "log") as server, Client(server.port) as client:
            reloads = Reloads(world, client, bad, random.Random(options.seed))
            with _overslept() as pauses:
                turns = _turns(server, reloads, known, options)
    calm, busy, heard = (_all(turns[which]) for which in ("calm", "busy", "all"))
    wrong = [done.wrong for done in reloads.done if done.wrong]
    found = verdicts(heard, known, reloads.live)
    figures = {
        "what": __doc__.partition("\n")[0],
        "clients": CLIENTS,
        "adapters": ADAPTERS,
        "seconds": {"with reloads": _seconds(turns["busy"]), "without": _seconds(turns["calm"])},
        "replies": {"with reloads": len(busy), "without": len(calm), **found},
        "known_replies": {"threads": len(known), **told_apart(known)},
        "reloads": reload_figures(reloads.done),
        "between_tokens_ms": gap_figures(turns),
        "this_process_overslept_ms": percentiles(pauses),
        "wrong_reloads": wrong,
    }
    held = not wrong and found.keys() == {"right"} and len(reloads.done) > 0
    print(f"replies {dict(found)}; {figures['reloads']['count']}", *wrong, sep="\n  ")
    print(f"between tokens, ms: {figures['between_tokens_ms']}; overslept {figures['this_process_overslept_ms']}")
    drawn = draw_lines("reload_under_load", _graphs(calm, busy, reloads.done))
    print(f"written: {write_figures('reload_under_load', {**figures, 'held': held})} and {drawn}")
    return 0 if held else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reload_under_load", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60, help="with reloads")
    parser.add_argument("--calm", type=float, default=30, help="seconds of the same load without any")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both that they are cut into")
    parser.add_argument("--threads", type=int, default=24, help="different prompts")
    parser.add_argument("--kinds", type=int, help="of bad generations; all, if nothing is said")
    parser.add_argument("--seed", type=int, default=0, help="decides the order of all")
    parser.add_argument("--keep", type=Path, help="where the store and the service's lines are left to look at")
    return parser.parse_args()


def _turns(
    server: OwnServer, reloads: Reloads, known: Sequence[Known], options: argparse.Namespace
) -> dict[str, list[list[Heard]]]:
    """``calm`` and ``busy``: what was heard in each turn; ``all``: and before the first, to warm up."""
    turns: dict[str, list[list[Heard]]] = {"calm": [], "busy": []}
    begun = perf_counter()
    reloads.live += [Live(name, generation, begun, begun) for name, generation in reloads.now.items()]
    with _talking(server, known, seed=-1) as first:
        sleep(WARM_UP_S)
    for number in range(options.rounds):
        for which, seconds in (("calm", options.calm), ("busy", options.seconds)):
            with _talking(server, known, seed=2 * number + (which == "busy")) as heard:
                if which == "calm":
                    sleep(seconds / options.rounds)
                else:
                    _reload(reloads, perf_counter() + seconds / options.rounds, last=number == options.rounds - 1)
            turns[which].append(heard)
        print(
            f"turn {number + 1} of {options.rounds}: {_ratio(turns, number):.2f} times the time between tokens",
            flush=True,
        )
    return {**turns, "all": [first, *turns["calm"], *turns["busy"]]}


def _all(turns: Sequence[Sequence[Heard]]) -> list[Heard]:
    return [reply for turn in turns for reply in turn]


def _seconds(turns: Sequence[Sequence[Heard]]) -> float:
    return round(sum(max(r.ended for r in turn) - min(r.asked for r in turn) for turn in turns if turn), 1)


def _reload(reloads: Reloads, until: float, last: bool) -> None:
    while perf_counter() < until or (last and not reloads.all_kinds_done):
        reloads.some()


@contextmanager
def _talking(server: OwnServer, known: Sequence[Known], seed: int) -> Iterator[list[Heard]]:
    """Clients talk while the block runs; the list has what they heard when it has ended."""
    stop, heard = Event(), list[Heard]()
    with ThreadPoolExecutor(1) as pool:
        talking = pool.submit(talk, server.port, known, list(ADAPTERS), CLIENTS, MAX_TOKENS, stop, seed)
        try:
            yield heard
        finally:
            stop.set()
            heard += talking.result()


@contextmanager
def _overslept() -> Iterator[list[float]]:
    """How much longer than asked for each of many short sleeps took here while the block ran, in milliseconds.

    Where the whole machine stands still, a virtual one for instance, so does the service; this tells.
    """
    stop, late = Event(), list[float]()

    def sleep_on() -> None:
        while not stop.is_set():
            began = perf_counter()
            sleep(NAP_S)
            late.append(1000 * (perf_counter() - began - NAP_S))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(sleep_on)
        try:
            yield late
        finally:
            stop.set()


# -- figures


def reload_figures(done: Sequence[Done]) -> dict[str, Any]:
    """How many reloads of each kind there were, what they were answered, and how long they took."""
    good, bad = ([one for one in done if one.good is which] for which in (True, False))
    loaded = [one for one in good if one.status == "loaded"]
    parts = {part: percentiles([one.timing_ms[part] for one in loaded if part in one.timing_ms]) for part in PARTS}
    return {
        "count": {"good": len(good), "bad": len(bad), "kinds of bad": len({one.kind for one in bad})},
        "good": _by_status(good),
        "bad": {"refused by the right code": sum(not one.wrong for one in bad), "not": sum(bool(b.wrong) for b in bad)},
        "ms": {"loaded": percentiles([one.ms for one in loaded]), "refused": percentiles([one.ms for one in bad])},
        "parts_ms_of_loaded": parts,
        "kinds_of_bad": dict(sorted(Counter(one.kind for one in bad).items())),
    }


def _by_status(good: Sequence[Done]) -> dict[str, dict[str, int]]:
    """kind -> status -> how many."""
    kinds = dict.fromkeys(one.kind for one in good)
    return {kind: dict(Counter(one.status for one in good if one.kind == kind)) for kind in kinds}


def gap_figures(turns: dict[str, list[list[Heard]]]) -> dict[str, Any]:
    """Time between two tokens of a reply, with and without reloads, and how far apart the 99th percentiles are."""
    ratios = [_ratio(turns, number) for number in range(len(turns["busy"]))]
    ratio = round(statistics.median(ratios), 3)
    return {
        "with reloads": percentiles(_gaps(_all(turns["busy"]))),
        "without": percentiles(_gaps(_all(turns["calm"]))),
        "p99_ratio": {"median": ratio, "of each turn": [round(each, 3) for each in ratios]},
        "target": {"found": ratio, "at most": TARGET, "met": ratio <= TARGET},
    }


def _ratio(turns: dict[str, list[list[Heard]]], number: int) -> float:
    busy, calm = (percentiles(_gaps(turns[which][number])).get("p99", 0.0) for which in ("busy", "calm"))
    return busy / calm if calm else float("inf")


def _gaps(heard: Sequence[Heard]) -> list[float]:
    return [gap for reply in heard for gap in reply.gaps_ms]


def _graphs(calm: Sequence[Heard], busy: Sequence[Heard], done: Sequence[Done]) -> list[Graph]:
    times = {
        "loaded": [one.ms for one in done if one.status == "loaded"],
        "refused": [one.ms for one in done if not one.good],
        "dry run": [one.ms for one in done if one.kind == "dry run"],
    }
    share = "share that takes longer"
    return [
        Graph(
            "between two tokens, 16 clients", "ms", share,
            {"nothing reloaded": longer_than(_gaps(calm)), "reloads without pause": longer_than(_gaps(busy))},
            "xy", left=1,
        ),
        Graph(
            "a reload, under that load", "ms", share, {kind: longer_than(each) for kind, each in times.items() if each},
            "x", 0,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
