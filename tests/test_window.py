"""A window is the longest end of a session that fits, and its start moves in steps."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prompt_format.messages import canonical
from prompt_format.turns import Turn
from prompt_format.window import Window, windows
from tests.hostile import QUICK, replies


def turn(*bubbles: str, from_me: bool = False) -> Turn:
    return Turn(from_me, None, bubbles)


def session(size: int) -> list[Turn]:
    """Turns of two characters each: 10, 11, 12 ..."""
    return [turn(str(10 + number)) for number in range(size)]


def first(turns: list[Turn], window: Window) -> list[str]:
    return [bubble for kept in next(windows(turns, window)) for bubble in kept.bubbles]


@pytest.mark.parametrize(
    ("size", "step", "starts_at"),
    [
        (1, 1, 10), (4, 1, 10), (5, 1, 11), (9, 1, 15),
        (4, 3, 10), (5, 3, 13), (7, 3, 13), (8, 3, 16), (9, 3, 16), (10, 3, 16), (11, 3, 19),
        (5, 4, 14), (8, 4, 14), (9, 4, 18),
        (9, 50, 18),
    ],
)  # fmt: skip
def test_where_a_window_of_four_turns_starts(size: int, step: int, starts_at: int) -> None:
    """At most four turns are kept, and the start is a multiple of the step, or the last turn."""
    assert str(starts_at) == first(session(size), Window(turns=4, step=step))[0]


def test_a_growing_session_keeps_its_head_for_a_step() -> None:
    """With a step of eight the window's start moves once in eight turns."""
    starts = [first(session(size), Window(turns=24, step=8))[0] for size in range(1, 41)]

    assert [*["10"] * 24, *["18"] * 8, *["26"] * 8] == starts


def test_every_shorter_window_follows() -> None:
    """The longest window comes first, then each shorter one, then the last turn ever shorter."""
    turns = [turn("a"), turn("b"), turn("vwxyz")]

    cuts = [[bubble for kept in cut for bubble in kept.bubbles] for cut in windows(turns, Window())]
    assert [["a", "b", "vwxyz"], ["b", "vwxyz"], ["vwxyz"], ["vwxyz"], ["wxyz"], ["xyz"], ["yz"], ["z"]] == cuts


@pytest.mark.parametrize(("characters", "kept"), [(50, 2), (74, 2), (75, 3), (99, 3), (100, 4), (1000, 4)])
def test_the_limit_of_characters(characters: int, kept: int) -> None:
    """As many turns are kept as have at most so many characters together."""
    turns = [turn("a" * 20, "b" * 5) for _ in range(4)]

    assert kept == len(next(windows(turns, Window(characters=characters))))


def test_a_turn_that_is_too_long_keeps_its_end() -> None:
    """Of a turn above the limit the last characters stay, and whole bubbles where there is room."""
    (cut,) = next(windows([turn("a" * 60, "b" * 30, "c" * 10)], Window(characters=50)))

    assert ("a" * 10, "b" * 30, "c" * 10) == cut.bubbles


def test_a_cut_bubble_is_canonical() -> None:
    """A bubble cut in the middle has no white space at its new start."""
    (cut,) = next(windows([turn("a" * 30 + " " + "b" * 49)], Window(characters=50)))

    assert ("b" * 49,) == cut.bubbles


def test_a_cut_turn_keeps_who_and_when() -> None:
    """The end of a turn is still the same speaker's."""
    (cut,) = next(windows([Turn(False, "ben", ("a" * 99,))], Window(characters=50)))

    assert (False, "ben") == (cut.from_me, cut.speaker)


@QUICK
@given(st.lists(replies(), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 3), st.integers(50, 60))
def test_every_window_is_an_end_within_the_limits(
    bubbles: list[list[str]], size: int, step: int, characters: int
) -> None:
    """Every window ends with the last turn's end, is not empty, keeps to the limits, and is canonical text."""
    turns = [turn(*group) for group in bubbles]
    whole = "".join("".join(group) for group in bubbles)
    for cut in windows(turns, Window(turns=size, step=step, characters=characters)):
        kept = [bubble for part in cut for bubble in part.bubbles]
        assert whole.endswith(kept[-1])
        assert 1 <= len(cut) <= size
        assert sum(map(len, kept)) <= characters
        assert kept == [canonical(bubble) for bubble in kept]
        assert all(kept)


def test_windows_end() -> None:
    """However long the last turn, there are few windows to try."""
    cuts = windows([turn("x" * 100_000)], Window(characters=100_000))

    assert len(list(islice(cuts, 100))) < 60


@pytest.mark.parametrize(
    "setting",
    [{"turns": 0}, {"turns": 201}, {"step": 0}, {"characters": 10}, {"tokens": 63}, {"burst_minutes": -1},
     {"session_minutes": 0}, {"session_minutes": 525_601}, {"burst_minutes": float("nan")}, {"turn": 4}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    """A limit out of range, or one that does not exist, is refused."""
    with pytest.raises(ValidationError):
        Window(**setting)
