"""The engine thread on a fake device: prompts in, tokens out, each in its turn, and one way to fail."""

import asyncio
import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from errors import AdapterRefused, BaseRefused, NotReady
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.manifest import NAME_PATTERN
from service.engine import WARMING, Engine, Job, Reply, Written
from service.pace import MOST
from tests.fakes import PATIENCE, FakeDevice, begun, checked, make_adapter, running, scenario, staging

LONG = list(range(3000))  # a prompt of many chunks


def job(slot: int = 0, max_tokens: int = 64, seed: int = 0, n: int = 1, group: str = "base") -> Job:
    return Job([1, 2, 3], slot, tuple(range(seed, seed + n)), max_tokens, group=group)


def texts_of(device: FakeDevice, written: Written) -> list[str]:
    return [device.facts.template.decode_reply(reply.tokens) for reply in written.replies]


def text_of(device: FakeDevice, written: Written) -> str:
    (text,) = texts_of(device, written)
    return text


def write(device: FakeDevice, job: Job) -> Written:
    """What comes of one job."""

    async def work() -> Written:
        async with running(device) as engine:
            return await engine.write(job)

    written: Written = scenario(work)
    return written


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


def test_a_reply_is_written_to_its_end() -> None:
    """A reply has the tokens before the one that ended it, and the log-probability of each and of the ending one."""
    device = FakeDevice()
    device.enqueue("ya")
    written = write(device, job())

    (reply,) = written.replies
    assert ("ya", "stop", [-0.5] * 3) == (text_of(device, written), reply.finish_reason, reply.logprobs)
    assert written.queued_s >= 0 and written.prefill_s >= 0 and written.decode_s >= 0


def test_a_reply_ends_at_its_limit() -> None:
    """A reply that is not over after max_tokens tokens says so, and keeps them all."""
    device = FakeDevice()
    device.enqueue("a long story")
    written = write(device, job(max_tokens=6))

    (reply,) = written.replies
    assert ("a long", "length", [-0.5] * 6) == (text_of(device, written), reply.finish_reason, reply.logprobs)


def test_a_reply_may_be_empty() -> None:
    """A reply whose first token ends it has no tokens, and that one's log-probability."""
    device = FakeDevice()
    device.enqueue("")

    assert [Reply([], [-0.5], "stop")] == write(device, job()).replies


def test_n_replies_come_of_one_prompt() -> None:
    """A job's replies, one for each seed and in their order, are written from one prefill."""
    device = FakeDevice()
    device.enqueue("one", "the second", "3", "")
    written = write(device, job(n=4))

    assert ["one", "the second", "3", ""] == texts_of(device, written)
    assert [4, 11, 2, 1] == [len(reply.logprobs) for reply in written.replies]
    assert (["begin", "feed"], [3]) == (device.did[:2], device.fed) and 1 == len(device.jobs)


def test_a_job_without_seeds_only_feeds_its_prompt() -> None:
    """A job that wants no reply is done when its prompt has been fed."""
    device = FakeDevice()

    assert [] == write(device, job(n=0)).replies
    assert ["begin", "feed"] == device.did


def test_what_the_device_knew_already_is_told() -> None:
    """Tokens that came from the prefix cache are counted, and not fed again."""
    device = FakeDevice()
    device.cached = 2
    device.enqueue("ya")

    assert 2 == write(device, job()).cached_tokens
    assert [1] == device.fed


def test_replies_are_written_side_by_side() -> None:
    """Rows of one batch each get their own text."""
    device = FakeDevice()
    texts = [f"reply number {number}" for number in range(9)]
    device.enqueue(*texts)

    async def work() -> list[Written]:
        async with running(device, rows=4) as engine:
            return await asyncio.gather(*(engine.write(job(seed=number)) for number in range(9)))

    written = scenario(work)
    assert texts == [text_of(device, each) for each in written]
    assert [(number,) for number in range(9)] == [each.seeds for each in device.jobs]


