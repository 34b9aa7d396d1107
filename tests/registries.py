"""A registry around a ``FakeDevice``, and what its tests ask of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from service.engine import Engine, Job
from service.registry import Registry
from service.reload import Result
from tests.fakes import FakeDevice, make_adapter, publish_altered, running

PATIENCE_S = 0.05  # of a load for a slot


@asynccontextmanager
async def registered(
    store: Path, device: FakeDevice | None = None, default: str | None = None, patience_s: float = PATIENCE_S
) -> AsyncIterator[tuple[Registry, Engine]]:
    """A registry that has read *store*."""
    device = device or FakeDevice()
    async with running(device) as engine:
        registry = Registry(store, engine, device.facts, default, patience_s)
        await registry.start()
        yield registry, engine


async def wrote(registry: Registry, engine: Engine, name: str | None) -> str:
    """Which generation writes the reply of *name*."""
    async with registry.lease(name) as serving:
        written = await engine.write(Job([1], serving.slot if serving else 0, seeds=(0,)))
    return registry.base.template.decode_reply(written.replies[0].tokens)


def in_flight(registry: Registry, name: str) -> tuple[int, int]:
    """Requests on the present generation of *name*, and on those before."""
    row = registry.describe_one(name)
    return row["in_flight"], row["in_flight_on_previous"]


def state(registry: Registry) -> dict[str, str]:
    """Name -> status."""
    return {row["name"]: row["status"] for row in registry.describe()}


def statuses(results: Sequence[Result]) -> dict[str, str]:
    return {result.name: result.status for result in results}


def codes(results: Sequence[Result]) -> dict[str, list[str]]:
    return {result.name: [error["code"] for error in result.errors] for result in results if result.errors}


def spoil(store: Path, name: str) -> str:
    """A new current generation of *name* whose base was another one."""
    generation = make_adapter(store, name, seed=9, activate=False)
    return publish_altered(
        store, name, generation, manifest=lambda m: m["base"].update(fingerprint="sha256:" + "c" * 64)
    )


async def waiting() -> None:
    """Whatever can go on without anybody's help has gone on."""
    for _ in range(5):
        await asyncio.sleep(0.01)
