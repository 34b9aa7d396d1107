"""From config to a published generation on a tiny model, and what is left when that goes wrong."""

import base64
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy

from base_model.load import load_base, projections
from errors import AdapterRefused, DataRefused, TrainingStopped
from prompt_format.adapter_check import CheckedAdapter, check_adapter
from prompt_format.adapter_store import current, generations, read_generation
from prompt_format.chat_template import ChatTemplate
from prompt_format.probe import PROBE_LOGITS, PROBE_TOLERANCE, probe_prompt
from service.slots import RoutedModel
from tests.exact import OnThread
from tests.tiny import files_in, tiny_dataset, tiny_model
from training.again import evaluate_again
from training.config import TrainConfig, parse_config
from training.lora import choose_layers, set_adapter, wear
from training.publish import Listed, list_adapters
from training.train import Published, notify, train
from training.watch import Lines


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


def unread(line: str) -> None:
    """Progress that nobody reads."""


quiet = Lines(unread)


def when(start: str, act: Callable[[], object]) -> Lines:
    """Progress whose reader acts at each line that begins with *start*."""

    def say(line: str) -> None:
        if line.startswith(start):
            act()

    return Lines(say)


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


def test_a_report_lies_beside_what_is_published(store: Path, published: Published) -> None:
    """A page, its figures and the loss curve, for their owner alone; the manifest signs none of them."""
    folder = store / "jo" / published.generation
    names = ("report.html", "report.json", "loss.png")
    data = json.loads((folder / "report.json").read_text())

    assert {0o600} == {(folder / name).stat().st_mode & 0o777 for name in names}
    assert {"adapters.safetensors", "adapter_config.json", "manifest.json", *names} == {
        path.name for path in folder.iterdir()
    }
    assert f"jo@{published.generation}" == data["about"]["adapter"]
    assert base64.b64encode((folder / "loss.png").read_bytes()).decode() in (folder / "report.html").read_text()
    assert published.verdict.metrics["test_loss"] == data["figures"][0]["adapter"]


def test_a_seed_gives_the_same_report_twice(made: Path, store: Path, published: Published, tmp_path: Path) -> None:
    """Byte for byte, in another store."""
    again = train(config(made), tmp_path, quiet)
    folders = (store / "jo" / published.generation, tmp_path / "jo" / again.generation)
    first, second = (files_in(folder, but=["manifest.json"]) for folder in folders)

    assert first == second and "report.html" in first


# -- evaluated again


def test_evaluating_it_again_gives_the_same_numbers(store: Path, published: Published) -> None:
    """As the manifest has them, and the same report."""
    before = files_in(store / "jo" / published.generation)
    lines = evaluate_again(store, "jo", None, None, None)

    assert lines[0].startswith(f"jo@{published.generation} on ")
    (row,) = (line for line in lines if line.startswith("nats a token"))
    assert f"{published.verdict.metrics['test_loss']:.3f}" == row.split()[4]
    assert "gate: passed" == lines[-2]
    assert before == files_in(store / "jo" / published.generation)


