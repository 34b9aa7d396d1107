"""Where a run stands."""

import math
from dataclasses import dataclass, field


@dataclass
class Position:
    """Where a run stands; everything but the arrays."""

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    worse_in_a_row: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, training loss a token)
    validation: list[tuple[int, float]] = field(default_factory=list)  # (step, validation loss a token)
