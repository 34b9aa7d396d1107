"""The engine's real device: a base model with slots, the rows that are being written, and a prefix cache. Imports mlx.

Made, used and closed on the engine thread alone: MLX streams belong to the thread that made them.
"""

import copy
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import mlx.core as mx

from base_model.load import load_base, projections
from errors import AdapterRefused
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.chat_template import ChatTemplate
from prompt_format.probe import PROBE_LOGITS, PROBE_TOLERANCE, probe_prompt
from service.decoding import Decoding, Row, choose
from service.engine import BaseFacts, Feeding, Job, Prefix, Token
from service.memory_budget import Budget, budget, check, host_limit
from service.memory_facts import cache_bytes_per_row, device_limit, weight_bytes, workspace_bytes
from service.pace import MOST
from service.prefix_cache import PrefixCache, RowCache
from service.sampling import Chooser
from service.slots import BASE_SLOT, RoutedModel, slot_bytes

HOTTEST = 4  # how many prompts of the old generation are computed anew for the next one
LATER = 8  # prompts whose places are computed when nobody waits
NEAR = 8  # a place to keep that is so few tokens behind one already kept is not worth a pass of its own
BASE_PROBES = 64  # contracts whose probe the base's answer is remembered for
CHUNK = 32  # tokens of the probe's prompt that are fed between two steps of rows that are being written


@dataclass
class _Prompt:
    """A prompt being fed.

    Attributes:
        at: How many of its tokens *cache* holds.
        kept: How many the prefix cache knows.
        marks: Where to stop and keep on the way, where states cannot be cut.
    """

    job: Job
    cache: RowCache
    at: int
    kept: int
    marks: tuple[int, ...]


