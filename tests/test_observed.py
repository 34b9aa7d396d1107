"""What an operator sees of each request: its id, its line in the log, and the headers that every answer has."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from service.app import create_app, with_doors
from service.engine import Engine
from service.metrics import Metrics
from service.observed import Observed, note_error
from service.settings import Settings
from tests.fakes import HOST, FakeDevice, asked, make_adapter, served

Json = dict[str, Any]
EVERY_ANSWER = {"x-content-type-options": "nosniff", "cache-control": "no-store", "referrer-policy": "no-referrer"}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> "Lines":
    caplog.set_level(logging.INFO, "samevoice.http")
    return Lines(caplog)


class Lines:
    """The lines of answers in the log, oldest first, as dictionaries."""

    def __init__(self, caplog: pytest.LogCaptureFixture):
        self._caplog = caplog

    def all(self) -> list[dict[str, str]]:
        texts = [record.getMessage() for record in self._caplog.records if record.name == "samevoice.http"]
        return [dict(field.split("=", 1) for field in text.split(" ")) for text in texts if text.startswith("id=")]

    def last(self) -> dict[str, str]:
        return self.all()[-1]


def is_complete(answered: Any) -> bool:
    """Whether *answered* has every header that an answer must have, each once, and an id."""
    names = [name for name, _ in answered.headers.multi_items()]
    assert len(names) == len(set(names))
    assert 16 == len(answered.headers["x-request-id"])
    return {name: answered.headers.get(name) for name in EVERY_ANSWER} == EVERY_ANSWER


# -- headers


def test_every_answer_of_every_route_has_the_headers(store: Path, device: FakeDevice) -> None:
    """W96: whatever a route answers to whatever method, with token or without, it is neither sniffed nor kept."""
    make_adapter(store)
    app = create_app(Settings(adapters=store), Engine(FakeDevice))
    paths = {route.path.replace("{name}", "jo") for route in app.routes if isinstance(route, Route)} | {"/nope", "/"}
    assert {"/reply", "/metrics", "/healthz"} <= paths
    with served(store, device) as client:
        for path in sorted(paths):
            body = asked() if path in ("/reply", "/prompt") else {}
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"):
                assert is_complete(client.request(method, path, json=body)), (method, path)
                assert is_complete(client.request(method, path, json=body, headers={"Authorization": "Bearer x"}))


Case = tuple[str, int, str, str, Json]
CASES: list[Case] = [
    ("malformed_json", 400, "POST", "/reply", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    ("bad_request", 400, "GET", "/readyz", {"headers": {"Content-Length": "1", "Transfer-Encoding": "chunked"}}),
    ("unauthorized", 401, "GET", "/readyz", {"headers": {"Authorization": "Bearer x"}}),
    ("forbidden_host", 403, "GET", "/readyz", {"headers": {"Host": "evil.example"}}),
    ("forbidden_origin", 403, "GET", "/readyz", {"headers": {"Origin": "http://evil.example"}}),
    ("no_such_route", 404, "GET", "/nope", {}),
    ("unknown_adapter", 404, "GET", "/adapters/mum", {}),
    ("method_not_allowed", 405, "GET", "/reply", {}),
    ("generation_conflict", 412, "POST", "/adapters/reload", {"json": {"name": "a", "expected_generation": "0" * 16}}),
    ("body_too_large", 413, "POST", "/reply", {"json": {"x": "x" * 2**21}}),
    ("unsupported_media_type", 415, "POST", "/reply", {"content": b"{}"}),
    ("invalid_field", 422, "POST", "/reply", {"json": {}}),
    ("queue_full", 429, "POST", "/reply", {"json": asked(n=3)}),
    ("deadline", 504, "POST", "/reply", {"json": asked()}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]} {case[0]}")
def test_every_error_has_the_headers_and_its_code_in_the_log(
    store: Path, device: FakeDevice, lines: Lines, case: Case
) -> None:
    """W96: each kind of error carries them too; the log has its status and code."""
    code, status, method, path, what = case
    device.going.clear()
    with served(store, device, waiting=2, deadline_s=0.1) as client:
        answered = client.request(method, path, **what)

    assert (status, code) == (answered.status_code, answered.json()["error"]["code"])
    assert is_complete(answered)
    assert (answered.headers["x-request-id"], str(status), code) == tuple(
        lines.last()[key] for key in ("id", "status", "error")
    )


def test_a_refused_adapter_is_answered_so_too(store: Path, device: FakeDevice, lines: Lines) -> None:
    """W96: the 409 of a reload, whose body is more than an error, has headers and code."""
    generation = make_adapter(store)
    (store / "jo" / generation / "manifest.json").write_bytes(b"{")
    with served(store, device) as client:
        answered = client.post("/adapters/reload", json={})

    assert (409, True) == (answered.status_code, is_complete(answered))
    assert ("/adapters/reload", "409", answered.json()["error"]["code"]) == tuple(
        lines.last()[key] for key in ("route", "status", "error")
    )


def test_a_failed_engine_is_answered_so_too(store: Path, device: FakeDevice, lines: Lines) -> None:
    """W96: 503, in the middle of a request and after it."""
    device.raises["begin"] = RuntimeError()
    with served(store, device) as client:
        answers = [client.post("/reply", json=asked()), client.get("/readyz")]

    assert [(503, True)] * 2 == [(answered.status_code, is_complete(answered)) for answered in answers]
    assert ["engine_error"] * 2 == [line["error"] for line in lines.all()]


def test_a_fault_of_ours_is_answered_so_too(store: Path, lines: Lines) -> None:
    """W96: 500 has the headers, and is internal in the log."""
    app: FastAPI = create_app(Settings(adapters=store), Engine(FakeDevice))

    def fault() -> None:
        raise ValueError

    app.add_api_route("/fault", fault, methods=["GET"])
    with TestClient(with_doors(app, [HOST], None), base_url=f"http://{HOST}") as client:
        answered = client.get("/fault")

    assert (500, True) == (answered.status_code, is_complete(answered))
    assert ("/fault", "500", "internal") == tuple(lines.last()[key] for key in ("route", "status", "error"))


def test_a_stream_has_the_headers_once(store: Path, device: FakeDevice) -> None:
    """W96: an answer that says itself how it may be kept does not say it twice."""
    with served(store, device) as client:
        answered = client.post("/reply", json=asked(stream=True))

    assert ("text/event-stream; charset=utf-8", True) == (answered.headers["content-type"], is_complete(answered))


def test_an_id_is_given_once(store: Path, device: FakeDevice) -> None:
    """Each answer has another id, whatever the client calls itself."""
    with served(store, device) as client:
        ids = {client.get("/healthz", headers={"X-Request-Id": "mine"}).headers["x-request-id"] for _ in range(20)}

    assert 20 == len(ids - {"mine"})


# -- the log


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_has_one_line(store: Path, device: FakeDevice, lines: Lines, stream: bool) -> None:
    """A line says what was asked for, how it ended, how long it took and how many tokens it had."""
    device.enqueue("what's the split")
    with served(store, device) as client:
        answered = client.post("/reply", json=asked(stream=stream))
    (line,) = lines.all()

    assert ["id", "method", "route", "status", "ms", "prompt_tokens", "cached_tokens", "completion_tokens"] == list(
        line
    )
    assert (answered.headers["x-request-id"], "POST", "/reply", "200") == tuple(line.values())[:4]
    assert (str(len(device.requests[0].ids)), "0") == (line["prompt_tokens"], line["cached_tokens"])
    assert float(line["ms"]) >= 0 and int(line["completion_tokens"]) > 0


def test_a_stream_that_ends_early_has_its_error_in_the_line(store: Path, device: FakeDevice, lines: Lines) -> None:
    """What goes wrong after the first token is in the log though the status was 200."""
    device.enqueue("a long story")
    device.steps_left = 2
    with served(store, device, deadline_s=0.3) as client:
        answered = client.post("/reply", json=asked(stream=True))

    assert "event: token" in answered.text and "event: error" in answered.text
    assert ("200", "deadline") == (lines.last()["status"], lines.last()["error"])


@pytest.mark.parametrize(
    ("method", "path", "shown"),
    [
        ("GET", "/adapters/jo", ("GET", "/adapters/{name}")),
        ("GET", "/adapters/unheard-of", ("GET", "/adapters/{name}")),
        ("DELETE", "/adapters/jo", ("DELETE", "/adapters/{name}")),
        ("GET", "/nope", ("GET", "-")),
        ("BREW", "/nope", ("other", "-")),
        ("BREW", "/healthz", ("other", "/healthz")),
    ],
)
def test_a_line_has_no_word_of_the_client(
    store: Path, device: FakeDevice, lines: Lines, method: str, path: str, shown: tuple[str, str]
) -> None:
    """Of a path only its route's template is logged, of a method only one that HTTP knows."""
    make_adapter(store)
    with served(store, device) as client:
        client.request(method, path)

    assert shown == (lines.last()["method"], lines.last()["route"])


def observed(scope: Scope, app: Any, sent: list[Message] | None = None) -> None:
    """Ask *app* as it is observed."""

    async def send(message: Message) -> None:
        assert sent is not None
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(Observed(app, Metrics())(scope, receive, send))


def test_what_was_never_answered_has_its_line(lines: Lines) -> None:
    """A request whose client left before the answer is 499, with what had been noted of it."""

    async def leaves(scope: Scope, receive: Receive, send: Send) -> None:
        note_error(scope, "deadline")

    observed({"type": "http", "method": "get", "headers": []}, leaves)
    line = lines.last()

    assert ("other", "-", "499", "deadline") == (line["method"], line["route"], line["status"], line["error"])


def test_what_an_app_raises_goes_on(lines: Lines) -> None:
    """The layer keeps no exception back, and has its line all the same."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        observed({"type": "http", "method": "GET", "headers": []}, fails)
    assert "499" == lines.last()["status"]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_only_http_is_observed(lines: Lines, kind: str) -> None:
    """Start, stop and a websocket that is turned away have no line and no headers."""
    sent: list[Message] = []

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "the end"})

    observed({"type": kind}, closes, sent)

    assert ([{"type": "the end"}], []) == (sent, lines.all())
