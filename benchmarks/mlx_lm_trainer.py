"""mlx-lm's own trainer, called as ``mlx_lm.lora --train --mask-prompt`` calls it: the peer of the training benchmarks.

Its loop, its loss, its dataset, its batches and its optimizer (Adam) with their defaults; only what the two must have
in common comes from our config: rank, scale, layers, batch size, seed. Its command line clears MLX's cache after each
step, whatever it is told; so does this. Imports mlx: call ``prepare_cpu`` before.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, iterate_batches, train

from base_model.arrays import scalar
from training.config import TrainConfig
from training.lora import choose_layers, wear

Batch = tuple[mx.array, mx.array]
"""Token ids (rows, tokens) int32, padded; (rows, 2): where the reply begins and where the row ends."""

MAX_TOKENS = 2048  # its command line's --max-seq-length


def read_rows(path: Path, tokenizer: Any, indices: Sequence[int] | None = None) -> CacheDataset:
    """The rows of a ``.jsonl`` file of ours, or those at *indices*, as mlx-lm's chat dataset reads them."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows = rows if indices is None else [rows[i] for i in indices]
    return CacheDataset(ChatDataset(rows, TokenizerWrapper(tokenizer), mask_prompt=True))


def one_epoch(rows: CacheDataset, batch_size: int, seed: int) -> list[Batch]:
    """The batches of an epoch as mlx-lm makes them: by no order of length, and the last incomplete one is left out."""
    np.random.seed(seed)
    return list(iterate_batches(rows, batch_size, MAX_TOKENS))


def put_lora_on(model: Any, config: TrainConfig) -> None:
    """mlx-lm's LoRA on the layers that *config* names, with the random beginning of its seed."""
    mx.random.seed(config.seed)
    wear(model, choose_layers(model, config)[0])


def fit(
    model: Any,
    rows: CacheDataset,
    config: TrainConfig,
    steps: int,
    rate: float,
    stepped: Callable[[float], None],
    batches: list[Batch] | None = None,
) -> None:
    """Train *model*, which is left with the last weights on it.

    Args:
        rate: The learning rate of every step; its command line has no schedule unless one is written.
        stepped: Called when a step is over, with its mean loss a token.
        batches: Train on these, in this order; None: on what mlx-lm draws.
    """
    put_lora_on(model, config)
    np.random.seed(config.seed)
    optimizer = optim.Adam(learning_rate=rate)
    with tempfile.TemporaryDirectory() as folder, _silence():
        arguments = TrainingArgs(
            batch_size=config.batch_size,
            iters=steps,
            steps_per_report=1,
            max_seq_length=MAX_TOKENS,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        draw = iterate_batches if batches is None else _given(batches)
        train(model, optimizer, rows, None, arguments, iterate_batches=draw, training_callback=_Tell(stepped))


def loss_and_gradient(model: Any, rows: CacheDataset) -> tuple[float, Any, int]:
    """(mean loss a token, its gradient, tokens) of all *rows* as one batch of mlx-lm's."""
    (batch,) = one_epoch(rows, len(rows), 0)
    (loss, tokens), gradient = nn.value_and_grad(model, default_loss)(model, *batch)
    return scalar(loss), gradient, int(scalar(tokens))


class _Tell(TrainingCallback):
    def __init__(self, stepped: Callable[[float], None]):
        self._stepped = stepped

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._stepped(train_info["train_loss"])


def _given(batches: list[Batch]) -> Callable[..., Iterator[Batch]]:
    return lambda **_: iter(batches)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Its progress bar goes nowhere."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
