"""From one thread's records to reply pairs: what was said before, and what I answered."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from prompt_format.messages import Message, Thread, canonical
from prompt_format.turns import Turn, merge_bursts
from prompt_format.window import Window
from training.records import Record

MAX_DELAY = timedelta(hours=12)
MAX_REPLY_CHARACTERS = 1000
NEVER_A_REPLY = {"forwarded", "auto", "otp", "link_only", "spam", "scheduled", "failed"}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pair:
    """A context that ends with the other side's turn, and my turn after it.

    Attributes:
        thread_id, at: Where it comes from and when the reply began.
        context: Every message before the reply, as the service would be given them.
        reply: My bubbles.
        block: Number of the stretch of conversation it belongs to: blocks of a thread share no message.
    """

    thread_id: str
    at: datetime | None
    context: Thread
    reply: tuple[str, ...]
    block: int


def reply_pairs(records: Sequence[Record], category: str | None, window: Window, dropped: Counter[str]) -> list[Pair]:
    """The reply pairs of one thread, oldest first; what is left out is counted by reason in *dropped*."""
    ordered = sorted(records, key=lambda r: (r.sent_at or _LONG_AGO, r.order))
    messages, unanswerable, no_target = _messages(ordered, dropped)
    thread = Thread(tuple(messages), is_group=any(r.thread_kind == "group" for r in ordered), category=category)
    turns = merge_bursts(thread, window.burst_gap)
    blocks = _blocks(turns, window)
    pairs = []
    end = len(turns[0].bubbles) if turns else 0
    for number, (before, turn) in enumerate(pairwise(turns), 1):
        begin, end = end, end + len(turn.bubbles)
        if not turn.from_me or before.from_me:
            continue
        mine = range(begin, end)
        reason = _why_not(before, turn, not unanswerable.isdisjoint(mine), not no_target.isdisjoint(mine))
        if reason:
            dropped[reason] += 1
            continue
        context = Thread(tuple(messages[:begin]), thread.is_group, category)
        pairs.append(Pair(ordered[0].thread_id, turn.began, context, turn.bubbles, blocks[number]))
    return pairs


def _messages(records: Sequence[Record], dropped: Counter[str]) -> tuple[list[Message], set[int], set[int]]:
    """(messages, positions of messages that answer something unseen, positions of messages that are no reply)."""
    messages: list[Message] = []
    unanswerable: set[int] = set()
    no_target: set[int] = set()
    unseen = False  # the message before was a photo, a call ...: what answers it would be noise
    for record in records:
        text = canonical(record.text)
        if record.kind != "text" or not text:
            dropped[f"not_text: {record.kind}" if record.kind != "text" else "empty"] += 1
            unseen = unseen or (record.kind in ("media", "call") and not record.from_me)
            continue
        if record.from_me and unseen:
            unanswerable.add(len(messages))
        if NEVER_A_REPLY.intersection(record.flags):
            no_target.add(len(messages))
        messages.append(Message(text, record.from_me, record.sender_id, record.sent_at))
        unseen = False
    return messages, unanswerable, no_target


def _blocks(turns: Sequence[Turn], window: Window) -> list[int]:
    """For each turn the number of its block. A new one begins after a silence, unless a late reply bridges it."""
    block, blocks = 0, []
    for number, turn in enumerate(turns):
        if number and not _same_block(turns[number - 1], turn, window):
            block += 1
        blocks.append(block)
    return blocks


def _same_block(before: Turn, turn: Turn, window: Window) -> bool:
    silence = _silence(before, turn)
    answers = turn.from_me and not before.from_me and silence <= MAX_DELAY
    return answers or silence <= window.session_gap


def _why_not(before: Turn, turn: Turn, unseen: bool, flagged: bool) -> str | None:
    if unseen:
        return "answers_media"
    if flagged:
        return "not_my_words"
    if _silence(before, turn) > MAX_DELAY:
        return "too_late"
    if sum(map(len, turn.bubbles)) > MAX_REPLY_CHARACTERS:
        return "too_long"
    return None


def _silence(before: Turn, turn: Turn) -> timedelta:
    return turn.began - before.ended if turn.began and before.ended else timedelta(0)
