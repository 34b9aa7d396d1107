"""The training loop: dataset + config -> an adapter, of the best weights by validation loss.

Batches hold families of rows, of like length, and are drawn anew each epoch from (seed, epoch), so that a resumed run
sees the same ones. The loss is on the reply alone (``reply_loss``). The whole validation split is measured each time;
the best weights are kept in memory; a loss that is not a number stops the run and names the step and the rows.
"""

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from base_model.arrays import scalar
from errors import TrainingStopped
from prompt_format.format import Example
from training.checkpoint import load_checkpoint, save_checkpoint, share_state
from training.config import TrainConfig
from training.distributed import Group
from training.families import lay_out, parts
from training.memory import budget, bytes_a_token, passes
from training.methods.begin import begin
from training.methods.method import Exported, Method
from training.position import Position
from training.reply_loss import ReplyLogits, buckets, loss_sum, make_batch, reply_logits, total_loss
from training.rows import Dataset
from training.shared_prefix import Shared
from training.watch import Step, Watch

MAX_GRADIENT_NORM = 1.0
SAVE_EVERY_S = 60.0
WARNINGS = {
    (False, Shared.NOTHING): "this architecture computes its logits its own way: each row is computed whole, and the "
    "vocabulary projection runs at every token",
    (True, Shared.NOTHING): "this architecture's caches cannot be shared: each row is computed whole",
    (True, Shared.PREFIX): "this architecture's caches can be shared in part: of what rows begin with, only what a "
    "whole batch begins with is computed once",
}


@dataclass(frozen=True)
class Trained:
    """What the best weights of a run were exported as; the model wears it."""

    exported: Exported
    position: Position
    base_loss: float
    seconds: float


def finetune(
    model: Any,
    dataset: Dataset,
    config: TrainConfig,
    watch: Watch,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
) -> Trained:
    """Train an adapter on *model*, which is left with the best one on it.

    Under ``mlx.launch`` every process calls this, and all end with the same weights.

    Args:
        checkpoint: A file to save the run's state in, at each evaluation and every so often; None saves nothing.
        resume: Go on from that file.
        fingerprint: Of the base, so that a checkpoint of another is not gone on from.

    Raises:
        ConfigRefused: If the config names layers the model lacks.
        TrainingStopped: If a loss is not a number, the checkpoint belongs to another run, or the processes of a run
            have different data.
    """
    began = time.monotonic()
    group = Group()
    stamp = {"config": config.model_dump_json(), "dataset": dataset.digest, "base": fingerprint}
    for what, text in stamp.items():
        group.check_same(what, text)
    mx.random.seed(config.seed)
    logits = reply_logits(model)
    if WARNINGS.get((logits.is_short, logits.shares)):
        watch.say(WARNINGS[logits.is_short, logits.shares])
    base_loss = shared_mean_loss(model, dataset.splits["valid"], logits, group)
    run = Run(model, dataset.splits["train"], dataset.splits["valid"], config, logits, watch, group)
    watch.say(f"{run.amounts()}; validation loss of the base {base_loss:.4f}")
    watch.say(run.sizes())
    if resume and checkpoint is not None and group.rank == 0:
        load_checkpoint(checkpoint, run, stamp)
        watch.say(f"goes on at step {run.position.step}")
    if group.size > 1:
        share_state(run, group)
    saves = checkpoint if group.rank == 0 else None
    run.until_done(lambda: save_checkpoint(saves, run, stamp) if saves else None)
    run.method.restore(run.best)
    exported = run.method.export()
    model.eval()
    return Trained(exported, run.position, base_loss, time.monotonic() - began)


