"""Reloads of every kind, one after the other, and whether each was answered as it must be.

Between two good ones come two of generations that must not be loaded, in each way that a reload can be asked for.
What is bad lies ready beside the store and is renamed into it, so that little is done here while replies are measured.
"""

import itertools
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.broken_generations import CURRENT_FAULTS, NO_GENERATION, Fault, faults, write_broken
from benchmarks.http_client import Client, Refusal
from benchmarks.serving_world import World
from prompt_format.adapter_store import CURRENT, read_generation
from training.private_files import replace_file
from training.publish import point_to

Json = dict[str, Any]
BAD = 2  # reloads that must be refused, after each good one
WAYS = ("by name", "all", "by generation", "dry run")


@dataclass(frozen=True)
class Bad:
    """A generation that must not be loaded, or what CURRENT must not say.

    Attributes:
        folder: The generation's, ready to be renamed into the store; None: only CURRENT is wrong.
        current: What CURRENT says.
        ways: Of asking for it.
    """

    kind: str
    code: str
    name: str
    folder: Path | None
    current: bytes
    ways: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """One reload.

    Attributes:
        kind: The way that a good one was asked for, or the kind of a bad one.
        status: Of its name, as answered.
        timing_ms: As answered.
        wrong: How the answer is not what it must be; empty where it is.
    """

    kind: str
    good: bool
    status: str
    ms: float
    timing_ms: dict[str, float]
    wrong: str = ""


@dataclass(frozen=True)
class Live:
    """A generation began to answer to a name: not before *asked*, at the latest at *answered*, of perf_counter."""

    name: str
    generation: str
    asked: float
    answered: float


def prepare_bad(good: World, folder: Path) -> list[Bad]:
    """One of each kind in *folder*, made from what is current in *good*; names take turns."""
    names = itertools.cycle(good.generations)
    found = []
    for number, (kind, fault) in enumerate(faults()):
        name = next(names)
        files = read_generation(good.store, name, good.generations[name][-1])
        parent = folder / str(number)
        generation = write_broken(fault, files, parent)
        found.append(Bad(kind, fault.code, name, parent / generation, f"{generation}\n".encode(), _ways(fault)))
    found += [
        Bad(kind, code, next(names), None, said, ("by name", "all")) for kind, (code, said) in CURRENT_FAULTS.items()
    ]
    return found


def _ways(fault: Fault) -> tuple[str, ...]:
    return WAYS[:2] if fault.by_name_only else WAYS


