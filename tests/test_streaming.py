"""Replies while they are written: events whose texts add up, errors at every stage, and clients that leave."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from errors import NotReady
from service.registry import Registry
from service.replies import Replies
from service.schemas import PromptRequest
from tests.connections import Client, app_of
from tests.fakes import PATIENCE, FakeDevice, asked, begun, make_adapter, running, scenario, served

Event = tuple[str, dict[str, Any]]


def request(**what: Any) -> PromptRequest:
    return PromptRequest.model_validate_json(json.dumps(asked(stream=True, **what)))


def events_of(text: str) -> list[Event]:
    """The events of a body, read strictly: a name, one line of data, an empty line."""
    *blocks, rest = text.split("\n\n")
    assert "" == rest
    lines = [block.split("\n") for block in blocks]
    assert all(2 == len(pair) and pair[0].startswith("event: ") and pair[1].startswith("data: ") for pair in lines)
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


def texts_of(events: list[Event], n: int = 1) -> list[str]:
    """What the token events of each index add up to."""
    return [
        "".join(data["text"] for name, data in events if name == "token" and data["index"] == index)
        for index in range(n)
    ]


@asynccontextmanager
async def answering(store: Path, device: FakeDevice) -> AsyncIterator[Replies]:
    async with running(device) as engine:
        registry = Registry(store, engine, device.facts, None)
        await registry.start()
        yield Replies(registry, engine)


def streamed(store: Path, device: FakeDevice, **what: Any) -> list[Event]:
    """The events of one request."""

    async def work() -> list[Event]:
        async with answering(store, device) as replies:
            return [event async for event in replies.stream(request(**what))]

    events: list[Event] = scenario(work)
    return events


# -- the events


def test_the_texts_of_a_stream_add_up_to_its_reply(store: Path, device: FakeDevice) -> None:
    """First the text as it comes, in pieces; at the end the whole answer, as without a stream."""
    generation = make_adapter(store)
    device.enqueue("what's the split / é 😅", "what's the split / é 😅")
    *tokens, (name, done) = streamed(store, device, adapter="jo", seed=7)

    async def plain() -> dict[str, Any]:
        async with answering(store, device) as replies:
            return await replies.reply(request(adapter="jo", seed=7))

    assert {"token"} == {name for name, _ in tokens} and "done" == name
    assert ["what's the split\né 😅"] == texts_of(tokens) == [done["reply"]]
    assert len(tokens) > 10
    answered = scenario(plain)
    assert generation == done["adapter"]["generation"]
    assert {**answered, "timing_ms": done["timing_ms"]} == done
    assert set(answered["timing_ms"]) == set(done["timing_ms"])


def test_n_replies_are_streamed_side_by_side(store: Path, device: FakeDevice) -> None:
    """Each reply's texts come under its index, none after the other's end."""
    device.enqueue("one", "the second", "", "4")
    *tokens, (_, done) = streamed(store, device, n=4)

    assert ["one", "the second", "", "4"] == texts_of(tokens, 4) == [reply["text"] for reply in done["replies"]]
    assert [0, 1, 3] == sorted(data["index"] for _, data in tokens[:3])


def test_an_empty_reply_has_no_text(store: Path, device: FakeDevice) -> None:
    """A model that says nothing gives the answer alone."""
    device.enqueue("")

    assert ["done"] == [name for name, _ in streamed(store, device)]


def test_text_comes_while_the_reply_is_written(store: Path, device: FakeDevice) -> None:
    """The first words are there before the last ones are written."""
    device.enqueue("a long story")
    device.steps_left = 3

    async def work() -> None:
        async with answering(store, device) as replies, aclosing(replies.stream(request())) as events:
            assert ["a", " l"] == [(await anext(events))[1]["text"] for _ in range(2)]
            assert not device.idle
            device.let_go()
            assert "ong story" == texts_of([event async for event in events])[0]

    scenario(work)


def test_what_is_no_part_of_the_reply_is_never_shown(store: Path, device: FakeDevice) -> None:
    """A model that writes on as somebody else is cut where it does, in the stream as in the answer."""
    device.enqueue("Me: ya\nThem: where\nMe: here")
    *tokens, (_, done) = streamed(store, device)

    assert ["ya"] == texts_of(tokens) == [done["reply"]]


def test_a_reply_that_is_cut_is_streamed_to_its_last_token(store: Path, device: FakeDevice) -> None:
    """What was held back comes with the end: here something that might have become a label."""
    device.enqueue("ok\nThem and us")
    *tokens, (_, done) = streamed(store, device, max_tokens=7)

    assert ["ok\nThem"] == texts_of(tokens) == [done["reply"]]
    assert "length" == done["replies"][0]["finish_reason"]


# -- over HTTP


def test_a_stream_over_http(store: Path, device: FakeDevice) -> None:
    """``"stream": true`` answers with events, each a name and one line of JSON, written out in UTF-8."""
    make_adapter(store)
    device.enqueue("so / é 😅")
    with served(store, device) as client:
        answered = client.post("/reply", json=asked(stream=True))

    assert (200, "text/event-stream; charset=utf-8", "no-store") == (
        answered.status_code, answered.headers["Content-Type"], answered.headers["Cache-Control"],
    )  # fmt: skip
    *tokens, (name, done) = events_of(answered.content.decode())
    assert ("done", ["so\né 😅"], "so\né 😅") == (name, texts_of(tokens), done["reply"])
    assert "😅" in answered.content.decode()


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ({"adapter": "mum"}, 404, "unknown_adapter"),
        ({"category": "No!"}, 422, "invalid_category"),
        ({"n": 0}, 422, "invalid_field"),
        ({"n": 8}, 422, "invalid_field"),
        ({"messages": [{"from_me": True, "text": "x"}]}, 422, "nothing_to_answer"),
        ({"n": 3}, 429, "queue_full"),
    ],
    ids=["adapter", "category", "n", "n above rows", "prompt", "busy"],
)
def test_what_is_refused_before_the_first_event_is_a_plain_error(
    store: Path, device: FakeDevice, what: dict[str, Any], status: int, code: str
) -> None:
    """A client that asked for events gets the status and envelope that it would have got without."""
    with served(store, device, rows=4, waiting=2) as client:
        answered = client.post("/reply", json={**asked(stream=True), **what})
        again = client.post("/reply", json={**asked(), **what})

    assert (status, code) == (answered.status_code, answered.json()["error"]["code"])
    assert (again.status_code, again.json()) == (answered.status_code, answered.json())
    assert [] == device.jobs


@pytest.mark.parametrize("method", ["begin", "feed", "step"])
def test_an_engine_that_fails_before_the_first_event_is_a_plain_error(
    store: Path, device: FakeDevice, method: str
) -> None:
    """Nothing has been sent yet: the status can still say it."""
    device.raises[method] = RuntimeError("no")
    with served(store, device) as client:
        answered = client.post("/reply", json=asked(stream=True))

    assert (503, "engine_error") == (answered.status_code, answered.json()["error"]["code"])


def test_a_deadline_that_passes_while_a_stream_waits_is_a_plain_error(store: Path, device: FakeDevice) -> None:
    """O03: 504, nothing fed for it, and nothing kept."""
    with served(store, device, deadline_s=0.2) as client, ThreadPoolExecutor(1) as threads:
        device.feeding.clear()
        fed = threads.submit(client.post, "/reply", json=asked(stream=True))
        device.chunks.get(timeout=PATIENCE)
        waited = client.post("/reply", json=asked(stream=True))
        answers = [waited, fed.result(PATIENCE)]  # the one whose prompt is being fed has had no event either
        device.let_go()
        assert 200 == client.post("/reply", json=asked()).status_code

    assert {(504, "deadline")} == {(answered.status_code, answered.json()["error"]["code"]) for answered in answers}
    assert 2 == len(device.jobs)


def test_a_deadline_that_passes_in_a_stream_is_its_last_event(store: Path, device: FakeDevice) -> None:
    """O04: what was written is there; then ``event: error`` says why there is no more. Rows and lease are gone."""
    make_adapter(store)
    device.enqueue("a long story", "another one")
    device.steps_left = 3
    with served(store, device, deadline_s=0.5) as client:
        answered = client.post("/reply", json=asked(stream=True, n=2))
        assert 0 == client.get("/adapters/jo").json()["in_flight"]
        device.let_go()
        assert 200 == client.post("/reply", json=asked()).status_code

    *tokens, (name, error) = events_of(answered.text)
    assert (200, "error", "deadline") == (answered.status_code, name, error["error"]["code"])
    assert ["code", "message", "details"] == list(error["error"])
    assert ["a l", "ano"] == texts_of(tokens, 2)
    assert [0, 1] == device.removed


def test_an_engine_that_fails_in_a_stream_is_its_last_event(store: Path, device: FakeDevice) -> None:
    """O31: what was written is there; then ``event: error``, without the text of the exception."""
    make_adapter(store)
    device.steps_left = 3

    async def work() -> list[Event]:
        events = []
        async with answering(store, device) as replies:
            with pytest.raises(NotReady) as failed:
                async for event in replies.stream(request()):
                    events.append(event)
                    device.raises["step"] = RuntimeError("Purple Walrus")
                    device.let_go()
            assert "engine_error" == failed.value.code and "Walrus" not in str(failed.value)
            assert (0, 0) == (replies.in_flight, replies.registry.describe_one("jo")["in_flight"])
        return events

    assert scenario(work)


def test_a_stream_ends_with_the_generation_that_began_it(store: Path, device: FakeDevice) -> None:
    """A reload in the middle of a stream changes neither its text nor the generation that it names."""
    old = make_adapter(store)
    device.steps_left = 3

    async def work() -> None:
        async with answering(store, device) as replies, aclosing(replies.stream(request())) as events:
            before = [await anext(events) for _ in range(2)]
            make_adapter(store, seed=1)
            (result,) = await replies.registry.reload()
            assert ("loaded", 1) == (result.status, result.in_flight_on_previous)
            device.let_go()
            *rest, (_, done) = [event async for event in events]
            assert (old, [old]) == (done["adapter"]["generation"], texts_of(before + rest))

    scenario(work)


# -- clients that leave, or do not read


def test_who_leaves_a_stream_takes_its_rows_along(store: Path, device: FakeDevice) -> None:
    """O15: a client of four replies that leaves in the middle frees rows and lease; the others read on."""
    make_adapter(store)
    device.enqueue("a", "a long story", "another one", "and a third", "stays")
    device.steps_left = 3

    async def work() -> None:
        async with app_of(store, device) as (doors, _):
            device.going.clear()
            leaves = Client(doors, patience=3, n=4)
            leaving = asyncio.create_task(leaves.run())
            await begun(device)
            stays = Client(doors)
            staying = asyncio.create_task(stays.run())
            await begun(device)
            device.going.set()
            await leaving
            assert not staying.done()
            device.let_go()
            await staying
            body = b"".join(message.get("body", b"") for message in stays.sent).decode()
            assert ["stays"] == texts_of(events_of(body))
            assert device.did[: device.did.index("remove")].count("step") <= 3 + 1  # the one that is being taken

    scenario(work)
    assert device.removed in ([1, 2, 3], [0, 1, 2, 3])  # the first is short: it may have ended by then


def test_who_leaves_while_the_stream_waits_costs_nothing(store: Path, device: FakeDevice) -> None:
    """O13: a client that leaves before its turn is never fed, although no event was due yet."""
    make_adapter(store)

    async def work() -> None:
        async with app_of(store, device, rows=1) as (doors, app):
            device.going.clear()
            first = asyncio.create_task(Client(doors).run())
            await begun(device)
            leaves = Client(doors)
            leaving = asyncio.create_task(leaves.run())
            while app.state.replies.in_flight < 2:
                await asyncio.sleep(0.001)
            leaves.gone.set()
            await leaving
            assert 1 == app.state.replies.in_flight
            device.let_go()
            await first

    scenario(work)
    assert 1 == len(device.jobs)


def test_who_leaves_while_the_prompt_is_fed_is_fed_no_further(store: Path, device: FakeDevice) -> None:
    """O14: a client that leaves during the prefill leaves after the chunk that is being fed."""
    make_adapter(store)

    async def work() -> None:
        async with app_of(store, device) as (doors, _):
            device.feeding.clear()
            text = {"messages": [{"from_me": False, "text": "long " * 120}]}
            leaves = Client(doors, **text)
            leaving = asyncio.create_task(leaves.run())
            await asyncio.to_thread(device.chunks.get, timeout=PATIENCE)
            leaves.gone.set()
            await leaving
            device.let_go()

    scenario(work)
    (job,) = device.jobs
    assert len(job.ids) > 512 and [512] == device.fed


def test_who_does_not_read_is_given_up(store: Path, device: FakeDevice) -> None:
    """O19: a client that stays and reads nothing keeps rows and lease until the deadline, and no longer."""
    make_adapter(store)

    async def work() -> None:
        async with app_of(store, device, deadline_s=0.2) as (doors, app):
            await Client(doors, patience=2, stuck=True).run()
            assert 0 == app.state.replies.in_flight

    scenario(work)


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_come_and_go_leave_nothing_behind(store: Path, device: FakeDevice, seed: int) -> None:
    """Many clients, each leaving at a moment of its own, some not at all: who stays gets all; nothing is leaked."""
    chance = random.Random(seed)
    generations = {name: make_adapter(store, name, seed=number) for number, name in enumerate(("jo", "ann"))}

    async def leave_sometime(client: Client) -> None:
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        client.gone.set()

    async def work() -> None:
        async with app_of(store, device, rows=6, waiting=1000) as (doors, _):
            clients = [
                Client(doors, chance.choice([None, 1, 2, 5, 9]), adapter=chance.choice(("jo", "ann", "base")), n=n)
                for n in (chance.randrange(1, 5) for _ in range(40))
            ]
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.run())
                    if chance.random() < 0.3:
                        group.create_task(leave_sometime(client))
                    await asyncio.sleep(0)
            stayed = [client for client in clients if not client.gone.is_set()]
            assert stayed and len(stayed) < len(clients)
            for client in stayed:
                body = b"".join(message.get("body", b"") for message in client.sent).decode()
                texts = texts_of(events_of(body), client.what["n"])
                assert {generations.get(client.what["adapter"], "written by the base")} == set(texts)

    scenario(work)
