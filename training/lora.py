"""LoRA and DoRA layers on a frozen base: put on, read out, taken off. mlx-lm's own layers, so its format is ours."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from base_model.load import projections
from errors import ConfigRefused
from prompt_format.adapter_check import AdapterConfig, LoraParameters, covered_modules
from training.config import TrainConfig


def choose_layers(model: Any, config: TrainConfig) -> tuple[AdapterConfig, list[str]]:
    """mlx-lm's config of the plain LoRA that *config* asks for, and the full paths of the layers it changes.

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
    adapter = AdapterConfig(
        fine_tune_type="lora", num_layers=num_layers, lora_parameters=parameters, model=config.model
    )
    return adapter, modules


def wear(model: Any, adapter: AdapterConfig, weights: dict[str, mx.array] | None = None) -> None:
    """Freeze *model* and put *adapter* on it: with *weights*, or as it begins, which changes nothing."""
    parameters = adapter.lora_parameters
    settings = {**parameters.model_dump(), "keys": set(parameters.keys)}
    model.freeze()
    linear_to_lora_layers(model, adapter.num_layers, settings, use_dora=adapter.fine_tune_type == "dora")
    if weights is not None:
        model.load_weights(list(weights.items()), strict=False)
    mx.eval(model.parameters())


def take_off(model: Any) -> list[tuple[str, Any]]:
    """Leave *model* as the untouched base; returns the layers that were taken off, for ``put_back``."""
    worn = [(path, module) for path, module in model.named_modules() if "lora_a" in module]
    model.update_modules(tree_unflatten([(path, layer.linear) for path, layer in worn]))
    return worn


def put_back(model: Any, worn: Sequence[tuple[str, Any]]) -> None:
    """Put the layers that ``take_off`` gave back into *model*."""
    model.update_modules(tree_unflatten(list(worn)))


def adapter_weights(model: Any) -> dict[str, mx.array]:
    """The trainable tensors by name, float32."""
    return dict(tree_flatten(model.trainable_parameters()))


def set_adapter(model: Any, weights: dict[str, mx.array]) -> None:
    """Put *weights*, as ``adapter_weights`` gave them, back into the model."""
    model.load_weights(list(weights.items()), strict=False)
    mx.eval(model.parameters())


class Off:
    """With the adapter off, the model is the untouched base: ``with Off(model): ...``."""

    def __init__(self, model: Any):
        self._model = model
        self._worn: list[tuple[str, Any]] = []

    def __enter__(self) -> None:
        self._worn = take_off(self._model)

    def __exit__(self, *_: object) -> None:
        put_back(self._model, self._worn)


def _named(inner: str, wanted: str) -> bool:
    return inner == wanted or inner.endswith(f".{wanted}")
