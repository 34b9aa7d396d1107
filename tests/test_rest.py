"""What is left for when nobody waits: the places that the prefix cache keeps of models whose states cannot be cut."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine import Engine, Job
from tests.exact import GREEDY, OnThread
from tests.fakes import FakeDevice, begun, running, scenario
from tests.tiny import tiny_model

IDS = list(range(20, 100))
MARK = 70


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("rest") / "model", "lfm2")


@pytest.fixture
def device(folder: Path) -> Iterator[OnThread]:
    with OnThread(folder) as device:
        yield device


def answer(device: OnThread, ids: list[int], slot: int = 0) -> int:
    """Ask for one token after *ids*, of which the first ``MARK`` may come again; returns how many were known."""
    feeding = device.ask(Job(ids, slot, (0,), 1, GREEDY, marks=(MARK,)), len(ids))
    device.finish(rest=False)
    return feeding.cached


def rested(device: OnThread) -> int:
    """How many pieces there were to do."""
    pieces = 1
    while device.call(device.device.rest):
        pieces += 1
    return pieces


def test_the_answer_comes_first(device: OnThread) -> None:
    """A prompt is fed in one pass; its mark is known once the device has rested."""
    assert 0 == answer(device, IDS)
    assert 0 == answer(device, [*IDS[:MARK], 5, 6])  # not yet
    assert rested(device) > 1  # in pieces: somebody may come
    assert MARK == answer(device, [*IDS[:MARK], 7, 8])


def test_what_rest_computes_is_what_feeding_computes(folder: Path) -> None:
    """A reply that begins where rest has stopped is the one that begins at the beginning."""
    longer = [*IDS[:MARK], *range(30, 50)]
    with OnThread(folder) as warm, OnThread(folder) as cold:
        answer(warm, IDS)
        rested(warm)
        rows = [device.insert(longer, 0) for device in (warm, cold)]
        for device in (warm, cold):
            device.finish()
        assert warm.written[rows[0]] == cold.written[rows[1]]


@pytest.mark.parametrize("pieces", [0, 1], ids=["before it began", "in the middle"])
def test_rest_ends_with_its_slot(device: OnThread, pieces: int) -> None:
    """Nothing is computed for a slot that was given back: another adapter may stand in it by then."""
    answer(device, IDS, slot=1)
    for _ in range(pieces):
        device.call(device.device.rest)
    device.call(device.device.free, 1)

    assert 1 == rested(device)
    assert 0 == answer(device, [*IDS[:MARK], 5, 6], slot=1)


def test_only_so_much_is_left_for_later(device: OnThread) -> None:
    """However many prompts come before it can rest, a few of them are remembered, the latest first."""
    for number in range(30):
        answer(device, [number + 100, *IDS])
    rested(device)

    assert MARK == answer(device, [129, *IDS[: MARK - 1], 5, 6])
    assert 0 == answer(device, [100, *IDS[: MARK - 1], 5, 6])


class Resting(FakeDevice):
    """Has something to do, for *pieces* times, and says when it did it."""

    def __init__(self, pieces: int):
        super().__init__()
        self.pieces_left, self.rested_beside = pieces, 0

    def rest(self) -> bool:
        self.rested_beside += bool(self._running)
        self.pieces_left -= self.pieces_left > 0
        return self.pieces_left > 0


def test_an_engine_rests_when_nobody_waits() -> None:
    """After a reply the device is let do what it left, piece by piece, never beside a reply."""
    device = Resting(50)

    async def work() -> None:
        async with running(device) as engine:
            await asyncio.gather(*(engine.write(Job([1, 2, 3], 0, (n,))) for n in range(3)))
            while device.pieces_left:
                await asyncio.sleep(0.001)
            assert 0 == device.rested_beside

    scenario(work)


def test_who_comes_while_the_engine_rests_is_served() -> None:
    """A device that would rest for ever holds nobody up, and can be stopped."""
    device = Resting(10**9)

    async def work() -> None:
        async with running(device) as engine:
            for number in range(5):
                await engine.write(Job([1, 2, 3], 0, (number,)))
                await begun(device)
            assert isinstance(engine, Engine)

    scenario(work)
    assert device.closed
