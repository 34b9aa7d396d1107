"""The first reading of a history: every conversation once, and which of its replies stand in which split."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from errors import DataRefused
from prompt_format.messages import Thread
from training.conversations import History, Key
from training.filters import why_no_thread
from training.identifiers import region_of
from training.pairs import Conversation, read_conversation
from training.plan import Plan
from training.progress import Tell, silent
from training.records import Record
from training.selection import Facts, Selection, facts_of, select
from training.statistics import Statistics


@dataclass
class Chosen:
    """A history, and the split of each reply in it that was chosen."""

    history: History
    selection: Selection
    statistics: Statistics
    keys: list[Key]
    plan: Plan

    def conversation(self, number: int) -> Conversation:
        """Conversation *number*, read from its files."""
        key = self.keys[number]
        return _understood(key, self.history.records(key), self.history, self.plan).conversation

    def pairs(self, split: str) -> Iterator[tuple[Thread, tuple[str, ...]]]:
        """(what a client would send, what I answered) for each pair of *split*."""
        for number, turns in sorted(self.selection.splits.items()):
            conversation = self.conversation(number)
            for answer in conversation.answers:
                if turns.get(answer.turn) == split:
                    yield conversation.context(answer), conversation.turns[answer.turn].bubbles


@dataclass(frozen=True)
class _Understood:
    """One conversation, whose it is, and why the whole of it is left out (None: it is not)."""

    conversation: Conversation
    contact: str
    name: str
    why_not: str | None


def choose(history: History, plan: Plan, tell: Tell = silent) -> Chosen:
    """Read every conversation once and decide what is learnt from and what is held out.

    Raises:
        DataRefused: If there is no reply to learn from.
    """
    plan = _with_region(plan, history)
    statistics = Statistics(history.dropped)
    facts: list[Facts] = []
    keys = sorted(history.places)
    for number, key in enumerate(keys):
        found = _understood(key, history.records(key), history, plan)
        statistics.add(found.conversation, found.contact, found.name, found.why_not)
        tell("conversations read", number + 1, len(keys))
        if found.why_not is None:
            facts += facts_of(number, found.contact, found.conversation)
    selection = select(facts, plan.limits)
    statistics.dropped.update(selection.dropped)
    statistics.splits = {**selection.counts, "held_out_contacts": selection.held_out_contacts}
    if not selection.counts["train"]:
        if facts:
            why = f"none of your {len(facts)} answers can be learnt from. Import more messages"
        else:
            why = f"{len(keys)} conversations, none with an answer of yours to somebody's message. Check --me at import"
        raise DataRefused(
            f"no replies to learn from in {', '.join(map(str, history.paths))}: {why}",
            code="no_pairs",
            details=[f"{reason}: {count}" for reason, count in sorted(statistics.dropped.items())],
        )
    return Chosen(history, selection, statistics, keys, plan)


def _understood(key: Key, records: list[Record], history: History, plan: Plan) -> _Understood:
    source, kind, thread = key
    senders = sorted({record.sender_id for record in records if not record.from_me and record.sender_id})
    others = {*senders, *([thread] if kind == "dm" and not source else [])}
    known = plan.contacts.key_of([thread, *senders] if kind == "dm" else [thread])
    conversation = read_conversation(records, plan.contacts.relation(known) if known else None, plan.gaps, plan.rules)
    if plan.rules.blocks_conversation(_names(key, others if kind == "dm" else set(), records, known)):
        why_not: str | None = "blocked_thread"
    elif kind == "group" and not plan.groups:
        why_not = "group_thread"
    else:
        why_not = why_no_thread(records, others, history.mine)
    contact = known or (thread if not source else f"{source} {thread}")
    return _Understood(conversation, contact, _name(records, contact, plan), why_not)


def _names(key: Key, others: set[str], records: list[Record], known: str | None) -> list[str]:
    """All that a conversation is called: its thread and, of a direct one, the other side."""
    shown = {record.thread_name for record in records} | {known}
    if key[1] == "dm":
        shown |= {record.sender_name for record in records if not record.from_me}
    return [key[2], *sorted(others), *sorted(name for name in shown if name)]


def _name(records: list[Record], contact: str, plan: Plan) -> str:
    known = plan.contacts.people.get(contact)
    shown = (record.thread_name or (None if record.from_me else record.sender_name) for record in records)
    return (known.name if known else None) or next((name for name in shown if name), contact)


def _with_region(plan: Plan, history: History) -> Plan:
    """The country of most numbers is that of numbers written without one."""
    if plan.rules.region is not None:
        return plan
    numbers = [thread for _, kind, thread in history.places if kind == "dm"] + sorted(history.mine)
    regions = Counter(region for region in map(region_of, numbers) if region)
    found = max(sorted(regions), key=lambda region: regions[region], default=None)
    return replace(plan, rules=replace(plan.rules, region=found))
