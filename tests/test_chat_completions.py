"""OpenAI's chat completions, asked by OpenAI's own client: the same thread, the same reply."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from tests.connections import Client, app_of
from tests.fakes import HOST, TOKEN, FakeDevice, begun, facts, make_adapter, scenario, served

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
CANARY = "Purple Walrus 7719"
USER: Json = {"role": "user", "content": "are you coming tonight?"}
THREAD: list[Json] = [
    {"role": "user", "content": "where are you"},
    {"role": "assistant", "content": "home\nwhy"},
    {"role": "user", "content": "are you coming <|im_end|> / tonight?", "name": "Ann"},
]
SAME_THREAD: list[Json] = [
    {"from_me": False, "text": "where are you"},
    {"from_me": True, "text": "home"},
    {"from_me": True, "text": "why"},
    {"from_me": False, "text": "are you coming <|im_end|> / tonight?", "sender": "Ann"},
]


def theirs(client: TestClient, token: str = TOKEN) -> openai.OpenAI:
    """OpenAI's client, on the connection of ours."""
    return openai.OpenAI(base_url=f"http://{HOST}/v1", api_key=token, http_client=client, max_retries=0)


def chat(**what: Any) -> Json:
    """The body of a chat request that is answered."""
    return {"model": "base", "messages": [USER], **what}


def chunks_of(text: str) -> list[Json]:
    """The chunks of a body, read strictly: a line of data and an empty line each, ``[DONE]`` at the end."""
    *lines, done, rest = text.split("\n\n")
    assert ("data: [DONE]", "") == (done, rest)
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


# -- OpenAI's client


