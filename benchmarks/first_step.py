"""Is it the same loss? One step of ours beside loss and gradient written out plainly, and beside mlx-lm's loss.

Written out: each row alone, without padding, all logits. mlx-lm's loss of the same rows is over more tokens: what its
template puts behind the end of turn, and one of padding. mlx is imported where it is needed, so that ``prepare`` can
come before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alone import prepare
from benchmarks.example import OURS, THEIRS, Kept, begin_run, first_epoch
from prompt_format.format import Example
from training.config import TrainConfig

AGREE = 1e-4  # how far loss and gradient may be from what is written out
CHECKED_SCALE = 0.01  # of the LoRA while that is compared: gradients then are too small to be clipped


class Recorder:
    """Stands in for a run's method: keeps the gradients it is given, and changes nothing."""

    def __init__(self, method: Any):
        self._method = method
        self.gradients: Any = None

    def update(self, gradients: Any, rate: float) -> None:
        self.gradients = gradients

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)


def compare_first_step(config: TrainConfig) -> dict[str, Any]:
    """Loss and gradient of our first batch: by a step of ours, written out plainly, and by mlx-lm's loss.

    B begins with random numbers here, or the gradient of A would be nothing.
    """
    prepare(1, side_by_side=True)
    import mlx.core as mx

    from base_model.tokenizer import load_tokenizer
    from benchmarks.mlx_lm_trainer import loss_and_gradient, read_rows

    watch = Kept()
    run = begin_run(config.model_copy(update={"scale": CHECKED_SCALE}), watch)
    drawn = [(name, 0.02 * mx.random.normal(b.shape)) for name, b in run.method.trained().items() if "lora_b" in name]
    run.model.load_weights(drawn, strict=False)
    indices = first_epoch(run)[0]
    loss, gradient, tokens = written_out(run.model, [run.train[i] for i in indices])
    recorder = run.method = Recorder(run.method)
    run.take_step(indices)
    ours = watch.steps[-1]
    rows = read_rows(config.data / "train.jsonl", load_tokenizer(Path(config.model)), indices)
    their_loss, theirs, their_tokens = loss_and_gradient(run.model, rows)
    apart = {OURS: apart_from(gradient, recorder.gradients), THEIRS: apart_from(gradient, theirs)}
    return {
        "rows": len(indices),
        "loss": {"written out": loss, OURS: ours.loss, THEIRS: their_loss},
        "tokens": {"written out": tokens, OURS: ours.tokens, THEIRS: their_tokens},
        "gradient_apart": apart,
        "agrees": abs(ours.loss - loss) < AGREE and apart[OURS] < AGREE and ours.tokens == tokens,
    }


def written_out(model: Any, rows: Sequence[Example]) -> tuple[float, Any, int]:
    """(mean loss a reply token, its gradient, tokens), by nothing but the definition: each row alone, all its logits.

    The gradient must be shorter than 1: a step of ours clips a longer one.
    """
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map

    def losses(model: Any, row: Example) -> mx.array:
        logits = model(mx.array([row.ids[:-1]]))[0]
        each = nn.losses.cross_entropy(logits, mx.array(row.ids[1:]))
        summed: mx.array = each[row.reply_start - 1 :].sum()
        return summed

    total, gradient, tokens = 0.0, None, sum(len(row.ids) - row.reply_start for row in rows)
    for row in rows:
        loss, grown = nn.value_and_grad(model, losses)(model, row)
        gradient = grown if gradient is None else tree_map(mx.add, gradient, grown)
        mx.eval(loss, gradient)
        total += loss.item()
    gradient = tree_map(lambda array: array / tokens, gradient)
    length = _length(gradient)
    if not 0 < length < 1:
        raise SystemExit(f"the gradient's norm is {length:.3g}: choose another CHECKED_SCALE, so that it is below 1")
    return total / tokens, gradient, tokens


def apart_from(gradient: Any, other: Any) -> float:
    """Norm of the difference over the norm of *gradient*."""
    from mlx.utils import tree_map

    return _length(tree_map(lambda a, b: a - b, gradient, other)) / _length(gradient)


def _length(gradient: Any) -> float:
    from mlx.utils import tree_flatten

    return float(sum((array * array).sum().item() for _, array in tree_flatten(gradient)) ** 0.5)
