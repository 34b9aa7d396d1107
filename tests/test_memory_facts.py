"""What the service says a model needs in memory is what it takes, on models of several architectures."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models import gemma3_text, qwen3
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, make_prompt_cache
from safetensors import safe_open

from base_model.load import load_base
from errors import BaseRefused
from service.memory_facts import cache_bytes_per_row, device_limit, limit_told, weight_bytes, workspace_bytes
from tests.tiny import tiny_model

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096,
}  # fmt: skip
WINDOW = 300
KINDS = ["llama", "lfm2", "gemma3", "qwen3", "nested"]


class Nested(nn.Module):
    """A block that keeps a recurrent state and keys and values, as hybrid models do."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = [nn.Linear(width, width)]

    def make_cache(self) -> list[Any]:
        return [CacheList(ArraysCache(size=2), KVCache())]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        state, attention = cache[0].caches
        state[0], state[1] = mx.ones((1, 3, 8)), mx.ones((1, 5), mx.float16)
        return attention.update_and_fetch(*[mx.ones((1, 2, tokens.shape[1], size)) for size in (8, 4)])[0]


class Peculiar(nn.Module):
    """A model whose cache is of a kind of its own."""

    layers = ()

    def make_cache(self) -> list[Any]:
        return [object()]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        return tokens


def a_model(kind: str, folder: Path, vocabulary: int = 300) -> Any:
    """A small model with random weights."""
    if kind in ("llama", "lfm2"):
        return load_base(str(tiny_model(folder / kind, kind))).model
    if kind == "nested":
        return Nested()
    sizes = {
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        **SIZES,
    }
    if kind == "qwen3":
        return qwen3.Model(qwen3.ModelArgs(model_type="qwen3", num_hidden_layers=2, tie_word_embeddings=False, **sizes))
    windows = {"num_hidden_layers": 3, "sliding_window": WINDOW, "sliding_window_pattern": 3}
    return gemma3_text.Model(gemma3_text.ModelArgs(model_type="gemma3_text", **windows, **sizes))


def filled(model: Any, parts: list[int]) -> int:
    """Bytes of a cache through which so many tokens went, call by call."""
    cache = make_prompt_cache(model)
    for part in parts:
        model(mx.zeros((1, part), mx.int32), cache=cache)
        mx.eval([entry.state for entry in cache])
    return sum(entry.nbytes for entry in cache)


def test_weights_are_those_of_the_file(tmp_path: Path) -> None:
    """A model in float32 takes in memory what its tensors take in their file."""
    folder = tiny_model(tmp_path, "llama")
    with safe_open(folder / "model.safetensors", "numpy") as file:
        expected = sum(file.get_tensor(name).nbytes for name in file.keys())

    assert expected == weight_bytes(load_base(str(folder)).model)


def test_quantised_weights_count_with_their_scales(tmp_path: Path) -> None:
    """Four bits a weight, and two float32 for each group of 32: 6 bits where there were 32."""
    layer = nn.Linear(64, 64, bias=False)

    assert weight_bytes(nn.QuantizedLinear.from_linear(layer, group_size=32, bits=4)) * 32 == weight_bytes(layer) * 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [257, 513])
