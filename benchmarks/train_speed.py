"""Examples a second and memory of training, beside mlx-lm's own trainer (``mlx_lm.lora --mask-prompt``).

    python -m benchmarks.train_speed [--cases starter lfm2-350m] [--rounds N] [--steps N] [--batch-size N]

Same rows, model, layers, rank, scale and batch size, the same BLAS, float32. The two take turns, each turn in a process
of its own. Each makes its batches in its own way and has the cores in the way that suits it: ours one BLAS thread, as
``training train`` has; mlx-lm as many as are better for it, which is tried first. A turn is one step to warm up, on
the batch of an epoch with the most tokens, so that the peak of memory is an epoch's; then steps on batches spread
evenly over the epoch from short to long, so that a few steps stand for all of it. Whole steps are counted; reading
model and rows is not.

Before that, one step of ours is compared with loss and gradient written out plainly: each row alone, without padding,
all logits. mlx-lm's loss of the same rows is over more tokens: what its template puts behind the end of turn, and one
of padding. Writes docs/figures/train_speed.json and .png.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from base_model.fast_cpu import prepare_cpu
from base_model.offline import stay_offline
from base_model.resolve import STARTER
from benchmarks.figures import Panel, draw_bars, write_figures
from benchmarks.random_lfm2 import write_random_lfm2
from prompt_format.format import Example
from training.config import TrainConfig, load_config
from training.watch import Step

EXAMPLE = Path("data/example")
OURS, THEIRS = "samevoice", "mlx-lm"
AGREE = 1e-4  # how far loss and gradient may be from what is written out
CHECKED_SCALE = 0.01  # of the LoRA while that is compared: gradients then are too small to be clipped
START_S = 15  # what a process takes before its first step
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A model to train.

    Attributes:
        steps: Counted in each turn.
        rounds: Turns of each trainer.
        step_s: About what a step of both together takes on two cores, to say beforehand how long it will be.
    """

    about: str
    batch_size: int
    steps: int
    rounds: int
    step_s: float


