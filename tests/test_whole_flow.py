"""From history to reply, on the real starter: build, serve, train, reload, and the replies before and after.

The table of contents that executes: each step is the call its command makes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from base_model.resolve import STARTER
from base_model.tokenizer import load_tokenizer
from prompt_format.chat_template import ChatTemplate
from service.app import create_app, with_doors
from service.engine import Engine
from service.mlx_device import MlxDevice
from service.settings import Settings
from training.chosen import choose
from training.config import TrainConfig
from training.conversations import read_history
from training.dataset import build
from training.history import import_messages
from training.plan import Plan
from training.rows import load_dataset
from training.sources.options import Options
from training.train import train
from training.watch import Silent

HOST = "127.0.0.1:8000"
VARIANT = "raw_style_variable"


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """A part of the example's history, imported."""
    lines = Path("data/example/messages.jsonl").read_text().splitlines()
    some = [line for line in lines if json.loads(line)["thread_id"] == "theo"][:160]
    (tmp_path / "export.jsonl").write_text("\n".join(some))
    import_messages("jsonl", tmp_path / "export.jsonl", Options(), tmp_path / "messages.jsonl")
    return tmp_path / "messages.jsonl"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """The service on an empty store, with the starter in memory."""
    settings = Settings(adapters=tmp_path / "adapters")
    app = create_app(settings, Engine(lambda: MlxDevice(str(STARTER), slots=2, rank=16, prefix_bytes=2**26, rows=4)))
    with TestClient(with_doors(app, [HOST], None), base_url=f"http://{HOST}") as running:
        yield running


def test_history_becomes_a_voice_while_the_service_runs(tmp_path: Path, messages: Path, client: TestClient) -> None:
    """The same thread is answered by the base, then by what was trained meanwhile; the prompt is the row's prompt."""
    template = ChatTemplate(load_tokenizer(STARTER))
    history, plan = read_history([messages]), Plan("Jo", [VARIANT])
    build(history, template, tmp_path, plan)
    dataset = load_dataset(tmp_path / VARIANT, template, 512)
    (context, _), example = next(choose(history, plan).pairs("test")), dataset.splits["test"][0]
    thread = {
        "messages": [
            {"from_me": m.from_me, "text": m.text, "sender": m.sender, "sent_at": m.sent_at.isoformat()}
            for m in context.messages
            if m.sent_at
        ],
        "temperature": 0,
    }

    before = client.post("/reply", json=thread).json()
    config = TrainConfig(
        name="jo", model=str(STARTER), data=tmp_path / VARIANT, iters=3, batch_size=4, rank=4, learning_rate=2e-3
    )
    published = train(config, tmp_path / "adapters", Silent(), activate=True)
    assert published is not None
    (loaded,) = client.post("/adapters/reload", json={"name": "jo"}).json()["results"]
    after = client.post("/reply", json=thread).json()
    prompt = client.post("/prompt", json=thread).json()

    assert {"name": "base", "generation": None} == before["adapter"]
    assert ("loaded", published.generation) == (loaded["status"], loaded["generation"])
    assert {"name": "jo", "generation": published.generation} == after["adapter"]
    assert example.ids[: example.reply_start] == prompt["ids"]
    assert dataset.format.contract.digest == after["contract"] == prompt["contract"]
