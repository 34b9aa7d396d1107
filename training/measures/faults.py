"""What is wrong with generated replies: echoes, loops, copies, no end, labels, nothing."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from training.measures.bundles import Reply

COPY_WORDS = 6
STOCK_REPLIES = 3
FAULTS = ("echo", "loop", "copy", "endless", "label", "empty")


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
    """How many of *generated* have each fault; as ``faults_of_each`` takes them."""
    return count_faults(faults_of_each(generated, learnt, label))


def faults_of_each(
    generated: Sequence[Generated], learnt: Iterable[Reply], label: re.Pattern[str]
) -> list[frozenset[str]]:
    """The faults of each reply by name, in the order of *generated*, in time linear in all texts.

    Args:
        learnt: Every reply that was learnt from.
        label: What a speaker label looks like (``prompt_format.variants.speaker_label``).
    """
    copied = _copied([one.bubbles for one in generated], learnt)
    return [frozenset(name for name, is_so in _found(one, copied, label) if is_so) for one in generated]


def count_faults(each: Sequence[frozenset[str]]) -> Faults:
    """How many of so many replies have each fault."""
    return Faults(replies=len(each), **{fault: sum(fault in found for found in each) for fault in FAULTS})


def _found(one: Generated, copied: Set[tuple[str, ...]], label: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    yield "echo", _echoes(one)
    yield "loop", _loops(" ".join(one.bubbles).split())
    yield "copy", not copied.isdisjoint(_runs(one.bubbles))
    yield "endless", not one.ended
    yield "label", any(map(label.match, "\n".join(one.bubbles).split("\n")))
    yield "empty", not _words(one.bubbles)


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
