"""What is wrong with generated replies: echoes, loops, copies, no end, labels, nothing."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.measures.bundles import Reply

COPY_WORDS = 6
STOCK_REPLIES = 3


@dataclass(frozen=True)
class Generated:
    """A reply that a model made.

    Attributes:
        asked: The bubbles it answers.
        bubbles: The reply; none when it is empty.
        ended: Whether it ended by itself, not by its length.
    """

    asked: Reply
    bubbles: Reply
    ended: bool


@dataclass(frozen=True)
class Faults:
    """How many of so many *replies* have each fault; one can have several.

    Attributes:
        echo: Repeats what it answers, or the last bubble of it, but for case and white space.
        loop: Some run of three words stands three times in it.
        copy: Holds ``COPY_WORDS`` words in a row of a reply that was learnt from, and they are no stock phrase: fewer
            than ``STOCK_REPLIES`` such replies hold them. Case and white space do not matter.
        endless: Did not end by itself.
        label: A bubble, or a line of one, begins with a speaker label.
        empty: Holds no text.
    """

    replies: int
    echo: int
    loop: int
    copy: int
    endless: int
    label: int
    empty: int

    def share(self, fault: str) -> float:
        """The share of replies with *fault*, 0 to 1; 0 of no replies."""
        count: int = getattr(self, fault)
        return count / self.replies if self.replies else 0.0


def find_faults(generated: Sequence[Generated], learnt: Iterable[Reply], label: re.Pattern[str]) -> Faults:
    """The faults of *generated*, in time linear in all texts.

    Args:
        learnt: Every reply that was learnt from.
        label: What a speaker label looks like (``prompt_format.variants.speaker_label``).
    """
    copied = _copied([one.bubbles for one in generated], learnt)
    return Faults(
        replies=len(generated),
        echo=sum(map(_echoes, generated)),
        loop=sum(_loops(" ".join(one.bubbles).split()) for one in generated),
        copy=sum(not copied.isdisjoint(_runs(one.bubbles)) for one in generated),
        endless=sum(not one.ended for one in generated),
        label=sum(any(map(label.match, "\n".join(one.bubbles).split("\n"))) for one in generated),
        empty=sum(not _words(one.bubbles) for one in generated),
    )


def _words(reply: Reply) -> list[str]:
    return " ".join(reply).lower().split()


def _echoes(one: Generated) -> bool:
    said = _words(one.bubbles)
    return bool(said) and said in (_words(one.asked), _words(one.asked[-1:]))


def _loops(words: Sequence[str]) -> bool:
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    return any(count >= 3 for count in runs.values())


def _runs(reply: Reply) -> list[tuple[str, ...]]:
    words = _words(reply)
    return [tuple(words[i : i + COPY_WORDS]) for i in range(len(words) - COPY_WORDS + 1)]


def _copied(replies: Sequence[Reply], learnt: Iterable[Reply]) -> set[tuple[str, ...]]:
    """The runs of *replies* that some, but few, of *learnt* hold. Only runs of *replies* are kept in memory."""
    wanted = {run for reply in replies for run in _runs(reply)}
    found = Counter(run for reply in learnt for run in wanted.intersection(_runs(reply)))
    return {run for run, count in found.items() if count < STOCK_REPLIES}
