"""``python -m service``: the only place where settings, MLX and uvicorn meet.

Exit codes: 0 stopped as asked, 1 refused (bad model, port in use), 2 wrong usage, 3 another service holds the store,
70 the engine failed. SIGTERM and SIGINT stop it, a second one at once; SIGHUP and SIGPIPE are ignored.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from base_model.fast_cpu import HOW_TO_INSTALL, prepare_cpu
from base_model.offline import stay_offline
from base_model.resolve import is_hub_id
from errors import Locked, Refused, SamevoiceError, exit_code, internal_failure
from service.app import create_app, with_doors
from service.certificate import check_certificate
from service.checking import check
from service.engine import Engine
from service.listening import Listening, on_address, on_unix_socket
from service.memory_budget import MB
from service.private import private_file, private_folder, private_store
from service.registry import Registry
from service.settings import Settings, read_settings

LULL_S = 0.2  # what has been sent by the time of the signal has been read by then
GRACE_S = 8.0  # how long replies that are being written may go on
CUT_AFTER_S = 9  # when the server cuts who has not taken their answer by then
MOST_SHOWN = 20  # adapters at start


class Server(uvicorn.Server):
    """Leaves with our exit code instead of dying of the signal.

    Told to stop it begins nothing new, lets replies that are being written end within *grace_s*, and refuses what is
    left then: nobody is cut off without an answer. A second signal cuts at once.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_s: float = GRACE_S):
        super().__init__(config)
        self._engine, self._grace_s = engine, grace_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit or not self.started:
            _leave(70 if self._engine.failure else 0)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.drain()
        for server in self.servers:
            server.close()
        await asyncio.sleep(LULL_S)
        cutting = asyncio.get_running_loop().call_later(self._grace_s, self._engine.cut)
        await super().shutdown(sockets)
        cutting.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    os.umask(0o077)
    heed_signals()
    settings = read_settings(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "huggingface_hub", "transformers", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_only_one(settings.adapters))
            return _serve(settings, stack.enter_context(_listening(settings)))
    except SamevoiceError as error:
        print(f"error [{error.code}]: {error}", file=sys.stderr)
        return exit_code(error)
    except Exception as error:  # noqa: BLE001  a traceback could show message text
        print(internal_failure(error), file=sys.stderr)
        return 70


def _serve(settings: Settings, listening: Listening) -> int:
    stay_offline(hub_allowed=is_hub_id(settings.model))
    blas = prepare_cpu()
    if sys.platform == "linux" and blas is None:
        print(f"note: {HOW_TO_INSTALL}", file=sys.stderr)
    token = _token(settings)
    for line in settings.warnings():
        print(f"warning: {line}", file=sys.stderr)

    def open_device():  # type: ignore[no-untyped-def]
        # Imports mlx: on the engine thread, and after the BLAS has been opened.
        from service import mlx_device

        # One slot more than adapters: a reload writes the new generation beside the old one.
        return mlx_device.open_device(
            model=settings.model, slots=settings.slots + 1, rank=settings.rank,
            prefix_bytes=settings.prefix_cache_mb * MB, rows=settings.rows, context=settings.context,
            memory=settings.memory_gb and int(settings.memory_gb * 1e9),
        )  # fmt: skip

    engine = Engine(open_device, settings.rows)

    def announce(registry: Registry) -> None:
        _announce(settings, registry, listening, token)

    print("loading: " + ", ".join(settings.lines()), flush=True)
    if settings.check:
        check(settings, engine, announce)
        return 0
    app = create_app(settings, engine, announce)
    config = uvicorn.Config(
        with_doors(app, listening.hosts, token), http="h11", ws="none", lifespan="on",
        ssl_certfile=settings.certificate, ssl_keyfile=settings.key, access_log=False, log_level="warning",
        server_header=False, timeout_graceful_shutdown=CUT_AFTER_S, timeout_keep_alive=15,
    )  # fmt: skip
    return run(Server(config, engine), engine, listening.socket)


