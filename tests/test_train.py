"""From config to a published generation on a tiny model, and what is left when that goes wrong."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from base_model.load import load_base, projections
from errors import DataRefused, TrainingStopped
from prompt_format.adapter_check import CheckedAdapter, check_adapter
from prompt_format.adapter_store import current, generations, read_generation
from prompt_format.chat_template import ChatTemplate
from prompt_format.probe import PROBE_LOGITS, PROBE_TOLERANCE, probe_prompt
from tests.tiny import files_in, tiny_dataset, tiny_model
from training.again import evaluate_again
from training.config import TrainConfig, parse_config
from training.lora import choose_layers, set_adapter, wear
from training.publish import list_adapters
from training.train import Published, notify, train


class Stopped(Exception):
    """Somebody pulls the plug."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tiny_model(folder / "model", "lfm2")
    tiny_dataset(folder, blocks=5)
    return folder


def config(made: Path, **settings: Any) -> TrainConfig:
    chosen = {
        "data": str(made / "raw_style"),
        "rank": 4,
        "iters": 5,
        "batch_size": 6,
        "learning_rate": 0.02,
        **settings,
    }
    return parse_config({"name": "jo", "model": str(made / "model"), **chosen}, "jo.yaml")


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def when(start: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Progress whose reader acts at the first line that begins with *start*."""

    def say(line: str) -> None:
        if line.startswith(start):
            act()

    return say


def pull_the_plug() -> None:
    raise Stopped


def checked(made: Path, store: Path, generation: str) -> CheckedAdapter:
    """The generation, through every check that the service makes."""
    base = load_base(str(made / "model"))
    files, shapes = read_generation(store, "jo", generation), projections(base.model)
    return check_adapter(
        files, "jo", generation, base.fingerprint, ChatTemplate(base.tokenizer), shapes, len(base.model.layers)
    )


@pytest.fixture(scope="module")
def store(made: Path) -> Path:
    return made / "store"


@pytest.fixture(scope="module")
def published(made: Path, store: Path) -> Published:
    return train(config(made), store, quiet)


# -- a run that ends well


def test_what_is_published_passes_the_services_checks(made: Path, store: Path, published: Published) -> None:
    """Base, contract, config, tensors and values."""
    found = checked(made, store, published.generation)

    assert (4, 2.0, tuple(published.trained.exported.modules)) == (found.rank, found.scale, found.modules)


def test_an_adapter_that_passes_the_gate_is_current(store: Path, published: Published) -> None:
    """And nothing is left of the run but the generation."""
    assert (True, True) == (published.verdict.gate.passed, published.activated)
    assert published.generation == current(store, "jo")
    assert {".lock", "jo"} == {path.name for path in store.iterdir()}


def test_the_manifest_says_how_it_was_made(made: Path, store: Path, published: Published) -> None:
    """Its config, its rows, its numbers and the versions."""
    (row,) = list_adapters(store)
    manifest = row.manifest

    assert config(made) == TrainConfig.model_validate(manifest.training.config)
    assert {"train": 12, "valid": 4, "test": 4} == manifest.data.counts
    assert published.verdict.metrics == manifest.metrics
    assert published.trained.position.best_step == manifest.training.steps
    assert {"python", "mlx", "mlx-lm", "transformers"} == set(manifest.training.versions)


def test_the_probe_is_found_again(made: Path, store: Path, published: Published) -> None:
    """A fresh base with the published weights gives the first logits that the trainer computed."""
    found = checked(made, store, published.generation)
    model = load_base(str(made / "model")).model
    wear(model, choose_layers(model, config(made))[0])
    path = store / "jo" / published.generation / "adapters.safetensors"
    set_adapter(model, dict(mx.load(str(path))))
    model.eval()
    logits = model(mx.array([probe_prompt(found.format)]))[0, -1, :PROBE_LOGITS].tolist()

    assert found.manifest.probe == pytest.approx(logits, abs=PROBE_TOLERANCE / 100)


def test_training_again_is_the_same_generation(made: Path, store: Path, published: Published) -> None:
    """One config, one dataset and one seed give one digest; nothing new is written."""
    before = files_in(store / "jo" / published.generation)

    assert published.generation == train(config(made), store, quiet).generation
    assert before == files_in(store / "jo" / published.generation)


def test_evaluating_it_again_gives_the_same_numbers(store: Path, published: Published) -> None:
    """As the manifest has them."""
    lines = evaluate_again(store, "jo", None, None)

    assert lines[0].startswith(f"jo@{published.generation} on ")
    assert f"  test_loss              {published.verdict.metrics['test_loss']:.4f}" in lines
    assert "  gate: passed" == lines[-1]


# -- the gate


def test_an_adapter_that_fails_the_gate_is_published_but_not_current(made: Path, tmp_path: Path) -> None:
    """Unless it is asked for."""
    strict = config(made, gate={"max_valid_ratio": 0.01})
    found = train(strict, tmp_path, quiet)

    assert (False, False) == (found.verdict.gate.passed, found.activated)
    assert not (tmp_path / "jo" / "CURRENT").exists()
    assert found.generation == train(strict, tmp_path, quiet, activate=True).generation == current(tmp_path, "jo")


# -- runs that do not


def test_a_run_that_was_stopped_publishes_nothing(
    made: Path, store: Path, published: Published, tmp_path: Path
) -> None:
    """The store holds its checkpoint alone, and the run that goes on from it is the same generation."""
    with pytest.raises(Stopped):
        train(config(made), tmp_path, when("step 3/", pull_the_plug))
    assert {".staging-checkpoint-jo.safetensors"} == {path.name for path in tmp_path.iterdir()}

    assert published.generation == train(config(made), tmp_path, quiet, resume=True).generation
    assert {".lock", "jo"} == {path.name for path in tmp_path.iterdir()}


def test_a_loss_that_is_no_number_publishes_nothing(
    made: Path, store: Path, published: Published, tmp_path: Path
) -> None:
    """What was published before stays."""
    copy = shutil.copytree(store, tmp_path / "store")

    with pytest.raises(TrainingStopped, match="not a number at step"):
        train(config(made, learning_rate=1e30, schedule={"warmup": 0}), copy, quiet)
    assert files_in(store) == files_in(copy, but=[".staging-checkpoint-jo.safetensors"])
    assert published.generation == current(copy, "jo")


def test_a_dataset_that_was_built_anew_meanwhile_is_refused(made: Path, tmp_path: Path) -> None:
    """The adapter would name rows that it never saw."""
    tiny_dataset(tmp_path, blocks=4)
    changed = config(made, data=str(tmp_path / "raw_style"))

    with pytest.raises(DataRefused, match="'.*raw_style' was built anew while training ran"):
        train(changed, tmp_path / "store", when("step 2/", lambda: tiny_dataset(tmp_path, blocks=5)))
    assert [] == generations(tmp_path / "store", "jo")


def test_rows_that_are_too_long_are_said(made: Path, tmp_path: Path) -> None:
    """How many lost the start of their prompt, and how many were left out: before the first step."""
    said: list[str] = []
    with pytest.raises(Stopped):
        train(config(made, max_tokens=64), tmp_path, lambda line: said.append(line) or pull_the_plug())

    assert said[0].startswith("max_tokens 64: 20 prompts cut from the left, 0 ")
    assert [] == list(tmp_path.iterdir())


def test_a_manifest_is_plain_json(store: Path, published: Published) -> None:
    """Without NaN or infinity, which other programs do not read."""
    raw = (store / "jo" / published.generation / "manifest.json").read_text()

    assert json.loads(raw, parse_constant=pytest.fail)["name"] == "jo"


# -- telling the service


@contextmanager
def service(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """(address, what it was asked): one that gives *answer*, byte for byte, to one request."""
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while not asked or b"}" not in asked[-1]:
                asked.append(connection.recv(65536))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", asked
        thread.join()


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def test_the_service_is_told_with_the_token() -> None:
    """And its answer is said."""
    body = json.dumps({"results": [{"name": "jo", "status": "loaded", "generation": "0123456789abcdef"}]})
    with service(http("200 OK", body)) as (address, asked):
        said = notify(address, "jo", "secret")

    assert "the service says: jo loaded, generation 0123456789abcdef" == said
    request = b"".join(asked)
    assert request.startswith(b"POST /adapters/reload HTTP/1.1") and b"Authorization: Bearer secret" in request
    assert request.endswith(b'{"name": "jo"}')


def test_no_proxy_is_told_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says."""
    body = json.dumps({"results": [{"status": "loaded", "generation": "0123456789abcdef"}]})
    with service(http("200 OK", body)) as (address, _):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert notify(address, "jo", "secret").startswith("the service says")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("409 Conflict", '{"results": []}'), 'the service refused it: 409 {"results": []}'),
        (http("200 OK", "{}"), "was not told (KeyError)"),
        (http("200 OK", "[]"), "was not told (TypeError)"),
        (http("200 OK", '{"results": []}'), "was not told (IndexError)"),
        (http("200 OK", "hello"), "was not told (JSONDecodeError)"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "was not told (BadStatusLine)"),
        (b"", "was not told (RemoteDisconnected)"),
    ],
    ids=["refused", "no results", "a list", "empty", "no JSON", "no HTTP", "hangs up"],
)
def test_an_answer_that_is_none_is_no_error(answer: bytes, said: str) -> None:
    """The adapter is published by then: what the service does is said, and that is all."""
    with service(answer) as (address, _):
        assert said in notify(address, "jo", None)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:9", "nowhere", "http://[", ""])
def test_an_address_without_a_service_is_no_error(address: str) -> None:
    """The service will find the adapter by itself."""
    assert "; it will find the adapter at its next reload" in notify(address, "jo", None)
