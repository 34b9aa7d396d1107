"""The routes. Each takes a request, calls, and returns; errors are answered by one table (``answers``)."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from errors import DeadlinePassed, Malformed, NotReady, SamevoiceError
from service.answers import UnicodeJSONResponse, answer, as_event, envelope
from service.doors import Doors
from service.engine import Engine
from service.registry import Registry
from service.replies import Event, Replies
from service.schemas import PromptRequest, ReloadRequest, parse
from service.settings import Settings
from service.watch import SILENT_S, Readiness, probe_of, watch

log = logging.getLogger("samevoice.http")

NOBODY = 499  # the status of an answer that nobody is there to read
WRITE_S = 1.0  # how long after its deadline the end of a stream may still be read
T = TypeVar("T")
_NO_TELEMETRY: Any = {
    "tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False,
}  # fmt: skip


def create_app(
    settings: Settings,
    engine: Engine,
    on_ready: Callable[[Registry], None] = lambda _: None,
    silent_s: float = SILENT_S,
) -> FastAPI:
    """The app around an engine that has not been started; its lifespan starts, watches and stops it.

    Args:
        on_ready: Called once, when the base is loaded and the store has been read.
        silent_s: After so many seconds without anything done, an engine that has work counts as dead.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        base = await asyncio.wrap_future(engine.start())
        watching = asyncio.create_task(watch(engine, silent_s))
        try:
            registry = Registry(settings.adapters, engine, base, settings.adapter)
            await registry.start()
            app.state.registry = registry
            app.state.replies = Replies(registry, engine, settings.waiting, settings.rows)
            app.state.readiness = Readiness(engine, probe_of(base))
            on_ready(registry)
            yield
        finally:
            watching.cancel()
            await asyncio.to_thread(engine.stop)

    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )  # fmt: skip
    app.add_exception_handler(SamevoiceError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal)
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz, methods=["GET"])
    app.add_api_route("/reply", reply, methods=["POST"])
    app.add_api_route("/prompt", prompt, methods=["POST"])
    app.add_api_route("/adapters", list_adapters, methods=["GET"])
    app.add_api_route("/adapters/reload", reload, methods=["POST"])
    app.add_api_route("/adapters/{name}", show_adapter, methods=["GET"])
    app.state.settings, app.state.engine, app.state.readiness = settings, engine, None
    return app


def with_doors(app: FastAPI, hosts: list[str], token: str | None) -> Doors:
    """*app* behind its doors: what the server is given."""
    return Doors(app, frozenset(host.lower() for host in hosts), token.encode() if token else None)


async def healthz() -> Response:
    """The process is up."""
    return UnicodeJSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Able to deliver tokens."""
    readiness: Readiness | None = request.app.state.readiness
    if readiness is None:
        raise NotReady("the base model and the adapters are being loaded")
    await readiness.check()
    return UnicodeJSONResponse({"status": "ready"})


async def reply(request: Request) -> Response:
    """A reply, or n of them, to a thread. A client that leaves takes its rows out of the batch."""
    asked = parse(PromptRequest, await _body(request))
    replies: Replies = request.app.state.replies
    until = asyncio.get_running_loop().time() + request.app.state.settings.deadline_s
    if asked.stream:
        return await _stream(request, replies.stream(asked), until)
    answered = await _while_there(request, _by(until, replies.reply(asked)))
    return Response(status_code=NOBODY) if answered is None else UnicodeJSONResponse(answered)


async def _stream(request: Request, events: AsyncGenerator[Event, None], until: float) -> Response:
    """Events as they come. What is refused before the first of them is refused as without a stream."""
    first = await _while_there(request, _by(until, anext(events)))
    if first is None:
        return Response(status_code=NOBODY)

    async def body() -> AsyncIterator[bytes]:
        try:
            yield as_event(*first)
            while event := await _by(until, anext(events, None)):
                yield as_event(*event)
        except SamevoiceError as error:
            yield as_event("error", envelope(error.code, error.message, error.details))

    return _EventStream(body(), events, until)


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


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
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


async def _by(until: float, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout_at(until):
            return await work
    except TimeoutError:
        raise _too_late() from None


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("no reply within the time allowed: ask for fewer tokens, or raise --deadline")


async def prompt(request: Request) -> Response:
    """The exact prompt for a thread."""
    asked = parse(PromptRequest, await _body(request))
    return UnicodeJSONResponse(await request.app.state.replies.prompt(asked))


async def list_adapters(request: Request) -> Response:
    """Every adapter in the store: what it answers with, and what of it was refused."""
    registry: Registry = request.app.state.registry
    base = {
        "id": registry.base.name,
        "fingerprint": registry.base.fingerprint,
        "slots": request.app.state.settings.slots,
    }
    return UnicodeJSONResponse({"base": base, "default_adapter": registry.default, "adapters": registry.describe()})


async def show_adapter(request: Request, name: str) -> Response:
    """One adapter."""
    return UnicodeJSONResponse(request.app.state.registry.describe_one(name))


async def reload(request: Request) -> Response:
    """Pick up what training wrote."""
    asked = parse(ReloadRequest, await _body(request))
    asked.check()
    registry: Registry = request.app.state.registry
    results = await registry.reload(
        asked.name,
        asked.generation,
        asked.expected_generation,
        asked.dry_run,
        asked.activate,
        asked.allow_unlabelled,
        asked.variant,
    )
    body: dict[str, Any] = {
        "results": [result.as_json() for result in results],
        "default_adapter": registry.default,
    }
    refused = [result for result in results if result.status == "refused"]
    if refused:
        first = refused[0].errors[0]
        body |= envelope(first["code"], f"{refused[0].name}: {first['message']}", first["details"])
    return UnicodeJSONResponse(body, 409 if refused else 200)


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise Malformed("the body ended early", code="bad_request") from None
    except asyncio.CancelledError:  # the server's grace is over, and the rest of the body has not come
        raise NotReady("the service is shutting down", code="shutting_down") from None


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SamevoiceError)
    return answer(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "no_such_route", 405: "method_not_allowed"}
    return UnicodeJSONResponse(
        envelope(codes.get(error.status_code, "bad_request"), str(error.detail)), error.status_code, error.headers
    )


async def _internal(request: Request, error: Exception) -> Response:
    return answer(SamevoiceError("the service failed on this request; its log has the kind of error"))
