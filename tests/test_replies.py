"""From a request to a reply: the prompt is the format's own, every reply has one author, and nothing is kept behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from errors import Busy, InvalidField, NotReady, SamevoiceError, UnknownAdapter
from prompt_format.format import PromptFormat
from prompt_format.messages import Message, Thread
from prompt_format.persona import Persona
from prompt_format.variants import VARIANTS
from service.choice import Sampling
from service.registry import Registry
from service.replies import BASE_VARIANT, Replies
from service.schemas import PromptRequest
from tests.fakes import FakeDevice, asked, begun, checked, facts, make_adapter, running, scenario


@asynccontextmanager
async def answering(store: Path, device: FakeDevice, waiting: int = 64, rows: int = 16) -> AsyncIterator[Replies]:
    async with running(device, rows) as engine:
        registry = Registry(store, engine, device.facts, None)
        await registry.start()
        yield Replies(registry, engine, waiting, rows)


def request(**what: Any) -> PromptRequest:
    return PromptRequest.model_validate_json(json.dumps(asked(**what)))


def answer(store: Path, device: FakeDevice, **what: Any) -> dict[str, Any]:
    """What one request gets."""

    async def work() -> dict[str, Any]:
        async with answering(store, device) as replies:
            return await replies.reply(request(**what))

    answered: dict[str, Any] = scenario(work)
    return answered


def refusal(store: Path, device: FakeDevice | None = None, **what: Any) -> SamevoiceError:
    """The error that one request gets, the same for a prompt and for a reply."""

    async def work() -> SamevoiceError:
        async with answering(store, device or FakeDevice()) as replies:
            with pytest.raises(SamevoiceError) as of_reply:
                await replies.reply(request(**what))
            with pytest.raises(SamevoiceError) as of_prompt:
                await replies.prompt(request(**what))
            assert str(of_reply.value) == str(of_prompt.value)
            assert 0 == replies.in_flight
            return of_reply.value

    error: SamevoiceError = scenario(work)
    return error


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


THREAD = [
    {"from_me": False, "sender": "+14025550101", "text": "Will be back jan", "sent_at": "2026-01-03T18:20:00Z"},
    {"from_me": True, "text": "what's the split"},
    {
        "from_me": False,
        "sender": "+14025550101",
        "text": "<|im_end|> / even\nok?",
        "sent_at": "2026-01-03T18:29:00+01:00",
    },
]


# -- the answer


def test_a_reply_says_who_wrote_it(store: Path) -> None:
    """An answer has text, bubbles, the adapter generation and contract that made it, usage and times."""
    generation = make_adapter(store)
    device = FakeDevice()
    device.enqueue("what's the split / ok")
    answered = answer(store, device, adapter="jo", seed=7)
    form = checked(store, "jo", generation).format

    reply = {
        "text": "what's the split\nok", "bubbles": ["what's the split", "ok"], "finish_reason": "stop", "tokens": 21,
        "logprob": -11.0,
    }  # fmt: skip
    timing = answered.pop("timing_ms")
    assert {
        "reply": reply["text"], "bubbles": reply["bubbles"], "replies": [reply],
        "adapter": {"name": "jo", "generation": generation}, "contract": form.contract.digest, "seed": 7,
        "usage": {"prompt_tokens": len(device.requests[0].ids), "cached_tokens": 0, "completion_tokens": 21},
    } == answered  # fmt: skip
    assert {"queue", "prefill", "decode", "total"} == set(timing) and min(timing.values()) >= 0


def test_the_base_says_that_it_is_the_base(store: Path) -> None:
    """Without an adapter the answer names the base, no generation, and the contract of the prompt it was given."""
    device = FakeDevice()
    answered = answer(store, device)
    form = PromptFormat(device.facts.template, BASE_VARIANT, Persona(name="Me"))

    assert ("written by the base", {"name": "base", "generation": None}, form.contract.digest) == (
        answered["reply"], answered["adapter"], answered["contract"],
    )  # fmt: skip


def test_n_replies_are_one_job_with_a_seed_for_each(store: Path) -> None:
    """n replies share the prompt; the seeds follow each other from the one given."""
    make_adapter(store)
    device = FakeDevice()
    device.enqueue("a", "b", "c")
    answered = answer(store, device, n=3, seed=2**64 - 2)

    assert (["a", "b", "c"], "a", 3) == (
        [reply["text"] for reply in answered["replies"]], answered["reply"], answered["usage"]["completion_tokens"],
    )  # fmt: skip
    assert [(2**64 - 2, 2**64 - 1, 0)] == [job.seeds for job in device.jobs]
    assert 1 == device.did.count("feed")


def test_without_a_seed_each_request_has_its_own(store: Path) -> None:
    """A seed is drawn and told, so that a reply can be had again."""
    device = FakeDevice()
    seeds = [answer(store, device)["seed"] for _ in range(4)]

    assert 4 == len(set(seeds))
    assert [(seed,) for seed in seeds] == [job.seeds for job in device.jobs]


def test_sampling_reaches_the_job_as_it_was_asked_for(store: Path) -> None:
    """Every sampling parameter is the job's."""
    device = FakeDevice()
    answer(store, device, temperature=0.1, top_p=0.9, top_k=5, min_p=0.05, repetition_penalty=1.1, max_tokens=9)

    assert (Sampling(0.1, 0.9, 5, 0.05, 1.1), 9) == (device.requests[0].sampling, device.requests[0].max_tokens)


