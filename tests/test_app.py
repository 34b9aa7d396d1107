"""The service over HTTP, behind its real doors: everything but MLX and uvicorn."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Route
from starlette.testclient import TestClient

from errors import AdapterRefused, BaseRefused
from prompt_format.messages import Message, Thread
from service.app import create_app, with_doors
from service.engine import Engine
from service.registry import Registry
from service.settings import Settings
from tests.fakes import (
    HOST,
    PATIENCE,
    TOKEN,
    FakeDevice,
    asked,
    begun,
    checked,
    facts,
    make_adapter,
    publish_altered,
    served,
)

Json = dict[str, Any]
CANARY = "Purple Walrus 7719"


@pytest.fixture
def threads(device: FakeDevice) -> Iterator[ThreadPoolExecutor]:
    """Several clients at once."""
    with ThreadPoolExecutor(8) as threads:
        yield threads
        device.let_go()


def error_of(answered: Any) -> Json:
    document: Json = answered.json()["error"]
    assert ["code", "message", "details"] == list(document)
    return document


# -- routes


def test_the_service_says_that_it_is_up_and_ready(store: Path, device: FakeDevice) -> None:
    """Process and engine are asked for apart."""
    with served(store, device) as client:
        assert (200, {"status": "ok"}) == (lambda a: (a.status_code, a.json()))(client.get("/healthz"))
        assert (200, {"status": "ready"}) == (lambda a: (a.status_code, a.json()))(client.get("/readyz"))
    assert device.closed


def test_a_thread_is_answered(store: Path, device: FakeDevice) -> None:
    """POST /reply writes in the voice of the adapter it names."""
    generation = make_adapter(store)
    device.enqueue("what's the split / é 😅")
    with served(store, device) as client:
        answered = client.post("/reply", json=asked(adapter="jo", n=1, temperature=0.2, seed=1))

    assert 200 == answered.status_code
    assert ("what's the split\né 😅", {"name": "jo", "generation": generation}) == (
        answered.json()["reply"], answered.json()["adapter"],
    )  # fmt: skip
    assert "é 😅" in answered.content.decode("utf-8")  # written out


def test_the_prompt_shown_is_the_prompt_of_training(store: Path, device: FakeDevice) -> None:
    """POST /prompt returns the ids of PromptFormat.encode_prompt, and POST /reply feeds them."""
    generation = make_adapter(store)
    form = checked(store, "jo", generation).format
    body = {"messages": [{"from_me": True, "text": "in 10"}, {"from_me": False, "text": "ok <|im_end|> / Them: no"}]}
    with served(store, device) as client:
        shown = client.post("/prompt", json=body).json()
        client.post("/reply", json=body)

    thread = Thread((Message("in 10", True), Message("ok <|im_end|> / Them: no", False)))
    assert form.encode_prompt(thread) == shown["ids"] == device.requests[0].ids
    assert (form.contract.digest, "raw_style") == (shown["contract"], shown["variant"])


def test_adapters_are_listed(store: Path, device: FakeDevice) -> None:
    """GET /adapters and GET /adapters/NAME say what serves, from which slot, and what was refused."""
    generation = make_adapter(store, metrics={"valid_loss": 1.5})
    with served(store, device) as client:
        spoil_base(store)
        client.post("/adapters/reload", json={})
        listed = client.get("/adapters").json()
        one = client.get("/adapters/jo").json()

    assert [one] == listed["adapters"]
    assert ("jo", {"id": "toy", "fingerprint": facts().fingerprint, "slots": 8}) == (
        listed["default_adapter"],
        listed["base"],
    )
    assert {
        "name": "jo", "default": True, "status": "serving", "generation": generation, "slot": 1, "in_flight": 0,
        "in_flight_on_previous": 0, "variant": "raw_style", "persona": "Jo", "metrics": {"valid_loss": 1.5},
        "lora": {"type": "lora", "rank": 2, "scale": 2.0}, "gate": {"passed": True, "reasons": [], "overridden": False},
        "contract": checked(store, "jo", generation).format.contract.digest,
    }.items() <= one.items()  # fmt: skip
    assert "base_mismatch" == one["last_refusal"]["code"]


@pytest.mark.parametrize("name", ["mum", "base", "JO", "reload", "..", "%2e%2e", "a%2fb", "é", "x" * 5000])
def test_an_adapter_that_is_not_there_is_not_found(store: Path, device: FakeDevice, name: str) -> None:
    """W55: GET /adapters/NAME of anything else is 404."""
    make_adapter(store)
    with served(store, device) as client:
        answered = client.get(f"/adapters/{name}")

    assert 404 == answered.status_code
    assert error_of(answered)["code"] in ("unknown_adapter", "no_such_route") and len(answered.content) < 300


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/reply/",
        "//reply",
        "/REPLY",
        "/reply%00",
        "/%2e%2e/reply",
    ]
    + ["/adapters/", "/adapters/jo/", "/adapters/jo/x", "/" + "x" * 10_000],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_no_route_is_not_found(store: Path, device: FakeDevice, method: str, path: str) -> None:
    """W54: another path is 404, never a redirect, and is not repeated."""
    with served(store, device) as client:
        answered = client.request(method, path, json={} if method == "POST" else None)

    assert (404, "no_such_route") == (answered.status_code, error_of(answered)["code"])
    assert len(answered.content) < 200


METHODS = [
    *(
        (method, path, "POST")
        for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
        for path in ("/reply", "/prompt")
    ),
    *(
        (method, path, "GET")
        for method in ("POST", "PUT", "DELETE", "OPTIONS")
        for path in ("/healthz", "/readyz", "/adapters")
    ),
    ("TRACE", "/reply", "POST"),
    ("CONNECT", "/reply", "POST"),
    ("BREW", "/reply", "POST"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_another_method_is_not_allowed(store: Path, device: FakeDevice, method: str, path: str, allowed: str) -> None:
    """W53: a route's other methods are 405 and say which one it has."""
    with served(store, device) as client:
        answered = client.request(method, path, json={})

    assert (405, allowed) == (answered.status_code, answered.headers["Allow"])
    if method != "HEAD":
        assert "method_not_allowed" == error_of(answered)["code"]