class MlxDevice:
    """A base model in memory with *slots* adapter slots for adapters of up to *rank*.

    Args:
        prefix_bytes: How much the prefix cache may take.
        rows: How many replies are written at once at most; for the budget, as is *context*.
        context: The most tokens of a prompt and its reply together; the base's own if that is less.
        memory: Bytes that all of it may take; None: what there is.

    Raises:
        BaseRefused: If the base cannot be served.
        Refused: ``memory_budget``, if it could need more memory than it may.
    """

    def __init__(
        self, model: str, slots: int, rank: int, prefix_bytes: int, rows: int = 16, context: int = 4096,
        memory: int | None = None,
    ):  # fmt: skip
        limit = memory or device_limit() or host_limit()  # before the weights take their part of it
        base = load_base(model)
        shapes, context = projections(base.model), min(context, base.context)
        self.budget = _budget(base.model, shapes, slots + 1, rank, prefix_bytes, rows, context)
        check(self.budget, limit)
        template = ChatTemplate(base.tokenizer)
        self.facts = BaseFacts(
            base.name, base.fingerprint, template, shapes, len(base.model.layers), context, slots, rank,
            tuple(self.budget.lines(limit)),
        )  # fmt: skip
        self._model = RoutedModel(base.model, slots + 1, rank)
        base.model.eval()
        self._decoding = Decoding(self._model, frozenset(template.stop_ids), mx.default_device() != mx.cpu)
        self._prefixes = PrefixCache(prefix_bytes)
        # A rotating cache says of itself that it can be cut, but only until it has come round.
        self._can_cut = all(part.is_trimmable() and not hasattr(part, "max_size") for part in self._model.make_cache())
        self._base_probes: dict[tuple[int, ...], list[float]] = {}
        self._keys = count()
        self._later: deque[Job] = deque(maxlen=LATER)
        self._resting: Feeding | None = None

    def begin(self, job: Job) -> Feeding:
        """A prompt that is to be fed, as far as the prefix cache does not know it.

        Whoever waits for a reply does not wait for the passes that stopping at its marks would take: these are left for
        when nobody does.
        """
        cache, cached = self._prefixes.find(job.slot, job.ids)
        prompt = _Prompt(job, cache or self._model.make_cache(), cached, cached, () if job.seeds else job.marks)
        if job.seeds and not self._can_cut and job.marks and job.marks[-1] >= cached + NEAR:
            self._later.append(replace(job, ids=job.ids[: job.marks[-1]], seeds=()))
        return Feeding([next(self._keys) for _ in job.seeds], cached, len(job.ids) - cached, prompt)

    def feed(self, feeding: Feeding, tokens: int) -> None:
        """Feed so many *tokens* of a prompt; with the last one its replies join the rows that are written."""
        prompt: _Prompt = feeding.state
        end = prompt.at + tokens
        feeding.left -= tokens
        for place in self._places(prompt, end):
            if place == len(prompt.job.ids) and prompt.job.seeds:
                self._join(prompt, feeding.keys)
            else:
                chunk = mx.array([prompt.job.ids[prompt.at : place]])
                self._model.feed(chunk, prompt.cache, prompt.job.slot)
                prompt.at = place
                if place < end or not feeding.left or place in prompt.marks:
                    self._keep(prompt)

    def rest(self) -> bool:
        """A piece of what was left for when nobody waits; whether there is more."""
        if self._resting is None and self._later:
            self._resting = self.begin(self._later.pop())
        if self._resting is not None:
            self.feed(self._resting, min(CHUNK, self._resting.left))
            if not self._resting.left:
                self._resting = None
        return self._resting is not None or bool(self._later)

    def step(self) -> list[Token]:
        """One token of each row."""
        return self._decoding.step()

    def remove(self, keys: Sequence[int]) -> None:
        """Take rows out."""
        self._decoding.remove(keys)

    def stage(self, slot: int, adapter: CheckedAdapter) -> Iterator[str]:
        """Write *adapter* into *slot* and probe it, piece by piece, each named; refused, the slot is clear again.

        Raises:
            AdapterRefused: ``config_invalid`` (rank), ``probe_not_finite``, ``probe_is_base`` or ``probe_disagrees``.
        """
        if adapter.rank > self.facts.rank:
            raise AdapterRefused(
                f"rank {adapter.rank} is above this service's {self.facts.rank}: start it with --rank {adapter.rank}",
                code="config_invalid",
            )
        self._forget(slot)
        for _ in self._model.write(slot, adapter.weights, adapter.scale, adapter.modules, adapter.dora):
            yield "stage"
        yield "stage"
        ids = probe_prompt(adapter.format)
        cache = self._model.make_cache()
        *chunks, last = _chunks(ids)
        for chunk in chunks:
            self._model.feed(mx.array([chunk]), cache, slot)
            yield "warm"
        found = self._after(last, cache, slot, len(adapter.manifest.probe))
        self._prefixes.keep(slot, ids, cache, (len(ids),))
        yield "warm"
        try:
            self._check_probe(found, ids, adapter)
        except AdapterRefused:
            self._model.clear(slot)
            self._forget(slot)
            raise
        mx.clear_cache()
        yield "probe"

    def free(self, slot: int) -> None:
        """Nobody uses *slot* any more. Its weights stay until the next ones come."""
        self._forget(slot)
        mx.clear_cache()

    def hottest(self, slot: int) -> list[Prefix]:
        """The prompts that *slot* was used for last."""
        return self._prefixes.hottest(slot, HOTTEST)

    def memory(self) -> int:
        """Bytes in use and set aside."""
        return int(mx.get_active_memory() + mx.get_cache_memory())

    def close(self) -> None:
        """The thread's last act: without it the process can abort at exit."""
        del self._decoding, self._prefixes, self._model
        _end_thread()

    # -- prompts

    def _forget(self, slot: int) -> None:
        """Nothing computed in *slot* so far may be used, and nothing begun there may go on."""
        self._prefixes.drop(slot)
        self._later = deque((job for job in self._later if job.slot != slot), maxlen=LATER)
        if self._resting is not None and self._resting.state.job.slot == slot:
            self._resting = None

    def _places(self, prompt: _Prompt, end: int) -> list[int]:
        """Where to stop on the way to *end*: at each mark that is worth keeping apart, where states cannot be cut."""
        places, kept = [], prompt.kept
        for mark in () if self._can_cut else prompt.marks:
            if prompt.at < mark < end and mark - kept >= NEAR:
                places.append(mark)
                kept = mark
        return [*places, end]

    def _keep(self, prompt: _Prompt) -> None:
        job, prompt.kept = prompt.job, prompt.at
        self._prefixes.keep(job.slot, job.ids[: prompt.at], copy.deepcopy(prompt.cache), job.marks)

    def _join(self, prompt: _Prompt, keys: Sequence[int]) -> None:
        job = prompt.job
        choosers = [Chooser(job.sampling, seed, job.ids) for seed in job.seeds]
        logits = self._model.last_logits(mx.array([job.ids[prompt.at :]]), prompt.cache, [job.slot])
        tokens, logprobs = choose(choosers, mx.repeat(logits, len(choosers), axis=0), None)
        mx.eval(tokens, logprobs, [part.state for part in prompt.cache])
        prompt.at = len(job.ids)
        if job.extends or self._can_cut:
            self._keep(prompt)
        keep = partial(self._keep_reply, job) if job.extends else None
        rows = [Row(key, job.slot, job.max_tokens, chooser, keep) for key, chooser in zip(keys, choosers, strict=True)]
        self._decoding.join(rows, prompt.cache, tokens, logprobs)

    def _keep_reply(self, job: Job, cache: RowCache, tokens: list[int]) -> None:
        self._prefixes.keep(job.slot, [*job.ids, *tokens], cache, job.marks)

    # -- adapters

    def _after(self, ids: list[int], cache: RowCache, slot: int, count: int) -> list[float]:
        """The first logits, *count* or a few, after *ids* were fed to *cache*."""
        logits = self._model.last_logits(mx.array([ids]), cache, [slot])[0, : count or PROBE_LOGITS]
        values: list[float] = logits.astype(mx.float32).tolist()  # type: ignore[assignment]
        return values

    def _check_probe(self, found: list[float], ids: list[int], adapter: CheckedAdapter) -> None:
        """Refuse an adapter whose logits after *ids* are not those it was published with, or the base's."""
        if not all(math.isfinite(value) for value in found):
            raise AdapterRefused("with this adapter the model gives no finite logits", code="probe_not_finite")
        # Another pass of the base is made only where its trainer's figures leave a doubt.
        base = adapter.manifest.base_probe
        if _distance(found, base) <= PROBE_TOLERANCE and found == self._base_probe(ids, len(found)):
            raise AdapterRefused("with this adapter the model answers exactly as the base", code="probe_is_base")
        far = _distance(found, adapter.manifest.probe)
        if far > PROBE_TOLERANCE:
            raise AdapterRefused(
                f"logits differ by {far:.3f} from the trainer's: the weights do not do what was trained",
                code="probe_disagrees",
            )

    def _base_probe(self, ids: list[int], count: int) -> list[float]:
        """The base's own answer: the same for every adapter of a contract."""
        known = (count, *ids)
        if known not in self._base_probes:
            if len(self._base_probes) == BASE_PROBES:
                del self._base_probes[next(iter(self._base_probes))]
            cache = self._model.make_cache()
            *chunks, last = _chunks(ids)  # as an adapter's are, or the two would differ in their rounding
            for chunk in chunks:
                self._model.feed(mx.array([chunk]), cache, BASE_SLOT)
            self._base_probes[known] = self._after(last, cache, BASE_SLOT, count)
        return self._base_probes[known]


