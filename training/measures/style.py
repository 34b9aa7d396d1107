"""How far apart two sets of replies are in length, case, endings, emoji, abbreviations and bubbles."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from prompt_format.persona import observe
from training.measures.bundles import MOST_BUNDLES, Reply, bundles

ABBREVIATIONS = frozenset(
    "u ur r n y rn idk idc lol lmao rofl omg wtf ngl tbh btw brb ttyl ty thx tx np pls plz imo nvm jk hbu wbu omw "
    "ily fr smh tmrw k kk bc cuz tho w wanna gonna gotta".split()
)  # of English

Distribution = Mapping[Any, Fraction]  # value -> its share; the shares add up to 1


@dataclass(frozen=True)
class StyleDistance:
    """How far two sets of replies are apart, from 0 (alike) to 1, by each habit. Every one is a pseudometric.

    Attributes:
        words, bubbles: Kolmogorov-Smirnov distance between their numbers in a reply.
        case: Total variation between kinds of reply: no capital, only at the start of bubbles, nothing else, mixed.
        ending: Total variation between what the last bubble ends with: a mark, an emoji, or neither.
        emoji, abbreviations: Total variation between which occur; a reply shares its weight among those it holds.
    """

    words: float
    bubbles: float
    case: float
    ending: float
    emoji: float
    abbreviations: float

    @property
    def mean(self) -> float:
        """The mean of the six."""
        return fmean(asdict(self).values())


Habits = tuple[Distribution, ...]  # in the order of StyleDistance


def habits(replies: Sequence[Reply]) -> Habits:
    """The distribution of each habit over *replies*.

    Raises:
        ValueError: If there are none.
    """
    if not replies:
        raise ValueError("no replies to measure")
    found: list[dict[Any, Fraction]] = [defaultdict(Fraction) for _ in range(6)]
    for reply in replies:
        for weights, values in zip(found, _observed(reply), strict=True):
            for value in values or ("",):
                weights[value] += Fraction(1, max(1, len(values)))
    return tuple({value: weight / len(replies) for value, weight in weights.items()} for weights in found)


def distance(one: Habits, other: Habits) -> StyleDistance:
    """How far two sets of replies are apart, from their habits."""
    measured = (kolmogorov_smirnov, kolmogorov_smirnov, *[total_variation] * 4)
    return StyleDistance(*(measure(a, b) for measure, a, b in zip(measured, one, other, strict=True)))


def total_variation(one: Distribution, other: Distribution) -> float:
    """Half the sum of the differences between shares, 0 to 1 (Levin, Peres, Wilmer: Markov Chains and Mixing Times,
    proposition 4.2): the share of one that would have to change to make the other."""
    nothing = Fraction(0)
    return float(sum(abs(one.get(v, nothing) - other.get(v, nothing)) for v in {*one, *other}) / 2)


def kolmogorov_smirnov(one: Distribution, other: Distribution) -> float:
    """The greatest difference between two cumulative distributions of numbers, 0 to 1 (Smirnov 1948, Annals of
    Mathematical Statistics 19). One endless reply moves it no more than any other reply does."""
    nothing = Fraction(0)
    difference = greatest = nothing
    for value in sorted({*one, *other}):
        difference += one.get(value, nothing) - other.get(value, nothing)
        greatest = max(greatest, abs(difference))
    return float(greatest)


def mean_distance(replies: Sequence[Reply], held_out: Habits, size: int) -> StyleDistance:
    """The mean distance of bundles of *size* replies from *held_out*: few replies are always some way off, so what
    stands beside the distance of so many generated ones is measured on as many."""
    found = [distance(habits(bundle), held_out) for bundle in bundles(replies, size)[:MOST_BUNDLES]]
    return StyleDistance(**{name: fmean(asdict(one)[name] for one in found) for name in asdict(found[0])})


def _observed(reply: Reply) -> tuple[Collection[Any], ...]:
    """The values of each habit in one reply."""
    seen = observe(reply)
    return [seen.words], [seen.bubbles], [_case(reply)], [_ending(reply)], seen.emoji, _abbreviations(reply)


def _case(reply: Reply) -> str:
    text = "".join(reply)
    capitals = sum(character.isupper() for character in text)
    if not capitals:
        return "lower"
    if not any(character.islower() for character in text):
        return "upper"
    return "start" if capitals == sum(bubble[:1].isupper() for bubble in reply) else "mixed"


def _ending(reply: Reply) -> str:
    text = reply[-1].rstrip().rstrip("\ufe0f") if reply else ""  # an emoji can end in a sign that chooses its look
    if text.endswith(("..", "…")):
        return "…"
    kind = unicodedata.category(text[-1]) if text else ""
    if kind in ("So", "Sk"):
        return "emoji"
    return text[-1] if kind.startswith("P") else ""


def _abbreviations(reply: Reply) -> frozenset[str]:
    return ABBREVIATIONS.intersection(re.findall(r"\w+", "\n".join(reply).lower()))