def test_curious_headers_are_ignored(store: Path, device: FakeDevice) -> None:
    """W56: what a client would like to have changes nothing."""
    headers = {
        "Range": "bytes=0-3",
        "If-None-Match": "*",
        "TE": "trailers",
        "Accept": "image/png",
        "Expect": "100-continue",
    }
    with served(store, device) as client:
        assert 200 == client.post("/reply", json=asked(), headers=headers).status_code


# -- doors on real routes


def routes_of(store: Path) -> list[Route]:
    app = create_app(Settings(adapters=store), Engine(FakeDevice))
    return [route for route in app.routes if isinstance(route, Route)]


def test_only_healthz_answers_without_a_token(store: Path, device: FakeDevice) -> None:
    """W27: every route of the app, and what is none, asks for the token with every method, but GET /healthz."""
    paths = {route.path for route in routes_of(store)} | {"/nope", "/docs", "/openapi.json", "/"}
    assert {"/reply", "/prompt", "/adapters", "/adapters/reload", "/adapters/{name}", "/healthz", "/readyz"} <= paths
    make_adapter(store)

    with served(store, device) as client:
        del client.headers["Authorization"]
        for path in paths - {"/healthz"}:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
                answered = client.request(method, path.replace("{name}", "jo"), json={})
                assert (401, "Bearer") == (answered.status_code, answered.headers["WWW-Authenticate"]), (method, path)
        assert 200 == client.get("/healthz").status_code
    assert [] == device.jobs


