"""Base against adapter on replies that were held out, and the gate.

The number that decides is the loss of real replies: nats a reply token, over all of a split. Greedy replies to some
held-out threads are read for three faults: echoing the other side, looping, and never ending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prompt_format.manifest import Gate
from training.config import TrainConfig
from training.generate import greedy_replies
from training.lora import Off
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset

SAMPLES = 24


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
    metrics |= _rates("base_", asked, base) | _rates("", asked, adapter)
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


def _rates(prefix: str, asked: Sequence[str], replies: Sequence[tuple[list[str], bool]]) -> dict[str, float]:
    pairs = list(zip(asked, replies, strict=True))
    return {
        f"{prefix}echo": _share([" ".join(bubbles).lower() == question.lower() for question, (bubbles, _) in pairs]),
        f"{prefix}loop": _share([_loops(" ".join(bubbles).split()) for _, (bubbles, _) in pairs]),
        f"{prefix}endless": _share([not ended for _, (_, ended) in pairs]),
    }


def _loops(words: list[str]) -> bool:
    """Whether some run of three words stands three times in it."""
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return any(runs.count(run) >= 3 for run in set(runs))


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _spread(count: int, wanted: int) -> list[int]:
    """*wanted* indices spread evenly over *count*."""
    step = max(1.0, count / wanted)
    return [int(i * step) for i in range(min(count, wanted))]


def _last_asked(messages: Sequence[Any]) -> str:
    """The last line of the prompt without its label: what the reply answers."""
    last = str(messages[-2]["content"]).rpartition("\n")[2]
    return last.partition(": ")[2] if ": " in last else last
