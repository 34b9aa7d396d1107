"""The loss of replies, exactly: the mean negative log-likelihood a token of the reply and its end-of-turn token.

The vocabulary projection runs only at positions that predict one of those tokens, and what all rows of a batch begin
with runs once (``shared_prefix``): both are exact, and save most of the cost. Where a model computes its logits in
some other way than by one projection of its last hidden state, the whole model is called instead.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from base_model.arrays import scalar
from prompt_format.format import Example
from training.shared_prefix import can_share, common_prefix, hidden_after


@dataclass(frozen=True)
class Batch:
    """Examples side by side.

    Attributes:
        prefix: (1, n) int32, what every row begins with; None where nothing is shared.
        inputs: (rows, tokens) int32, what follows, padded on the right.
        positions: (n,) int32, places in the flattened inputs that predict a token of a reply.
        targets: (n,) int32, those tokens.
        weights: (n,) float32.
    """

    prefix: mx.array | None
    inputs: mx.array
    positions: mx.array
    targets: mx.array
    weights: mx.array


def make_batch(examples: Sequence[Example], prompt_weight: float = 0.0, share: bool = False) -> Batch:
    """*examples* as arrays.

    Args:
        prompt_weight: Above 0 prompt tokens count so much too.
        share: Take off what all rows begin with, to be computed once. Not with a prompt weight.
    """
    begin = common_prefix(examples) if share and not prompt_weight else 0
    length = max(len(example.ids) for example in examples) - 1 - begin
    inputs = np.zeros((len(examples), length), np.int32)
    positions, targets, weights = [], [], []
    for row, example in enumerate(examples):
        ids = example.ids
        inputs[row, : len(ids) - 1 - begin] = ids[begin:-1]
        first = 1 if prompt_weight else example.reply_start
        positions += [row * length + place - 1 - begin for place in range(first, len(ids))]
        targets += ids[first:]
        weights += [1.0 if place >= example.reply_start else prompt_weight for place in range(first, len(ids))]
    return Batch(
        mx.array([examples[0].ids[:begin]], mx.int32) if begin else None,
        mx.array(inputs),
        mx.array(positions, mx.int32),
        mx.array(targets, mx.int32),
        mx.array(weights, mx.float32),
    )


@dataclass(frozen=True)
class ReplyLogits:
    """How the logits of one model are computed at a batch's positions: (n, vocabulary) float32.

    Attributes:
        is_short: Whether the vocabulary projection runs at these positions alone.
        shares: Whether a batch may have a prefix.
    """

    compute: Callable[[Any, Batch], mx.array]
    is_short: bool
    shares: bool

    def __call__(self, model: Any, batch: Batch) -> mx.array:
        return self.compute(model, batch)


def reply_logits(model: Any) -> ReplyLogits:
    """The quickest exact way for *model*, each tried once and compared with the model's own output."""
    body, head = getattr(model, "model", None), _head(model)
    if body is not None and head is not None:
        ids = mx.array([[1, 2, 3, 4]])
        whole = model(ids)
        short = head(body(ids))
        if whole.shape == short.shape and bool(mx.allclose(whole, short, rtol=1e-4, atol=1e-4).item()):
            return ReplyLogits(_short_way, is_short=True, shares=can_share(model))
    return ReplyLogits(_long_way, is_short=False, shares=False)


def _short_way(model: Any, batch: Batch) -> mx.array:
    if batch.prefix is None:
        hidden = model.model(batch.inputs)
    else:
        hidden = hidden_after(model, batch.prefix, batch.inputs)
    rows: mx.array = hidden.reshape(-1, hidden.shape[-1])[batch.positions]
    head = _head(model)
    assert head is not None
    return head(rows).astype(mx.float32)


def _long_way(model: Any, batch: Batch) -> mx.array:
    logits = model(batch.inputs)
    rows: mx.array = logits.reshape(-1, logits.shape[-1])[batch.positions]
    return rows.astype(mx.float32)


def _head(model: Any) -> Callable[[mx.array], mx.array] | None:
    if "lm_head" in model:
        head: Callable[[mx.array], mx.array] = model.lm_head
        return head
    embedding: Any = getattr(getattr(model, "model", None), "embed_tokens", None)
    if not hasattr(embedding, "as_linear"):
        return None
    tied: Callable[[mx.array], mx.array] = embedding.as_linear
    return tied


def loss_sum(logits: ReplyLogits) -> Callable[[Any, Batch], mx.array]:
    """A function (model, batch) -> the weighted sum of the losses, a scalar."""

    def compute(model: Any, batch: Batch) -> mx.array:
        losses = nn.losses.cross_entropy(logits(model, batch), batch.targets)
        total: mx.array = (losses * batch.weights).sum()
        return total

    return compute


def buckets(examples: Sequence[Example], size: int, draw: random.Random | None = None) -> list[list[int]]:
    """Indices of *examples* in batches of at most *size*, like lengths together; none is left out.

    With *draw*, rows whose lengths differ by less than eight tokens are mixed anew.
    """
    if draw is None:
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    else:
        order = sorted(range(len(examples)), key=lambda i: (len(examples[i].ids) // 8, draw.random()))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def mean_loss(model: Any, examples: Sequence[Example], logits: ReplyLogits, size: int = 16) -> float:
    """Mean loss a reply token over all of *examples*, in nats."""
    compute = loss_sum(logits)
    total = count = 0.0
    for indices in buckets(examples, size):
        batch = make_batch([examples[i] for i in indices], share=logits.shares)
        total += scalar(compute(model, batch))
        count += len(batch.targets)
    return total / count