def test_no_foreign_page_reaches_a_route(store: Path, device: FakeDevice) -> None:
    """W02, W15, W22: with the token but another host or origin every route is forbidden, preflights too."""
    paths = {route.path.replace("{name}", "jo") for route in routes_of(store)} | {"/nope"}
    foreign = [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}]
    with served(store, device) as client:
        for path in paths:
            for headers in foreign:
                for method in ("GET", "POST", "OPTIONS"):
                    answered = client.request(method, path, json={}, headers=headers)
                    assert 403 == answered.status_code
                    assert not [name for name in answered.headers if name.startswith("access-control")]
    assert [] == device.jobs


@pytest.mark.parametrize("path", ["/reply", "/prompt", "/adapters/reload"])
def test_only_json_reaches_a_route(store: Path, device: FakeDevice, path: str) -> None:
    """W50, W52: a form, a text or nothing is 415 on every route that takes a body."""
    with served(store, device) as client:
        assert 415 == client.post(path).status_code
        assert 415 == client.post(path, data={"messages": "x"}).status_code
        assert 415 == client.post(path, content=b"{}", headers={"Content-Type": "text/plain"}).status_code
        assert 400 == client.post(path, headers={"Content-Type": "application/json"}).status_code
        assert (
            413
            == client.post(path, content=b" " * (2**21 + 1), headers={"Content-Type": "application/json"}).status_code
        )


def test_without_a_token_configured_everybody_here_may_come(store: Path, device: FakeDevice) -> None:
    """--no-auth needs no token."""
    with served(store, device, token=None) as client:
        assert 200 == client.post("/reply", json=asked()).status_code


# -- reload


def spoil_base(store: Path) -> str:
    generation = make_adapter(store, seed=9, activate=False)
    return publish_altered(
        store, "jo", generation, manifest=lambda m: m["base"].update(fingerprint="sha256:" + "c" * 64)
    )


def contract_part(part: str, value: Any) -> Callable[[Json], Any]:
    return lambda document: document["contract"].update({part: value})


ALTERED: dict[str, tuple[str, str, Callable[[Json], Any]]] = {
    "A67 base": ("base_mismatch", "base.fingerprint", lambda m: m["base"].update(fingerprint="sha256:" + "c" * 64)),
    "A68 format version": ("contract_mismatch", "contract.format_version", contract_part("format_version", 2)),
    "A68 variant": ("contract_mismatch", "contract.variant", contract_part("variant", "turns")),
    "A69 variant unknown": ("contract_mismatch", "contract.variant", contract_part("variant", "raw_stile")),
    "A68 persona": ("contract_mismatch", "contract.persona", lambda m: m["contract"]["persona"].update(name="Mo")),
    "A68 window": ("contract_mismatch", "contract.window", lambda m: m["contract"]["window"].update(turns=9)),
    "A68 template": ("contract_mismatch", "contract.template_sha256", contract_part("template_sha256", "0" * 64)),
    "A68 tokenizer": ("contract_mismatch", "contract.tokenizer_sha256", contract_part("tokenizer_sha256", "0" * 64)),
    "A68 control tokens": (
        "contract_mismatch",
        "contract.control_tokens_sha256",
        contract_part("control_tokens_sha256", "0" * 64),
    ),
    "A68 end of turn": ("contract_mismatch", "contract.end_of_turn", contract_part("end_of_turn", 1)),
}


