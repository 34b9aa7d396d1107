"""A thousand swaps of one adapter between two generations: is anything left behind, does anything get slower?

    python -m benchmarks.swaps [--swaps 1000] [--every 50] [--pairs 20]

One service, no load but one request after every so many swaps. The device's memory must be back within one per cent of
what it was after the first few swaps; file descriptors and threads must be as many; otherwise the exit code is 1.
Decoding is compared with that of a service just started, request by request in turns. Writes docs/figures/swaps.json
and .png.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.figures import Graph, draw_lines, percentiles, write_figures
from benchmarks.http_client import Client
from benchmarks.own_server import OwnServer, own_server
from benchmarks.process_facts import process_facts
from benchmarks.reliability_world import VARIANT, make_reliability_world
from benchmarks.serving_world import Question, World
from training.publish import point_to

NAME = "a"
WARM_UP = 20  # swaps, with requests between them: the first ones fill caches and start threads
LIVE = ("verify", "read", "stage", "probe", "cutover")
MAX_TOKENS = 64
TARGET_MEMORY = 0.01  # of the device's memory, at most gained or lost
TARGET_SPEED = 0.95  # of a fresh service's tokens a second, at least
MB = 1e6


def main() -> int:
    """Swap, and write the figures; exit code 1 if something is left behind."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        world = make_reliability_world(folder, {NAME: 2})
        fresh = _copy_of(world, folder / "fresh")
        with own_server(world, folder / "log") as server, Client(server.port) as client:
            swapping = Swapping(world, server, client)
            swapping.swap(WARM_UP, every=2)
            swapping.forget()
            swapping.swap(options.swaps, options.every)
            with own_server(fresh, folder / "fresh-log") as other, Client(other.port) as beside:
                point_to(world.store, NAME, fresh.generations[NAME][-1])
                client.post("/adapters/reload", {"name": NAME})
                speeds = compare_speeds(world, client, beside, options.pairs)
    figures = {
        "what": __doc__.partition("\n")[0],
        "swaps": len(swapping.live_ms),
        "swap_ms": percentiles(swapping.live_ms),
        "warm_ms": percentiles(swapping.warm_ms),
        "call_ms": percentiles(swapping.call_ms),
        **left_behind(swapping.seen),
        "tokens_a_second": speeds,
        "seen": swapping.seen,
    }
    drawn = draw_lines("swaps", _graphs(swapping))
    print({key: value for key, value in figures.items() if key != "seen"})
    print(f"written: {write_figures('swaps', figures)} and {drawn}")
    return 0 if all(figures[key]["met"] for key in ("device_memory", "descriptors", "threads")) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swaps", description=__doc__.partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50, help="swaps from one request to the next")
    parser.add_argument("--pairs", type=int, default=60, help="requests to each of the two services in the end")
    parser.add_argument("--keep", type=Path, help="where the store and the services' lines are left to look at")
    return parser.parse_args()


def _copy_of(world: World, folder: Path) -> World:
    """The same, for a service of its own: two must not share a store."""
    shutil.copytree(world.store, folder)
    return replace(world, store=folder)


class Swapping:
    """Swaps, and what was seen meanwhile.

    Attributes:
        live_ms, warm_ms, call_ms: Of each swap: until the new generation answers; its prefix cache; all as called.
        seen: After some swaps the device's memory, what the process holds, and tokens a second of a request.
    """

    def __init__(self, world: World, server: OwnServer, client: Client):
        self._world, self._server, self._client = world, server, client
        self._done = 0
        self._question = world.threads(VARIANT, 5)[-1]
        self.forget()

    def forget(self) -> None:
        """From here on it counts."""
        self.live_ms: list[float] = []
        self.warm_ms: list[float] = []
        self.call_ms: list[float] = []
        self.seen: list[dict[str, float]] = self.seen[-1:] if self._done else []
        for one in self.seen:
            one["swaps"] = 0

    def swap(self, count: int, every: int) -> None:
        """*count* swaps; one request after every so many."""
        memory = 0
        for number in range(1, count + 1):
            memory = self._swap()
            if number % every == 0 or number == count:
                speed = tokens_a_second(self._client, self._question)
                facts = process_facts(self._server.process)
                self.seen.append({"swaps": number, "device_bytes": memory, "tokens_a_second": speed, **facts})

    def _swap(self) -> int:
        """The device's bytes afterwards."""
        generation = self._world.generations[NAME][self._done % 2]  # the last one is current to begin with
        self._done += 1
        point_to(self._world.store, NAME, generation)
        seconds, answer = self._client.post("/adapters/reload", {"name": NAME})
        (result,) = answer["results"]
        if (result["status"], result["generation"]) != ("loaded", generation):
            raise SystemExit(f"/adapters/reload: {result}")
        timing = result["timing_ms"]
        self.live_ms.append(sum(timing.get(part, 0.0) for part in LIVE))
        self.warm_ms.append(timing.get("warm", 0.0))
        self.call_ms.append(1000 * seconds)
        return int(result["memory_bytes"]["after"])


