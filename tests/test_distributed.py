"""One training in two processes under mlx.launch: the losses and weights of one process with the same batches."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from prompt_format.adapter_store import generations
from tests.kill_training import prepare

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring", "--"]


def run(*arguments: str, together: bool) -> subprocess.CompletedProcess[str]:
    command = [*(LAUNCH if together else []), sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Callable[[str, int], Any]:
    """What rank *rank* of a run wrote: of ``one`` process, or of ``two``."""
    for out, together in (("one", False), ("two", True)):
        done = run("tests.train_together", str(folder), str(folder / out), together=together)
        assert done.returncode == 0, done.stderr
    return lambda out, rank: json.loads((folder / f"{out}.{rank}.json").read_text())


def test_two_processes_have_the_losses_of_one(trained: Callable[[str, int], Any]) -> None:
    """Of every step and every validation, to rounding, with the same batches."""
    one, two = trained("one", 0), trained("two", 0)

    assert 8 == len(one["losses"]) == len(two["losses"])
    for losses in ("losses", "validation"):
        for (step, alone), (same_step, together) in zip(one[losses], two[losses], strict=True):
            assert step == same_step and together == pytest.approx(alone, rel=1e-4)


def test_every_process_ends_with_the_same_weights(trained: Callable[[str, int], Any], folder: Path) -> None:
    """To the last bit: whichever of them published, it would be the same generation."""
    trained("two", 1)
    first, second = (mx.load(str(folder / f"two.{rank}.safetensors")) for rank in (0, 1))

    assert isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys()
    assert all(mx.array_equal(value, second[name]) for name, value in first.items())


def test_processes_that_differ_are_refused(folder: Path) -> None:
    """Before the first step, on every rank: rank 1 was given another config."""
    done = run("tests.train_together", str(folder), str(folder / "bad"), "--seed-of-rank", "1", together=True)

    assert "the processes of this run do not have the same config" in done.stdout + done.stderr
    assert [] == list(folder.glob("bad.*"))


def test_the_first_process_publishes(folder: Path) -> None:
    """``training train`` under mlx.launch: one generation, said once."""
    store = folder / "adapters"
    done = run("training", "train", str(folder / "jo.yaml"), "--adapters", str(store), together=True)

    assert done.returncode == 0, done.stderr
    (generation,) = generations(store, "jo")
    assert 1 == (done.stdout + done.stderr).count(f"published jo@{generation}")