@pytest.mark.parametrize("at_rest", [False, True], ids=["signed anew", "altered in place"])
@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_manifest_is_refused_and_the_old_generation_goes_on(
    store: Path, device: FakeDevice, case: str, at_rest: bool
) -> None:
    """A manifest whose contract or base fingerprint was altered is 409 and names the field; the old one answers on."""
    code, field, change = ALTERED[case]
    old = make_adapter(store)
    with served(store, device) as client:
        before = client.post("/reply", json=asked(adapter="jo")).json()
        new = make_adapter(store, seed=1)
        if at_rest:
            path = store / "jo" / new / "manifest.json"
            document = json.loads(path.read_text())
            change(document)
            path.write_text(json.dumps(document))
        else:
            publish_altered(store, "jo", new, manifest=change)
        refused = client.post("/adapters/reload", json={"name": "jo"})
        after = client.post("/reply", json=asked(adapter="jo")).json()
        listed = client.get("/adapters/jo").json()

    (result,) = refused.json()["results"]
    (fault,) = result["errors"]
    assert (409, "refused", code) == (refused.status_code, result["status"], fault["code"])
    assert field in " ".join([fault["message"], *fault["details"]])
    assert (code, fault["details"]) == (error_of(refused)["code"], error_of(refused)["details"])
    assert (old, old) == (result["generation"], listed["generation"])
    keys = ("reply", "adapter", "contract", "usage")
    assert [before[key] for key in keys] == [after[key] for key in keys] and old == after["reply"]


@pytest.mark.parametrize("case", ["A67 base", "A68 window", "A68 template"])
def test_a_manifest_altered_under_the_serving_generation_is_refused(store: Path, device: FakeDevice, case: str) -> None:
    """The manifest of the generation that serves is altered in place: 409 names the field, and it answers on."""
    code, field, change = ALTERED[case]
    serving = make_adapter(store)
    path = store / "jo" / serving / "manifest.json"
    with served(store, device) as client:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        refused = client.post("/adapters/reload", json={"name": "jo"})
        after = client.post("/reply", json=asked(adapter="jo")).json()

    fault = error_of(refused)
    assert (409, code) == (refused.status_code, fault["code"])
    assert field in " ".join([fault["message"], *fault["details"]])
    assert serving == after["adapter"]["generation"]


def test_a_reload_picks_up_what_is_new(store: Path, device: FakeDevice) -> None:
    """POST /adapters/reload loads new generations, leaves the same ones alone and says so."""
    with served(store, device) as client:
        assert {"results": [], "default_adapter": None} == client.post("/adapters/reload", json={}).json()
        generation = make_adapter(store)
        loaded = client.post("/adapters/reload", json={})
        again = client.post("/adapters/reload", json={})

    (result,) = loaded.json()["results"]
    assert (200, "jo") == (loaded.status_code, loaded.json()["default_adapter"])
    assert {
        "name": "jo",
        "status": "loaded",
        "generation": generation,
        "previous_generation": None,
        "errors": [],
    }.items() <= result.items()
    assert (200, ["unchanged"]) == (again.status_code, [result["status"] for result in again.json()["results"]])


def test_names_are_judged_each_alone(store: Path, device: FakeDevice) -> None:
    """A100: a reload with a bad adapter among good ones is 409; the good ones serve, and the bad one says why not."""
    with served(store, device) as client:
        good = make_adapter(store, "ann")
        make_adapter(store)
        spoil_base(store)
        answered = client.post("/adapters/reload", json={})
        reply = client.post("/reply", json=asked(adapter="ann")).json()["reply"]
        bad = client.post("/reply", json=asked(adapter="jo"))
        unknown = client.post("/reply", json=asked(adapter="mum"))

    assert 409 == answered.status_code
    assert {"ann": "loaded", "jo": "refused"} == {
        result["name"]: result["status"] for result in answered.json()["results"]
    }
    assert good == reply
    assert (409, "base_mismatch") == (bad.status_code, error_of(bad)["code"])
    assert (404, "unknown_adapter") == (unknown.status_code, error_of(unknown)["code"])


def test_a_reload_that_fails_leaves_the_old_adapter_serving(store: Path, device: FakeDevice) -> None:
    """A probe that refuses is 409 with its code, and the old generation answers on."""
    old = make_adapter(store)
    with served(store, device) as client:
        make_adapter(store, seed=1)
        device.raises["stage"] = AdapterRefused(
            "with this adapter the model answers exactly as the base", code="probe_is_base"
        )
        answered = client.post("/adapters/reload", json={})
        reply = client.post("/reply", json=asked()).json()

    assert (409, "probe_is_base") == (answered.status_code, error_of(answered)["code"])
    assert (old, old) == (reply["reply"], reply["adapter"]["generation"])


