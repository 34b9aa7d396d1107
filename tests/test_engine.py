"""The engine thread on a fake device: rows in, tokens out, and one way to fail."""

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from errors import AdapterRefused, BaseRefused, NotReady
from prompt_format.adapter_check import CheckedAdapter
from service.choice import Sampling
from service.engine import Engine, Row, Written
from tests.fakes import PATIENCE, FakeDevice, begun, checked, make_adapter, running, scenario, staging


def row(slot: int = 0, max_tokens: int = 64, seed: int = 0) -> Row:
    return Row([1, 2, 3], slot, max_tokens, Sampling(), seed)


def text_of(device: FakeDevice, written: Written) -> str:
    return device.facts.template.decode_reply(written.tokens)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> CheckedAdapter:
    store = tmp_path_factory.mktemp("engine") / "adapters"
    return checked(store, "jo", make_adapter(store))


# -- writing


def test_the_engine_gives_the_facts_of_its_base() -> None:
    """Starting gives what the device says of the base model."""

    async def work() -> None:
        device = FakeDevice()
        engine = Engine(lambda: device)
        assert device.facts is await asyncio.wrap_future(engine.start())
        assert device.facts is engine.start().result()  # it is loaded once
        await asyncio.to_thread(engine.stop)
        assert device.closed

    scenario(work)


def test_a_row_is_written_to_its_end() -> None:
    """A reply has the tokens before the one that ended it, and the log-probability of all."""
    device = FakeDevice()
    device.enqueue("ya")

    async def work() -> Written:
        async with running(device) as engine:
            return await engine.write(row())

    written = scenario(work)
    assert ("ya", "stop", 2, -1.5) == (
        text_of(device, written),
        written.finish_reason,
        len(written.tokens),
        written.logprob,
    )
    assert written.queued_s >= 0 and written.prefill_s >= 0 and written.decode_s >= 0


def test_a_row_ends_at_its_limit() -> None:
    """A reply that is not over after max_tokens tokens says so, and keeps them all."""
    device = FakeDevice()
    device.enqueue("a long story")

    async def work() -> Written:
        async with running(device) as engine:
            return await engine.write(row(max_tokens=6))

    written = scenario(work)
    assert ("a long", "length", -3.0) == (text_of(device, written), written.finish_reason, written.logprob)


def test_a_reply_may_be_empty() -> None:
    """A row whose first token ends it has no tokens, and its log-probability."""
    device = FakeDevice()
    device.enqueue("")

    async def work() -> Written:
        async with running(device) as engine:
            return await engine.write(row())

    assert ([], "stop", -0.5) == (lambda w: (w.tokens, w.finish_reason, w.logprob))(scenario(work))


def test_rows_are_written_side_by_side() -> None:
    """Rows of one batch each get their own text."""
    device = FakeDevice()
    texts = [f"reply number {number}" for number in range(9)]
    device.enqueue(*texts)

    async def work() -> list[Written]:
        async with running(device, rows=4) as engine:
            return await asyncio.gather(*(engine.write(row(seed=number)) for number in range(9)))

    written = scenario(work)
    assert texts == [text_of(device, each) for each in written]
    assert list(range(9)) == [each.seed for each in device.rows]


def test_rows_beyond_the_batch_wait() -> None:
    """No more than *rows* rows run at once; the next is put in when one has ended."""
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with running(device, rows=2) as engine:
            writing = [asyncio.create_task(engine.write(row(seed=number))) for number in range(3)]
            await begun(device)
            await begun(device)
            await engine.clear(1)  # answered between two steps: the third row had its chance
            assert 2 == len(device.rows)
            device.going.set()
            await asyncio.gather(*writing)
            assert 3 == len(device.rows)

    scenario(work)


# -- cancelling


def test_a_cancelled_row_leaves_the_batch() -> None:
    """Cancelling a row takes it out of the batch, and the others go on."""
    device = FakeDevice()
    device.enqueue("left behind", "stays")
    device.going.clear()

    async def work() -> Written:
        async with running(device) as engine:
            leaves = asyncio.create_task(engine.write(row(seed=1)))
            stays = asyncio.create_task(engine.write(row(seed=2)))
            await begun(device)
            await begun(device)
            leaves.cancel()
            await asyncio.wait([leaves])
            await engine.clear(1)  # comes after the removal
            assert [0] == device.removed
            device.going.set()
            return await stays

    assert "stays" == text_of(device, scenario(work))


