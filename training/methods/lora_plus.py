"""LoRA+: B learns faster than A.

Hayou, Ghosh, Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models" (2024), section 4.
"""

from typing import Any

from training.methods.low_rank import LowRank

B_RATE = 16  # times A's learning rate


class LoraPlus(LowRank):
    """What a step of AdamW does to each B is made so many times as large: exact, since without weight decay Adam's
    step is proportional to the rate."""

    def update(self, gradients: Any, rate: float) -> None:
        before = self.trained()
        super().update(gradients, rate)
        moved = {
            name: before[name] + B_RATE * (value - before[name])
            for name, value in self.trained().items()
            if name.endswith(".lora_b")
        }
        self.model.load_weights(list(moved.items()), strict=False)
