"""Kill publishers and trainings at random moments, and look at what they leave.

    python -m benchmarks.kill_publish [--kills 280] [--trainings 100] [--seed 0]

After each SIGKILL every generation in the store must be whole, CURRENT must name one of them or not be there yet, and
the next publish must work. A killed training goes on with ``--resume`` and must end with the very generation that an
undisturbed one ends with. The publishers write weights of some megabytes and import no mlx; the trainings are
``python -m training train`` on a model of some thousand weights. Writes docs/figures/kill_publish.json.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.figures import write_figures
from prompt_format.adapter_store import CURRENT, current
from tests.kill_training import another, kill_a_publisher, kill_before_change, leftovers, prepare, torn
from training.publish import Candidate, publish

SIZE = 32768  # weights of 4 MiB
A_STORE = 20  # kills, before a new one is begun
TRAINING, MEASURING, DONE = "rows, ", "trained ", "published "  # what the lines of `training train` say when it begins


def main() -> int:
    """Kill, look, and write the figure; exit code 1 if anything was torn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_publish", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=280, help="of publishers and trainings together")
    parser.add_argument("--trainings", type=int, default=100, help="how many of them are of real trainings")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    options = parser.parse_args()
    pick = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        steps = _before_each_change(Path(folder))
        publishing = _publishers(Path(folder), options.kills - options.trainings, pick)
        training = _trainings(Path(folder), options.trainings, pick)
    parts = [steps, publishing, training]
    kills, faults = sum(part["kills"] for part in parts), [fault for part in parts for fault in part.pop("faults")]
    figures = {
        "kills": kills,
        "torn": len(faults),
        "before_each_change_to_the_store": steps,
        "during_publish": publishing,
        "during_train": training,
        "seed": options.seed,
    }
    print(f"{kills} kills, {len(faults)} torn", *faults, sep="\n  ")
    print(f"written: {write_figures('kill_publish', figures)}")
    return 1 if faults else 0


def _before_each_change(folder: Path) -> dict[str, Any]:
    """One kill before each file, folder, rename and removal, for the first generation of an adapter and the next."""
    candidate, kills, faults = _candidate(1), 0, []
    store = folder / "steps"
    for number in range(2):
        change = 0
        while kill_before_change(store, another(candidate, number), change):
            faults += torn(store)
            change += 1
        kills += change
    print(f"{kills} kills of a publisher, one before each change to the store: {len(faults)} torn")
    return {"kills": kills, "faults": faults}


def _publishers(folder: Path, kills: int, pick: random.Random) -> dict[str, Any]:
    """Kills of processes that publish one generation after the other."""
    candidate, half_written, faults = _candidate(SIZE), 0, []
    clock = time.perf_counter()
    publish(folder / "timed", candidate, activate=True)
    twice_s = 2 * (time.perf_counter() - clock)
    for kill in range(kills):
        store = folder / f"publish-{kill // A_STORE}"
        had_current = (store / "jo" / CURRENT).exists()
        kill_a_publisher(store, candidate, 100 * kill, twice_s, pick)
        half_written += bool(leftovers(store))
        faults += torn(store)
        if had_current and not (store / "jo" / CURRENT).exists():
            faults.append("CURRENT is gone")
        if publish(store, another(candidate, 100 * kill + 99), activate=True) != current(store, "jo"):
            faults.append("the next publish did not become current")
        faults += torn(store) + leftovers(store)
    print(f"{kills} kills of a publisher at random moments, {half_written} amid writing: {len(faults)} torn")
    return {"kills": kills, "amid_writing": half_written, "weights_bytes": len(candidate.weights), "faults": faults}


def _trainings(folder: Path, kills: int, pick: random.Random) -> dict[str, Any]:
    """Kills of ``training train``: four of five while it trains, the others while it measures and publishes."""
    config = prepare(folder)
    undisturbed, moments = _timed_training(config, folder / "undisturbed")
    phases: Counter[str] = Counter()
    same, faults = 0, []
    while sum(phases.values()) < kills:
        store = folder / f"train-{sum(phases.values())}"
        old = publish(store, _candidate(1), activate=True)
        wait_for = MEASURING if sum(phases.values()) % 5 == 4 else TRAINING
        phase = _killed_training(config, store, wait_for, pick.uniform(0, moments[wait_for]))
        if phase is None:
            continue  # it was done before the moment came
        phases[phase] += 1
        faults += torn(store)
        if current(store, "jo") not in (old, undisturbed):
            faults.append("CURRENT names neither the old generation nor the new one")
        resume = ["--resume"] if list(store.glob(".staging-checkpoint-*")) else []
        _training(config, store, *resume).communicate()
        same += current(store, "jo") == undisturbed
        faults += torn(store) + leftovers(store)
    print(f"{kills} kills of a training ({dict(phases)}): {len(faults)} torn; {same} ended with the same generation")
    return {"kills": kills, "while": dict(phases), "same_generation_after_resume": same, "faults": faults}


def _training(config: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training", "train", str(config), "--adapters", str(store), *more]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _timed_training(config: Path, store: Path) -> tuple[str, dict[str, float]]:
    """(the generation that the config gives, seconds from each line that is waited for to the next)."""
    process = _training(config, store)
    assert process.stdout
    times = {}
    for line in process.stdout:
        times |= {mark: time.perf_counter() for mark in (TRAINING, MEASURING, DONE) if mark in line}
    assert process.wait() == 0, "the undisturbed training failed"
    spans = {TRAINING: times[MEASURING] - times[TRAINING], MEASURING: times[DONE] - times[MEASURING]}
    return current(store, "jo"), spans


def _killed_training(config: Path, store: Path, wait_for: str, delay_s: float) -> str | None:
    """Kill a training *delay_s* after the line *wait_for*; what it was at then, or None if it was done."""
    process = _training(config, store)
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if wait_for in line:
            break
    time.sleep(delay_s)
    process.kill()
    said += process.communicate()[0]
    if process.returncode != -signal.SIGKILL:
        return None
    return "measuring and publishing" if MEASURING in said else "training"


def _candidate(size: int) -> Candidate:
    from tests.tiny import a_candidate

    return a_candidate(size=size)


if __name__ == "__main__":
    sys.exit(main())
