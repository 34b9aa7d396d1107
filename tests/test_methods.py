"""Ways to train an adapter: each differs from plain LoRA in what it says, and is served as a plain one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.tuner.utils import load_adapters

from base_model.load import load_base
from prompt_format.adapter_check import config_json
from prompt_format.chat_template import ChatTemplate
from prompt_format.manifest import CONFIG, WEIGHTS
from tests.tiny import tiny_dataset, tiny_model
from training.config import METHODS, TrainConfig, parse_config
from training.finetune import Trained, finetune
from training.lora import adapter_weights
from training.rows import Dataset, load_dataset
from training.watch import Lines

IDS = mx.array([[7, 8, 9, 20, 21]])


def config(method: str, **settings: Any) -> TrainConfig:
    chosen = {"rank": 4, "batch_size": 6, "iters": 1, "learning_rate": 0.002, "schedule": {"decay": "constant"}}
    chosen |= {"early_stopping": {"patience": 99, "evaluations_per_epoch": 100}}
    return parse_config({"name": "jo", "data": "d", "method": method, **chosen, **settings}, "jo.yaml")


def quiet(line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(folder / "model", "lfm2")
    tiny_dataset(folder, blocks=5)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(folder / "raw_style", ChatTemplate(load_base(str(folder / "model")).tokenizer), 64)


@pytest.fixture
def run(folder: Path, dataset: Dataset) -> Callable[..., tuple[Any, Trained]]:
    """Trains a fresh model: (the model with the adapter in it, what was trained)."""

    def trained(method: str, **settings: Any) -> tuple[Any, Trained]:
        model = load_base(str(folder / "model")).model
        return model, finetune(model, dataset, config(method, **settings), Lines(quiet))

    return trained


@pytest.mark.parametrize("method", METHODS)
def test_what_is_exported_gives_the_logits_of_what_was_trained(
    method: str, folder: Path, tmp_path: Path, run: Callable[..., tuple[Any, Trained]]
) -> None:
    """mlx-lm puts it on an untouched base: the same numbers, to the last bit."""
    model, trained = run(method, iters=4, learning_rate=0.02)
    (tmp_path / CONFIG).write_bytes(config_json(trained.exported.adapter))
    mx.save_safetensors(str(tmp_path / WEIGHTS), trained.exported.weights)
    served = load_adapters(load_base(str(folder / "model")).model, str(tmp_path))
    served.eval()

    assert mx.array_equal(model(IDS), served(IDS))
    assert not mx.allclose(model(IDS), load_base(str(folder / "model")).model(IDS), atol=1e-3)
    assert "lora" == json.loads(config_json(trained.exported.adapter))["fine_tune_type"]


@pytest.mark.parametrize(("method", "scale"), [("lora", 2.0), ("lora-plus", 2.0), ("rslora", 4.0)])
def test_rslora_divides_by_the_root_of_the_rank(
    method: str, scale: float, run: Callable[..., tuple[Any, Trained]]
) -> None:
    """alpha 8 over rank 4, or over its root; served as a scale like any other."""
    assert scale == run(method, rank=4, scale=2.0)[1].exported.adapter.lora_parameters.scale


def test_lora_plus_moves_b_sixteen_times_as_far(run: Callable[..., tuple[Any, Trained]]) -> None:
    """From the same beginning on the same batch: A goes where plain LoRA takes it."""
    plain, plus = (adapter_weights(run(method)[0]) for method in ("lora", "lora-plus"))
    far = {name: value for name, value in plain.items() if name.endswith("lora_b") and mx.abs(value).max() > 1e-4}

    assert far and all(mx.allclose(16 * value, plus[name], rtol=1e-4, atol=1e-6) for name, value in far.items())
    assert all(mx.array_equal(value, plus[name]) for name, value in plain.items() if name.endswith("lora_a"))


def test_a_run_of_lora_plus_goes_on_after_a_stop(
    folder: Path, dataset: Dataset, tmp_path: Path, run: Callable[..., tuple[Any, Trained]]
) -> None:
    """With the weights of the run that was not stopped, to the last bit."""

    class Stopped(Exception):
        """Somebody pulls the plug."""

    def stop(line: str) -> None:
        if line.startswith("step 3/"):
            raise Stopped

    every_step = {"early_stopping": {"patience": 99, "evaluations_per_epoch": 10}}
    chosen = config("lora-plus", iters=4, **every_step)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        finetune(load_base(str(folder / "model")).model, dataset, chosen, Lines(stop), checkpoint)
    resumed = finetune(load_base(str(folder / "model")).model, dataset, chosen, Lines(quiet), checkpoint, resume=True)
    whole = run("lora-plus", iters=4, **every_step)[1]

    assert all(mx.array_equal(whole.exported.weights[name], value) for name, value in resumed.exported.weights.items())
