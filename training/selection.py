"""Which replies are learnt from, and which are held out: one decision over all conversations.

It looks at a few numbers of each reply (``Facts``), never at texts, so that millions fit in memory.

1. Time: of each contact's blocks the last tenth is test, the tenth before valid. Of many contacts, one or two whole
   ones are test as well: people the adapter has never met.
2. The style is measured on all of train, before anything else is left out of it.
3. Nothing of test or valid stands in train: no long reply, no long end of a context.
4. Of equal exchanges and of long replies that are nearly equal one is kept, the newest.
5. Caps: no contact is more than a share of train, no reply more than a share of it.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from prompt_format.persona import Observed, Style, observe, style_of
from prompt_format.turns import Turn
from training.pairs import Answer, Conversation

SPLITS = ("train", "valid", "test")
HELD_OUT_SHARE = 0.1  # of each contact's blocks, for valid and again for test
LONG = 20  # characters from which a text that also stands in test may not be trained on
LONG_REPLY = 40  # characters from which nearly equal replies are one: invitations, announcements
TAIL_CHARACTERS = 400
CONTACT_SHARE = 0.25
MANY_CONTACTS = 8  # from so many on a whole one is held out, from 20 on two
NOT_MY_VOICE = {"not_my_words", "link_only", "automatic", "code_block"}
_SKETCH = 16
_ALIKE = 0.6


@dataclass(frozen=True)
class Limits:
    """How much of one kind may stand in train.

    Attributes:
        per_contact: Pairs with one contact, at most; also no more than a quarter of all where there are five or more.
        per_reply: Share of one and the same reply ("ok"), at most; ten of it in any case.
        held_out_per_contact: Pairs with one contact in valid, and in test.
    """

    per_contact: int = 2000
    per_reply: float = 0.01
    held_out_per_contact: int = 200


@dataclass(slots=True)
class Facts:
    """What is known of one answer while choosing; hashes stand for texts."""

    conversation: int
    turn: int
    contact: str
    block: int
    at: float
    why_not: str | None
    style: Observed
    reply: int
    reply_is_long: bool
    exchange: int
    context: int | None
    sketch: tuple[int, ...]


@dataclass
class Selection:
    """What was chosen.

    Attributes:
        splits: For each conversation the split of each of its turns that is learnt from or held out.
        style: Measured on train; None if there is nothing in it.
        dropped: How many replies were left out, by reason.
        held_out_contacts: Number of contacts that are wholly in test.
    """

    splits: dict[int, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    counts: Counter[str] = field(default_factory=Counter)
    style: Style | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    held_out_contacts: int = 0


def facts_of(number: int, contact: str, conversation: Conversation) -> list[Facts]:
    """The facts of every answer in one conversation."""
    return [_facts(number, contact, conversation, answer) for answer in conversation.answers]


def select(facts: Sequence[Facts], limits: Limits) -> Selection:
    """Choose, as the top of this file says. The result depends on nothing but *facts*."""
    selection = Selection()
    usable = [one for one in facts if one.why_not is None]
    selection.dropped.update(one.why_not for one in facts if one.why_not is not None)
    begins = _begins(facts)
    boundaries = _boundaries(usable, begins)
    strangers = _whole_contacts(usable)
    selection.held_out_contacts = len(strangers)
    splits: dict[str, list[Facts]] = {split: [] for split in SPLITS}
    voice = []
    for one in facts:
        split = "test" if one.contact in strangers else _split(begins[_block(one)], boundaries.get(one.contact))
        if one.why_not is None:
            splits[split].append(one)
        if split == "train" and one.why_not not in NOT_MY_VOICE:
            voice.append(one.style)
    if voice:
        selection.style = style_of(voice)
    for split, kept in _filtered(splits, limits, selection.dropped).items():
        selection.counts[split] = len(kept)
        for one in kept:
            selection.splits[one.conversation][one.turn] = split
    return selection


# -- the facts


def _facts(number: int, contact: str, conversation: Conversation, answer: Answer) -> Facts:
    turns, turn = conversation.turns, conversation.turns[answer.turn]
    before = (turns[place] for place in range(answer.turn - 1, answer.session - 1, -1))
    last_two = turns[max(answer.session, answer.turn - 2) : answer.turn]
    reply = spelling(turn.bubbles)
    return Facts(
        conversation=number,
        turn=answer.turn,
        contact=contact,
        block=answer.block,
        at=turn.began.timestamp() if turn.began else float("-inf"),
        why_not=answer.why_not,
        style=observe(turn.bubbles),
        reply=hash(reply),
        reply_is_long=len(reply) >= LONG,
        exchange=hash((reply, *(spelling(one.bubbles) for one in last_two))),
        context=_context(before),
        sketch=_sketch(reply) if len(reply) >= LONG_REPLY else (),
    )


def spelling(bubbles: Iterable[str]) -> str:
    """The words of a turn, however they were cased and spaced."""
    return " ".join(" ".join(bubbles).lower().split())


def _context(backwards: Iterable[Turn]) -> int | None:
    """A number for the end of a context: as many of the last turns as have LONG characters. None if it is short."""
    tail = ""
    for turn in backwards:
        tail = f"{spelling(turn.bubbles)}\n{tail}"
        if len(tail) > LONG:
            return hash(tail[-TAIL_CHARACTERS:])
    return None


def _sketch(text: str) -> tuple[int, ...]:
    """The smallest hashes of all runs of three words: alike for texts that share most of them.

    Broder, "On the resemblance and containment of documents" (1997), section 4: a bottom-k sketch.
    """
    words = text.split()
    runs = {zlib.crc32(" ".join(words[start : start + 3]).encode()) for start in range(max(1, len(words) - 2))}
    return tuple(sorted(runs)[:_SKETCH])


# -- the split


Block = tuple[int, int]
Moment = tuple[float, int, int]


def _block(one: Facts) -> Block:
    return (one.conversation, one.block)


def _begins(facts: Iterable[Facts]) -> dict[Block, Moment]:
    """When each block began; conversation and block number order those of one moment."""
    found: dict[Block, Moment] = {}
    for one in facts:
        moment = (one.at, one.conversation, one.block)
        known = found.setdefault(_block(one), moment)
        if moment < known:
            found[_block(one)] = moment
    return found


def _boundaries(usable: Iterable[Facts], begins: dict[Block, Moment]) -> dict[str, tuple[Moment, Moment]]:
    """For each contact the beginning of its first block in valid and of its first in test, where it has enough."""
    blocks: dict[str, set[Moment]] = defaultdict(set)
    for one in usable:
        blocks[one.contact].add(begins[_block(one)])
    found = {}
    for contact, starts in blocks.items():
        held = max(1, round(len(starts) * HELD_OUT_SHARE)) if len(starts) >= 3 else 0
        if held:
            ordered = sorted(starts)
            found[contact] = (ordered[-2 * held], ordered[-held])
    return found


def _split(begin: Moment, boundary: tuple[Moment, Moment] | None) -> str:
    if boundary is None or begin < boundary[0]:
        return "train"
    return "valid" if begin < boundary[1] else "test"


def _whole_contacts(usable: Iterable[Facts]) -> set[str]:
    """Contacts of middling size that are wholly held out."""
    sizes = Counter(one.contact for one in usable)
    count = 0 if len(sizes) < MANY_CONTACTS else 1 if len(sizes) < 20 else 2
    ranked = sorted(sizes, key=lambda contact: (sizes[contact], contact))
    middle = len(ranked) // 2
    return set(ranked[middle : middle + count])


# -- what is left out


def _filtered(splits: dict[str, list[Facts]], limits: Limits, dropped: Counter[str]) -> dict[str, list[Facts]]:
    kept = {}
    for split in ("test", "valid"):
        found = _without_copies(_newest_first(splits[split]), dropped)
        kept[split] = _at_most(found, limits.held_out_per_contact, lambda one: one.contact, dropped, "contact_cap")
    held = [*splits["test"], *splits["valid"]]
    kept["train"] = _capped(_without_copies(_not_held_out(splits["train"], held, dropped), dropped), limits, dropped)
    return kept


def _newest_first(facts: Iterable[Facts]) -> list[Facts]:
    return sorted(facts, key=lambda one: (-one.at, one.conversation, -one.turn))


def _not_held_out(train: Iterable[Facts], held: Sequence[Facts], dropped: Counter[str]) -> list[Facts]:
    replies = {one.reply for one in held if one.reply_is_long}
    contexts = {one.context for one in held if one.context is not None}
    alike = _Alike()
    for one in held:
        alike.add(one.sketch)
    kept = []
    for one in _newest_first(train):
        if one.reply_is_long and (one.reply in replies or alike.has(one.sketch)):
            dropped["reply_also_held_out"] += 1
        elif one.context in contexts:
            dropped["context_also_held_out"] += 1
        else:
            kept.append(one)
    return kept


def _without_copies(newest_first: Iterable[Facts], dropped: Counter[str]) -> list[Facts]:
    exchanges: set[int] = set()
    alike = _Alike()
    kept = []
    for one in newest_first:
        if one.exchange in exchanges:
            dropped["duplicate"] += 1
        elif alike.has(one.sketch):
            dropped["near_duplicate"] += 1
        else:
            kept.append(one)
        exchanges.add(one.exchange)
        alike.add(one.sketch)
    return kept


def _capped(train: list[Facts], limits: Limits, dropped: Counter[str]) -> list[Facts]:
    per_contact = min(limits.per_contact, _quarter(Counter(one.contact for one in train)))
    kept = _at_most(train, per_contact, lambda one: one.contact, dropped, "contact_cap")
    per_reply = max(10, int(limits.per_reply * len(kept)))
    return _at_most(kept, per_reply, lambda one: one.reply, dropped, "reply_cap")


def _quarter(sizes: Counter[str]) -> int:
    """The largest size at which no contact is more than CONTACT_SHARE of what is left; any where there are few."""
    if len(sizes) * CONTACT_SHARE <= 1:
        return max(sizes.values(), default=0)
    ranked = sorted(sizes.values())
    total = 0  # of all contacts smaller than the one looked at
    for place, size in enumerate(ranked):
        others = len(ranked) - place
        if size > CONTACT_SHARE * (total + size * others):
            return max(1, int(CONTACT_SHARE * total / (1 - CONTACT_SHARE * others)))
        total += size
    return ranked[-1]


def _at_most(
    newest_first: Iterable[Facts], cap: int, key: Callable[[Facts], Hashable], dropped: Counter[str], reason: str
) -> list[Facts]:
    seen: Counter[Hashable] = Counter()
    kept = []
    for one in newest_first:
        seen[key(one)] += 1
        if seen[key(one)] <= cap:
            kept.append(one)
        else:
            dropped[reason] += 1
    return kept


class _Alike:
    """Sketches seen so far. Two texts are alike when they share most of their runs of words."""

    def __init__(self) -> None:
        self._by_hash: dict[int, list[tuple[int, ...]]] = defaultdict(list)

    def add(self, sketch: tuple[int, ...]) -> None:
        for one in sketch[:3]:
            self._by_hash[one].append(sketch)

    def has(self, sketch: tuple[int, ...]) -> bool:
        near = (other for one in sketch[:3] for other in self._by_hash.get(one, ())[-20:])
        return any(_resemblance(sketch, other) >= _ALIKE for other in near)


def _resemblance(one: Sequence[int], other: Sequence[int]) -> float:
    """Estimated share of the runs of words of two texts that both have, from their sketches."""
    smallest = sorted({*one, *other})[:_SKETCH]
    return len(set(one).intersection(other, smallest)) / len(smallest)
