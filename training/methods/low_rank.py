"""LoRA and rsLoRA: A and B are trained as they are served.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). rsLoRA differs in the scale alone
(``TrainConfig.effective_scale``).
"""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from training.config import TrainConfig
from training.lora import adapter_weights, choose_layers, set_adapter, wear
from training.methods.method import Exported


class LowRank:
    """A LoRA is put on the model and trained with AdamW."""

    def __init__(self, model: Any, config: TrainConfig):
        """Raises ConfigRefused if the config names no layer of the model."""
        self.model = model
        self.adapter, self.modules = choose_layers(model, config)
        wear(model, self.adapter)
        self.optimizer = optim.AdamW(learning_rate=config.learning_rate, weight_decay=0.0)
        self.optimizer.init(model.trainable_parameters())

    def trained(self) -> dict[str, mx.array]:
        # Arrays are replaced by an update, never written into: holding them is a copy.
        return adapter_weights(self.model)

    def restore(self, trained: dict[str, mx.array]) -> None:
        set_adapter(self.model, trained)

    def update(self, gradients: Any, rate: float) -> None:
        self.optimizer.learning_rate = rate
        self.optimizer.update(self.model, gradients)

    def export(self) -> Exported:
        return Exported(adapter_weights(self.model), self.adapter, self.modules)
