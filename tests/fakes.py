"""What tests use in place of MLX: a device with scripted tokens, and small adapters that are real in every other way.

``FakeDevice`` follows ``service.engine.Device``. A row that is not scripted writes the generation that stands in its
slot, one letter a step, each read from the slot at that step: a reply that mixes generations shows it. ``make_adapter``
publishes through ``training.publish``, so files, manifest and digests are the real ones.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save
from starlette.testclient import TestClient

from errors import AdapterRefused
from prompt_format.adapter_check import (
    AdapterConfig,
    CheckedAdapter,
    LoraParameters,
    check_adapter,
    config_json,
    covered_modules,
    expected_tensors,
)
from prompt_format.adapter_store import AdapterFiles, read_generation
from prompt_format.format import PromptFormat
from prompt_format.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    BaseIdentity,
    Data,
    Gate,
    Lora,
    Training,
    file_entry,
    generation_of,
    read_manifest,
)
from prompt_format.persona import Persona
from prompt_format.window import Window
from service.app import create_app, with_doors
from service.engine import BaseFacts, Device, Engine, Feeding, Job, Prefix, Token
from service.settings import Settings
from tests.toy_tokenizers import chat_template
from training.publish import Candidate, point_to, publish

KEYS = ("mlp.up_proj", "self_attn.q_proj")
BLOCKS = 2
SHAPES = {
    f"model.layers.{block}.{key}": (6, 6) if "q_proj" in key else (6, 10) for block in range(BLOCKS) for key in KEYS
}
HOST = "127.0.0.1:8000"
PATIENCE = 20  # seconds until a test that hangs fails
TOKEN = "a-token-of-invented-letters-0123"


def facts(slots: int = 3, rank: int = 4) -> BaseFacts:
    """A small base model, as an engine would describe it."""
    return BaseFacts("toy", "sha256:" + "b" * 64, chat_template("chatml"), SHAPES, BLOCKS, 8000, slots, rank)


class FakeDevice:
    """A device without MLX.

    Attributes:
        jobs: Every job that was begun, in order; each that is to write replies is handed out through
            ``inserted`` when its prompt has been fed.
        fed: How many tokens each chunk of a prompt had.
        slots: What stands in each slot.
        removed: Keys of rows that were taken out before their end.
        freed: Slots that were given back, in order.
        warm: Slot -> what it says of the prompts that it used last.
        raises: Name of a method -> what it raises from now on.
        logprob: Of every token.
        cached: How many tokens of every prompt it says it knows already.
        pieces: How many pieces a staging has before the probe.
        did: What it did, in order: ``begin``, ``feed``, ``step`` (if it gave tokens), ``remove`` (if there was
            anything), ``stage`` (a piece), ``free``.
        going: While it is clear, ``step`` gives no token.
        steps_left: After so many steps ``going`` is cleared; None: never.
        staging: While it is clear, ``stage`` does not return; each call is told to ``staged`` first.
        feeding: While it is clear, ``feed`` does not return; each call is told to ``chunks`` first.
    """

    def __init__(self, base: BaseFacts | None = None):
        self.facts = base or facts()
        self.jobs: list[Job] = []
        self.fed: list[int] = []
        self.slots: dict[int, CheckedAdapter] = {}
        self.removed: list[int] = []
        self.freed: list[int] = []
        self.warm: dict[int, list[Prefix]] = {}
        self.raises: dict[str, BaseException] = {}
        self.logprob = -0.5
        self.cached, self.pieces = 0, 1
        self.steps_left: int | None = None
        self.did: list[str] = []
        self.closed = False
        self.inserted: SimpleQueue[Job] = SimpleQueue()
        self.staged: SimpleQueue[int] = SimpleQueue()
        self.chunks: SimpleQueue[int] = SimpleQueue()
        self.going, self.staging, self.feeding = threading.Event(), threading.Event(), threading.Event()
        self.let_go()
        self._scripts: list[list[int]] = []
        self._keys = count()
        self._running: dict[int, tuple[Job, list[int] | None, int]] = {}

    @property
    def requests(self) -> list[Job]:
        """The jobs that were to write replies, in order."""
        return [job for job in self.jobs if job.seeds]

    @property
    def idle(self) -> bool:
        """No reply is being written."""
        return not self._running

    def let_go(self) -> None:
        """Nothing is held up any more."""
        self.steps_left = None
        for held in (self.going, self.staging, self.feeding):
            held.set()

    def enqueue(self, *texts: str) -> None:
        """The next rows write *texts*, whatever their slots hold."""
        self._scripts += [self.facts.template.encode_reply(text) for text in texts]

    def begin(self, job: Job) -> Feeding:
        self._maybe_raise("begin")
        self.did.append("begin")
        self.jobs.append(job)
        return Feeding([next(self._keys) for _ in job.seeds], self.cached, len(job.ids) - self.cached, job)

    def feed(self, feeding: Feeding, tokens: int) -> None:
        self.chunks.put(tokens)
        assert self.feeding.wait(20)
        self._maybe_raise("feed")
        self.did.append("feed")
        self.fed.append(tokens)
        feeding.left -= tokens
        if not feeding.left:
            for key in feeding.keys:
                self._running[key] = (feeding.state, self._scripts.pop(0) if self._scripts else None, 0)
            if feeding.keys:
                self.inserted.put(feeding.state)

    def remove(self, keys: Sequence[int]) -> None:
        self.did += ["remove"] * bool(keys)
        for key in keys:
            del self._running[key]
            self.removed.append(key)

    def step(self) -> list[Token]:
        if not self.going.wait(0.001):
            return []
        self._maybe_raise("step")
        tokens = []
        for key, (job, script, done) in list(self._running.items()):
            ids = script if script is not None else self._reply_of(job.slot)
            end = "stop" if done == len(ids) - 1 else "length" if done == job.max_tokens - 1 else None
            tokens.append(Token(key, ids[done], self.logprob, end))
            self._running[key] = (job, script, done + 1)
            if end:
                del self._running[key]
        self.did += ["step"] * bool(tokens)
        if tokens and self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left == 0:
                self.going.clear()
        return tokens

    def stage(self, slot: int, adapter: CheckedAdapter) -> Iterator[str]:
        self.staged.put(slot)
        assert self.staging.wait(20)
        self._maybe_raise("stage")
        if adapter.rank > self.facts.rank:
            raise AdapterRefused(f"rank {adapter.rank} is above this service's", code="config_invalid")
        for _ in range(self.pieces):
            self.did.append("stage")
            yield "stage"
        self.slots[slot] = adapter
        yield "probe"

    def free(self, slot: int) -> None:
        self._maybe_raise("free")
        self.did.append("free")
        self.freed.append(slot)
        self.slots.pop(slot, None)

    def hottest(self, slot: int) -> list[Prefix]:
        return self.warm.get(slot, [])

    def rest(self) -> bool:
        return False

    def memory(self) -> int:
        return 1000 * len(self.slots)

    def close(self) -> None:
        self.closed = True

    def _reply_of(self, slot: int) -> list[int]:
        return self.facts.template.encode_reply(self.slots[slot].generation if slot else "written by the base")

    def _maybe_raise(self, method: str) -> None:
        if method in self.raises:
            raise self.raises[method]


# -- an engine around it


@asynccontextmanager
async def running(device: FakeDevice, rows: int = 16) -> AsyncIterator[Engine]:
    """An engine that has started; whatever the test held up is let go at the end."""
    engine = Engine(lambda: device, rows)
    await asyncio.wrap_future(engine.start())
    try:
        yield engine
    finally:
        device.let_go()
        await asyncio.to_thread(engine.stop)


def scenario(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run *work* on an event loop, but never for ever."""

    async def limited() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await work()

    return asyncio.run(limited())


