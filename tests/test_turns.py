"""Bursts become turns, and a long silence begins a session."""

from datetime import UTC, datetime, timedelta

import pytest

from prompt_format.messages import Message, Thread
from prompt_format.turns import current_session, merge_bursts

START = datetime(2026, 1, 3, 18, 0, tzinfo=UTC)
TEN = timedelta(minutes=10)
HOUR = timedelta(minutes=60)


def thread(*messages: tuple[str, float | None, str], is_group: bool = False) -> Thread:
    """(who, minute, text) of each message; "me" is the persona, a minute of None an unknown time."""
    return Thread(
        tuple(
            Message(
                text, who == "me", None if who == "me" else who, None if at is None else START + timedelta(minutes=at)
            )
            for who, at, text in messages
        ),
        is_group,
    )


def said(turns: list) -> list[tuple[str, ...]]:
    return [turn.bubbles for turn in turns]


def test_a_burst_is_one_turn() -> None:
    """Messages of one side within the gap of the one before are one turn, with its bubbles in order."""
    turns = merge_bursts(thread(("ana", 0, "a"), ("ana", 9, "b"), ("ana", 18, "c"), ("me", 19, "d")), TEN)

    assert [("a", "b", "c"), ("d",)] == said(turns)


def test_a_turn_knows_when_it_began_and_ended() -> None:
    """A turn began with its first bubble and ended with its last."""
    (turn,) = merge_bursts(thread(("ana", 0, "a"), ("ana", 9, "b")), TEN)

    assert (START, START + timedelta(minutes=9)) == (turn.began, turn.ended)


@pytest.mark.parametrize(
    ("minutes", "turns"),
    [(0, 1), (10, 1), (10.01, 2), (60, 2), (24 * 60, 2), (24 * 60 + 1, 2), (30 * 24 * 60 + 1, 2)],
)
def test_the_burst_gap(minutes: float, turns: int) -> None:
    """A gap up to the limit continues a turn; a longer one, of days even, begins another."""
    assert turns == len(merge_bursts(thread(("ana", 0, "a"), ("ana", minutes, "b")), TEN))


def test_messages_that_arrive_out_of_order_are_one_burst() -> None:
    """A message whose time lies before the one in front of it continues the turn."""
    assert [("a", "b")] == said(merge_bursts(thread(("ana", 5, "a"), ("ana", 0, "b")), TEN))


def test_unknown_times_hold_messages_together() -> None:
    """Where a time is unknown there is no gap, neither in a burst nor in a session."""
    turns = merge_bursts(thread(("ana", 0, "a"), ("ana", None, "b"), ("me", None, "c"), ("ana", 9000, "d")), TEN)

    assert [("a", "b"), ("c",), ("d",)] == said(current_session(turns, HOUR))


def test_a_known_time_behind_an_unknown_one_counts_from_the_last_known() -> None:
    """An unknown time in a burst does not hide how long ago its last known message was."""
    assert [("a", "b"), ("c",)] == said(
        merge_bursts(thread(("ana", 0, "a"), ("ana", None, "b"), ("ana", 30, "c")), TEN)
    )


def test_in_a_direct_thread_all_others_are_one_side() -> None:
    """In a direct conversation two identifiers are one side: a contact may write from two numbers."""
    assert [("a", "b")] == said(merge_bursts(thread(("+1", 0, "a"), ("ana", 1, "b")), TEN))


def test_in_a_group_each_sender_has_turns() -> None:
    """In a group a turn is one sender's."""
    turns = merge_bursts(thread(("ana", 0, "a"), ("ben", 1, "b"), ("ben", 2, "c"), ("me", 3, "d"), is_group=True), TEN)

    assert [("ana", ("a",)), ("ben", ("b", "c")), (None, ("d",))] == [(turn.speaker, turn.bubbles) for turn in turns]


@pytest.mark.parametrize(
    ("minutes", "kept"),
    [(1, ["a", "b"]), (60, ["a", "b"]), (60.01, ["b"]), (24 * 60, ["b"]), (24 * 60 + 1, ["b"]), (25 * 60, ["b"])],
)
def test_the_session_gap(minutes: float, kept: list[str]) -> None:
    """A silence up to the limit keeps the session; a longer one, over a day even, ends it."""
    turns = merge_bursts(thread(("ana", 0, "a"), ("me", minutes, "b")), TEN)

    assert [(text,) for text in kept] == said(current_session(turns, HOUR))


def test_only_the_last_session_is_current() -> None:
    """The current session begins after the last long silence, not after the first."""
    turns = merge_bursts(
        thread(("ana", 0, "a"), ("me", 90, "b"), ("ana", 100, "c"), ("me", 300, "d"), ("ana", 301, "e")), TEN
    )

    assert [("d",), ("e",)] == said(current_session(turns, HOUR))


def test_a_long_monologue_is_one_session() -> None:
    """Silence is measured from the last bubble of a turn, not from its first."""
    turns = merge_bursts(thread(*(("ana", 9 * i, f"a{i}") for i in range(20)), ("me", 9 * 19 + 59, "b")), TEN)

    assert 2 == len(current_session(turns, HOUR))


def test_nothing_said_is_no_session() -> None:
    """A thread without messages has no turns and no session."""
    assert [] == current_session(merge_bursts(Thread(()), TEN), HOUR)
