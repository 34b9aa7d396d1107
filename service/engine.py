"""The engine: one thread that owns everything MLX. Prompts go in, tokens come out, adapters change while it talks.

``Engine`` is what the event loop holds: it puts jobs and commands into a queue and gets plain Python values back. It
knows nothing of HTTP, names or generations: only of slots. Any exception in its thread fails what is in flight and
stops it for good (fail-stop): the process ends and its supervisor starts it anew.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from errors import NotReady, SamevoiceError
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.chat_template import ChatTemplate
from service.choice import Sampling

log = logging.getLogger("samevoice.engine")


@dataclass(frozen=True)
class BaseFacts:
    """What the rest of the service needs to know of the base model, without mlx."""

    name: str
    fingerprint: str
    template: ChatTemplate
    shapes: dict[str, tuple[int, int]]
    blocks: int
    context: int
    slots: int
    rank: int


@dataclass(frozen=True)
class Row:
    """One reply to write: *slot* says with which adapter."""

    ids: list[int]
    slot: int
    max_tokens: int
    sampling: Sampling
    seed: int


@dataclass
class Written:
    """A finished row: its tokens without the one that ended it.

    Attributes:
        finish_reason: ``stop`` or ``length``.
        logprob: Sum over the tokens, in nats, the ending one included.
        queued_s, prefill_s, decode_s: Durations.
    """

    tokens: list[int] = field(default_factory=list)
    finish_reason: str = "length"
    logprob: float = 0.0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Device(Protocol):
    """What runs on the engine thread. ``service/mlx_device.py`` is the real one; tests have their own."""

    facts: BaseFacts

    def insert(self, row: Row) -> int: ...
    def remove(self, keys: Sequence[int]) -> None: ...
    def step(self) -> list["Token"]: ...
    def stage(self, slot: int, adapter: CheckedAdapter) -> None: ...
    def clear(self, slot: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Token:
    """One token of one row; *end* is set on the last."""

    key: int
    token: int
    logprob: float
    end: str | None


@dataclass
class _Job:
    row: Row
    future: "Future[Written]"
    put_at: float
    inserted_at: float = 0.0
    first_at: float = 0.0
    written: Written = field(default_factory=Written)


@dataclass
class _Call:
    """A piece of work for the device between two steps, and who waits for it."""

    work: Callable[[Device], None]
    done: "Future[None]"

    def run(self, device: Device) -> None:
        """Do it. An error of ours is the caller's alone; any other means the device is broken."""
        try:
            self.work(device)
        except SamevoiceError as error:
            _settle(self.done, error=error)
        else:
            _settle(self.done, None)


