"""The figures of a verdict as rows of a table: base, previous generation, adapter, the person's own, other people's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from training.evaluate import Looked, Verdict

GROUPS = {
    "loss": "How well it expects you",
    "style": "How far its style is from yours",
    "authorship": "Whose writing it looks like",
    "faults": "What goes wrong",
}
LOSSES = {
    "test_loss": "nats a token",
    "bits_per_char": "bits a character",
    "valid_loss": "nats a token, validation",
}
STYLE = {
    "mean": "style distance",
    "words": "words in a reply",
    "bubbles": "bubbles in a reply",
    "case": "upper and lower case",
    "ending": "how replies end",
    "emoji": "emoji",
    "abbreviations": "abbreviations",
}
FAULTS = {
    "echo": "repeats what was asked",
    "copy": "copies training replies",
    "loop": "goes round in circles",
    "endless": "never ends",
    "label": "shows a speaker label",
    "empty": "is empty",
}
NAMES = {"base": "base", "previous": "previous", "adapter": "adapter", "own": "you", "others": "others"}


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        group: A key of ``GROUPS``.
        values: Column, a key of ``NAMES`` -> value; None where it is not measured.
        counted: What it is measured on, in words.
        is_share: Whether it is shown in per cent.
        low_is_good: Which way is better.
        short: Whether it stands in the short table as well.
    """

    key: str
    label: str
    group: str
    values: dict[str, float | None]
    counted: str
    is_share: bool = False
    low_is_good: bool = True
    short: bool = True

    @property
    def change(self) -> str:
        """The adapter beside the base: better, worse or same."""
        base, adapter = self.values["base"] or 0.0, self.values["adapter"] or 0.0
        if adapter == base:
            return "same"
        return "better" if (adapter < base) == self.low_is_good else "worse"

    def text(self, column: str) -> str:
        """The value in *column* as it is shown."""
        value = self.values[column]
        if value is None:
            return "–"
        return f"{100 * value:.0f} %" if self.is_share else f"{value:.3f}"


def figures(verdict: Verdict) -> list[Figure]:
    """Every row, in order."""
    return [*_losses(verdict), *_style(verdict), *_authorship(verdict), *_faults(verdict)]


def columns(verdict: Verdict) -> dict[str, str]:
    """Column -> its heading, for what there is."""
    return {column: name for column, name in NAMES.items() if column != "previous" or verdict.previous}


def table(verdict: Verdict) -> list[str]:
    """The short table as plain lines."""
    shown = columns(verdict)
    lines = [" " * 26 + "".join(f"{name:>10}" for name in shown.values())]
    for row in figures(verdict):
        if row.short:
            lines.append(f"{row.label:26}" + "".join(f"{row.text(column):>10}" for column in shown))
    return lines


def _losses(verdict: Verdict) -> Iterator[Figure]:
    amounts = verdict.amounts
    replies = f"{amounts.held_out:,} held-out replies"
    counted = {
        "test_loss": f"{replies}, {amounts.tokens:,} tokens",
        "bits_per_char": f"{replies}, {amounts.characters:,} characters",
        "valid_loss": f"{amounts.valid:,} validation replies",
    }
    for key, label in LOSSES.items():
        values = _values(verdict, attrgetter(key))
        yield Figure(key, label, "loss", values, counted[key], short=key != "valid_loss")


def _style(verdict: Verdict) -> Iterator[Figure]:
    measures = verdict.adapter.measures
    counted = f"{verdict.amounts.generated:,} generated beside {verdict.amounts.held_out:,} held-out replies"
    for key, label in STYLE.items():
        habit = attrgetter(key)
        values = _values(
            verdict, attrgetter(f"measures.style.{key}"), habit(measures.style_own), habit(measures.style_others)
        )
        yield Figure(f"style_{key}", label, "style", values, counted, short=key == "mean")


def _authorship(verdict: Verdict) -> Iterator[Figure]:
    found = verdict.adapter.measures.authorship
    bundles = "1 bundle" if found.bundles == 1 else f"{found.bundles} bundles"
    counted = f"{bundles} of about {round(verdict.amounts.generated / found.bundles)} replies"
    alike = _values(verdict, attrgetter("measures.authorship.generated"), found.own, found.others)
    nearer = _values(verdict, attrgetter("measures.authorship.nearer"), found.own_nearer, found.others_nearer)
    yield Figure("authorship", "likeness to your writing", "authorship", alike, counted, low_is_good=False)
    yield Figure("nearer", "taken for you", "authorship", nearer, counted, is_share=True, low_is_good=False)


def _faults(verdict: Verdict) -> Iterator[Figure]:
    own = verdict.own_faults
    counted = f"{verdict.amounts.generated:,} generated replies, {own.replies:,} of yours"
    for key, label in FAULTS.items():
        values = _values(verdict, partial(_share, key), own.share(key))
        yield Figure(key, label, "faults", values, counted, is_share=True)


def _share(fault: str, model: Looked) -> float:
    return model.measures.faults.share(fault)


def _values(
    verdict: Verdict, take: Callable[[Looked], float], own: float | None = None, others: float | None = None
) -> dict[str, float | None]:
    previous = take(verdict.previous) if verdict.previous else None
    return {
        "base": take(verdict.base), "previous": previous, "adapter": take(verdict.adapter), "own": own,
        "others": others,
    }  # fmt: skip
