"""The routes that OpenAI's clients use: chat completions, and the adapters as models."""

from datetime import datetime
from typing import Any

from fastapi import Request
from starlette.responses import Response

from errors import AdapterRefused
from service.answers import UnicodeJSONResponse
from service.chat_completions import ChatRequest, Completion
from service.delivery import body, deadline, streamed, whole
from service.registry import Registry
from service.replies import Replies
from service.schemas import parse


async def chat_completions(request: Request) -> Response:
    """A reply, or n of them, to a chat: what ``POST /reply`` answers to the same thread."""
    asked = parse(ChatRequest, await body(request))
    wanted = asked.as_prompt()
    replies: Replies = request.app.state.replies
    completion = Completion(asked, replies.registry.base.fingerprint)
    until = deadline(request)
    if asked.stream:
        return await streamed(request, replies.stream(wanted), until, completion.chunks)
    return await whole(request, replies.reply(wanted), until, completion.whole)


async def list_models(request: Request) -> Response:
    """The base, then every adapter that can be asked."""
    rows = request.app.state.registry.describe()
    models = [_model("base"), *(_adapter(row) for row in rows if row["generation"] is not None)]
    return UnicodeJSONResponse({"object": "list", "data": models})


async def show_model(request: Request, name: str) -> Response:
    """One of them; of an adapter that cannot be asked, why not."""
    registry: Registry = request.app.state.registry
    if name == "base":
        return UnicodeJSONResponse(_model("base"))
    row = registry.describe_one(name)
    if row["generation"] is None:
        refused = row["last_refusal"]
        raise AdapterRefused(f"'{name}': {refused['message']}", code=refused["code"], details=refused["details"])
    return UnicodeJSONResponse(_adapter(row))


def _adapter(row: dict[str, Any]) -> dict[str, Any]:
    return _model(row["name"], row.get("created_at"), "base")


def _model(name: str, created_at: str | None = None, parent: str | None = None) -> dict[str, Any]:
    """Args: created_at: As a manifest has it; None where it has not been read, which OpenAI's form has no word for."""
    return {
        "id": name,
        "object": "model",
        "created": _seconds(created_at) if created_at else 0,
        "owned_by": "samevoice",
        "parent": parent,
    }


def _seconds(written: str) -> int:
    """*written* in seconds since 1970; 0 if it is no time: a manifest is not held to that."""
    try:
        return int(datetime.fromisoformat(written).timestamp())
    except (ValueError, OverflowError):
        return 0