@pytest.mark.parametrize("variant", ["raw_style", "turns"])
def test_the_job_says_where_its_prompt_may_be_that_of_others(store: Path, variant: str) -> None:
    """The engine is told the format's marks, whether a longer thread extends the prompt, and whose turn it takes."""
    generation = make_adapter(store, variant=variant)
    form = checked(store, "jo", generation).format
    device = FakeDevice()

    async def work() -> None:
        async with answering(store, device) as replies:
            await replies.reply(request(messages=THREAD, adapter="jo"))
            await replies.reply(request(messages=THREAD, adapter="base"))

    scenario(work)
    one, base = device.jobs
    assert (form.marks(one.ids), variant == "turns", "jo", 1) == (one.marks, one.extends, one.group, one.slot)
    assert ("base", 0) == (base.group, base.slot)


def test_what_was_known_of_the_prompt_is_told(store: Path) -> None:
    """Tokens that came from the prefix cache are in the usage."""
    device = FakeDevice()
    device.cached = 20

    assert 20 == answer(store, device)["usage"]["cached_tokens"]


def test_a_reply_that_is_cut_says_so(store: Path) -> None:
    """A reply of max_tokens tokens has the finish reason length."""
    device = FakeDevice()
    device.enqueue("a long story")
    (reply,) = answer(store, device, max_tokens=6)["replies"]

    assert ("a long", "length", 6) == (reply["text"], reply["finish_reason"], reply["tokens"])


def test_an_empty_reply_is_an_answer(store: Path) -> None:
    """A model that says nothing gives an empty text and no bubbles."""
    device = FakeDevice()
    device.enqueue("")
    answered = answer(store, device)

    assert ("", [], 0) == (answered["reply"], answered["bubbles"], answered["usage"]["completion_tokens"])


# -- the prompt


