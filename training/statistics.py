"""What a build counts on its way: for ``dataset.json``, the terminal and ``report.html``. Numbers only, no texts."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from training.pairs import Conversation, silence

GAPS = ("1 min", "5 min", "10 min", "30 min", "1 h", "3 h", "12 h", "1 day", "1 week")
_GAP_MINUTES = (1, 5, 10, 30, 60, 180, 720, 1440, 10_080)
SESSION_GAPS = (10, 30, 60, 180, 720)  # minutes, for which the report says what they would give


@dataclass
class ContactStatistics:
    """One contact's share."""

    name: str = ""
    messages: int = 0
    mine: int = 0
    replies: int = 0
    relation: str | None = None


@dataclass
class Statistics:
    """Counts over all conversations.

    Attributes:
        dropped: What was left out, by reason: messages, conversations' messages and replies.
        masked: How many messages had private data masked, by kind.
        gaps: Silences between turns, by the first of GAPS that is not shorter; "longer" beyond.
        answered_within: For each of SESSION_GAPS how many turns of mine answer within it.
        months: (year-month, mine or theirs) -> messages.
        hours: Hour of the day in local time, of my messages.
        reply_words, reply_bubbles: Length of my replies -> how many.
        splits: Pairs in each split, and contacts that are wholly held out.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    conversations: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    sessions: Counter[int] = field(default_factory=Counter)
    answered_within: Counter[int] = field(default_factory=Counter)
    answers: int = 0
    months: Counter[tuple[str, bool]] = field(default_factory=Counter)
    hours: Counter[int] = field(default_factory=Counter)
    reply_words: Counter[int] = field(default_factory=Counter)
    reply_bubbles: Counter[int] = field(default_factory=Counter)
    contacts: dict[str, ContactStatistics] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)

    def add(self, conversation: Conversation, contact: str, name: str, why_not: str | None) -> None:
        """Count one conversation; of one that is left out only that it was."""
        self.conversations += 1
        if why_not is not None:
            self.dropped[why_not] += len(conversation.messages) + len(conversation.dropped)
            return
        self.dropped.update(conversation.dropped)
        self.masked.update(conversation.masked)
        self._count_contact(conversation, contact, name)
        self._count_messages(conversation)
        self._count_gaps(conversation)

    def _count_contact(self, conversation: Conversation, contact: str, name: str) -> None:
        found = self.contacts.setdefault(contact, ContactStatistics(name, relation=conversation.category))
        found.messages += len(conversation.messages)
        found.mine += sum(message.from_me for message in conversation.messages)
        found.replies += sum(answer.why_not is None for answer in conversation.answers)

    def _count_messages(self, conversation: Conversation) -> None:
        for message in conversation.messages:
            if message.sent_at is not None:
                when = message.sent_at
                self.months[f"{when.year:04}-{when.month:02}", message.from_me] += 1
                if message.from_me:
                    self.hours[_local_hour(when)] += 1
        for answer in conversation.answers:
            bubbles = conversation.turns[answer.turn].bubbles
            self.reply_words[sum(len(bubble.split()) for bubble in bubbles)] += 1
            self.reply_bubbles[len(bubbles)] += 1

    def _count_gaps(self, conversation: Conversation) -> None:
        turns = conversation.turns
        self.sessions.update(SESSION_GAPS if turns else ())
        for before, turn in pairwise(turns):
            if before.ended is None or turn.began is None:
                continue
            minutes = silence(before, turn) / timedelta(minutes=1)
            self.gaps[_bucket(minutes)] += 1
            self.sessions.update(gap for gap in SESSION_GAPS if minutes > gap)
            if turn.from_me and not before.from_me:
                self.answers += 1
                self.answered_within.update(gap for gap in SESSION_GAPS if minutes <= gap)

    def as_json(self) -> dict[str, Any]:
        """The part of it that ``dataset.json`` holds: nobody's name."""
        return {
            "conversations": self.conversations,
            "contacts": len(self.contacts),
            "held_out_contacts": self.splits.get("held_out_contacts", 0),
            "dropped": dict(sorted(self.dropped.items())),
            "masked": dict(sorted(self.masked.items())),
            "gaps": {name: self.gaps[name] for name in (*GAPS, "longer")},
        }

    def lines(self, session_minutes: float) -> list[str]:
        """What a terminal is told of a build."""
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.most_common()) or "nothing"
        masked = ", ".join(f"{kind} {count:,}" for kind, count in self.masked.most_common()) or "nothing"
        held = self.splits.get("held_out_contacts", 0)
        return [
            *self.gap_lines(session_minutes),
            f"conversations {self.conversations:,}, contacts {len(self.contacts):,}, wholly held out {held}",
            f"left out: {dropped}",
            f"masked: {masked}",
        ]

    def gap_lines(self, session_minutes: float) -> list[str]:
        """A histogram of the silences between turns, and what other session gaps would give."""
        total = max(self.gaps.total(), 1)
        rows = [(name, self.gaps[name]) for name in (*GAPS, "longer")]
        widest = max((count for _, count in rows), default=0) or 1
        lines = ["silence between turns, up to"]
        lines += [
            f"  {name:>7} {count:9,} {100 * count / total:5.1f} % {'#' * round(30 * count / widest)}"
            for name, count in rows
        ]
        lines.append("with a session gap of   sessions   your answers within it")
        for gap in SESSION_GAPS:
            share = 100 * self.answered_within[gap] / max(self.answers, 1)
            used = "  <- used" if gap == session_minutes else ""
            lines.append(
                f"  {gap:4} min {self.sessions[gap]:20,} {self.answered_within[gap]:12,} ({share:.0f} %){used}"
            )
        return lines


def _bucket(minutes: float) -> str:
    return next((name for name, limit in zip(GAPS, _GAP_MINUTES, strict=True) if minutes <= limit), "longer")


def _local_hour(when: datetime) -> int:
    return when.astimezone().hour
