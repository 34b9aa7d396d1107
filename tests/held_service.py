"""A service whose engine can be held up: the real server and its way to stop, around a fake device.

``python -m tests.held_service STORE HELD GRACE_S SILENT_S``: HELD names what is held up, ``going`` or ``feeding``;
see ``FakeDevice``. It says ``ready ADDRESS`` when it serves.
"""

import socket
import sys
from pathlib import Path

import uvicorn

from service.__main__ import Server, heed_signals, run
from service.app import create_app
from service.engine import Engine
from service.settings import Settings
from tests.fakes import FakeDevice


def main(store: str, held: str, grace_s: str, silent_s: str) -> int:
    heed_signals()
    device = FakeDevice()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    engine = Engine(lambda: device)
    app = create_app(Settings(adapters=Path(store)), engine, lambda _: say(f"ready {address}\n"), float(silent_s))
    getattr(device, held).clear()
    config = uvicorn.Config(app, http="h11", access_log=False, log_level="warning", timeout_graceful_shutdown=1)
    return run(Server(config, engine, float(grace_s)), engine, listener)


def say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
