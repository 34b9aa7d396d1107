"""The routes. Each takes a request, calls, and returns; errors are answered by one table (``answers``)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from errors import NotReady, SamevoiceError
from service.answers import UnicodeJSONResponse, answer, as_event, envelope
from service.delivery import body, deadline, streamed, whole
from service.doors import Doors
from service.engine import Engine
from service.metrics import MEDIA_TYPE, Metrics
from service.observed import Observed, note_error
from service.openai_routes import chat_completions, list_models, show_model
from service.registry import Registry
from service.replies import Replies
from service.schemas import PromptRequest, ReloadRequest, parse
from service.settings import Settings
from service.vllm_routes import load_lora_adapter, unload_lora_adapter
from service.watch import SILENT_S, Readiness, probe_of, watch

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
            app.state.replies = Replies(
                registry, engine, settings.waiting, settings.rows, on_answer=app.state.metrics.replied
            )
            app.state.metrics.live.watch(registry, app.state.replies)
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
    _add_routes(app)
    app.state.settings, app.state.engine, app.state.metrics = settings, engine, Metrics()
    app.state.readiness = None
    return app


def with_doors(app: FastAPI, hosts: Iterable[str] | None, token: str | None) -> Observed:
    """*app* behind its doors, and observed: what the server is given. No *hosts*: any Host may be asked for."""
    allowed = None if hosts is None else frozenset(host.lower() for host in hosts)
    return Observed(Doors(app, allowed, token.encode() if token else None), app.state.metrics)


def _add_routes(app: FastAPI) -> None:
    for method, path, handler in (
        ("GET", "/healthz", healthz),
        ("GET", "/readyz", readyz),
        ("GET", "/metrics", metrics),
        ("POST", "/reply", reply),
        ("POST", "/prompt", prompt),
        ("GET", "/adapters", list_adapters),
        ("POST", "/adapters/reload", reload),
        ("GET", "/adapters/{name}", show_adapter),
        ("POST", "/v1/chat/completions", chat_completions),
        ("GET", "/v1/models", list_models),
        ("GET", "/v1/models/{name}", show_model),
        ("POST", "/v1/load_lora_adapter", load_lora_adapter),
        ("POST", "/v1/unload_lora_adapter", unload_lora_adapter),
    ):
        app.add_api_route(path, handler, methods=[method])


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


async def metrics(request: Request) -> Response:
    """Counts and times, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=MEDIA_TYPE)


async def reply(request: Request) -> Response:
    """A reply, or n of them, to a thread. A client that leaves takes its rows out of the batch."""
    asked = parse(PromptRequest, await body(request))
    replies: Replies = request.app.state.replies
    until = deadline(request)
    if asked.stream:
        return await streamed(request, replies.stream(asked), until, lambda event: as_event(*event))
    return await whole(request, replies.reply(asked), until, lambda answered: answered)


async def prompt(request: Request) -> Response:
    """The exact prompt for a thread."""
    asked = parse(PromptRequest, await body(request))
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
    asked = parse(ReloadRequest, await body(request))
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
    answered: dict[str, Any] = {
        "results": [result.as_json() for result in results],
        "default_adapter": registry.default,
    }
    request.app.state.metrics.reloaded(results)
    refused = [result for result in results if result.status == "refused"]
    if refused:
        first = refused[0].errors[0]
        note_error(request.scope, first["code"])
        answered |= envelope(first["code"], f"{refused[0].name}: {first['message']}", first["details"])
    return UnicodeJSONResponse(answered, 409 if refused else 200)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SamevoiceError)
    note_error(request.scope, error.code)
    return answer(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "no_such_route", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "bad_request")
    note_error(request.scope, code)
    return UnicodeJSONResponse(envelope(code, str(error.detail)), error.status_code, error.headers)


async def _internal(request: Request, error: Exception) -> Response:
    return answer(SamevoiceError("the service failed on this request; its log has the kind of error"))
