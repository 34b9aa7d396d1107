"""A config's method, put on a model."""

from collections.abc import Callable
from typing import Any

from training.config import TrainConfig
from training.methods.lora_plus import LoraPlus
from training.methods.low_rank import LowRank
from training.methods.method import Method

BEGIN: dict[str, Callable[[Any, TrainConfig], Method]] = {
    "lora": LowRank,
    "rslora": LowRank,
    "lora-plus": LoraPlus,
}


def begin(model: Any, config: TrainConfig) -> Method:
    """Put the method of *config* on *model*. Raises ConfigRefused if it names layers the model lacks."""
    return BEGIN[config.method](model, config)
