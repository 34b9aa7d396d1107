"""How much of a conversation the model sees: the last turns of the current session.

The cut lives here, not in the dataset builder, because the service must make the same one.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from prompt_format.turns import Turn

A_YEAR = 525_600  # minutes


class Window(BaseModel):
    """The limits of a prompt; part of the contract.

    With ``step`` above 1 the window's start moves in steps, so that a growing conversation keeps its head (and with
    it the prefix cache) for several turns before it moves on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: int = Field(8, ge=1, le=200, description="at most so many turns")
    step: int = Field(1, ge=1, le=50, description="the start moves by so many turns")
    characters: int = Field(1500, ge=50, le=100_000, description="at most so many characters")
    tokens: int = Field(384, ge=64, le=100_000, description="the whole prompt, in tokens")
    burst_minutes: float = Field(10, ge=0, le=A_YEAR, description="messages closer than this are one turn")
    session_minutes: float = Field(60, gt=0, le=A_YEAR, description="a longer silence ends the session")

    def unreachable(self, count: int) -> int:
        """How many turns at the head of a session of *count* are in no prompt; the start moves in steps."""
        in_steps = -(-max(0, count - self.turns) // self.step) * self.step
        return min(in_steps, max(0, count - 1))

    @property
    def burst_gap(self) -> timedelta:
        return timedelta(minutes=self.burst_minutes)

    @property
    def session_gap(self) -> timedelta:
        return timedelta(minutes=self.session_minutes)


def windows(turns: Sequence[Turn], window: Window) -> Iterator[list[Turn]]:
    """Every cut of a session that *window* allows, the longest first; at the end the last turn alone, ever shorter.

    The caller takes the first one whose prompt has few enough tokens.
    """
    last = len(turns) - 1
    starts = [*range(window.unreachable(len(turns)), last, window.step), last]
    for start in starts:
        cut = list(turns[start:])
        if len(cut) <= window.turns and _characters(cut) <= window.characters:
            yield cut
    yield from _ever_shorter(turns[last], window.characters)


def _ever_shorter(turn: Turn, characters: int) -> Iterator[list[Turn]]:
    """The end of one turn that is too long as a whole: its last characters, a fifth fewer each time."""
    limit = min(characters, _characters([turn]))
    while limit >= 1:
        yield [_tail(turn, limit)]
        limit = limit * 4 // 5


def _tail(turn: Turn, characters: int) -> Turn:
    kept: list[str] = []
    room = characters
    for bubble in reversed(turn.bubbles):
        end = bubble[-room:].strip() if room > 0 else ""
        if not end:
            break
        kept.insert(0, end)
        room -= len(bubble)
    return Turn(turn.from_me, turn.speaker, tuple(kept or turn.bubbles[-1][-1:]), turn.began, turn.ended)


def _characters(turns: Sequence[Turn]) -> int:
    return sum(len(bubble) for turn in turns for bubble in turn.bubbles)