def open_device(**settings: Any) -> MlxDevice:
    """The device, on the thread that is to be the engine's. Raises as it does, and leaves nothing behind then."""
    try:
        return MlxDevice(**settings)
    except BaseException:
        _end_thread()
        raise


def _budget(
    model: Any, shapes: dict[str, tuple[int, int]], slots: int, rank: int, prefix_bytes: int, rows: int, context: int
) -> Budget:
    slot = slot_bytes(shapes, rank)
    return budget(
        weights=weight_bytes(model), rows=rows, context=context, row_bytes=cache_bytes_per_row(model, context),
        slots=slots, rank=rank, slot_bytes=slot, prefix_bytes=prefix_bytes,
        workspace=workspace_bytes(model, context, rows, MOST) + 2 * slot,  # and the bytes of an adapter on its way in
    )  # fmt: skip


def _chunks(ids: list[int]) -> list[list[int]]:
    """A probe's prompt as it is fed."""
    return [ids[begin : begin + CHUNK] for begin in range(0, len(ids), CHUNK)]


def _distance(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference; none where nothing is expected."""
    return max((abs(a - b) for a, b in zip(found, expected, strict=False)), default=0.0)


def _end_thread() -> None:
    """A thread that used MLX ends so, or the process can abort at exit."""
    mx.synchronize()
    mx.clear_streams()
