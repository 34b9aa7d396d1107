"""What is kept of prompts: found again only where it is true, and never more than the budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.prefix_cache import PrefixCache
from tests.hostile import THOROUGH

ID = 4  # bytes of a token's id, as they are kept
PLENTY = 1 << 20


@dataclass
class Part:
    """A cache entry of mlx-lm, as far as its protocol goes: it remembers what was fed to it, and under which slot."""

    slot: int
    ids: list[int] = field(default_factory=list)
    can_be_cut: bool = True
    bytes_a_token: int = 10

    @property
    def nbytes(self) -> int:
        return self.bytes_a_token * len(self.ids)

    def is_trimmable(self) -> bool:
        return self.can_be_cut

    def trim(self, count: int) -> int:
        assert self.can_be_cut and 0 < count <= len(self.ids)
        del self.ids[-count:]
        return count


def parts(slot: int, ids: Sequence[int], *, can_be_cut: bool = True) -> list[Part]:
    """A row's cache of two layers; where one cannot be cut, it is only the last."""
    return [Part(slot, list(ids)), Part(slot, list(ids), can_be_cut)]


def kept(cache: PrefixCache, ids: Sequence[int], slot: int = 1, *, can_be_cut: bool = True) -> None:
    cache.keep(slot, ids, parts(slot, ids, can_be_cut=can_be_cut), (len(ids),))


def known(cache: PrefixCache, ids: Sequence[int], slot: int = 1) -> int:
    """How much of *ids* is known; what is found is all of that, and nothing else."""
    found, size = cache.find(slot, ids)
    if found is None:
        assert size == 0
    else:
        assert [(slot, list(ids[:size]))] * 2 == [(part.slot, part.ids) for part in found]
    return size


# -- facts


@pytest.mark.parametrize(
    ("asked", "cut", "whole"),
    [
        ([1, 2, 3, 4], 3, 3),
        ([1, 2, 3], 2, 0),
        ([1, 2, 9, 9], 2, 0),
        ([1, 2], 1, 0),
        ([1], 0, 0),
        ([9, 2, 3], 0, 0),
    ],
    ids=["longer", "the same", "branches off", "shorter", "one token", "another"],
)
def test_the_longest_true_beginning_is_found(asked: list[int], cut: int, whole: int) -> None:
    """Cut back to where they part, one token left to feed; what cannot be cut serves what begins with all of it."""
    for can_be_cut, expected in ((True, cut), (False, whole)):
        cache = PrefixCache(PLENTY)
        kept(cache, [1, 2, 3], can_be_cut=can_be_cut)
        assert expected == known(cache, asked)


def test_of_several_the_longest_is_taken() -> None:
    """Whatever their order."""
    cache = PrefixCache(PLENTY)
    for ids in ([1, 2], [1, 2, 3, 4], [1, 2, 3]):
        kept(cache, ids, can_be_cut=False)

    assert [4, 3, 2, 0] == [known(cache, ids) for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 9], [1, 9])]


def test_a_slot_has_its_own() -> None:
    """Nothing of another slot is found, and dropping one leaves the others."""
    cache = PrefixCache(PLENTY)
    kept(cache, [1, 2, 3], 1)
    kept(cache, [1, 2, 3], 2)
    cache.drop(1)

    assert [0, 2, 0] == [known(cache, [1, 2, 3], slot) for slot in (1, 2, 3)]
    assert (1, 3 * ID + 60) == (len(cache), cache.nbytes)
    cache.drop(2)
    assert (0, 0) == (len(cache), cache.nbytes)


def test_what_is_found_is_the_callers_own() -> None:
    """What is fed to it or cut from it does not change what is kept."""
    cache = PrefixCache(PLENTY)
    kept(cache, [1, 2, 3])
    for _ in range(2):
        found, _ = cache.find(1, [1, 2, 3, 4])
        assert found is not None
        for part in found:
            part.ids += [4, 5]
    found, _ = cache.find(1, [1, 2, 9])
    assert found is not None
    found[0].trim(1)

    assert 3 == known(cache, [1, 2, 3, 4])
    assert 3 * ID + 60 == cache.nbytes


