"""The gate: may an adapter become current by itself?

It may when its loss is below the base's and its replies have no fault more often than chance explains. Both models
answer the same threads, so their replies come in pairs, and only pairs in which one alone has the fault say something:
if neither were more prone to it, each such pair would be the toss of a coin. That is McNemar's test (1947,
Psychometrika 12) in its exact form, one-sided. It takes at least five new faults, whatever the number of replies; and
with fewer than five replies no fault can be told from chance.
"""

import math
from collections.abc import Sequence

from prompt_format.manifest import Gate
from training.config import TrainConfig

CHANCE = 0.05  # how often an adapter that is no more prone to a fault than the base is held back for it, at most
WORDS = {
    "echo": "repeat the message",
    "loop": "loop",
    "endless": "never end",
    "label": "begin with a speaker label",
    "empty": "are empty",
}  # copies are no reason: a person repeats phrases too, so somebody has to look

Each = Sequence[frozenset[str]]
"""The faults of each reply, by name."""


def gate(config: TrainConfig, base_loss: float, loss: float, base: Each, adapter: Each) -> Gate:
    """Passed, or the reasons why not.

    Args:
        base_loss, loss: Validation losses without and with the adapter.
        base, adapter: Faults of the replies to the same threads, in the same order.
    """
    reasons = []
    ratio = loss / base_loss
    if not ratio < config.gate.max_valid_ratio:
        reasons.append(
            f"validation loss {loss:.3f} is {ratio:.3f} times the base's; the limit is {config.gate.max_valid_ratio}"
        )
    for fault, words in WORDS.items():
        chance = chance_of_so_many(fault, base, adapter)
        if chance <= CHANCE:
            count, before = (sum(fault in found for found in each) for each in (adapter, base))
            reasons.append(
                f"{count} of {len(adapter)} replies {words}; of the base's {before}. Chance alone would do so in "
                f"{100 * chance:.2g} % of cases; the limit is {100 * CHANCE:.0f} %"
            )
    return Gate(passed=not reasons, reasons=reasons)


def chance_of_so_many(fault: str, base: Each, adapter: Each) -> float:
    """The chance that among the pairs of which one reply alone has *fault* so many or more are the adapter's, were it
    no more prone to it than the base: 0 to 1, and 1 where there is no such pair."""
    pairs = [(fault in one, fault in other) for one, other in zip(base, adapter, strict=True)]
    new, gone = pairs.count((False, True)), pairs.count((True, False))
    tosses = new + gone
    return float(sum(math.comb(tosses, heads) for heads in range(new, tosses + 1)) / 2**tosses)