def test_an_unexpected_generation_is_a_failed_precondition(store: Path, device: FakeDevice) -> None:
    """A97: a wrong expected_generation is 412 and changes nothing; the right one loads."""
    old = make_adapter(store)
    with served(store, device) as client:
        new = make_adapter(store, seed=1)
        refused = client.post("/adapters/reload", json={"name": "jo", "expected_generation": new})
        between = client.post("/reply", json=asked()).json()["reply"]
        loaded = client.post("/adapters/reload", json={"name": "jo", "expected_generation": old})
        after = client.post("/reply", json=asked()).json()["reply"]

    assert (412, "generation_conflict") == (refused.status_code, error_of(refused)["code"])
    assert (old, 200, new) == (between, loaded.status_code, after)


def test_a_dry_run_serves_nothing(store: Path, device: FakeDevice) -> None:
    """A99: a dry run answers as a reload would and leaves everything as it was."""
    old = make_adapter(store)
    with served(store, device) as client:
        new = make_adapter(store, seed=1)
        tried = client.post("/adapters/reload", json={"name": "jo", "dry_run": True})
        between = client.post("/reply", json=asked()).json()["reply"]
        spoil_base(store)
        refused = client.post("/adapters/reload", json={"name": "jo", "dry_run": True})

    assert (200, new, old) == (tried.status_code, tried.json()["results"][0]["generation"], between)
    assert (409, "base_mismatch") == (refused.status_code, error_of(refused)["code"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "mum"}, 404, "unknown_adapter"),
        ({"name": "jo", "generation": "0" * 16}, 404, "unknown_generation"),
        ({"name": "mum", "expected_generation": "0" * 16}, 412, "generation_conflict"),
        ({"generation": "0" * 16}, 422, "invalid_field"),
        ({"expected_generation": "0" * 16}, 422, "invalid_field"),
    ],
    ids=["A02 name", "A03 generation", "A97 name", "generation of nobody", "expected of nobody"],
)
def test_a_reload_of_what_is_not_there_is_an_error(
    store: Path, device: FakeDevice, body: Json, status: int, code: str
) -> None:
    """A reload that names what is not there changes nothing and is remembered nowhere."""
    make_adapter(store)
    with served(store, device) as client:
        answered = client.post("/adapters/reload", json=body)
        names = [row["name"] for row in client.get("/adapters").json()["adapters"]]

    assert (status, code, ["jo"]) == (answered.status_code, error_of(answered)["code"], names)


def test_a_store_that_is_gone_takes_nothing_with_it(store: Path, device: FakeDevice) -> None:
    """A09: with the store away a reload is 409, and what was loaded answers on; the service is ready."""
    generation = make_adapter(store)
    with served(store, device) as client:
        store.rename(store.with_name("away"))
        answered = client.post("/adapters/reload", json={})
        assert (409, "missing_file") == (answered.status_code, error_of(answered)["code"])
        assert generation == client.post("/reply", json=asked()).json()["reply"]
        assert 200 == client.get("/readyz").status_code


def test_one_reload_at_a_time(store: Path, device: FakeDevice, threads: ThreadPoolExecutor) -> None:
    """O05: a second reload is 429 with Retry-After; the first is not disturbed."""
    with served(store, device) as client:
        make_adapter(store)
        device.staging.clear()
        first = threads.submit(client.post, "/adapters/reload", json={})
        device.staged.get(timeout=PATIENCE)
        second = client.post("/adapters/reload", json={})
        device.staging.set()
        loaded = first.result(PATIENCE)

    assert (429, "reload_busy", "1") == (second.status_code, error_of(second)["code"], second.headers["Retry-After"])
    assert (200, ["loaded"]) == (loaded.status_code, [result["status"] for result in loaded.json()["results"]])


