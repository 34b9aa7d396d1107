"""Whether tokens come: an engine that hangs is given up, one that is slow is not, and readiness means delivery."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from errors import NotReady
from prompt_format.manifest import NAME_PATTERN
from service.app import create_app, with_doors
from service.engine import Engine, Job
from service.settings import Settings
from service.watch import PROBING, Readiness, probe_of, watch
from tests.fakes import HOST, PATIENCE, FakeDevice, asked, begun, make_adapter, running, scenario, served

LIMIT_S = 0.2
JOB = Job([1, 2, 3], 0, (0,))
LONG = Job(list(range(2000)), 0)  # only fed: what a chunk costs is known then


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    """A device that is let go at the end, whatever the test held up."""
    device = FakeDevice()
    yield device
    device.let_go()


async def given_up(engine: Engine) -> float:
    """Seconds until the watch gives it up."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        await watch(engine, LIMIT_S)
    return time.monotonic() - began


async def still_well(engine: Engine) -> None:
    """The watch looks at it for several times its patience and does nothing."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5 * LIMIT_S):
            await watch(engine, LIMIT_S)
    assert engine.failure is None


# -- the watch


def test_a_step_that_gives_no_token_is_given_up(device: FakeDevice) -> None:
    """O32: a live thread that delivers nothing counts as dead: all in flight and all that comes is engine_error."""

    async def work() -> None:
        async with running(device) as engine:
            told: list[str | None] = []
            engine.on_failure = lambda: told.append(engine.failure)
            device.going.clear()
            writing = asyncio.create_task(engine.write(JOB))
            await begun(device)
            assert LIMIT_S < await given_up(engine) < 10 * LIMIT_S
            for work in (writing, engine.write(JOB), engine.memory()):
                with pytest.raises(NotReady) as refusal:
                    await work
                assert "engine_error" == refusal.value.code
            assert told == [engine.failure]

    scenario(work)


@pytest.mark.parametrize("held", ["feeding", "staging"])
def test_a_call_that_does_not_return_is_given_up(device: FakeDevice, held: str, tmp_path: Path) -> None:
    """O32: who waits for a thread that hangs within the device is told, without waiting for the thread."""

    async def work() -> None:
        async with running(device) as engine:
            await engine.write(LONG)
            getattr(device, held).clear()
            doing = engine.write(JOB) if held == "feeding" else engine.stage(1, None)  # type: ignore[arg-type]
            waiting = asyncio.create_task(doing)
            await given_up(engine)
            with pytest.raises(NotReady, match="stopped before"):
                await waiting
            assert engine.running

    scenario(work)


def test_a_thread_that_has_died_is_given_up_at_once(device: FakeDevice) -> None:
    """O36: a thread that is gone without a word is noticed at the next look, however patient the watch is."""

    async def work() -> None:
        async with running(device) as engine:
            engine._inbox.put(None)
            while engine.running:
                await asyncio.sleep(0.01)
            await watch(engine, 1000, every_s=0.01)
            assert "its thread has ended" == engine.failure

    scenario(work)


def test_what_ends_a_thread_is_a_failure(device: FakeDevice) -> None:
    """O36: also what is no error, as an exit asked for in the depths, fails what is in flight with engine_error."""
    device.raises["step"] = SystemExit(1)

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(NotReady, match="stopped before"):
                await engine.write(JOB)
            assert "SystemExit" == engine.failure

    scenario(work)


def test_an_idle_engine_is_not_given_up(device: FakeDevice) -> None:
    """Nothing to do is no silence, before the first job and after the last."""

    async def work() -> None:
        async with running(device) as engine:
            await still_well(engine)
            await engine.write(JOB)
            await still_well(engine)
            assert 0 == engine.silent_s

    scenario(work)


def test_a_first_chunk_may_take_its_time(device: FakeDevice) -> None:
    """While nothing is known of what a chunk costs, weights may come from the disk and kernels be compiled."""

    async def work() -> None:
        async with running(device) as engine:
            device.feeding.clear()
            writing = asyncio.create_task(engine.write(JOB))
            await still_well(engine)
            device.feeding.set()
            await writing

    scenario(work)


def test_an_engine_that_works_is_not_given_up(device: FakeDevice) -> None:
    """Prompts without end, of which none takes long, are work that gets done."""

    async def work() -> None:
        async with running(device) as engine:

            async def feed() -> None:
                while True:
                    await engine.write(LONG)

            feeding = asyncio.create_task(feed())
            await still_well(engine)
            feeding.cancel()

    scenario(work)


def test_a_process_that_was_stopped_blames_nobody(device: FakeDevice) -> None:
    """When the event loop itself stood still for long, one look does not give the engine up."""

    async def work() -> None:
        async with running(device) as engine:
            device.going.clear()
            writing = asyncio.create_task(engine.write(JOB))
            await begun(device)
            watching = asyncio.create_task(watch(engine, 1.0, every_s=0.1))
            await asyncio.sleep(0.15)
            time.sleep(1.5)  # as a process does that was stopped
            await asyncio.sleep(0.15)
            assert engine.failure is None
            device.going.set()
            await writing
            watching.cancel()

    scenario(work)


def test_a_thread_that_comes_back_too_late_changes_nothing(device: FakeDevice) -> None:
    """What the device gives after it was given up reaches nobody; the thread ends and closes the device."""

    async def work() -> None:
        async with running(device) as engine:
            heard: list[int] = []
            device.going.clear()
            writing = asyncio.create_task(engine.write(JOB, lambda _, token: heard.append(token)))
            await begun(device)
            engine.give_up("for a test")
            device.going.set()
            with pytest.raises(NotReady):
                await writing
            while engine.running:
                await asyncio.sleep(0.01)
            assert device.closed and "for a test" == engine.failure

    scenario(work)


# -- drain and cut


def test_a_drain_lets_end_what_was_begun(device: FakeDevice) -> None:
    """O23, O24: what is fed or written goes on to its end; what waits and what comes is refused at once."""

    async def work() -> None:
        async with running(device, rows=1) as engine:
            device.going.clear()
            writing = asyncio.create_task(engine.write(JOB))
            await begun(device)
            waiting = asyncio.create_task(engine.write(JOB))
            await asyncio.sleep(0.05)
            engine.drain()
            for refused in (waiting, engine.write(JOB)):
                with pytest.raises(NotReady) as refusal:
                    await refused
                assert "shutting_down" == refusal.value.code
            assert not writing.done()
            device.going.set()
            assert (await writing).replies[0].tokens

    scenario(work)


def test_a_cut_tells_all_without_waiting_for_the_thread(device: FakeDevice) -> None:
    """O25: with the thread held up in the device, what is in flight is refused all the same."""

    async def work() -> None:
        async with running(device) as engine:
            device.feeding.clear()
            writing = [asyncio.create_task(engine.write(JOB)) for _ in range(3)]
            await asyncio.to_thread(device.chunks.get, timeout=PATIENCE)
            engine.cut()
            codes = [error.code for error in await asyncio.gather(*writing, return_exceptions=True)]  # type: ignore[union-attr]
            assert ["shutting_down"] * 3 == codes and engine.running

    scenario(work)


# -- readiness


def test_no_adapter_can_be_called_like_a_probe() -> None:
    """Probes wait in a group of their own."""
    assert not re.fullmatch(NAME_PATTERN, PROBING)


def test_an_idle_service_probes_itself_once(tmp_path: Path, device: FakeDevice) -> None:
    """O38: without an adapter it is ready when one token comes; it is not asked for again while that is recent."""
    with served(tmp_path / "adapters", device) as client:
        assert [200] * 3 == [client.get("/readyz").status_code for _ in range(3)]

    (job,) = device.requests
    assert (0, 1, 0.0, PROBING) == (job.slot, job.max_tokens, job.sampling.temperature, job.group)


def test_a_service_that_delivers_needs_no_probe(tmp_path: Path, device: FakeDevice) -> None:
    """O38: a busy service whose replies come is ready."""
    make_adapter(tmp_path / "adapters")
    with served(tmp_path / "adapters", device) as client:
        client.post("/reply", json=asked())
        assert 200 == client.get("/readyz").status_code
    assert 1 == len(device.requests)


def test_probes_are_shared_and_limited(device: FakeDevice) -> None:
    """O38: those who ask at once wait for one probe; one that gives nothing is not_ready, and is taken out again."""

    async def work() -> None:
        async with running(device) as engine:
            readiness = Readiness(engine, probe_of(device.facts), recent_s=0.0, probe_s=0.2)
            device.going.clear()
            refusals = await asyncio.gather(*(readiness.check() for _ in range(5)), return_exceptions=True)
            assert ["not_ready"] * 5 == [getattr(refusal, "code", "") for refusal in refusals]
            assert 1 == len(device.requests)
            await engine.memory()  # comes after the removal
            device.going.set()
            await readiness.check()
            assert ([0], 2) == (device.removed, len(device.requests))

    scenario(work)


def test_who_leaves_takes_no_probe_from_the_others(device: FakeDevice) -> None:
    """Of two who wait for one probe the first may leave."""

    async def work() -> None:
        async with running(device) as engine:
            readiness = Readiness(engine, probe_of(device.facts))
            device.going.clear()
            first, second = (asyncio.create_task(readiness.check()) for _ in range(2))
            await begun(device)
            first.cancel()
            device.going.set()
            await second
            assert first.cancelled() and 1 == len(device.requests)

    scenario(work)


def test_an_engine_that_fails_or_ends_is_not_ready(device: FakeDevice) -> None:
    """O38: however recent the last token is, a failure and a shutdown say so, also to who waits for a probe."""

    async def work() -> None:
        async with running(device) as engine:
            readiness = Readiness(engine, probe_of(device.facts))
            await readiness.check()
            engine.drain()
            with pytest.raises(NotReady) as ending:
                await readiness.check()
            engine.give_up("for a test")
            with pytest.raises(NotReady) as failed:
                await readiness.check()
            assert ("shutting_down", "engine_error") == (ending.value.code, failed.value.code)

    scenario(work)


def test_a_service_that_loads_is_not_ready(tmp_path: Path) -> None:
    """O38: before the base is there, /readyz is 503 not_ready."""
    app = create_app(Settings(adapters=tmp_path / "adapters"), Engine(FakeDevice))
    client = TestClient(with_doors(app, [HOST], None), base_url=f"http://{HOST}")  # its lifespan has not begun
    answered = client.get("/readyz")

    assert (503, "not_ready", "1") == (
        answered.status_code,
        answered.json()["error"]["code"],
        answered.headers["Retry-After"],
    )


def test_the_service_watches_its_engine(tmp_path: Path, device: FakeDevice) -> None:
    """O32: with a hung step requests fail and /readyz is 503 after the limit; /healthz is 200."""
    engine, failed = Engine(lambda: device), threading.Event()
    engine.on_failure = failed.set
    app = create_app(Settings(adapters=tmp_path / "adapters"), engine, silent_s=LIMIT_S)
    device.going.clear()
    with (
        TestClient(with_doors(app, [HOST], None), base_url=f"http://{HOST}") as client,
        ThreadPoolExecutor(1) as threads,
    ):
        writing = threads.submit(client.post, "/reply", json=asked())
        assert failed.wait(PATIENCE)
        answers = [writing.result(PATIENCE), client.get("/readyz")]
        assert [(503, "engine_error")] * 2 == [(a.status_code, a.json()["error"]["code"]) for a in answers]
        assert 200 == client.get("/healthz").status_code
        device.let_go()