def run(server: Server, engine: Engine, listener: socket.socket) -> int:
    """Start the engine, serve until told to stop or until it fails; returns the exit code.

    Raises:
        BaseRefused: If the base model cannot be used.
    """
    engine.on_failure = lambda: setattr(server, "should_exit", True)
    engine.start().result()  # a base that cannot be used is refused here, in one line
    code = 0
    try:
        server.run(sockets=[listener])
    except SystemExit:  # so the server leaves a start that failed, with a code that means something else here
        code = 70
    if engine.failure is not None:
        print(f"error [engine_error]: the engine failed ({engine.failure})", file=sys.stderr)
        code = 70
    if engine.running:
        _leave(code)
    return code


def heed_signals() -> None:
    """Where no server listens, nothing is under way that would have to end: a signal ends it all."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _leave(0))
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def _leave(code: int) -> NoReturn:
    """End the process now.

    The engine thread may be loading, or hang, and cannot be ended from outside; the interpreter's own way out would
    take MLX apart under its hands, and abort. It holds nothing that has to be written.
    """
    with contextlib.suppress(OSError, RuntimeError):  # a pipe that nobody reads; a signal in the middle of a print
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _announce(settings: Settings, registry: Registry, listening: Listening, token: str | None) -> None:
    auth = f' -H "Authorization: Bearer $(cat {settings.token_file})"' if settings.token_file else ""
    print(f"base      {registry.base.name}, {registry.base.fingerprint[:19]}…, {registry.base.blocks} blocks")
    print("memory    at most:", *registry.base.budget, sep="\n          ")
    rows = registry.describe()
    for row in rows[:MOST_SHOWN]:
        print(f"adapter   {_adapter_line(row)}")
    if len(rows) > MOST_SHOWN:
        print(f"          and {len(rows) - MOST_SHOWN} more: GET /adapters")
    if not rows:
        print("adapter   none yet: replies come from the base until training publishes one")
    if settings.token_file:
        print(f"token     in {settings.token_file}{'' if token else ', which a start will make'}")
    print(f"{'checked' if settings.check else 'ready  '}   {listening.address}\n")
    print(
        f"{listening.curl}/reply{auth} -H 'Content-Type: application/json' "
        """-d '{"messages": [{"from_me": false, "text": "are you coming tonight?"}]}'"""
    )
    print(flush=True)


def _adapter_line(row: dict[str, Any]) -> str:
    """One row of ``GET /adapters`` for a terminal."""
    marks = ["default"] if row["default"] else []
    marks += [] if row["status"] == "serving" else [row["status"]]
    if row["last_refusal"] is not None:
        marks.append(f"REFUSED {row['last_refusal']['code']}")
    return f"{row['name']}  {row['generation'] or '-'}{'  (' + ', '.join(marks) + ')' if marks else ''}"


def _token(settings: Settings) -> str | None:
    """The token in the token file, made 0600 when it is not there; None without one, or where a check makes none."""
    path = settings.token_file
    if path is None:
        return None
    if not settings.check or path.parent.exists():
        private_folder(path.parent, "of the token: give it one of its own")
    if settings.check and not path.exists():
        return None
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    private_file(path, "the token file")
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch("[!-~]{16,}", token):
        raise Refused(
            f"the token in {path} is shorter than 16 characters or not plain: delete it to get a new one",
            code="weak_token",
        )
    return token


def _listening(settings: Settings) -> contextlib.AbstractContextManager[Listening]:
    if settings.certificate is not None and settings.key is not None:
        check_certificate(settings.certificate, settings.key)
    if settings.socket is not None:
        return on_unix_socket(settings.socket)
    return on_address(settings.host, settings.port, settings.certificate)


@contextlib.contextmanager
def _only_one(store: Path) -> Iterator[None]:
    """Two services must not share a store."""
    private_store(store)
    handle = os.open(store / ".serving", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Locked(f"another service is using the store '{store}': stop it, or give another --adapters") from None
    try:
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
