"""Replies beside ``mlx_lm.server``: a new adapter live, many clients, a growing thread; and what adapters cost a row.

    python -m benchmarks.serve_speed [--cases starter lfm2-350m] [--rounds N] [--keep FOLDER]

Both servers get the same base in float32, the same adapters (the folders of one store), the same BLAS, the same
prompts, token for token, and answer greedily in streams to as many tokens; both have their default settings. In a round
there is one process of each, and they take turns, one asked while the other waits, so that what else the machine does
meets both. In a round, for each server:

    swap      a retrained adapter is made live, nothing else to do. Ours: ``POST /adapters/reload`` after CURRENT moved,
              its verify, read, stage, probe and cutover; warming the prefix cache is told apart, and the whole call
              with it is ``reload_call_ms``: until then the old generation answers. Theirs: what the first token takes
              longer for the change, since it has no other way; nobody is answered meanwhile.
    clients   eight clients over four adapters, thread after thread, each waiting for its reply: replies a second.
    thread    one client and a thread that grows by two messages a request, half a second after the last answer, the
              replies in it from a script: the first token and the whole reply, from the second request on, for a
              variant whose prompts slide and for one whose prompts grow.

Then ours alone, in a process without HTTP: sixteen rows of the base, of one adapter and of eight, decoded in turns;
and one row of the base and of an adapter.
What is random is said in ``serving_world``. Writes docs/figures/serve_speed.json and .png.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.alone import alone
from benchmarks.example import OURS, THEIRS
from benchmarks.figures import FOLDER, Panel, draw_bars, write_figures
from benchmarks.row_speed import EIGHT, ONE, ONE_ROW, measure_rows, row_ratios
from benchmarks.serve_rounds import THREADS, Asked, Case, ask_in_turns, make_plan
from benchmarks.serving_world import ADAPTERS, World, make_world, prepared
from benchmarks.train_speed import merged

ROWS = 16

CASES = {
    "starter": Case("base_model/starter (3 M parameters)", "endless-starter", 5, 3, 10, 4, 12, 15, 32, 1.0),
    "lfm2-350m": Case(
        "LFM2-350M's shape with random weights; the starter's tokenizer and template", "lfm2-350m",
        3, 1, 3, 3, 4, 7, 16, 4.0,
    ),
}  # fmt: skip
# measure -> (limit, whether more is better) of ours to theirs, or of the ratios of rows; by case where they differ.
TARGETS: dict[str, tuple[float | dict[str, float], bool]] = {
    "swap_ms": ({"lfm2-350m": 0.2}, False),
    "replies_a_second": (4.0, True),
    **{
        f"{variant}_{what}_ms": (limit, False)
        for variant in THREADS
        for what, limit in (("first", 0.5), ("reply", 0.8))
    },
    "eight_to_one": (0.9, True),
    "adapter_step_to_base": ({"starter": 1.2, "lfm2-350m": 1.15}, False),
}


def main() -> int:
    """Measure and write the figures."""
    options = _options()
    cases = {name: replace(CASES[name], rounds=options.rounds or CASES[name].rounds) for name in options.cases}
    print(f"on two cores this takes about {sum(map(_minutes, cases.values())):.0f} minutes", flush=True)
    with _folder(options.keep) as folder:
        measured = {name: _measure(name, case, folder) for name, case in cases.items()}
    figures = merged(FOLDER / "serve_speed.json", measured)
    path = write_figures("serve_speed", {"what": __doc__.partition("\n")[0], "cases": figures})
    drawn = draw_bars("serve_speed", [row for name, case in figures.items() for row in _panels(name, case)], 3.4)
    print(f"written: {path} and {drawn}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, help="pairs of processes, one of each server")
    parser.add_argument("--keep", type=Path, help="where bases, adapters and the servers' lines are left to look at")
    return parser.parse_args()


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    with ExitStack() as stack:
        yield kept or Path(stack.enter_context(tempfile.TemporaryDirectory()))


def _minutes(case: Case) -> float:
    return case.rounds * case.round_min + 1.5


# -- rounds


def _measure(name: str, case: Case, folder: Path) -> dict[str, Any]:
    """All that is measured of one case."""
    print(f"{name}: {case.about}", flush=True)
    world = make_world(name, folder / name)
    rounds: dict[str, list[Asked]] = {OURS: [], THEIRS: []}
    for number in range(case.rounds):
        plan = make_plan(world, case)
        sides = (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS)
        for side, asked in ask_in_turns(world, plan, case, sides, folder).items():
            rounds[side].append(asked)
            found = ", ".join(f"{key} {value:.4g}" for key, value in asked.measured.items())
            print(f"round {number + 1} of {case.rounds}: {side}: {found}", flush=True)
    endless = world if case.rows_base == name else make_world(case.rows_base, folder / case.rows_base)
    rows = _measure_rows(endless, case)
    figures = figures_of(name, rounds, rows, world)
    for measure, verdict in figures["targets"].items():
        print(f"{name}: {measure}: " + ", ".join(f"{key} {value}" for key, value in verdict.items()), flush=True)
    return {**asdict(case), **figures}


def _measure_rows(world: World, case: Case) -> dict[str, list[float]]:
    prompts = [world.threads("raw_style_variable", 3)[-1].ids for _ in range(ROWS)]
    arguments = (world.model, world.store, list(ADAPTERS), prompts, case.steps, case.row_rounds)
    rates: dict[str, list[float]] = alone(prepared, measure_rows, *arguments)
    found = ", ".join(f"{label} {statistics.median(each):.4g}" for label, each in rates.items())
    print(f"rows, tokens a second: {found}", flush=True)
    return rates


# -- figures


def figures_of(name: str, rounds: dict[str, list[Asked]], rows: dict[str, list[float]], world: World) -> dict[str, Any]:
    """Medians over the rounds with the lowest and highest, ratios, and whether both servers were asked the same."""
    sides = {side: _over_rounds([asked.measured for asked in each]) for side, each in rounds.items()}
    ratios = {
        measure: round(
            statistics.median(
                ours.measured[measure] / theirs.measured[measure]
                for ours, theirs in zip(rounds[OURS], rounds[THEIRS], strict=True)
            ),
            3,
        )
        for measure in TARGETS
        if measure in sides[OURS]
    }
    found = ratios | row_ratios(rows)
    return {
        **sides,
        "reload_parts_ms": _over_rounds([asked.parts for asked in rounds[OURS]]),
        "ours_to_theirs": ratios,
        "agreement": agreement(rounds, world),
        "rows": {**_over_rounds([dict(zip(rows, turn, strict=True)) for turn in zip(*rows.values(), strict=True)]),
                 **row_ratios(rows)},
        "targets": {measure: verdict for measure in TARGETS if (verdict := judged(name, measure, found[measure]))},
    }  # fmt: skip


def judged(name: str, measure: str, found: float) -> dict[str, Any] | None:
    """What was aimed at and whether it was reached; None where nothing was in this case."""
    limit, more_is_better = TARGETS[measure]
    bound = limit.get(name) if isinstance(limit, dict) else limit
    if bound is None:
        return None
    words = "at least" if more_is_better else "at most"
    return {"found": found, words: bound, "met": found >= bound if more_is_better else found <= bound}


def agreement(rounds: dict[str, list[Asked]], world: World) -> dict[str, str]:
    """How many prompts had our count of tokens on each side, and how many replies were the same on both."""
    answered = {side: [pair for asked in each for pair in asked.answers] for side, each in rounds.items()}
    counted = {
        f"prompt_tokens_as_counted, {side}": sum(
            len(question.ids) == answer.prompt_tokens for question, answer in pairs
        )
        for side, pairs in answered.items()
    }
    same = sum(
        ours.text == world.shown(question, theirs.text)
        for (question, ours), (_, theirs) in zip(answered[OURS], answered[THEIRS], strict=True)
    )
    of = len(answered[OURS])
    return {name: f"{count} of {of}" for name, count in {**counted, "replies_that_are_the_same": same}.items()}


def _over_rounds(rounds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """name -> median, lowest and highest of the rounds."""
    return {
        name: {
            "median": round(statistics.median(each[name] for each in rounds), 3),
            "lowest": round(min(each[name] for each in rounds), 3),
            "highest": round(max(each[name] for each in rounds), 3),
        }
        for name in rounds[0]
    }


def _panels(name: str, case: dict[str, Any]) -> list[list[Panel]]:
    def both(title: str, unit: str, measure: str) -> Panel:
        return _panel(title, unit, {side: case[side][measure] for side in (OURS, THEIRS)})

    rows = {label: case["rows"][label] for label in ("base", ONE, EIGHT)}
    alone_rows = {label.removesuffix(ONE_ROW): case["rows"][label] for label in case["rows"] if label.endswith(ONE_ROW)}
    return [
        [
            both(f"{name}: a new adapter live", "ms", "swap_ms"),
            both("8 clients, 4 adapters", "replies a second", "replies_a_second"),
            _panel("ours, 16 rows", "tokens a second", rows),
            _panel("ours, 1 row", "tokens a second", alone_rows),
        ],
        [
            both(f"{name}: first token,\nsliding window", "ms", "raw_style_variable_first_ms"),
            both("whole reply,\nsliding window", "ms", "raw_style_variable_reply_ms"),
            both("first token,\ngrowing prompt", "ms", "turns_first_ms"),
            both("whole reply,\ngrowing prompt", "ms", "turns_reply_ms"),
        ],
    ]


def _panel(title: str, unit: str, values: dict[str, dict[str, float]]) -> Panel:
    heights = {label: value["median"] for label, value in values.items()}
    return Panel(title, unit, heights, {label: (value["lowest"], value["highest"]) for label, value in values.items()})


if __name__ == "__main__":
    raise SystemExit(main())
