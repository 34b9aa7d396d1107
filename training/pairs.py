"""From one conversation's records to turns, and to the turns of mine that answer somebody."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from prompt_format.messages import Message, Thread, canonical
from prompt_format.turns import Turn, merge_bursts
from prompt_format.window import Window
from training.filters import MAX_REPLY_CHARACTERS, is_reaction_text, why_no_reply
from training.privacy.rules import Rules
from training.records import Record

MAX_DELAY = timedelta(hours=12)
MAX_GROUP_DELAY = timedelta(minutes=2)  # in a group, unless the reply says what it answers


@dataclass(frozen=True, slots=True)
class Answer:
    """A turn of mine after one of somebody else's.

    Attributes:
        turn: Its number in the conversation.
        session: Number of the first turn of the session it answers: no prompt reaches further back.
        block: Number of the stretch of conversation it belongs to: blocks share no message.
        why_not: Why it cannot be learnt; None if it can.
    """

    turn: int
    session: int
    block: int
    why_not: str | None


@dataclass
class Conversation:
    """One conversation, ready to be cut into pairs.

    Attributes:
        messages: Everything said, private data masked.
        turns: The same as turns.
        begins: For each turn the number of its first message.
        dropped: Reason of each entry that is no message.
        masked: Kinds of private data, with the number of messages in which one was masked.
    """

    messages: list[Message]
    turns: list[Turn]
    begins: list[int]
    answers: list[Answer]
    dropped: list[str]
    masked: Counter[str]
    is_group: bool
    category: str | None

    def context(self, answer: Answer) -> Thread:
        """What a client would send to get *answer*: the session before it."""
        told = self.messages[self.begins[answer.session] : self.begins[answer.turn]]
        return Thread(tuple(told), self.is_group, self.category)


@dataclass
class _Said:
    """The messages of a conversation, and what is known of some of them by their number."""

    messages: list[Message] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    answered: dict[int, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    masked: Counter[str] = field(default_factory=Counter)


def read_conversation(records: Sequence[Record], category: str | None, window: Window, rules: Rules) -> Conversation:
    """The conversation of *records*, which are in the order they were sent."""
    said = _said(records, rules)
    is_group = any(record.thread_kind == "group" for record in records)
    turns = merge_bursts(Thread(tuple(said.messages), is_group, category), window.burst_gap)
    begins = [0]
    for turn in turns:
        begins.append(begins[-1] + len(turn.bubbles))
    answers = _answers(turns, begins, said, window, is_group)
    return Conversation(said.messages, turns, begins[:-1], answers, said.dropped, said.masked, is_group, category)


def silence(before: Turn, turn: Turn) -> timedelta:
    """Time between two turns; none where it is unknown."""
    return turn.began - before.ended if turn.began and before.ended else timedelta(0)


def _said(records: Sequence[Record], rules: Rules) -> _Said:
    said = _Said()
    unseen = False  # the message before was a photo, a call ...: what answers it would be noise
    for record in records:
        text = canonical(record.text) if record.kind == "text" else ""
        is_blocked = rules.blocks_message(record)
        if not text or is_blocked or is_reaction_text(text):
            said.dropped.append("blocked_message" if is_blocked else _why_no_message(record, text))
            unseen = unseen or (record.kind in ("media", "call") and not record.from_me)
            continue
        found = rules.find(text)
        said.masked.update({one.kind for one in found})
        if record.from_me:
            problem = why_no_reply(record, text) or (f"private: {found[0].kind}" if found else None)
            if unseen or problem:
                said.problems[len(said.messages)] = "answers_media" if unseen else str(problem)
        if record.source_id is not None:
            said.numbers[record.source_id] = len(said.messages)
        if record.reply_to is not None:
            said.answered[len(said.messages)] = record.reply_to
        for bubble in _bubbles(record, rules.mask(text, found), rules):
            said.messages.append(Message(bubble, record.from_me, record.sender_id, record.sent_at))
        unseen = False
    return said


def _bubbles(record: Record, text: str, rules: Rules) -> list[str]:
    parts = [canonical(rules.mask(part, rules.find(part))) for part in record.parts]
    return [part for part in parts if part] or [text]


def _why_no_message(record: Record, text: str) -> str:
    if text:
        return "reaction_text"
    return "empty" if record.kind == "text" else f"not_text: {record.kind}"


def _answers(turns: Sequence[Turn], begins: Sequence[int], said: _Said, window: Window, is_group: bool) -> list[Answer]:
    session = block = 0
    found = []
    for number in range(1, len(turns)):
        before, turn = turns[number - 1], turns[number]
        gap = silence(before, turn)
        answers = turn.from_me and not before.from_me
        before_in = session
        if gap > window.session_gap:
            session = number
            if not (answers and gap <= MAX_DELAY):
                block += 1
        if answers:
            why_not = _why_not(range(begins[number], begins[number + 1]), begins[number - 1], said)
            why_not = why_not or _too_much(turn, gap, is_group, begins[number] in said.answered)
            found.append(Answer(number, before_in, block, why_not))
    return found


def _why_not(mine: range, asked: int, said: _Said) -> str | None:
    """*mine* are the numbers of a reply's messages, *asked* the number of the first one of the turn before it."""
    for number in mine:
        if number in said.problems:
            return said.problems[number]
        target = said.numbers.get(said.answered.get(number, ""), mine.start)
        if target < asked:
            return "answers_something_earlier"
    return None


def _too_much(turn: Turn, gap: timedelta, is_group: bool, linked: bool) -> str | None:
    if gap > MAX_DELAY:
        return "too_late"
    if is_group and gap > MAX_GROUP_DELAY and not linked:
        return "too_late_in_a_group"
    if sum(map(len, turn.bubbles)) > MAX_REPLY_CHARACTERS:
        return "too_long"
    return None
