"""A client with a stopwatch: one connection that is kept, and answers that are read as they come.

Times are seconds since just before the request is sent, until the last byte that is meant has been read and parsed.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from types import TracebackType
from typing import Any

TIMEOUT_S = 600


class Refusal(SystemExit):
    """A server did not answer with 200. It ends the program, unless it is one that counts refusals.

    Attributes:
        answer: The JSON that came with it; empty where it was none.
        retry_after_s: What the server says of when to ask again.
    """

    def __init__(self, path: str, response: HTTPResponse):
        body = response.read()
        super().__init__(f"{path} answers {response.status}: {body[:2000].decode(errors='replace')}")
        self.status = response.status
        self.retry_after_s = float(response.getheader("Retry-After") or 0)
        try:
            self.answer: dict[str, Any] = json.loads(body)
        except ValueError:
            self.answer = {}

    @property
    def error_code(self) -> str:
        """Of the error, as the server calls it."""
        return str(self.answer.get("error", {}).get("code", ""))


@dataclass(frozen=True)
class Answer:
    """A reply and what it took.

    Attributes:
        first_s: Until the first text; of an answer that comes whole, until all of it.
        total_s: Until it was complete.
        cached_tokens: Of the prompt, those the server had computed before, as it says itself.
    """

    text: str
    first_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Client:
    """A connection to a server on this machine; where the server closes it, the next request opens another."""

    def __init__(self, port: int):
        self._connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> int:
        """The status of *path*. Raises OSError where nobody listens."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def post(self, path: str, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """(seconds, the answer's JSON). Raises Refusal."""
        began = time.perf_counter()
        answer: dict[str, Any] = json.loads(self._sent(path, body).read())
        return time.perf_counter() - began, answer

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[tuple[float, str, str]]:
        """(seconds, name, data) of each event of the answer, as it comes. Raises Refusal."""
        began = time.perf_counter()
        response = self._sent(path, body)
        try:
            for name, data in events(response):
                yield time.perf_counter() - began, name, data
        finally:
            response.read()  # the connection takes no other request before

    def _sent(self, path: str, body: dict[str, Any]) -> HTTPResponse:
        try:
            response = self._answered(path, body)
        except (BrokenPipeError, ConnectionResetError, RemoteDisconnected):  # idle for so long that it was closed
            self._connection.close()
            response = self._answered(path, body)
        if response.status != 200:
            raise Refusal(path, response)
        return response

    def _answered(self, path: str, body: dict[str, Any]) -> HTTPResponse:
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return self._connection.getresponse()


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(name, data) of each server-sent event in *lines*; one without a name is a ``message``, comments are left out.

    An event is given when its data has come, not with the empty line after it: neither server writes data of two lines.
    """
    name = "message"
    for raw in lines:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, line.removeprefix("data:").strip()
        elif not line:
            name = "message"