def test_a_cancelled_row_that_waits_is_never_put_in() -> None:
    """A row that is cancelled while it waits costs no prefill."""
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with running(device, rows=1) as engine:
            first = asyncio.create_task(engine.write(row(seed=1)))
            await begun(device)
            second = asyncio.create_task(engine.write(row(seed=2)))
            await engine.clear(1)  # the second one waits by now
            second.cancel()
            await asyncio.wait([second])
            device.going.set()
            await first
            await engine.write(row(seed=3))

    scenario(work)
    assert [1, 3] == [each.seed for each in device.rows]
    assert [] == device.removed


def test_cancelling_at_the_last_moment_harms_nobody() -> None:
    """Rows cancelled while their last token is on its way do not stop the engine."""
    device = FakeDevice()

    async def work() -> None:
        async with running(device, rows=4) as engine:
            for _ in range(100):
                device.enqueue("")
                writing = asyncio.create_task(engine.write(row()))
                await begun(device)
                writing.cancel()
                await asyncio.wait([writing])
            device.enqueue("fine")
            assert "fine" == text_of(device, await engine.write(row()))

    scenario(work)


def test_a_cancelled_call_harms_nobody(adapter: CheckedAdapter) -> None:
    """Who stops waiting for a staging does not stop the engine."""
    device = FakeDevice()
    device.staging.clear()

    async def work() -> None:
        async with running(device) as engine:
            reloading = asyncio.create_task(engine.stage(1, adapter))
            await staging(device)
            reloading.cancel()
            await asyncio.wait([reloading])
            device.staging.set()
            device.enqueue("fine")
            assert "fine" == text_of(device, await engine.write(row()))

    scenario(work)


# -- adapters


def test_a_row_is_written_by_the_adapter_in_its_slot(adapter: CheckedAdapter) -> None:
    """Once an adapter is staged, rows of its slot are its own."""
    device = FakeDevice()

    async def work() -> list[Written]:
        async with running(device) as engine:
            await engine.stage(2, adapter)
            return await asyncio.gather(engine.write(row(2)), engine.write(row(0)))

    mine, base = scenario(work)
    assert [adapter.generation, "written by the base"] == [text_of(device, mine), text_of(device, base)]


def test_staging_does_not_wait_for_rows(adapter: CheckedAdapter) -> None:
    """An adapter is staged between two steps of a reply that goes on."""
    device = FakeDevice()
    device.enqueue("goes on")
    device.going.clear()

    async def work() -> Written:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(row()))
            await begun(device)
            await engine.stage(1, adapter)
            assert not writing.done()
            device.going.set()
            return await writing

    assert "goes on" == text_of(device, scenario(work))


def test_a_refused_adapter_harms_nobody(adapter: CheckedAdapter) -> None:
    """A probe that refuses is the caller's error alone."""
    device = FakeDevice()
    device.raises["stage"] = AdapterRefused("it is the base", code="probe_is_base")

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(AdapterRefused, match="it is the base"):
                await engine.stage(1, adapter)
            device.enqueue("fine")
            assert "fine" == text_of(device, await engine.write(row()))

    scenario(work)


# -- failing


@pytest.mark.parametrize("method", ["insert", "step"])
def test_any_exception_of_the_device_is_the_end(method: str) -> None:
    """An exception fails the rows in flight and those that wait, is reported once, and stops the engine for good."""
    device = FakeDevice()
    reported: list[str] = []

    async def work() -> None:
        async with running(device, rows=2) as engine:
            engine.on_failure = lambda: reported.append("failed")
            device.going.clear()
            writing = [asyncio.create_task(engine.write(row())) for _ in range(2)]
            await begun(device)
            await begun(device)
            device.raises[method] = RuntimeError("out of memory: the text of a message")
            writing += [asyncio.create_task(engine.write(row())) for _ in range(2)]
            if method == "insert":
                writing[0].cancel()  # makes room
            else:
                device.going.set()
            failed = await asyncio.gather(*writing, return_exceptions=True)
            assert 3 <= [type(each) for each in failed].count(NotReady)
            assert {"engine_error"} == {each.code for each in failed if isinstance(each, NotReady)}
            assert "RuntimeError" == engine.failure
            with pytest.raises(NotReady) as refusal:
                await engine.write(row())
            assert "engine_error" == refusal.value.code

    scenario(work)
    assert ["failed"] == reported
    assert device.closed


