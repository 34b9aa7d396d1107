"""One optimizer step of ours beside mlx-lm's own, on the same rows, in one process.

Both train the same LoRA (rank 16, every linear layer) on the starter with the same batches of the example dataset.
mlx-lm's step is its ``default_loss`` under its own padding (to a multiple of 32), which projects every position to the
vocabulary. Each has the cores in the way that suits it: ours as two streams with one BLAS thread each, mlx-lm's as one
stream with as many BLAS threads as there are cores. The two take turns; what counts is the median of each and their
ratio.
"""

import ctypes
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base_model.fast_cpu import prepare_cpu
from base_model.offline import stay_offline

stay_offline(hub_allowed=False)
BLAS = prepare_cpu()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import numpy as np  # noqa: E402
from mlx_lm.tuner.trainer import default_loss  # noqa: E402

from base_model.load import load_base  # noqa: E402
from benchmarks.figures import write_figures  # noqa: E402
from prompt_format.chat_template import ChatTemplate  # noqa: E402
from prompt_format.format import Example  # noqa: E402
from training.config import TrainConfig, load_config  # noqa: E402
from training.conversations import read_history  # noqa: E402
from training.dataset import build  # noqa: E402
from training.finetune import Run  # noqa: E402
from training.lora import choose_layers, wear  # noqa: E402
from training.plan import Plan  # noqa: E402
from training.reply_loss import reply_logits  # noqa: E402
from training.rows import load_dataset  # noqa: E402
from training.watch import Lines  # noqa: E402

ROUNDS = 15


def main() -> int:
    """Measure and write docs/figures/train_step.json."""
    config = load_config(Path("data/example/jo.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        template = ChatTemplate(load_base(config.model).tokenizer)
        build(read_history([Path("data/example/messages.jsonl")]), template, data, Plan("Jo", ["raw_style_variable"]))
        dataset = load_dataset(data / "raw_style_variable", template, config.max_tokens)
    rows = dataset.splits["train"]
    ours, theirs = _ours(config, rows), _theirs(config, rows)
    batches = [list(range(begin, begin + config.batch_size)) for begin in range(0, ROUNDS * 16, 16)]
    ours(batches[0]), theirs(batches[0])
    times = [(_timed(ours, batch, 1), _timed(theirs, batch, os.cpu_count() or 1)) for batch in batches]
    our_median, their_median = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"a step of {config.batch_size} rows: ours {our_median * 1e3:.0f} ms, mlx-lm's {their_median * 1e3:.0f} ms")
    print(f"ratio {their_median / our_median:.2f} (median of {ROUNDS} rounds taking turns)")
    figures = {
        "ours_ms": round(our_median * 1e3, 1),
        "mlx_lm_ms": round(their_median * 1e3, 1),
        "ratio": round(their_median / our_median, 2),
        "rounds": ROUNDS,
    }
    print(f"written: {write_figures('train_step', figures)}")
    return 0


def _timed(step: Callable[[list[int]], None], batch: list[int], blas_threads: int) -> float:
    if BLAS and "openblas" in BLAS:
        ctypes.CDLL(BLAS).openblas_set_num_threads(blas_threads)
    clock = time.perf_counter()
    step(batch)
    return time.perf_counter() - clock


def _ours(config: TrainConfig, rows: list[Example]) -> Callable[[list[int]], None]:
    model = load_base(config.model).model
    return Run(model, rows, rows[:1], config, reply_logits(model), Lines(print)).take_step


def _theirs(config: TrainConfig, rows: list[Example]) -> Callable[[list[int]], None]:
    model: Any = load_base(config.model).model
    wear(model, choose_layers(model, config)[0])
    model.train()
    optimizer = optim.AdamW(learning_rate=config.learning_rate)
    gradients = nn.value_and_grad(model, default_loss)

    def step(indices: list[int]) -> None:
        chosen = [rows[i] for i in indices]
        longest = max(len(row.ids) for row in chosen)
        padded = np.zeros((len(chosen), 1 + 32 * ((longest + 31) // 32)), np.int32)
        for number, row in enumerate(chosen):
            padded[number, : len(row.ids)] = row.ids
        lengths = mx.array([[row.reply_start, len(row.ids)] for row in chosen])
        (loss, _), gradient = gradients(model, mx.array(padded), lengths)
        optimizer.update(model, gradient)
        mx.eval(model.trainable_parameters(), optimizer.state, loss)

    return step


if __name__ == "__main__":
    sys.exit(main())