def test_a_reply_ends_with_the_generation_that_began_it(
    store: Path, device: FakeDevice, threads: ThreadPoolExecutor
) -> None:
    """A reload in the middle of a reply waits for nothing and mixes nothing."""
    old = make_adapter(store)
    with served(store, device) as client:
        device.going.clear()
        writing = threads.submit(client.post, "/reply", json=asked())
        device.inserted.get(timeout=PATIENCE)
        new = make_adapter(store, seed=1)
        (result,) = client.post("/adapters/reload", json={}).json()["results"]
        one = client.get("/adapters/jo").json()
        later = threads.submit(client.post, "/reply", json=asked())
        device.inserted.get(timeout=PATIENCE)
        device.going.set()
        first, second = writing.result(PATIENCE).json(), later.result(PATIENCE).json()

    assert ("loaded", 1, 1) == (result["status"], result["in_flight_on_previous"], one["in_flight_on_previous"])
    assert [(old, old), (new, new)] == [(each["reply"], each["adapter"]["generation"]) for each in (first, second)]


# -- load, time, failure


def test_a_full_queue_is_told_to_come_again(store: Path, device: FakeDevice, threads: ThreadPoolExecutor) -> None:
    """O01: what may not wait is 429 with Retry-After at once; what waits is answered."""
    with served(store, device, waiting=3, rows=3) as client:
        device.going.clear()
        waiting = threads.submit(client.post, "/reply", json=asked(n=3))
        device.inserted.get(timeout=PATIENCE)
        refused = client.post("/reply", json=asked())
        assert 200 == client.post("/prompt", json=asked()).status_code
        device.going.set()
        answered = waiting.result(PATIENCE)
        assert 200 == client.post("/reply", json=asked()).status_code

    assert (429, "queue_full") == (refused.status_code, error_of(refused)["code"])
    assert int(refused.headers["Retry-After"]) >= 1
    assert (200, 3) == (answered.status_code, len(answered.json()["replies"]))


def test_a_reply_that_takes_too_long_is_given_up(store: Path, device: FakeDevice) -> None:
    """O04: past the deadline a request is 504, and its row leaves the batch."""
    with served(store, device, deadline_s=0.05) as client:
        device.going.clear()
        answered = client.post("/reply", json=asked())
        make_adapter(store)
        assert 200 == client.post("/adapters/reload", json={}).status_code  # its turn comes after the removal

    assert (504, "deadline") == (answered.status_code, error_of(answered)["code"])
    assert [0] == device.removed


def test_a_request_that_waits_too_long_costs_nothing(
    store: Path, device: FakeDevice, threads: ThreadPoolExecutor
) -> None:
    """O03: a request whose deadline passes while it waits for its turn is 504, and its prompt is never fed."""
    with served(store, device, deadline_s=0.2) as client:
        device.feeding.clear()
        fed = threads.submit(client.post, "/reply", json=asked())
        device.chunks.get(timeout=PATIENCE)
        waited = client.post("/reply", json=asked())
        answers = [waited, fed.result(PATIENCE)]
        device.let_go()
        assert 200 == client.post("/reply", json=asked()).status_code

    assert {(504, "deadline")} == {(answered.status_code, error_of(answered)["code"]) for answered in answers}
    assert 2 == len(device.jobs)