def test_a_report_goes_where_it_is_asked_for(store: Path, published: Published, tmp_path: Path) -> None:
    """With the JSON beside it, for their owner alone; the store stays as it is."""
    before = files_in(store)
    lines = evaluate_again(store, "jo", published.generation, None, tmp_path / "new" / "jo.html")

    assert {"new/jo.html", "new/jo.json"} == files_in(tmp_path).keys()
    assert {0o600} == {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert before == files_in(store) and lines[-1] == f"look at it: {tmp_path / 'new' / 'jo.html'}"


# -- a DoRA


@pytest.fixture(scope="module")
def dora(made: Path) -> CheckedAdapter:
    """One that was trained and published, as the service has checked it."""
    found = train(config(made, method="dora"), made / "dora", quiet, activate=True)
    return checked(made, made / "dora", found.generation)


def test_what_is_published_of_a_dora_passes_the_services_checks(made: Path, dora: CheckedAdapter) -> None:
    """It is a DoRA, and has been trained: its lengths are not the base's."""
    linear = dict(load_base(str(made / "model")).model.named_modules())
    tensors = safetensors.numpy.load(dora.weights)
    moved = [
        path
        for path in dora.modules
        if not np.allclose(np.linalg.norm(linear[path].weight, axis=1), tensors[f"{path}.m"], atol=1e-3)
    ]

    assert (True, "dora", 4, 2.0) == (dora.dora, dora.manifest.lora.type, dora.rank, dora.scale)
    assert list(dora.modules) == moved


def test_the_probe_of_a_dora_is_found_again_in_a_slot(made: Path, dora: CheckedAdapter) -> None:
    """The service's slot gives the first logits that the trainer computed, and the base gives others."""
    routed = RoutedModel(load_base(str(made / "model")).model, 2, dora.rank)
    for _ in routed.write(1, dora.weights, dora.scale, dora.modules, dora.dora):
        pass
    ids = mx.array([probe_prompt(dora.format)])
    base, worn = (routed.last_logits(ids, routed.make_cache(), [slot])[0, :PROBE_LOGITS].tolist() for slot in (0, 1))

    assert dora.manifest.probe == pytest.approx(worn, abs=PROBE_TOLERANCE / 100)
    assert dora.manifest.probe != pytest.approx(base, abs=PROBE_TOLERANCE)


def test_the_service_stages_a_dora(made: Path, dora: CheckedAdapter) -> None:
    """Its own probe agrees with the trainer's; taken for a LoRA, the same weights are refused."""
    with OnThread(made / "model", 2, dora.rank) as device:
        device.stage(1, dora)
        with pytest.raises(AdapterRefused) as refusal:
            device.stage(2, replace(dora, dora=False))

    assert "probe_disagrees" == refusal.value.code


# -- the generation before


def test_a_new_generation_is_held_against_the_current_one(
    made: Path, store: Path, published: Published, tmp_path: Path
) -> None:
    """It has the figures that it had itself, whatever its rank; and so again when evaluated later."""
    copy = shutil.copytree(store, tmp_path / "store")
    found = train(config(made, rank=2, modules=["out_proj"], seed=1), copy, quiet)
    folder = copy / "jo" / found.generation
    report = (folder / "report.json").read_bytes()

    assert published.verdict.metrics["test_loss"] == found.verdict.metrics["previous_test_loss"]
    assert published.verdict.adapter.generated == found.verdict.previous.generated
    set_time(copy, found.generation, "2999-01-01T00:00:00Z")
    evaluate_again(copy, "jo", found.generation, None, tmp_path / "report.html")
    assert json.loads(report)["figures"] == json.loads((tmp_path / "report.json").read_text())["figures"]


def test_a_first_generation_is_held_against_the_base_alone(store: Path, published: Published) -> None:
    """And nothing is said of another."""
    assert (None, "") == (published.verdict.previous, published.verdict.note)


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        ("weights", "a file is not the one that was published"),
        ("contract", "it was trained under another contract|another contract than the dataset"),
        ("current", "CURRENT of 'jo' does not name a generation"),
    ],
)
def test_a_current_generation_that_does_not_fit_is_left_out(
    made: Path, store: Path, published: Published, tmp_path: Path, damage: str, note: str
) -> None:
    """With the reason, which is said and stands in the report; the run goes on."""
    copy = shutil.copytree(store, tmp_path / "store")
    data = made / "raw_style"
    if damage == "weights":
        (copy / "jo" / published.generation / "adapters.safetensors").write_bytes(b"cut")
    elif damage == "current":
        (copy / "jo" / "CURRENT").write_text("rubbish")
    else:
        data = tiny_dataset(tmp_path, "raw_style_variable", blocks=5).folder
    said: list[str] = []
    found = train(config(made, data=str(data), seed=1, iters=2), copy, Lines(said.append))

    assert found.verdict.previous is None and re.search(note, found.verdict.note)
    assert found.verdict.note in said
    assert found.verdict.note == json.loads((copy / "jo" / found.generation / "report.json").read_text())["note"]


def set_time(store: Path, generation: str, created_at: str) -> None:
    path = store / "jo" / generation / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": created_at}))


# -- the gate


def test_an_adapter_that_fails_the_gate_is_published_but_not_current(made: Path, tmp_path: Path) -> None:
    """Unless it is asked for."""
    strict = config(made, gate={"max_valid_ratio": 0.01})
    found = train(strict, tmp_path, quiet)

    assert (False, False) == (found.verdict.gate.passed, found.activated)
    assert not (tmp_path / "jo" / "CURRENT").exists()
    assert "overridden" not in (row(tmp_path).manifest.gate.words)
    assert found.generation == train(strict, tmp_path, quiet, activate=True).generation == current(tmp_path, "jo")
    assert "gate not passed (overridden)" == row(tmp_path).manifest.gate.words


def test_a_report_says_that_the_gate_was_overridden(made: Path, tmp_path: Path) -> None:
    """As the manifest does, when it is asked for at once."""
    found = train(config(made, gate={"max_valid_ratio": 0.01}), tmp_path, quiet, activate=True)
    folder = tmp_path / "jo" / found.generation

    assert row(tmp_path).manifest.gate.overridden
    assert json.loads((folder / "report.json").read_text())["gate"]["overridden"]
    assert "made current all the same" in (folder / "report.html").read_text()


def row(store: Path) -> Listed:
    (found,) = list_adapters(store)
    return found


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
        train(config(made, max_tokens=64), tmp_path, Lines(lambda line: said.append(line) or pull_the_plug()))

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