CASES = {
    "starter": Case("base_model/starter (3 M parameters)", 16, 18, 5, 4),
    # Batches of 16 would need some 15 GB of mlx-lm, from what batches of 4 and 8 did: 0.86 GB a row.
    "lfm2-350m": Case(
        "LFM2-350M's shape with random weights; the starter's tokenizer and template, so the rows are the same ids",
        8, 3, 3, 60,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """What one process is to do."""

    trainer: str
    config: TrainConfig
    threads: int | None
    steps: int


@dataclass(frozen=True)
class Took:
    """What it took.

    Attributes:
        examples: Rows in the counted steps.
        seconds: Of each counted step.
        mlx_gb: The most memory that MLX held.
        rss_gb: The most memory of the process that was resident.
    """

    examples: int
    seconds: list[float]
    mlx_gb: float
    rss_gb: float

    @property
    def rate(self) -> float:
        """Examples a second."""
        return self.examples / sum(self.seconds)


def main() -> int:
    """Measure and write the figures; 1 if our loss or gradient is not what is written out."""
    options = _options()
    cases = {name: _asked(CASES[name], options) for name in options.cases}
    print(f"on two cores this takes about {sum(map(_minutes, cases.values())):.0f} minutes", flush=True)
    figures, panels, agree = {}, [], True
    with tempfile.TemporaryDirectory() as folder:
        example = example_config(Path(folder) / "data")
        for name, case in cases.items():
            model = str(STARTER) if name == "starter" else alone(_random_model, Path(folder) / name)
            config = example.model_copy(update={"model": model, "batch_size": case.batch_size})
            figures[name] = measured = _measure(name, case, config)
            panels.append(_panels(name, measured))
            agree &= measured["first_step"]["agrees"]
    path = write_figures("train_speed", {"what": __doc__.partition("\n")[0], "cases": figures})
    print(f"written: {path} and {draw_bars('train_speed', panels)}")
    return 0 if agree else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, help="turns of each trainer")
    parser.add_argument("--steps", type=int, help="counted in each turn")
    parser.add_argument("--batch-size", type=int)
    return parser.parse_args()


def _asked(case: Case, options: argparse.Namespace) -> Case:
    asked = {name: getattr(options, name) for name in ("batch_size", "steps", "rounds")}
    return replace(case, **{name: value for name, value in asked.items() if value})


def _minutes(case: Case) -> float:
    trials_and_check = 3 * (case.step_s + START_S)
    return (case.rounds * ((case.steps + 1) * case.step_s + 2 * START_S) + trials_and_check) / 60


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


def _random_model(folder: Path) -> str:
    prepare(None)
    print(f"a random model of {write_random_lfm2(folder, STARTER):,} parameters", flush=True)
    return str(folder)


# -- processes


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """What *function* of *arguments* returns in a process of its own: nothing is left of it in this one."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise SystemExit("a process was killed, most likely for want of memory: try a smaller --batch-size") from None


def prepare(threads: int | None) -> None:
    """Before mlx is imported: no network, and a BLAS of so many *threads*; None: as many as there are cores."""
    stay_offline(hub_allowed=False)
    prepare_cpu(threads or os.cpu_count())


def peak_rss() -> int:
    """Bytes of this process that were resident at most. Linux' own count, since what getrusage says is handed down."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


# -- turns


def _measure(name: str, case: Case, config: TrainConfig) -> dict[str, Any]:
    """All that is measured of one case."""
    print(f"{name}: {case.about}; batches of {case.batch_size}", flush=True)
    check = alone(compare_first_step, config)
    print("first step: " + ", ".join(f"{key} {value}" for key, value in check.items()), flush=True)
    threads = {OURS: 1, THEIRS: 1}
    trials = {n: alone(take_turn, Turn(THEIRS, config, n, 2)).rate for n in sorted({1, os.cpu_count() or 1})}
    threads[THEIRS] = max(trials, key=lambda n: trials[n])
    print(f"mlx-lm with BLAS threads: {', '.join(f'{n}: {rate:.2f}/s' for n, rate in trials.items())}", flush=True)
    took: dict[str, list[Took]] = {OURS: [], THEIRS: []}
    for number in range(case.rounds):
        for trainer in took:
            took[trainer].append(alone(take_turn, Turn(trainer, config, threads[trainer], case.steps)))
        said = ", ".join(f"{trainer} {turns[-1].rate:.2f}" for trainer, turns in took.items())
        print(f"round {number + 1} of {case.rounds}: {said} examples a second", flush=True)
    return {
        **asdict(case),
        "first_step": check,
        "mlx_lm_by_blas_threads": {str(n): round(rate, 3) for n, rate in trials.items()},
        **{trainer: {"blas_threads": threads[trainer], **summary(turns)} for trainer, turns in took.items()},
        "times_as_fast": round(
            statistics.median(a.rate / b.rate for a, b in zip(took[OURS], took[THEIRS], strict=True)), 2
        ),
    }


def take_turn(turn: Turn) -> Took:
    """Train for some steps, in a process that has not imported mlx yet."""
    prepare(turn.threads)
    return (_ours if turn.trainer == OURS else _theirs)(turn)


def _ours(turn: Turn) -> Took:
    run = _begin(turn.config)
    steps = spread(_epoch(run), lambda indices: sum(len(run.train[i].ids) for i in indices), turn.steps)
    marks = []
    for indices in steps:
        run.take_step(indices)
        marks.append(time.perf_counter())
    return _took(marks, sum(map(len, steps[1:])))


def _theirs(turn: Turn) -> Took:
    from base_model.load import load_base
    from benchmarks.mlx_lm_trainer import fit, one_epoch, read_rows

    base = load_base(turn.config.model)
    rows = read_rows(turn.config.data / "train.jsonl", base.tokenizer)
    epoch = one_epoch(rows, turn.config.batch_size, turn.config.seed)
    steps = spread(epoch, lambda batch: batch[0].size, turn.steps)
    marks: list[float] = []
    rate = turn.config.learning_rate
    fit(base.model, rows, turn.config, len(steps), rate, lambda _: marks.append(time.perf_counter()), steps)
    return _took(marks, sum(batch[0].shape[0] for batch in steps[1:]))


def spread(batches: Sequence[T], size: Callable[[T], int], count: int) -> list[T]:
    """The largest of *batches*, then *count* of them, evenly from small to large; all where there are no more."""
    order = sorted(batches, key=size)
    count = min(count, len(order))
    return [order[-1], *(order[int((number + 0.5) * len(order) / count)] for number in range(count))]


def _took(marks: Sequence[float], examples: int) -> Took:
    """*marks*: when each step was over, the one to warm up first."""
    import mlx.core as mx

    seconds = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    return Took(examples, seconds, mx.get_peak_memory() / 1e9, peak_rss() / 1e9)


def summary(turns: Sequence[Took]) -> dict[str, Any]:
    """The figures of one trainer over all rounds: medians, with the lowest and the highest."""
    rates = [turn.rate for turn in turns]
    return {
        "examples_a_second": round(statistics.median(rates), 3),
        "lowest": round(min(rates), 3),
        "highest": round(max(rates), 3),
        "step_s": round(statistics.median(second for turn in turns for second in turn.seconds), 3),
        "examples_a_turn": turns[0].examples,
        "peak_mlx_gb": round(statistics.median(turn.mlx_gb for turn in turns), 3),
        "peak_rss_gb": round(statistics.median(turn.rss_gb for turn in turns), 3),
    }


def _panels(name: str, measured: dict[str, Any]) -> list[Panel]:
    def bars(key: str) -> dict[str, float]:
        return {trainer: measured[trainer][key] for trainer in (OURS, THEIRS)}

    speed = {trainer: (measured[trainer]["lowest"], measured[trainer]["highest"]) for trainer in (OURS, THEIRS)}
    return [
        Panel(f"{name}, batches of {measured['batch_size']}", "examples a second", bars("examples_a_second"), speed),
        Panel("peak memory, MLX", "GB", bars("peak_mlx_gb"), {}),
        Panel("peak memory, process", "GB", bars("peak_rss_gb"), {}),
    ]


# -- our trainer


class Silent:
    """A watch that keeps what it is told of each step, and says nothing."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def say(self, line: str) -> None:
        pass

    def stepped(self, step: Step) -> None:
        self.steps.append(step)

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        pass


def _begin(config: TrainConfig) -> Any:
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
    run = Run(base.model, dataset.splits["train"], dataset.splits["valid"], config, logits, Silent())
    base.model.train()
    return run


def _epoch(run: Any) -> list[list[int]]:
    """The batches of a run's first epoch."""
    batches = run._batches()
    epoch: list[list[int]] = []
    while sum(map(len, epoch)) < len(run.train):
        epoch.append(next(batches))
    return epoch


# -- is it the same loss?


class Recorder:
    """Stands in for a run's method: keeps the gradients it is given, and changes nothing."""

    def __init__(self, method: Any):
        self._method = method
        self.gradients: Any = None

    def update(self, gradients: Any, rate: float) -> None:
        self.gradients = gradients

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)


