"""What the kill tests kill, and how they look at what is left. No tests of its own.

    python -m tests.kill_training FOLDER     a tiny model and dataset in FOLDER, and one real `training train` on them

The publishers import no mlx. Each is forked from a server process that has only imported the code, so it is there in
milliseconds and can be killed hundreds of times; the kill is SIGKILL, which no process can put off.
"""

import multiprocessing
import os
import random
import signal
import struct
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from errors import AdapterRefused
from prompt_format.adapter_check import check_manifest
from prompt_format.adapter_store import CURRENT, current, generations, names, read_generation
from training.publish import Candidate, publish

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "tests.kill_training"])
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # Python's audit events, raised before the deed
SETTINGS = """
name: jo
model: {folder}/model
data: {folder}/raw_style
rank: 4
batch_size: 6
iters: 40
learning_rate: 0.02
early_stopping: {{patience: 99, evaluations_per_epoch: 1}}
"""


# -- the victims


def another(candidate: Candidate, number: int) -> Candidate:
    """*candidate* with its last weight changed: another generation for each *number*."""
    return replace(candidate, weights=candidate.weights[:-4] + struct.pack("<f", float(number)))


def publish_for_ever(store: Path, candidate: Candidate, first: int, ready: Connection) -> None:
    """Publish generation after generation, each made current."""
    ready.send("ready")
    while True:
        publish(store, another(candidate, first), activate=True)
        first += 1


def publish_up_to(store: Path, candidate: Candidate, change: int) -> None:
    """Publish *candidate*, and be killed just before change number *change* to the store."""
    seen = -1

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES and str(arguments[0]).startswith(str(store)):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    publish(store, candidate, activate=True)


def kill_a_publisher(store: Path, candidate: Candidate, first: int, within_s: float, pick: random.Random) -> None:
    """Let one publish from number *first* on, and kill it at a random moment of the next *within_s*."""
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=publish_for_ever, args=(store, candidate, first, theirs))
    process.start()
    ours.recv()
    time.sleep(pick.uniform(0, within_s))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"the publisher ended by itself: {process.exitcode}"
    process.close()
    ours.close()
    theirs.close()


def kill_before_change(store: Path, candidate: Candidate, change: int) -> bool:
    """Kill a publisher just before change number *change*; False when it has fewer and ended well."""
    process = FORKS.Process(target=publish_up_to, args=(store, candidate, change))
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL), f"the publisher ended by itself: {code}"
    return code != 0


# -- what is left


def torn(store: Path) -> list[str]:
    """What a service would trip over: a generation that is not whole, a CURRENT that names none. Empty is good."""
    found = []
    for name in names(store):
        whole = set()
        for generation in generations(store, name):
            try:
                check_manifest(read_generation(store, name, generation), name, generation)
                whole.add(generation)
            except AdapterRefused as fault:
                found.append(f"{name}@{generation}: {fault.code}: {fault.message}")
        if os.path.lexists(store / name / CURRENT):
            try:
                if current(store, name) not in whole:
                    found.append(f"{name}: CURRENT names a generation that is not whole")
            except AdapterRefused as fault:
                found.append(f"{name}: {fault.code}: {fault.message}")
    return found


def leftovers(store: Path) -> list[str]:
    """What lies half-written where readers do not look; checkpoints are none."""
    return sorted(p.name for p in store.rglob(".staging-*") if "checkpoint" not in p.name)


# -- a real training


def prepare(folder: Path) -> Path:
    """A tiny model, dataset and config in *folder*; returns the config's path."""
    from tests.tiny import tiny_dataset, tiny_model

    tiny_model(folder / "model", "lfm2")
    tiny_dataset(folder, blocks=5)
    config = folder / "jo.yaml"
    config.write_text(SETTINGS.format(folder=folder))
    return config


def main() -> int:
    from training.__main__ import main as training

    folder = Path(sys.argv[1])
    return training(["train", str(prepare(folder)), "--adapters", str(folder / "adapters")])


if __name__ == "__main__":
    sys.exit(main())
