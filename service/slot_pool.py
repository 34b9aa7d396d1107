"""Which generation stands in which slot, how many replies are using it, and which slot is taken next.

Bookkeeping on the event loop: nothing here reads a file or waits for the engine. One slot more is kept than names
stand in slots, so that the next generation of a name can be written beside the one that answers.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from errors import Busy
from prompt_format.adapter_check import CheckedAdapter


@dataclass(eq=False)
class Serving:
    """One generation in a slot.

    Attributes:
        checked: Without its weights: the slot has them.
        leases: Requests that are being answered with it.
        retired: Its name has moved on, or left the slots; the slot is free again when the last lease ends.
        used: When a lease on its name last began or ended, or else when it was loaded, in seconds of the monotonic
            clock; not above 0 where a start has loaded it.
    """

    checked: CheckedAdapter
    slot: int
    leases: int = 0
    retired: bool = False
    used: float = 0.0


class SlotPool:
    """The adapter slots 1 to *slots* of an engine.

    Args:
        free: Told of each slot that nobody uses any more.

    Attributes:
        serving: The names that stand in slots.
        room: How many names may stand in slots at once.
    """

    def __init__(self, slots: int, free: Callable[[int], None]):
        self.serving: dict[str, Serving] = {}
        self.room = max(slots - 1, 1)
        self._retired: list[Serving] = []
        self._free = list(range(slots, 0, -1))
        self._told = free
        self._moved = asyncio.Event()

    def lease(self, serving: Serving, count: int = 1) -> None:
        """*count* requests begin to use *serving*: its slot stays as it is until each has been released."""
        serving.leases += count
        serving.used = time.monotonic()

    def release(self, serving: Serving) -> None:
        """A request has ended."""
        serving.leases -= 1
        serving.used = time.monotonic()
        self._free_when_unused(serving)
        if serving.leases == 0:
            self._moved.set()

    async def take(self, name: str, until: float, evict: bool = True, keep: Collection[str] = ()) -> int:
        """A slot to write a generation of *name* into, the caller's until ``put`` or ``give_back``.

        It is a free slot or, with *evict*, that of the adapter that has been idle longest. One caller at a time.

        Args:
            until: Moment of the event loop's clock up to which to wait for a reply to end.
            keep: Names that are not evicted.

        Raises:
            Busy: ``no_slot``, if there is none.
        """
        while (slot := self._taken(name, evict, keep)) is None:
            self._moved.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._moved.wait()
            except TimeoutError:
                raise Busy(
                    "every slot is in use by replies that are being written: try again in a moment, or start the "
                    "service with more --slots",
                    code="no_slot",
                ) from None
        return slot

    def give_back(self, slot: int) -> None:
        """A slot that was taken is not needed after all."""
        self._told(slot)
        self._free.append(slot)
        self._moved.set()

    def put(self, name: str, serving: Serving, keep: Collection[str] = ()) -> Serving | None:
        """From now on *serving* answers to *name*; returns what did before.

        Where that makes one name too many, the one that has been idle longest leaves its slot, unless it is in *keep*.
        """
        previous = self.remove(name)
        serving.used = previous.used if previous else time.monotonic()
        self.serving[name] = serving
        while len(self.serving) > self.room and (idle := self._longest_idle({name, *keep})):
            self.remove(idle)
        return previous

    def remove(self, name: str) -> Serving | None:
        """*name* leaves its slot, which is free when the last lease has ended; returns what stood there."""
        serving = self.serving.pop(name, None)
        if serving is not None:
            serving.retired = True
            self._retired.append(serving)
            self._free_when_unused(serving)
        return serving

    def has_room(self, keep: Collection[str]) -> bool:
        """Another name could have a slot, and those in *keep* theirs."""
        return len(self.serving) < self.room or self._longest_idle(keep) is not None

    def in_flight_on_previous(self, name: str) -> int:
        """How many requests are being answered with generations that *name* has left behind."""
        return sum(old.leases for old in self._retired if old.checked.name == name)

    def _taken(self, name: str, evict: bool, keep: Collection[str]) -> int | None:
        idle = self._longest_idle({name, *keep}) if evict else None
        one_too_many = evict and name not in self.serving and len(self.serving) >= self.room
        if self._free and not (one_too_many and idle is None):
            return self._free.pop()
        if not self._free and idle is not None:
            self.remove(idle)
            return self._free.pop()
        return None

    def _longest_idle(self, keep: Collection[str]) -> str | None:
        idle = [(s.used, name) for name, s in self.serving.items() if s.leases == 0 and name not in keep]
        return min(idle)[1] if idle else None

    def _free_when_unused(self, serving: Serving) -> None:
        if serving.retired and serving.leases == 0:
            self._retired.remove(serving)
            self.give_back(serving.slot)
