"""The engine: one thread that owns everything MLX. Prompts go in, tokens come out, adapters change while it talks.

``Engine`` is what the event loop holds: it puts jobs and commands into a queue and gets plain Python values back. It
knows nothing of HTTP, names or generations: only of slots. Each turn of its thread does a piece of a command, feeds a
chunk of a prompt, and takes one step with every row that is being written, so that none of the three waits long for
another. Any exception in the thread fails what is in flight and stops it for good (fail-stop): the process ends and
its supervisor starts it anew.
"""

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Protocol

from errors import NotReady, SamevoiceError
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.chat_template import ChatTemplate
from service.choice import Sampling
from service.fair_queue import FairQueue
from service.pace import Pace, chunk

log = logging.getLogger("samevoice.engine")

WARMING = "(warming)"  # the group of prompts that are fed ahead of any request: no adapter can be called so
LEAVE_S = 3.0  # how long a thread that is told to end is waited for; one that hangs is left behind


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
    budget: tuple[str, ...] = ()  # what it will need in memory at most, for people to read


@dataclass(frozen=True)
class Job:
    """One prompt, and the replies to write to it: one for each seed, all from one prefill.

    Attributes:
        slot: With which adapter.
        seeds: None at all only leaves the prompt in the prefix cache.
        marks: Places in *ids* up to which other prompts may be the same: what the prefix cache keeps.
        extends: A later prompt may begin with this one and its reply.
        group: Whose turn it is to wait or be served: jobs of one group wait for each other.
    """

    ids: list[int]
    slot: int
    seeds: tuple[int, ...] = ()
    max_tokens: int = 64
    sampling: Sampling = Sampling()
    marks: tuple[int, ...] = ()
    extends: bool = False
    group: str = "base"