def compare_first_step(config: TrainConfig) -> dict[str, Any]:
    """Loss and gradient of our first batch: by a step of ours, written out plainly, and by mlx-lm's loss.

    B begins with random numbers here, or the gradient of A would be nothing.
    """
    prepare(1)
    import mlx.core as mx

    from base_model.tokenizer import load_tokenizer
    from benchmarks.mlx_lm_trainer import loss_and_gradient, read_rows

    run = _begin(config.model_copy(update={"scale": CHECKED_SCALE}))
    drawn = [(name, 0.02 * mx.random.normal(b.shape)) for name, b in run.method.trained().items() if "lora_b" in name]
    run.model.load_weights(drawn, strict=False)
    indices = _epoch(run)[0]
    loss, gradient, tokens = written_out(run.model, [run.train[i] for i in indices])
    recorder = run.method = Recorder(run.method)
    run.take_step(indices)
    ours = run.watch.steps[-1]
    rows = read_rows(config.data / "train.jsonl", load_tokenizer(Path(config.model)), indices)
    their_loss, theirs, their_tokens = loss_and_gradient(run.model, rows)
    apart = {OURS: apart_from(gradient, recorder.gradients), THEIRS: apart_from(gradient, theirs)}
    return {
        "rows": len(indices),
        "loss": {"written out": loss, OURS: ours.loss, THEIRS: their_loss},
        "tokens": {"written out": tokens, OURS: ours.tokens, THEIRS: their_tokens},
        "gradient_apart": apart,
        "agrees": abs(ours.loss - loss) < AGREE and apart[OURS] < AGREE and ours.tokens == tokens,
    }


def written_out(model: Any, rows: Sequence[Example]) -> tuple[float, Any, int]:
    """(mean loss a reply token, its gradient, tokens), by nothing but the definition: each row alone, all its logits.

    The gradient must be shorter than 1: a step of ours clips a longer one.
    """
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map

    def losses(model: Any, row: Example) -> mx.array:
        logits = model(mx.array([row.ids[:-1]]))[0]
        each = nn.losses.cross_entropy(logits, mx.array(row.ids[1:]))
        summed: mx.array = each[row.reply_start - 1 :].sum()
        return summed

    total, gradient, tokens = 0.0, None, sum(len(row.ids) - row.reply_start for row in rows)
    for row in rows:
        loss, grown = nn.value_and_grad(model, losses)(model, row)
        gradient = grown if gradient is None else tree_map(mx.add, gradient, grown)
        mx.eval(loss, gradient)
        total += loss.item()
    gradient = tree_map(lambda array: array / tokens, gradient)
    length = _length(gradient)
    if not 0 < length < 1:
        raise SystemExit(f"the gradient's norm is {length:.3g}: choose another CHECKED_SCALE, so that it is below 1")
    return total / tokens, gradient, tokens


def apart_from(gradient: Any, other: Any) -> float:
    """Norm of the difference over the norm of *gradient*."""
    from mlx.utils import tree_map

    return _length(tree_map(lambda a, b: a - b, gradient, other)) / _length(gradient)


def _length(gradient: Any) -> float:
    from mlx.utils import tree_flatten

    return float(sum((array * array).sum().item() for _, array in tree_flatten(gradient)) ** 0.5)


if __name__ == "__main__":
    sys.exit(main())