def test_a_job_waits_until_all_its_replies_fit() -> None:
    """No more than *rows* replies are written at once; the next job begins when there is room for all of its own."""
    device = FakeDevice()
    device.going.clear()
    device.enqueue("short", "a longer one", "x", "y")

    async def work() -> None:
        async with running(device, rows=2) as engine:
            writing = [asyncio.create_task(engine.write(job(seed=number))) for number in range(2)]
            await begun(device)
            await begun(device)
            writing.append(asyncio.create_task(engine.write(job(seed=2, n=2))))
            await engine.memory()  # answered between two steps: the third had its chance
            assert 2 == len(device.jobs)
            device.going.set()
            await asyncio.gather(*writing)
            assert 3 == len(device.jobs)

    scenario(work)
    assert ["step"] * 13 == device.did[4:17] and ["begin", "feed"] == device.did[17:19]  # the longer one first


def test_a_job_larger_than_the_batch_is_written_alone() -> None:
    """Nobody waits for room that there can never be."""
    device = FakeDevice()
    device.enqueue("a", "b", "c")

    async def work() -> Written:
        async with running(device, rows=2) as engine:
            return await engine.write(job(n=3))

    assert ["a", "b", "c"] == texts_of(device, scenario(work))


# -- hearing of each token


def test_each_token_is_heard_as_it_comes() -> None:
    """``on_token`` hears every token but the ending one, in order, on the loop's thread, before the reply is there."""
    device = FakeDevice()
    device.enqueue("what's the split", "ok")
    heard: list[tuple[int, int, threading.Thread]] = []

    async def work() -> Written:
        async with running(device) as engine:
            written = await engine.write(job(n=2), lambda *token: heard.append((*token, threading.current_thread())))
            assert sum(len(reply.tokens) for reply in written.replies) == len(heard)
            return written

    written = scenario(work)
    assert {threading.current_thread()} == {thread for _, _, thread in heard}
    for number, reply in enumerate(written.replies):
        assert reply.tokens == [token for which, token, _ in heard if which == number]


def test_a_token_is_heard_before_the_reply_is_over() -> None:
    """The first tokens are heard while the next ones are not written yet."""
    device = FakeDevice()
    device.enqueue("a long story")
    device.steps_left = 1
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(job(), lambda _, token: heard.put_nowait(token)))
            await heard.get()
            assert not writing.done()
            device.going.set()
            await writing

    scenario(work)


# -- taking turns


def test_a_crowd_holds_up_nobody_else() -> None:
    """O10: behind fifty jobs of one adapter, another one's is begun after at most one more of them."""
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with running(device, rows=2) as engine:
            flood = [asyncio.create_task(engine.write(job(group="jo"))) for _ in range(50)]
            await begun(device)
            await begun(device)
            single = asyncio.create_task(engine.write(job(group="ann")))
            await engine.memory()  # all of them wait by now
            device.going.set()
            await asyncio.gather(single, *flood)

    scenario(work)
    assert [each.group for each in device.jobs].index("ann") <= 3  # two were in already
    assert 51 == len(device.jobs)


def test_a_long_prompt_is_fed_between_the_steps_of_others() -> None:
    """While a reply is written, between two chunks of somebody else's prompt there is a step."""
    device = FakeDevice()
    device.enqueue("x" * 300, "ok")
    device.going.clear()

    async def work() -> None:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(job(max_tokens=1000)))
            await begun(device)
            device.feeding.clear()
            later = asyncio.create_task(engine.write(Job(LONG, 0, (0,))))
            await asyncio.to_thread(device.chunks.get, timeout=PATIENCE)  # of the first
            await asyncio.to_thread(device.chunks.get, timeout=PATIENCE)
            device.let_go()
            await asyncio.gather(writing, later)

    scenario(work)
    fed = device.fed[1:]
    assert 3000 == sum(fed) and max(fed) <= MOST and len(fed) > 3000 // MOST
    assert "feed feed" not in " ".join(device.did)


