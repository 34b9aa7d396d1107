"""What a run tells while it goes on, and to whom: a live view on a terminal, plain lines elsewhere, nobody in tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """One step of a run that was just taken.

    Attributes:
        step, total: Which of how many, from 1.
        loss: Mean over the tokens of this step, nats.
        learning_rate: Of this step.
        rows: In this step.
        tokens: That the loss is over, in this step.
        read_tokens: Of these rows in all, prompts included, whether or not they were computed more than once.
        seconds: That this step took.
        peak_bytes: The most memory MLX has held in this process.
    """

    step: int
    total: int
    loss: float
    learning_rate: float
    rows: int
    tokens: int
    read_tokens: int
    seconds: float
    peak_bytes: int


class Watch(Protocol):
    """Somebody who follows a run."""

    def say(self, line: str) -> None:
        """A line of plain text."""

    def stepped(self, step: Step) -> None:
        """After each step."""

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        """After each look at the whole validation split; *loss* in nats a token."""


class Silent:
    """Tells nobody: of several processes that train together, one is enough."""

    def say(self, line: str) -> None:
        """Nothing."""

    def stepped(self, step: Step) -> None:
        """Nothing."""

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        """Nothing."""


class Lines:
    """Plain lines: what is said, and each validation with the mean training loss and the speed since the one before."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self._steps: list[Step] = []
        self._total = 0

    def stepped(self, step: Step) -> None:
        self._steps.append(step)
        self._total = step.total

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        recent = sum(one.loss for one in self._steps) / max(1, len(self._steps))
        cost = f"  {speed(self._steps)}  peak {self._steps[-1].peak_bytes / 1e9:.2f} GB" if self._steps else ""
        self._steps.clear()
        self.say(
            f"step {step}/{self._total}  training loss {recent:.4f}  validation loss {loss:.4f}"
            f"{'  (best)' if is_best else ''}{cost}"
        )


def speed(steps: Sequence[Step]) -> str:
    """Tokens read in a second of *steps*, at least one, without what came between them."""
    return f"{sum(step.read_tokens for step in steps) / sum(step.seconds for step in steps):,.0f} tokens/s"
