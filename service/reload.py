"""One reload: what is in the store, name by name, beside what answers now. Each name is judged alone."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from errors import AdapterRefused, GenerationConflict, Refused, RequestRefused
from prompt_format.adapter_check import CheckedAdapter
from service.catalogue import fault_of
from service.loader import Loader
from service.store_reader import Look, Source

log = logging.getLogger("samevoice.adapters")


@dataclass
class Result:
    """What a reload did with one name; the fields of interface.md.

    Attributes:
        status: ``loaded``, ``unchanged``, ``refused``, ``removed``, or ``available``: new, and loaded when asked for.
    """

    name: str
    status: str
    generation: str | None = None
    previous_generation: str | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    in_flight_on_previous: int = 0
    memory_bytes: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Wish:
    """How a reload is meant.

    Attributes:
        name: The only one that it is about.
        generation: Which one, whatever CURRENT says.
        expected: What the name must answer with before.
        activate: A gate that was not passed is no hindrance.
        variant: Of an adapter without a manifest.
    """

    name: str | None = None
    generation: str | None = None
    expected: str | None = None
    dry_run: bool = False
    activate: bool = False
    variant: str | None = None


class Reload:
    """Does what *wish* says through *loader*; used once."""

    def __init__(self, loader: Loader, wish: Wish):
        self.loader, self.wish = loader, wish
        self.catalogue, self.pool, self.reader = loader.catalogue, loader.pool, loader.reader
        self._loaded: set[str] = set()  # by this reload: they stay in their slots until it has ended

    async def run(self) -> list[Result]:
        """The results by name, of what was removed at the end.

        Raises:
            UnknownAdapter, GenerationConflict, InvalidField, Busy: About the one name that was asked for.
            AdapterRefused: ``missing_file``, if the whole store is gone.
        """
        results = await self._all() if self.wish.name is None else [await self._one(self.wish.name)]
        if not self.wish.dry_run:
            self.catalogue.choose_newest()
        return results

    async def unload(self) -> None:
        """The one name answers no more, as if it had never been loaded. Raises UnknownAdapter."""
        assert self.wish.name is not None
        async with self.loader.turn:
            self.catalogue.find(self.wish.name)
            self._remove(self.wish.name)
        self.catalogue.choose_newest()

    async def _all(self) -> list[Result]:
        if self.catalogue.names and not await asyncio.to_thread(self.reader.exists):
            raise AdapterRefused("the adapter store is gone: what was loaded goes on serving", code="missing_file")
        looks = await asyncio.to_thread(self.reader.look_at_all)
        results = [await self._one(name, looks[name]) for name in self.catalogue.in_order(looks)]
        results.sort(key=lambda result: result.name)
        gone = [] if self.wish.dry_run else [name for name in self.catalogue.names if name not in looks]
        async with self.loader.turn:
            results += [self._remove(name) for name in gone]
        await asyncio.to_thread(self.loader.last_good.forget, gone)
        return results

    async def _one(self, name: str, look: Look | None = None) -> Result:
        async with self.loader.turn:
            known = self.catalogue.names.get(name)
            previous = known.generation if known else None
            if self.wish.expected not in (None, previous):
                now = previous or "none"
                raise GenerationConflict(f"'{name}' serves generation {now}, not the expected {self.wish.expected}")
            result = Result(name, "refused", previous_generation=previous)
            try:
                if look is None:
                    look = await asyncio.to_thread(self.reader.look_at, name)
                await self._load(name, look, result)
            except Refused as refused:
                if self.wish.name and isinstance(refused, RequestRefused):
                    raise
                result.status, result.generation, result.errors = "refused", previous, [fault_of(refused)]
                if isinstance(refused, AdapterRefused) and not self.wish.dry_run:
                    self.catalogue.refuse(name, refused)
            return result

    async def _load(self, name: str, look: Look, result: Result) -> None:
        source = self._wanted(name, look)
        if self.wish.name is None and name not in self.pool.serving and self._left_alone(source, look, result):
            return
        checked = await self.loader.check(source, result.timing_ms)
        self.loader.check_gate(checked, source, asked=self.wish.activate or self.wish.generation is not None)
        serving = self.pool.serving.get(name)
        if serving is None or serving.checked.generation != checked.generation:
            await self._change(source, checked, look, result)
            return
        result.status, result.generation = "unchanged", checked.generation
        if not self.wish.dry_run:
            self.catalogue.load(name, source, checked, look)

    def _wanted(self, name: str, look: Look) -> Source:
        """What *name* is to answer with. Raises AdapterRefused where CURRENT should say it and does not."""
        known = self.catalogue.names.get(name)
        if self.wish.variant is not None:
            return Source(name, self.wish.generation or look.generation, self.wish.variant)
        if self.wish.generation is not None:
            return Source(name, self.wish.generation)
        if self.wish.name is None and known and known.pinned and known.source and known.current == look.generation:
            return known.source
        if look.refusal is not None:
            raise look.refusal
        return Source(name, look.generation)

    def _left_alone(self, source: Source, look: Look, result: Result) -> bool:
        """Whether a name in no slot stays there: there is nothing new of it, or no room."""
        known = self.catalogue.names.get(source.name)
        if known and known.source == source and known.refusal is None:
            result.status, result.generation = "unchanged", known.generation
            return True
        if self.wish.dry_run or self.pool.has_room(self._loaded):
            return False
        self.catalogue.see(source.name, look)
        result.status, result.generation = "available", look.generation
        return True

    async def _change(self, source: Source, checked: CheckedAdapter, look: Look, result: Result) -> None:
        """Stage beside what answers now, then cut over: nothing is awaited in between."""
        loader, name, real = self.loader, source.name, not self.wish.dry_run
        result.memory_bytes["before"] = await loader.engine.memory()
        serving = await loader.stage(
            checked, loader.until(), result.timing_ms, evict=real, warm=real, keep=self._loaded
        )
        result.generation = checked.generation
        if real:
            began = time.perf_counter()
            previous = self.pool.put(name, serving, self._loaded)
            self.catalogue.load(name, source, checked, look)
            self._loaded.add(name)
            result.status, result.in_flight_on_previous = "loaded", previous.leases if previous else 0
            result.timing_ms["cutover"] = round(1000 * (time.perf_counter() - began), 2)
            log.info("adapter %s now serves generation %s", name, checked.generation)
            await loader.note_good(source)
        else:
            self.pool.give_back(serving.slot)
            result.status = "unchanged"
        result.memory_bytes["after"] = await loader.engine.memory()

    def _remove(self, name: str) -> Result:
        known, serving = self.catalogue.names.pop(name), self.pool.remove(name)
        self.reader.forget(name)
        log.info("adapter %s is no longer served", name)
        return Result(name, "removed", None, known.generation, in_flight_on_previous=serving.leases if serving else 0)
