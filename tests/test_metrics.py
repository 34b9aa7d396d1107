"""GET /metrics: what is counted, and that no word of a client is in it."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.fakes import PATIENCE, FakeDevice, asked, make_adapter, served

CANARY = "PurpleWalrus7719"
Series = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def threads(device: FakeDevice) -> Iterator[ThreadPoolExecutor]:
    """Another client at the same time."""
    with ThreadPoolExecutor(1) as threads:
        yield threads
        device.let_go()


def scraped(client: TestClient) -> dict[Series, float]:
    """Every series that is there now, and its value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def value(client: TestClient, name: str, **labels: str) -> float:
    """Of one series; 0 where it is not there."""
    return scraped(client).get((f"samevoice_{name}", frozenset(labels.items())), 0)


def test_the_metrics_are_prometheus_text(store: Path, device: FakeDevice) -> None:
    """What a scraper gets has the media type of the text format, and is there before anything was asked."""
    with served(store, device) as client:
        answered = client.get("/metrics")
        assert "samevoice_replies_in_flight" in {name for name, _ in scraped(client)}
        del client.headers["Authorization"]
        assert 401 == client.get("/metrics").status_code

    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (
        answered.status_code, answered.headers["content-type"],
    )  # fmt: skip


def test_answers_are_counted(store: Path, device: FakeDevice) -> None:
    """By the template of the route and the status; refusals by their code."""
    with served(store, device) as client:
        for path in ("/healthz", "/healthz", "/adapters/mum", "/adapters/dad", "/nope"):
            client.get(path)
        client.post("/reply", json=asked(n=0))

        assert 2 == value(client, "requests_total", route="/healthz", status="200")
        assert 2 == value(client, "requests_total", route="/adapters/{name}", status="404")
        assert 1 == value(client, "requests_total", route="-", status="404")
        assert 2 == value(client, "refusals_total", code="unknown_adapter")
        assert 1 == value(client, "refusals_total", code="invalid_field")
        assert 2 == value(client, "request_seconds_count", route="/healthz")


@pytest.mark.parametrize("stream", [False, True])
def test_replies_are_counted(store: Path, device: FakeDevice, stream: bool) -> None:
    """Tokens, times, and by whom and how each reply ended; a stream counts as one that comes at once."""
    make_adapter(store)
    device.cached = 3
    device.enqueue("ok", "sure", "a long story")
    with served(store, device) as client:
        client.post("/reply", json=asked(n=2, stream=stream))
        client.post("/reply", json=asked(adapter="base", max_tokens=2, stream=stream))
        now = scraped(client)
    prompts = [len(job.ids) for job in device.requests]

    def total(name: str, **labels: str) -> float:
        return now[f"samevoice_{name}", frozenset(labels.items())]

    assert sum(prompts) == total("prompt_tokens_total") and 6 == total("cached_tokens_total")
    assert 2 == total("replies_total", adapter="jo", finish_reason="stop")
    assert 1 == total("replies_total", adapter="base", finish_reason="length")
    assert total("completion_tokens_total") >= 4
    assert (2, 2) == (total("queue_seconds_count"), total("first_token_seconds_count"))
    assert total("first_token_seconds_sum") >= total("queue_seconds_sum") >= 0


def test_a_reply_that_was_given_up_is_not_counted_as_written(store: Path, device: FakeDevice) -> None:
    """A reply past its deadline is a refusal, and no reply."""
    device.going.clear()
    with served(store, device, deadline_s=0.05) as client:
        client.post("/reply", json=asked())
        device.let_go()

        assert (1, 0) == (
            value(client, "refusals_total", code="deadline"),
            value(client, "replies_total", adapter="base", finish_reason="stop"),
        )


def test_reloads_are_counted(store: Path, device: FakeDevice) -> None:
    """Each name by what became of it; of what was loaded also how long it took."""
    make_adapter(store)
    with served(store, device) as client:
        make_adapter(store, seed=1)
        client.post("/adapters/reload", json={})
        client.post("/adapters/reload", json={"name": "jo"})
        broken = make_adapter(store, "ann")
        (store / "ann" / broken / "manifest.json").write_bytes(b"{")
        refused = client.post("/adapters/reload", json={}).json()["error"]["code"]

        assert 1 == value(client, "reloads_total", status="loaded") == value(client, "swap_seconds_count")
        assert 2 == value(client, "reloads_total", status="unchanged")
        assert 1 == value(client, "reloads_total", status="refused") == value(client, "refusals_total", code=refused)
        assert 0 < value(client, "swap_seconds_sum")


