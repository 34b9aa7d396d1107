"""Two hundred adapters and eight slots: who is asked for often is there, who is not is brought in.

    python -m benchmarks.many_adapters [--adapters 200] [--clients 8] [--seconds 60] [--seed 0]

Clients ask the service with its default settings, each waiting for its reply, for adapters by Zipf's law: the second
half as often as the first, the third a third as often. A request finds its adapter in a slot (a hit), or waits until
it has been loaded there (a miss); which of the two it was is told by the service's own lines. A client that is refused
for want of a slot waits as long as it is told and asks again. Exit code 1 if a request fails or the wrong adapter
answers. Writes docs/figures/many_adapters.json and .png.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from benchmarks.figures import Graph, draw_lines, longer_than, percentiles, write_figures
from benchmarks.http_client import Client, Refusal
from benchmarks.own_server import own_server
from benchmarks.reliability_world import VARIANT, make_reliability_world
from benchmarks.serving_world import Question, World

SLOTS = 8  # the service's default
EXPONENT = 1.0
MAX_TOKENS = 24
LOADED = re.compile(r"^(\S+ \S+) samevoice\.adapters INFO adapter (\S+): generation \S+ is in a slot$", re.MULTILINE)
CLOCK = "%Y-%m-%d %H:%M:%S,%f"  # of the service's lines: local time, to the millisecond
ROUNDING = 0.001  # seconds


@dataclass
class Request:
    """One that was answered or failed.

    Attributes:
        asked, ended: Seconds since the epoch, as the service's lines have them.
        retries: How often no slot was free.
    """

    name: str
    asked: float
    ended: float = 0.0
    retries: int = 0
    failure: str = ""

    @property
    def ms(self) -> float:
        return 1000 * (self.ended - self.asked)


def main() -> int:
    """Ask, and write the figures; exit code 1 if something failed."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        names = [f"voice-{number:03}" for number in range(options.adapters)]
        print(f"{len(names)} adapters are made", flush=True)
        world = make_reliability_world(folder, dict.fromkeys(names, 1))
        empty_s = _start_s(replace(world, store=folder / "nobody", generations={}), folder / "nobody-log")
        random.Random(options.seed).shuffle(names)  # who is asked for most is not who was published last
        began = time.perf_counter()
        with own_server(world, folder / "log") as server:
            start_s = time.perf_counter() - began
            done = _ask_all(server.port, world, names, options)
        loads = loads_in((folder / "log").read_text(encoding="utf-8", errors="replace"))
    if not loads:
        raise SystemExit("the service's lines do not say which adapters it loads")
    figures = {
        "what": __doc__.partition("\n")[0],
        "adapters": len(names), "slots": SLOTS, "clients": options.clients, "seconds": options.seconds,
        "start_s": {"with all adapters": round(start_s, 2), "with none": round(empty_s, 2)},
        **figures_of(done, loads),
    }  # fmt: skip
    drawn = draw_lines("many_adapters", _graphs(done, loads, names))
    print(figures)
    print(f"written: {write_figures('many_adapters', figures)} and {drawn}")
    return 1 if figures["failed"] or not done else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_adapters", description=__doc__.partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="decides who is asked for")
    parser.add_argument("--keep", type=Path, help="where the store and the service's lines are left to look at")
    return parser.parse_args()


def _start_s(world: World, log: Path) -> float:
    """Seconds from the start of a process until it is ready."""
    began = time.perf_counter()
    with own_server(world, log):
        return time.perf_counter() - began


# -- clients


def zipf_weights(count: int) -> list[float]:
    """How often each of *count* is asked for, the first the most."""
    return [1 / rank**EXPONENT for rank in range(1, count + 1)]


