"""LoRA layers on a frozen base: put on, read out, taken off. mlx-lm's own layers, so its format is ours."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from base_model.load import projections
from errors import ConfigRefused
from prompt_format.adapter_check import AdapterConfig, LoraParameters, covered_modules
from training.config import TrainConfig


def put_on(model: Any, config: TrainConfig) -> tuple[AdapterConfig, list[str]]:
    """Freeze *model* and add LoRA layers; returns mlx-lm's config of them and the full paths they change.

    Raises:
        ConfigRefused: If the config names no layer of the model.
    """
    shapes = projections(model)
    blocks = len(model.layers)
    num_layers = blocks if config.layers == "all" else min(config.layers, blocks)
    inner = sorted(
        {path.split(".", next(i for i, p in enumerate(path.split(".")) if p.isdigit()) + 1)[-1] for path in shapes}
    )
    asked = inner if config.modules == "all" else config.modules
    wanted = [key for key in inner if any(_named(key, name) for name in asked)]
    modules = covered_modules(shapes, num_layers, wanted, blocks)
    unknown = [name for name in asked if not any(_named(key, name) for key in inner)]
    if unknown or not modules:
        raise ConfigRefused(
            f"modules {unknown or config.modules} match no linear layer of the last {num_layers} blocks; there are: "
            + ", ".join(inner),
            code="config_invalid",
        )
    # Only what the covered blocks really have: a key that matches nothing would make the config say more than it is.
    keys = sorted({key for key in wanted if any(path.endswith(f".{key}") for path in modules)})
    parameters = LoraParameters(rank=config.rank, scale=config.effective_scale, dropout=config.dropout, keys=keys)
    model.freeze()
    linear_to_lora_layers(model, num_layers, {**parameters.model_dump(), "keys": set(keys)})
    mx.eval(model.parameters())
    adapter = AdapterConfig(
        fine_tune_type="lora", num_layers=num_layers, lora_parameters=parameters, model=config.model
    )
    return adapter, modules


def adapter_weights(model: Any) -> dict[str, mx.array]:
    """The trainable tensors by name, float32."""
    return dict(tree_flatten(model.trainable_parameters()))


def set_adapter(model: Any, weights: dict[str, mx.array]) -> None:
    """Put *weights*, as ``adapter_weights`` gave them, back into the model."""
    model.load_weights(list(weights.items()), strict=False)
    mx.eval(model.parameters())


def move_b_further(model: Any, before: dict[str, mx.array], times: float) -> None:
    """Make what an optimizer's step did to each B *times* as large: as if B had so many times the learning rate.

    Exact for optimizers whose step is proportional to the rate, as Adam's is without weight decay.

    Args:
        before: ``adapter_weights`` before the step.
    """
    moved = {
        name: before[name] + times * (value - before[name])
        for name, value in adapter_weights(model).items()
        if name.endswith(".lora_b")
    }
    model.load_weights(list(moved.items()), strict=False)


class Off:
    """With the adapter off, the model is the untouched base: ``with Off(model): ...``."""

    def __init__(self, model: Any):
        self._model = model
        self._kept: dict[str, mx.array] = {}

    def __enter__(self) -> None:
        self._kept = adapter_weights(self._model)
        set_adapter(self._model, {name: mx.zeros_like(value) for name, value in self._kept.items()})

    def __exit__(self, *_: object) -> None:
        set_adapter(self._model, self._kept)


def _named(inner: str, wanted: str) -> bool:
    return inner == wanted or inner.endswith(f".{wanted}")
