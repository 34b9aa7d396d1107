"""Ways to train an adapter: whatever each trains, what it exports is put on an untouched base by mlx-lm."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.tuner.utils import load_adapters

from base_model.load import load_base
from prompt_format.adapter_check import config_json
from prompt_format.chat_template import ChatTemplate
from prompt_format.manifest import CONFIG, WEIGHTS
from tests.tiny import tiny_dataset, tiny_model
from training.config import METHODS, TrainConfig, parse_config
from training.finetune import Trained, finetune
from training.lora import Off, adapter_weights
from training.methods.begin import begin
from training.methods.method import Exported
from training.rows import Dataset, load_dataset
from training.watch import Lines

IDS = mx.array([[7, 8, 9, 20, 21]])
EXACT = ("lora", "rslora", "lora-plus", "pissa")  # trained with the operations that it is served with
RATES = {"lora-plus": 0.002, "pissa": 0.005, "galore": 0.04}


def config(method: str, **settings: Any) -> TrainConfig:
    chosen = {"rank": 4, "batch_size": 6, "iters": 1, "learning_rate": 0.002, "schedule": {"decay": "constant"}}
    chosen |= {"early_stopping": {"patience": 99, "evaluations_per_epoch": 100}}
    return parse_config({"name": "jo", "data": "d", "method": method, **chosen, **settings}, "jo.yaml")


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def a_few_steps(model: Any, method: Any, steps: int = 4) -> None:
    """Of training on IDS."""

    def loss(model: Any) -> mx.array:
        return nn.losses.cross_entropy(model(IDS), IDS).mean()

    for _ in range(steps):
        method.update(nn.value_and_grad(model, loss)(model)[1], 0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(folder / "model", "lfm2")
    tiny_model(folder / "llama", "llama")
    tiny_dataset(folder, blocks=5)
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Callable[[str], Any]:
    """A fresh model by the name of its folder."""
    return lambda kind: load_base(str(folder / kind)).model


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(folder / "raw_style", ChatTemplate(load_base(str(folder / "model")).tokenizer), 64)


@pytest.fixture
def run(base: Callable[[str], Any], dataset: Dataset) -> Callable[..., tuple[Any, Trained]]:
    """Trains a fresh model: (the model with the adapter in it, what was trained)."""

    def trained(method: str, **settings: Any) -> tuple[Any, Trained]:
        model = base("model")
        return model, finetune(model, dataset, config(method, **settings), Lines(quiet))

    return trained


@pytest.fixture(scope="module")
def whole(base: Callable[[str], Any], dataset: Dataset) -> Callable[[str], tuple[Any, Trained]]:
    """Six steps with each method, taken once: (the model with the adapter in it, what was trained)."""

    @cache
    def trained(method: str) -> tuple[Any, Trained]:
        model = base("model")
        return model, finetune(model, dataset, six_steps(method), Lines(quiet))

    return trained


def six_steps(method: str) -> TrainConfig:
    rate = RATES.get(method, 0.02)
    every_step = {"early_stopping": {"patience": 99, "evaluations_per_epoch": 10}}
    return config(method, iters=6, learning_rate=rate, **every_step)


def served_by_mlx_lm(model: Any, exported: Exported, folder: Path) -> Any:
    """*model*, a fresh base, with *exported* put on it from files."""
    (folder / CONFIG).write_bytes(config_json(exported.adapter))
    mx.save_safetensors(str(folder / WEIGHTS), exported.weights)
    load_adapters(model, str(folder)).eval()
    return model


@pytest.mark.parametrize("method", METHODS)
def test_what_is_exported_gives_the_logits_of_what_was_trained(
    method: str, tmp_path: Path, base: Callable[[str], Any], whole: Callable[[str], tuple[Any, Trained]]
) -> None:
    """mlx-lm puts it on an untouched base: the same numbers, to the last bit, as those that were measured."""
    model, trained = whole(method)
    served = served_by_mlx_lm(base("model"), trained.exported, tmp_path)

    assert mx.array_equal(model(IDS), served(IDS))
    assert not mx.allclose(model(IDS), base("model")(IDS), atol=1e-3)
    kind = "dora" if method == "dora" else "lora"
    assert kind == json.loads(config_json(trained.exported.adapter))["fine_tune_type"]


@pytest.mark.parametrize("kind", ["model", "llama"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_between_training_and_export(
    method: str, kind: str, tmp_path: Path, base: Callable[[str], Any]
) -> None:
    """The model while it was trained and the adapter on an untouched base: where the operations are others,
    the logits differ by their rounding alone."""
    model = base(kind)
    at_work = begin(model, config(method))
    a_few_steps(model, at_work)
    before = model(IDS)
    mx.eval(before)
    after = served_by_mlx_lm(base(kind), at_work.export(), tmp_path)(IDS)

    assert mx.allclose(before, after, rtol=0, atol=0 if method in EXACT else 1e-4)
    assert not mx.allclose(before, base(kind)(IDS), atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_on_what_was_held_out(
    method: str, whole: Callable[[str], tuple[Any, Trained]]
) -> None:
    """Six steps are enough, at a rate that suits the method."""
    trained = whole(method)[1]

    assert trained.position.best_loss < trained.base_loss - 0.01


@pytest.mark.parametrize("method", METHODS)
def test_without_its_adapter_the_model_is_the_untouched_base(
    method: str, base: Callable[[str], Any], whole: Callable[[str], tuple[Any, Trained]]
) -> None:
    """To the last bit, and with it again what it was."""
    model = whole(method)[0]
    worn = model(IDS)
    with Off(model):
        bare = model(IDS)

    assert mx.array_equal(base("model")(IDS), bare)
    assert mx.array_equal(worn, model(IDS))


@pytest.mark.parametrize("method", ["lora-plus", "dora", "pissa", "galore"])
def test_a_run_goes_on_after_a_stop(
    method: str,
    dataset: Dataset,
    tmp_path: Path,
    base: Callable[[str], Any],
    whole: Callable[[str], tuple[Any, Trained]],
) -> None:
    """With the weights of the run that was not stopped, to the last bit."""

    class Stopped(Exception):
        """Somebody pulls the plug."""

    def stop(line: str) -> None:
        if line.startswith("step 4/"):
            raise Stopped

    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        finetune(base("model"), dataset, six_steps(method), Lines(stop), checkpoint)
    resumed = finetune(base("model"), dataset, six_steps(method), Lines(quiet), checkpoint, resume=True)
    expected = whole(method)[1]

    assert expected.position.losses == resumed.position.losses
    weights = expected.exported.weights
    assert all(mx.array_equal(weights[name], value) for name, value in resumed.exported.weights.items())


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
