"""Small real things to test training on: an invented history, a model of some thousand weights, a candidate to publish.

Imports no mlx: the model is a folder of files, as any base model is, with random weights and a tokenizer of 256 bytes.
"""

import json
import random
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from prompt_format.adapter_check import AdapterConfig, LoraParameters, config_json
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.manifest import BaseIdentity, Data, Gate, Lora, Training
from prompt_format.persona import Persona
from prompt_format.window import Window
from tests.toy_tokenizers import byte_level
from training.conversations import read_history
from training.dataset import build
from training.dataset_files import Written
from training.plan import Plan
from training.publish import Candidate

BEGAN = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ASKED = ["home yet?", "want tea", "did you feed the cat", "bus or train", "who won", "still on for six?"]
ANSWERED = ["ya", "ok", "almost there", "no way", "haha", "on my way", "sure thing"]
SHORT = Window(turns=2, characters=200)  # keeps rows of single bytes short
HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, LAYERS = 32, 2, 1, 64, 2


# -- a history


def record(thread: str, minute: float, from_me: bool, text: str, **more: Any) -> dict[str, Any]:
    """One message, *minute* minutes after the beginning of time."""
    sent_at = (BEGAN + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")
    sender = "+14025550100" if from_me else f"+1402555{thread}"
    row = {"source": "example", "thread_id": thread, "sender_id": sender, "from_me": from_me, "sent_at": sent_at}
    return {**row, "text": text, **more}


def conversation(thread: str, blocks: int, *, first_day: int = 0) -> list[dict[str, Any]]:
    """*blocks* exchanges, a day apart: two questions and two answers each, no two exchanges alike."""
    pick = random.Random(thread)
    rows = []
    for block in range(blocks):
        start = (first_day + block) * 1440.0
        for number in range(2):
            asked = f"{pick.choice(ASKED)} {block}.{number} of {thread}"
            rows.append(record(thread, start + 3 * number, False, asked))
            rows.append(record(thread, start + 3 * number + 1, True, pick.choice(ANSWERED)))
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tiny_dataset(folder: Path, variant: str = "raw_style", *, blocks: int = 12, window: Window = SHORT) -> Written:
    """A dataset of two threads in *folder*/<variant>, for the tokenizer of ``tiny_model``."""
    rows = [*conversation("0101", blocks), *conversation("0102", blocks)]
    messages = write_jsonl(folder / "messages.jsonl", rows)
    plan = Plan("Jo", [variant], window=window, workers=1)
    return build(read_history([messages]), ChatTemplate(byte_level()), folder, plan).variants[0]


# -- a model


def tiny_model(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """A base model of random weights: *kind* is llama, whose head is a layer of its own, or lfm2, whose is not."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level()
    tokenizer.save_pretrained(folder)
    config, shapes = {"llama": _llama, "lfm2": _lfm2}[kind](len(tokenizer))
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **config}))
    random_numbers = np.random.default_rng(seed)
    weights = {name: _weight(random_numbers, name, shape) for name, shape in shapes.items()}
    safetensors.numpy.save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    return folder


def _weight(random_numbers: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "norm" in name:
        return np.ones(shape, np.float32)
    spread = 1.0 if "embed" in name else shape[1] ** -0.5
    return random_numbers.normal(0, spread, shape).astype(np.float32)


def _llama(vocabulary: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    config = {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "intermediate_size": FEED_FORWARD,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5, "vocab_size": vocabulary,
        "max_position_embeddings": 1024, "rope_theta": 10000.0, "tie_word_embeddings": False,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for number in range(LAYERS):
        block = f"model.layers.{number}"
        shapes |= {f"{block}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{block}.self_attn.{name}.weight": shape for name, shape in _attention("o_proj").items()}
        shapes |= {f"{block}.mlp.{name}.weight": (FEED_FORWARD, HIDDEN) for name in ("gate_proj", "up_proj")}
        shapes[f"{block}.mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
    return config, shapes


def _lfm2(vocabulary: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    config = {
        "vocab_size": vocabulary, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "layer_types": ["conv", "full_attention"], "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 1024, "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": HIDDEN,
        "block_ff_dim": FEED_FORWARD, "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False, "rope_theta": 10000.0,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.embedding_norm.weight": (HIDDEN,),
        "model.layers.0.conv.conv.weight": (HIDDEN, 3, 1),
        "model.layers.0.conv.in_proj.weight": (3 * HIDDEN, HIDDEN),
        "model.layers.0.conv.out_proj.weight": (HIDDEN, HIDDEN),
    }
    attention = "model.layers.1.self_attn"
    shapes |= {f"{attention}.{name}.weight": shape for name, shape in _attention("out_proj").items()}
    shapes |= {f"{attention}.{name}.weight": (HIDDEN // HEADS,) for name in ("q_layernorm", "k_layernorm")}
    for number in range(LAYERS):
        block = f"model.layers.{number}"
        shapes |= {f"{block}.{norm}.weight": (HIDDEN,) for norm in ("operator_norm", "ffn_norm")}
        shapes |= {f"{block}.feed_forward.{name}.weight": (FEED_FORWARD, HIDDEN) for name in ("w1", "w3")}
        shapes[f"{block}.feed_forward.w2.weight"] = (HIDDEN, FEED_FORWARD)
    return config, shapes


def _attention(output: str) -> dict[str, tuple[int, ...]]:
    narrow = HIDDEN // HEADS * KV_HEADS
    return dict.fromkeys(("q_proj", output), (HIDDEN, HIDDEN)) | dict.fromkeys(("k_proj", "v_proj"), (narrow, HIDDEN))


# -- something to publish


def a_candidate(name: str = "jo", seed: int = 0, *, size: int = HIDDEN, passed: bool = True) -> Candidate:
    """A whole generation for the store, without training; another *seed* gives another one.

    Args:
        size: Inputs and outputs of each of its 4 layers: the weights have 128 * *size* bytes.
    """
    random_numbers = np.random.default_rng(seed)
    modules = [f"model.layers.{number}.self_attn.{inner}" for number in range(2) for inner in ("q_proj", "v_proj")]
    weights = {}
    for module in modules:
        weights[f"{module}.lora_a"] = random_numbers.normal(0, 0.02, (size, 4)).astype(np.float32)
        weights[f"{module}.lora_b"] = random_numbers.normal(0, 0.02, (4, size)).astype(np.float32)
    parameters = LoraParameters(rank=4, scale=2.0, dropout=0.0, keys=["self_attn.q_proj", "self_attn.v_proj"])
    config = AdapterConfig(fine_tune_type="lora", num_layers=2, lora_parameters=parameters, model="tiny")
    return Candidate(
        name=name,
        weights=safetensors.numpy.save(weights, {"format": "mlx"}),
        config=config_json(config),
        base=BaseIdentity(id="tiny", fingerprint="sha256:" + "0" * 64),
        contract=PromptFormat(ChatTemplate(byte_level()), "raw_style", Persona(name="Jo")).contract,
        lora=Lora(type="lora", rank=4, scale=2.0, modules=modules),
        data=Data(digest="0" * 64, counts={"train": 8, "valid": 1, "test": 1}),
        training=Training(config={}, steps=1, tokens=1, seed=seed, versions={}),
        metrics={"base_test_loss": 5.0, "test_loss": 4.0},
        probe=[0.0],
        gate=Gate(passed=passed, reasons=[] if passed else ["worse than the base"]),
    )


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write files of more than *size* bytes, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_in(folder: Path, *, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Relative path -> content of every file under *folder*, but for those whose name is in *but*."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