class Run:
    """One run: ``until_done`` is the loop."""

    def __init__(
        self,
        model: Any,
        train: Sequence[Example],
        valid: Sequence[Example],
        config: TrainConfig,
        logits: ReplyLogits,
        watch: Watch,
        group: Group | None = None,
    ):
        self.model, self.train, self.valid = model, train, valid
        self.config, self.logits, self.watch = config, logits, watch
        self.group = group or Group()
        self.method: Method = begin(model, config)
        self.total = config.steps(len(train))
        self.per_epoch = max(1, math.ceil(len(train) / config.batch_size))
        self.evaluate_every = max(1, self.per_epoch // config.early_stopping.evaluations_per_epoch)
        self.position = Position()
        self.best = self.method.trained()
        self.gradients = nn.value_and_grad(model, loss_sum(logits))
        self.streams = streams()
        self.bytes_a_token, self.budget = bytes_a_token(model), budget(config.memory_gb)

    def amounts(self) -> str:
        """What is trained, on what and for how long, as a line."""
        trainable = sum(array.size for _, array in tree_flatten(self.model.trainable_parameters()))
        layers = len(self.method.modules)
        return f"{len(self.train)} rows, {trainable:,} trainable parameters in {layers} layers, {self.total} steps"

    def sizes(self) -> str:
        """What the run will hold in memory, as a line."""
        longest = max(self._batches_of(0), key=lambda batch: self._layout_tokens(batch))
        tokens = self._layout_tokens(longest)
        count = passes(tokens, self.bytes_a_token, self.budget)
        weights = sum(array.nbytes for _, array in tree_flatten(self.model.parameters()))
        ranks = f", {self.group.size} processes" if self.group.size > 1 else ""
        return (
            f"memory: {weights / 1e9:.2f} GB of weights; a step of at most {tokens} tokens in {count} "
            f"pass{'es' if count > 1 else ''}, about {tokens * self.bytes_a_token / count / 1e9:.2f} GB of at most "
            f"{self.budget / 1e9:.1f} (memory_gb){ranks}"
        )

    def until_done(self, save: Callable[[], None]) -> None:
        """Take steps, measuring and saving now and then, until the run is over."""
        self.model.train()
        batches = self.batches()
        saved = time.monotonic()
        while not self._is_over():
            self.take_step(next(batches))
            is_measured = self.position.step % self.evaluate_every == 0 or self.position.step >= self.total
            if is_measured:
                self._evaluate()
            if is_measured or time.monotonic() - saved > SAVE_EVERY_S:
                save()
                saved = time.monotonic()
        if self.position.step < self.total:
            self.watch.say(f"stopped early: no better for {self.position.worse_in_a_row} evaluations")

    def _is_over(self) -> bool:
        position = self.position
        return position.step >= self.total or position.worse_in_a_row >= self.config.early_stopping.patience

    def batches(self) -> Iterator[list[int]]:
        """Batches from the present step on, for ever: drawn from the seed and the epoch alone."""
        while True:
            epoch, offset = divmod(self.position.step, self.per_epoch)
            yield from self._batches_of(epoch)[offset:]

    def _batches_of(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self.config.seed}/{epoch}")
        order = buckets(self.train, self.config.batch_size, draw)
        draw.shuffle(order)
        return order

    def _layout_tokens(self, indices: Sequence[int]) -> int:
        """Tokens that are computed of a batch, in whole rows where nothing can be shared."""
        rows = [self.train[i] for i in indices]
        return lay_out(rows, self.logits.shares >= Shared.PREFIX, self.logits.shares >= Shared.TRUNKS).tokens

    def take_step(self, indices: list[int], rate: float | None = None) -> None:
        """One optimizer step on the rows *indices*, at the schedule's learning rate or at *rate*.

        Raises:
            TrainingStopped: If the loss is not a number.
        """
        began = time.perf_counter()
        rate = learning_rate(self.config, self.position.step, self.total) if rate is None else rate
        loss, gradients, count = self._gradients(indices)
        gradients, norm = optim.clip_grad_norm(gradients, MAX_GRADIENT_NORM)
        self.method.update(gradients, rate)
        mx.eval(self.model.trainable_parameters(), self.method.optimizer.state, loss, norm)
        mean = scalar(loss)
        if not (math.isfinite(mean) and math.isfinite(scalar(norm))):
            raise TrainingStopped(
                f"the loss is not a number at step {self.position.step + 1}: lower learning_rate or scale. "
                f"Rows of that batch: {sorted(indices)}",
                code="not_a_number",
            )
        self.position.step += 1
        self.position.tokens += count
        self.position.losses.append((self.position.step, mean))
        read = sum(len(self.train[i].ids) for i in indices)
        seconds, peak = time.perf_counter() - began, mx.get_peak_memory()
        self.watch.stepped(Step(self.position.step, self.total, mean, rate, len(indices), count, read, seconds, peak))

    def _gradients(self, indices: list[int]) -> tuple[mx.array, Any, int]:
        """(mean loss a token, its gradients, tokens) of one batch: of all ranks together, this one's rows in passes,
        a part of each pass on each stream."""
        shares = parts([self.train[i] for i in indices], self.group.size)
        mine = shares[self.group.rank] if self.group.rank < len(shares) else []
        mine = [indices[i] for i in mine]
        summed: Any = None
        count = passes(self._layout_tokens(mine), self.bytes_a_token, self.budget) if mine else 0
        pieces = parts([self.train[i] for i in mine], count * len(self.streams)) if mine else []
        for begin_at in range(0, len(pieces), len(self.streams)):
            for stream, piece in zip(self.streams, pieces[begin_at:], strict=False):
                part = self._part([self.train[mine[i]] for i in piece], stream)
                summed = part if summed is None else tree_map(lambda one, other: one + other, summed, part)
            if count > 1:
                mx.eval(summed)
        if summed is None:
            gradients = tree_map(mx.zeros_like, self.model.trainable_parameters())
            summed = {"loss": mx.zeros(()), "weight": mx.zeros(()), "gradients": gradients}
        summed = self.group.sum(summed)
        gradients = tree_map(lambda gradient: gradient / summed["weight"], summed["gradients"])
        return summed["loss"] / summed["weight"], gradients, sum(map(self._counted, indices))

    def _part(self, rows: Sequence[Example], stream: mx.Stream) -> dict[str, Any]:
        """Sums over *rows*: of the losses, of their weights, of the gradients."""
        batch = make_batch(rows, self.config.prompt_loss_weight, self.logits.shares)
        with mx.stream(stream):
            loss, gradients = self.gradients(self.model, batch)
        return {"loss": loss, "weight": batch.weights.sum(), "gradients": gradients}

    def _counted(self, index: int) -> int:
        """How many tokens of a row the loss is over."""
        row = self.train[index]
        return len(row.ids) - (1 if self.config.prompt_loss_weight else row.reply_start)

    def _evaluate(self) -> None:
        self.model.eval()
        loss = shared_mean_loss(self.model, self.valid, self.logits, self.group)
        self.model.train()
        position = self.position
        position.validation.append((position.step, loss))
        if loss < position.best_loss:
            position.best_loss, position.best_step, position.worse_in_a_row = loss, position.step, 0
            self.best = self.method.trained()
        else:
            position.worse_in_a_row += 1
        self.watch.validated(position.step, loss, position.best_step == position.step)


def shared_mean_loss(model: Any, examples: Sequence[Example], logits: ReplyLogits, group: Group) -> float:
    """``mean_loss`` over *examples*, each rank measuring some of them."""
    total, count = total_loss(model, examples[group.rank :: group.size], logits)
    if group.size > 1:
        total, count = group.sum(mx.array([total, count])).tolist()
    return total / count


@cache
def streams() -> list[mx.Stream]:
    """What to run the parts of a batch on: on a CPU up to four streams, as one leaves cores idle; else the usual.

    Made once: mlx never gives a stream back. A CPU stream is one thread, and most operations use no more;
    ``training.__main__`` has the BLAS use one as well, and mlx fill all of them (``base_model.fast_cpu``).
    """
    count = min(4, os.cpu_count() or 1)
    if mx.default_device() == mx.gpu or count < 2:
        return [mx.default_stream(mx.default_device())]
    return [mx.new_stream(mx.cpu) for _ in range(count)]


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate for *step* (from 0): linear warm-up over a share of the steps, then a half cosine down to a tenth."""
    warmup = round(config.schedule.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule.decay == "constant":
        return config.learning_rate
    part = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))
