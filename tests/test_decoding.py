"""Rows that are written together: each goes on as its own tokens say, and no pass is made for nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, isclose, log
from random import Random
from typing import Any

import mlx.core as mx
import pytest

from service.choice import Sampling
from service.decoding import Decoding, Row, choose
from service.engine import Token
from service.sampling import Chooser

VOCABULARY = 50
STOP = frozenset({7, 8})
LIKELY = 5.0  # logit of the token that follows; all others have 0
LOGPROB = LIKELY - log(exp(LIKELY) + VOCABULARY - 1)
LENGTH = 12
PROMPTS = [[1, 2, 3], [4], [1, 2, 9, 11], [5, 5]]


@dataclass
class OneLine:
    """A row's own cache: every token that was fed."""

    ids: list[int] = field(default_factory=list)
    state: Any = ()

    @property
    def rows(self) -> list[list[int]]:
        return [self.ids]

    @classmethod
    def merge(cls, lines: Sequence["OneLine"]) -> "Lines":
        return Lines([list(line.ids) for line in lines])


@dataclass
class Lines:
    """A batch's."""

    rows: list[list[int]]

    def extend(self, other: "Lines") -> None:
        self.rows += other.rows

    def filter(self, staying: Sequence[int]) -> None:
        self.rows = [self.rows[place] for place in staying]

    def extract(self, place: int) -> OneLine:
        return OneLine(list(self.rows[place]))


class Model:
    """What follows depends on the slot and on all that was fed before.

    Attributes:
        passes: How many rows each pass had.
        caches: Of which kind each pass's cache was.
    """

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.caches: list[type] = []

    def last_logits(self, tokens: mx.array, cache: Sequence[Any], slots: Sequence[int]) -> mx.array:
        self.passes.append(len(slots))
        self.caches.append(type(cache[0]))
        fed: list[list[int]] = tokens.tolist()  # type: ignore[assignment]
        assert len(fed) == len(slots) == len(cache[0].rows)
        for row, new in zip(cache[0].rows, fed, strict=True):
            row += new
        following = mx.array([after(row, slot) for row, slot in zip(cache[0].rows, slots, strict=True)])
        return LIKELY * (mx.arange(VOCABULARY) == following[:, None])


def after(ids: Sequence[int], slot: int) -> int:
    """The token that follows *ids* under *slot*."""
    return Random(repr((list(ids), slot))).randrange(VOCABULARY)


def alone(ids: Sequence[int], slot: int, length: int = LENGTH) -> list[int]:
    """The tokens after *ids*, the one that ends it among them."""
    written: list[int] = []
    while len(written) < length and not STOP & set(written):
        written.append(after([*ids, *written], slot))
    return written


@dataclass
class Writing:
    """A batch, and what came of its rows."""

    ahead: bool
    model: Model = field(default_factory=Model)
    written: dict[int, list[Token]] = field(default_factory=dict)
    kept: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.decoding = Decoding(self.model, STOP, self.ahead)  # type: ignore[arg-type]

    def join(self, ids: Sequence[int], slot: int, rows: int = 1, length: int = LENGTH) -> list[int]:
        """Feed a prompt, and add that many replies to it; returns their keys."""
        cache = [OneLine()]
        choosers = [Chooser(Sampling(temperature=0), 0, ids) for _ in range(rows)]
        logits = self.model.last_logits(mx.array([list(ids)]), cache, [slot])
        first = choose(choosers, mx.repeat(logits, rows, axis=0), None)
        keys = [len(self.written) + number for number in range(rows)]
        self.written |= {key: [] for key in keys}
        joining = [
            Row(key, slot, length, chooser, self.keeper(key)) for key, chooser in zip(keys, choosers, strict=True)
        ]
        self.decoding.join(joining, cache, *first)
        return keys

    def keeper(self, key: int) -> Any:
        def keep(cache: list[Any], tokens: list[int]) -> None:
            self.kept[key] = (cache[0].ids, list(tokens))

        return keep

    def step(self) -> None:
        for token in self.decoding.step():
            self.written[token.key].append(token)

    def finish(self) -> None:
        while self.decoding.rows:
            self.step()

    def tokens(self, key: int) -> list[int]:
        return [token.token for token in self.written[key]]


@pytest.fixture(params=[False, True], ids=["one after the other", "ahead"])
def writing(request: pytest.FixtureRequest) -> Iterator[Writing]:
    yield Writing(request.param)


def test_these_rows_differ() -> None:
    """In length and tokens, by prompt and by slot: what follows compares something."""
    every = [tuple(alone(ids, slot)) for ids in PROMPTS for slot in range(3)]

    assert len(every) == len(set(every))
    assert min(map(len, every)) < LENGTH == max(map(len, every))


