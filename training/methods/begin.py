"""A config's method, put on a model."""

from collections.abc import Callable
from typing import Any

from training.config import TrainConfig
from training.methods.dora import Dora
from training.methods.galore import Galore
from training.methods.lora_plus import LoraPlus
from training.methods.low_rank import LowRank
from training.methods.method import Method
from training.methods.pissa import Pissa

BEGIN: dict[str, Callable[[Any, TrainConfig], Method]] = {
    "lora": LowRank,
    "dora": Dora,
    "rslora": LowRank,
    "pissa": Pissa,
    "lora-plus": LoraPlus,
    "galore": Galore,
}


def begin(model: Any, config: TrainConfig) -> Method:
    """Put the method of *config* on *model*. Raises ConfigRefused if it names layers the model lacks, or ones that
    the method cannot train."""
    return BEGIN[config.method](model, config)
