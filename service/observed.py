"""What an operator sees of each request: an id, one line in the log, the metrics; and headers that every answer has.

The outermost ASGI layer. A line holds words of ours alone: of a path only the template of the route that it matched,
of a method only one that HTTP knows. What went wrong is noted on the way by those who answer it.
"""

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.answers import NOBODY
from service.metrics import Metrics

log = logging.getLogger("samevoice.http")

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
_ERROR, _USAGE = "samevoice.error", "samevoice.usage"


def note_error(scope: Scope, code: str) -> None:
    """The request of *scope* ended with the error *code*, whatever its status says."""
    scope[_ERROR] = code


def note_usage(scope: Scope, usage: Mapping[str, int]) -> None:
    """The request of *scope* was answered with a reply of so many tokens."""
    scope[_USAGE] = usage


@dataclass(frozen=True)
class Observed:
    """An ASGI app that answers as *app* does, and tells of it."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, own_id, status = time.perf_counter(), secrets.token_hex(8), NOBODY

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _complete(message.get("headers", ()), own_id)
            await send(message)

        try:
            await self.app(scope, receive, marked)
        finally:
            seconds, route, error = time.perf_counter() - began, _template(scope), scope.get(_ERROR)
            self.metrics.answered(route, status, error, seconds)
            log.info(_line(own_id, scope, route, status, error, seconds))


def _complete(headers: "list[tuple[bytes, bytes]]", own_id: str) -> list[tuple[bytes, bytes]]:
    """*headers*, the id, and each of ``ALWAYS`` that is not there yet."""
    there = {name.lower() for name, _ in headers}
    missing = [(name, value) for name, value in ALWAYS if name not in there]
    return [*headers, (b"x-request-id", own_id.encode()), *missing]


def _template(scope: Scope) -> str:
    """The path of the route that was matched, as the app has it: never what was sent."""
    return getattr(scope.get("route"), "path", None) or "-"


def _line(own_id: str, scope: Scope, route: str, status: int, error: str | None, seconds: float) -> str:
    method = scope["method"] if scope["method"] in METHODS else "other"
    fields = {"id": own_id, "method": method, "route": route, "status": status}
    fields |= {"error": error} if error is not None else {}
    fields |= {"ms": round(1000 * seconds, 1), **scope.get(_USAGE, {})}
    return " ".join(f"{key}={value}" for key, value in fields.items())
