"""The loss of replies, against the sum written out by hand from a model's plain logits."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from base_model.load import load_base
from prompt_format.format import Example
from tests.tiny import tiny_model
from training.reply_loss import buckets, loss_sum, make_batch, mean_loss, reply_logits, total_loss

ROWS = [
    Example([7, 8, 9, 20, 21, 22, 260], 3),
    Example([7, 8, 9, 30, 260], 3),
    Example([5, 260], 1),
    Example([*range(40, 90), 11, 12, 260], 50),
]


class Scaled(nn.Module):
    """A model that does to its logits what no projection does: the short way does not hold for it."""

    def __init__(self, model: Any, factor: float):
        super().__init__()
        self.model, self.lm_head, self.factor = model.model, model.lm_head, factor

    def __call__(self, ids: mx.array) -> mx.array:
        return self.factor * self.lm_head(self.model(ids))


class Closed(nn.Module):
    """A model of which only its logits are known."""

    def __init__(self, model: Any):
        super().__init__()
        self.whole = model

    def __call__(self, ids: mx.array) -> mx.array:
        return self.whole(ids)


@pytest.fixture(params=["llama", "lfm2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """One with a head of its own, one that uses its embedding."""
    return load_base(str(tiny_model(tmp_path, request.param))).model


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    return load_base(str(tiny_model(tmp_path / "llama"))).model


def by_hand(model: Any, example: Example, first: int | None = None) -> float:
    """The sum of -log p(token | what is before it) over the reply, in double precision."""
    logits = np.array(model(mx.array([example.ids]))[0].astype(mx.float32), np.float64)
    total = 0.0
    for place in range(example.reply_start if first is None else first, len(example.ids)):
        row = logits[place - 1]
        total += np.log(np.exp(row - row.max()).sum()) + row.max() - row[example.ids[place]]
    return total


def summed(model: Any, examples: list[Example], prompt_weight: float = 0.0) -> float:
    logits = reply_logits(model)
    return loss_sum(logits)(model, make_batch(examples, prompt_weight)).item()


# -- the loss of rows


@pytest.mark.parametrize("example", ROWS, ids=lambda e: f"{len(e.ids)} tokens")
def test_the_loss_of_a_row_is_the_sum_by_hand(model: Any, example: Example) -> None:
    """Over the tokens of the reply and the one that ends its turn, and no other."""
    assert by_hand(model, example) == pytest.approx(summed(model, [example]), rel=1e-5)


def test_padding_is_in_no_loss(model: Any) -> None:
    """A batch of rows of different lengths has the losses of its rows."""
    assert sum(by_hand(model, example) for example in ROWS) == pytest.approx(summed(model, ROWS), rel=1e-5)


def test_as_many_tokens_are_counted_as_are_trained_on() -> None:
    """Reply and end of turn of each row: 4, 2, 1 and 3; each with its weight."""
    batch = make_batch(ROWS)

    assert 10 == len(batch.targets) == len(batch.positions)
    assert [1.0] * 10 == batch.weights.tolist()
    assert [20, 21, 22, 260, 30, 260, 260, 11, 12, 260] == batch.targets.tolist()


def test_what_stands_before_the_reply_is_no_target() -> None:
    """Only the places that predict a token of the reply are looked at: from the prompt's last one on."""
    batch = make_batch([ROWS[0]])

    assert [2, 3, 4, 5] == batch.positions.tolist()
    assert ROWS[0].ids[3:] == batch.targets.tolist()


def test_a_prompt_weight_adds_the_prompt(model: Any) -> None:
    """Each prompt token but the first counts so much; the reply counts in full."""
    example = ROWS[0]
    whole, reply = by_hand(model, example, first=1), by_hand(model, example)

    assert reply + 0.25 * (whole - reply) == pytest.approx(summed(model, [example], 0.25), rel=1e-5)


def test_no_later_token_changes_an_earlier_loss(model: Any) -> None:
    """The loss of a reply's first tokens is the same whatever follows them."""
    short, long = Example([7, 8, 9, 20], 3), Example([7, 8, 9, 20, 21, 22], 3)
    first = by_hand(model, long) - by_hand(model, Example(long.ids, 4))

    assert first == pytest.approx(summed(model, [short]), rel=1e-5)