def test_what_another_holds_is_not_kept_twice() -> None:
    """A longer one that can be cut takes the place of its beginnings, one that cannot does not, nor does another's."""
    cache = PrefixCache(PLENTY)
    kept(cache, [1, 2])
    kept(cache, [1, 2], 2)
    kept(cache, [1, 2, 3])
    assert [2, 1, 2] == [len(cache), known(cache, [1, 2], 2), known(cache, [1, 2, 9])]
    kept(cache, [1, 2, 3, 4], can_be_cut=False)
    kept(cache, [1, 2, 3, 4], can_be_cut=False)
    assert 3 == len(cache)
    assert (3 + 2 + 4) * (ID + 20) == cache.nbytes


def test_the_least_recently_used_is_dropped() -> None:
    """Finding is using; and what is more than the whole budget is not kept at all, nor does it drop anything."""
    cache = PrefixCache(2 * 3 * (ID + 20))
    kept(cache, [1, 2, 3])
    kept(cache, [4, 5, 6])
    assert 3 == known(cache, [1, 2, 3, 4])
    kept(cache, [7, 8, 9])

    assert [3, 0, 3] == [known(cache, [*ids, 0]) for ids in ([1, 2, 3], [4, 5, 6], [7, 8, 9])]
    kept(cache, range(7))
    assert (2, cache.budget) == (len(cache), cache.nbytes)


def test_a_budget_of_nothing_keeps_nothing() -> None:
    """And harms nobody."""
    cache = PrefixCache(0)
    kept(cache, [1, 2, 3])

    assert (0, 0) == (len(cache), known(cache, [1, 2, 3, 4]))


def test_the_hottest_are_those_used_last() -> None:
    """With their marks, the last one first, of this slot alone, and none that another one begins with."""
    cache = PrefixCache(PLENTY)
    for ids, slot in (([1, 2], 1), ([1, 2, 3], 1), ([4, 5], 1), ([6, 7], 2), ([8], 1)):
        kept(cache, ids, slot, can_be_cut=False)
    known(cache, [1, 2, 3, 4])

    assert [([1, 2, 3], (3,)), ([8], (1,)), ([4, 5], (2,))] == cache.hottest(1, 9)
    assert [([1, 2, 3], (3,))] == cache.hottest(1, 1)
    assert [([6, 7], (2,))] == cache.hottest(2, 9)
    assert [] == cache.hottest(3, 9)


# -- a property

PROMPTS = st.lists(st.integers(1, 2), min_size=1, max_size=7)
STEPS = st.tuples(st.sampled_from(["keep", "keep", "find", "drop"]), st.integers(1, 2), PROMPTS, st.booleans())


@THOROUGH
@given(st.lists(STEPS, max_size=25), st.integers(0, 600))
def test_whatever_is_kept_found_and_dropped(steps: list[tuple[str, int, list[int], bool]], budget: int) -> None:
    """What is found was kept for that slot and not dropped since; the budget holds, and to the byte."""
    cache = PrefixCache(budget)
    ever: dict[int, list[tuple[list[int], bool]]] = {1: [], 2: []}
    for what, slot, ids, can_be_cut in steps:
        if what == "keep":
            kept(cache, ids, slot, can_be_cut=can_be_cut)
            ever[slot].append((ids, can_be_cut))
        elif what == "drop":
            cache.drop(slot)
            ever[slot] = []
        else:
            assert known(cache, ids, slot) <= best(ever[slot], ids)
            found, _ = cache.find(slot, ids)
            for part in found or []:
                part.ids.append(9)
        assert cache.nbytes <= budget
        assert (cache.nbytes == 0) == (len(cache) == 0)
    for slot in ever:
        cache.drop(slot)
    assert (0, 0) == (len(cache), cache.nbytes)


@THOROUGH
@given(st.lists(st.tuples(PROMPTS, st.booleans()), max_size=12), PROMPTS)
def test_with_room_for_all_the_best_is_found(every: list[tuple[list[int], bool]], asked: list[int]) -> None:
    """Nothing that is dropped because another holds it is missed."""
    assume(every)
    cache = PrefixCache(PLENTY)
    for ids, can_be_cut in every:
        kept(cache, ids, can_be_cut=can_be_cut)

    assert best(every, asked) == known(cache, asked)


def best(every: list[tuple[list[int], bool]], asked: list[int]) -> int:
    """How much of *asked* one of *every* holds, one token left to feed."""
    sizes = [0]
    for ids, can_be_cut in every:
        same = next(
            (at for at, (a, b) in enumerate(zip(ids, asked, strict=False)) if a != b), min(len(ids), len(asked))
        )
        if can_be_cut:
            sizes.append(min(same, len(asked) - 1))
        elif same == len(ids) < len(asked):
            sizes.append(same)
    return max(sizes)
