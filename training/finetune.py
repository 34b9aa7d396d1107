"""The training loop: dataset + config -> LoRA weights, the best ones by validation loss.

Batches hold rows of like length and are drawn anew each epoch from (seed, epoch), so that a resumed run sees the
same ones. The loss is on the reply alone (``reply_loss``). The whole validation split is measured each time; the best
weights are kept in memory; a loss that is not a number stops the run and names the step and the rows.
"""

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from base_model.arrays import scalar
from errors import TrainingStopped
from prompt_format.format import Example
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.families import parts
from training.methods.begin import begin
from training.methods.method import Exported, Method
from training.reply_loss import ReplyLogits, buckets, loss_sum, make_batch, mean_loss, reply_logits
from training.rows import Dataset
from training.watch import Step, Watch

MAX_GRADIENT_NORM = 1.0


@dataclass
class Position:
    """Where a run stands; everything but the arrays."""

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    worse_in_a_row: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, training loss a token)
    validation: list[tuple[int, float]] = field(default_factory=list)  # (step, validation loss a token)


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
) -> Trained:
    """Train an adapter on *model*, which is left with the best one on it.

    Args:
        checkpoint: A file to save the run's state in at each evaluation; None saves nothing.
        resume: Go on from that file.

    Raises:
        ConfigRefused: If the config names layers the model lacks.
        TrainingStopped: If a loss is not a number, or the checkpoint belongs to another run.
    """
    began = time.monotonic()
    mx.random.seed(config.seed)
    logits = reply_logits(model)
    if not logits.is_short:
        watch.say(
            "this architecture computes its logits its own way: the whole vocabulary projection runs for each row"
        )
    elif not logits.shares:
        watch.say("this architecture's caches cannot be shared: the system prompt is computed for each row")
    base_loss = mean_loss(model, dataset.splits["valid"], logits)
    run = Run(model, dataset.splits["train"], dataset.splits["valid"], config, logits, watch)
    watch.say(
        f"{len(run.train)} rows, {sum(v.size for v in run.method.trained().values()):,} trainable parameters in "
        f"{len(run.method.modules)} layers, {run.total} steps; validation loss of the base {base_loss:.4f}"
    )
    stamp = {"config": config.model_dump_json(), "dataset": dataset.digest}
    if resume and checkpoint is not None:
        load_checkpoint(checkpoint, run, stamp)
        watch.say(f"goes on at step {run.position.step}")
    run.until_done(lambda: save_checkpoint(checkpoint, run, stamp) if checkpoint else None)
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
    ):
        self.model, self.train, self.valid = model, train, valid
        self.config, self.logits, self.watch = config, logits, watch
        self.method: Method = begin(model, config)
        self.total = config.steps(len(train))
        self.per_epoch = max(1, math.ceil(len(train) / config.batch_size))
        self.evaluate_every = max(1, self.per_epoch // config.early_stopping.evaluations_per_epoch)
        self.position = Position()
        self.best = self.method.trained()
        self.gradients = nn.value_and_grad(model, loss_sum(logits))
        self.streams = streams()

    def until_done(self, save: Callable[[], None]) -> None:
        """Take steps, measuring and saving now and then, until the run is over."""
        self.model.train()
        batches = self._batches()
        while not self._is_over():
            self.take_step(next(batches))
            if self.position.step % self.evaluate_every == 0 or self.position.step >= self.total:
                self._evaluate()
                save()
        if self.position.step < self.total:
            self.watch.say(f"stopped early: no better for {self.position.worse_in_a_row} evaluations")

    def _is_over(self) -> bool:
        position = self.position
        return position.step >= self.total or position.worse_in_a_row >= self.config.early_stopping.patience

    def _batches(self) -> Iterator[list[int]]:
        """Batches from the present step on, for ever: drawn from the seed and the epoch alone."""
        while True:
            epoch, offset = divmod(self.position.step, self.per_epoch)
            draw = random.Random(f"{self.config.seed}/{epoch}")
            order = buckets(self.train, self.config.batch_size, draw)
            draw.shuffle(order)
            yield from order[offset:]

    def take_step(self, indices: list[int], rate: float | None = None) -> None:
        """One optimizer step on the rows *indices*, at the schedule's learning rate or at *rate*. Raises TrainingStopped when the loss is not a number."""
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
        """(mean loss a token, its gradients, tokens) of one batch, a part of it on each stream."""
        rows = [self.train[i] for i in indices]
        parts_done, weights, count = [], [], 0
        for part, stream in zip(parts(rows, len(self.streams)), self.streams, strict=False):
            batch = make_batch([rows[i] for i in part], self.config.prompt_loss_weight, self.logits.shares)
            with mx.stream(stream):
                parts_done.append(self.gradients(self.model, batch))
            weights.append(batch.weights.sum())
            count += len(batch.targets)
        weight = sum(weights[1:], weights[0])
        gradients = tree_map(lambda *g: sum(g[1:], g[0]) / weight, *[gradient for _, gradient in parts_done])
        loss = sum((part for part, _ in parts_done[1:]), parts_done[0][0]) / weight
        return loss, gradients, count

    def _evaluate(self) -> None:
        self.model.eval()
        loss = mean_loss(self.model, self.valid, self.logits)
        self.model.train()
        position = self.position
        position.validation.append((position.step, loss))
        if loss < position.best_loss:
            position.best_loss, position.best_step, position.worse_in_a_row = loss, position.step, 0
            self.best = self.method.trained()
        else:
            position.worse_in_a_row += 1
        self.watch.validated(position.step, loss, position.best_step == position.step)


@cache
def streams() -> list[mx.Stream]:
    """What to run the parts of a batch on: on a CPU two streams, since one leaves cores idle; else the usual one.

    Made once: mlx never gives a stream back. A CPU stream is one thread, and most operations use no more;
    ``training.__main__`` has the BLAS use one as well.
    """
    if mx.default_device() == mx.gpu or (os.cpu_count() or 1) < 2:
        return [mx.default_stream(mx.default_device())]
    return [mx.new_stream(mx.cpu) for _ in range(2)]


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate for *step* (from 0): linear warm-up over a share of the steps, then a half cosine down to a tenth."""
    warmup = round(config.schedule.warmup * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule.decay == "constant":
        return config.learning_rate
    part = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))