async def begun(device: FakeDevice) -> Job:
    """The next job whose prompt has been fed: its replies are being written."""
    return await asyncio.to_thread(device.inserted.get, timeout=PATIENCE)


async def staging(device: FakeDevice) -> int:
    """The next slot whose staging has begun."""
    return await asyncio.to_thread(device.staged.get, timeout=PATIENCE)


# -- adapters


def make_weights(
    rank: int,
    modules: Sequence[str] = tuple(SHAPES),
    seed: int = 0,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    spread: float = 0.1,
    kind: str = "lora",
) -> dict[str, np.ndarray]:
    """Random factors for *modules*; with *kind* dora, lengths too, which are positive as those of any row."""
    random = np.random.default_rng(seed)
    expected = expected_tensors(tuple(modules), shapes, rank, kind)
    return {
        name: (random.uniform(0.5, 2, shape) if name.endswith(".m") else random.normal(0, spread, shape)).astype(
            np.float32
        )
        for name, shape in expected.items()
    }


def make_candidate(
    name: str = "jo",
    *,
    base: BaseFacts | None = None,
    seed: int = 0,
    rank: int = 2,
    scale: float = 2.0,
    keys: Sequence[str] = KEYS,
    num_layers: int | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    probe: Sequence[float] = (0.5, -0.5),
    variant: str = "raw_style",
    persona: str = "Jo",
    metrics: Mapping[str, float] | None = None,
    kind: Literal["lora", "dora"] = "lora",
) -> Candidate:
    """Everything a small valid generation is made of; another *seed* is another generation."""
    base = base or facts()
    num_layers = num_layers or base.blocks
    modules = covered_modules(base.shapes, num_layers, list(keys), base.blocks)
    parameters = LoraParameters(rank=rank, scale=scale, dropout=0.0, keys=list(keys))
    config = AdapterConfig(fine_tune_type=kind, num_layers=num_layers, lora_parameters=parameters, model="toy")
    form = PromptFormat(base.template, variant, Persona(name=persona), Window(turns=4, characters=600, tokens=4000))
    return Candidate(
        name,
        save(dict(weights or make_weights(rank, modules, seed, base.shapes, kind=kind))),
        config_json(config),
        BaseIdentity(id=base.name[:300], fingerprint=base.fingerprint),
        form.contract,
        Lora(type=kind, rank=rank, scale=scale, modules=modules),
        Data(digest="sha256:0", counts={"train": 2, "valid": 1, "test": 1}),
        Training(config={"seed": seed}, steps=1, tokens=8, seed=seed, versions={}),
        dict(metrics or {"valid_loss": 1.0}),
        list(probe),
        Gate(passed=True),
    )