def test_a_prompt_is_fed_in_chunks_when_nobody_writes() -> None:
    """A prompt that holds up nobody is fed in the largest chunks: each is the grain of a cancellation."""
    device = FakeDevice()
    write(device, Job(LONG, 0, (0,)))

    assert [MOST] * 5 + [3000 - 5 * MOST] == device.fed


def test_prompts_are_fed_one_after_the_other() -> None:
    """A prompt that was begun is fed to its end before the next one: it is answered sooner so."""
    device = FakeDevice()

    async def work() -> None:
        async with running(device) as engine:
            await asyncio.gather(*(engine.write(Job(LONG, 0, (seed,))) for seed in range(3)))

    scenario(work)
    did = [what for what in device.did if what != "step"]
    one_prompt = did[: did.index("begin", 1)]
    assert len(one_prompt) > 1 and 1 == one_prompt.count("begin")
    for place in [place for place, what in enumerate(did) if what == "begin"][1:]:
        assert 0 == sum(device.fed[: place - did[:place].count("begin")]) % 3000


# -- cancelling


def test_a_cancelled_reply_leaves_the_batch() -> None:
    """Cancelling a job takes its row out of the batch, and the others go on."""
    device = FakeDevice()
    device.enqueue("left behind", "stays")
    device.going.clear()

    async def work() -> Written:
        async with running(device) as engine:
            leaves = asyncio.create_task(engine.write(job(seed=1)))
            stays = asyncio.create_task(engine.write(job(seed=2)))
            await begun(device)
            await begun(device)
            leaves.cancel()
            await asyncio.wait([leaves])
            await engine.memory()  # comes after the removal
            assert [0] == device.removed
            device.going.set()
            return await stays

    assert "stays" == text_of(device, scenario(work))


def test_all_replies_of_a_cancelled_job_leave_within_a_step() -> None:
    """O15: of n replies none is written on, but those that have ended before; the others' tokens stay theirs."""
    device = FakeDevice()
    device.enqueue("", "a long story", "another one", "and a third", "stays")
    device.going.clear()
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> Written:
        async with running(device) as engine:
            leaves = asyncio.create_task(engine.write(job(n=4), lambda number, _: heard.put_nowait(number)))
            await begun(device)
            stays = asyncio.create_task(engine.write(job()))
            await begun(device)
            device.steps_left = 2
            device.going.set()
            assert [1, 2, 3, 1, 2, 3] == [await heard.get() for _ in range(6)]
            leaves.cancel()
            await asyncio.wait([leaves])
            await engine.memory()
            assert [1, 2, 3] == device.removed
            device.going.set()
            return await stays

    assert "stays" == text_of(device, scenario(work))


def test_a_cancelled_job_that_waits_is_never_begun() -> None:
    """O13: a job that is cancelled while it waits costs no prefill."""
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with running(device, rows=1) as engine:
            first = asyncio.create_task(engine.write(job(seed=1)))
            await begun(device)
            second = asyncio.create_task(engine.write(job(seed=2)))
            await engine.memory()  # the second one waits by now
            second.cancel()
            await asyncio.wait([second])
            device.going.set()
            await first
            await engine.write(job(seed=3))

    scenario(work)
    assert [(1,), (3,)] == [each.seeds for each in device.jobs]
    assert [] == device.removed


