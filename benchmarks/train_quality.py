"""Held-out reply loss after training: samevoice's run beside mlx-lm's own trainer, on the example dataset.

    python -m benchmarks.train_quality [--epochs E] [--rates 5e-4 1e-3 2e-3]

Ours is the example's config (jo.yaml), for one epoch unless told otherwise, with its own learning rate and schedule:
once with early stopping as it is there and, where that stopped it, once to the end; it keeps the weights that were
best on the validation split. mlx-lm sees as many examples with the same layers, rank, scale and batch size, at each of
some constant rates, reading the same files with its own dataset; it keeps its last weights. One function measures them
all: the mean loss a reply token, nats, over a whole split. Each training is a process of its own. Writes
docs/figures/train_quality.json and .png.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.alone import alone, prepare
from benchmarks.example import OURS, THEIRS, Kept, example_config
from benchmarks.figures import Panel, draw_bars, write_figures
from training.config import TrainConfig

RATES = (5e-4, 1e-3, 2e-3)
STEP_S = {OURS: 1.0, THEIRS: 2.3}  # about what a step takes on two quiet cores, evaluations included
NO_END = 10**6  # evaluations without getting better


@dataclass(frozen=True)
class Result:
    """How one training ended.

    Attributes:
        kept_step: After which step the weights were taken.
        examples: Rows that were trained on, each as often as it was.
        test_loss, valid_loss: Nats a reply token.
    """

    steps: int
    kept_step: int
    examples: int
    test_loss: float
    valid_loss: float


def main() -> int:
    """Train them all, measure, and write the figures."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        config = example_config(Path(folder)).model_copy(update={"epochs": options.epochs})
        rows = len((config.data / "train.jsonl").read_bytes().splitlines())
        seconds = config.steps(rows) * (2 * STEP_S[OURS] + len(options.rates) * STEP_S[THEIRS])
        print(f"on two cores this takes about {1 + seconds / 60:.0f} minutes", flush=True)
        base = alone(measure_base, config)
        print(f"the base: test {base['test_loss']:.4f}, valid {base['valid_loss']:.4f} nats a token", flush=True)
        results = _train_all(config, options.rates, rows)
    figures = {
        "what": __doc__.partition("\n")[0],
        "unit": "nats a reply token",
        "config": config.model_dump(mode="json", exclude={"data", "name", "gate"}),
        "base": base,
        "trained": {label: asdict(result) for label, result in results.items()},
    }
    print(f"written: {write_figures('train_quality', figures)} and {_draw(base, results)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=float, default=1.0, help="a part of one is enough for a try")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="mlx-lm's learning rates")
    return parser.parse_args()


def _train_all(config: TrainConfig, rates: list[float], rows: int) -> dict[str, Result]:
    results = {f"{OURS}, as configured": _said(f"{OURS}, as configured", alone(train_ours, config))}
    whole = results[f"{OURS}, as configured"]
    if whole.steps < config.steps(rows):
        to_the_end = config.early_stopping.model_copy(update={"patience": NO_END})
        whole = alone(train_ours, config.model_copy(update={"early_stopping": to_the_end}))
        results[f"{OURS}, to the end"] = _said(f"{OURS}, to the end", whole)
    steps = max(1, round(whole.examples / config.batch_size))
    for rate in rates:
        label = f"{THEIRS}, {rate:g}"
        results[label] = _said(label, alone(train_theirs, config, rate, steps))
    return results


def _said(label: str, result: Result) -> Result:
    print(
        f"{label}: test {result.test_loss:.4f}, valid {result.valid_loss:.4f} nats a token; {result.examples} examples "
        f"in {result.steps} steps, weights of step {result.kept_step}",
        flush=True,
    )
    return result


def _draw(base: dict[str, float], results: dict[str, Result]) -> Path:
    bars = {"base": base["test_loss"]} | {label: result.test_loss for label, result in results.items()}
    return draw_bars("train_quality", [[Panel("held-out reply loss", "nats a token", bars, {})]], 1.7 * len(bars))


# -- each in a process of its own


def measure_base(config: TrainConfig) -> dict[str, float]:
    """The losses of the base without an adapter."""
    prepare(None)
    return _losses(*_read(config))


def train_ours(config: TrainConfig) -> Result:
    """A run of ours, as ``training train`` does it."""
    prepare(1, side_by_side=True)
    from training.finetune import finetune

    model, dataset = _read(config)
    watch = Kept()
    trained = finetune(model, dataset, config, watch)
    examples = sum(step.rows for step in watch.steps)
    best = trained.position.best_step
    return Result(len(watch.steps), best, examples, **_losses(model, dataset))


def train_theirs(config: TrainConfig, rate: float, steps: int) -> Result:
    """mlx-lm's trainer for so many *steps*, on the same rows."""
    prepare(None)
    from base_model.resolve import resolve
    from base_model.tokenizer import load_tokenizer
    from benchmarks.mlx_lm_trainer import fit, read_rows

    model, dataset = _read(config)
    rows = read_rows(config.data / "train.jsonl", load_tokenizer(resolve(config.model)))
    fit(model, rows, config, steps, rate, lambda loss: None)
    model.eval()
    return Result(steps, steps, steps * config.batch_size, **_losses(model, dataset))


def _read(config: TrainConfig) -> tuple[Any, Any]:
    """(model, dataset) of *config*."""
    from base_model.load import load_base
    from prompt_format.chat_template import ChatTemplate
    from training.rows import load_dataset

    base = load_base(config.model)
    return base.model, load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)


def _losses(model: Any, dataset: Any) -> dict[str, float]:
    from training.reply_loss import mean_loss, reply_logits

    logits = reply_logits(model)
    return {f"{split}_loss": round(mean_loss(model, dataset.splits[split], logits), 5) for split in ("test", "valid")}


if __name__ == "__main__":
    sys.exit(main())