def make_adapter(store: Path, name: str = "jo", *, activate: bool = True, **what: Any) -> str:
    """Publish a small valid generation to *store* and return it; *what* is ``make_candidate``'s."""
    return publish(store, make_candidate(name, **what), activate)


def checked(store: Path, name: str, generation: str, base: BaseFacts | None = None) -> CheckedAdapter:
    """A published generation, read and checked."""
    return checked_files(read_generation(store, name, generation), name, generation, base)


def checked_files(files: AdapterFiles, name: str, generation: str, base: BaseFacts | None = None) -> CheckedAdapter:
    """As the service checks them."""
    base = base or facts()
    return check_adapter(files, name, generation, base.fingerprint, base.template, base.shapes, base.blocks)


def altered(
    files: AdapterFiles,
    *,
    weights: bytes | None = None,
    config: bytes | None = None,
    manifest: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[AdapterFiles, str]:
    """*files* as a hostile publisher would write them, and their generation.

    The manifest tells the truth about the new *weights* and *config*; then *manifest* may change it, and what is
    still valid is signed anew.
    """
    assert files.manifest is not None
    weights, config = weights or files.weights, config or files.config
    document = json.loads(files.manifest)
    document["files"] = {WEIGHTS: file_entry(weights).model_dump(), CONFIG: file_entry(config).model_dump()}
    if manifest is not None:
        manifest(document)
    signed = read_manifest(json.dumps(document).encode())
    document["generation"] = generation_of(signed.files[WEIGHTS].sha256, signed.files[CONFIG].sha256, signed.contract)
    return AdapterFiles(weights, config, json.dumps(document).encode()), document["generation"]


def publish_altered(store: Path, name: str, generation: str, **changes: Any) -> str:
    """Put an ``altered`` generation into *store* as the current one and return it.

    Where nothing changed that the generation's number covers, it takes the place of the old one.
    """
    files, made = altered(read_generation(store, name, generation), **changes)
    folder = store / name / made
    folder.mkdir(mode=0o700, exist_ok=True)
    for file, data in ((WEIGHTS, files.weights), (CONFIG, files.config), (MANIFEST, files.manifest)):
        assert data is not None
        write(folder / file, data)
    point_to(store, name, made)
    return made


def write(path: Path, data: bytes) -> None:
    """A file only its owner may write."""
    path.write_bytes(data)
    path.chmod(0o600)


# -- the service around them


def asked(**what: Any) -> dict[str, Any]:
    """The body of a request that is answered."""
    return {"messages": [{"from_me": False, "text": "are you coming tonight?"}], **what}


@contextmanager
def served(store: Path, device: Device, token: str | None = TOKEN, **settings: Any) -> Iterator[TestClient]:
    """The whole service but for MLX and uvicorn, behind its real doors; the client knows the token."""
    resolved = Settings(adapters=store, **settings)
    engine = Engine(lambda: device, resolved.rows)
    app = with_doors(create_app(resolved, engine), [HOST], token)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with TestClient(app, base_url=f"http://{HOST}", headers=headers, follow_redirects=False) as client:
        yield client
