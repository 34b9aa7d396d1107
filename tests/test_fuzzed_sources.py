"""Damaged exports: for each importer two thousand, and each ends with a report or an error of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.sources.registry import SOURCES

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", SOURCES)
def test_no_damage_breaks_an_importer(source: str) -> None:
    """No traceback, none takes 5 s, and the whole run stays under 300 MB."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_source", source, "2000"], cwd=ROOT, capture_output=True, timeout=300
    )
    found = json.loads(run.stdout)

    assert (2000, []) == (found["mutants"], found["failures"])
    assert found["slowest_s"] < 5 and found["peak_mb"] < 300
    assert found.get("refused", 0) + found.get("said_so", 0) > 200  # the damage was noticed