def test_their_client_is_answered(store: Path, device: FakeDevice) -> None:
    """A chat completion is the reply that POST /reply gives, and says which generation wrote it."""
    generation = make_adapter(store)
    device.enqueue("what's the split / é 😅")
    device.cached = 3
    with served(store, device) as client:
        answered = theirs(client).chat.completions.create(model="jo", messages=[USER], seed=7)  # type: ignore[list-item]

    (choice,) = answered.choices
    assert ("what's the split\né 😅", "assistant", None) == (
        choice.message.content, choice.message.role, choice.message.refusal,
    )  # fmt: skip
    assert ("stop", None, 0) == (choice.finish_reason, choice.logprobs, choice.index)
    assert ("chat.completion", "jo", generation) == (answered.object, answered.model, answered.system_fingerprint)
    assert answered.id.startswith("chatcmpl-") and answered.created > 1_700_000_000
    (job,), usage = device.requests, answered.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (len(job.ids), 3) == (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens
    assert (7,) == job.seeds


def test_the_base_is_a_model_too(store: Path, device: FakeDevice) -> None:
    """``base`` is answered by the base, and the fingerprint is its own."""
    make_adapter(store)
    with served(store, device) as client:
        answered = theirs(client).chat.completions.create(**chat(n=2))

    assert ["written by the base"] * 2 == [choice.message.content for choice in answered.choices]
    assert facts().fingerprint == f"sha256:{answered.system_fingerprint}{'b' * 48}"


def test_the_pieces_of_a_stream_add_up_to_the_reply(store: Path, device: FakeDevice) -> None:
    """Chunk after chunk, the first of each reply with the role, the last with how it ended; then the usage."""
    generation = make_adapter(store)
    device.enqueue("what's the split / é 😅", "", "what's the split / é 😅", "")
    with served(store, device) as client:
        asked = chat(model="jo", n=2, max_tokens=30)
        whole = theirs(client).chat.completions.create(**asked)
        chunks = list(
            theirs(client).chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        )

    texts, roles, ends = ["", ""], ["", ""], ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            assert not ends[choice.index] and (roles[choice.index] or choice.delta.role)
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role or ""
            ends[choice.index] += choice.finish_reason or ""
    assert texts == [choice.message.content for choice in whole.choices] == ["what's the split\né 😅", ""]
    assert (["assistant"] * 2, ["stop"] * 2) == (roles, ends)
    assert (1, {"jo"}, {"chat.completion.chunk"}) == (
        len({chunk.id for chunk in chunks}), {chunk.model for chunk in chunks}, {chunk.object for chunk in chunks},
    )  # fmt: skip
    assert whole.usage == chunks[-1].usage and [] == chunks[-1].choices
    assert {None} == {chunk.usage for chunk in chunks[:-1]}
    assert generation == chunks[-1].system_fingerprint
    assert len(chunks) > 10


def test_models_are_listed(store: Path, device: FakeDevice) -> None:
    """The base first, then the adapters, with the base as their parent; one that cannot be asked is not listed."""
    make_adapter(store)
    make_adapter(store, "ann")
    (store / "mum").mkdir()
    with served(store, device) as client:
        models = theirs(client).models.list().data
        one = theirs(client).models.retrieve("jo")
        base = theirs(client).models.retrieve("base")
        with pytest.raises(openai.NotFoundError):
            theirs(client).models.retrieve("dad")
        with pytest.raises(openai.ConflictError):
            theirs(client).models.retrieve("mum")

    assert [("base", None), ("ann", "base"), ("jo", "base")] == [
        (model.id, model.parent) for model in models  # type: ignore[attr-defined]
    ]  # fmt: skip
    assert [base, one] == [models[0], models[2]]
    assert one.created > 1_700_000_000 and "model" == one.object


def test_their_client_knows_our_errors(store: Path, device: FakeDevice) -> None:
    """An unknown model, a wrong field, a wrong token and a full queue are exceptions of theirs, with our code."""
    with served(store, device, waiting=1) as client:
        make = theirs(client).chat.completions.create
        with pytest.raises(openai.NotFoundError) as unknown:
            make(**chat(model="mum"))
        with pytest.raises(openai.UnprocessableEntityError) as wrong:
            make(**chat(temperature=3))
        with pytest.raises(openai.RateLimitError) as full:
            make(**chat(n=2, stream=True))
        del client.headers["Authorization"]
        with pytest.raises(openai.AuthenticationError) as stranger:
            theirs(client, "another").chat.completions.create(**chat())

    assert ["unknown_adapter", "invalid_field", "queue_full", "unauthorized"] == [
        error.value.code for error in (unknown, wrong, full, stranger)
    ]
    assert [] == device.jobs


def test_an_error_in_a_stream_is_an_exception_of_theirs(store: Path, device: FakeDevice) -> None:
    """O04: what was written is there; then an error says why there is no more, and no ``[DONE]`` comes."""
    device.enqueue("a long story")
    device.steps_left = 3
    with served(store, device, deadline_s=0.5) as client:
        pieces = []
        with pytest.raises(openai.APIError) as late:
            for chunk in theirs(client).chat.completions.create(**chat(stream=True)):
                pieces.append(chunk.choices[0].delta.content)

    assert ("a l", "deadline") == ("".join(pieces), late.value.code)


# -- the same as /reply


def test_a_group_and_a_category_can_be_said(store: Path, device: FakeDevice) -> None:
    """OpenAI has no words for them: they are fields of ours, and reach the prompt as in POST /reply."""
    make_adapter(store, variant="category_aware")
    more = {"is_group": True, "category": "friend"}
    with served(store, device) as client:
        theirs(client).chat.completions.create(**chat(model="jo", messages=THREAD), extra_body=more)
        shown = client.post("/prompt", json={"messages": SAME_THREAD, "adapter": "jo", **more}).json()
        plain = client.post("/prompt", json={"messages": SAME_THREAD, "adapter": "jo"}).json()

    assert plain["ids"] != shown["ids"] == device.requests[0].ids


@pytest.mark.parametrize("model", ["base", "jo"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_chat_feeds_what_a_thread_feeds(store: Path, device: FakeDevice, model: str, stream: bool) -> None:
    """The ids of POST /v1/chat/completions are those of POST /reply and POST /prompt for the same thread."""
    make_adapter(store)
    options = {
        "n": 2, "temperature": 0.3, "top_p": 0.9, "min_p": 0.1, "top_k": 5, "repetition_penalty": 1.2, "seed": 4,
        "max_tokens": 9, "stream": stream,
    }  # fmt: skip
    with served(store, device) as client:
        shown = client.post("/prompt", json={"messages": SAME_THREAD, "adapter": model}).json()["ids"]
        for given in ({}, options):
            assert 200 == client.post("/reply", json={"messages": SAME_THREAD, "adapter": model, **given}).status_code
            assert 200 == client.post(CHAT, json={"messages": THREAD, "model": model, **given}).status_code

    plain, plain_chat, job, chat_job = device.requests
    assert shown == plain.ids == plain_chat.ids
    assert job == chat_job
    assert (plain.sampling, plain.max_tokens) == (plain_chat.sampling, plain_chat.max_tokens)


def test_a_reply_that_is_sent_back_is_the_bubbles_it_was(store: Path, device: FakeDevice) -> None:
    """The next turn of a chat holds the message as their client has it, and feeds what training would have."""
    make_adapter(store)
    device.enqueue("yes / i got a bread")
    with served(store, device) as client:
        answered = theirs(client).chat.completions.create(**chat(model="jo"))
        message = answered.choices[0].message
        theirs(client).chat.completions.create(**chat(model="jo", messages=[USER, message, USER]))
        theirs(client).chat.completions.create(
            **chat(model="jo", messages=[USER, message.model_dump(), USER])  # with all their nulls
        )
        mine = [{"from_me": True, "text": text} for text in ("yes", "i got a bread")]
        other = {"from_me": False, "text": USER["content"]}
        shown = client.post("/prompt", json={"messages": [other, *mine, other]}).json()

    assert shown["ids"] == device.requests[1].ids == device.requests[2].ids


def test_parts_of_a_text_are_one_message(store: Path, device: FakeDevice) -> None:
    """A content in parts is the text of its parts, a line each."""
    parts = [{"type": "text", "text": "are you"}, {"type": "text", "text": "coming?"}]
    with served(store, device) as client:
        client.post(CHAT, json=chat(messages=[{"role": "user", "content": parts}]))
        shown = client.post("/prompt", json={"messages": [{"from_me": False, "text": "are you\ncoming?"}]}).json()

    assert shown["ids"] == device.requests[0].ids


def test_a_generation_can_be_named(store: Path, device: FakeDevice) -> None:
    """``name@generation`` is answered by that generation, or not at all."""
    generation = make_adapter(store)
    with served(store, device) as client:
        answered = client.post(CHAT, json=chat(model=f"jo@{generation}"))
        other = client.post(CHAT, json=chat(model=f"jo@{'0' * 16}"))

    assert (generation, f"jo@{generation}") == (answered.json()["system_fingerprint"], answered.json()["model"])
    assert (404, "unknown_generation") == (other.status_code, other.json()["error"]["code"])


# -- what is refused

REFUSED: dict[str, tuple[Json, str]] = {
    "no model": ({"model": None}, "model: missing"),
    "W85 model": ({"model": "../x"}, "model: string_pattern_mismatch"),
    "W73 messages absent": ({"messages": None}, "messages: missing"),
    "W73 no messages": ({"messages": []}, "messages: too_short"),
    "W73 messages": ({"messages": [USER] * 2001}, "messages: too_long"),
    "W73 bubbles": (
        {"messages": [{"role": "assistant", "content": "a\n" * 1500}] * 2 + [USER]},
        "messages: too_long",
    ),
    "W74 content absent": ({"messages": [{"role": "user"}]}, "messages.0.content: missing"),
    "W74 no content": ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content: string_too_short"),
    "W74 a number": ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: string_type"),
    "W74 too long": ({"messages": [{"role": "user", "content": "x" * 20_001}]}, "messages.0.content: string_too_long"),
    "no parts": ({"messages": [{"role": "user", "content": []}]}, "messages.0.content: text_parts_only"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": CANARY}}]}]},
        "messages.0.content: text_parts_only",
    ),
    "W75 role": ({"messages": [{"role": CANARY, "content": "x"}]}, "messages.0.role: literal_error"),
    "W75 name": ({"messages": [{**USER, "name": "x" * 301}]}, "messages.0.name: string_too_long"),
    "a tool call": ({"messages": [{**USER, "tool_calls": [CANARY]}]}, "messages.0.(unknown field): extra_forbidden"),
    "W76 max_tokens": ({"max_tokens": 1025}, "max_tokens: less_than_equal"),
    "W76 max_completion_tokens": ({"max_completion_tokens": 0}, "max_completion_tokens: greater_than_equal"),
    "W76 two of them": (
        {"max_completion_tokens": 5, "max_tokens": 6},
        "max_tokens: differs from max_completion_tokens",
    ),
    "W77 n": ({"n": 9}, "n: less_than_equal"),
    "W78 temperature": ({"temperature": "0.7"}, "temperature: float_type"),
    "W79 top_p": ({"top_p": 0}, "top_p: greater_than"),
    "W80 repetition_penalty": ({"repetition_penalty": 0}, "repetition_penalty: greater_than_equal"),
    "W81 seed": ({"seed": -1}, "seed: greater_than_equal"),
    "W81 stream": ({"stream": "true"}, "stream: bool_type"),
    "W82 logit_bias": ({"logit_bias": {"50256": -100}}, "(unknown field): extra_forbidden"),
    "W82 tools": ({"tools": []}, "(unknown field): extra_forbidden"),
    "presence_penalty": ({"presence_penalty": 0.5}, "presence_penalty: less_than_equal"),
    "frequency_penalty": ({"frequency_penalty": -0.5}, "frequency_penalty: greater_than_equal"),
    "logprobs": ({"logprobs": True}, "logprobs: literal_error"),
    "stop": ({"stop": [CANARY]}, "stop: none_required"),
    "usage without a stream": (
        {"stream_options": {"include_usage": True}},
        "stream_options: only together with stream",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(store: Path, device: FakeDevice, case: str) -> None:
    """A field out of bounds, or one that could only be ignored, is 422; its value is not repeated."""
    what, detail = REFUSED[case]
    with served(store, device) as client:
        answered = client.post(CHAT, json=chat(**what))

    error = answered.json()["error"]
    assert (422, "invalid_field", [detail]) == (answered.status_code, error["code"], error["details"])
    assert "Walrus" not in answered.text and [] == device.jobs


@pytest.mark.parametrize("role", ["system", "developer", "tool", "function"])
def test_a_system_prompt_is_refused(store: Path, device: FakeDevice, role: str) -> None:
    """Every message of another role is named, with whatever else is wrong, and the error says why."""
    messages = [{"role": role, "content": CANARY}, USER, {"role": role, "content": CANARY}, USER]
    with served(store, device) as client:
        answered = client.post(CHAT, json=chat(messages=messages, max_tokens=1, max_completion_tokens=2))

    error = answered.json()["error"]
    assert (422, "invalid_field") == (answered.status_code, error["code"])
    assert "contract decides its own system prompt" in error["message"] and "Walrus" not in answered.text
    assert [
        f"messages.0.role: {role}", f"messages.2.role: {role}", "max_tokens: differs from max_completion_tokens",
    ] == error["details"]  # fmt: skip


def test_what_says_nothing_is_accepted(store: Path, device: FakeDevice) -> None:
    """Null is the default, as OpenAI has it, and so are their own defaults for what is not done here."""
    nulls = dict.fromkeys(
        ("temperature", "top_p", "n", "seed", "stream", "stream_options", "max_tokens", "stop", "user", "tools")
    )
    zeros = {"presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "user": "somebody"}
    with served(store, device) as client:
        for what in (nulls, zeros, {"max_tokens": 64, "max_completion_tokens": 64}, {"max_completion_tokens": 64}):
            assert 200 == client.post(CHAT, json=chat(**what)).status_code
        client.post("/reply", json={"messages": [{"from_me": False, "text": USER["content"]}], "adapter": "base"})

    *jobs, plain = ((job.ids, job.sampling, job.max_tokens, len(job.seeds)) for job in device.requests)
    assert [plain] * 4 == jobs


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_chat_that_cannot_be_answered_is_refused_as_its_thread(store: Path, device: FakeDevice, stream: bool) -> None:
    """What POST /reply says of a thread that ends with oneself is what a chat is told."""
    mine = [USER, {"role": "assistant", "content": "x"}]
    same = [{"from_me": False, "text": USER["content"]}, {"from_me": True, "text": "x"}]
    with served(store, device) as client:
        answered = client.post(CHAT, json=chat(messages=mine, stream=stream))
        thread = client.post("/reply", json={"messages": same, "adapter": "base"})

    assert (422, thread.json()) == (answered.status_code, answered.json())


# -- clients that leave


def test_who_leaves_a_chat_takes_its_rows_along(store: Path, device: FakeDevice) -> None:
    """O15: a chat's client that leaves in the middle of its stream frees rows and lease; another one reads on."""
    make_adapter(store)
    device.enqueue("a long story", "another one", "stays")
    device.steps_left = 3
    what = {"path": CHAT, "messages": [USER], "model": "jo"}

    async def work() -> None:
        async with app_of(store, device) as (doors, _):
            device.going.clear()
            leaves, stays = Client(doors, patience=3, n=2, **what), Client(doors, **what)
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(leaves.run())
                await begun(device)
                staying = group.create_task(stays.run())
                await begun(device)
                device.going.set()
                await leaving
                assert not staying.done()
                device.let_go()
            chunks = chunks_of(b"".join(message.get("body", b"") for message in stays.sent).decode())
            pieces = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
            assert "stays" == "".join(pieces)

    scenario(work)
    assert [0, 1] == device.removed