def test_an_engine_that_fails_is_not_ready(store: Path, device: FakeDevice, threads: ThreadPoolExecutor) -> None:
    """O31: an exception in a step is 503 for all in flight and all that come; the process is up, and not ready."""
    make_adapter(store)
    with served(store, device) as client:
        device.going.clear()
        writing = [threads.submit(client.post, "/reply", json=asked(n=2)) for _ in range(3)]
        for _ in range(3):
            device.inserted.get(timeout=PATIENCE)
        device.raises["step"] = RuntimeError(CANARY)
        device.going.set()
        answers = [each.result(PATIENCE) for each in writing]
        answers += [client.post("/reply", json=asked()), client.get("/readyz")]
        make_adapter(store, seed=1)
        answers.append(client.post("/adapters/reload", json={}))
        assert 200 == client.get("/healthz").status_code
        assert 0 == client.get("/adapters/jo").json()["in_flight"]

    assert {(503, "engine_error", "1")} == {
        (a.status_code, error_of(a)["code"], a.headers["Retry-After"]) for a in answers
    }
    assert not any(CANARY in a.text for a in answers)


@pytest.mark.parametrize("method", ["begin", "feed", "stage"])
def test_wherever_the_engine_fails_the_request_is_told(store: Path, device: FakeDevice, method: str) -> None:
    """A device that breaks as a prompt goes in, or as a slot is written, is 503 for who asked."""
    with served(store, device) as client:
        make_adapter(store)
        device.raises[method] = RuntimeError(CANARY)
        answered = (
            client.post("/adapters/reload", json={}) if method == "stage" else client.post("/reply", json=asked())
        )

    assert (503, "engine_error") == (answered.status_code, error_of(answered)["code"])