def test_a_row_is_what_its_prompt_says(writing: Writing) -> None:
    """Each token follows all before it; the last says why it is the last, the others say nothing."""
    for ids in PROMPTS:
        for slot in range(3):
            (key,) = writing.join(ids, slot)
            writing.finish()
            tokens = writing.written[key]

            assert alone(ids, slot) == writing.tokens(key)
            assert [None] * (len(tokens) - 1) == [token.end for token in tokens[:-1]]
            assert ("stop" if tokens[-1].token in STOP else "length") == tokens[-1].end
            assert all(isclose(LOGPROB, token.logprob, abs_tol=1e-5) for token in tokens)


@pytest.mark.parametrize("seed", range(8))
def test_rows_that_come_and_go_are_what_each_is_alone(writing: Writing, seed: int) -> None:
    """One or more replies to a prompt, of any length, in any order; some are taken out."""
    random, asked = Random(seed), {}
    for _ in range(60):
        if random.random() < 0.3:
            what = random.choice(PROMPTS), random.randrange(3), random.randint(1, 3), random.randint(1, LENGTH)
            asked |= dict.fromkeys(writing.join(*what), what)
        elif random.random() < 0.1 and writing.decoding.rows:
            gone = [row.key for row in random.sample(writing.decoding.rows, 1)]
            writing.decoding.remove(gone)
            del asked[gone[0]]
        else:
            writing.step()
    writing.finish()

    assert len(asked) > 10
    assert {key: alone(ids, slot, length) for key, (ids, slot, _, length) in asked.items()} == {
        key: writing.tokens(key) for key in asked
    }


def test_a_row_that_ends_costs_no_further_pass() -> None:
    """Its first token was chosen when its prompt was fed: of n tokens, n - 1 need a pass."""
    writing = Writing(ahead=False)
    (key,) = writing.join([1, 2, 3], 0, length=5)
    writing.finish()
    assert [1] + [1] * (len(writing.tokens(key)) - 1) == writing.model.passes
    writing = Writing(ahead=False)
    for length in (1, 3):
        writing.join([4], 2, length=length)
    writing.finish()

    assert 3 <= len(alone([4], 2))
    assert [1, 1, 1, 1] == writing.model.passes  # two prompts, and two more tokens of the longer row


def test_ahead_the_next_pass_begins_before_the_tokens_are_read() -> None:
    """So a row that ends has cost one pass more, and no other."""
    writing = Writing(ahead=True)
    (key,) = writing.join([1, 2, 3], 0, length=5)
    writing.step()
    assert [1, 1] == writing.model.passes
    writing.finish()

    assert [1] + [1] * len(writing.tokens(key)) == writing.model.passes


def test_a_step_without_rows_costs_nothing(writing: Writing) -> None:
    """There are no tokens, and no pass is made."""
    assert [] == writing.decoding.step()
    writing.join([4], 0)
    writing.finish()
    passes = len(writing.model.passes)
    assert [] == writing.decoding.step()
    assert passes == len(writing.model.passes)


def test_a_row_alone_goes_on_with_its_own_cache(writing: Writing) -> None:
    """It is merged when another joins, and stays so when that one leaves; its tokens are the same."""
    (stays,) = writing.join([1, 2, 3], 1)
    writing.step()
    assert OneLine is writing.model.caches[-1]
    (leaves,) = writing.join([5, 5], 2)
    writing.step()
    writing.step()
    assert Lines is writing.model.caches[-1]
    writing.decoding.remove([leaves])
    writing.finish()
    assert Lines is writing.model.caches[-1]
    assert alone([1, 2, 3], 1) == writing.tokens(stays)


def test_replies_to_one_prompt_have_caches_of_their_own(writing: Writing) -> None:
    """One ends, the others go on."""
    keys = writing.join([1, 2, 3], 1, rows=3)
    writing.decoding.rows[1].left = 2
    writing.finish()

    expected = alone([1, 2, 3], 1)
    assert [expected, expected[:2], expected] == [writing.tokens(key) for key in keys]


def test_at_its_end_a_row_gives_its_cache_away(writing: Writing) -> None:
    """With the tokens in there beyond the prompt: all that were fed, be it alone or among others."""
    asked = {}
    for ids in PROMPTS:
        (key,) = writing.join(ids, 1)
        asked[key] = ids
    (by_itself,) = [key for key in asked if asked[key] == [4]]
    writing.finish()
    (last,) = writing.join([4], 2)
    writing.finish()

    for key, ids in {**asked, last: [4]}.items():
        fed, tokens = writing.kept[key]
        assert [*ids, *tokens] == fed
        assert (writing.tokens(key) if writing.ahead else writing.tokens(key)[:-1]) == tokens
    assert by_itself in writing.kept


def test_a_row_that_was_taken_out_gives_nothing_away(writing: Writing) -> None:
    """Neither its cache nor another token."""
    keys = writing.join([1, 2, 3], 1, rows=2)
    writing.step()
    writing.decoding.remove([keys[0], 99])
    writing.finish()

    assert keys[1:] == list(writing.kept)
    assert 1 == len(writing.written[keys[0]])
