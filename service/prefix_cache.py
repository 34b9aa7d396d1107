"""What the model made of prompts before, kept for those that begin the same.

Each slot has its own: what one adapter computed is never used under another. Knows nothing of mlx: a row's cache is
a list of mlx-lm's cache entries, whose protocol is enough. Where they cannot be cut back (convolutions, recurrent
states), an entry serves only prompts that begin with all of it; so the engine keeps one at each place where other
prompts may branch off.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RowCache = list[Any]


@dataclass(frozen=True)
class _Entry:
    slot: int
    ids: np.ndarray
    cache: RowCache
    nbytes: int
    marks: tuple[int, ...]

    @property
    def can_be_cut(self) -> bool:
        return all(entry.is_trimmable() for entry in self.cache)

    def usable(self, ids: np.ndarray) -> int:
        """How many tokens of a prompt *ids* this holds; at least one is left to be fed."""
        size = min(len(self.ids), len(ids))
        differing = np.flatnonzero(self.ids[:size] != ids[:size])
        same = int(differing[0]) if len(differing) else size
        if same == len(self.ids) < len(ids):
            return same
        return min(same, len(ids) - 1) if self.can_be_cut else 0


class PrefixCache:
    """Row caches by slot and prompt, the least recently used dropped when they take more than *budget* bytes."""

    def __init__(self, budget: int):
        self.budget, self.nbytes = budget, 0
        self._entries: OrderedDict[tuple[int, bytes], _Entry] = OrderedDict()  # the most recently used last

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, slot: int, ids: Sequence[int]) -> tuple[RowCache | None, int]:
        """(a cache of the longest beginning of *ids* that is known, its length); (None, 0) where there is none.

        The cache is the caller's own: what is done to it does not change what is kept.
        """
        wanted = np.array(ids, np.int32)
        best: _Entry | None = None
        most = 0
        for key, entry in list(self._entries.items()):
            size = entry.usable(wanted) if entry.slot == slot else 0
            if size:
                self._entries.move_to_end(key)
            if size > most:
                best, most = entry, size
        if best is None:
            return None, 0
        found = copy.deepcopy(best.cache)  # new handles on the same memory: mlx arrays are copied when written to
        for part in found:
            if most < len(best.ids):
                part.trim(len(best.ids) - most)
        return found, most

    def keep(self, slot: int, ids: Sequence[int], cache: RowCache, marks: Sequence[int] = ()) -> None:
        """Keep what *cache* holds of *ids*. It must not be used by the caller afterwards.

        Args:
            marks: Of the whole prompt; only told again by ``hottest``.
        """
        kept = np.array(ids, np.int32)
        nbytes = kept.nbytes + sum(part.nbytes for part in cache)
        if nbytes > self.budget:
            return
        entry = _Entry(slot, kept, cache, nbytes, tuple(marks))
        self._forget((slot, kept.tobytes()))
        for key in [key for key, other in self._entries.items() if _covers(entry, other)]:
            self._forget(key)
        self._entries[slot, kept.tobytes()] = entry
        self.nbytes += nbytes
        while self.nbytes > self.budget:
            self._forget(next(iter(self._entries)))

    def drop(self, slot: int) -> None:
        """Forget everything of *slot*."""
        for key in [key for key in self._entries if key[0] == slot]:
            self._forget(key)

    def hottest(self, slot: int, count: int) -> list[tuple[list[int], tuple[int, ...]]]:
        """(ids, marks) of the *count* entries of *slot* that were used last, the last first; none begins another."""
        found: list[_Entry] = []
        for entry in reversed(self._entries.values()):
            if entry.slot == slot and not any(_begins(entry.ids, other.ids) for other in found):
                found.append(entry)
            if len(found) == count:
                break
        return [(entry.ids.tolist(), entry.marks) for entry in found]

    def _forget(self, key: tuple[int, bytes]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.nbytes -= entry.nbytes


def _covers(entry: _Entry, other: _Entry) -> bool:
    """Whether *entry*, cut back, is *other*."""
    return entry.slot == other.slot and entry.can_be_cut and _begins(other.ids, entry.ids)


def _begins(short: np.ndarray, long: np.ndarray) -> bool:
    return len(short) <= len(long) and bool((long[: len(short)] == short).all())