@dataclass
class Reply:
    """A finished reply: its tokens without the one that ended it.

    Attributes:
        logprobs: Of each token in nats, that of the ending one last.
        finish_reason: ``stop`` or ``length``.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "length"


@dataclass
class Written:
    """What came of a job, in the order of its seeds; durations in seconds."""

    replies: list[Reply]
    cached_tokens: int = 0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass
class Feeding:
    """A prompt on its way into the model, as the device tells of it.

    Attributes:
        keys: The rows that will write its replies.
        cached: How many of its tokens came from the prefix cache.
        left: How many are still to be fed.
        state: The device's own.
    """

    keys: list[int]
    cached: int
    left: int
    state: Any = None


@dataclass(frozen=True)
class Token:
    """One token of one row; *end* is set on the last."""

    key: int
    token: int
    logprob: float
    end: str | None


Prefix = tuple[list[int], tuple[int, ...]]  # the ids of a prompt, and its marks


class Device(Protocol):
    """What runs on the engine thread. ``service/mlx_device.py`` is the real one; tests have their own."""

    facts: BaseFacts

    def begin(self, job: Job) -> Feeding: ...
    def feed(self, feeding: Feeding, tokens: int) -> None: ...
    def step(self) -> list[Token]: ...
    def remove(self, keys: Sequence[int]) -> None: ...
    def stage(self, slot: int, adapter: CheckedAdapter) -> Iterator[str]: ...
    def free(self, slot: int) -> None: ...
    def hottest(self, slot: int) -> list[Prefix]: ...
    def memory(self) -> int: ...
    def rest(self) -> bool: ...
    def close(self) -> None: ...


@dataclass(eq=False)
class _Asked:
    """A job and who waits for it."""

    job: Job
    future: "Future[Written]"
    on_token: Callable[[int, int], None] | None
    put_at: float
    written: Written
    begun_at: float = 0.0
    first_at: float = 0.0
    feeding: Feeding | None = None
    unfinished: int = 0

    @property
    def group(self) -> str:
        return self.job.group


@dataclass
class _Call:
    """A piece of work for the device between two steps, and who waits for it.

    An iterator as its result is work that is done piece by piece, one piece a turn.
    """

    work: Callable[[Device], Any]
    done: "Future[Any]"
    pieces: Iterator[Any] | None = None

    def go_on(self, device: Device) -> bool:
        """Do the next piece; True when that was the last. An error of ours is the caller's alone; any other means
        that the device is broken.
        """
        try:
            if self.pieces is None:
                result = self.work(device)
                if not isinstance(result, Iterator):
                    _settle(self.done, result)
                    return True
                self.pieces = result
            next(self.pieces)
            return False
        except StopIteration as end:
            _settle(self.done, end.value)
        except SamevoiceError as error:
            _settle(self.done, error=error)
        return True


@dataclass(frozen=True)
class _Left:
    """Nobody waits for this job any more."""

    asked: _Asked


class Engine:
    """A handle on the engine thread. ``start`` it, await ``write`` and ``stage``, ``stop`` it.

    Args:
        rows: How many replies are written at once.
    """

    def __init__(self, open_device: Callable[[], Device], rows: int = 16):
        self._open, self._rows = open_device, rows
        self._inbox: queue.SimpleQueue[_Call | _Asked | _Left | None] = queue.SimpleQueue()
        self._waiting: FairQueue[_Asked] = FairQueue()
        self._fed: _Asked | None = None  # whose prompt is being fed
        self._writing: dict[int, tuple[_Asked, int]] = {}  # row -> the job, and which of its replies
        self._calls: deque[_Call] = deque()
        self._left: list[_Asked] = []
        self._pace = Pace()
        self._resting = False  # whether the device has left something for when nobody waits
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._opened: Future[BaseFacts] = Future()
        self._gate = threading.Lock()  # what is put in before failure or stop is answered, what comes later refused
        self._unanswered: set[Future[Any]] = set()  # what somebody may be waiting for
        self._draining = self._stopping = False
        self._beat: float | None = None  # when the thread last got something done; None: it waits for work
        self._delivered = -math.inf
        self.failure: str | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def start(self) -> "Future[BaseFacts]":
        """Load the base model on the engine thread, once; the future gives its facts or the error."""
        if self._thread.ident is None:
            self._thread.start()
        return self._opened

    async def write(self, job: Job, on_token: Callable[[int, int], None] | None = None) -> Written:
        """The replies to one prompt. Cancelling this takes it out, wherever it is.

        Args:
            on_token: Called on this event loop with (which reply, token id) for each token but the ending one.

        Raises:
            NotReady: If the engine has failed or is stopping.
        """
        heard = on_token and _on_loop(on_token)
        asked = _Asked(job, _promise(), heard, time.monotonic(), Written([Reply() for _ in job.seeds]))
        self._put(asked)
        try:
            return await asyncio.wrap_future(asked.future)
        except asyncio.CancelledError:
            self._inbox.put(_Left(asked))
            raise

    async def stage(self, slot: int, adapter: CheckedAdapter) -> dict[str, float]:
        """Write a checked adapter into a free slot and probe it; returns the milliseconds that each took.

        Raises:
            AdapterRefused: If the probe says it is not what was trained; the slot is clear again then.
            NotReady: If the engine has failed or is stopping.
        """
        return await self._call(lambda device: _timed(device.stage(slot, adapter)))  # type: ignore[no-any-return]

    async def warm(self, slot: int, prompts: Sequence[Prefix], like: int | None = None) -> None:
        """Put *prompts* into the prefix cache of *slot*, and those that slot *like* used last. Raises as ``write``."""
        hottest = [] if like is None else await self._call(lambda device: device.hottest(like))
        for ids, marks in (*prompts, *hottest):
            await self.write(Job(ids, slot, marks=marks, group=WARMING))

    def free(self, slot: int) -> None:
        """Nothing uses *slot* any more: what is kept for it goes. Does not wait; what is put in later comes later."""
        self._inbox.put(_Call(lambda device: device.free(slot), _promise()))

    async def memory(self) -> int:
        """Bytes in use and set aside on the device. Raises as ``write``."""
        return await self._call(lambda device: device.memory())  # type: ignore[no-any-return]

    def drain(self) -> None:
        """Begin nothing new: what waits and what comes is refused with NotReady, what was begun goes on."""
        with self._gate:
            self._draining = True  # seen in the next turn: a thread that takes none has nobody waiting

    def cut(self) -> None:
        """Everything in flight fails with NotReady now, whatever the thread is doing; it is told to end."""
        with self._gate:
            self._stopping = True
        self._inbox.put(None)
        self._fail_all()

    def stop(self) -> None:
        """``cut``, and wait for the end of the thread, but not for ever: ``running`` says whether it came."""
        self.cut()
        if self._thread.is_alive():
            self._thread.join(timeout=LEAVE_S)

    def give_up(self, reason: str) -> None:
        """The engine has failed as somebody else found: all in flight is told at once, the thread is not waited for."""
        self._fail(reason)
        self._inbox.put(None)
        self._fail_all()

    def check(self) -> None:
        """Raises NotReady if the engine has failed or is stopping."""
        if self.failure is not None:
            raise NotReady(
                "the engine has failed and the service is ending: it will be started anew", code="engine_error"
            )
        if self._draining or self._stopping:
            raise _shutting_down()

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the thread last got something done, 0 while it has nothing to do; infinite where it has died
        without a word. A chunk of a prompt counts from when it should be done.
        """
        if self._opened.done() and not (self.running or self._stopping or self.failure):
            return math.inf
        beat = self._beat
        return 0.0 if beat is None else max(0.0, time.monotonic() - beat)

    @property
    def delivered_s(self) -> float:
        """Seconds since the last token of a reply; infinite before the first."""
        return time.monotonic() - self._delivered

    async def _call(self, work: Callable[[Device], Any]) -> Any:
        call = _Call(work, _promise())
        self._put(call)
        return await asyncio.wrap_future(call.done)

    def _put(self, item: "_Call | _Asked") -> None:
        future = item.future if isinstance(item, _Asked) else item.done
        with self._gate:
            self.check()
            self._inbox.put(item)
            self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)

    def _fail(self, reason: str) -> None:
        """The first reason stays, and is told once."""
        with self._gate:
            if self.failure is not None:
                return
            self.failure = reason
        log.error("engine failed: %s", reason)
        self.on_failure()

    def _fail_all(self) -> None:
        """What is unanswered is answered with NotReady. After ``_gate`` was closed: nothing comes in any more."""
        error = NotReady("the engine has stopped before the reply was written", code="engine_error")
        if self.failure is None:
            error = _shutting_down()
        with self._gate:
            unanswered = list(self._unanswered)
        for future in unanswered:
            _settle(future, error=error)

    # -- on the engine thread

    def _run(self) -> None:
        try:
            device = self._open()
        except BaseException as error:  # noqa: BLE001  whatever it was, the one who waits must be told
            self._opened.set_exception(error)
            return
        self._opened.set_result(device.facts)
        try:
            while self._take_in():
                self._turn(device)
        except BaseException as error:  # noqa: BLE001
            # Fail-stop, whatever it was: after an MLX error nothing on the device can be trusted.
            self._fail(type(error).__name__)
        finally:
            self._fail_all()
            device.close()

    def _take_in(self) -> bool:
        """Take in what has come; wait when there is nothing to do. False when told to stop."""
        while True:
            wait = self._idle and not self._resting
            try:
                if wait:
                    self._beat = None
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if wait:
                self._beat = time.monotonic()
            if item is None:
                return False
            if isinstance(item, _Asked):
                self._waiting.put(item)
            elif isinstance(item, _Left):
                self._left.append(item.asked)
            else:
                self._calls.append(item)

    @property
    def _idle(self) -> bool:
        return not (self._calls or self._left or self._writing or self._fed or len(self._waiting))

    def _turn(self, device: Device) -> None:
        """A piece of a command, a chunk of prompts, a step with all rows; before that, who has left goes.

        With none of these, a piece of what the device has left for later.
        """
        if self._idle:
            self._resting = device.rest()
            self._beat = time.monotonic()
            return
        while self._draining and len(self._waiting):
            _settle(self._waiting.take().future, error=_shutting_down())
        while self._left:
            self._drop(device, self._left.pop())
        if self._calls and self._calls[0].go_on(device):
            self._calls.popleft()
        self._feed(device)
        tokens = device.step() if self._writing else []
        for token in tokens:
            self._hand_out(token)
        if tokens or not self._writing:  # rows that are given nothing are not served, however many turns are taken
            self._beat = time.monotonic()

    def _feed(self, device: Device) -> None:
        """Feed prompts, as many tokens as rows that are being written can wait for."""
        room = self._pace.tokens(bool(self._writing))
        while room > 0 and (self._fed or self._has_turn()):
            self._fed = self._fed or self._begin(device)
            feeding = self._fed.feeding
            assert feeding is not None
            size = chunk(feeding.left, room)
            self._feed_chunk(device, feeding, size)
            room -= max(size, self._pace.least)
            if feeding.left == 0:
                self._start_writing(self._fed)
                self._fed = None

    def _feed_chunk(self, device: Device, feeding: Feeding, size: int) -> None:
        began, alone = time.monotonic(), not self._writing
        if alone:
            self._beat = began + self._pace.at_most_s(size)
        device.feed(feeding, size)
        ended = time.monotonic()
        if alone:  # rows that are being written must have tokens to show for their time
            self._beat = ended
        self._pace.took(size, ended - began)

    def _has_turn(self) -> bool:
        """Whether a job waits whose replies can be written beside those that are."""
        if not len(self._waiting):
            return False
        return not self._writing or len(self._writing) + len(self._waiting.first().job.seeds) <= self._rows

    def _begin(self, device: Device) -> _Asked:
        self._fed = asked = self._waiting.take()  # before it can fail: it must be found then
        asked.begun_at = time.monotonic()
        asked.feeding = device.begin(asked.job)
        asked.written.cached_tokens = asked.feeding.cached
        return asked

    def _start_writing(self, asked: _Asked) -> None:
        assert asked.feeding is not None
        self._writing |= {key: (asked, number) for number, key in enumerate(asked.feeding.keys)}
        asked.unfinished = len(asked.feeding.keys)
        if not asked.unfinished:
            _settle(asked.future, asked.written)

    def _hand_out(self, token: Token) -> None:
        asked, number = self._writing[token.key]
        if not math.isfinite(token.logprob):
            raise ArithmeticError("logits are not finite")
        self._delivered = time.monotonic()
        asked.first_at = asked.first_at or self._delivered
        reply = asked.written.replies[number]
        reply.logprobs.append(token.logprob)
        if token.end != "stop":
            reply.tokens.append(token.token)
            if asked.on_token is not None:
                asked.on_token(number, token.token)
        if token.end is not None:
            reply.finish_reason = token.end
            del self._writing[token.key]
            asked.unfinished -= 1
            if not asked.unfinished:
                self._finish(asked)

    def _finish(self, asked: _Asked) -> None:
        written = asked.written
        written.queued_s = asked.begun_at - asked.put_at
        written.prefill_s = asked.first_at - asked.begun_at
        written.decode_s = time.monotonic() - asked.first_at
        self._resting = True
        _settle(asked.future, written)

    def _drop(self, device: Device, asked: _Asked) -> None:
        if asked in self._waiting:
            self._waiting.remove(asked)
        if self._fed is asked:
            self._fed = None
        keys = [key for key, (other, _) in self._writing.items() if other is asked]
        device.remove(keys)
        for key in keys:
            del self._writing[key]


def _timed(pieces: Iterator[str]) -> Generator[None, None, dict[str, float]]:
    """The same pieces; returns the milliseconds spent on those of each name."""
    spent: dict[str, float] = {}
    began = time.perf_counter()
    for name in pieces:
        spent[name] = round(spent.get(name, 0.0) + 1000 * (time.perf_counter() - began), 2)
        yield
        began = time.perf_counter()
    return spent


def _on_loop(on_token: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """*on_token* for another thread: it is called on this event loop, soon."""
    loop = asyncio.get_running_loop()

    def tell(number: int, token: int) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_token, number, token)

    return tell


def _shutting_down() -> NotReady:
    return NotReady("the service is shutting down", code="shutting_down")


def _promise() -> "Future[Any]":
    """A future that only this module settles: who waits may leave, but not cancel it under the engine's hands."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: "Future[Any]", result: Any = None, error: SamevoiceError | None = None) -> None:
    """The first answer counts: whoever waited may have been told already that there will be none."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
