"""From a request to a reply: thread -> prompt -> job -> bubbles. Knows neither HTTP nor mlx."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from errors import BaseRefused, Busy, DataRefused, InvalidField, PromptRefused
from prompt_format.format import Prompt, PromptFormat
from prompt_format.messages import Message, Thread
from prompt_format.persona import Persona, check_name
from prompt_format.variants import VARIANTS
from service.engine import Engine, Job, Reply, Written
from service.growing_text import GrowingText
from service.registry import Registry
from service.schemas import PromptRequest
from service.slot_pool import Serving

BASE_VARIANT = "raw_style"
BASE_FORMATS = 32  # variants and names that the base was last asked for
Event = tuple[str, dict[str, Any]]  # its name and data


@dataclass
class Asked:
    """A request on its way: what answers it, its prompt, and the job for the engine."""

    serving: Serving | None
    form: PromptFormat
    prompt: Prompt
    job: Job
    began: float


@dataclass
class Replies:
    """Answers threads with what the registry serves. At most *waiting* replies wait or are written; more are refused.

    Args:
        rows: How many replies are written at once: no request may want more.
        on_answer: Is told each answer when it has been written to its end.
    """

    registry: Registry
    engine: Engine
    waiting: int = 64
    rows: int = 16
    in_flight: int = 0
    on_answer: Callable[[dict[str, Any]], None] = lambda _: None
    _base_formats: dict[tuple[str, str], PromptFormat] = field(default_factory=dict)

    async def prompt(self, request: PromptRequest) -> dict[str, Any]:
        """What ``POST /prompt`` answers: the exact prompt, and nothing is generated."""
        form = self._format(request, await self.registry.formatter(request.adapter))
        prompt = _prompt(form, request)
        return {
            "messages": prompt.messages,
            "text": prompt.text,
            "ids": prompt.ids,
            "cached_tokens": 0,
            "contract": form.contract.digest,
            "variant": form.variant,
        }

    async def reply(self, request: PromptRequest) -> dict[str, Any]:
        """What ``POST /reply`` answers: n replies by one generation.

        Raises:
            InvalidField, UnknownAdapter: If the request does not fit what is served.
            Busy: If too many replies are waiting already.
        """
        async with self._asked(request) as asked:
            return self._answered(asked, await self.engine.write(asked.job))

    async def stream(self, request: PromptRequest) -> AsyncGenerator[Event, None]:
        """The same, as it is written: ``token`` events with index and text, then ``done`` with the whole answer.

        The texts of one index add up to its reply's. Raises as ``reply`` does.
        """
        async with self._asked(request) as asked:
            texts = [GrowingText(asked.form) for _ in asked.job.seeds]
            tokens: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
            writing = asyncio.create_task(self.engine.write(asked.job, lambda *token: tokens.put_nowait(token)))
            async with aclosing(_until_written(writing, tokens)) as given:
                async for index, token in given:
                    text = texts[index].take(token)
                    if text:
                        yield "token", {"index": index, "text": text}
            written = writing.result()
            for index, reply in enumerate(written.replies):
                rest = texts[index].rest(reply.tokens)
                if rest:
                    yield "token", {"index": index, "text": rest}
            yield "done", self._answered(asked, written)

    def _answered(self, asked: Asked, written: Written) -> dict[str, Any]:
        answer = _answer(asked, written)
        self.on_answer(answer)
        return answer

    @asynccontextmanager
    async def _asked(self, request: PromptRequest) -> AsyncIterator[Asked]:
        began = time.monotonic()
        if request.n > self.rows:
            raise InvalidField(
                f"n: this service writes {self.rows} replies at once, start it with more --rows",
                details=["n: too many"],
            )
        with self._room(request.n):
            async with self.registry.lease(request.adapter) as serving:
                form = self._format(request, serving.checked.format if serving else None)
                prompt = _prompt(form, request)
                yield Asked(serving, form, prompt, self._job(request, serving, form, prompt), began)

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        if self.in_flight + count > self.waiting:
            raise Busy(f"{self.in_flight} replies are being written already: try again in a moment")
        self.in_flight += count
        try:
            yield
        finally:
            self.in_flight -= count

    def _job(self, request: PromptRequest, serving: Serving | None, form: PromptFormat, prompt: Prompt) -> Job:
        room = self.registry.base.context - len(prompt.ids)
        if room < 1:
            raise InvalidField(
                "the thread leaves no room to reply in this base model's context", code="prompt_too_long"
            )
        seed = request.seed if request.seed is not None else secrets.randbits(63)
        return Job(
            prompt.ids,
            serving.slot if serving else 0,
            tuple((seed + i) % 2**64 for i in range(request.n)),
            min(request.max_tokens, room),
            request.sampling(),
            form.marks(prompt.ids, request.is_group, request.category),
            form.extends,
            serving.checked.name if serving else "base",
        )

    def _format(self, request: PromptRequest, form: PromptFormat | None) -> PromptFormat:
        if form is not None:
            asked = {"variant": (request.variant, form.variant), "name": (request.name, form.persona.name)}
            wrong = [
                f"{key}: this adapter's is '{its}'" for key, (sent, its) in asked.items() if sent not in (None, its)
            ]
            if wrong:
                raise InvalidField("an adapter's contract decides its own variant and name", details=wrong)
            return form
        try:
            return self._base_format(request.variant or BASE_VARIANT, check_name(request.name or "Me"))
        except DataRefused:  # its message repeats the name, which came from outside
            raise InvalidField(f"variant: there is none of that name; there are: {', '.join(VARIANTS)}") from None
        except BaseRefused as refused:
            raise InvalidField(f"variant: {refused.message}") from None
        except ValueError as error:
            raise InvalidField(f"name: {error}") from None

    def _base_format(self, variant: str, name: str) -> PromptFormat:
        known = self._base_formats.get((variant, name))
        if known is None:
            known = PromptFormat(self.registry.base.template, variant, Persona(name=name))
            if len(self._base_formats) == BASE_FORMATS:
                del self._base_formats[next(iter(self._base_formats))]
            self._base_formats[variant, name] = known
        return known


async def _until_written(
    writing: "asyncio.Task[Written]", tokens: "asyncio.Queue[tuple[int, int] | None]"
) -> AsyncGenerator[tuple[int, int], None]:
    """Each token until *writing* is done; it is cancelled where nobody waits any more."""
    writing.add_done_callback(lambda _: tokens.put_nowait(None))
    try:
        while (token := await tokens.get()) is not None:
            yield token
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


def _prompt(form: PromptFormat, request: PromptRequest) -> Prompt:
    try:
        messages = tuple(Message(m.text, m.from_me, m.sender, m.sent_at) for m in request.messages)
        return form.prompt(Thread(messages, request.is_group, request.category))
    except PromptRefused as refused:
        raise InvalidField(refused.message, code=refused.code) from None


def _answer(asked: Asked, written: Written) -> dict[str, Any]:
    replies = [_reply(asked.form, reply) for reply in written.replies]
    adapter = {"name": "base", "generation": None}
    if asked.serving is not None:
        adapter = {"name": asked.serving.checked.name, "generation": asked.serving.checked.generation}
    return {
        "reply": replies[0]["text"],
        "bubbles": replies[0]["bubbles"],
        "replies": replies,
        "adapter": adapter,
        "contract": asked.form.contract.digest,
        "seed": asked.job.seeds[0],
        "usage": {
            "prompt_tokens": len(asked.prompt.ids),
            "cached_tokens": written.cached_tokens,
            "completion_tokens": sum(len(reply.tokens) for reply in written.replies),
        },
        "timing_ms": {
            "queue": _ms(written.queued_s),
            "prefill": _ms(written.prefill_s),
            "decode": _ms(written.decode_s),
            "total": _ms(time.monotonic() - asked.began),
        },
    }


def _reply(form: PromptFormat, reply: Reply) -> dict[str, Any]:
    bubbles = form.decode_reply(reply.tokens)
    return {
        "text": "\n".join(bubbles),
        "bubbles": bubbles,
        "finish_reason": reply.finish_reason,
        "tokens": len(reply.tokens),
        "logprob": round(sum(reply.logprobs), 4),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
