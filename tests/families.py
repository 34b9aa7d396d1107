"""Small checkpoints of the families that bases come from, with random weights: what a real one is made of, but tiny.

Each is made by mlx-lm's own model, so it has that family's layers, names and caches. The blocks are loud, as those of a
trained model are: with quiet ones every reply repeats the last token of its prompt, and equality would say nothing.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

from tests.toy_tokenizers import byte_level

GROUP = 32  # weights that are quantised together
WINDOW = 16  # tokens that Gemma's sliding layers look back on: most prompts are longer
EMBEDDING = 0.3  # spread of the embedding, and so of the logits: several tokens stay likely
LOUD = (  # ends of names -> how many times as far from zero as a layer begins
    (("q_proj.weight", "k_proj.weight"), 2),  # attention that chooses
    (("o_proj.weight", "out_proj.weight"), 12),
    (("down_proj.weight", "w2.weight"), 6),
)
LOUDER = (  # the same for norms, to be added: where there are some, it is they that decide
    (("q_norm.weight", "k_norm.weight", "q_layernorm.weight", "k_layernorm.weight"), 1),
    (("post_feedforward_layernorm.weight",), 7),  # Gemma's
)
SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
USUAL = {**SIZES, "intermediate_size": 96, "rms_norm_eps": 1e-5, "max_position_embeddings": 1024}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**USUAL, "model_type": "llama", "rope_theta": 10000.0, "tie_word_embeddings": False},
    "qwen2": {**USUAL, "model_type": "qwen2", "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "qwen3": {**USUAL, "model_type": "qwen3", "rope_theta": 1e6, "head_dim": 32, "tie_word_embeddings": True},
    "gemma3": {
        **USUAL, "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "num_key_value_heads": 1,
        "sliding_window": WINDOW, "sliding_window_pattern": 3,
    },
    "lfm2": {
        **SIZES, "model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv"], "norm_eps": 1e-5,
        "max_position_embeddings": 1024, "conv_bias": False, "conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 96,
        "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False,
        "rope_theta": 1000000.0, "tie_word_embeddings": True,
    },
}  # fmt: skip


def checkpoint(folder: Path, family: str, bits: int | None = None, seed: int = 0) -> Path:
    """A base of *family* in *folder*, in float32 or quantised to *bits*; its tokenizer has 256 bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level()
    tokenizer.save_pretrained(folder)
    config = {**FAMILIES[family], "vocab_size": len(tokenizer)}
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    model.update(tree_map_with_path(drawn(mx.random.key(seed)), model.parameters()))
    if bits is not None:
        nn.quantize(model, GROUP, bits)
        config["quantization"] = {"group_size": GROUP, "bits": bits}
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def drawn(key: mx.array) -> Callable[[str, mx.array], mx.array]:
    """(name, weight) -> the random weight to use in its place."""

    def draw(name: str, weight: mx.array) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        if "norm" in name:
            return weight + next((more for ends, more in LOUDER if name.endswith(ends)), 0)
        return mx.random.normal(weight.shape, key=own) * spread(name, weight)

    return draw


def spread(name: str, weight: mx.array) -> float:
    """How far the values of *weight* lie from zero."""
    if "embed" in name:
        return EMBEDDING
    if weight.ndim == 1:  # a bias
        return 0.2
    fan_in: float = weight.size / weight.shape[0]
    return fan_in**-0.5 * next((times for ends, times in LOUD if name.endswith(ends)), 1)
