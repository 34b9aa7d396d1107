"""Which adapter generation answers to which name.

Every name in the store answers; one that stands in no slot is loaded when it is asked for. A name goes on answering
with the generation it had until a reload moves it, in a slot or not. Lives on the event loop: what changes slots takes
turns, and requests to adapters in slots never wait for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import AdapterRefused, Busy, InvalidField
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.format import PromptFormat
from prompt_format.variants import VARIANTS
from service.catalogue import Catalogue
from service.descriptions import describe
from service.engine import BaseFacts, Engine
from service.last_good import LastGood
from service.loader import Loader
from service.reload import Reload, Result, Wish
from service.slot_pool import Serving, SlotPool
from service.store_reader import StoreReader

MOST_IN_VAIN = 16


@dataclass
class _Load:
    """A load that requests for one name share, and how many wait for it."""

    waiting: int = 0
    task: "asyncio.Task[Serving] | None" = None


class Registry:
    """Names -> generations. ``start`` it; ``lease`` uses it, ``reload`` changes it.

    Args:
        default: The name that answers when a request names none; None is the newest.
        patience_s: How long a load waits for a slot when each is in use.
        records: What answers is noted in the store, for the next start.
    """

    def __init__(
        self, store: Path, engine: Engine, base: BaseFacts, default: str | None, patience_s: float = 1.0,
        records: bool = True,
    ):  # fmt: skip
        self.base = base
        self._catalogue = Catalogue(default)
        self._pool = SlotPool(base.slots, engine.free)
        self._last_good = LastGood(store, records)
        self._reader = StoreReader(store, base)
        self._loader = Loader(self._reader, self._catalogue, self._last_good, self._pool, engine, patience_s)
        self._reloading = asyncio.Lock()
        self._loads: dict[str, _Load] = {}

    @property
    def serving(self) -> Mapping[str, Serving]:
        """The names that stand in slots."""
        return self._pool.serving

    @property
    def default(self) -> str | None:
        """The name that answers when a request names none; None is the base."""
        return self._catalogue.default

    def describe(self) -> list[dict[str, Any]]:
        """What ``GET /adapters`` says, by name."""
        return [self.describe_one(name) for name in sorted(self._catalogue.names)]

    def describe_one(self, name: str) -> dict[str, Any]:
        """What ``GET /adapters/{name}`` says. Raises UnknownAdapter."""
        known, serving = self._catalogue.find(name), self.serving.get(name)
        on_previous = self._pool.in_flight_on_previous(name)
        return describe(name, known, serving, self._remembered(name), name == self.default, on_previous)

    async def start(self) -> None:
        """Read the store, and load as many names as there is room for: the default first, then the newest.

        A generation that is bad gives way to the last good one of its name. After ``MOST_IN_VAIN`` names of which
        neither is good, the others are left for when they are asked for: the base may have been exchanged.
        """
        await asyncio.to_thread(self._last_good.read)
        looks = await asyncio.to_thread(self._reader.look_at_all)
        for name, look in looks.items():
            self._catalogue.see(name, look, self._last_good.get(name))
        refused = 0
        for place, name in enumerate(self._catalogue.in_order(looks)):
            if len(self.serving) == self._pool.room or refused == MOST_IN_VAIN:
                break
            if self._catalogue.names[name].generation is None:
                continue
            try:
                async with self._loader.turn:
                    serving = await self._loader.bring(name, self._loader.until())
            except AdapterRefused:
                refused += 1
                continue
            serving.used = -place  # of those that nobody has used, the first one loaded is the last to leave
            self._catalogue.note_time(name, serving.checked)
        self._catalogue.choose_newest()

    @contextlib.asynccontextmanager
    async def lease(self, wanted: str | None) -> AsyncIterator[Serving | None]:
        """The generation for *wanted*, whose slot stays as it is until this ends; None is the base.

        A name in no slot is loaded first; requests for one name share one load.

        Args:
            wanted: None = the default, ``base``, ``name`` or ``name@generation``.

        Raises:
            UnknownAdapter: If there is none such, or it answers with another generation.
            AdapterRefused: If what is in the store cannot be served.
            Busy: ``no_slot``, if every slot is in use.
        """
        name = self._catalogue.resolve(wanted)
        if name is None:
            yield None
            return
        serving = self.serving.get(name)
        if serving is not None:
            self._pool.lease(serving)
        else:
            serving = await self._leased_on_demand(name)
        try:
            if wanted is not None:
                self._catalogue.resolve(wanted)  # the load may have fallen back to another generation
            yield serving
        finally:
            self._pool.release(serving)

    async def formatter(self, wanted: str | None) -> PromptFormat | None:
        """The prompt format that a reply of *wanted* would use; None is the base's. Raises as ``lease``.

        It needs no slot, unless the adapter has never been read.
        """
        name = self._catalogue.resolve(wanted)
        checked = self._remembered(name) if name else None
        if checked is not None:
            return checked.format
        async with self.lease(wanted) as serving:
            return serving.checked.format if serving else None

    async def reload(
        self,
        name: str | None = None,
        generation: str | None = None,
        expected: str | None = None,
        dry_run: bool = False,
        activate: bool = False,
        allow_unlabelled: bool = False,
        variant: str | None = None,
    ) -> list[Result]:
        """Pick up what is in the store: one name, or all of them. Each name is judged alone.

        One name is loaded as CURRENT or *generation* says. Of all of them, what CURRENT newly says is loaded as long as
        there is room beside what this reload has loaded; the rest is loaded when asked for. A name that was pinned to
        another generation than CURRENT's stays there until CURRENT changes, or the name alone is reloaded. Cancelling
        leaves each name as it was, or moved.

        Args:
            generation: This one, whatever CURRENT says, and whether it passed its gate or not.
            expected: What the name must answer with now.
            dry_run: Only see whether it would work.
            activate: Also where the gate was not passed.
            allow_unlabelled: It has no manifest, and was trained on prompts of *variant*.

        Raises:
            Busy: If another reload is running, or there is no slot for the one name asked for.
            UnknownAdapter, GenerationConflict: If the one name asked for is not there, or not in the expected state.
            InvalidField: If *allow_unlabelled* and *variant* do not go together, or the adapter has a manifest.
            AdapterRefused: ``missing_file``, if the whole store is gone.
        """
        _check_variant(allow_unlabelled, variant)
        async with self._alone():
            return await Reload(self._loader, Wish(name, generation, expected, dry_run, activate, variant)).run()

    async def unload(self, name: str) -> None:
        """*name* leaves its slot and answers no more, until a reload brings it back; what is on its way ends with it.

        Raises:
            UnknownAdapter: If it does not answer now.
            Busy: ``reload_busy``, if a reload is running.
        """
        async with self._alone():
            await Reload(self._loader, Wish(name)).unload()

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One at a time. Raises Busy."""
        if self._reloading.locked():
            raise Busy("another reload is running: try again in a moment", code="reload_busy")
        async with self._reloading:
            yield

    def _remembered(self, name: str) -> CheckedAdapter | None:
        """What *name* answers with, once it has been read."""
        serving = self.serving.get(name)
        return serving.checked if serving else self._reader.remembered(name, self._catalogue.names[name].generation)

    async def _leased_on_demand(self, name: str) -> Serving:
        """*name*, brought into a slot, with a lease. Who leaves meanwhile leaves the load to the others."""
        load = self._loads.get(name)
        if load is None:
            load = self._loads[name] = _Load()
            load.task = asyncio.create_task(self._bring(name, load))
            load.task.add_done_callback(_succeeded)  # an error that nobody waits for any more is no news
        assert load.task is not None
        load.waiting += 1
        try:
            return await asyncio.shield(load.task)
        except asyncio.CancelledError:
            load.waiting -= 1
            if _succeeded(load.task):  # this very moment: the lease has been given
                self._pool.release(load.task.result())
            raise

    async def _bring(self, name: str, load: _Load) -> Serving:
        until = self._loader.until()
        try:
            async with self._loader.turn:
                self._catalogue.resolve(name)  # a reload may have had its turn before
                serving = self.serving.get(name) or await self._loader.bring(name, until)
            # At once, for all who wait: the next load may take the slot of what nobody uses.
            self._pool.lease(serving, load.waiting)
            return serving
        finally:
            del self._loads[name]


def _check_variant(allow_unlabelled: bool, variant: str | None) -> None:
    if allow_unlabelled and variant is None:
        raise InvalidField("an unlabelled adapter needs its variant", details=["variant: missing"])
    if variant is not None and not allow_unlabelled:
        raise InvalidField(
            "an adapter's contract decides its variant", details=["variant: only together with allow_unlabelled"]
        )
    if variant is not None and variant not in VARIANTS:
        raise InvalidField("variant: there is none of that name", details=[f"there are: {', '.join(VARIANTS)}"])


def _succeeded(task: "asyncio.Task[Serving]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