class Engine:
    """A handle on the engine thread. ``start`` it, await ``write`` and ``stage``, ``stop`` it."""

    def __init__(self, open_device: Callable[[], Device], rows: int = 16):
        self._open, self._rows = open_device, rows
        self._inbox: queue.SimpleQueue[_Call | _Job | None] = queue.SimpleQueue()
        self._jobs: dict[int, _Job] = {}
        self._waiting: list[_Job] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._opened: Future[BaseFacts] = Future()
        self._calling: _Call | None = None
        self._gate = threading.Lock()  # what is put in before failure or stop is answered, what comes later refused
        self._stopping = False
        self.failure: str | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def start(self) -> "Future[BaseFacts]":
        """Load the base model on the engine thread, once; the future gives its facts or the error."""
        if self._thread.ident is None:
            self._thread.start()
        return self._opened

    async def write(self, row: Row) -> Written:
        """The reply to one row. Cancelling this takes the row out of the batch.

        Raises:
            NotReady: If the engine has failed or is stopping.
        """
        job = _Job(row, _promise(), time.monotonic())
        self._put(job)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._inbox.put(_Call(lambda device: self._drop(device, job), _promise()))
            raise

    async def stage(self, slot: int, adapter: CheckedAdapter) -> None:
        """Write a checked adapter into a free slot and probe it.

        Raises:
            AdapterRefused: If the probe says it is not what was trained; the slot is clear again then.
            NotReady: If the engine has failed or is stopping.
        """
        await self._call(lambda device: device.stage(slot, adapter))

    async def clear(self, slot: int) -> None:
        """Make a slot the base again. Raises as ``stage`` does."""
        await self._call(lambda device: device.clear(slot))

    def stop(self) -> None:
        """End the thread: what is in flight fails with NotReady. Returns when it has ended."""
        with self._gate:
            self._stopping = True
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    async def _call(self, work: Callable[[Device], None]) -> None:
        call = _Call(work, _promise())
        self._put(call)
        await asyncio.wrap_future(call.done)

    def _put(self, item: _Call | _Job) -> None:
        with self._gate:
            self._check_alive()
            self._inbox.put(item)

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise NotReady(
                "the engine has failed and the service is ending: it will be started anew", code="engine_error"
            )
        if self._stopping:
            raise NotReady("the service is shutting down", code="shutting_down")

    # -- on the engine thread

    def _run(self) -> None:
        try:
            device = self._open()
        except BaseException as error:  # noqa: BLE001  whatever it was, the one who waits must be told
            self._opened.set_exception(error)
            return
        self._opened.set_result(device.facts)
        try:
            while self._take_in(device):
                self._fill(device)
                for token in device.step() if self._jobs else []:
                    self._hand_out(token)
        except Exception as error:  # noqa: BLE001
            # Fail-stop, whatever it was: after an MLX error nothing on the device can be trusted.
            with self._gate:
                self.failure = type(error).__name__
            log.error("engine failed: %s", self.failure)
            self.on_failure()
        finally:
            self._fail_all()
            device.close()

    def _take_in(self, device: Device) -> bool:
        """Take in what has come; wait when there is nothing to do. False when told to stop."""
        while True:
            try:
                item = self._inbox.get(block=not self._jobs and not self._waiting)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, _Job):
                self._waiting.append(item)
            else:
                self._calling = item
                item.run(device)
                self._calling = None

    def _fill(self, device: Device) -> None:
        while self._waiting and len(self._jobs) < self._rows:
            job = self._waiting[0]
            job.inserted_at = time.monotonic()
            self._jobs[device.insert(job.row)] = job
            self._waiting.pop(0)  # not before: where the device breaks, the job must be found and failed

    def _hand_out(self, token: Token) -> None:
        job = self._jobs[token.key]
        if not math.isfinite(token.logprob):
            raise ArithmeticError("logits are not finite")
        now = time.monotonic()
        job.first_at = job.first_at or now
        job.written.logprob += token.logprob
        if token.end != "stop":
            job.written.tokens.append(token.token)
        if token.end is not None:
            del self._jobs[token.key]
            written = job.written
            written.finish_reason = token.end
            written.queued_s = job.inserted_at - job.put_at
            written.prefill_s = job.first_at - job.inserted_at
            written.decode_s = now - job.first_at
            _settle(job.future, written)

    def _drop(self, device: Device, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        keys = [key for key, other in self._jobs.items() if other is job]
        device.remove(keys)
        for key in keys:
            del self._jobs[key]

    def _fail_all(self) -> None:
        error = NotReady("the engine has stopped before the reply was written", code="engine_error")
        if self.failure is None:
            error = NotReady("the service is shutting down", code="shutting_down")
        left: list[Future[Any]] = [job.future for job in (*self._jobs.values(), *self._waiting)]
        if self._calling is not None:
            left.append(self._calling.done)
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None:
                left.append(item.future if isinstance(item, _Job) else item.done)
        for future in left:
            _settle(future, error=error)


def _promise() -> "Future[Any]":
    """A future that only this module settles: who waits may leave, but not cancel it under the engine's hands."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: "Future[Any]", result: Any = None, error: SamevoiceError | None = None) -> None:
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
