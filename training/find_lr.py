"""Which learning rate? Some dozen steps at ever higher rates, until the loss breaks away: minutes, instead of runs.

The learning-rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3, with
the rate rising exponentially. What it looks at is not the loss of each batch, as there: the losses of two batches of
replies differ by more than a good rate gains in a step. It is the loss of the same few held-out rows, after each step.
Nothing is written or published.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from base_model.load import load_base
from errors import TrainingStopped
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import Example
from training.config import TrainConfig
from training.finetune import Run
from training.plots import rate_curve
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset, load_dataset
from training.watch import Watch

STEPS = 60
LOWEST, HIGHEST = 1e-5, 1.0
LOOKED_AT = 16  # held-out rows
BROKEN = 1.5  # times the base's loss, from which on nothing good follows
# Measured on the starter (rank 16, batches of 16). LoRA trains better at 1e-3 than at 2e-3: this says 1.1e-3 to 1.3e-3
# with three seeds, where the lowest loss, which lies flat, says 1.1e-3 to 2.4e-3 and the steepest fall 1.5e-4 to 9e-4.
# LoRA+ trains better at 1.5e-4 than at 3e-4: this says 2.4e-4. The share was chosen by these.
SHARE = 1 / 4
SHOWN, WIDTH = 24, 30  # rows and columns of the curve as text


@dataclass(frozen=True)
class Sweep:
    """What the rates did.

    Attributes:
        rates: Of each step that was taken.
        losses: After each of these steps, over the same held-out rows, nats a token; finite.
        base_loss: Before the first step.
        broke: Whether the loss broke away in the end, to more than any number too; if not, all rates were tried.
    """

    rates: list[float]
    losses: list[float]
    base_loss: float
    broke: bool

    @property
    def suggested(self) -> float | None:
        """A rate to train at, two digits; None where no rate made the loss lower than the base's.

        It is ``SHARE`` of the rate at which what was learned is undone, that is, at which the loss is back at the
        base's. Where that never happens it is the rate of the lowest loss.
        """
        low = min(self.losses, default=math.inf)
        if not low < self.base_loss:
            return None
        undone = self._undone()
        rate = self.rates[self.losses.index(low)] if undone is None else SHARE * undone
        return float(f"{rate:.1e}")

    def _undone(self) -> float | None:
        """The rate at which the loss, once it was lowest, is back at the base's: between two steps, on the log axis."""
        best = self.losses.index(min(self.losses))
        for number in range(best + 1, len(self.losses)):
            below, above = self.losses[number - 1], self.losses[number]
            if above > self.base_loss:
                part = (self.base_loss - below) / (above - below)
                rate: float = self.rates[number - 1] * (self.rates[number] / self.rates[number - 1]) ** part
                return rate
        return self.rates[-1] if self.broke else None

    def lines(self) -> list[str]:
        """The curve as text, its lowest point marked, and, last, the suggestion as a line of a config."""
        if not self.losses:
            return self._verdict()
        every = math.ceil(len(self.losses) / SHOWN)
        low, top = min(self.losses), BROKEN * self.base_loss
        best = self.losses.index(low)
        rows = []
        for number in range(best % every, len(self.losses), every):
            height = max(0.0, min(1.0, (self.losses[number] - low) / ((top - low) or 1)))
            bar = "#" * (1 + round((WIDTH - 1) * height))
            rows.append(f"{self.rates[number]:.1e}  {self.losses[number]:8.4f}  {bar}{' <' if number == best else ''}")
        return ["   rate      loss", *rows, *self._verdict()]

    def _verdict(self) -> list[str]:
        if self.suggested is None:
            return [
                f"no learning rate from {LOWEST:.0e} on made the loss lower than the base's ({self.base_loss:.4f}): "
                "lower scale, or look at the rows"
            ]
        end = [f"no rate up to {HIGHEST:g} was too high"] if self._undone() is None else []
        return [*end, f"learning_rate: {self.suggested:.1e}"]

    def png(self) -> bytes:
        """The curve as a picture."""
        return rate_curve(self.rates, self.losses, self.suggested)


def sweep(config: TrainConfig, watch: Watch) -> Sweep:
    """``find_rate`` on the model and the dataset of *config*. Raises Refused of every kind that ``train`` does."""
    base = load_base(config.model)
    dataset = load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)
    return find_rate(base.model, dataset, config, watch)


def find_rate(model: Any, dataset: Dataset, config: TrainConfig, watch: Watch) -> Sweep:
    """Sweep the rates with the method, rank, batch size ... of *config* on *model*, as it was loaded.

    The model wears an adapter afterwards that changes nothing: load it anew to train it.

    Raises:
        ConfigRefused: If the config names layers the model lacks.
    """
    mx.random.seed(config.seed)
    rows, held_out = dataset.splits["train"], _spread(dataset.splits["valid"])
    logits = reply_logits(model)
    base_loss = mean_loss(model, held_out, logits)
    run = Run(model, rows, held_out, config.model_copy(update={"iters": STEPS, "epochs": None}), logits, watch)
    watch.say(f"{STEPS} steps at learning rates from {LOWEST:g} up to {HIGHEST:g}, until the loss breaks away")
    rates, losses, broke = [], [], False
    for rate, loss in _losses(run):
        broke = not loss <= BROKEN * base_loss
        if math.isfinite(loss):
            rates.append(rate)
            losses.append(loss)
        if broke:
            break
    run.method.restore(run.best)
    model.eval()
    return Sweep(rates, losses, base_loss, broke)


def _losses(run: Run) -> Iterator[tuple[float, float]]:
    """(rate, loss after a step at it) of each step, until a step cannot be taken: the loss may be no finite number."""
    for number, batch in enumerate(itertools.islice(run.batches(), STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        run.model.train()
        try:
            run.take_step(batch, rate)
        except TrainingStopped:
            yield rate, math.inf
            return
        run.model.eval()
        yield rate, mean_loss(run.model, run.valid, run.logits)


def _spread(rows: Sequence[Example]) -> list[Example]:
    """At most so many of *rows* as are looked at, from all over."""
    count = min(LOOKED_AT, len(rows))
    return [rows[len(rows) * number // count] for number in range(count)]
