"""From messages to turns: who spoke, in which bubbles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prompt_format.messages import Message, Thread


@dataclass(frozen=True)
class Turn:
    """What one person wrote in one go.

    Attributes:
        from_me: Whether the persona wrote it.
        speaker: The sender's identifier in a group; None for me, and for the other side of a direct conversation.
        bubbles: At least one text, in order.
        began, ended: When the first and the last bubble were sent; None when unknown.
    """

    from_me: bool
    speaker: str | None
    bubbles: tuple[str, ...]
    began: datetime | None = None
    ended: datetime | None = None


def merge_bursts(thread: Thread, burst_gap: timedelta) -> list[Turn]:
    """The turns of *thread*: consecutive messages of one sender, each within *burst_gap* of the one before.

    Where a time is unknown the messages belong together: a client that sends no times has said nothing of gaps.
    """
    turns: list[Turn] = []
    for message in thread.messages:
        speaker = message.sender if thread.is_group and not message.from_me else None
        if turns and _continues(turns[-1], message, speaker, burst_gap):
            turns[-1] = replace(
                turns[-1],
                bubbles=(*turns[-1].bubbles, message.text),
                ended=message.sent_at or turns[-1].ended,
            )
        else:
            turns.append(Turn(message.from_me, speaker, (message.text,), message.sent_at, message.sent_at))
    return turns


def current_session(turns: Sequence[Turn], session_gap: timedelta) -> list[Turn]:
    """The last turns of *turns* with no silence longer than *session_gap* between them."""
    first = len(turns) - 1
    while first > 0 and _gap(turns[first - 1].ended, turns[first].began) <= session_gap:
        first -= 1
    return list(turns[max(first, 0) :])


def _continues(turn: Turn, message: Message, speaker: str | None, burst_gap: timedelta) -> bool:
    same = turn.from_me == message.from_me and turn.speaker == speaker
    return same and _gap(turn.ended, message.sent_at) <= burst_gap


def _gap(earlier: datetime | None, later: datetime | None) -> timedelta:
    """Time between two moments, as a whole duration (``timedelta.seconds`` would wrap at a day)."""
    return timedelta(0) if earlier is None or later is None else later - earlier