def tokens_a_second(client: Client, question: Question) -> float:
    """Of the decoding of one greedy reply, as the service times it."""
    body = {"messages": question.messages, "adapter": NAME, "temperature": 0.0, "max_tokens": MAX_TOKENS}
    _, answer = client.post("/reply", body)
    tokens: int = answer["usage"]["completion_tokens"]
    return round(1000 * tokens / max(answer["timing_ms"]["decode"], 0.001), 2)


def compare_speeds(world: World, swapped: Client, fresh: Client, pairs: int) -> dict[str, Any]:
    """Tokens a second of a service after its swaps and of a fresh one; who is asked first changes."""
    found: dict[Client, list[float]] = {swapped: [], fresh: []}
    questions = [world.threads(VARIANT, 5)[-1] for _ in range(pairs + 1)]
    for number, question in enumerate(questions):
        for client in (swapped, fresh) if number % 2 else (fresh, swapped):
            speed = tokens_a_second(client, question)
            if number:  # the very first one warms up
                found[client].append(speed)
    ratio = statistics.median(a / b for a, b in zip(found[swapped], found[fresh], strict=True))
    return {
        "after_the_swaps": statistics.median(found[swapped]),
        "fresh_service": statistics.median(found[fresh]),
        "ratio": {"found": round(ratio, 3), "at least": TARGET_SPEED, "met": ratio >= TARGET_SPEED},
    }


def left_behind(seen: Sequence[dict[str, float]]) -> dict[str, Any]:
    """What there was at first and in the end, and whether that is as much."""
    first, last = seen[0], seen[-1]
    change = last["device_bytes"] / first["device_bytes"] - 1
    found: dict[str, Any] = {
        "device_memory": {
            "mb_at_first": first["device_bytes"] / MB,
            "mb_in_the_end": last["device_bytes"] / MB,
            "change": round(change, 5),
            "at most": TARGET_MEMORY,
            "met": abs(change) <= TARGET_MEMORY,
        }
    }
    for fact in ("descriptors", "threads"):
        ends = (first.get(fact), last.get(fact))
        found[fact] = {"at_first": ends[0], "in_the_end": ends[1], "met": ends[0] == ends[1]}
    if "resident_bytes" in first:
        grown = last["resident_bytes"] - first["resident_bytes"]
        found["resident"] = {"mb_at_first": first["resident_bytes"] / MB, "mb_grown": grown / MB}
    return found


def _graphs(swapping: Swapping) -> list[Graph]:
    seen = swapping.seen
    across = [one["swaps"] for one in seen]
    memory = {
        label: (across, [one[key] / MB for one in seen])
        for label, key in (("device", "device_bytes"), ("process, resident", "resident_bytes"))
        if key in seen[0]
    }
    swaps = list(range(1, len(swapping.live_ms) + 1))
    return [
        Graph("memory", "swaps", "MB", memory, begin=0),
        Graph("a swap", "swaps", "ms", {"until it answers": (swaps, swapping.live_ms)}, begin=0),
        Graph(
            "one request", "swaps", "tokens a second", {NAME: (across, [o["tokens_a_second"] for o in seen])}, begin=0
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
