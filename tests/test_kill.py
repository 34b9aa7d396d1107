"""Killed at any moment, a publisher leaves the old state or the new. ``make prove`` does it hundreds of times more."""

import random
from pathlib import Path

import pytest

from prompt_format.adapter_store import CURRENT, current, generations
from prompt_format.manifest import MANIFEST, WEIGHTS
from tests.kill_training import another, kill_a_publisher, kill_before_change, leftovers, torn
from tests.tiny import a_candidate
from training.publish import publish

KILLS = 15


def test_kills_at_random_moments_leave_a_whole_store(tmp_path: Path) -> None:
    """After each every generation is whole, CURRENT names one of them, and the next publish works and tidies up."""
    candidate, pick = a_candidate(size=8192), random.Random(0)
    for kill in range(KILLS):
        had_current = (tmp_path / "jo" / CURRENT).exists()
        kill_a_publisher(tmp_path, candidate, 100 * kill, within_s=0.04, pick=pick)

        assert [] == torn(tmp_path)
        assert had_current <= (tmp_path / "jo" / CURRENT).exists()
        assert publish(tmp_path, another(candidate, 100 * kill + 99), activate=True) == current(tmp_path, "jo")
        assert ([], []) == (torn(tmp_path), leftovers(tmp_path))


@pytest.mark.parametrize("replaces", [False, True], ids=["the first generation", "the next generation"])
def test_a_kill_before_any_change_to_the_store_leaves_it_whole(tmp_path: Path, replaces: bool) -> None:
    """One kill before each file, folder, rename and removal, up to the last; then a publish goes through."""
    candidate, change = a_candidate(), 0
    old = {publish(tmp_path, another(candidate, 0), activate=True)} if replaces else set()
    while kill_before_change(tmp_path, another(candidate, change + 1), change):
        assert [] == torn(tmp_path)
        assert old <= set(generations(tmp_path, "jo"))
        assert not replaces or (tmp_path / "jo" / CURRENT).exists()
        change += 1

    assert 12 < change < 40
    assert ([], []) == (torn(tmp_path), leftovers(tmp_path))


@pytest.mark.parametrize("file", [WEIGHTS, MANIFEST, CURRENT])
def test_a_torn_store_is_seen(tmp_path: Path, file: str) -> None:
    """What these tests look with does see a file that was cut in half."""
    generation = publish(tmp_path, a_candidate(), activate=True)
    path = tmp_path / "jo" / (CURRENT if file == CURRENT else f"{generation}/{file}")
    path.write_bytes(path.read_bytes()[:-7])

    assert 1 <= len(torn(tmp_path))
