"""From a request to a reply: thread -> prompt -> rows -> bubbles. Knows neither HTTP nor mlx."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

from errors import BaseRefused, Busy, DataRefused, InvalidField, PromptRefused
from prompt_format.format import Prompt, PromptFormat
from prompt_format.messages import Message, Thread
from prompt_format.persona import Persona, check_name
from prompt_format.variants import VARIANTS
from service.engine import Engine, Row, Written
from service.registry import Registry, Serving
from service.schemas import PromptRequest

BASE_VARIANT = "raw_style"


@dataclass
class Replies:
    """Answers threads with what the registry serves. At most *waiting* rows wait or run; more are refused."""

    registry: Registry
    engine: Engine
    waiting: int = 64
    in_flight: int = 0

    def prompt(self, request: PromptRequest) -> dict[str, Any]:
        """What ``POST /prompt`` answers: the exact prompt, and nothing is generated."""
        form, prompt = self._prompt(request, self.registry.find(request.adapter))
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
            Busy: If too many rows are waiting already.
        """
        if request.stream:
            raise InvalidField("stream: streaming is not built yet, leave it false", details=["stream: not supported"])
        began = time.monotonic()
        serving = self.registry.find(request.adapter)
        form, prompt = self._prompt(request, serving)
        room = self.registry.base.context - len(prompt.ids)
        if room < 1:
            raise InvalidField(
                "the thread leaves no room to reply in this base model's context", code="prompt_too_long"
            )
        seed = request.seed if request.seed is not None else secrets.randbits(63)
        with self.registry.lease(serving) as slot:
            rows = [
                Row(prompt.ids, slot, min(request.max_tokens, room), request.sampling(), (seed + i) % 2**64)
                for i in range(request.n)
            ]
            written = await self._write_all(rows)
        return self._answer(serving, form, prompt, written, seed, time.monotonic() - began)

    async def _write_all(self, rows: list[Row]) -> list[Written]:
        if self.in_flight + len(rows) > self.waiting:
            raise Busy(f"{self.in_flight} replies are being written already: try again in a moment")
        self.in_flight += len(rows)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.engine.write(row)) for row in rows]
        except ExceptionGroup as errors:  # the first says it all: they fail together
            raise errors.exceptions[0] from None
        finally:
            self.in_flight -= len(rows)
        return [task.result() for task in tasks]

    def _prompt(self, request: PromptRequest, serving: Serving | None) -> tuple[PromptFormat, Prompt]:
        form = self._format(request, serving)
        try:
            messages = tuple(Message(m.text, m.from_me, m.sender, m.sent_at) for m in request.messages)
            return form, form.prompt(Thread(messages, request.is_group, request.category))
        except PromptRefused as refused:
            raise InvalidField(refused.message, code=refused.code) from None

    def _format(self, request: PromptRequest, serving: Serving | None) -> PromptFormat:
        if serving is not None:
            form = serving.checked.format
            asked = {"variant": (request.variant, form.variant), "name": (request.name, form.persona.name)}
            wrong = [
                f"{key}: this adapter's is '{its}'" for key, (sent, its) in asked.items() if sent not in (None, its)
            ]
            if wrong:
                raise InvalidField("an adapter's contract decides its own variant and name", details=wrong)
            return form
        try:
            persona = Persona(name=check_name(request.name or "Me"))
            return PromptFormat(self.registry.base.template, request.variant or BASE_VARIANT, persona)
        except DataRefused:  # its message repeats the name, which came from outside
            raise InvalidField(f"variant: there is none of that name; there are: {', '.join(VARIANTS)}") from None
        except BaseRefused as refused:
            raise InvalidField(f"variant: {refused.message}") from None
        except ValueError as error:
            raise InvalidField(f"name: {error}") from None

    def _answer(
        self,
        serving: Serving | None,
        form: PromptFormat,
        prompt: Prompt,
        written: list[Written],
        seed: int,
        seconds: float,
    ) -> dict[str, Any]:
        replies = []
        for row in written:
            bubbles = form.decode_reply(row.tokens)
            replies.append(
                {
                    "text": "\n".join(bubbles),
                    "bubbles": bubbles,
                    "finish_reason": row.finish_reason,
                    "tokens": len(row.tokens),
                    "logprob": round(row.logprob, 4),
                }
            )
        adapter = {"name": "base", "generation": None}
        if serving is not None:
            adapter = {"name": serving.checked.name, "generation": serving.checked.generation}
        return {
            "reply": replies[0]["text"],
            "bubbles": replies[0]["bubbles"],
            "replies": replies,
            "adapter": adapter,
            "contract": form.contract.digest,
            "seed": seed,
            "usage": {
                "prompt_tokens": len(prompt.ids),
                "cached_tokens": 0,
                "completion_tokens": sum(len(row.tokens) for row in written),
            },
            "timing_ms": {
                "queue": _ms(max(row.queued_s for row in written)),
                "prefill": _ms(max(row.prefill_s for row in written)),
                "decode": _ms(max(row.decode_s for row in written)),
                "total": _ms(seconds),
            },
        }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
