"""What a short run (``train --iters N``) shows, so that a person sees whether rows and replies are right."""

from collections.abc import Sequence

from training.rows import Dataset
from training.samples import Sample

SHOWN = 3


def first_rows(dataset: Dataset) -> list[str]:
    """The first rows of train as the model sees them; between [[ and ]] is what the loss is on."""
    lines = []
    for number, example in enumerate(dataset.splits["train"][:SHOWN], 1):
        prompt, reply = dataset.format.texts(example)
        lines.append(f"row {number}, {len(example.ids)} tokens, the loss is on what stands between [[ and ]]:")
        lines += [f"  {line}" for line in f"{prompt}[[{reply}]]".split("\n")]
    return lines


def side_by_side(samples: Sequence[Sample]) -> list[str]:
    """Some held-out questions with the base's reply, the previous generation's, the adapter's and the real one."""
    lines = []
    for sample in samples[:: max(1, len(samples) // SHOWN)][:SHOWN]:
        texts = {"asked": sample.asked, "base": sample.base, "previous": sample.previous}
        texts |= {"adapter": sample.adapter, "in truth": sample.real}
        lines += [
            f"{name:8} {' / '.join(bubbles) or '(nothing)'}" for name, bubbles in texts.items() if bubbles is not None
        ]
    return lines
