"""What the training loop asks of a method, and what a method gives in the end."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx

from prompt_format.adapter_check import AdapterConfig


@dataclass(frozen=True)
class Exported:
    """An adapter for the untouched base.

    Attributes:
        weights: Its tensors by mlx-lm's names, float32.
        adapter: mlx-lm's config of it.
        modules: Full paths of the layers it changes.
        figures: What is to be known of the export, for the metrics: name -> number.
    """

    weights: dict[str, mx.array]
    adapter: AdapterConfig
    modules: list[str]
    figures: dict[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A method at work on one model, whose trainable parameters are what it trains."""

    modules: list[str]
    optimizer: Any

    def trained(self) -> dict[str, mx.array]:
        """What is trained, by name: what a checkpoint and the best of a run hold. Never written into later."""

    def restore(self, trained: dict[str, mx.array]) -> None:
        """Put what ``trained`` gave back."""

    def update(self, gradients: Any, rate: float) -> None:
        """One step of the optimizer at learning rate *rate*, lazily."""

    def export(self) -> Exported:
        """The adapter that the training came to; the model wears it afterwards."""
