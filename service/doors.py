"""Who may come in: one ASGI layer around the app that answers before anything else is looked at.

In order: framing (one Host, one Authorization, one Content-Type, not two body lengths), Host, Origin, token, encoding,
media type, size. Without a token nothing can be learned of routes, adapters or sizes. It also catches what no handler
caught: the answer is an envelope and the log has the error's type, never its text.
"""

import hmac
import logging
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import Forbidden, Malformed, NotJson, SamevoiceError, TooLarge, Unauthorized
from service.answers import UnicodeJSONResponse, answer, envelope
from service.observed import note_error

log = logging.getLogger("samevoice.http")
MAX_BODY = 2 * 2**20
OPEN_PATHS = ("/healthz",)
_ONCE = (
    b"host", b"authorization", b"content-type", b"content-length", b"content-encoding", b"origin", b"transfer-encoding",
)  # fmt: skip


@dataclass(frozen=True)
class Doors:
    """An ASGI app that lets the right requests through to *app*.

    Attributes:
        hosts: Every ``host:port`` that may be asked for, lower case; None: any, where no browser can come from.
        token: What ``Authorization: Bearer`` must say; None lets everybody on this machine in.
    """

    app: ASGIApp
    hosts: Collection[str] | None
    token: bytes | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        sent = False

        async def remember(message: Message) -> None:
            nonlocal sent
            sent = True
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, _limited(receive), remember)
        except SamevoiceError as error:
            note_error(scope, error.code)
            if not sent:
                await answer(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001  the last place to catch it: beyond this its text would be logged
            note_error(scope, "internal")
            log.error("request failed: %s", type(error).__name__)
            if not sent:
                body = envelope("internal", "the service failed on this request; its log has the kind of error")
                await UnicodeJSONResponse(body, 500)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = _headers(scope)
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts is not None and host not in self.hosts:
            raise Forbidden("this Host is not the service's own address", code="forbidden_host")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() != f"{scope['scheme']}://{host}":
            raise Forbidden("a page of another origin may not use this service", code="forbidden_origin")
        _check_fetch(headers)
        if self.token is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if not hmac.compare_digest(given, self.token) or scheme.lower() != b"bearer":
                raise Unauthorized(
                    "send the token: Authorization: Bearer TOKEN (the service printed its file at start)"
                )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise NotJson("send the body as it is, without a Content-Encoding")
        if scope["method"] == "POST":
            _check_body(headers)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in _ONCE:
            raise Malformed(f"the header {name.decode('latin-1')} is there twice", code="bad_request")
        headers[name] = value
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise Malformed("Content-Length and Transfer-Encoding exclude each other", code="bad_request")
    return headers


def _check_fetch(headers: dict[bytes, bytes]) -> None:
    """What a browser says of who asks, and how."""
    if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
        raise Forbidden("a page of another site may not use this service", code="forbidden_origin")
    if headers.get(b"sec-fetch-mode") in (b"no-cors", b"websocket"):
        raise Forbidden("a page may ask this service by fetch (cors) alone", code="forbidden_origin")


def _check_body(headers: dict[bytes, bytes]) -> None:
    kind = headers.get(b"content-type", b"").lower().replace(b" ", b"")
    if kind not in (b"application/json", b"application/json;charset=utf-8"):
        raise NotJson("send the body as application/json in UTF-8")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 20 or int(length) > MAX_BODY:
        raise TooLarge(f"the body is larger than {MAX_BODY} bytes")


def _limited(receive: Receive) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY:
            raise TooLarge(f"the body is larger than {MAX_BODY} bytes")
        return message

    return limited
