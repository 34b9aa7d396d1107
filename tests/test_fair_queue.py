"""The order in which jobs are handed out: whatever comes and goes, nobody waits for another one's crowd."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.fair_queue import FairQueue
from tests.hostile import THOROUGH


@dataclass(frozen=True)
class Ticket:
    group: str
    number: int


def filled(groups: str) -> FairQueue[Ticket]:
    """A queue with a ticket for each letter, numbered in the order in which they came."""
    waiting: FairQueue[Ticket] = FairQueue()
    for number, group in enumerate(groups):
        waiting.put(Ticket(group, number))
    return waiting


def emptied(waiting: FairQueue[Ticket]) -> list[Ticket]:
    return [waiting.take() for _ in range(len(waiting))]


@pytest.mark.parametrize(
    ("came", "order"),
    [("aaab", "abaa"), ("aabbcc", "abcabc"), ("abaaaac", "abcaaaa"), ("cba", "cba"), ("aaa", "aaa")],
)
def test_groups_take_turns(came: str, order: str) -> None:
    """One of each group in turn, the groups in the order in which they first came."""
    assert order == "".join(ticket.group for ticket in emptied(filled(came)))


def test_who_asks_once_waits_for_one_of_each() -> None:
    """O10: behind a crowd of fifty, one that asks once is handed out second, whenever it comes."""
    waiting = filled("a" * 50)
    for _ in range(10):
        waiting.take()
    waiting.put(Ticket("b", 50))

    assert ["a", "b", "a"] == [waiting.take().group for _ in range(3)]


def test_a_group_that_comes_back_stands_behind_those_that_wait() -> None:
    """Whoever has just been served and asks again does not overtake."""
    waiting = filled("ab")
    waiting.take()
    waiting.put(Ticket("a", 2))

    assert ["b", "a"] == [ticket.group for ticket in emptied(waiting)]


def test_looking_at_the_first_takes_nothing() -> None:
    """``first`` is what ``take`` gives next, and it stays."""
    waiting = filled("ab")

    assert waiting.first() is waiting.first() and 2 == len(waiting)
    assert waiting.first() is waiting.take()


def test_an_empty_queue_has_no_first() -> None:
    """Looking, taking and removing where nothing waits are errors of their own kind."""
    waiting = filled("a")
    ticket = waiting.take()

    assert 0 == len(waiting) and [] == list(waiting)
    for ask in (waiting.first, waiting.take):
        with pytest.raises(LookupError):
            ask()
    with pytest.raises(ValueError):
        waiting.remove(ticket)


@THOROUGH
@given(st.lists(st.sampled_from(["put a", "put b", "put c", "put d", "take", "remove"]), max_size=60), st.randoms())
def test_nothing_is_lost_and_nobody_is_passed_over(moves: list[str], chance: random.Random) -> None:
    """Whatever comes, goes and is removed: all of it is there, each group's in order, and none is served twice
    while another waits.
    """
    waiting: FairQueue[Ticket] = FairQueue()
    there: list[Ticket] = []
    passed: set[tuple[str, str]] = set()  # (who was served, who has been waiting since before)
    for number, move in enumerate(moves):
        kind, _, group = move.partition(" ")
        if kind == "put":
            there.append(Ticket(group, number))
            waiting.put(there[-1])
        elif there and kind == "remove":
            gone = there.pop(chance.randrange(len(there)))
            waiting.remove(gone)
        elif there:
            served = waiting.take()
            assert served == next(ticket for ticket in there if ticket.group == served.group)
            there.remove(served)
            passes = {(served.group, ticket.group) for ticket in there if ticket.group != served.group}
            assert not passes & passed
            passed = {pair for pair in passed | passes if pair[1] != served.group}
        passed = {pair for pair in passed if pair[1] in {ticket.group for ticket in there}}
        assert Counter(there) == Counter(waiting) and len(there) == len(waiting)
