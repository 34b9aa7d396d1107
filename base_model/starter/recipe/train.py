"""Train the starter from scratch: an LFM2-shaped chat model, in MLX, on a CPU or a GPU.

    python base_model/starter/recipe/tokenizer.py CORPUS_FOLDER OUT_FOLDER
    python base_model/starter/recipe/train.py CORPUS_FOLDER OUT_FOLDER --tokens 9500000

OUT_FOLDER holds the tokenizer and gets config.json, model.safetensors and progress.json. Every few minutes a
checkpoint is written beside them; the same command goes on from it. Other sizes: --width, --layers, --ff.
"""

import argparse
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from base_model.fast_cpu import prepare_cpu

TWO_STREAMS = "SAMEVOICE_ONE_STREAM" not in os.environ
prepare_cpu(threads=1 if TWO_STREAMS else None)

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
from mlx.utils import tree_flatten, tree_map, tree_unflatten  # noqa: E402
from mlx_lm.models import lfm2  # noqa: E402

from base_model.arrays import load_arrays, scalar  # noqa: E402
from base_model.starter.recipe import fast_on_cpu  # noqa: E402
from base_model.starter.recipe.corpus import rows  # noqa: E402
from prompt_format.chat_template import ChatTemplate  # noqa: E402

MAX_TOKENS = 352
SAVE_EVERY_S = 240
Row = tuple[np.ndarray, int]  # token ids, and where the loss begins (after the system message)


def encode_pass(corpus: Path, folder: Path, seed: int, held_out: bool) -> list[Row]:
    """One pass of the mix as token ids; kept in a file beside the checkpoint, since it takes a while."""
    cache = folder / f".rows-{'held' if held_out else seed}.npz"
    if not cache.exists():
        from transformers import AutoTokenizer

        template = ChatTemplate(AutoTokenizer.from_pretrained(folder))
        opening = template.control_tokens.index("<|im_start|>")
        open_id = template.tokenizer.encode(template.control_tokens[opening], add_special_tokens=False)[0]
        flat: list[int] = []
        spans: list[tuple[int, int]] = []
        for chat in rows(corpus, seed, held_out):
            ids = [*template.encode(template.head(chat[:-1])), *template.encode_reply(chat[-1]["content"])]
            if len(ids) <= MAX_TOKENS:
                spans.append((len(ids), ids.index(open_id, ids.index(open_id) + 1)))
                flat += ids
        np.savez(cache, flat=np.array(flat, np.int32), spans=np.array(spans, np.int32))
    saved = np.load(cache)
    ends = np.cumsum(saved["spans"][:, 0])
    pieces = np.split(saved["flat"], ends[:-1])
    return list(zip(pieces, saved["spans"][:, 1].tolist(), strict=True))


