"""How the service ends: the real program on the embedded base, told by real signals."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import PATIENCE, asked

ROOT = Path(__file__).resolve().parents[1]
Answer = tuple[int, Any]  # status, and the body


class Service:
    """A program of ours that serves on a free port."""

    def __init__(self, module: str, *arguments: str):
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.port = 0

    def said(self, words: str) -> re.Match[str]:
        """Wait until it prints a line with the expression *words*."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := re.search(words, line):
                return match
        raise AssertionError(self.process.communicate()[1])

    def ready(self) -> "Service":
        """Wait until it takes connections."""
        self.port = int(self.said(r"^ready\s+http://[\d.]+:(\d+)")[1])
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionRefusedError):
                assert 200 == self.request("/healthz")[0]
                return self
            time.sleep(0.02)
        raise AssertionError("it does not listen")

    def request(self, path: str, body: dict[str, Any] | None = None) -> Answer:
        """The answer; raises OSError or HTTPException where there is none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode("utf-8")
            return response.status, text if body and body.get("stream") else json.loads(text)
        finally:
            connection.close()

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> tuple[int, float, str]:
        """Its exit code, how long that took in seconds, and what it wrote to stderr beside what any start and any
        request tells there.
        """
        began = time.monotonic()
        _, told = self.process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - began
        usual = re.compile(r"warning: --no-auth: .*\n|\S+ \S+ samevoice\.\w+ INFO .*\n")
        return self.process.returncode, seconds, usual.sub("", told)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[], Service]]:
    """Starts the service on the embedded base; it does not outlive the test."""
    services: list[Service] = []

    def begin() -> Service:
        store = str(tmp_path / f"adapters{len(services)}")
        services.append(Service("service", "--no-auth", "--port", "0", "--adapters", store))
        return services[-1]

    yield begin
    end_all(services)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[str, float, float], Service]]:
    """Starts a service whose engine is held up (``tests.held_service``)."""
    services: list[Service] = []

    def hold(held: str, grace_s: float = 8, silent_s: float = 28) -> Service:
        store = str(tmp_path / "adapters")
        services.append(Service("tests.held_service", store, held, str(grace_s), str(silent_s)).ready())
        return services[-1]

    yield hold
    end_all(services)


def end_all(services: list[Service]) -> None:
    for service in services:
        service.process.kill()
        service.process.communicate()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Several clients at once."""
    with ThreadPoolExecutor(40) as threads:
        yield threads


def code_of(answer: Answer) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def test_an_idle_service_ends_at_once(begin: Callable[[], Service]) -> None:
    """O22, O29: SIGHUP and SIGPIPE change nothing; SIGTERM and SIGINT end it within two seconds with exit code 0."""
    services = {number: begin() for number in (signal.SIGTERM, signal.SIGINT)}  # they start at the same time
    for number, service in services.items():
        service.ready()
        service.tell(signal.SIGHUP)
        service.tell(signal.SIGPIPE)
        assert (200, {"status": "ready"}) == service.request("/readyz")
        service.tell(number)
        code, seconds, errors = service.ended()
        assert (0, "") == (code, errors) and seconds < 2


def test_no_reply_is_lost(begin: Callable[[], Service], threads: ThreadPoolExecutor) -> None:
    """O23, O24: what was sent before SIGTERM is answered in full or refused by us, whenever it comes; exit code 0."""
    finished = refused = 0
    services = {pause: begin() for pause in (0.05, 0.12, 0.2)}
    for pause, service in services.items():
        service.ready()
        service.request("/reply", asked())
        sent = [threads.submit(service.request, "/reply", asked(max_tokens=500, n=2, seed=i)) for i in range(30)]
        time.sleep(pause)
        service.tell(signal.SIGTERM)
        code, seconds, errors = service.ended()
        answers = [each.result(PATIENCE) for each in sent]

        assert (0, "") == (code, errors) and seconds < 12
        assert {200, 503} >= {status for status, _ in answers}
        assert all("shutting_down" == body["error"]["code"] for status, body in answers if status == 503)
        finished += sum(status == 200 for status, _ in answers)
        refused += sum(status == 503 for status, _ in answers)
        with pytest.raises(OSError):
            service.request("/reply", asked())
    assert finished and refused


def test_a_reply_that_takes_longer_than_the_grace_is_refused(
    hold: Callable[..., Service], threads: ThreadPoolExecutor
) -> None:
    """O24, O25: what is left at the end of the grace is 503 by us, also who waits, or still sends. No traceback."""
    service = hold("going", grace_s=0.5)
    sent = [threads.submit(service.request, "/reply", asked(stream=i % 2 == 0)) for i in range(20)]
    slow = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)
    slow.sendall(b"POST /reply HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    time.sleep(0.5)
    service.tell(signal.SIGTERM)
    code, seconds, errors = service.ended()

    answers = [each.result(PATIENCE) for each in sent]
    assert {503} == {status for status, _ in answers} and all("shutting_down" in str(body) for _, body in answers)
    with slow:
        answered = slow.recv(4096)
    assert b" 503 " in answered and b"shutting_down" in answered
    assert 0 == code and seconds < 5 and "Traceback" not in errors


def test_a_second_signal_cuts(hold: Callable[..., Service], threads: ThreadPoolExecutor) -> None:
    """O26: a second SIGTERM ends it at once with exit code 0, whatever is being written."""
    service = hold("going")
    sent = threads.submit(service.request, "/reply", asked())
    time.sleep(0.3)
    service.tell(signal.SIGTERM)
    time.sleep(0.4)
    assert service.process.poll() is None
    service.tell(signal.SIGTERM)
    code, seconds, errors = service.ended()

    assert (0, "") == (code, errors) and seconds < 1
    assert sent.exception(PATIENCE) is not None


@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_a_service_that_loads_ends_when_told(begin: Callable[[], Service], after_s: float) -> None:
    """O28: SIGTERM while the base loads ends it within five seconds with exit code 0."""
    service = begin()
    service.said("^loading:")
    time.sleep(after_s)
    service.tell(signal.SIGTERM)
    code, seconds, errors = service.ended()

    assert (0, "") == (code, errors) and seconds < 5


def test_an_engine_that_hangs_ends_the_service(hold: Callable[..., Service], threads: ThreadPoolExecutor) -> None:
    """O32: who waits is 503 when the engine has been silent for too long, and the process ends with exit code 70."""
    service = hold("going", silent_s=1)
    sent = threads.submit(service.request, "/reply", asked())
    time.sleep(0.3)
    assert (200, {"status": "ok"}) == service.request("/healthz")
    code, seconds, errors = service.ended()

    assert (503, "engine_error") == code_of(sent.result(PATIENCE))
    assert 70 == code and seconds < 6
    assert "Traceback" not in errors and "nothing done in 1 seconds" in errors


def test_a_thread_that_never_comes_back_keeps_no_process(
    hold: Callable[..., Service], threads: ThreadPoolExecutor
) -> None:
    """O32: a thread that hangs within the device does not keep the process, neither given up nor told to stop."""
    service = hold("feeding", grace_s=0.2)
    sent = threads.submit(service.request, "/reply", asked())
    time.sleep(0.3)
    service.tell(signal.SIGTERM)
    code, seconds, errors = service.ended()

    assert (503, "shutting_down") == code_of(sent.result(PATIENCE))
    assert (0, "") == (code, errors) and seconds < 5