@pytest.mark.parametrize("pieces", [0, 50], ids=["alone", "while a slot is staged"])
def test_a_cancelled_prompt_is_fed_at_most_one_chunk_more(adapter: CheckedAdapter, pieces: int) -> None:
    """O14: who leaves while the prompt is fed leaves it there, whatever else the engine is at."""
    device = FakeDevice()
    device.pieces = pieces

    async def work() -> None:
        async with running(device) as engine:
            device.staging.clear()
            reloading = asyncio.create_task(engine.stage(1, adapter))
            await staging(device)
            device.feeding.clear()
            writing = asyncio.create_task(engine.write(Job(LONG, 0, (0,))))
            await asyncio.sleep(0)  # it is in the queue
            device.staging.set()
            await asyncio.to_thread(device.chunks.get, timeout=PATIENCE)
            writing.cancel()
            await asyncio.wait([writing])
            device.feeding.set()
            await reloading
            await engine.memory()
            assert 1 <= len(device.fed) <= 2
            device.enqueue("fine")
            assert "fine" == text_of(device, await engine.write(job()))

    scenario(work)
    assert [] == device.removed


def test_a_cancelled_reply_does_not_wait_for_a_staging(adapter: CheckedAdapter) -> None:
    """O15: while a slot is staged piece by piece, who leaves is out of the batch within a step."""
    device = FakeDevice()
    device.enqueue("x" * 500)
    device.going.clear()
    device.pieces = 50

    async def work() -> int:
        async with running(device) as engine:
            device.staging.clear()
            writing = asyncio.create_task(engine.write(job(max_tokens=1000)))
            await begun(device)
            reloading = asyncio.create_task(engine.stage(1, adapter))
            await staging(device)
            writing.cancel()
            await asyncio.wait([writing])
            device.let_go()
            await reloading
            return device.did.count("step")

    assert scenario(work) <= 1
    assert [0] == device.removed


def test_cancelling_at_the_last_moment_harms_nobody() -> None:
    """Jobs cancelled while their last token is on its way do not stop the engine."""
    device = FakeDevice()

    async def work() -> None:
        async with running(device, rows=4) as engine:
            for _ in range(100):
                device.enqueue("")
                writing = asyncio.create_task(engine.write(job()))
                await begun(device)
                writing.cancel()
                await asyncio.wait([writing])
            device.enqueue("fine")
            assert "fine" == text_of(device, await engine.write(job()))

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
            assert "fine" == text_of(device, await engine.write(job()))

    scenario(work)


# -- slots


def test_a_reply_is_written_by_the_adapter_in_its_slot(adapter: CheckedAdapter) -> None:
    """Once an adapter is staged, replies of its slot are its own."""
    device = FakeDevice()

    async def work() -> list[Written]:
        async with running(device) as engine:
            assert {"stage", "probe"} == set(await engine.stage(2, adapter))
            return await asyncio.gather(engine.write(job(2)), engine.write(job(0)))

    mine, base = scenario(work)
    assert [adapter.generation, "written by the base"] == [text_of(device, mine), text_of(device, base)]


def test_staging_does_not_wait_for_replies(adapter: CheckedAdapter) -> None:
    """An adapter is staged between two steps of a reply that goes on."""
    device = FakeDevice()
    device.enqueue("goes on")
    device.going.clear()

    async def work() -> Written:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(job()))
            await begun(device)
            await engine.stage(1, adapter)
            assert not writing.done()
            device.going.set()
            return await writing

    assert "goes on" == text_of(device, scenario(work))


def test_replies_do_not_wait_for_staging(adapter: CheckedAdapter) -> None:
    """However many pieces a staging has, each row gets a token between two of them, and a prompt is fed."""
    device = FakeDevice()
    device.enqueue("x" * 500, "quick")
    device.going.clear()
    device.pieces = 40

    async def work() -> None:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(job(max_tokens=1000)))
            await begun(device)
            device.staging.clear()
            reloading = asyncio.create_task(engine.stage(1, adapter))
            await staging(device)
            later = asyncio.create_task(engine.write(job()))
            await asyncio.sleep(0)  # it is in the queue
            device.did.clear()
            device.let_go()
            await asyncio.gather(writing, later, reloading)

    scenario(work)
    assert 40 == device.did.count("stage")
    assert "stage stage" not in " ".join(device.did)
    assert device.did.index("feed") <= 4  # it did not wait for the last piece


