"""From the store into a slot: read, check, write into a slot, probe, warm. Which name gets what its callers say."""

import asyncio
import contextlib
import logging
from collections.abc import Collection
from dataclasses import replace

from errors import AdapterRefused, UnknownAdapter
from prompt_format.adapter_check import CheckedAdapter
from service.catalogue import Catalogue
from service.engine import Engine
from service.last_good import LastGood
from service.slot_pool import Serving, SlotPool
from service.store_reader import Source, StoreReader

log = logging.getLogger("samevoice.adapters")


class Loader:
    """Brings adapters from *reader* into slots of *pool*, through *engine*.

    Args:
        patience_s: How long a load waits for a slot when each is in use.

    Attributes:
        turn: Held by whoever changes what stands in slots.
        warm_s: The longest that a cut-over waits for its prefix cache.
    """

    def __init__(
        self,
        reader: StoreReader,
        catalogue: Catalogue,
        last_good: LastGood,
        pool: SlotPool,
        engine: Engine,
        patience_s: float,
    ):
        self.reader, self.catalogue, self.last_good, self.pool = reader, catalogue, last_good, pool
        self.engine, self.patience_s = engine, patience_s
        self.turn = asyncio.Lock()
        self.warm_s = 1.0

    def until(self) -> float:
        """The moment, on the event loop's clock, up to which a load that begins now waits for a slot."""
        return asyncio.get_running_loop().time() + self.patience_s

    async def check(self, source: Source, timing_ms: dict[str, float]) -> CheckedAdapter:
        """As ``StoreReader.check``, off the event loop."""
        return await asyncio.to_thread(self.reader.check, source, timing_ms)

    def check_gate(self, checked: CheckedAdapter, source: Source, asked: bool = False) -> None:
        """Refuse what did not pass its gate, unless it was *asked* for, now or when it last served.

        Raises:
            AdapterRefused: ``gate_not_passed``.
        """
        gate = checked.manifest.gate
        asked = asked or source.variant is not None or source.folder == self.last_good.get(source.name)
        if not (gate.passed or gate.overridden or asked):
            raise AdapterRefused(
                f"generation {checked.generation} did not pass its gate: name it, or say activate, to load it",
                code="gate_not_passed",
                details=gate.reasons,
            )

    async def stage(
        self,
        checked: CheckedAdapter,
        until: float,
        timing_ms: dict[str, float],
        *,
        evict: bool = True,
        warm: bool = False,
        keep: Collection[str] = (),
    ) -> Serving:
        """*checked* in a slot, not answering yet: the caller puts it into the pool, or gives its slot back.

        Until this has returned the slot is free again however it ends, cancelled too.

        Args:
            until, evict, keep: As of ``SlotPool.take``.
            timing_ms: Is told how long ``stage``, ``probe`` and ``warm`` took.
            warm: Fill its prefix cache, within bounds.

        Raises:
            Busy: ``no_slot``.
            AdapterRefused: If the probe says that it is not what was trained.
            NotReady: If the engine has failed or is stopping.
        """
        slot = await self.pool.take(checked.name, until, evict, keep)
        try:
            timing_ms |= await self.engine.stage(slot, checked)
            if warm:
                began = asyncio.get_running_loop().time()
                await self._warm(slot, checked)
                spent = 1000 * (asyncio.get_running_loop().time() - began)
                timing_ms["warm"] = round(timing_ms.get("warm", 0.0) + spent, 2)
        except BaseException:
            self.pool.give_back(slot)
            raise
        return Serving(replace(checked, weights=b""), slot)

    async def bring(self, name: str, until: float) -> Serving:
        """*name* into a slot: what it is to answer with or, where that is bad, what last did. In the caller's turn.

        Raises:
            AdapterRefused: If neither can be served, which is remembered until a reload.
            Busy: ``no_slot``.
        """
        known, last = self.catalogue.names[name], self.last_good.get(name)
        assert known.source is not None
        try:
            return await self._bring(known.source, until)
        except UnknownAdapter as gone:
            refused = AdapterRefused(gone.message, code="missing_file")
        except AdapterRefused as error:
            refused = error
        self.catalogue.refuse(name, refused)
        if last is not None and last != known.source.folder:
            with contextlib.suppress(AdapterRefused, UnknownAdapter):
                serving = await self._bring(Source(name, last), until)
                log.warning("adapter %s: its last good generation %s answers", name, last)
                return serving
        known.generation = None
        raise refused

    async def note_good(self, source: Source) -> None:
        """*source* answers now. What was loaded without a manifest is not: it has to be asked for each time."""
        if source.folder is not None and source.variant is None:
            await asyncio.to_thread(self.last_good.note, source.name, source.folder)

    async def _bring(self, source: Source, until: float) -> Serving:
        known, timing_ms = self.catalogue.names[source.name], dict[str, float]()
        checked = await self.check(source, timing_ms)
        if source == known.source and checked.generation != known.generation:
            raise AdapterRefused(f"the files of '{source.name}' are not those that were loaded", code="file_changed")
        self.check_gate(checked, source)
        serving = await self.stage(checked, until, timing_ms)
        self.pool.put(source.name, serving)
        self.catalogue.answer(source.name, source, checked.generation)
        log.info("adapter %s: generation %s is in a slot", source.name, checked.generation)
        await self.note_good(source)
        return serving

    async def _warm(self, slot: int, checked: CheckedAdapter) -> None:
        """What the generation before was asked last, where prompts have stayed the same.

        The head of every prompt is there already: the probe has computed it.
        """
        before = self.pool.serving.get(checked.name)
        if before is not None and before.checked.format.digest == checked.format.digest:
            with contextlib.suppress(TimeoutError):  # the first requests fill it then
                async with asyncio.timeout(self.warm_s):
                    await self.engine.warm(slot, [], like=before.slot)
