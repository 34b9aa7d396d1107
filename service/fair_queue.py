"""Jobs that wait, handed out so that no adapter waits for another one's crowd: one job of each in turn."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Grouped(Protocol):
    """What can wait here: *group* names the adapter it is for."""

    @property
    def group(self) -> str: ...


T = TypeVar("T", bound=Grouped)


class FairQueue(Generic[T]):
    """First come, first served within a group; the groups take turns.

    A group that comes anew stands at the end of the order, and after each of its jobs it goes there again. So whoever
    asks once waits for at most one job of each other group.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[T]:
        for group in self._groups.values():
            yield from group

    def put(self, job: T) -> None:
        self._groups.setdefault(job.group, deque()).append(job)

    def first(self) -> T:
        """The job whose turn it is; it stays. Raises LookupError if none waits."""
        if not self._groups:
            raise LookupError("nothing waits")
        return next(iter(self._groups.values()))[0]

    def take(self) -> T:
        """The job whose turn it is, taken out. Raises LookupError if none waits."""
        job = self.first()
        group = self._groups.pop(job.group)
        group.popleft()
        if group:
            self._groups[job.group] = group
        return job

    def remove(self, job: T) -> None:
        """Take *job* out, wherever it stands. Raises ValueError if it does not wait here."""
        group = self._groups.get(job.group, deque())
        group.remove(job)
        if not group:
            del self._groups[job.group]