def test_commands_are_done_in_the_order_in_which_they_were_given(adapter: CheckedAdapter) -> None:
    """A slot that is freed after a staging is freed after its last piece; and staged again, it stays."""
    device = FakeDevice()
    device.pieces = 5

    async def work() -> None:
        async with running(device) as engine:
            device.staging.clear()
            first = asyncio.create_task(engine.stage(1, adapter))
            await staging(device)
            engine.free(1)
            second = asyncio.create_task(engine.stage(1, adapter))
            await asyncio.sleep(0)
            device.staging.set()
            await asyncio.gather(first, second)
            assert {1: adapter} == device.slots
            engine.free(1)
            assert 0 == await engine.memory() and {} == device.slots

    scenario(work)
    assert [*["stage"] * 5, "free", *["stage"] * 5, "free"] == device.did


def test_a_refused_adapter_harms_nobody(adapter: CheckedAdapter) -> None:
    """A probe that refuses is the caller's error alone."""
    device = FakeDevice()
    device.raises["stage"] = AdapterRefused("it is the base", code="probe_is_base")

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(AdapterRefused, match="it is the base"):
                await engine.stage(1, adapter)
            device.enqueue("fine")
            assert "fine" == text_of(device, await engine.write(job()))

    scenario(work)


def test_a_slot_is_warmed_with_prompts_and_with_what_its_forerunner_used() -> None:
    """Warming feeds the prompts it is given, and those that another slot used last, under the new slot, with their
    marks; nothing is written.
    """
    device = FakeDevice()
    device.warm[1] = [([4, 5], (1,)), ([6], ())]

    async def work() -> None:
        async with running(device) as engine:
            await engine.warm(2, [([1, 2, 3], (2,))], like=1)
            await engine.warm(3, [([7], ())])

    scenario(work)
    assert [([1, 2, 3], 2, (2,)), ([4, 5], 2, (1,)), ([6], 2, ()), ([7], 3, ())] == [
        (each.ids, each.slot, each.marks) for each in device.jobs
    ]
    assert {()} == {each.seeds for each in device.jobs} and "step" not in device.did


def test_warming_takes_its_turn_like_anybody() -> None:
    """It waits in a group of its own, whose name no adapter can have."""
    device = FakeDevice()

    async def work() -> None:
        async with running(device) as engine:
            await engine.warm(1, [([1], ())])

    scenario(work)
    assert [WARMING] == [each.group for each in device.jobs]
    assert not re.fullmatch(NAME_PATTERN, WARMING) and "base" != WARMING


# -- failing


@pytest.mark.parametrize("method", ["begin", "feed", "step"])
def test_any_exception_of_the_device_is_the_end(method: str) -> None:
    """An exception fails what is in flight and what waits, is reported once, and stops the engine for good."""
    device = FakeDevice()
    reported: list[str] = []

    async def work() -> None:
        async with running(device, rows=2) as engine:
            engine.on_failure = lambda: reported.append("failed")
            device.going.clear()
            writing = [asyncio.create_task(engine.write(job())) for _ in range(2)]
            await begun(device)
            await begun(device)
            device.raises[method] = RuntimeError("out of memory: the text of a message")
            writing += [asyncio.create_task(engine.write(job(n=2))) for _ in range(2)]
            if method != "step":
                for leaves in writing[:2]:
                    leaves.cancel()  # makes room
            device.going.set()
            failed = await asyncio.gather(*writing, return_exceptions=True)
            assert (2 if method != "step" else 4) == [type(each) for each in failed].count(NotReady)
            assert {"engine_error"} == {each.code for each in failed if isinstance(each, NotReady)}
            assert "RuntimeError" == engine.failure
            with pytest.raises(NotReady) as refusal:
                await engine.write(job())
            assert "engine_error" == refusal.value.code

    scenario(work)
    assert ["failed"] == reported
    assert device.closed