def test_gauges_are_of_the_moment(store: Path, device: FakeDevice, threads: ThreadPoolExecutor) -> None:
    """Replies in flight, adapters by status and the generation that answers are read when they are asked for."""
    old = make_adapter(store)
    with served(store, device) as client:
        device.going.clear()
        writing = threads.submit(client.post, "/reply", json=asked(n=2))
        device.inserted.get(timeout=PATIENCE)
        assert 2 == value(client, "replies_in_flight")
        assert 1 == value(client, "adapter_info", adapter="jo", generation=old)
        device.let_go()
        assert 200 == writing.result(PATIENCE).status_code
        new = make_adapter(store, seed=1)
        client.post("/adapters/reload", json={})

        assert 0 == value(client, "replies_in_flight")
        assert 1 == value(client, "adapters", status="serving")
        assert (0, 1) == tuple(value(client, "adapter_info", adapter="jo", generation=each) for each in (old, new))


def test_apps_count_apart(store: Path, tmp_path: Path) -> None:
    """Nothing is global: another app in the process begins at zero."""
    for place in (store, tmp_path / "another"):
        with served(place, FakeDevice()) as client:
            client.get("/healthz")
            assert 1 == value(client, "requests_total", route="/healthz", status="200")


# -- privacy


def odd_requests(client: TestClient) -> None:
    """A canary wherever a client can put a word, in requests that succeed and that do not."""
    message = {"from_me": False, "text": CANARY, "sender": CANARY}
    for stream in (False, True):
        client.post("/reply", json={"messages": [message], "stream": stream})
    client.post("/prompt", json={"messages": [message], "name": CANARY})
    client.post("/reply", json={"messages": [message], CANARY: CANARY})
    client.post("/reply", json=asked(variant=CANARY))
    client.post("/reply", content=CANARY, headers={"Content-Type": "application/json"})
    for wanted in (CANARY.lower(), f"jo@{CANARY}", f"{CANARY.lower()}@{'0' * 16}"):
        client.post("/reply", json=asked(adapter=wanted))
    client.post("/adapters/reload", json={"name": CANARY.lower()})
    for path in (f"/{CANARY}", f"/adapters/{CANARY}", f"/adapters/{CANARY.lower()}", f"/reply/{CANARY}%0aid=1"):
        client.get(path, params={"q": CANARY})
        client.request(CANARY, path)
    for name in ("Authorization", "Host", "Origin", "X-Request-Id", "User-Agent", "Content-Encoding", CANARY):
        client.post("/reply", json=asked(), headers={name: CANARY})


def test_neither_metrics_nor_log_repeat_what_was_sent(
    store: Path, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """P04: no text, sender, unknown adapter, path, method or header of a client is in /metrics or in a log line."""
    caplog.set_level(logging.DEBUG)
    make_adapter(store)
    with served(store, device) as client:
        odd_requests(client)
        text = client.get("/metrics").text

    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]  # the client's
    logged = "\n".join(f"{record.getMessage()} {record.exc_info or ''}" for record in ours)
    assert 'adapter="jo"' in text and "route=/adapters/{name}" in logged
    assert "walrus" not in text.lower() and "walrus" not in logged.lower()


def test_what_clients_invent_makes_no_series(store: Path, device: FakeDevice) -> None:
    """P04: a thousand unknown paths, methods and adapters leave the series that a few of them leave."""

    def invent(client: TestClient, numbers: range) -> set[Series]:
        for i in numbers:
            client.request("GET" if i % 2 else f"BREW{i}", f"/nope{i}")
            if i % 10 == 0:
                client.get(f"/adapters/nobody{i}")
                client.request(f"BREW{i}", "/adapters")
                client.post("/reply", json=asked(adapter=f"nobody{i}"))
        client.get("/metrics")
        return set(scraped(client))

    with served(store, device) as client:
        few = invent(client, range(11))
        many = invent(client, range(11, 1000))

    assert few == many


@pytest.mark.parametrize("times", [1, 2])
def test_a_label_is_ours_or_of_the_store(store: Path, device: FakeDevice, times: int) -> None:
    """P04: labels are route, status, code, adapter, generation, finish_reason and a histogram's le; no others."""
    make_adapter(store)
    with served(store, device) as client:
        for _ in range(times):
            client.post("/reply", json=asked())
            client.post("/adapters/reload", json={})
            client.get("/nope")
        labels: set[Any] = {key for _, pairs in scraped(client) for key, _ in pairs}

    assert {"route", "status", "code", "adapter", "generation", "finish_reason", "le"} == labels
