"""OpenAI's chat completions: a request of theirs as one of ours, and our answer as one of theirs.

Their ``user`` is the other person, their ``assistant`` the one whose voice replies. What a reply cannot be asked for is
refused, not ignored. Knows neither HTTP nor how a prompt looks: the thread goes the way of ``POST /reply``.
"""

import secrets
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from errors import InvalidField
from service.answers import as_data
from service.replies import Event
from service.schemas import (
    ADAPTER_PATTERN,
    MOST_MESSAGES,
    ONE_LINE,
    MessageIn,
    PromptRequest,
    ReplyOptions,
    Strict,
    Text,
)


def _joined(value: Any) -> Any:
    """A content that comes in parts as one text."""
    if not isinstance(value, list):
        return value
    if not value or not all(_is_text(part) for part in value):
        raise PydanticCustomError("text_parts_only", "a part must be text")
    return "\n".join(part["text"] for part in value)


def _is_text(part: Any) -> bool:
    """A part of type text and nothing else."""
    if not isinstance(part, dict) or set(part) != {"type", "text"}:
        return False
    return part["type"] == "text" and isinstance(part["text"], str)


class _Nullable(Strict):
    """Null is not given, as OpenAI has it."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: given for key, given in value.items() if given is not None} if isinstance(value, dict) else value


class ChatMessage(_Nullable):
    """One message. A ``name`` is who wrote it."""

    role: Literal["user", "assistant", "system", "developer", "tool", "function"]
    content: Annotated[Text, BeforeValidator(_joined)]
    name: str | None = Field(None, max_length=300, pattern=ONE_LINE)

    def messages(self) -> list[MessageIn]:
        """As messages of a thread. The lines of a reply are its bubbles: each was a message of its own."""
        lines = [line for line in self.content.split("\n") if line.strip()] if self.role == "assistant" else []
        return [
            MessageIn(text=text, from_me=self.role == "assistant", sender=self.name) for text in lines or [self.content]
        ]


class StreamOptions(_Nullable):
    include_usage: bool = False


class ChatRequest(_Nullable, ReplyOptions):
    """What ``POST /v1/chat/completions`` takes; bounds and defaults are those of ``POST /reply``.

    Beside OpenAI's fields it has those of ours that theirs have no words for: see ``ReplyOptions``.
    """

    model: str = Field(pattern=ADAPTER_PATTERN)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=1024)
    stream_options: StreamOptions | None = None
    user: str | None = None  # theirs, to tell their customers apart
    presence_penalty: float = Field(0.0, ge=0, le=0)
    frequency_penalty: float = Field(0.0, ge=0, le=0)
    logprobs: Literal[False] = False
    stop: None = None

    def as_prompt(self) -> PromptRequest:
        """The same as a request to ``POST /reply``.

        Raises:
            InvalidField: Naming all that is well formed and yet cannot be served.
        """
        roles = [
            f"messages.{number}.role: {message.role}"
            for number, message in enumerate(self.messages)
            if message.role not in ("user", "assistant")
        ]
        messages = [each for message in self.messages for each in message.messages()]
        wrong = [*roles, *self._contradictions()]
        if len(messages) > MOST_MESSAGES:
            wrong.append("messages: too_long")
        if roles:
            raise InvalidField(
                "the adapter's contract decides its own system prompt: send user and assistant messages only",
                details=wrong,
            )
        if wrong:
            raise InvalidField(f"a field is wrong: {wrong[0]}", details=wrong)
        options = self.model_dump(include=set(ReplyOptions.model_fields))
        options["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return PromptRequest(messages=messages, adapter=self.model, **options)

    def _contradictions(self) -> list[str]:
        wrong = []
        given = "max_tokens" in self.model_fields_set and self.max_completion_tokens is not None
        if given and self.max_tokens != self.max_completion_tokens:
            wrong.append("max_tokens: differs from max_completion_tokens")
        if self.stream_options is not None and not self.stream:
            wrong.append("stream_options: only together with stream")
        return wrong


@dataclass
class Completion:
    """The answer to *asked*, in OpenAI's form, whole or in chunks.

    Args:
        base: The base's fingerprint: what answers where no adapter does.
    """

    asked: ChatRequest
    base: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: set[int] = field(default_factory=set)

    def whole(self, answered: dict[str, Any]) -> dict[str, Any]:
        """*answered*, which is what ``POST /reply`` answers, as a ``chat.completion``."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": reply["text"], "refusal": None},
                "logprobs": None,
                "finish_reason": reply["finish_reason"],
            }
            for index, reply in enumerate(answered["replies"])
        ]
        return self._object("chat.completion", choices, answered) | {"usage": _usage(answered)}

    def chunks(self, event: Event) -> bytes:
        """An event of a stream as lines of ``data:``; the last ends with ``[DONE]``, unless it is an error."""
        name, data = event
        if name == "error":
            return as_data(data)
        if name == "token":
            return as_data(self._chunk([self._piece(data["index"], data["text"])]))
        return self._end(data)

    def _piece(self, index: int, text: str) -> dict[str, Any]:
        delta = {"content": text} if index in self._begun else {"role": "assistant", "content": text}
        self._begun.add(index)
        return _choice(index, delta)

    def _end(self, answered: dict[str, Any]) -> bytes:
        replies = answered["replies"]
        empty = [self._piece(index, "") for index in range(len(replies)) if index not in self._begun]
        ends = [_choice(index, {}, reply["finish_reason"]) for index, reply in enumerate(replies)]
        last = [self._chunk([choice], answered) for choice in (*empty, *ends)]
        if self._with_usage:
            last.append(self._chunk([], answered) | {"usage": _usage(answered)})
        return b"".join(map(as_data, last)) + b"data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], answered: dict[str, Any] | None = None) -> dict[str, Any]:
        chunk = self._object("chat.completion.chunk", choices, answered)
        return chunk | {"usage": None} if self._with_usage else chunk

    def _object(self, kind: str, choices: list[dict[str, Any]], answered: dict[str, Any] | None) -> dict[str, Any]:
        """The frame. Which generation writes is known when it has written."""
        generation = answered and (answered["adapter"]["generation"] or self.base.removeprefix("sha256:")[:16])
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": generation,
            "choices": choices,
        }

    @property
    def _with_usage(self) -> bool:
        return self.asked.stream_options is not None and self.asked.stream_options.include_usage


def _choice(index: int, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _usage(answered: dict[str, Any]) -> dict[str, Any]:
    usage = answered["usage"]
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
    }
