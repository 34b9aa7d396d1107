"""Rows that begin alike: what a batch has to compute once only.

Successive rows of one conversation have prompts that grow by a turn: each begins as the one before it does. Such rows
are a family. Its longest row is the *trunk*; every other one follows the trunk for a while and then leaves it with a
short *tail*, most often its last tokens of prompt and its reply. What all rows of a batch begin with is the *prefix*.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prompt_format.format import Example

WORTH_IT = 8  # tokens; below, a pass of its own costs more than it saves


@dataclass(frozen=True)
class Tail:
    """A row but for what it shares: it leaves its trunk after ``leaves`` tokens of it (the prefix not counted)."""

    trunk: int
    leaves: int
    ids: list[int]


@dataclass(frozen=True)
class Layout:
    """The tokens of a batch, what is shared written once. The last token of a row is not there: it is only predicted.

    Attributes:
        prefix: What every row begins with.
        trunks: What follows, whole.
        tails: What the other rows end with.
        rows: For each row of the batch, in its order: (its trunk, its tail or None).
    """

    prefix: list[int]
    trunks: list[list[int]]
    tails: list[Tail]
    rows: list[tuple[int, int | None]]

    @property
    def tokens(self) -> int:
        """How many tokens are computed, padding aside."""
        return len(self.prefix) + sum(map(len, self.trunks)) + sum(len(tail.ids) for tail in self.tails)


def lay_out(examples: Sequence[Example], prefix: bool = True, tails: bool = True) -> Layout:
    """*examples* as a layout: with or without a shared prefix, with or without tails."""
    begin = common_prefix(examples) if prefix else 0
    trunks: list[list[int]] = []
    leaving: list[Tail] = []
    rows: dict[int, tuple[int, int | None]] = {}
    for family in families(examples) if tails else [[i] for i in range(len(examples))]:
        longest = max(family, key=lambda i: len(examples[i].ids))
        trunk = examples[longest].ids[:-1]
        for i in family:
            ids = examples[i].ids[:-1]
            leaves = _alike(ids, trunk)
            rows[i] = len(trunks), None
            if leaves < len(ids):
                rows[i] = len(trunks), len(leaving)
                leaving.append(Tail(len(trunks), leaves - begin, ids[leaves:]))
        trunks.append(trunk[begin:])
    return Layout(examples[0].ids[:begin], trunks, leaving, [rows[i] for i in range(len(examples))])


def common_prefix(examples: Sequence[Example]) -> int:
    """How many tokens all of *examples* begin with; none where sharing them is not worth it.

    The token that predicts a row's first reply token is never among them.
    """
    if len(examples) < 2:
        return 0
    ids = [example.ids for example in examples]
    length = min(_alike(min(ids), max(ids)), min(example.reply_start for example in examples) - 1)
    return length if length >= WORTH_IT else 0


def families(examples: Sequence[Example], begin: int = 0) -> list[list[int]]:
    """Indices of *examples*, those of one family together: in order of their ids each begins as the longest before it
    does, for ``WORTH_IT`` tokens and for half of itself or half of that one; the first *begin* tokens do not count."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].ids)
    found: list[list[int]] = []
    longest: Sequence[int] = ()
    for i in order:
        ids = examples[i].ids
        alike = _alike(ids, longest) - begin
        if alike >= WORTH_IT and 2 * alike >= min(len(ids), len(longest)) - begin:
            found[-1].append(i)
            longest = max(ids, longest, key=len)
        else:
            found.append([i])
            longest = ids
    return found


def parts(examples: Sequence[Example], count: int) -> list[list[int]]:
    """Indices of *examples* in at most *count* parts of like cost, families kept whole; no part is empty."""
    found: list[list[int]] = [[] for _ in range(count)]
    costs = [0] * count
    members = [
        (lay_out([examples[i] for i in family], prefix=False).tokens, family)
        for family in families(examples, common_prefix(examples))
    ]
    for cost, family in sorted(members, key=lambda item: (-item[0], item[1])):
        least = costs.index(min(costs))
        found[least] += family
        costs[least] += cost
    return [part for part in found if part]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