# -- two ways to the logits


def test_the_short_way_gives_the_logits_of_the_long_way(model: Any) -> None:
    """At the positions of the replies, to rounding."""
    batch = make_batch(ROWS)
    short, long = reply_logits(model), reply_logits(Closed(model))

    assert (True, False) == (short.is_short, long.is_short)
    assert mx.allclose(short(model, batch), long(Closed(model), batch), rtol=1e-5, atol=1e-5)


def test_the_two_ways_have_the_same_gradient(model: Any) -> None:
    """Of every weight of the model, to rounding."""
    batch = make_batch(ROWS)
    closed = Closed(model)
    short = nn.value_and_grad(model, loss_sum(reply_logits(model)))(model, batch)[1]
    long = nn.value_and_grad(closed, loss_sum(reply_logits(closed)))(closed, batch)[1]["whole"]
    pairs = list(zip(nn.utils.tree_flatten(short), nn.utils.tree_flatten(long), strict=True))

    assert 10 < len(pairs)
    for (name, ours), (same_name, theirs) in pairs:
        assert name == same_name
        assert mx.allclose(ours, theirs, rtol=1e-4, atol=1e-4), name


def test_a_model_that_changes_its_logits_goes_the_long_way(llama: Any) -> None:
    """Its loss is that of its own logits, not of the projection."""
    scaled = Scaled(llama, 0.5)

    assert not reply_logits(scaled).is_short
    assert by_hand(scaled, ROWS[0]) == pytest.approx(summed(scaled, [ROWS[0]]), rel=1e-5)
    assert by_hand(llama, ROWS[0]) != pytest.approx(summed(scaled, [ROWS[0]]), rel=1e-2)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bfloat16", "float16"])
def test_half_precision_does_not_reach_the_loss(llama: Any, dtype: mx.Dtype) -> None:
    """Logits are taken to float32 before the loss: of a base in half precision it is right to a thousandth."""
    llama.set_dtype(dtype)
    logits = reply_logits(llama)

    assert mx.float32 == logits(llama, make_batch(ROWS)).dtype
    assert sum(by_hand(llama, e) for e in ROWS) == pytest.approx(summed(llama, ROWS), rel=1e-3)


# -- over a split


def test_the_mean_is_over_tokens_not_rows(model: Any) -> None:
    """Whatever the size of the batches."""
    logits = reply_logits(model)
    mean = sum(by_hand(model, example) for example in ROWS) / 10

    assert mean == pytest.approx(mean_loss(model, ROWS, logits), rel=1e-5)
    for size in (1, 2, 3, 16):
        assert (pytest.approx(10 * mean, rel=1e-5), 10) == total_loss(model, ROWS, logits, size)


def test_the_same_weights_give_the_same_number(model: Any) -> None:
    """To the last bit."""
    logits = reply_logits(model)

    assert mean_loss(model, ROWS, logits) == mean_loss(model, ROWS, logits)


# -- batches


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("drawn", [False, True])
def test_every_row_is_in_one_batch(size: int, drawn: bool) -> None:
    """The last batch may be smaller; none is left out, none is twice."""
    rows = [Example([1] * (3 + number * 5 % 17), 1) for number in range(23)]
    found = buckets(rows, size, random.Random(0) if drawn else None)

    assert list(range(23)) == sorted(i for batch in found for i in batch)
    assert [size] * (23 // size) + [23 % size] * (23 % size > 0) == sorted(map(len, found), reverse=True)


def test_rows_of_a_batch_are_of_like_length() -> None:
    """Padding stays below a tenth where lengths are spread from 20 to 200."""
    pick = random.Random(0)
    rows = [Example([number] * pick.randint(20, 200), 1) for number in range(400)]
    batches = [[len(rows[i].ids) for i in batch] for batch in buckets(rows, 8, pick)]
    padded = sum(max(lengths) * len(lengths) for lengths in batches)

    assert sum(map(sum, batches)) > 0.9 * padded


def test_rows_meet_others_in_another_epoch() -> None:
    """Batches are drawn anew; with the same draw they are the same."""
    rows = [Example([1] * (20 + number % 40), 1) for number in range(64)]
    first, again, other = (buckets(rows, 8, random.Random(seed)) for seed in (0, 0, 1))

    assert first == again
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in other}