@pytest.mark.parametrize("method", ["begin", "feed"])
def test_a_prompt_that_cannot_be_fed_is_failed(method: str) -> None:
    """The job at which the device broke is failed like the others: it does not wait for ever."""
    device = FakeDevice()
    device.raises[method] = RuntimeError("no")

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(NotReady, match="before the reply was written"):
                await engine.write(job(n=2))

    scenario(work)


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_token_without_probability_is_the_end(logprob: float) -> None:
    """O33: logits that are not finite fail the job instead of delivering a token."""
    device = FakeDevice()
    device.logprob = logprob
    heard: list[int] = []

    async def work() -> None:
        async with running(device) as engine:
            with pytest.raises(NotReady):
                await engine.write(job(), lambda _, token: heard.append(token))
            assert "ArithmeticError" == engine.failure

    scenario(work)
    assert [] == heard


@pytest.mark.parametrize("method", ["stage", "free"])
def test_an_exception_while_a_slot_changes_is_the_end(adapter: CheckedAdapter, method: str) -> None:
    """A device that breaks while it stages or frees fails everybody."""
    device = FakeDevice()
    device.raises[method] = RuntimeError("no")
    device.going.clear()

    async def work() -> None:
        async with running(device) as engine:
            writing = asyncio.create_task(engine.write(job()))
            await begun(device)
            if method == "stage":
                with pytest.raises(NotReady):
                    await engine.stage(1, adapter)
            else:
                engine.free(1)
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
            calls: list[asyncio.Task[Any]] = [asyncio.create_task(engine.stage(slot, adapter)) for slot in (1, 2)]
            calls.append(asyncio.create_task(engine.memory()))
            calls.append(asyncio.create_task(engine.warm(1, [([1], ())])))
            await staging(device)
            device.staging.set()
            assert [NotReady] * 4 == [type(each) for each in await asyncio.gather(*calls, return_exceptions=True)]

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


def test_stopping_fails_what_is_in_flight(adapter: CheckedAdapter) -> None:
    """What is written, fed, staged or waits when the engine stops is told that the service is shutting down."""
    device = FakeDevice()
    device.going.clear()
    device.pieces = 10**9

    async def work() -> None:
        async with running(device, rows=2) as engine:
            writing: list[asyncio.Task[Any]] = [asyncio.create_task(engine.write(job()))]
            await begun(device)
            writing += [asyncio.create_task(engine.write(Job(list(range(10**6)), 0, (1,))))]
            writing += [asyncio.create_task(engine.write(job(n=2))) for _ in range(2)]
            writing += [asyncio.create_task(engine.stage(1, adapter)), asyncio.create_task(engine.memory())]
            await staging(device)
            await asyncio.to_thread(engine.stop)
            failed = await asyncio.gather(*writing, return_exceptions=True)
            assert ["shutting_down"] * 6 == [getattr(each, "code", each) for each in failed]
            engine.free(1)  # too late to matter, and no error
            for late in (engine.write(job()), engine.memory(), engine.warm(1, [([1], ())])):
                with pytest.raises(NotReady) as refusal:
                    await late
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
    """Jobs that come while the engine fails are failed too: none waits for ever."""

    async def work() -> None:
        for _ in range(20):
            device = FakeDevice()
            device.raises["step"] = RuntimeError("no")
            async with running(device) as engine:
                loop, done = asyncio.get_running_loop(), threading.Event()

                def crowd(engine: Engine, loop: asyncio.AbstractEventLoop, done: threading.Event) -> list[Any]:
                    asked = []
                    while not done.is_set():
                        asked.append(asyncio.run_coroutine_threadsafe(engine.write(job()), loop))
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
                await engine.write(job())
            assert "Walrus" not in str(refusal.value)

    scenario(work)
    assert "RuntimeError" in caplog.text and "Walrus" not in caplog.text
