"""How much of a prompt is fed between two steps: learned, and never beyond its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pace import FIRST_S, LEAST, MOST, STALL_S, WHOLE, Pace, chunk
from tests.hostile import THOROUGH

CHUNKS = st.lists(st.tuples(st.integers(0, MOST), st.floats(0, 100)), max_size=30)


def learned(seconds_a_token: float, chunks: int = 30) -> Pace:
    """After so many chunks, each as long as it allowed."""
    pace = Pace()
    for _ in range(chunks):
        size = pace.tokens(others_wait=True)
        pace.took(size, size * seconds_a_token)
    return pace


@pytest.mark.parametrize("seconds_a_token", [1e-7, 1.0])
def test_a_prompt_that_nobody_waits_for_is_fed_in_the_largest_chunks(seconds_a_token: float) -> None:
    """Without a row that is being written there is nothing to hold back for."""
    assert MOST == Pace().tokens(others_wait=False) == learned(seconds_a_token).tokens(others_wait=False)


def test_the_first_chunk_is_the_smallest() -> None:
    """While nothing is known of the cost, those who wait are not made to pay for it."""
    assert LEAST == Pace().tokens(others_wait=True)


@pytest.mark.parametrize("seconds_a_token", [0.0003, 0.001, 0.002])
def test_a_chunk_takes_as_long_as_a_row_may_wait(seconds_a_token: float) -> None:
    """What was learned of the cost makes a chunk of about STALL_S seconds."""
    tokens = learned(seconds_a_token).tokens(others_wait=True)

    assert LEAST < tokens < MOST
    assert tokens * seconds_a_token == pytest.approx(STALL_S, rel=0.1)
    assert tokens % WHOLE == 0


@pytest.mark.parametrize(("seconds_a_token", "tokens"), [(0.0, MOST), (1e-6, MOST), (0.5, LEAST)])
def test_however_fast_or_slow_a_chunk_has_its_bounds(seconds_a_token: float, tokens: int) -> None:
    """A fast machine's chunk can still be given up soon; a slow one's still gets on."""
    assert tokens == learned(seconds_a_token).tokens(others_wait=True)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    """After a few slow chunks the next ones are short."""
    pace = learned(0.0001)
    before = pace.tokens(others_wait=True)
    for _ in range(5):
        pace.took(before, before * 0.002)

    assert pace.tokens(others_wait=True) < before / 5


def test_a_few_tokens_say_nothing() -> None:
    """What is shorter than the smallest chunk costs nearly as much, so it tells nothing of a token's cost."""
    pace = Pace()
    pace.took(LEAST - 1, 50.0)

    assert Pace() == pace


@pytest.mark.parametrize("seconds_a_token", [0.0001, 0.2])
def test_a_chunk_is_late_by_what_was_learned(seconds_a_token: float) -> None:
    """Before anything is known a chunk has long; after one it has more than that one took, however slow that was."""
    pace = Pace()
    assert FIRST_S == pace.at_most_s(LEAST)
    pace.took(MOST, MOST * seconds_a_token)

    assert 0.8 * MOST * seconds_a_token < pace.at_most_s(MOST) < MOST * seconds_a_token + 4


@THOROUGH
@given(CHUNKS)
def test_any_history_gives_a_chunk_within_bounds(chunks: list[tuple[int, float]]) -> None:
    """Whatever was measured, also no time at all, a chunk has between LEAST and MOST tokens."""
    pace = Pace()
    for tokens, seconds in chunks:
        pace.took(tokens, seconds)

    assert LEAST <= pace.tokens(others_wait=True) <= MOST == pace.tokens(others_wait=False)


@THOROUGH
@given(st.integers(1, 5000), st.integers(LEAST, MOST))
def test_a_prompt_is_fed_whole_and_never_ends_with_a_small_rest(left: int, room: int) -> None:
    """Its chunks add up to it; each is as large as the room, and the last at most a little larger, never tiny."""
    chunks = []
    while left:
        chunks.append(chunk(left, room))
        left -= chunks[-1]

    assert all(size == room for size in chunks[:-1])
    assert chunks[-1] < room + WHOLE
    assert len(chunks) == 1 or chunks[-1] >= WHOLE