def test_a_row_that_cannot_be_put_in_is_failed() -> None:
    """The row at which the device broke is failed like the others: it does not wait for ever."""
    device = FakeDevice()
    device.raises["insert"] = RuntimeError("no")

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(NotReady, match="before the reply was written"):
                await engine.write(row())

    scenario(work)


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_token_without_probability_is_the_end(logprob: float) -> None:
    """Logits that are not finite fail the row instead of delivering its token."""
    device = FakeDevice()
    device.logprob = logprob

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(NotReady):
                await engine.write(row())
            assert "ArithmeticError" == engine.failure

    scenario(work)


@pytest.mark.parametrize("method", ["stage", "clear"])
def test_an_exception_while_a_slot_changes_is_the_end(adapter: CheckedAdapter, method: str) -> None:
    """A device that breaks while it stages or clears fails the caller and everybody else."""
    device = FakeDevice()
    device.raises[method] = RuntimeError("no")
    device.going.clear()

    async def work() -> None:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(row()))
            await begun(device)
            with pytest.raises(NotReady):
                await (engine.stage(1, adapter) if method == "stage" else engine.clear(1))
            with pytest.raises(NotReady):
                await writing
            assert "RuntimeError" == engine.failure

    scenario(work)


def test_calls_behind_a_failure_are_failed(adapter: CheckedAdapter) -> None:
    """Who waits for a slot when the engine fails is told so."""
    device = FakeDevice()
    device.staging.clear()
    device.raises["stage"] = RuntimeError("no")

    async def work() -> None:
        async with running(device) as engine:
            calls = [asyncio.create_task(engine.stage(slot, adapter)) for slot in (1, 2)]
            calls.append(asyncio.create_task(engine.clear(3)))
            await staging(device)
            device.staging.set()
            assert [NotReady] * 3 == [type(each) for each in await asyncio.gather(*calls, return_exceptions=True)]

    scenario(work)


def test_a_base_that_does_not_load_is_told() -> None:
    """What the device raises while it opens is the error of the start."""

    def refuse() -> FakeDevice:
        raise BaseRefused("no such model")

    engine = Engine(refuse)
    with pytest.raises(BaseRefused, match="no such model"):
        engine.start().result(PATIENCE)
    engine.stop()


# -- stopping


def test_stopping_fails_what_is_in_flight() -> None:
    """Rows that run or wait when the engine stops are told that the service is shutting down."""
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with running(device, rows=1) as engine:
            writing = [asyncio.create_task(engine.write(row())) for _ in range(3)]
            await begun(device)
            await asyncio.to_thread(engine.stop)
            failed = await asyncio.gather(*writing, return_exceptions=True)
            assert ["shutting_down"] * 3 == [getattr(each, "code", each) for each in failed]
            with pytest.raises(NotReady) as refusal:
                await engine.write(row())
            assert "shutting_down" == refusal.value.code
            assert engine.failure is None

    scenario(work)
    assert device.closed


def test_an_engine_that_never_started_can_be_stopped() -> None:
    """Stopping is safe at any time, and twice."""
    engine = Engine(FakeDevice)
    engine.stop()
    engine.stop()

    assert engine.failure is None


def test_nothing_put_in_at_the_end_is_forgotten() -> None:
    """Rows that come while the engine fails are failed too: none waits for ever."""

    async def work() -> None:
        for _ in range(30):
            device = FakeDevice()
            device.raises["step"] = RuntimeError("no")
            async with running(device) as engine:
                loop, done = asyncio.get_running_loop(), threading.Event()

                def crowd(engine: Engine, loop: asyncio.AbstractEventLoop, done: threading.Event) -> list[Any]:
                    asked = []
                    while not done.is_set():
                        asked.append(asyncio.run_coroutine_threadsafe(engine.write(row()), loop))
                        if engine.failure is not None:
                            done.set()
                    return asked

                asked = await asyncio.to_thread(crowd, engine, loop, done)
                failed = await asyncio.gather(*map(asyncio.wrap_future, asked), return_exceptions=True)
                assert {NotReady} == {type(each) for each in failed}

    scenario(work)


def test_the_path_of_a_failure_is_not_its_text(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The log has the kind of an error and never its text, which may quote a message."""
    device = FakeDevice()
    device.raises["step"] = RuntimeError("Purple Walrus 7719")

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(NotReady) as refusal:
                await engine.write(row())
            assert "Walrus" not in str(refusal.value)

    scenario(work)
    assert "RuntimeError" in caplog.text and "Walrus" not in caplog.text
