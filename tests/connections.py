"""One client and its connection, as an ASGI app sees them: for clients that leave, or do not read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from service.app import create_app, with_doors
from service.engine import Engine
from service.settings import Settings
from tests.fakes import HOST, TOKEN, FakeDevice, asked


class Client:
    """One client on its connection, as the server sees it.

    Attributes:
        patience: How many messages it reads before it leaves; None: all.
        path: What it asks for a stream.
        stuck: It stays, but after *patience* messages it reads no more.
    """

    def __init__(self, app: Any, patience: int | None = None, stuck: bool = False, path: str = "/reply", **what: Any):
        self.app, self.patience, self.stuck, self.path = app, patience, stuck, path
        self.what = what
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self._body = [json.dumps(asked(stream=True, **what)).encode()]

    async def run(self) -> None:
        headers = {"host": HOST, "authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        scope = {
            "type": "http", "method": "POST", "path": self.path, "raw_path": self.path.encode(), "query_string": b"",
            "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"},
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        await self.app(scope, self._receive, self._send)

    async def _receive(self) -> Any:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.patience is not None and len(self.sent) >= self.patience:
            if self.stuck:
                await asyncio.Event().wait()
            self.gone.set()
        self.sent.append(message)
        await asyncio.sleep(0)


@asynccontextmanager
async def app_of(store: Path, device: FakeDevice, **settings: Any) -> AsyncIterator[tuple[Any, FastAPI]]:
    """The app behind its doors and itself, started; nothing of a request may be left at the end."""
    engine = Engine(lambda: device, settings.get("rows", 16))
    app = create_app(Settings(adapters=store, **settings), engine)
    async with app.router.lifespan_context(app):
        before = asyncio.all_tasks()
        yield with_doors(app, [HOST], TOKEN), app
        await engine.memory()  # comes after the removals
        assert 0 == app.state.replies.in_flight and device.idle
        assert {0} == {row["in_flight"] + row["in_flight_on_previous"] for row in app.state.registry.describe()}
        assert set() == asyncio.all_tasks() - before
