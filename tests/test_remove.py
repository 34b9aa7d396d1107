"""``training adapters remove``: a generation is there or gone, and what is in use stays."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from errors import AdapterRefused, UnknownAdapter
from prompt_format.adapter_check import check_manifest
from prompt_format.adapter_store import current, generations, names, read_generation
from prompt_format.manifest import WEIGHTS
from tests.tiny import a_candidate, files_in
from training.__main__ import main
from training.publish import publish
from training.remove import remove


class Killed(BaseException):
    """The process ends here."""


_left: list[int] = []  # how many changes of the store are let through; empty: all
CHANGES = {"os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event in CHANGES and _left:
        if _left[0] == 0:
            _left.clear()
            raise Killed
        _left[0] -= 1


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_count)  # for good: there is no way to take one off


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The process is left as it was."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def two(store: Path) -> tuple[str, str]:
    """(an old generation, the current one)."""
    return tuple(publish(store, a_candidate(seed=seed), activate=True) for seed in range(2))  # type: ignore[return-value]


def is_whole(store: Path, generation: str) -> bool:
    return check_manifest(read_generation(store, "jo", generation), "jo", generation).generation == generation


def test_a_removed_generation_is_gone(tmp_path: Path) -> None:
    """The others and CURRENT stay as they were."""
    old, now = two(tmp_path)
    before = {path: data for path, data in files_in(tmp_path).items() if old not in path}
    remove(tmp_path, "jo", old)

    assert before == files_in(tmp_path)
    assert {"jo", ".lock"} == {path.name for path in tmp_path.iterdir()}
    assert ([now], now) == (generations(tmp_path, "jo"), current(tmp_path, "jo"))


def test_the_current_generation_stays(tmp_path: Path) -> None:
    """And the refusal says what to do."""
    _, now = two(tmp_path)
    before = files_in(tmp_path)

    with pytest.raises(AdapterRefused, match="adapters rollback jo") as refusal:
        remove(tmp_path, "jo", now)
    assert "generation_in_use" == refusal.value.code
    assert before == files_in(tmp_path)


def test_with_the_last_generation_the_name_goes(tmp_path: Path) -> None:
    """One that never became current leaves nothing behind."""
    only = publish(tmp_path, a_candidate(passed=False), activate=False)
    remove(tmp_path, "jo", only)

    assert [] == names(tmp_path)


def test_a_damaged_generation_can_be_removed(tmp_path: Path) -> None:
    """Whatever is in it."""
    old, now = two(tmp_path)
    (tmp_path / "jo" / old / WEIGHTS).unlink()
    (tmp_path / "jo" / old / "more").mkdir()
    remove(tmp_path, "jo", old)

    assert [now] == generations(tmp_path, "jo")


def test_what_a_damaged_current_meant_stays(tmp_path: Path) -> None:
    """Nobody knows which generation that was."""
    old, _ = two(tmp_path)
    (tmp_path / "jo" / "CURRENT").write_text("torn")

    with pytest.raises(AdapterRefused) as refusal:
        remove(tmp_path, "jo", old)
    assert "current_invalid" == refusal.value.code


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """What it points to is not ours to delete."""
    two(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "jo" / ("0" * 16)).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(AdapterRefused, match="is a link"):
        remove(tmp_path, "jo", "0" * 16)
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize(
    ("name", "generation"), [("jo", "0" * 16), ("mo", "0" * 16), ("jo", "../jo"), ("..", "0" * 16), ("jo", "CURRENT")]
)
def test_what_is_not_there_is_not_removed(tmp_path: Path, name: str, generation: str) -> None:
    """Nor is anything but a generation."""
    two(tmp_path)
    before = files_in(tmp_path)

    with pytest.raises(UnknownAdapter):
        remove(tmp_path, name, generation)
    with pytest.raises(UnknownAdapter):
        remove(tmp_path / "nowhere", name, generation)
    assert before == files_in(tmp_path) and not (tmp_path / "nowhere").exists()


def test_a_kill_leaves_a_generation_whole_or_gone(tmp_path: Path) -> None:
    """C16: at every change of the store; the next publisher tidies up what is left."""
    whole, steps = set(), 0
    while True:
        store = tmp_path / str(steps)
        old, now = two(store)
        _left[:] = [steps]
        try:
            remove(store, "jo", old)
            break
        except Killed:
            whole.add(old in generations(store, "jo") and is_whole(store, old))
            assert set(generations(store, "jo")) <= {old, now} and is_whole(store, now)
        publish(store, a_candidate(seed=2), activate=True)
        assert [] == list(store.glob(".staging-*"))
        steps += 1
    _left.clear()

    assert steps > 4 and {True, False} == whole


@pytest.mark.parametrize("given", ["jo", "jo@", "@0123456789abcdef", ""])
def test_the_command_wants_one_generation(given: str) -> None:
    """A name alone is a wrong use of it: exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["adapters", "remove", given])
    assert 2 == ended.value.code


def test_the_command_says_what_it_did(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Gone, or why not."""
    old, now = two(tmp_path)
    store = ["--adapters", str(tmp_path)]

    assert 0 == main(["adapters", "remove", f"jo@{old}", *store])
    assert f"jo@{old} is gone\n" == capsys.readouterr().out
    assert 1 == main(["adapters", "remove", f"jo@{now}", *store])
    assert "error [generation_in_use]" in capsys.readouterr().err
