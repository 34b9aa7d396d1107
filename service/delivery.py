"""How an answer reaches its client: while it is there, in time, whole or as events.

What is told here is what ``Replies`` gives; how it is written as JSON or as bytes is told by the route.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from errors import DeadlinePassed, Malformed, NotReady, SamevoiceError
from service.answers import NOBODY, UnicodeJSONResponse, envelope
from service.observed import note_error, note_usage
from service.replies import Event

log = logging.getLogger("samevoice.http")

WRITE_S = 1.0  # how long after its deadline the end of a stream may still be read
T = TypeVar("T")
Answer = dict[str, Any]


def deadline(request: Request) -> float:
    """The moment, on the event loop's clock, up to which a request that has come now may be answered."""
    deadline_s: float = request.app.state.settings.deadline_s
    return asyncio.get_running_loop().time() + deadline_s


async def body(request: Request) -> bytes:
    """What the request brought. Raises Malformed if the client left before its end, NotReady at shutdown."""
    try:
        return await request.body()
    except ClientDisconnect:
        raise Malformed("the body ended early", code="bad_request") from None
    except asyncio.CancelledError:  # the server's grace is over, and the rest of the body has not come
        raise NotReady("the service is shutting down", code="shutting_down") from None


async def whole(
    request: Request, work: Coroutine[Any, Any, Answer], until: float, shape: Callable[[Answer], Any]
) -> Response:
    """What *work* gives, as *shape* makes JSON of it. A client that leaves takes *work* along."""
    answered = await while_there(request, by(until, work))
    if answered is None:
        return Response(status_code=NOBODY)
    note_usage(request.scope, answered["usage"])
    return UnicodeJSONResponse(shape(answered))


async def streamed(
    request: Request, events: AsyncGenerator[Event, None], until: float, encode: Callable[[Event], bytes]
) -> Response:
    """*events* as they come, each as *encode* writes it.

    What is refused before the first of them is raised, as without a stream; later it is a last event named ``error``,
    whose data is the envelope.
    """
    first = await while_there(request, by(until, anext(events)))
    if first is None:
        return Response(status_code=NOBODY)

    async def written() -> AsyncIterator[bytes]:
        try:
            yield encode(first)
            while event := await by(until, anext(events, None)):
                if event[0] == "done":
                    note_usage(request.scope, event[1]["usage"])
                yield encode(event)
        except SamevoiceError as error:
            note_error(request.scope, error.code)
            yield encode(("error", envelope(error.code, error.message, error.details)))

    return _EventStream(written(), events, until)


class _EventStream(StreamingResponse):
    """A body made of *events*. However it ends, so do they: the client may have left, or read nothing until *until*."""

    media_type = "text/event-stream"

    def __init__(self, body: AsyncIterator[bytes], events: AsyncGenerator[Event, None], until: float):
        super().__init__(body, headers={"Cache-Control": "no-store"})
        self._events, self._until = events, until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._until + WRITE_S):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.warning("a client did not read its reply")
        finally:
            await self._events.aclose()


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What *work* gives; None if the client leaves before: then it is cancelled, and has ended."""
    doing = asyncio.create_task(work)
    left = asyncio.create_task(_until_disconnect(request))
    try:
        await asyncio.wait({doing, left}, return_when=asyncio.FIRST_COMPLETED)
        return await doing if doing.done() else None
    finally:
        doing.cancel()
        left.cancel()
        await asyncio.gather(doing, left, return_exceptions=True)


async def by(until: float, work: Awaitable[T]) -> T:
    """What *work* gives by *until*, a moment on the event loop's clock. Raises DeadlinePassed."""
    try:
        async with asyncio.timeout_at(until):
            return await work
    except TimeoutError:
        raise DeadlinePassed("no reply within the time allowed: ask for fewer tokens, or raise --deadline") from None


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
