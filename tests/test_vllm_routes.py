"""Loading and unloading as vLLM's clients ask for it, over our own store."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.fakes import PATIENCE, FakeDevice, asked, make_adapter, publish_altered, served

Json = dict[str, Any]


@pytest.fixture
def threads(device: FakeDevice) -> Iterator[ThreadPoolExecutor]:
    """Several clients at once."""
    with ThreadPoolExecutor(8) as threads:
        yield threads
        device.let_go()


def load(client: TestClient, path: str = "jo", name: str = "jo", **what: Any) -> Any:
    return client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path, **what})


def unload(client: TestClient, name: str = "jo", **what: Any) -> Any:
    return client.post("/v1/unload_lora_adapter", json={"lora_name": name, **what})


def code_of(answered: Any) -> tuple[int, str]:
    document = answered.json()["error"]
    assert ["code", "message", "details"] == list(document)
    return answered.status_code, document["code"]


def reply_of(client: TestClient, name: str = "jo") -> Any:
    return client.post("/reply", json=asked(adapter=name))


def models(client: TestClient) -> list[str]:
    return [model["id"] for model in client.get("/v1/models").json()["data"]]


# -- load


def test_a_name_that_is_new_is_loaded(store: Path, device: FakeDevice) -> None:
    """200 and one line of text that says which generation answers; the name is a model then."""
    with served(store, device) as client:
        generation = make_adapter(store)
        answered = load(client)
        assert (generation, ["base", "jo"]) == (reply_of(client).json()["reply"], models(client))

    assert (200, "text/plain; charset=utf-8") == (answered.status_code, answered.headers["Content-Type"])
    assert f"Success: LoRA adapter 'jo' added successfully: {generation}." == answered.text


@pytest.mark.parametrize(
    "path",
    ["jo/{}", "jo@{}", "/srv/adapters/jo/{}", "adapters/jo/{}/", "../jo/{}", "/etc/passwd/../jo/{}"],
)
def test_a_path_names_a_generation_of_the_store(store: Path, device: FakeDevice, path: str) -> None:
    """Only the end of a path counts, and it names a generation: CURRENT's or another one, which stays pinned."""
    old = make_adapter(store)
    new = make_adapter(store, seed=1)
    with served(store, device) as client:
        assert 200 == load(client, path.format(old), load_inplace=True).status_code
        pinned = client.get("/adapters/jo").json()
        assert 200 == load(client, path.format(new), load_inplace=True).status_code
        current = client.get("/adapters/jo").json()

    assert [(old, True), (new, False)] == [(row["generation"], row["pinned"]) for row in (pinned, current)]


@pytest.mark.parametrize("path", ["jo", "jo/", "/srv/adapters/jo", "./jo"])
def test_a_path_without_a_generation_means_the_current_one(store: Path, device: FakeDevice, path: str) -> None:
    """What CURRENT says is loaded."""
    with served(store, device) as client:
        generation = make_adapter(store)
        assert 200 == load(client, path).status_code
        assert generation == reply_of(client).json()["reply"]


PATHS = [
    "", ".", "/", "mum", "jo2", "xjo", "x-jo", "jo/0123", "jo/CURRENT", "jo/0123456789ABCDEF", "jo/../mum", "jo//",
    "jo\n", "a\n/jo", "http://evil.example/jo?", "file:///jo#", "~jo", "jo/" + "0" * 16 + "/adapters.safetensors",
    "jo@" + "0" * 17, "x" * 4097, "C:\\jo",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path!a:.24}")
def test_another_path_is_refused(store: Path, device: FakeDevice, path: str) -> None:
    """What does not name the adapter that is meant is 422, whatever lies there, and is not repeated."""
    make_adapter(store)
    make_adapter(store, "mum")
    with served(store, device) as client:
        answered = load(client, path, load_inplace=True)

    assert (422, "invalid_field") == code_of(answered)
    assert answered.json()["error"]["details"][0].startswith("lora_path: ") and len(answered.content) < 400


def test_a_path_is_never_opened(tmp_path: Path, device: FakeDevice) -> None:
    """An adapter that lies outside the store is not there, although the path leads to it."""
    elsewhere = tmp_path / "elsewhere"
    generation = make_adapter(elsewhere)
    os.mkfifo(tmp_path / "jo")  # whoever opened it would wait for ever
    with served(tmp_path / "adapters", device) as client:
        answers = [load(client, path) for path in (f"{elsewhere}/jo/{generation}", f"{elsewhere}/jo", f"{tmp_path}/jo")]

    assert [(404, "unknown_adapter")] * 3 == [code_of(answered) for answered in answers]


def test_what_is_loaded_is_replaced_only_in_place(store: Path, device: FakeDevice) -> None:
    """400 for a name that stands in a slot, as vLLM has it; with load_inplace the name moves."""
    old = make_adapter(store)
    with served(store, device) as client:
        new = make_adapter(store, seed=1)
        assert (400, "already_loaded") == code_of(load(client))
        assert old == reply_of(client).json()["reply"]
        assert 200 == load(client, load_inplace=True).status_code
        assert new == reply_of(client).json()["reply"]
        assert 200 == load(client, load_inplace=True).status_code  # unchanged


def test_what_is_not_there_is_not_found(store: Path, device: FakeDevice) -> None:
    """A02, A03: a name or generation that the store does not have is 404."""
    make_adapter(store)
    with served(store, device) as client:
        assert (404, "unknown_adapter") == code_of(load(client, "mum", "mum"))
        assert (404, "unknown_generation") == code_of(load(client, f"jo/{'0' * 16}", load_inplace=True))


