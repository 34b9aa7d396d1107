"""How a row chooses its tokens, in plain numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. Their bounds are the request schema's: a sampler that raises would spoil the whole batch."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
