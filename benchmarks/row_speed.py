"""Tokens a second of the service's device alone, without HTTP: rows of the base, of one adapter, of eight.

In one process and in short turns, so that what else the machine does meets all alike; of each turn the median step
counts. Feeding the prompts does not, and after the first turn they come from the prefix cache.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from prompt_format.adapter_check import check_adapter
from prompt_format.adapter_store import current, read_generation

ONE, EIGHT, ONE_ROW = "1 adapter", "8 adapters", ", 1 row"
WARM_UP = 2  # steps
RANK = 16  # of a slot, as the service has by default; the adapters have 8
PREFIX_BYTES = 2**29  # also the default


def measure_rows(
    model: Path, store: Path, names: Sequence[str], prompts: Sequence[list[int]], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Tokens a second in each round: ``base``, ``1 adapter`` and ``8 adapters`` with a row for each of *prompts*;
    the first two with one row too."""
    from service.mlx_device import MlxDevice

    device = MlxDevice(str(model), len(names) + 1, RANK, PREFIX_BYTES)
    for slot, name in enumerate(names, 1):
        _stage(device, store, slot, name)
    every = [1 + number % len(names) for number in range(len(prompts))]
    turns = {
        "base": [0] * len(prompts),
        ONE: [1] * len(prompts),
        EIGHT: every,
        f"base{ONE_ROW}": [0],
        f"{ONE}{ONE_ROW}": [1],
    }
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, slots in turns.items():
            found[name].append(_rate(device, prompts, slots, steps))
    device.close()
    return found


def row_ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds: of many adapters to one, and how much longer a step with an adapter takes."""

    def ratio(of: str, to: str) -> float:
        return round(statistics.median(a / b for a, b in zip(rates[of], rates[to], strict=True)), 3)

    return {
        "eight_to_one": ratio(EIGHT, ONE),
        "adapter_step_to_base": ratio("base", ONE),
        "adapter_step_to_base_one_row": ratio(f"base{ONE_ROW}", f"{ONE}{ONE_ROW}"),
    }


def _stage(device: Any, store: Path, slot: int, name: str) -> None:
    facts, generation = device.facts, current(store, name)
    files = read_generation(store, name, generation)
    checked = check_adapter(files, name, generation, facts.fingerprint, facts.template, facts.shapes, facts.blocks)
    for _ in device.stage(slot, checked):
        pass  # a piece each


def _rate(device: Any, prompts: Sequence[list[int]], slots: Sequence[int], steps: int) -> float:
    from service.choice import Sampling
    from service.engine import Job

    keys: list[int] = []
    for ids, slot in zip(prompts, slots, strict=False):
        feeding = device.begin(Job(ids, slot, (0,), WARM_UP + steps + 8, Sampling(temperature=0)))
        device.feed(feeding, feeding.left)
        keys += feeding.keys
    seconds = []
    for _ in range(WARM_UP + steps):
        began = perf_counter()
        tokens = device.step()
        seconds.append(perf_counter() - began)
        if len(tokens) != len(keys) or any(token.end for token in tokens):
            raise SystemExit("a row ended before it was counted: the base must be one that goes on")
    device.remove(keys)
    return len(keys) / statistics.median(seconds[WARM_UP:])
