"""LoRA and rsLoRA: A and B are trained as they are served.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). rsLoRA differs in the scale alone
(``TrainConfig.effective_scale``).
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from training.config import TrainConfig
from training.lora import adapter_weights, choose_layers, put_back, set_adapter, wear
from training.methods.method import Exported


class LowRank:
    """A LoRA is put on the model and trained with AdamW. What other methods do otherwise, they say over this."""

    def __init__(self, model: Any, config: TrainConfig):
        """Raises ConfigRefused if the config names no layer of the model, or one that the method cannot train."""
        self.model, self.config = model, config
        self.adapter, self.modules = choose_layers(model, config)
        self.put_on()
        self.optimizer = self.new_optimizer()
        self.optimizer.init(model.trainable_parameters())

    def put_on(self) -> None:
        """Freeze the model, and put on it what is trained."""
        wear(self.model, self.adapter)

    def new_optimizer(self) -> Any:
        return optim.AdamW(learning_rate=self.config.learning_rate, weight_decay=0.0)

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


def put_instead(model: Any, modules: list[str], layer: Callable[[Any], Any]) -> dict[str, Any]:
    """Freeze *model* and put ``layer(linear)`` in the place of each linear layer in *modules*, which it holds.

    Returns:
        Path -> the layer that was put there.
    """
    model.freeze()
    linear = dict(model.named_modules())
    layers = {path: layer(linear[path]) for path in modules}
    put_back(model, list(layers.items()))
    mx.eval(model.parameters())
    return layers