def test_the_cache_of_a_row_is_what_a_full_one_takes(kind: str, context: int, tmp_path: Path) -> None:
    """Where the last token begins a new step, the cache is as large as it can be, and that is what is told."""
    model = a_model(kind, tmp_path)

    assert filled(model, [256] * (context // 256) + [1]) == cache_bytes_per_row(model, context)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [[1], [99, 1], [100, 200, 1], [255, 255, 255, 1], [30] * 9 + [1, 1, 1]], ids=str)
def test_no_way_to_fill_a_cache_takes_more(kind: str, parts: list[int], tmp_path: Path) -> None:
    """However the tokens are fed, what is told is enough, and no more than a step too much."""
    model = a_model(kind, tmp_path)
    told, least = cache_bytes_per_row(model, sum(parts)), cache_bytes_per_row(model, max(1, sum(parts) - 255))

    assert least <= filled(model, parts) <= told


def test_a_window_bounds_the_cache(tmp_path: Path) -> None:
    """Beyond the window only the layers without one grow: one of three here."""
    model = a_model("gemma3", tmp_path)
    a_token = 2 * 16 * 4  # keys and values, one head of 16 numbers

    assert 1000 * a_token == cache_bytes_per_row(model, 2000) - cache_bytes_per_row(model, 1000)


def test_half_precision_takes_half(tmp_path: Path) -> None:
    """The cache has the dtype that the model computes in."""
    model = a_model("qwen3", tmp_path)
    whole = cache_bytes_per_row(model, 1000)
    model.set_dtype(mx.bfloat16)

    assert whole == 2 * cache_bytes_per_row(model, 1000)


def test_a_cache_of_another_kind_is_refused() -> None:
    """What cannot be counted is not counted as nothing."""
    with pytest.raises(BaseRefused, match="object, which cannot be served in batches") as refused:
        cache_bytes_per_row(Peculiar(), 100)
    assert "cache_unknown" == refused.value.code


def taken(model: Any, lengths: list[int], new: int, chunk: int) -> int:
    """The most bytes taken while prompts of *lengths* tokens are read, *chunk* at once, and *new* written to each."""
    generator = BatchGenerator(
        model, completion_batch_size=len(lengths), prefill_batch_size=1, prefill_step_size=chunk, max_tokens=new
    )
    generator.insert([[n % 250 for n in range(length)] for length in lengths])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    left = len(lengths)
    while left:
        left -= sum(response.finish_reason is not None for response in generator.next_generated())
    generator.close()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("kind", ["llama", "lfm2", "gemma3", "qwen3"])
@pytest.mark.parametrize(("rows", "apart"), [(1, 0), (6, 0), (6, 90)])
def test_a_full_batch_stays_within_what_is_told(kind: str, rows: int, apart: int, tmp_path: Path) -> None:
    """Rows that fill their context, together or *apart* in length, never take more than caches and workspace."""
    model = a_model(kind, tmp_path)
    mx.eval(model.parameters())
    told = rows * cache_bytes_per_row(model, 600) + workspace_bytes(model, 600, rows, 256)

    assert told / 4 < taken(model, [540 - apart * row for row in range(rows)], 60, 256) <= told


def test_a_large_vocabulary_stays_within_what_is_told(tmp_path: Path) -> None:
    """Where logits are the most of it, each row's count several times."""
    model = a_model("qwen3", tmp_path, vocabulary=30_000)
    mx.eval(model.parameters())
    told = 16 * cache_bytes_per_row(model, 64) + workspace_bytes(model, 64, 16, 8)

    assert told / 4 < taken(model, [24] * 16, 40, 8) <= told


def test_there_is_room_to_stage_a_dora() -> None:
    """The largest layer's weight in float32, twice, where nothing else takes as much."""
    assert workspace_bytes(Nested(1000), 64, 1, 1) == 2 * 4 * 1000 * 1000


def test_on_a_cpu_the_device_tells_no_limit() -> None:
    """The host's memory counts then; a GPU says how much it has."""
    limit = device_limit()

    assert limit is None if mx.default_device() == mx.cpu else limit is not None and limit > 0


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        ({"device_name": "M", "memory_size": 32, "max_recommended_working_set_size": 24}, 24),
        ({"device_name": "H", "free_memory": 10, "total_memory": 80}, 10),
        ({"device_name": "H", "total_memory": 80}, 80),
        ({"device_name": "?", "architecture": "x"}, None),
    ],
)
def test_the_limit_is_what_the_device_has_for_us(told: dict[str, str | int], limit: int | None) -> None:
    """Under Metal what is recommended to use, under CUDA what is free; None where neither is told."""
    assert limit == limit_told(told)
