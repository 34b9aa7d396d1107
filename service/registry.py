"""Which adapter generation answers to which name, and the change from one to the next.

Lives on the event loop alone, so nothing here needs a lock but the one that lets reloads take turns. A request holds
a lease on its generation until its last row has ended; a slot is freed when its generation is retired and unleased.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import AdapterRefused, Busy, GenerationConflict, Refused, UnknownAdapter
from prompt_format.adapter_check import CheckedAdapter, check_adapter
from prompt_format.adapter_store import current, generations, names, read_generation
from prompt_format.manifest import NAME_PATTERN
from service.engine import BaseFacts, Engine

log = logging.getLogger("samevoice.adapters")


@dataclass
class Serving:
    """One generation in a slot."""

    checked: CheckedAdapter
    slot: int
    leases: int = 0
    retired: bool = False


@dataclass
class Result:
    """What a reload did with one name; the fields of interface.md."""

    name: str
    status: str
    generation: str | None = None
    previous_generation: str | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    in_flight_on_previous: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Registry:
    """Names -> generations in slots. ``reload`` changes it; ``lease`` uses it."""

    def __init__(self, store: Path, engine: Engine, base: BaseFacts, default: str | None):
        self.store, self.engine, self.base, self._chosen_default = store, engine, base, default
        self.serving: dict[str, Serving] = {}
        self.refused: dict[str, dict[str, Any]] = {}
        self._retired: list[Serving] = []
        self._free = list(range(base.slots, 0, -1))
        self._reloading = asyncio.Lock()

    @property
    def default(self) -> str | None:
        """The adapter that answers when a request names none: the chosen one, served or not; else the newest."""
        if self._chosen_default is not None:
            return self._chosen_default
        newest = max(self.serving.items(), key=lambda i: (i[1].checked.manifest.created_at, i[0]), default=None)
        return newest[0] if newest else None

    def find(self, wanted: str | None) -> Serving | None:
        """The generation for *wanted*: None = the default, ``base``, ``name`` or ``name@generation``. None is the base.

        Raises:
            UnknownAdapter: If it is not being served.
        """
        wanted = wanted or self.default or "base"
        if wanted == "base":
            return None
        name, _, generation = wanted.partition("@")
        found = self.serving.get(name)
        if found is None:
            there = ", ".join(["base", *sorted(self.serving)])
            raise UnknownAdapter(f"no adapter {_named(name)} is being served; there are: {there}")
        if generation and generation != found.checked.generation:
            raise UnknownAdapter(
                f"'{name}' serves generation {found.checked.generation}, not {generation[:16]}",
                code="unknown_generation",
            )
        return found

    @contextlib.contextmanager
    def lease(self, serving: Serving | None) -> Iterator[int]:
        """The slot of *serving*, which stays as it is until this ends."""
        if serving is None:
            yield 0
            return
        serving.leases += 1
        try:
            yield serving.slot
        finally:
            serving.leases -= 1
            self._free_when_unused(serving)

    async def reload(
        self,
        name: str | None = None,
        generation: str | None = None,
        expected: str | None = None,
        dry_run: bool = False,
    ) -> list[Result]:
        """Pick up what is in the store: one name, or all of them. Each name is judged alone.

        Raises:
            Busy: If another reload is running.
            UnknownAdapter, GenerationConflict: If the one name asked for is not there, or not in the expected state.
            AdapterRefused: ``missing_file``, if the whole store is gone.
        """
        if self._reloading.locked():
            raise Busy("another reload is running: try again in a moment", code="reload_busy")
        async with self._reloading:
            if name is not None:
                self._expect(name, expected)
                return [await self._reload_one(name, generation, dry_run, asked_for=True)]
            if self.serving and not await asyncio.to_thread(self.store.is_dir):
                raise AdapterRefused("the adapter store is gone: what was loaded goes on serving", code="missing_file")
            found = await asyncio.to_thread(names, self.store)
            self.refused = {name: refusal for name, refusal in self.refused.items() if name in found}
            results = [await self._reload_one(found_name, None, dry_run) for found_name in found]
            gone = [] if dry_run else [served for served in self.serving if served not in found]
            return results + [self._remove(served) for served in gone]

    def describe(self) -> list[dict[str, Any]]:
        """What ``GET /adapters`` says, by name."""
        return [self.describe_one(name) for name in sorted({*self.serving, *self.refused})]

    def describe_one(self, name: str) -> dict[str, Any]:
        """What ``GET /adapters/{name}`` says. Raises UnknownAdapter."""
        refusal = self.refused.get(name)
        serving = self.serving.get(name)
        if serving is None and refusal is None:
            there = ", ".join(sorted({*self.serving, *self.refused})) or "none"
            raise UnknownAdapter(f"no adapter {_named(name)}; there are: {there}")
        facts: dict[str, Any] = {"name": name, "default": name == self.default, "last_refusal": refusal}
        if serving is None:
            return {**facts, "status": "refused", "generation": None}
        manifest = serving.checked.manifest
        retired = [old for old in self._retired if old.checked.name == name]
        return {
            **facts,
            "status": "serving",
            "generation": serving.checked.generation,
            "created_at": manifest.created_at,
            "slot": serving.slot,
            "in_flight": serving.leases,
            "in_flight_on_previous": sum(old.leases for old in retired),
            "contract": serving.checked.format.contract.digest,
            "variant": manifest.contract.variant,
            "persona": manifest.contract.persona.name,
            "lora": {"type": manifest.lora.type, "rank": manifest.lora.rank, "scale": manifest.lora.scale},
            "metrics": manifest.metrics,
            "gate": manifest.gate.model_dump(),
        }

    # -- how it is done

    def _expect(self, name: str, expected: str | None) -> None:
        if expected is None:
            return
        serving = self.serving.get(name)
        now = serving.checked.generation if serving else "none"
        if now != expected:
            raise GenerationConflict(f"'{name}' serves generation {now}, not the expected {expected}")

    async def _reload_one(self, name: str, generation: str | None, dry_run: bool, asked_for: bool = False) -> Result:
        previous = self.serving.get(name)
        result = Result(name, "refused", None, previous.checked.generation if previous else None)
        try:
            await self._load(name, generation, dry_run, previous, result)
        except Refused as refused:
            if asked_for and isinstance(refused, UnknownAdapter):
                raise
            result.generation = result.previous_generation
            result.errors = [{"code": refused.code, "message": refused.message, "details": refused.details}]
            self.refused[name] = result.errors[0]
            log.warning("adapter %s refused: %s", name, refused.code)
        return result

    async def _load(
        self, name: str, generation: str | None, dry_run: bool, previous: Serving | None, result: Result
    ) -> None:
        clock = time.perf_counter()
        wanted = generation if generation else await asyncio.to_thread(self._current, name)
        checked = await asyncio.to_thread(self._verify, name, wanted)
        result.timing_ms["verify"], clock = _since(clock)
        if previous and previous.checked.generation == wanted:  # and its files are still what they were
            result.status, result.generation = "unchanged", wanted
            self.refused.pop(name, None)
            return
        if not self._free:
            raise AdapterRefused("every slot is in use: start the service with more --slots", code="no_slot")
        slot = self._free.pop()
        try:
            await self.engine.stage(slot, checked)
        except BaseException:
            self._free.append(slot)
            raise
        result.timing_ms["stage"], clock = _since(clock)
        result.generation = wanted
        if dry_run:
            await self.engine.clear(slot)
            self._free.append(slot)
            result.status = "unchanged"
            return
        self._cut_over(name, Serving(checked, slot), previous, result)
        result.timing_ms["cutover"], clock = _since(clock)
        log.info("adapter %s now serves generation %s", name, wanted)

    def _current(self, name: str) -> str:
        generation = current(self.store, name)
        if generation not in generations(self.store, name):
            raise AdapterRefused(f"CURRENT names generation {generation}, which is not there", code="missing_file")
        return generation

    def _verify(self, name: str, generation: str) -> CheckedAdapter:
        files = read_generation(self.store, name, generation)
        base = self.base
        return check_adapter(files, name, generation, base.fingerprint, base.template, base.shapes, base.blocks)

    def _cut_over(self, name: str, serving: Serving, previous: Serving | None, result: Result) -> None:
        self.serving[name] = serving
        self.refused.pop(name, None)
        result.status = "loaded"
        if previous is not None:
            result.in_flight_on_previous = previous.leases
            self._retire(previous)

    def _remove(self, name: str) -> Result:
        serving = self.serving.pop(name)
        leases = serving.leases
        self._retire(serving)
        log.info("adapter %s is gone from the store and no longer served", name)
        return Result(name, "removed", None, serving.checked.generation, in_flight_on_previous=leases)

    def _retire(self, serving: Serving) -> None:
        serving.retired = True
        self._retired.append(serving)
        self._free_when_unused(serving)

    def _free_when_unused(self, serving: Serving) -> None:
        if serving.retired and serving.leases == 0 and serving in self._retired:
            self._retired.remove(serving)
            self._free.append(serving.slot)


def _named(name: str) -> str:
    """*name* for a message, if it is one at all: it came from outside."""
    return f"named '{name}'" if re.fullmatch(NAME_PATTERN, name) else "of that name"


def _since(clock: float) -> tuple[float, float]:
    """(milliseconds since *clock*, now)."""
    now = time.perf_counter()
    return round(1000 * (now - clock), 2), now
