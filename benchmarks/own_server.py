"""Our service as one side of a benchmark: ``python -m service`` with its default settings."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.http_client import Answer, Client
from benchmarks.server_process import free_port, running
from benchmarks.serving_world import Question, World
from training.publish import point_to


class OwnServer:
    """A running one, with as many adapters of its world in slots as there is room for."""

    def __init__(self, world: World, port: int, process: int):
        self._world, self.port, self.process = world, port, process

    def ask(self, client: Client, question: Question, adapter: str, max_tokens: int) -> Answer:
        """The reply of *adapter*, token by token."""
        body = {
            "messages": question.messages, "adapter": adapter, "max_tokens": max_tokens, "temperature": 0.0,
            "stream": True,
        }  # fmt: skip
        first = 0.0
        for seconds, name, data in client.stream("/reply", body):
            event = json.loads(data)
            if name == "token" and event["text"]:
                first = first or seconds
            elif name == "done":
                usage = event["usage"]
                counts = [usage[key] for key in ("prompt_tokens", "cached_tokens", "completion_tokens")]
                return Answer(event["reply"], first or seconds, seconds, *counts)
            elif name == "error":
                raise SystemExit(f"/reply: {event['error']['code']}: {event['error']['message']}")
        raise SystemExit("/reply: the answer ended without its last event")

    def reload(self, client: Client, name: str, generation: str) -> tuple[float, dict[str, float]]:
        """Make *generation* current, as training does, and have it picked up: (seconds, milliseconds of each part)."""
        point_to(self._world.store, name, generation)
        seconds, answer = client.post("/adapters/reload", {"name": name})
        (result,) = answer["results"]
        if (result["status"], result["generation"]) != ("loaded", generation):
            raise SystemExit(f"/adapters/reload: {result}")
        timing: dict[str, float] = result["timing_ms"]
        return seconds, timing


@contextmanager
def own_server(world: World, log: Path) -> Iterator[OwnServer]:
    """One that serves *world*, each adapter's last generation to begin with, until the block ends."""
    for name, generations in world.generations.items():
        point_to(world.store, name, generations[-1])
    port = free_port()
    arguments: list[Any] = ["-m", "service", "--model", str(world.model), "--adapters", str(world.store)]
    with running([*arguments, "--port", str(port), "--no-auth"], port, "/readyz", log) as process:
        yield OwnServer(world, port, process)
