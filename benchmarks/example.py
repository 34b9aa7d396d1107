"""What the training benchmarks train on: the example's rows and config, and a run of ours on them.

mlx is imported where it is needed, so that a process can call ``prepare`` before.
"""

from pathlib import Path
from typing import Any

from base_model.resolve import STARTER
from training.config import TrainConfig, load_config
from training.watch import Silent, Step

EXAMPLE = Path("data/example")
OURS, THEIRS = "samevoice", "mlx-lm"


class Kept(Silent):
    """Keeps what it is told of each step."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def stepped(self, step: Step) -> None:
        self.steps.append(step)


def example_config(folder: Path) -> TrainConfig:
    """The example's config (jo.yaml), with its rows built into *folder* as ``make demo`` builds them."""
    from base_model.tokenizer import load_tokenizer
    from prompt_format.chat_template import ChatTemplate
    from training.contacts import load_contacts
    from training.conversations import read_history
    from training.dataset import build
    from training.plan import Plan

    template = ChatTemplate(load_tokenizer(STARTER))
    plan = Plan("Jo", ["raw_style_variable"], load_contacts(EXAMPLE / "contacts.yaml"))
    (written,) = build(read_history([EXAMPLE / "messages.jsonl"]), template, folder, plan).variants
    return load_config(EXAMPLE / "jo.yaml").model_copy(update={"data": written.folder})


def begin_run(config: TrainConfig, watch: Silent) -> Any:
    """A run of ours before its first step."""
    import mlx.core as mx

    from base_model.load import load_base
    from prompt_format.chat_template import ChatTemplate
    from training.finetune import Run
    from training.reply_loss import reply_logits
    from training.rows import load_dataset

    base = load_base(config.model)
    dataset = load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)
    logits = reply_logits(base.model)
    mx.random.seed(config.seed)
    run = Run(base.model, dataset.splits["train"], dataset.splits["valid"], config, logits, watch)
    base.model.train()
    return run


def first_epoch(run: Any) -> list[list[int]]:
    """The batches of the first epoch of a *run* that has taken no step: indices of its rows."""
    batches = run.batches()
    epoch: list[list[int]] = []
    while sum(map(len, epoch)) < len(run.train):
        epoch.append(next(batches))
    return epoch