def test_what_is_refused_says_why(store: Path, device: FakeDevice) -> None:
    """A67: a bad adapter is 409 with the code of a reload; the generation before answers on."""
    old = make_adapter(store)
    with served(store, device) as client:
        bad = make_adapter(store, seed=9, activate=False)
        publish_altered(store, "jo", bad, manifest=lambda m: m["base"].update(fingerprint="sha256:" + "c" * 64))
        answered = load(client, load_inplace=True)
        reloaded = client.post("/adapters/reload", json={"name": "jo"})
        assert old == reply_of(client).json()["reply"]

    assert (409, "base_mismatch") == code_of(answered) == code_of(reloaded)
    assert answered.json()["error"]["details"] == reloaded.json()["error"]["details"]


@pytest.mark.parametrize(
    ("what", "detail"),
    [
        ({"lora_name": "../x"}, "lora_name: string_pattern_mismatch"),
        ({"lora_name": None}, "lora_name: string_type"),
        ({"lora_path": 5}, "lora_path: string_type"),
        ({"load_inplace": "true"}, "load_inplace: bool_type"),
        ({"base_model_name": "x"}, "(unknown field): extra_forbidden"),
    ],
    ids=["A01 name", "null", "path", "load_inplace", "unknown"],
)
def test_a_wrong_field_is_named(store: Path, device: FakeDevice, what: Json, detail: str) -> None:
    """What is no request of this shape is 422."""
    with served(store, device) as client:
        answered = client.post("/v1/load_lora_adapter", json={"lora_name": "jo", "lora_path": "jo", **what})

    assert ((422, "invalid_field"), [detail]) == (code_of(answered), answered.json()["error"]["details"])


# -- unload


def test_what_is_unloaded_is_unknown(store: Path, device: FakeDevice) -> None:
    """The slot is free, and every route says that there is no such adapter; the default is another one."""
    make_adapter(store, "ann")
    make_adapter(store)
    with served(store, device) as client:
        slot = client.get("/adapters/jo").json()["slot"]
        answered = unload(client, lora_int_id=7)
        assert [slot] == device.freed
        refused = [
            reply_of(client),
            client.post("/prompt", json=asked(adapter="jo")),
            client.get("/adapters/jo"),
            client.get("/v1/models/jo"),
            unload(client),
        ]
        assert ["base", "ann"] == models(client)
        assert "ann" == client.post("/reply", json=asked()).json()["adapter"]["name"]

    assert (200, "Success: LoRA adapter 'jo' removed successfully.") == (answered.status_code, answered.text)
    assert [(404, "unknown_adapter")] * 5 == [code_of(answered) for answered in refused]


@pytest.mark.parametrize("how", ["all", "name", "load"])
def test_a_reload_brings_it_back(store: Path, device: FakeDevice, how: str) -> None:
    """Nothing has left the store: whatever loads it makes it answer again."""
    generation = make_adapter(store)
    with served(store, device) as client:
        unload(client)
        if how == "load":
            assert 200 == load(client).status_code
        else:
            body = {"name": "jo"} if how == "name" else {}
            (result,) = client.post("/adapters/reload", json=body).json()["results"]
            assert ("loaded", None) == (result["status"], result["previous_generation"])
        assert generation == reply_of(client).json()["reply"]


def test_a_name_in_no_slot_can_be_unloaded(store: Path, device: FakeDevice) -> None:
    """One that would be loaded when it is asked for is not, once it has been unloaded."""
    for name in ("ann", "jo"):
        make_adapter(store, name)
    device.facts = type(device.facts)(**{**vars(device.facts), "slots": 2})  # room for one
    with served(store, device) as client:
        (idle,) = (row["name"] for row in client.get("/adapters").json()["adapters"] if row["slot"] is None)
        assert 200 == unload(client, idle).status_code
        assert (404, "unknown_adapter") == code_of(reply_of(client, idle))


def test_a_reply_on_its_way_ends_as_it_began(store: Path, device: FakeDevice, threads: ThreadPoolExecutor) -> None:
    """What is being written while its adapter is unloaded is written to its end; its slot is free only then."""
    generation = make_adapter(store)
    with served(store, device) as client:
        device.going.clear()
        writing = threads.submit(reply_of, client)
        device.inserted.get(timeout=PATIENCE)
        assert 200 == unload(client).status_code
        assert (404, "unknown_adapter") == code_of(reply_of(client))
        assert [] == device.freed
        device.let_go()
        answered = writing.result(PATIENCE).json()
        client.get("/healthz")

    assert (generation, generation) == (answered["reply"], answered["adapter"]["generation"])
    assert 1 == len(device.freed)


def test_unloading_takes_its_turn(store: Path, device: FakeDevice, threads: ThreadPoolExecutor) -> None:
    """O05: while a reload runs, 429 with Retry-After; the reload is not disturbed."""
    make_adapter(store)
    with served(store, device) as client:
        new = make_adapter(store, seed=1)
        device.staging.clear()
        device.staged.get(timeout=PATIENCE)  # of the start
        reloading = threads.submit(client.post, "/adapters/reload", json={})
        device.staged.get(timeout=PATIENCE)
        answered = unload(client)
        device.staging.set()
        assert 200 == reloading.result(PATIENCE).status_code
        assert new == reply_of(client).json()["reply"]

    assert ((429, "reload_busy"), "1") == (code_of(answered), answered.headers["Retry-After"])
