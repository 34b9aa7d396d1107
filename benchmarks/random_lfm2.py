"""A checkpoint of LFM2-350M's shape with random weights: what a real base costs, without having one.

The config is the one that LiquidAI publishes with LFM2-350M; what a step costs does not depend on the weights. Its
tokenizer is not at hand everywhere, so the folder gets another one's files, whose ids must lie below its vocabulary.
"""

import json
import shutil
from pathlib import Path

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
LFM2_350M = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "vocab_size": 65536,
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 1024,
    "block_ff_dim": 6656,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}


def write_random_lfm2(
    folder: Path, tokenizer: Path, config: dict[str, object] = LFM2_350M, seed: int = 0, dtype: str = "bfloat16"
) -> int:
    """Write a model into *folder*, with mlx's own random beginning of each layer; returns its number of parameters.

    Args:
        tokenizer: A folder with the tokenizer to give it.
        dtype: Of the weights, as mlx calls it; published ones are bfloat16.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.lfm2 import Model, ModelArgs

    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(getattr(mx, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, folder / name)
    return sum(array.size for array in weights.values())