def _ask_all(port: int, world: World, names: Sequence[str], options: argparse.Namespace) -> list[Request]:
    questions = [
        [world.threads(VARIANT, 1 + 2 * (number % 3))[-1] for number in range(12)] for _ in range(options.clients)
    ]
    weights = zipf_weights(len(names))
    until = time.perf_counter() + options.seconds

    def work(number: int) -> list[Request]:
        pick, done = random.Random(f"{options.seed} {number}"), []
        with Client(port) as client:
            while time.perf_counter() < until:
                (name,) = pick.choices(names, weights)
                done.append(_ask(client, name, pick.choice(questions[number])))
        return done

    with ThreadPoolExecutor(options.clients) as pool:
        return [request for each in pool.map(work, range(options.clients)) for request in each]


def _ask(client: Client, name: str, question: Question) -> Request:
    """Until there is an answer, or a refusal that is not for want of a slot."""
    body = {"messages": question.messages, "adapter": name, "temperature": 0.0, "max_tokens": MAX_TOKENS}
    request = Request(name, time.time())
    while not request.ended:
        try:
            _, answer = client.post("/reply", body)
            request.failure = "" if answer["adapter"]["name"] == name else "another adapter answered"
        except Refusal as refusal:
            if refusal.error_code == "no_slot" and refusal.retry_after_s:
                request.retries += 1
                time.sleep(refusal.retry_after_s)
                continue
            request.failure = f"{refusal.status} {refusal.error_code}"
        except (OSError, HTTPException) as error:
            request.failure = type(error).__name__
        request.ended = time.time()
    return request


# -- what came of it


def loads_in(lines: str) -> dict[str, list[float]]:
    """name -> when it was brought into a slot, in seconds since the epoch, from the service's own lines."""
    found: dict[str, list[float]] = {}
    for moment, name in LOADED.findall(lines):
        found.setdefault(name, []).append(datetime.strptime(moment, CLOCK).timestamp())
    return found


def is_miss(request: Request, loads: Mapping[str, Iterable[float]]) -> bool:
    """Its adapter came into a slot while it waited. What is in use does not leave its slot, so nothing else did it."""
    return any(request.asked - ROUNDING <= moment <= request.ended for moment in loads.get(request.name, ()))


def figures_of(done: Sequence[Request], loads: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Hits and misses, how long each took, what was retried and what failed."""
    hits, misses = _apart(done, loads)
    return {
        "requests": len(done),
        "requests_a_second": round(len(done) / (max(r.ended for r in done) - min(r.asked for r in done)), 2),
        "asked_for": len({request.name for request in done}),
        "hit_rate": round(len(hits) / len(done), 4),
        "loads": sum(map(len, loads.values())),
        "latency_ms": {
            "all": percentiles([request.ms for request in done]),
            "hits": percentiles([request.ms for request in hits]),
            "misses": percentiles([request.ms for request in misses]),
        },
        "retried_for_want_of_a_slot": sum(request.retries for request in done),
        "failed": sum(bool(request.failure) for request in done),
        "failures": sorted({request.failure for request in done if request.failure}),
    }


def _apart(done: Sequence[Request], loads: Mapping[str, Sequence[float]]) -> tuple[list[Request], list[Request]]:
    """(hits, misses)."""
    missed = [is_miss(request, loads) for request in done]
    hits = [request for request, miss in zip(done, missed, strict=True) if not miss]
    return hits, [request for request, miss in zip(done, missed, strict=True) if miss]


def _graphs(done: Sequence[Request], loads: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[Graph]:
    hits, misses = _apart(done, loads)
    kinds = {"in a slot": hits, "brought in": misses}
    counts = {
        label: (list(range(1, len(names) + 1)), [sum(request.name == name for request in each) for name in names])
        for label, each in {"requests": done, "of them brought in": misses}.items()
    }
    return [
        Graph(
            f"{len(names)} adapters, {SLOTS} slots", "ms", "share that takes longer",
            {label: longer_than([request.ms for request in each]) for label, each in kinds.items() if each}, "xy",
        ),
        Graph("who is asked for", "adapter, by how often", "requests", counts, "x", 0, 1),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
