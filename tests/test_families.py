"""Rows that begin alike: found, written once, and every row can be read back."""

from hypothesis import given
from hypothesis import strategies as st

from prompt_format.format import Example
from tests.hostile import QUICK
from training.families import WORTH_IT, Layout, common_prefix, families, lay_out, parts
from training.shared_prefix import flat_places

SYSTEM = list(range(40, 40 + WORTH_IT + 3))


def row(*ids: int, reply: int = 2) -> Example:
    """A row whose last *reply* tokens are the reply."""
    return Example([*SYSTEM, *ids], len(SYSTEM) + len(ids) - reply)


def thread(turns: int, length: int = 10, first: int = 100) -> list[Example]:
    """Rows of one conversation: each prompt is the one before it, its reply and a turn more."""
    said = list(range(first, first + turns * length))
    return [row(*said[: (number + 1) * length], 7, 8, 9) for number in range(turns)]


@st.composite
def rows_that_begin_alike(draw: st.DrawFn) -> list[Example]:
    """Rows that leave others at any place: of one another, of nothing, one twice."""
    found: list[list[int]] = []
    for _ in range(draw(st.integers(1, 8))):
        begin = draw(st.sampled_from([[], *found]))
        kept = begin[: draw(st.integers(0, len(begin)))]
        found.append([*kept, *draw(st.lists(st.integers(1, 3), min_size=2, max_size=25))])
    return [Example(ids, draw(st.integers(1, len(ids) - 1))) for ids in found]


def flat(layout: Layout) -> list[int]:
    """The tokens of trunks, then of tails, filled up: as their hidden states lie."""
    tokens = []
    for group in (layout.trunks, [tail.ids for tail in layout.tails]):
        width = max(map(len, group), default=0)
        tokens += [token for ids in group for token in [*ids, *[0] * (width - len(ids))]]
    return tokens


@QUICK
@given(rows_that_begin_alike(), st.booleans(), st.booleans())
def test_every_row_can_be_read_back(rows: list[Example], prefix: bool, tails: bool) -> None:
    """Its own tokens stand where its hidden states are looked for; what is shared is written once."""
    layout = lay_out(rows, prefix, tails)
    tokens, begin = flat(layout), len(layout.prefix)

    for number, example in enumerate(rows):
        inputs = example.ids[:-1]
        places = flat_places(layout, number, begin, len(inputs))
        assert inputs == [*layout.prefix, *(tokens[place] for place in places)]
        assert begin < example.reply_start
    assert layout.tokens <= sum(len(example.ids) - 1 for example in rows)


@QUICK
@given(rows_that_begin_alike(), st.integers(1, 4))
def test_parts_hold_every_row_once(rows: list[Example], count: int) -> None:
    """Whole families, and no part is empty."""
    found = parts(rows, count)

    assert list(range(len(rows))) == sorted(i for part in found for i in part)
    assert all(found) and len(found) <= count
    whole = families(rows, common_prefix(rows))
    assert all(any(set(family) <= set(part) for part in found) for family in whole)


def test_a_thread_is_a_trunk_and_tails() -> None:
    """Five rows of one conversation: its tokens once, and of the first four what only they have."""
    rows = thread(5)
    layout = lay_out(rows)

    assert SYSTEM + list(range(100, 110)) == layout.prefix
    assert [rows[4].ids[len(layout.prefix) : -1]] == layout.trunks
    assert [[7, 8]] * 4 == [tail.ids for tail in layout.tails]
    assert [0, 10, 20, 30] == sorted(tail.leaves for tail in layout.tails)


def test_a_reply_that_later_rows_go_on_from_is_computed_once() -> None:
    """As in the variant whose every turn is a message of its own: no tail, all replies in one pass."""
    ids = [*SYSTEM, *range(100, 140), 9]
    rows = [Example(ids[:end], end - 3) for end in (len(SYSTEM) + 20, len(SYSTEM) + 30, len(ids))]
    layout = lay_out(rows)

    assert [] == layout.tails and 1 == len(layout.trunks)
    assert len(ids) - 1 == layout.tokens


def test_threads_are_families() -> None:
    """Rows of two conversations under one system prompt are two; what is alike must be half of a row."""
    rows = [*thread(3, first=100), *thread(3, first=200)]

    assert [[0, 1, 2], [3, 4, 5]] == sorted(sorted(family) for family in families(rows))


@QUICK
@given(st.integers(0, 30), st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=9), min_size=2, max_size=5))
def test_a_prefix_is_what_all_rows_begin_with(length: int, tails: list[list[int]]) -> None:
    """And ends before the token that predicts the shortest row's reply."""
    rows = [Example([*range(100, 100 + length), *tail], length + 1) for tail in tails]
    found = common_prefix(rows)

    assert all(row.ids[:found] == rows[0].ids[:found] and found < row.reply_start for row in rows)
    assert found in (0, length) or found > length
    assert found == 0 or found >= WORTH_IT


def test_one_row_shares_with_nobody() -> None:
    """It is one trunk."""
    layout = lay_out([row(1, 2, 3, 4)])

    assert ([], [], [(0, None)]) == (layout.prefix, layout.tails, layout.rows)
