"""Examples a second and memory of training, beside mlx-lm's own trainer (``mlx_lm.lora --mask-prompt``).

    python -m benchmarks.train_speed [--cases starter lfm2-350m] [--rounds N] [--steps N] [--batch-size N]

Same rows, model, layers, rank, scale and batch size, the same BLAS, float32. The two take turns, each turn in a process
of its own. Each makes its batches in its own way and has the cores in the way that suits it: ours one BLAS thread, as
``training train`` has; mlx-lm as many as are better for it, which is tried first. A turn is one step to warm up, on
the batch of an epoch with the most tokens, so that the peak of memory is an epoch's; then steps on batches spread
evenly over the epoch from short to long, so that a few steps stand for all of it. Whole steps are counted; reading
model and rows is not.

Before that, ``first_step`` compares one step of ours with loss and gradient written out plainly. Writes
docs/figures/train_speed.json and .png; the figures there of a case that is not run stay as they were.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from base_model.resolve import STARTER
from benchmarks.alone import alone, peak_rss, prepare
from benchmarks.example import OURS, THEIRS, begin_run, example_config, first_epoch
from benchmarks.figures import FOLDER, Panel, draw_bars, write_figures
from benchmarks.first_step import compare_first_step
from benchmarks.random_lfm2 import write_random_lfm2
from training.config import TrainConfig
from training.watch import Silent

START_S = 8  # about what a process takes before its first step
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A model to train.

    Attributes:
        steps: Counted in each turn.
        rounds: Turns of each trainer.
        tried: Steps counted in each try of mlx-lm's BLAS threads.
        step_s: About what a step of both together takes on two cores, to say beforehand how long it will be.
    """

    about: str
    batch_size: int
    steps: int
    rounds: int
    tried: int
    step_s: float


CASES = {
    "starter": Case("base_model/starter (3 M parameters)", 16, 12, 5, 5, 3),
    # Batches of 16 would need some 15 GB of mlx-lm, from what batches of 4 and 8 did: 0.86 GB a row.
    "lfm2-350m": Case(
        "LFM2-350M's shape with random weights; the starter's tokenizer and template, so the rows are the same ids",
        8, 2, 2, 1, 60,
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
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        example = example_config(Path(folder) / "data")
        for name, case in cases.items():
            model = str(STARTER) if name == "starter" else alone(_random_model, Path(folder) / name)
            config = example.model_copy(update={"model": model, "batch_size": case.batch_size})
            measured[name] = _measure(name, case, config)
    figures = merged(FOLDER / "train_speed.json", measured)
    path = write_figures("train_speed", {"what": __doc__.partition("\n")[0], "cases": figures})
    print(f"written: {path} and {draw_bars('train_speed', [_panels(*case) for case in figures.items()])}")
    return 0 if all(case["first_step"]["agrees"] for case in measured.values()) else 1


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
    check = case.step_s + START_S
    tries = 2 * ((case.tried + 1) * case.step_s + START_S)
    return (case.rounds * ((case.steps + 1) * case.step_s + 2 * START_S) + tries + check) / 60


def merged(path: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """The cases *measured* now, and those in the figures at *path* that were not; each of these says where and when.

    What a file says of where and when is of the last run: a case that stays takes along what was said of its own.
    """
    before = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    kept = {name: {"measured": before["measured"], **case} for name, case in before["cases"].items()}
    both = kept | measured
    return {name: both[name] for name in CASES if name in both}


def _random_model(folder: Path) -> str:
    prepare(None)
    print(f"a random model of {write_random_lfm2(folder, STARTER):,} parameters", flush=True)
    return str(folder)


# -- turns


def _measure(name: str, case: Case, config: TrainConfig) -> dict[str, Any]:
    """All that is measured of one case."""
    print(f"{name}: {case.about}; batches of {case.batch_size}", flush=True)
    check = alone(compare_first_step, config)
    print("first step: " + ", ".join(f"{key} {value}" for key, value in check.items()), flush=True)
    counts = sorted({1, os.cpu_count() or 1})
    trials = {n: _taken("a try", Turn(THEIRS, config, n, case.tried)).rate for n in counts}
    threads = {OURS: 1, THEIRS: max(trials, key=lambda n: trials[n])}
    took: dict[str, list[Took]] = {OURS: [], THEIRS: []}
    for number in range(case.rounds):
        for trainer in took:
            turn = Turn(trainer, config, threads[trainer], case.steps)
            took[trainer].append(_taken(f"round {number + 1} of {case.rounds}", turn))
    return {
        **asdict(case),
        "first_step": check,
        "mlx_lm_by_blas_threads": {str(n): round(rate, 3) for n, rate in trials.items()},
        **{trainer: {"blas_threads": threads[trainer], **summary(turns)} for trainer, turns in took.items()},
        "times_as_fast": round(
            statistics.median(a.rate / b.rate for a, b in zip(took[OURS], took[THEIRS], strict=True)), 2
        ),
    }


def _taken(what: str, turn: Turn) -> Took:
    took = alone(take_turn, turn)
    print(
        f"{what}: {turn.trainer}, BLAS threads {turn.threads}: {took.rate:.2f} examples a second over "
        f"{len(took.seconds)} steps, {sum(took.seconds):.0f} s",
        flush=True,
    )
    return took


def take_turn(turn: Turn) -> Took:
    """Train for some steps, in a process that has not imported mlx yet."""
    prepare(turn.threads, side_by_side=turn.trainer == OURS)
    return (_ours if turn.trainer == OURS else _theirs)(turn)


def _ours(turn: Turn) -> Took:
    run = begin_run(turn.config, Silent())
    steps = spread(first_epoch(run), lambda indices: sum(len(run.train[i].ids) for i in indices), turn.steps)
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


if __name__ == "__main__":
    sys.exit(main())