@dataclass
class Reloads:
    """What is reloaded, in which order, and what came of it.

    Attributes:
        now: name -> the generation that must answer.
    """

    world: World
    client: Client
    bad: list[Bad]
    pick: random.Random
    done: list[Done] = field(default_factory=list)
    live: list[Live] = field(default_factory=list)
    now: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now = {name: generations[-1] for name, generations in self.world.generations.items()}
        self._bad = self._in_turn()
        self._good = itertools.cycle([self._one, self._all, self._roll_back, self._dry_run, self._not_expected])

    def some(self) -> None:
        """A good reload, and bad ones."""
        next(self._good)()
        for _ in range(BAD):
            self.refuse(*next(self._bad))

    @property
    def all_kinds_done(self) -> bool:
        """Each bad one was asked for once at least."""
        return {one.kind for one in self.done if not one.good} == {bad.kind for bad in self.bad}

    # -- good ones

    def _one(self) -> None:
        """CURRENT moves, as training moves it."""
        name, generation = self._another()
        point_to(self.world.store, name, generation)
        self._ask("by name", {"name": name}, {name: generation})

    def _all(self) -> None:
        """Two CURRENTs have moved; the other names are left alone."""
        wanted = dict([self._another(), self._another()])
        for name, generation in wanted.items():
            point_to(self.world.store, name, generation)
        self._ask("all", {}, wanted)

    def _roll_back(self) -> None:
        """By number, and back to what CURRENT says."""
        name, generation = self._another()
        before = self.now[name]
        point_to(self.world.store, name, before)
        self._ask("by generation", {"name": name, "generation": generation}, {name: generation})
        self._ask("back", {"name": name}, {name: before})

    def _dry_run(self) -> None:
        name, generation = self._another()
        self._ask("dry run", {"name": name, "generation": generation, "dry_run": True}, {})

    def _not_expected(self) -> None:
        """Who expects another generation gets 412, and nothing is touched."""
        name, generation = self._another()
        body = {"name": name, "generation": generation, "expected_generation": NO_GENERATION}
        ms, _, status, answer = self._post(body)
        code = answer.get("error", {}).get("code")
        wrong = "" if (status, code) == (412, "generation_conflict") else f"{status} {code}, expected 412"
        self.done.append(Done("not expected", True, str(code), ms, {}, wrong))

    def _another(self) -> tuple[str, str]:
        """A name, and a generation of it that does not answer now."""
        name = self.pick.choice(list(self.now))
        return name, self.pick.choice([g for g in self.world.generations[name] if g != self.now[name]])

    def _ask(self, kind: str, body: Json, wanted: Mapping[str, str]) -> None:
        """A good reload: *wanted* is loaded, all other names are as they were."""
        ms, asked, status, answer = self._post(body)
        self.live += [Live(name, generation, asked, perf_counter()) for name, generation in wanted.items()]
        results = {result["name"]: result for result in answer.get("results", [])}
        wrong = "" if status == 200 else f"{kind}: {status}"
        for name, result in results.items():
            expected = ("loaded", wanted[name]) if name in wanted else ("unchanged", self.now[name])
            if "dry_run" in body:
                expected = ("unchanged", body["generation"])
            if (result["status"], result["generation"]) != expected:
                codes = [error["code"] for error in result["errors"]]
                wrong = f"{kind}: {result['status']} {result['generation']} {codes}, expected {expected}"
        if not (results.keys() >= wanted.keys() and results):
            wrong = wrong or f"{kind}: a name is missing"
        self.now |= wanted
        subject = next(iter(wanted or results), "")
        result = results.get(subject, {"status": "", "timing_ms": {}})
        self.done.append(Done(kind, True, result["status"], ms, result["timing_ms"], wrong))

    # -- bad ones

    def _in_turn(self) -> Iterator[tuple[Bad, str]]:
        """All of them, again and again: each time round in another order, and asked for in another way."""
        for turn in itertools.count():
            for number, bad in enumerate(self.pick.sample(self.bad, len(self.bad))):
                yield bad, bad.ways[(turn + number) % len(bad.ways)]

    def refuse(self, bad: Bad, way: str) -> None:
        """*bad* lies in the store while it is asked for; afterwards all is as it was."""
        folder = self.world.store / bad.name
        if bad.folder:
            os.rename(bad.folder, folder / bad.folder.name)
        if way in ("by name", "all"):
            replace_file(folder / CURRENT, bad.current)
        ms, _, status, answer = self._post(_body(bad, way))
        point_to(self.world.store, bad.name, self.now[bad.name])
        if bad.folder:
            os.rename(folder / bad.folder.name, bad.folder)
        results = {result["name"]: result for result in answer.get("results", [])}
        wrong = self._not_refused(bad, status, results)
        found = results.get(bad.name, {"status": "", "timing_ms": {}})
        self.done.append(
            Done(bad.kind, False, found["status"], ms, found["timing_ms"], wrong and f"{bad.kind}, {way}: {wrong}")
        )

    def _not_refused(self, bad: Bad, status: int, results: Mapping[str, Json]) -> str:
        found = results.get(bad.name)
        if status != 409 or found is None:
            return f"{status}, expected 409"
        codes = [error["code"] for error in found["errors"]]
        if (found["status"], codes) != ("refused", [bad.code]):
            return f"{found['status']} {codes}, expected {bad.code}"
        others = [r for name, r in results.items() if name != bad.name and r["status"] != "unchanged"]
        if found["generation"] != self.now[bad.name] or others:
            return "what was loaded has changed"
        return ""

    def _post(self, body: Json) -> tuple[float, float, int, Json]:
        """(milliseconds, when it was asked, status, answer)."""
        asked = perf_counter()
        try:
            _, answer = self.client.post("/adapters/reload", body)
            status = 200
        except Refusal as refusal:
            status, answer = refusal.status, refusal.answer
        return 1000 * (perf_counter() - asked), asked, status, answer


def _body(bad: Bad, way: str) -> Json:
    if way == "all":
        return {}
    if way == "by name":
        return {"name": bad.name}
    body: Json = {"name": bad.name, "generation": bad.current.decode().strip()}
    return {**body, "dry_run": True} if way == "dry run" else body
