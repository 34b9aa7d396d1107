"""Whether tokens come: what kills an engine that hangs, and what ``GET /readyz`` says.

A process that answers is no sign of life of its engine, and neither is a thread that is there: only what it gets done
is. ``watch`` runs beside the service and gives up an engine that has work and does nothing; ``Readiness`` asks for one
token where none was delivered of late.
"""

import asyncio
import math
from dataclasses import dataclass, field

from errors import NotReady
from service.choice import Sampling
from service.engine import BaseFacts, Engine, Job

EVERY_S = 1.0  # between two looks at the engine
SILENT_S = 28.0  # with a look and a turn of the loop, those who wait are told within 30 seconds
RECENT_S = 30.0  # a token delivered so long ago says that the next one will be, too
PROBE_S = 10.0  # how long a probe may take
PROBING = "(probe)"  # the group of probes: no adapter can be called so


async def watch(engine: Engine, silent_s: float = SILENT_S, every_s: float = EVERY_S) -> None:
    """Look at a started *engine* and give it up once it is silent for longer; returns when it has failed.

    A process that was stopped for a while must not take that for silence of its engine: between two looks, silence
    grows by no more than two such spans.
    """
    silent, every_s = 0.0, min(every_s, silent_s / 4)
    while engine.failure is None:
        await asyncio.sleep(every_s)
        found = engine.silent_s
        silent = found if math.isinf(found) else min(found, silent + 2 * every_s)
        if silent > silent_s:
            engine.give_up("its thread has ended" if math.isinf(found) else f"nothing done in {silent_s:g} seconds")


def probe_of(base: BaseFacts) -> Job:
    """One token by the base, as cheap as it can be."""
    ids = base.template.encode_text("are you there")
    return Job(ids, 0, (0,), max_tokens=1, sampling=Sampling(temperature=0.0), group=PROBING)


@dataclass
class Readiness:
    """Whether *engine* delivers tokens. Those who ask at the same time share one *probe*."""

    engine: Engine
    probe: Job
    recent_s: float = RECENT_S
    probe_s: float = PROBE_S
    _probing: "asyncio.Task[NotReady | None] | None" = field(default=None, init=False)

    async def check(self) -> None:
        """Returns if a token was delivered of late, or is now.

        Raises:
            NotReady: If none is, if the engine has failed, or if the service is shutting down.
        """
        self.engine.check()
        if self.engine.delivered_s <= self.recent_s:
            return
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        refusal = await asyncio.shield(self._probing)  # one of those who wait may leave
        if refusal is not None:
            raise refusal

    async def _probe(self) -> NotReady | None:
        try:
            async with asyncio.timeout(self.probe_s):
                await self.engine.write(self.probe)
        except TimeoutError:
            return NotReady(
                f"no token was delivered in the last {self.recent_s:g} seconds, and none within {self.probe_s:g} "
                "when asked for one: try again, the service starts anew if its engine hangs"
            )
        except NotReady as refusal:
            return refusal
        return None
