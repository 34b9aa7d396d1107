"""What a reply must be: a base with adapters, what plain mlx-lm writes with each, and the service's device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

from prompt_format.adapter_check import CheckedAdapter, covered_modules
from prompt_format.format import format_for
from prompt_format.manifest import CONFIG, WEIGHTS
from prompt_format.probe import PROBE_LOGITS, probe_prompt
from service.choice import Sampling
from service.engine import BaseFacts, Feeding, Job, Token
from service.mlx_device import MlxDevice
from service.sampling import Chooser
from tests.fakes import checked, make_candidate, make_weights
from training.publish import publish

PATIENCE = 60
GREEDY = Sampling(temperature=0)
LENGTH = 12
CHUNK = 16  # tokens of a prompt between two steps
PREFIX_BYTES = 1 << 24


@cache
def plain(folder: Path, adapter: Path | None = None) -> Any:
    """mlx-lm's own model, with *adapter* loaded by mlx-lm itself."""
    model, _ = load_model(folder)
    if adapter is not None:
        load_adapters(model, str(adapter))
    model.eval()
    return model


@dataclass
class World:
    """A base model and a store with adapters for it.

    Attributes:
        adapters: By what the test calls them: a name may have several generations.
    """

    folder: Path
    store: Path
    facts: BaseFacts
    adapters: dict[str, CheckedAdapter] = field(default_factory=dict)
    known: dict[tuple[str, tuple[int, ...], Sampling, int], list[int]] = field(default_factory=dict)

    def publish(
        self,
        called: str,
        rank: int,
        keys: Sequence[str],
        weights: Mapping[str, np.ndarray] | None = None,
        name: str | None = None,
        **more: Any,
    ) -> None:
        """An adapter, strong and random unless *weights* are given, with the probe that its trainer would measure."""
        name, base = name or called, self.facts
        if weights is None:
            modules = covered_modules(base.shapes, base.blocks, list(keys), base.blocks)
            weights = make_weights(rank, modules, len(name), base.shapes, spread=0.3)
        what = {"base": base, "rank": rank, "keys": keys, "weights": weights, **more}
        candidate = make_candidate(name, **what)
        trained = self.store.parent / f"trained-{called}"
        trained.mkdir()
        (trained / WEIGHTS).write_bytes(candidate.weights)
        (trained / CONFIG).write_bytes(candidate.config)
        ids = probe_prompt(format_for(base.template, candidate.contract))
        probe = plain(self.folder, trained)(mx.array([ids]))[0, -1, :PROBE_LOGITS].tolist()
        generation = publish(self.store, make_candidate(name, probe=probe, **what), True)
        self.adapters[called] = checked(self.store, name, generation, base)

    def reference(self, called: str) -> Any:
        """mlx-lm's own model with that adapter; ``base`` is without one."""
        adapter = self.adapters.get(called)
        return plain(self.folder, self.store / adapter.name / adapter.generation if adapter else None)

    def alone(
        self, called: str, ids: Sequence[int], length: int = LENGTH, sampling: Sampling = GREEDY, seed: int = 0
    ) -> list[int]:
        """The tokens after *ids* as plain mlx-lm writes them, up to the end of the turn."""
        asked = (called, tuple(ids), sampling, seed)
        if length > len(self.known.get(asked, [])):
            chooser = Chooser(sampling, seed, ids)
            steps = generate_step(mx.array(list(ids)), self.reference(called), max_tokens=length, sampler=chooser)
            self.known[asked] = [int(token) for token, _ in steps]
        tokens = self.known[asked][:length]
        return tokens[: next((at for at, token in enumerate(tokens) if token in self.facts.template.stop_ids), length)]

    def lead(self, called: str, ids: Sequence[int]) -> float:
        """By how much plain mlx-lm's likeliest token after *ids* leads the next, in nats."""
        logits = mx.sort(self.reference(called)(mx.array([list(ids)]))[0, -1])
        return float((logits[-1] - logits[-2]).item())


class OnThread:
    """A device used from a test: every call is made on a thread that is the device's alone, and ends with it.

    Attributes:
        written: By row, its tokens without the one that ended it.
    """

    def __init__(self, folder: Path, slots: int = 3, rank: int = 8, ahead: bool = False):
        self.thread = ThreadPoolExecutor(1)
        self.device: MlxDevice = self.call(MlxDevice, str(folder), slots, rank, PREFIX_BYTES)
        self.device._decoding.ahead = ahead  # as on a GPU, whatever this machine has
        self.written: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}
        self.logprobs: dict[int, float] = {}

    def __enter__(self) -> "OnThread":
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.device.close)
        self.thread.shutdown()

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return self.thread.submit(work, *arguments).result(PATIENCE)

    def begin(self, job: Job) -> Feeding:
        feeding: Feeding = self.call(self.device.begin, job)
        return feeding

    def feed(self, feeding: Feeding, tokens: int) -> None:
        """Feed as many *tokens* as there are; with the last, the rows are written."""
        self.call(self.device.feed, feeding, min(tokens, feeding.left))
        if not feeding.left:
            for key in feeding.keys:
                self.written[key], self.logprobs[key] = [], 0.0

    def ask(self, job: Job, chunk: int = CHUNK) -> Feeding:
        """Feed the whole prompt of *job*, with a step for the other rows after each *chunk*."""
        feeding = self.begin(job)
        while feeding.left:
            self.feed(feeding, chunk)
            if feeding.left:
                self.step()
        return feeding

    def insert(
        self, ids: Sequence[int], slot: int, sampling: Sampling = GREEDY, seed: int = 0, length: int = LENGTH
    ) -> int:
        """One reply; returns its row."""
        return self.ask(Job(list(ids), slot, (seed,), length, sampling)).keys[0]

    def stage(self, slot: int, adapter: CheckedAdapter) -> list[str]:
        """The names of its pieces."""
        return self.call(lambda: list(self.device.stage(slot, adapter)))  # type: ignore[no-any-return]

    def stage_piecewise(self, slot: int, adapter: CheckedAdapter) -> Iterator[None]:
        """One piece each time the caller asks for one."""
        pieces = self.call(self.device.stage, slot, adapter)
        while self.call(next, pieces, None) is not None:
            yield

    def remove(self, *keys: int) -> None:
        self.call(self.device.remove, keys)
        for key in keys:
            del self.written[key]

    def step(self) -> list[Token]:
        tokens: list[Token] = self.call(self.device.step)
        for token in tokens:
            self.logprobs[token.key] += token.logprob
            if token.end != "stop":
                self.written[token.key].append(token.token)
            if token.end is not None:
                self.ends[token.key] = token.end
        return tokens

    @property
    def unfinished(self) -> list[int]:
        return [key for key in self.written if key not in self.ends]

    def finish(self, rest: bool = True) -> None:
        """Until every row has ended and, with *rest*, nothing is left to do."""
        for _ in range(5000):
            if not self.unfinished:
                while rest and self.call(self.device.rest):
                    pass
                return
            self.step()
        raise AssertionError("rows that never end")
