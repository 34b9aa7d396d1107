"""``--check``: what a start does up to the first request, with the same refusals, and then no more."""

import asyncio
from collections.abc import Callable

from service.engine import Engine
from service.registry import Registry
from service.settings import Settings


def check(settings: Settings, engine: Engine, announce: Callable[[Registry], None]) -> None:
    """Load the base and the adapters, as a start would, and tell *announce*; the store is left as it was.

    Raises:
        SamevoiceError: What a start would raise.
    """
    try:
        base = engine.start().result()
        registry = Registry(settings.adapters, engine, base, settings.adapter, records=False)
        asyncio.run(registry.start())
        announce(registry)
    finally:
        engine.stop()
