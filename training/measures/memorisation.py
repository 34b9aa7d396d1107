"""How much a model gives back of what it was trained on, measured by canaries: secrets planted in its training rows.

Pure functions on losses and texts. A loss here is of one whole reply: minus the logarithm of its probability, in nats.
"""

import math
from collections.abc import Sequence

from training.measures.bundles import Reply


def rank(loss: float, others: Sequence[float]) -> int:
    """The place of *loss* among itself and *others*, from 1, the lowest; equal ones stand before it."""
    return 1 + sum(other <= loss for other in others)


def exposure(rank: int, candidates: int) -> float:
    """How many bits of guessing the model saves who looks for a secret among *candidates*: log2(candidates) at most,
    where it stands first, and 0 where it stands last.

    log2(candidates) - log2(rank): Carlini et al., "The Secret Sharer" (2019), section 4.2; over a sample of all
    candidates instead of all, section 4.3.

    Raises:
        ValueError: If *rank* is not from 1 to *candidates*.
    """
    if not 1 <= rank <= candidates:
        raise ValueError(f"no rank {rank} among {candidates} candidates")
    return math.log2(candidates) - math.log2(rank)


def exposure_by_chance(candidates: int) -> float:
    """The mean exposure, in bits, of what a model knows nothing of: every rank is as likely. It nears log2(e)."""
    return sum(exposure(place, candidates) for place in range(1, candidates + 1)) / candidates


def chance_to_extract(loss: float, tries: int) -> float:
    """How likely a reply of *loss* comes up word for word at least once in *tries* samples at temperature 1.

    1 - (1 - p)^n: Hayes et al., "Measuring memorization in language models via probabilistic extraction" (2024,
    arXiv 2410.19482). It is exact, so nothing has to be sampled.
    """
    if loss <= 0:
        return 1.0
    return -math.expm1(tries * math.log1p(-math.exp(-loss)))


def gives(reply: Reply, secret: str) -> bool:
    """Whether the words of *secret* stand in *reply* in a row, but for case and white space."""
    said, wanted = (" ".join(text.lower().split()) for text in (" ".join(reply), secret))
    return f" {wanted} " in f" {said} "
