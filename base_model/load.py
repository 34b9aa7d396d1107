"""Load a base model with mlx-lm, and look at it: which layers an adapter can change.

Call on the thread that will use the model: MLX streams belong to threads. Imports mlx, so ``prepare_cpu`` must have
been called before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model

from base_model.fingerprint import fingerprint
from base_model.resolve import resolve
from base_model.tokenizer import load_tokenizer
from errors import BaseRefused


@dataclass(frozen=True)
class Base:
    """A base model in memory.

    Attributes:
        name: What the user called it.
        folder: Where it lies.
        fingerprint: Which model it is (``base_model.fingerprint``).
        model: mlx-lm's model, in eval mode.
        tokenizer: The transformers tokenizer.
        context: The most tokens a sequence may have.
    """

    name: str
    folder: Path
    fingerprint: str
    model: Any
    tokenizer: Any
    context: int


def load_base(name: str) -> Base:
    """The model *name*, a path or a hub id, ready to run.

    On a CPU float weights are held in float32, since only that goes through the fast BLAS.

    Raises:
        BaseRefused: If it cannot be found, read or run.
    """
    folder = resolve(name)
    try:
        model, config = load_model(folder, lazy=True)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise BaseRefused(
            f"the model in '{name}' does not load: {type(error).__name__}. mlx-lm knows no such architecture, "
            "or files are damaged or missing",
            code="model_does_not_load",
        ) from error
    if mx.default_device() == mx.cpu:
        model.set_dtype(mx.float32)
    model.eval()
    mx.eval(model.parameters())
    tokenizer = load_tokenizer(folder)
    _check_vocabulary(name, model, tokenizer)
    return Base(name, folder, fingerprint(folder), model, tokenizer, _context(config))


def projections(model: Any) -> dict[str, tuple[int, int]]:
    """The linear layers of the decoder blocks: path -> (inputs, outputs), in the model's order.

    The path is the one mlx-lm gives the adapter's tensors: ``model.layers.0.self_attn.q_proj``.
    """
    found: dict[str, tuple[int, int]] = {}
    blocks = {id(block): None for block in model.layers}
    for path, module in model.named_modules():
        if id(module) in blocks:
            for inner, layer in module.named_modules():
                if isinstance(layer, (nn.Linear, nn.QuantizedLinear)):
                    found[f"{path}.{inner}"] = linear_size(layer)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def linear_size(layer: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, quantised or not."""
    outputs, inputs = layer.weight.shape
    if isinstance(layer, nn.QuantizedLinear):
        inputs = inputs * 32 // layer.bits
    return inputs, outputs


def vocabulary_head(model: Any) -> Callable[[mx.array], mx.array] | None:
    """The projection from the last hidden states to logits; None where *model* has none that is known."""
    if "lm_head" in model:
        head: Callable[[mx.array], mx.array] = model.lm_head
        return head
    embedding: Any = getattr(getattr(model, "model", None), "embed_tokens", None)
    if not hasattr(embedding, "as_linear"):
        return None
    tied: Callable[[mx.array], mx.array] = embedding.as_linear
    return tied


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in path.split(".")]


def _context(config: dict[str, Any]) -> int:
    text = config.get("text_config") or config
    return int(text.get("max_position_embeddings") or config.get("max_position_embeddings") or 2048)


def _check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Token ids beyond the embedding would read foreign memory: MLX does not check."""
    rows = max(
        (m.weight.shape[0] for _, m in model.named_modules() if isinstance(m, (nn.Embedding, nn.QuantizedEmbedding))),
        default=0,
    )
    if len(tokenizer) > rows:
        raise BaseRefused(
            f"the tokenizer of '{name}' has {len(tokenizer)} tokens, the model only {rows}: not a pair",
            code="vocabulary_mismatch",
        )
