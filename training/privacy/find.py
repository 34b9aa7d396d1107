"""Private data in a text, by deterministic rules: where it stands, and the text with stand-ins in its place.

Health, money and love cannot be found by rules: only the user's block list keeps them out.
Knows nothing of messages; try it: ``find_private("my card is 4111 1111 1111 1111", "US")``.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.privacy.letters import WORDS, found_by_letters, holds
from training.privacy.numbers import MANY_DIGITS, found_by_digits
from training.privacy.places import found_places
from training.privacy.stand_ins import STAND_INS, is_stand_in

KINDS = tuple(STAND_INS)
_ROUNDS = 4  # a stand-in beside other letters may look private once more
# Nothing below is private without one of these.
_HINT = re.compile(r"[0-9@市省０-９＠٠-٩]|\.[A-Za-z]|://")
# Other scripts' digits and signs as ASCII, letter for letter, so that places stay what they are.
_ASCII = str.maketrans(
    "０１２３４５６７８９٠١٢٣٤٥٦٧٨٩＠．：／－＋（）\u2010\u2011\u2012\u2013\u2014\u00a0\u2007\u2009\u202f\u200e\u202a\u202c",
    "01234567890123456789@.:/-+()-----       ",
)


@dataclass(frozen=True, slots=True)
class Found:
    """Something private: its kind (one of ``KINDS``), and where it stands in the text."""

    kind: str
    start: int
    end: int


def find_private(text: str, region: str | None) -> list[Found]:
    """What is private in *text*, in order and without overlaps. Stand-ins are not.

    Args:
        region: Country (``US``) of telephone numbers written without a country code.
    """
    found = _found(text, region)
    for _ in range(_ROUNDS if found else 0):
        again = _found(mask(text, found), region)
        if not again:
            break
        found = _widened(text, found, again)
    return found


def _found(text: str, region: str | None) -> list[Found]:
    lower = text.lower()
    if _HINT.search(text) is None and not holds(lower, WORDS):
        return []
    plain = text if text.isascii() else text.translate(_ASCII)
    found = [Found(*span) for span in found_by_letters(plain)]
    if MANY_DIGITS.search(plain) or "plate" in lower:
        found += [Found(*span) for span in found_by_digits(plain, region)]
    found += [Found(*span) for span in found_places(plain)]
    return [one for one in without_overlaps(found) if not is_stand_in(one.kind, plain[one.start : one.end])]


def _widened(text: str, found: list[Found], again: list[Found]) -> list[Found]:
    """*found* and what was found *again* in the masked text, as places of *text*; those that touch become one."""
    starts, ends = [], []  # for each letter of the masked text, and its end: where what it stands for begins and ends
    place = 0
    for one in found:
        size = len(STAND_INS[one.kind](text[one.start : one.end].translate(_ASCII)))
        starts += [*range(place, one.start), *[one.start] * size]
        ends += [*range(place + 1, one.start + 1), *[one.end] * size]
        place = one.end
    starts += range(place, len(text))
    ends += range(place + 1, len(text) + 1)
    wider: list[Found] = []
    spans = [Found(one.kind, starts[one.start], ends[one.end - 1]) for one in again]
    for one in sorted([*spans, *found], key=lambda one: (one.start, -one.end)):
        if wider and one.start < wider[-1].end:
            last = wider.pop()
            one = Found(last.kind, last.start, max(last.end, one.end))
        wider.append(one)
    return wider


def without_overlaps(found: Iterable[Found]) -> list[Found]:
    """*found* in the order of the text; of two that overlap, the one named first in *found* stays."""
    kept: list[Found] = []
    for one in found:
        place = bisect_left(kept, one.start, key=lambda other: other.end - 1)
        if place == len(kept) or kept[place].start >= one.end:
            kept.insert(place, one)
    return kept


def mask(text: str, found: Sequence[Found]) -> str:
    """*text* with a stand-in of the same shape for each of *found*, which do not overlap."""
    pieces = []
    end = 0
    for one in sorted(found, key=lambda one: one.start):
        pieces += [text[end : one.start], STAND_INS[one.kind](text[one.start : one.end].translate(_ASCII))]
        end = one.end
    return "".join([*pieces, text[end:]])
