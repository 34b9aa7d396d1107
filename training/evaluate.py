"""Base, previous generation and adapter on replies that were held out, and the gate.

The number that decides is the loss of real replies: nats a reply token, over all of a split. Greedy replies to some
held-out threads are read for faults, some of which the gate looks at, and for how near they are to the person's own,
which decides nothing (``measures``). The same weights and rows give the same figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from errors import AdapterRefused
from prompt_format.manifest import Gate
from prompt_format.variants import speaker_label
from training.config import TrainConfig
from training.gate import gate
from training.generate import greedy_replies
from training.lora import Off
from training.measures.authorship import Voices
from training.measures.faults import FAULTS, Faults, Generated, find_faults
from training.measures.yardstick import Measures, Yardstick, bits_per_character
from training.previous import Previous, Worn
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset
from training.samples import HeldOut, Sample, held_out, reply_of, spread, turn_before

REPLIES = 64  # of each model: three bundles for authorship, and five new faults, which the gate sees, are one in twelve
MOST_TOKENS = 48  # of a reply: one that is longer never ends
MOST_TEXTS = 4000  # of each voice, so that measuring takes seconds whatever the size of a history
COUNTED = ("echo", "loop", "endless")  # the shares that metrics name without "_rate"


@dataclass(frozen=True)
class Looked:
    """One model, measured.

    Attributes:
        valid_loss, test_loss: Nats a reply token of the person's own replies.
        bits_per_char: The same as *test_loss*, in bits a character of these replies.
        generated: Its replies to the chosen threads.
    """

    valid_loss: float
    test_loss: float
    bits_per_char: float
    generated: list[Generated]
    measures: Measures

    def figures(self) -> dict[str, float]:
        """Flat, for a manifest. Faults are shares of the generated replies."""
        return {
            "valid_loss": self.valid_loss,
            "test_loss": self.test_loss,
            "bits_per_char": self.bits_per_char,
            **{name if name in COUNTED else f"{name}_rate": self.measures.faults.share(name) for name in FAULTS},
            "style_distance": self.measures.style.mean,
            "authorship": self.measures.authorship.generated,
        }


@dataclass(frozen=True)
class Amounts:
    """What the figures stand on: how many *valid* and held-out replies, *tokens* and *characters* of the latter,
    *generated* replies of each model, and replies *learnt* from."""

    valid: int
    held_out: int
    tokens: int
    characters: int
    generated: int
    learnt: int


@dataclass(frozen=True)
class Verdict:
    """What was measured, some replies to look at, and whether the adapter may become current by itself.

    Attributes:
        previous: The earlier generation; None where there is none to compare with, for the reason in *note* if any.
        own_faults: Of the person's own held-out replies, were they generated.
    """

    base: Looked
    adapter: Looked
    previous: Looked | None
    note: str
    own_faults: Faults
    amounts: Amounts
    samples: list[Sample]
    gate: Gate

    @property
    def metrics(self) -> dict[str, float]:
        """All figures, flat, for a manifest; what no prefix stands before is the adapter's."""
        found = {f"base_{name}": value for name, value in self.base.figures().items()} | self.adapter.figures()
        if self.previous is not None:
            found |= {f"previous_{name}": value for name, value in self.previous.figures().items()}
        measured = self.adapter.measures
        return found | {
            "style_distance_own": measured.style_own.mean,
            "style_distance_others": measured.style_others.mean,
            "authorship_own": measured.authorship.own,
            "authorship_others": measured.authorship.others,
            "copy_rate_own": self.own_faults.share("copy"),
            "replies_held_out": self.amounts.held_out,
            "replies_generated": self.amounts.generated,
        }


NO_PREVIOUS = Previous()


def evaluate(model: Any, dataset: Dataset, config: TrainConfig, previous: Previous = NO_PREVIOUS) -> Verdict:
    """Compare the adapter that *model* wears, which it wears again afterwards, with the base under it and with
    *previous*. One that turns out not to fit the base is left out."""
    held = held_out(dataset, REPLIES)
    yardstick = _yardstick(dataset, held)
    look = _looker(model, dataset, held, yardstick)
    with Off(model):
        base = look()
        earlier, note = _look_at(model, previous, look)
    adapter = look()
    own = [Generated(asked, real, ended=True) for asked, real in zip(held.asked, held.real, strict=True)]
    return Verdict(
        base=base,
        adapter=adapter,
        previous=earlier,
        note=note,
        own_faults=find_faults(own, yardstick.learnt, yardstick.label),
        amounts=_amounts(dataset, held),
        samples=_samples(held, base, adapter, earlier),
        gate=gate(config, base.valid_loss, adapter.valid_loss, base.measures.each, adapter.measures.each),
    )


def _looker(model: Any, dataset: Dataset, held: HeldOut, yardstick: Yardstick) -> Callable[[], Looked]:
    """A function that measures *model* as it is when called."""
    logits = reply_logits(model)

    def look() -> Looked:
        test_loss = mean_loss(model, held.examples, logits)
        replies = greedy_replies(model, dataset.format, held.prompts(), MOST_TOKENS)
        generated = [Generated(held.asked[i], *reply) for i, reply in zip(held.chosen, replies, strict=True)]
        return Looked(
            valid_loss=mean_loss(model, dataset.splits["valid"], logits),
            test_loss=test_loss,
            bits_per_char=bits_per_character(test_loss * held.tokens, held.characters),
            generated=generated,
            measures=yardstick.measure(generated),
        )

    return look


def _look_at(model: Any, previous: Previous, look: Callable[[], Looked]) -> tuple[Looked | None, str]:
    if previous.generation is None:
        return None, previous.note
    try:
        with Worn(model, previous.generation):
            return look(), ""
    except AdapterRefused as error:
        return None, f"not compared with {previous.generation.label}: {error.message}"


def _yardstick(dataset: Dataset, held: HeldOut) -> Yardstick:
    form, train = dataset.format, dataset.messages["train"]
    learnt = [reply_of(form, row) for row in train]
    few = _some(range(len(held.real)))
    voices = Voices(
        own=_some(learnt),
        own_held_out=[held.real[i] for i in few],
        others=[turn_before(form, row) for row in _some(train)],
        others_held_out=[held.asked[i] for i in few],
    )
    return Yardstick(voices, learnt, speaker_label(form.persona))


def _amounts(dataset: Dataset, held: HeldOut) -> Amounts:
    return Amounts(
        valid=len(dataset.splits["valid"]),
        held_out=len(held.examples),
        tokens=held.tokens,
        characters=held.characters,
        generated=len(held.chosen),
        learnt=len(dataset.splits["train"]),
    )


def _samples(held: HeldOut, base: Looked, adapter: Looked, previous: Looked | None) -> list[Sample]:
    return [
        Sample(
            asked=held.asked[i],
            real=held.real[i],
            base=list(base.generated[place].bubbles),
            adapter=list(adapter.generated[place].bubbles),
            previous=list(previous.generated[place].bubbles) if previous else None,
            faults=adapter.measures.each[place],
        )
        for place, i in enumerate(held.chosen)
    ]


def _some(rows: Sequence[Any]) -> list[Any]:
    return [rows[i] for i in spread(len(rows), MOST_TEXTS)]
