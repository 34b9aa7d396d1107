"""``mlx_lm.server`` as a benchmark's other side: begun with our BLAS, asked by the paths of our own adapters.

Its settings are its defaults. What it gets is what our service makes of a thread: the chat messages, which its chat
template turns into the same token ids.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.http_client import Answer, Client
from benchmarks.server_process import free_port, running
from benchmarks.serving_world import Question, World

_PROGRAM = (
    "from base_model.fast_cpu import prepare_cpu; prepare_cpu(); "
    "from base_model.offline import stay_offline; stay_offline(hub_allowed=False); "
    "from mlx_lm.server import main; main()"
)


class MlxLmServer:
    """A running one. It takes an adapter's folder with each request, and loads base and adapter when that changes."""

    def __init__(self, world: World, port: int):
        self._world, self.port = world, port

    def ask(
        self, client: Client, question: Question, adapter: str, max_tokens: int, generation: str | None = None
    ) -> Answer:
        """The reply of *adapter*, of its newest *generation* if none is given, token by token."""
        folder = self._world.store / adapter / (generation or self._world.generations[adapter][-1])
        body = {
            "model": str(self._world.model), "adapters": str(folder), "messages": question.chat, "temperature": 0.0,
            "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        usage: dict[str, Any] = {}
        text, first, seconds = "", 0.0, 0.0
        for seconds, _, data in client.stream("/v1/chat/completions", body):
            if data == "[DONE]":
                break
            chunk = json.loads(data)
            if piece := _text(chunk):
                first = first or seconds
                text += piece
            usage = chunk.get("usage") or usage
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return Answer(text, first or seconds, seconds, usage["prompt_tokens"], cached, usage["completion_tokens"])


def _text(chunk: dict[str, Any]) -> str:
    return "".join(choice.get("delta", {}).get("content") or "" for choice in chunk["choices"])


@contextmanager
def mlx_lm_server(world: World, log: Path) -> Iterator[MlxLmServer]:
    """One that serves *world*, until the block ends."""
    port = free_port()
    arguments = ["-c", _PROGRAM, "--model", str(world.model), "--port", str(port), "--log-level", "WARNING"]
    with running(arguments, port, "/health", log):
        yield MlxLmServer(world, port)
