"""The loss of replies, exactly: the mean negative log-likelihood a token of the reply and its end-of-turn token.

The vocabulary projection runs only at positions that predict one of those tokens, and what rows begin with runs once
(``shared_prefix``): both are exact, and save most of the cost. Where a model computes its logits in some other way
than by one projection of its last hidden state, the whole model is called instead.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from base_model.arrays import scalar
from base_model.load import vocabulary_head
from prompt_format.format import Example
from training.families import Layout, common_prefix, families, lay_out
from training.shared_prefix import Shared, flat_places, hidden_states, how_shared, padded


@dataclass(frozen=True)
class Batch:
    """Examples side by side.

    Attributes:
        layout: Their tokens, what is shared written once.
        positions: (n,) int32, places in the layout's hidden states that predict a token of a reply.
        targets: (n,) int32, those tokens.
        weights: (n,) float32.
    """

    layout: Layout
    positions: mx.array
    targets: mx.array
    weights: mx.array


def make_batch(examples: Sequence[Example], prompt_weight: float = 0.0, share: Shared = Shared.NOTHING) -> Batch:
    """*examples* as a batch.

    Args:
        prompt_weight: Above 0 prompt tokens count so much too; no prefix is shared then.
        share: What of rows that begin alike is computed once.
    """
    layout = lay_out(examples, share >= Shared.PREFIX and not prompt_weight, share >= Shared.TRUNKS)
    positions, targets, weights = [], [], []
    for row, example in enumerate(examples):
        first, end = 1 if prompt_weight else example.reply_start, len(example.ids)
        positions += flat_places(layout, row, first - 1, end - 1)
        targets += example.ids[first:]
        weights += [1.0 if place >= example.reply_start else prompt_weight for place in range(first, end)]
    return Batch(layout, mx.array(positions, mx.int32), mx.array(targets, mx.int32), mx.array(weights, mx.float32))


@dataclass(frozen=True)
class ReplyLogits:
    """How the logits of one model are computed at a batch's positions: (n, vocabulary) float32.

    Attributes:
        is_short: Whether the vocabulary projection runs at these positions alone.
        shares: What a batch may share.
    """

    compute: Callable[[Any, Batch], mx.array]
    is_short: bool
    shares: Shared

    def __call__(self, model: Any, batch: Batch) -> mx.array:
        return self.compute(model, batch)


def reply_logits(model: Any) -> ReplyLogits:
    """The quickest exact way for *model*, each tried once and compared with the model's own output."""
    body, head = getattr(model, "model", None), vocabulary_head(model)
    if body is not None and head is not None:
        ids = mx.array([[1, 2, 3, 4]])
        whole = model(ids)
        short = head(body(ids))
        if whole.shape == short.shape and bool(mx.allclose(whole, short, rtol=1e-4, atol=1e-4).item()):
            shares = how_shared(model)
            return ReplyLogits(_short_way if shares else _without_caches, is_short=True, shares=shares)
    return ReplyLogits(_long_way, is_short=False, shares=Shared.NOTHING)


def _short_way(model: Any, batch: Batch) -> mx.array:
    return _project(model, hidden_states(model, batch.layout)[batch.positions])


def _without_caches(model: Any, batch: Batch) -> mx.array:
    hidden = model.model(padded(batch.layout.trunks))
    return _project(model, hidden.reshape(-1, hidden.shape[-1])[batch.positions])


def _project(model: Any, hidden: mx.array) -> mx.array:
    head = vocabulary_head(model)
    assert head is not None
    return head(hidden).astype(mx.float32)


def _long_way(model: Any, batch: Batch) -> mx.array:
    logits = model(padded(batch.layout.trunks))
    rows: mx.array = logits.reshape(-1, logits.shape[-1])[batch.positions]
    return rows.astype(mx.float32)


def loss_sum(logits: ReplyLogits) -> Callable[[Any, Batch], mx.array]:
    """A function (model, batch) -> the weighted sum of the losses, a scalar."""

    def compute(model: Any, batch: Batch) -> mx.array:
        losses = nn.losses.cross_entropy(logits(model, batch), batch.targets)
        total: mx.array = (losses * batch.weights).sum()
        return total

    return compute


def buckets(examples: Sequence[Example], size: int, draw: random.Random | None = None) -> list[list[int]]:
    """Indices of *examples* in batches of at most *size*, families together, like lengths together; none is left out.

    With *draw*, families whose longest rows differ by less than 16 tokens are mixed anew.
    """
    order = [
        (max(len(examples[i].ids) for i in family), family) for family in families(examples, common_prefix(examples))
    ]
    if draw is None:
        order.sort()
    else:
        for _, family in order:
            draw.shuffle(family)  # one that is larger than a batch is cut elsewhere each time
        order.sort(key=lambda item: (item[0] // 16, draw.random()))
    flat = [i for _, family in order for i in family]
    return [flat[begin : begin + size] for begin in range(0, len(flat), size)]


def mean_loss(model: Any, examples: Sequence[Example], logits: ReplyLogits) -> float:
    """Mean loss a reply token over all of *examples*, in nats."""
    total, count = total_loss(model, examples, logits)
    return total / count


def total_loss(model: Any, examples: Sequence[Example], logits: ReplyLogits, size: int = 16) -> tuple[float, int]:
    """(the sum of the losses over all reply tokens of *examples*, in nats; how many there are)."""
    compute = loss_sum(logits)
    total, count = 0.0, 0
    for indices in buckets(examples, size):
        batch = make_batch([examples[i] for i in indices], share=logits.shares)
        total += scalar(compute(model, batch))
        count += len(batch.targets)
    return total, count
