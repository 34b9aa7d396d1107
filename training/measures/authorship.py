"""Whose writing bundles of replies look like, by their runs of three characters."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from training.measures.bundles import BUNDLE, Reply, bundles


@dataclass(frozen=True)
class Voices:
    """Replies of the person and what others wrote in the same threads: to learn from, and held out."""

    own: Sequence[Reply]
    own_held_out: Sequence[Reply]
    others: Sequence[Reply]
    others_held_out: Sequence[Reply]


@dataclass(frozen=True)
class Authorship:
    """Whose writing bundles of replies look like.

    Attributes:
        generated, own, others: Mean cosine (0 to 1) with the person's profile of generated bundles, of the person's
            held-out ones and of other people's held-out ones.
        nearer, own_nearer, others_nearer: Share of the same bundles that are nearer to the person's profile than to
            the others'. The last two say how well the measure itself tells them apart: 1 and 0 at best.
        bundles: How many generated bundles there were.
    """

    generated: float
    own: float
    others: float
    nearer: float
    own_nearer: float
    others_nearer: float
    bundles: int


class Verifier:
    """Tells a person's bundles of replies from other people's, by the cosine of tf-idf weighted character 3-grams.

    Character n-grams: Stamatatos 2013 (Journal of Law and Policy 21); their cosine as a baseline of authorship
    verification: Kestemont et al. 2020 (PAN at CLEF). Weights: (1 + ln tf) * (1 + ln((1 + N) / (1 + df))), smoothed
    after Salton and Buckley 1988 (Information Processing and Management 24). A profile is the mean of unit vectors.

    Raises:
        ValueError: If there is nothing to learn either voice from.
    """

    def __init__(self, own: Sequence[Reply], others: Sequence[Reply]):
        if not own or not others:
            raise ValueError("no replies to make a profile of")
        counted = [[_trigrams(bundle) for bundle in bundles(side, BUNDLE)] for side in (own, others)]
        self.bundles = sum(len(side) for side in counted)
        self.frequency = Counter(trigram for side in counted for counts in side for trigram in counts)
        self.own, self.others = (_mean([self._vector(counts) for counts in side]) for side in counted)

    def scores(self, replies: Sequence[Reply], size: float = BUNDLE) -> list[tuple[float, float]]:
        """For each bundle of *replies* its cosine with the person's profile and with the others', 0 to 1."""
        vectors = [self._vector(_trigrams(bundle)) for bundle in bundles(replies, size)]
        return [(_dot(vector, self.own), _dot(vector, self.others)) for vector in vectors]

    def _vector(self, counts: Mapping[str, int]) -> dict[str, float]:
        most = 1 + self.bundles
        return _unit({t: (1 + math.log(n)) * (1 + math.log(most / (1 + self.frequency[t]))) for t, n in counts.items()})


def authorship(verifier: Verifier, generated: Sequence[Reply], voices: Voices) -> Authorship:
    """Whose writing *generated* looks like, beside both held-out voices in bundles as large: more text is nearer.

    Raises:
        ValueError: If one of the three is empty.
    """
    measured = (generated, voices.own_held_out, voices.others_held_out)
    if not all(measured):
        raise ValueError("no replies to verify")
    size = len(generated) / len(bundles(generated, BUNDLE))
    found = [verifier.scores(replies, size) for replies in measured]
    generated_cosine, own, others = (fmean(cosine for cosine, _ in scores) for scores in found)
    nearer, own_nearer, others_nearer = (fmean(mine > theirs for mine, theirs in scores) for scores in found)
    return Authorship(generated_cosine, own, others, nearer, own_nearer, others_nearer, len(found[0]))


def _trigrams(bundle: Sequence[Reply]) -> Counter[str]:
    """Character 3-grams within each reply, with a line break before, between and after its bubbles."""
    texts = ("\n".join(["", *reply, ""]) for reply in bundle)
    return Counter(text[i : i + 3] for text in texts for i in range(len(text) - 2))


def _unit(vector: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(math.fsum(weight * weight for weight in vector.values()))
    return {trigram: weight / length for trigram, weight in vector.items()}


def _mean(vectors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The direction of the mean, as a unit vector."""
    total: dict[str, float] = {}
    for vector in vectors:
        for trigram, weight in vector.items():
            total[trigram] = total.get(trigram, 0.0) + weight
    return _unit(total)


def _dot(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return min(1.0, math.fsum(weight * other.get(trigram, 0.0) for trigram, weight in one.items()))
