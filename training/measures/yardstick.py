"""All measures of generated replies, held against one person."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from training.measures.authorship import Authorship, Verifier, Voices, authorship
from training.measures.bundles import Reply
from training.measures.faults import Faults, Generated, count_faults, faults_of_each
from training.measures.style import StyleDistance, distance, habits, mean_distance


def bits_per_character(nats: float, characters: int) -> float:
    """Cross-entropy in bits a character, which models with different tokenizers share (Shannon 1951, Bell System
    Technical Journal 30).

    Args:
        nats: The sum of the losses over all tokens.

    Raises:
        ValueError: If there are no characters.
    """
    if characters <= 0:
        raise ValueError("no characters to share the loss among")
    return nats / (math.log(2) * characters)


@dataclass(frozen=True)
class Measures:
    """All that is measured on generated replies.

    Attributes:
        style: Of generated replies against the person's held-out ones.
        style_own, style_others: Of bundles as large, from replies that were learnt from and from other people's.
        each: The faults of each generated reply by name, in their order.
    """

    style: StyleDistance
    style_own: StyleDistance
    style_others: StyleDistance
    authorship: Authorship
    faults: Faults
    each: list[frozenset[str]] = field(compare=False)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values: style with its mean, each fault as count and share."""
        styles = {"style": self.style, "style_own": self.style_own, "style_others": self.style_others}
        faults = {name: count for name, count in asdict(self.faults).items() if name != "replies"}
        return {
            **{name: {**asdict(style), "mean": style.mean} for name, style in styles.items()},
            "authorship": asdict(self.authorship),
            "replies": self.faults.replies,
            "faults": {name: {"count": count, "share": self.faults.share(name)} for name, count in faults.items()},
        }


class Yardstick:
    """What generated replies of several models are held against, computed once.

    Raises:
        ValueError: If one of *voices* is empty.
    """

    def __init__(self, voices: Voices, learnt: Sequence[Reply], label: re.Pattern[str]):
        """*learnt*: every reply that was learnt from; ``voices.own`` may be some of them. *label*: as ``find_faults``
        takes it."""
        self.voices, self.learnt, self.label = voices, learnt, label
        self.held_out = habits(voices.own_held_out)
        self.verifier = Verifier(voices.own, voices.others)
        self._reference = cache(self._references)  # every model is asked for as many replies

    def measure(self, generated: Sequence[Generated]) -> Measures:
        """All figures of *generated*.

        Raises:
            ValueError: If it is empty.
        """
        replies = [one.bubbles for one in generated]
        own, others = self._reference(len(replies))
        each = faults_of_each(generated, self.learnt, self.label)
        return Measures(
            style=distance(habits(replies), self.held_out),
            style_own=own,
            style_others=others,
            authorship=authorship(self.verifier, replies, self.voices),
            faults=count_faults(each),
            each=each,
        )

    def _references(self, size: int) -> tuple[StyleDistance, StyleDistance]:
        return (
            mean_distance(self.voices.own, self.held_out, size),
            mean_distance(self.voices.others_held_out, self.held_out, size),
        )