def batches(data: list[Row], budget: int, seed: int) -> Iterator[list[Row]]:
    """Batches of about *budget* padded tokens, rows of like length together, in random order."""
    draw = random.Random(seed)
    order = sorted(range(len(data)), key=lambda i: (len(data[i][0]) // 8, draw.random()))
    groups: list[list[Row]] = []
    group: list[Row] = []
    for i in order:
        if group and (len(group) + 1) * (len(data[i][0]) // 16 + 1) * 16 > budget:
            groups.append(group)
            group = []
        group.append(data[i])
    groups.append(group)
    draw.shuffle(groups)
    yield from groups


def pad(group: list[Row]) -> tuple[mx.array, mx.array, mx.array]:
    """inputs and targets (rows, tokens) int32, weights (rows, tokens) float32; length a multiple of 16."""
    length = -(-(max(len(ids) for ids, _ in group) - 1) // 16) * 16
    count = len(group) + len(group) % 2  # an even number of rows, for the two streams
    ids = np.zeros((count, length + 1), np.int32)
    weights = np.zeros((count, length), np.float32)
    for number, (row, begin) in enumerate(group):
        ids[number, : len(row)] = row
        weights[number, begin : len(row) - 1] = 1
    return mx.array(ids[:, :-1]), mx.array(ids[:, 1:]), mx.array(weights)


def loss_sum(model: Any, inputs: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    logits = model(inputs)
    losses = fast_on_cpu.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return (losses * weights.reshape(-1)).sum()


class Trainer:
    """Model, optimizer and position; ``save`` and ``resume`` hold all of it."""

    def __init__(self, arguments: argparse.Namespace, vocabulary: int):
        self.out: Path = arguments.out
        self.config = model_config(arguments, vocabulary)
        mx.random.seed(0)
        self.model: Any = lfm2.Model(lfm2.ModelArgs.from_dict(self.config))
        scale_initial_weights(self.model)
        fast_on_cpu.make_fast(self.model)
        self.optimizer = optim.AdamW(learning_rate=arguments.peak, betas=[0.9, 0.95], weight_decay=0.1)
        self.optimizer.init(self.model.trainable_parameters())
        self.streams = [mx.new_stream(mx.default_device()) for _ in range(2 if TWO_STREAMS else 1)]
        self.tokens = self.step = 0
        self.history: list[dict[str, float]] = []
        self.gradients = nn.value_and_grad(self.model, loss_sum)

    def train_on(self, group: list[Row], rate: float) -> float:
        """One step; the mean loss a token."""
        inputs, targets, weights = pad(group)
        parts = []
        for number, stream in enumerate(self.streams):
            rows_of = slice(number, None, len(self.streams))
            with mx.stream(stream):
                parts.append(self.gradients(self.model, inputs[rows_of], targets[rows_of], weights[rows_of]))
        total = weights.sum()
        gradient = tree_map(lambda *g: sum(g[1:], g[0]) / total, *[part[1] for part in parts])
        gradient, _ = optim.clip_grad_norm(gradient, 1.0)
        self.optimizer.learning_rate = rate
        self.optimizer.update(self.model, gradient)
        loss = sum(part[0] for part in parts) / total
        mx.eval(self.model.parameters(), self.optimizer.state, loss)
        self.tokens += int(scalar(total))
        self.step += 1
        return scalar(loss)

    def evaluate(self, data: list[Row]) -> float:
        """Mean loss a token over *data*."""
        total = count = 0.0
        for group in batches(data, 8192, 0):
            inputs, targets, weights = pad(group)
            total += scalar(loss_sum(self.model, inputs, targets, weights))
            count += scalar(weights.sum())
        return total / count

    def note(self, data: list[Row]) -> None:
        """Measure *data* and remember the loss."""
        self.history.append({"tokens": self.tokens, "rows": len(data), "held_out": self.evaluate(data)})
        print(f"held-out loss on {len(data)} rows {self.history[-1]['held_out']:.4f}", flush=True)

    def save(self) -> None:
        """A checkpoint in one file, replaced by rename."""
        state = {f"model.{k}": v for k, v in tree_flatten(self.model.parameters())}
        state |= {f"optimizer.{k}": v for k, v in tree_flatten(self.optimizer.state)}
        position = {"tokens": str(self.tokens), "step": str(self.step), "history": json.dumps(self.history)}
        mx.save_safetensors(str(self.out / ".checkpoint-new.safetensors"), state, position)
        os.replace(self.out / ".checkpoint-new.safetensors", self.out / ".checkpoint.safetensors")

    def resume(self) -> None:
        path = self.out / ".checkpoint.safetensors"
        if not path.exists():
            return
        state, position = load_arrays(path)
        self.model.load_weights([(k[6:], v) for k, v in state.items() if k.startswith("model.")])
        self.optimizer.state = unflatten({k[10:]: v for k, v in state.items() if k.startswith("optimizer.")})
        self.tokens, self.step = int(position["tokens"]), int(position["step"])
        self.history = json.loads(position["history"])
        print(f"goes on at step {self.step}, {self.tokens / 1e6:.2f} M tokens", flush=True)

    def export(self) -> None:
        """config.json and model.safetensors (float16), as mlx-lm loads them."""
        weights = {k: v.astype(mx.float16) for k, v in tree_flatten(self.model.parameters())}
        mx.save_safetensors(str(self.out / "model.safetensors"), weights, {"format": "mlx"})
        (self.out / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        (self.out / "progress.json").write_text(json.dumps(self.history, indent=1) + "\n")


def unflatten(flat: dict[str, mx.array]) -> Any:
    return tree_unflatten(list(flat.items()))


def model_config(arguments: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    """An LFM2 config: ``c`` a gated short convolution, ``a`` attention."""
    kinds = {"c": "conv", "a": "full_attention"}
    return {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "vocab_size": vocabulary,
        "hidden_size": arguments.width,
        "num_hidden_layers": len(arguments.layers),
        "layer_types": [kinds[letter] for letter in arguments.layers],
        "num_attention_heads": arguments.width // 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": arguments.width,
        "block_ff_dim": arguments.ff,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 4,
        "pad_token_id": 0,
    }


def scale_initial_weights(model: Any) -> None:
    """Normal(0, 0.02) for matrices; what adds to the residual stream smaller by its depth (GPT-2's scheme)."""
    depth = len(model.layers)

    def draw(name: str, value: mx.array) -> mx.array:
        if value.ndim != 2:
            return value
        residual = name.endswith(("out_proj.weight", "w2.weight"))
        return mx.random.normal(value.shape) * (0.02 / math.sqrt(2 * depth) if residual else 0.02)

    model.update(unflatten({k: draw(k, v) for k, v in tree_flatten(model.parameters())}))


def learning_rate(tokens: int, total: int, peak: float) -> float:
    """Linear warm-up over 2 %, then a cosine down to 2 % of the peak."""
    part = tokens / total
    if part < 0.02:
        return peak * (part / 0.02 + 0.01)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (part - 0.02) / 0.98))))


def run(arguments: argparse.Namespace) -> None:
    vocabulary = len(json.loads((arguments.out / "tokenizer.json").read_text())["model"]["vocab"])
    trainer = Trainer(arguments, vocabulary)
    size = sum(v.size for _, v in tree_flatten(trainer.model.parameters()))
    print(f"{size / 1e6:.2f} M parameters, vocabulary {vocabulary}", flush=True)
    held_out = encode_pass(arguments.corpus, arguments.out, 0, held_out=True)
    trainer.resume()
    clock = saved = time.time()
    before = trainer.tokens
    for group in itertools.islice(all_batches(arguments), trainer.step, None):
        if trainer.tokens >= arguments.tokens:
            break
        loss = trainer.train_on(group, learning_rate(trainer.tokens, arguments.tokens, arguments.peak))
        if trainer.step % 50 == 0:
            rate = (trainer.tokens - before) / (time.time() - clock)
            print(
                f"step {trainer.step}  {trainer.tokens / 1e6:.2f} M tokens  loss {loss:.3f}  {rate:.0f} tokens/s",
                flush=True,
            )
        if trainer.step % 400 == 0:
            trainer.note(held_out[::8])
        if time.time() - saved > SAVE_EVERY_S:
            trainer.save()
            saved = time.time()
    trainer.note(held_out)
    trainer.save()
    trainer.export()


def all_batches(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """The batches of one pass after another, always the same ones."""
    for number in itertools.count():
        yield from batches(encode_pass(arguments.corpus, arguments.out, number, False), arguments.batch, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=float, default=9.5e6, help="train on so many tokens (loss tokens)")
    parser.add_argument("--peak", type=float, default=2.5e-3, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=4096, help="padded tokens a step")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--ff", type=int, default=512)
    parser.add_argument("--layers", default="ccacaca", help="c: convolution, a: attention")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
