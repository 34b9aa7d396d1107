"""What a dataset holds out, as texts: what was asked, what was answered in truth, and which of it models are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prompt_format.bubbles import TURN_SEPARATOR, split_bubbles
from prompt_format.format import Example, PromptFormat
from prompt_format.variants import speaker_label
from training.rows import Dataset


@dataclass(frozen=True)
class Sample:
    """One held-out thread: the bubbles that were asked, and those of each answer.

    Attributes:
        previous: None where no earlier generation was measured.
        faults: Of the adapter's reply, by name.
    """

    asked: list[str]
    real: list[str]
    base: list[str]
    adapter: list[str]
    previous: list[str] | None = None
    faults: frozenset[str] = frozenset()


@dataclass(frozen=True)
class HeldOut:
    """The rows that measuring is done on: test, or valid where there is no test.

    Attributes:
        asked, real: Bubbles of each row, in the order of *examples*.
        chosen: Indices of the rows that models are asked to answer.
    """

    examples: list[Example]
    asked: list[list[str]]
    real: list[list[str]]
    chosen: list[int]

    @property
    def tokens(self) -> int:
        """Of all replies, with what ends each."""
        return sum(len(example.ids) - example.reply_start for example in self.examples)

    @property
    def characters(self) -> int:
        """Of all replies; the end of each bubble counts as one."""
        return sum(len(bubble) + 1 for bubbles in self.real for bubble in bubbles)

    def prompts(self) -> list[list[int]]:
        """The token ids that models are asked to go on from."""
        return [self.examples[i].ids[: self.examples[i].reply_start] for i in self.chosen]


def held_out(dataset: Dataset, wanted: int) -> HeldOut:
    """The held-out rows of *dataset*, *wanted* of them to be answered."""
    split = "test" if dataset.splits["test"] else "valid"
    rows, form = dataset.messages[split], dataset.format
    return HeldOut(
        examples=dataset.splits[split],
        asked=[turn_before(form, row) for row in rows],
        real=[reply_of(form, row) for row in rows],
        chosen=spread(len(rows), wanted),
    )


def reply_of(form: PromptFormat, row: Sequence[Any]) -> list[str]:
    """The bubbles of the reply that the chat messages of *row* end with."""
    return form.parse_reply(str(row[-1]["content"]))


def turn_before(form: PromptFormat, row: Sequence[Any]) -> list[str]:
    """The bubbles of the other side's turn that the reply of *row* answers."""
    turn = str(row[-2]["content"]).rpartition("\n")[2].rpartition(TURN_SEPARATOR)[2]
    label = speaker_label(form.persona).match(turn)
    return split_bubbles(turn[label.end() :] if label else turn)


def spread(count: int, wanted: int) -> list[int]:
    """*wanted* indices spread evenly over *count*."""
    step = max(1.0, count / wanted)
    return [int(i * step) for i in range(min(count, wanted))]