def request_of(path: str, body: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    headers = {"host": HOST, "authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "scheme": "http", "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    return scope, [{"type": "http.request", "body": body, "more_body": False}]


@pytest.mark.parametrize("whole", [True, False], ids=["O15 in decode", "O16 in the middle of its body"])
def test_a_client_that_leaves_takes_its_rows_along(
    store: Path, device: FakeDevice, caplog: pytest.LogCaptureFixture, whole: bool
) -> None:
    """Who leaves while a reply is written frees row and lease; who leaves in the middle of its body starts nothing."""
    make_adapter(store)
    engine = Engine(lambda: device)
    app = create_app(Settings(adapters=store), engine)
    sent: list[Any] = []
    caplog.set_level(logging.INFO)

    async def work() -> None:
        device.going.clear()
        scope, waiting = request_of("/reply", json.dumps(asked(n=2)).encode())
        waiting[0]["more_body"] = not whole
        leaves = asyncio.Event()

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        async with app.router.lifespan_context(app):
            asking = asyncio.create_task(with_doors(app, [HOST], TOKEN)(scope, receive, send))
            if whole:
                await begun(device)
            leaves.set()
            await asking
            await engine.memory()  # comes after the removals
            registry: Registry = app.state.registry
            assert (0, 0) == (registry.describe_one("jo")["in_flight"], app.state.replies.in_flight)

    asyncio.run(asyncio.wait_for(work(), PATIENCE))
    assert ([0, 1] if whole else []) == sorted(device.removed)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_nobody_foresaw_is_an_envelope_without_its_text(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is 500 with the usual envelope; answer and log have no text of the exception."""
    app: FastAPI = create_app(Settings(adapters=store), Engine(FakeDevice))

    def fault() -> None:
        raise ValueError(CANARY)

    app.add_api_route("/fault", fault, methods=["GET"])
    with TestClient(with_doors(app, [HOST], None), base_url=f"http://{HOST}") as client:
        answered = client.get("/fault")

    assert (500, "internal") == (answered.status_code, error_of(answered)["code"])
    assert CANARY not in answered.text + caplog.text


# -- start and stop


def test_a_base_that_does_not_load_keeps_the_service_from_starting(store: Path) -> None:
    """What the engine says of the base model is the error of the start."""

    def refuse() -> FakeDevice:
        raise BaseRefused("no model there")

    app = create_app(Settings(adapters=store), Engine(refuse))
    with pytest.raises(BaseRefused, match="no model there"), TestClient(app):
        raise AssertionError("it must not start")


def test_the_start_says_once_that_all_is_loaded(store: Path, device: FakeDevice) -> None:
    """on_ready is called when the base is loaded and the store has been read, with what serves."""
    make_adapter(store)
    told: list[list[str]] = []
    app = create_app(
        Settings(adapters=store), Engine(lambda: device), lambda registry: told.append(list(registry.serving))
    )

    assert [] == told
    with TestClient(app):
        assert [["jo"]] == told
    assert device.closed and [["jo"]] == told


# -- privacy

FIELDS: dict[str, Json] = {
    "a text": {"messages": [{"from_me": False, "text": CANARY}]},
    "a text that cannot be answered": {"messages": [{"from_me": True, "text": CANARY}]},
    "a text that is too long": {"messages": [{"from_me": False, "text": CANARY * 2000}]},
    "sender": {"messages": [{"from_me": False, "text": "x", "sender": CANARY * 20}]},
    "sent_at": {"messages": [{"from_me": False, "text": "x", "sent_at": CANARY}]},
    "from_me": {"messages": [{"from_me": CANARY, "text": "x"}]},
    "a key of a message": {"messages": [{"from_me": False, "text": "x", CANARY: CANARY}]},
    "messages": {"messages": CANARY},
    "one message": {"messages": [CANARY]},
    **{
        field: asked(**{field: CANARY})
        for field in ("category", "is_group", "variant", "name", "adapter", "n", "max_tokens")
    },
    **{
        field: asked(**{field: CANARY})
        for field in ("temperature", "top_p", "min_p", "top_k", "repetition_penalty", "seed", "stream")
    },
    "a key": asked(**{CANARY: CANARY}),
    "adapter and generation": asked(adapter=f"jo@{CANARY}"),
    "name beside an adapter": asked(name=CANARY, adapter="jo"),
    "variant beside an adapter": asked(variant=CANARY, adapter="jo"),
    "a reload's name": {"name": CANARY},
    "a reload's generation": {"name": "jo", "generation": CANARY},
    "a reload's expected_generation": {"name": "jo", "expected_generation": CANARY},
    "a reload's variant": {"name": "jo", "variant": CANARY},
    "a reload's activate": {"name": "jo", "activate": CANARY},
}


@pytest.mark.parametrize("case", FIELDS)
def test_no_error_and_no_log_repeats_what_was_sent(
    store: Path, device: FakeDevice, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A canary in any field comes back in no error, and is in no log, whether the request succeeds or not."""
    caplog.set_level(logging.DEBUG)
    make_adapter(store)
    with served(store, device) as client:
        answers = [client.post(path, json=FIELDS[case]) for path in ("/reply", "/prompt", "/adapters/reload")]
        raw = json.dumps(FIELDS[case]).encode()[:-1]
        answers += [client.post("/reply", content=raw, headers={"Content-Type": "application/json"})]

    errors = [answered for answered in answers if answered.status_code != 200]
    assert len(errors) >= 2 and all(answered.status_code < 500 for answered in answers)
    assert not any("Walrus" in answered.text or "Walrus" in str(answered.headers) for answered in errors)
    logged = [record for record in caplog.records if record.name.startswith("samevoice")]
    assert "Walrus" not in " ".join(record.getMessage() for record in logged)


@pytest.mark.parametrize("where", ["path", "query", "header", "token"])
def test_no_error_repeats_what_stands_around_the_body(store: Path, device: FakeDevice, where: str) -> None:
    """A canary in the path, the query, a header or the token comes back in no answer."""
    with served(store, device) as client:
        headers = {
            "header": {"X-Canary": CANARY, "Accept": CANARY},
            "token": {"Authorization": f"Bearer {CANARY}"},
        }.get(where, {})
        path = {"path": f"/adapters/{CANARY}", "query": f"/adapters/mum?q={CANARY}"}.get(where, "/adapters/mum")
        answered = client.get(path, headers=headers)

    assert answered.status_code in (401, 404)
    assert "Walrus" not in answered.text + str(answered.headers)
