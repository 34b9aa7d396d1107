"""A server in a process of its own: begun, waited for, and ended whatever happens."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.http_client import Client

READY_S = 300
LEAVE_S = 20


@contextmanager
def running(arguments: Sequence[str], port: int, ready: str, log: Path) -> Iterator[int]:
    """``python ARGUMENTS``, its process id, until the block ends; entered when *ready*, a path, is answered with 200.

    Args:
        log: Where the server's lines go.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with log.open("ab") as lines:
        process = subprocess.Popen([sys.executable, *arguments], stdout=lines, stderr=lines, env=environment)
    try:
        _wait_until_ready(process, port, ready, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with Client(port) as client:
                if client.get(path) == 200:
                    return
        except OSError:
            pass  # not listening yet
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise SystemExit(f"{process.args!r} did not get ready in {READY_S} s:\n{tail}")