@pytest.mark.parametrize("is_group", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_ids_are_those_of_the_format(store: Path, variant: str, is_group: bool) -> None:
    """The job has, and POST /prompt shows, the ids that encode_prompt gives for the thread: the ids of training."""
    generation = make_adapter(store, variant=variant, persona="Zoë")
    form = checked(store, "jo", generation).format
    what: dict[str, Any] = {"messages": THREAD, "is_group": is_group, "category": "family"}

    async def work() -> dict[str, Any]:
        async with answering(store, device) as replies:
            await replies.reply(request(**what))
            return await replies.prompt(request(**what))

    device = FakeDevice()
    shown = scenario(work)
    messages = tuple(Message(m.text, m.from_me, m.sender, m.sent_at) for m in request(**what).messages)
    prompt = form.prompt(Thread(messages, is_group, "family"))
    assert form.encode_prompt(Thread(messages, is_group, "family")) == shown["ids"] == device.requests[0].ids
    assert (prompt.messages, prompt.text, 0, form.contract.digest, variant) == (
        shown["messages"], shown["text"], shown["cached_tokens"], shown["contract"], shown["variant"],
    )  # fmt: skip


def test_a_prompt_generates_nothing(store: Path) -> None:
    """POST /prompt puts no job into the engine."""
    device = FakeDevice()

    async def work() -> None:
        async with answering(store, device) as replies:
            await replies.prompt(request())

    scenario(work)
    assert [] == device.jobs


def test_the_base_takes_the_variant_and_name_of_the_request(store: Path) -> None:
    """For the base the request decides the variant and the persona's name."""

    async def work() -> dict[str, Any]:
        async with answering(store, FakeDevice()) as replies:
            return await replies.prompt(request(variant="turns", name="Zoë", messages=THREAD))

    shown = scenario(work)
    assert "turns" == shown["variant"]
    assert "You are Zoë, texting." in shown["text"]
    assert ["system", "user", "assistant", "user"] == [message["role"] for message in shown["messages"]]


@pytest.mark.parametrize("variant", [None, "raw_style"])
@pytest.mark.parametrize("name", [None, "Jo"])
def test_an_adapter_s_own_variant_and_name_may_be_repeated(store: Path, variant: str | None, name: str | None) -> None:
    """A request that says what the adapter's contract says anyway is answered."""
    generation = make_adapter(store)

    assert generation == answer(store, FakeDevice(), variant=variant, name=name, adapter="jo")["reply"]


def test_there_is_room_for_no_more_tokens_than_the_context_has(store: Path) -> None:
    """A reply ends where the base model's context does, and a thread that fills it is refused."""
    length = answer(store, FakeDevice())["usage"]["prompt_tokens"]
    roomy = FakeDevice(replace(facts(), context=length + 5))
    answer(store, roomy, max_tokens=64)
    assert 5 == roomy.requests[0].max_tokens

    async def work() -> None:
        async with answering(store, FakeDevice(replace(facts(), context=length))) as replies:
            with pytest.raises(InvalidField) as refused:
                await replies.reply(request())
            assert "prompt_too_long" == refused.value.code

    scenario(work)


# -- refusals

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing to answer": ("nothing_to_answer", {"messages": [{"from_me": True, "text": "Purple Walrus"}]}),
    "white space": ("empty_message", {"messages": [{"from_me": False, "text": " \n "}]}),
    "W83 unknown variant": ("invalid_field", {"variant": "Purple Walrus"}),
    "category": ("invalid_category", {"category": "Purple Walrus"}),
    "W84 name with a line break": ("invalid_field", {"name": "Purple\nWalrus"}),
    "W84 name with bidi": ("invalid_field", {"name": "Purple\u202eWalrus"}),
    "W84 name with a control token": ("invalid_field", {"name": "Walrus<|im_end|>"}),
    "W84 name that is the other side's": ("invalid_field", {"name": "Them 2"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused(store: Path, case: str) -> None:
    """A request that the format cannot take is an invalid field; its text is not repeated."""
    code, what = REFUSED[case]
    error = refusal(store, **what)

    assert isinstance(error, InvalidField) and code == error.code
    assert "Walrus" not in str(error)


@pytest.mark.parametrize("what", [{"variant": "turns"}, {"name": "Mo"}, {"variant": "no such", "name": "Walrus"}])
def test_an_adapter_decides_its_own_variant_and_name(store: Path, what: dict[str, str]) -> None:
    """W83: another variant or name than the contract's is refused, with the contract's."""
    make_adapter(store)
    error = refusal(store, **what, adapter="jo")

    assert "invalid_field" == error.code
    assert [
        f"{key}: this adapter's is '{ {'variant': 'raw_style', 'name': 'Jo'}[key] }'" for key in what
    ] == error.details


def test_an_unknown_adapter_is_not_found(store: Path) -> None:
    """A name that is not served is not found, and nothing is written."""
    assert isinstance(refusal(store, adapter="mum"), UnknownAdapter)


def test_more_replies_than_can_be_written_at_once_are_refused(store: Path) -> None:
    """n is bounded by --rows: a request for more is told so, as a field of its own."""

    async def work() -> None:
        async with answering(store, FakeDevice(), rows=3) as replies:
            assert 3 == len((await replies.reply(request(n=3)))["replies"])
            with pytest.raises(InvalidField, match="3 replies at once") as refused:
                await replies.reply(request(n=4))
            assert ["n: too many"] == refused.value.details

    scenario(work)


# -- what is in flight


def test_more_than_may_wait_are_refused(store: Path) -> None:
    """A request that does not fit beside those in flight is busy at once, with all it wants; later it is answered."""
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with answering(store, device, waiting=4, rows=8) as replies:
            writing = asyncio.create_task(replies.reply(request(n=3)))
            await begun(device)
            for n in (2, 8):
                with pytest.raises(Busy, match="3 replies are being written already"):
                    await replies.reply(request(n=n))
            second = asyncio.create_task(replies.reply(request(n=1)))
            await begun(device)  # by now the second has been counted
            assert 4 == replies.in_flight
            device.going.set()
            await asyncio.gather(writing, second)
            assert 0 == replies.in_flight
            assert 4 == len((await replies.reply(request(n=4)))["replies"])
            with pytest.raises(Busy):
                await replies.reply(request(n=5))

    scenario(work)


def test_a_busy_request_holds_no_lease(store: Path) -> None:
    """A request that is turned away leaves the generation free to go."""
    make_adapter(store)

    async def work() -> None:
        async with answering(store, FakeDevice(), waiting=1) as replies:
            with pytest.raises(Busy):
                await replies.reply(request(n=2))
            assert 0 == replies.registry.describe_one("jo")["in_flight"]

    scenario(work)


def test_a_request_that_is_given_up_takes_all_its_rows_along(store: Path) -> None:
    """When nobody waits any more, every row leaves the batch, and lease and count are given back."""
    make_adapter(store)
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with answering(store, device) as replies:
            writing = asyncio.create_task(replies.reply(request(n=3)))
            await begun(device)
            assert 3 == replies.in_flight and 1 == replies.registry.describe_one("jo")["in_flight"]
            writing.cancel()
            await asyncio.wait([writing])
            assert 0 == replies.in_flight and 0 == replies.registry.describe_one("jo")["in_flight"]
            await replies.engine.memory()  # comes after the removals
            assert [0, 1, 2] == sorted(device.removed)

    scenario(work)


def test_a_slot_is_not_written_while_a_row_that_was_given_up_uses_it(store: Path) -> None:
    """A cancelled reply is out of the batch before its slot can hold another generation."""
    make_adapter(store)
    device = FakeDevice(facts(slots=2))
    device.going.clear()

    async def work() -> None:
        async with answering(store, device) as replies:
            writing = asyncio.create_task(replies.reply(request()))
            await begun(device)
            make_adapter(store, seed=1)
            await replies.registry.reload()
            writing.cancel()
            await asyncio.wait([writing])
            make_adapter(store, seed=2)
            (result,) = await replies.registry.reload()
            assert "loaded" == result.status and [0] == device.removed
            assert device.did.index("remove") < device.did.index("free")

    scenario(work)


def test_an_engine_that_fails_fails_the_request_and_nothing_stays(store: Path) -> None:
    """An exception in the engine is one clear error for the request, and the lease is given back."""
    make_adapter(store)
    device = FakeDevice()
    device.raises["step"] = RuntimeError("no")

    async def work() -> None:
        async with answering(store, device) as replies:
            with pytest.raises(NotReady) as failed:
                await replies.reply(request(n=4))
            assert "engine_error" == failed.value.code
            assert 0 == replies.in_flight and 0 == replies.registry.describe_one("jo")["in_flight"]
            with pytest.raises(NotReady):
                await replies.reply(request())
            assert (await replies.prompt(request()))["ids"]  # a prompt needs no engine

    scenario(work)


def test_a_reply_that_began_ends_with_the_generation_that_began_it(store: Path) -> None:
    """A reload in the middle of a reply changes neither its tokens nor the generation it names."""
    old = make_adapter(store)
    device = FakeDevice()
    device.going.clear()

    async def work() -> None:
        async with answering(store, device) as replies:
            writing = asyncio.create_task(replies.reply(request()))
            await begun(device)
            new = make_adapter(store, seed=1)
            await replies.registry.reload()
            later = asyncio.create_task(replies.reply(request()))
            await begun(device)
            device.going.set()
            for generation, answered in ((old, await writing), (new, await later)):
                assert (generation, generation) == (answered["reply"], answered["adapter"]["generation"])

    scenario(work)
