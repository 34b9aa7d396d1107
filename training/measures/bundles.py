"""Replies by the bundle: single text messages are too short to tell how or by whom they were written."""

import random
from collections.abc import Sequence

Reply = Sequence[str]
"""The bubbles of one."""

BUNDLE = 20  # replies
MOST_BUNDLES = 50


def bundles(replies: Sequence[Reply], size: float) -> list[list[Reply]]:
    """*replies* dealt into bundles of about *size*, as many as come nearest to it; no reply is left out.

    They are sorted, then mixed by a fixed seed, so that bundles depend neither on their order nor on the thread.
    """
    ordered: list[Reply] = [*sorted(map(tuple, replies))]
    random.Random(0).shuffle(ordered)
    count = max(1, round(len(ordered) / size))
    return [ordered[number::count] for number in range(count)] if ordered else []
