"""Base against adapter on replies that were held out, and the gate.

The number that decides is the loss of real replies: nats a reply token, over all of a split. Greedy replies to some
held-out threads are read for three faults: echoing the other side, looping, and never ending. How near they are to the
person's own is measured on the same replies (``measures``) and decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prompt_format.bubbles import TURN_SEPARATOR, split_bubbles
from prompt_format.format import Example, PromptFormat
from prompt_format.manifest import Gate
from prompt_format.variants import speaker_label
from training.config import TrainConfig
from training.generate import greedy_replies
from training.lora import Off
from training.measures.authorship import Voices
from training.measures.faults import Generated
from training.measures.yardstick import Measures, Yardstick, bits_per_character
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset

SAMPLES = 24
MOST_TEXTS = 4000  # of each voice, so that measuring takes seconds whatever the size of a history


@dataclass(frozen=True)
class Sample:
    """One held-out thread: what was asked, what was answered in truth, by the base and by the adapter."""

    asked: str
    real: list[str]
    base: list[str]
    adapter: list[str]


@dataclass(frozen=True)
class Verdict:
    """What was measured, some replies to look at, and whether the adapter may become current by itself."""

    metrics: dict[str, float]
    samples: list[Sample]
    gate: Gate


def evaluate(model: Any, dataset: Dataset, config: TrainConfig) -> Verdict:
    """Compare the adapter that *model* wears with the base under it."""
    form = dataset.format
    logits = reply_logits(model)
    test = dataset.splits["test"] or dataset.splits["valid"]
    messages = dataset.messages["test"] or dataset.messages["valid"]
    chosen = _spread(len(test), SAMPLES)
    prompts = [test[i].ids[: test[i].reply_start] for i in chosen]
    metrics: dict[str, float] = {}
    with Off(model):
        metrics["base_valid_loss"] = mean_loss(model, dataset.splits["valid"], logits)
        metrics["base_test_loss"] = mean_loss(model, test, logits)
        base = greedy_replies(model, form, prompts)
    metrics["valid_loss"] = mean_loss(model, dataset.splits["valid"], logits)
    metrics["test_loss"] = mean_loss(model, test, logits)
    adapter = greedy_replies(model, form, prompts)
    asked = [_last_asked(messages[i]) for i in chosen]
    yardstick = _yardstick(dataset)
    metrics |= _figures("base_", yardstick.measure(_generated(asked, base)))
    measured = yardstick.measure(_generated(asked, adapter))
    metrics |= _figures("", measured) | _references(measured)
    for whose in ("base_", ""):
        metrics[f"{whose}bits_per_char"] = _bits(metrics[f"{whose}test_loss"], test, messages, form)
    samples = [
        Sample(question, form.parse_reply(messages[i][-1]["content"]), b[0], a[0])
        for i, question, b, a in zip(chosen, asked, base, adapter, strict=True)
    ]
    return Verdict(metrics, samples, gate(metrics, config))


def gate(metrics: dict[str, float], config: TrainConfig) -> Gate:
    """Passed, or the reasons why not."""
    reasons = []
    ratio = metrics["valid_loss"] / metrics["base_valid_loss"]
    if not ratio < config.gate.max_valid_ratio:
        reasons.append(
            f"validation loss {metrics['valid_loss']:.3f} is {ratio:.3f} times the base's; the limit is "
            f"{config.gate.max_valid_ratio}"
        )
    for fault, words in (("echo", "repeat the message"), ("loop", "loop"), ("endless", "never end")):
        # One in twelve of so few samples is chance.
        if metrics[fault] > metrics[f"base_{fault}"] + 1 / 12:
            reasons.append(f"{metrics[fault]:.0%} of replies {words}; of the base's {metrics[f'base_{fault}']:.0%}")
    return Gate(passed=not reasons, reasons=reasons)


def _generated(asked: Sequence[str], replies: Sequence[tuple[list[str], bool]]) -> list[Generated]:
    return [Generated([question], *reply) for question, reply in zip(asked, replies, strict=True)]


def _figures(prefix: str, measured: Measures) -> dict[str, float]:
    """What differs between base and adapter. Faults are shares of the sampled replies."""
    faults = measured.faults
    return {
        **{f"{prefix}{fault}": faults.share(fault) for fault in ("echo", "loop", "endless")},
        **{f"{prefix}{fault}_rate": faults.share(fault) for fault in ("copy", "label", "empty")},
        f"{prefix}style_distance": measured.style.mean,
        f"{prefix}authorship": measured.authorship.generated,
    }


def _references(measured: Measures) -> dict[str, float]:
    """The same figures of the person's own replies and of other people's."""
    return {
        "style_distance_own": measured.style_own.mean,
        "style_distance_others": measured.style_others.mean,
        "authorship_own": measured.authorship.own,
        "authorship_others": measured.authorship.others,
    }


def _yardstick(dataset: Dataset) -> Yardstick:
    form = dataset.format
    train, held_out = dataset.messages["train"], dataset.messages["test"] or dataset.messages["valid"]
    learnt = [_reply(form, row) for row in train]
    some, few = _some(train), _some(held_out)
    voices = Voices(
        own=_some(learnt),
        own_held_out=[_reply(form, row) for row in few],
        others=[_turn_before(form, row) for row in some],
        others_held_out=[_turn_before(form, row) for row in few],
    )
    return Yardstick(voices, learnt, speaker_label(form.persona))


def _reply(form: PromptFormat, row: Sequence[Any]) -> list[str]:
    return form.parse_reply(str(row[-1]["content"]))


def _turn_before(form: PromptFormat, row: Sequence[Any]) -> list[str]:
    """The bubbles of the other side's turn that the reply of *row* answers."""
    turn = str(row[-2]["content"]).rpartition("\n")[2].rpartition(TURN_SEPARATOR)[2]
    label = speaker_label(form.persona).match(turn)
    return split_bubbles(turn[label.end() :] if label else turn)


def _bits(loss: float, examples: Sequence[Example], rows: Sequence[Any], form: PromptFormat) -> float:
    """*loss*, nats a token, as bits a character of the same replies: the end of each bubble counts as one."""
    tokens = sum(len(example.ids) - example.reply_start for example in examples)
    characters = sum(len("\n".join(_reply(form, row))) + 1 for row in rows)
    return bits_per_character(loss * tokens, characters)


def _some(rows: Sequence[Any]) -> list[Any]:
    return [rows[i] for i in _spread(len(rows), MOST_TEXTS)]


def _spread(count: int, wanted: int) -> list[int]:
    """*wanted* indices spread evenly over *count*."""
    step = max(1.0, count / wanted)
    return [int(i * step) for i in range(min(count, wanted))]


def _last_asked(messages: Sequence[Any]) -> str:
    """The last line of the prompt without its label: what the reply answers."""
    last = str(messages[-2]["content"]).rpartition("\n")[2]
    return last.partition(": ")[2] if ": " in last else last
