"""Who may come in: Host, Origin, Sec-Fetch, token, media type and size, before anything else is looked at.

The ids are those of fault-matrix.md. Requests are raw ASGI, so that they can say what no honest client does.
"""

import asyncio
import json
import stat
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from errors import Malformed, Refused
from service import doors
from service.__main__ import _token
from service.doors import MAX_BODY, Doors
from service.schemas import PromptRequest, ReloadRequest, parse
from service.settings import Settings, read_settings

TOKEN = "a-token-of-invented-letters-0123"
HOSTS = ("127.0.0.1:8000", "localhost:8000", "[::1]:8000")
JSON = (b"content-type", b"application/json")
HOST = (b"host", b"127.0.0.1:8000")
GOOD = (HOST, (b"authorization", b"Bearer " + TOKEN.encode()), JSON)
Headers = Iterable[tuple[bytes, bytes]]


class Inside:
    """The app behind the doors: it reads the whole body, and says yes."""

    def __init__(self, raises: Exception | None = None):
        self.bodies: list[bytes] = []
        self.raises = raises

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self.bodies.append(b"lifespan")
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if self.raises is not None:
            raise self.raises
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


class Answer:
    """What came back."""

    def __init__(self, messages: list[Message]):
        start, *rest = messages
        self.status: int = start["status"]
        self.headers = dict(start["headers"])
        self.body = b"".join(message.get("body", b"") for message in rest)

    @property
    def code(self) -> str:
        document = json.loads(self.body)
        assert ["error"] == list(document) and ["code", "message", "details"] == list(document["error"])
        assert b"application/json" == self.headers[b"content-type"]
        return str(document["error"]["code"])


def ask(
    headers: Headers = GOOD,
    *,
    method: str = "POST",
    path: str = "/reply",
    query: bytes = b"",
    chunks: Iterable[bytes] = (b"{}",),
    scheme: str = "http",
    token: str | None = TOKEN,
    inside: Callable[..., Awaitable[None]] | None = None,
    hosts: Iterable[str] | None = HOSTS,
) -> Answer:
    """The answer to one request."""
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query, "scheme": scheme,
        "headers": list(headers),
    }  # fmt: skip
    body = [*chunks]
    waiting: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": number < len(body)} for number, chunk in enumerate(body, 1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    allowed = None if hosts is None else frozenset(hosts)
    doors = Doors(inside or Inside(), allowed, token.encode() if token else None)
    asyncio.run(doors(scope, receive, send))
    return Answer(sent)


def with_(*more: tuple[bytes, bytes], without: bytes = b"") -> Headers:
    """Good headers, some of them replaced by *more* or taken away."""
    names = {name for name, _ in more} | {without}
    return [*((name, value) for name, value in GOOD if name not in names), *more]


def test_a_good_request_comes_in() -> None:
    """A request with Host, token and media type reaches the app with its body."""
    inside = Inside()

    assert 200 == ask(chunks=[b'{"a"', b": 1}"], inside=inside).status
    assert [b'{"a": 1}'] == inside.bodies


# -- Host


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "LOCALHOST:8000", "LocalHost:8000"])
def test_our_own_names_are_served(host: str) -> None:
    """W01: the service's own addresses pass, in any case."""
    assert 200 == ask(with_((b"host", host.encode()))).status


FOREIGN = [
    *(("W02", host) for host in ("evil.example", "evil.example:8000")),
    *(
        ("W03", host)
        for host in ("127.0.0.1.evil.example:8000", "localhost.evil.example:8000", "127.0.0.1.nip.example:8000")
    ),
    *(("W04", host) for host in ("127.0.0.1", "localhost", "127.0.0.1:1", "localhost:8001")),
    ("W05", ""),
    *(("W06", host) for host in ("0.0.0.0:8000", "127.1:8000", "2130706433:8000", "0x7f.1:8000", "[::]:8000")),
    ("W06", "[::ffff:127.0.0.1]:8000"),
    *(
        ("W07", host)
        for host in ("localhost.:8000", "localhost:", "localhost:abc", "localhost:8000:8000", " localhost:8000")
    ),
    ("W07", "localhost:8000, evil.example"),
    *(("W08", host) for host in ("user@localhost:8000", "evil.example#localhost:8000", "localhost:8000/", "*")),
    *(
        ("W08", host)
        for host in ("xn--localhost:8000", "foo.local:8000", "x.internal:8000", "localhost:8000\x00", "löcalhost:8000")
    ),
]


@pytest.mark.parametrize("host", [pytest.param(host, id=f"{case} {host!a}") for case, host in FOREIGN])
@pytest.mark.parametrize(("method", "path"), [("POST", "/reply"), ("GET", "/healthz"), ("OPTIONS", "/nope")])
def test_another_host_is_forbidden(host: str, method: str, path: str) -> None:
    """A request for any other host is forbidden on every route, the open one included."""
    inside = Inside()
    answered = ask(with_((b"host", host.encode("latin-1"))), method=method, path=path, inside=inside)

    assert (403, "forbidden_host", []) == (answered.status, answered.code, inside.bodies)


def test_no_host_is_forbidden() -> None:
    """W05: a request of HTTP/1.0 without a Host is forbidden."""
    assert (403, "forbidden_host") == (lambda a: (a.status, a.code))(ask(with_(without=b"host")))


@pytest.mark.parametrize("header", [b"x-forwarded-host", b"forwarded", b"x-host", b":authority"])
def test_what_a_proxy_says_of_the_host_is_not_read(header: bytes) -> None:
    """W10: only Host says which host is meant."""
    assert "forbidden_host" == ask(with_((b"host", b"evil.example"), (header, b"localhost:8000"))).code


def test_only_configured_names_are_ours() -> None:
    """W12, W14: the names the service was started with pass, and no others."""
    assert 200 == ask(with_((b"host", b"Studio.local:8000")), hosts=["studio.local:8000"]).status
    assert 403 == ask(hosts=["studio.local:8000"]).status


# -- what may stand there once

TWICE = {
    "W09 Host": (HOST, HOST),
    "W09 another Host behind": (HOST, (b"host", b"evil.example")),
    "W09 another Host in front": ((b"host", b"evil.example"), HOST),
    "W16 Origin": ((b"origin", b"http://127.0.0.1:8000"), (b"origin", b"http://127.0.0.1:8000")),
    "W25 a wrong token behind": (GOOD[1], (b"authorization", b"Bearer x")),
    "W25 a wrong token in front": ((b"authorization", b"Bearer x"), GOOD[1]),
    "W31 Content-Length": ((b"content-length", b"2"), (b"content-length", b"2")),
    "W32 Transfer-Encoding": ((b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")),
    "W37 Content-Type": (JSON, JSON),
    "W39 Content-Encoding": ((b"content-encoding", b"gzip"), (b"content-encoding", b"identity")),
    "W30 two body lengths": ((b"content-length", b"2"), (b"transfer-encoding", b"chunked")),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_header_that_says_two_things_is_refused(case: str) -> None:
    """Where two readers of a request could disagree, it is malformed."""
    inside = Inside()
    answered = ask(with_(*TWICE[case]), inside=inside)

    assert (400, "bad_request", []) == (answered.status, answered.code, inside.bodies)


# -- Origin and Sec-Fetch


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param(origin, id=f"{case} {origin}")
        for case, origin in [
            ("W15", "https://evil.example"),
            ("W15", "http://localhost:8001"),
            ("W15", "http://127.0.0.1.evil.example:8000"),
            ("W16", "null"),
            ("W16", ""),
            ("W17", "http://localhost:8000"),
            ("W18", "https://127.0.0.1:8000"),
            ("W18", "http://127.0.0.1:8000/"),
            ("W18", "127.0.0.1:8000"),
        ]
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
def test_a_page_of_another_origin_is_forbidden(origin: str, method: str) -> None:
    """An Origin that is not exactly the service's own is forbidden, and no answer speaks of CORS."""
    asks = (b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"authorization")
    answered = ask(with_((b"origin", origin.encode()), *asks), method=method)

    assert (403, "forbidden_origin") == (answered.status, answered.code)
    assert not [name for name in answered.headers if name.startswith(b"access-control")]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_of_our_own_is_served(scheme: str) -> None:
    """W18: the playground's requests carry the service's own origin."""
    own = (b"origin", f"{scheme}://127.0.0.1:8000".encode()), (b"sec-fetch-site", b"same-origin")

    assert 200 == ask(with_(*own), scheme=scheme).status


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "None", "same-origin, none"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_page_of_another_site_is_forbidden(site: str, method: str) -> None:
    """W19: a browser that says the request comes from elsewhere is believed."""
    assert "forbidden_origin" == ask(with_((b"sec-fetch-site", site.encode())), method=method).code


def test_a_typed_address_is_served() -> None:
    """W21: an address typed into a browser is nobody else's page."""
    assert 200 == ask(with_((b"sec-fetch-site", b"none")), method="GET").status


@pytest.mark.parametrize("mode", ["no-cors", "websocket"])
@pytest.mark.parametrize("site", ["same-origin", "none"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/reply"), ("GET", "/healthz"), ("GET", "/adapters")])
def test_what_a_page_cannot_read_it_may_not_ask(mode: str, site: str, method: str, path: str) -> None:
    """W20: an image, a form sent aside or a websocket is forbidden on every route, whatever site it is of."""
    inside = Inside()
    browser = (b"sec-fetch-site", site.encode()), (b"sec-fetch-mode", mode.encode())
    answered = ask(with_(*browser), method=method, path=path, inside=inside)

    assert (403, "forbidden_origin", []) == (answered.status, answered.code, inside.bodies)


@pytest.mark.parametrize("mode", ["cors", "same-origin", "navigate"])
def test_fetch_and_a_typed_address_may_ask(mode: str) -> None:
    """W20: what our own page and the address bar send passes."""
    assert 200 == ask(with_((b"sec-fetch-mode", mode.encode()))).status


@pytest.mark.parametrize("host", [b"localhost", b"evil.example", b"", b"a:b:c"])
def test_where_no_browser_can_come_from_any_host_passes(host: bytes) -> None:
    """W13: over a unix socket any Host passes; the token is still asked for, and two Hosts are still one too many."""
    named = (b"host", host)

    assert 200 == ask(with_(named), hosts=None).status
    assert "unauthorized" == ask(with_(named, without=b"authorization"), hosts=None).code
    assert "bad_request" == ask([*with_(named), named], hosts=None).code


# -- token

WRONG_TOKENS: dict[str, bytes | None] = {
    "none": None,
    "empty": b"",
    "scheme alone": b"Bearer",
    "scheme and space": b"Bearer ",
    "another": b"Bearer x",
    "a letter less": b"Bearer " + TOKEN[:-1].encode(),
    "a letter more": b"Bearer " + TOKEN.encode() + b"4",
    "another case": b"Bearer " + TOKEN.upper().encode(),
    "latin-1": "Bearer é".encode("latin-1"),
    "UTF-8": "Bearer é".encode(),
    "8 KB": b"Bearer " + b"x" * 8192,
    "Basic": b"Basic " + TOKEN.encode(),
    "without scheme": TOKEN.encode(),
    "two spaces": b"Bearer  " + TOKEN.encode(),
    "a tab": b"Bearer\t" + TOKEN.encode(),
}


@pytest.mark.parametrize("case", WRONG_TOKENS)
def test_without_the_token_nothing_is_learned(case: str) -> None:
    """W24: whatever is wrong with the token, the answer is the same, on every route, and asks for a token."""
    given = WRONG_TOKENS[case]
    headers = with_(without=b"authorization") if given is None else with_((b"authorization", given))
    answers = [
        ask(headers, method=method, path=path, inside=Inside(AssertionError()))
        for method, path in [
            ("POST", "/reply"),
            ("GET", "/adapters"),
            ("GET", "/nope"),
            ("OPTIONS", "/reply"),
            ("HEAD", "/"),
        ]
    ]

    assert {(401, "unauthorized", b"Bearer")} == {(a.status, a.code, a.headers[b"www-authenticate"]) for a in answers}
    assert 1 == len({a.body for a in [*answers, ask(with_(without=b"authorization"))]})


def test_a_token_elsewhere_is_no_token() -> None:
    """W24: a token in the query or in a cookie does not count."""
    headers = with_((b"cookie", b"token=" + TOKEN.encode()), without=b"authorization")

    assert 401 == ask(headers, query=b"token=" + TOKEN.encode()).status


@pytest.mark.parametrize("scheme", [b"bearer", b"BEARER", b"Bearer"])
def test_the_scheme_may_be_written_in_any_case(scheme: bytes) -> None:
    """W26: the scheme's name has no case."""
    assert 200 == ask(with_((b"authorization", scheme + b" " + TOKEN.encode()))).status


def test_the_token_comes_before_body_and_media_type() -> None:
    """Without a token neither a wrong media type nor a large body is told of."""
    headers = [HOST, (b"content-type", b"text/plain"), (b"content-length", b"99999999")]

    assert 401 == ask(headers).status


def test_healthz_is_open() -> None:
    """The one route that needs no token is the one that says nothing."""
    assert 200 == ask([HOST], method="GET", path="/healthz", chunks=[b""]).status
    assert 401 == ask([HOST], method="GET", path="/healthz/", chunks=[b""]).status
    assert 401 == ask([HOST], method="GET", path="/Healthz", chunks=[b""]).status


def test_no_auth_lets_everybody_on_this_machine_in() -> None:
    """W29: without a token the other doors stay shut."""
    assert 200 == ask([HOST, JSON], token=None).status
    assert 403 == ask([(b"host", b"evil.example"), JSON], token=None).status
    assert 403 == ask([HOST, JSON, (b"origin", b"http://evil.example")], token=None).status


def test_the_comparison_takes_the_same_time() -> None:
    """W28: tokens are compared by hmac.compare_digest alone."""
    text = Path(doors.__file__).read_text(encoding="utf-8")

    assert "hmac.compare_digest(given, self.token)" in text
    assert "== self.token" not in text and "!= self.token" not in text


# -- the token's file


def settings(path: Path | None, host: str = "127.0.0.1") -> Settings:
    return Settings(token_file=path, host=host)


def test_a_token_is_made_once(tmp_path: Path) -> None:
    """W28: a new token has 32 random bytes in a file of mode 0600 in a folder of mode 0700; later starts read it."""
    path = tmp_path / "new" / "token"
    token = _token(settings(path))

    assert token is not None and len(token) >= 43 and token == _token(settings(path))
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
    assert token != _token(settings(tmp_path / "another"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """W28: a token file that others may read or write is not used."""
    _token(settings(tmp_path / "token"))
    (tmp_path / "token").chmod(mode)

    with pytest.raises(Refused, match="chmod 600"):
        _token(settings(tmp_path / "token"))


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o777])
def test_a_token_in_a_folder_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """W28, P21: the folder of the token is its owner's alone too."""
    folder = tmp_path / "token folder"
    _token(settings(folder / "token"))
    folder.chmod(mode)

    with pytest.raises(Refused, match="chmod 700") as refusal:
        _token(settings(folder / "token"))
    assert "unsafe_file" == refusal.value.code


@pytest.mark.parametrize("text", ["", "\n", "short", "sixteen letters é and more", "two words of sixteen letters"])
def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path, text: str) -> None:
    """An empty or short token file is not used, nor one that no header could carry."""
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)

    with pytest.raises(Refused) as refusal:
        _token(settings(path))
    assert "weak_token" == refusal.value.code


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_without_a_token_only_this_machine_may_come(host: str) -> None:
    """W29: --no-auth is for loopback addresses."""
    assert _token(settings(None, host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "studio.local", "127.0.0.1.evil.example"])
def test_without_a_token_no_other_address_is_served(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    """W29, O42: --no-auth on another address is wrong usage, which ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        read_settings(["--no-auth", "--host", host], {})

    assert 2 == ended.value.code
    assert f"--no-auth on {host} would let everybody in" in capsys.readouterr().err


# -- media type and size


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/vnd.x+json"]
    + ["application/json; charset=utf-16", "application/json, text/plain", "application/jsonp", "text/json"],
)
def test_only_json_is_taken(kind: str) -> None:
    """W50, W51: another media type is unsupported, and the body is not read."""
    inside = Inside()
    answered = ask(with_((b"content-type", kind.encode())), inside=inside)

    assert (415, "unsupported_media_type", []) == (answered.status, answered.code, inside.bodies)


def test_no_media_type_is_none_of_ours() -> None:
    """W50: a POST without Content-Type is unsupported."""
    assert 415 == ask(with_(without=b"content-type")).status


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/json;charset=UTF-8", "APPLICATION/JSON"]
)
def test_json_may_be_said_in_several_ways(kind: str) -> None:
    """W51: case, spaces and the charset utf-8 do not matter."""
    assert 200 == ask(with_((b"content-type", kind.encode()))).status


def test_a_request_that_brings_nothing_needs_no_media_type() -> None:
    """GET has no body and so no media type."""
    assert 200 == ask(with_(without=b"content-type"), method="GET").status


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "GZIP", "", "gzip, identity", "identity, gzip"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_is_taken_as_it_is(encoding: str, method: str) -> None:
    """W39: a request with a Content-Encoding is unsupported, and its body is not read; without the token it is 401."""
    inside = Inside()
    packed = (b"content-encoding", encoding.encode())
    answered = ask(with_(packed), method=method, inside=inside)

    assert (415, "unsupported_media_type", []) == (answered.status, answered.code, inside.bodies)
    assert 401 == ask(with_(packed, without=b"authorization")).status


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_identity_is_no_encoding(encoding: str) -> None:
    """W39: a client may say that it did nothing to the body."""
    assert 200 == ask(with_((b"content-encoding", encoding.encode()))).status


@pytest.mark.parametrize(
    "length", [str(MAX_BODY + 1), "9" * 20, "9" * 5000, str(2**64), "-5", "+5", "0x5", "abc", "", "1 ", "²"]
)
def test_a_length_that_cannot_be_is_too_large(length: str) -> None:
    """W31, W40: a body announced too large, or by no number, is not read."""
    inside = Inside()
    answered = ask(with_((b"content-length", length.encode("latin-1"))), inside=inside)

    assert (413, "body_too_large", []) == (answered.status, answered.code, inside.bodies)


@pytest.mark.parametrize("announced", [[], [(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")]])
def test_a_body_that_grows_too_large_is_cut_off(announced: list[tuple[bytes, bytes]]) -> None:
    """W41: what counts is what came, not what was announced."""
    inside = Inside()
    half = b"x" * (MAX_BODY // 2)
    answered = ask(with_(*announced), chunks=[half, half, b"x", half], inside=inside)

    assert (413, "body_too_large", []) == (answered.status, answered.code, inside.bodies)


def test_a_body_of_the_largest_size_comes_in() -> None:
    """W41: a body of exactly the limit is read."""
    inside = Inside()
    half = b"x" * (MAX_BODY // 2)

    assert 200 == ask(with_((b"content-length", str(MAX_BODY).encode())), chunks=[half, half], inside=inside).status
    assert MAX_BODY == len(inside.bodies[0])


@pytest.mark.parametrize("model", [PromptRequest, ReloadRequest])
def test_an_empty_body_is_told_what_to_send(model: type[PromptRequest] | type[ReloadRequest]) -> None:
    """W52: where nothing at all was sent, the message shows what to add to a curl line."""
    with pytest.raises(Malformed, match="-d '{}'"):
        parse(model, b"")


# -- other doors


def test_a_websocket_is_closed() -> None:
    """W97: nothing here speaks websocket."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Doors(Inside(), frozenset(HOSTS), None)({"type": "websocket", "headers": []}, None, send))  # type: ignore[arg-type]
    assert [{"type": "websocket.close", "code": 1008}] == sent


def test_the_lifespan_goes_through() -> None:
    """Start and stop are the app's own business."""
    inside = Inside()

    asyncio.run(Doors(inside, frozenset(HOSTS), b"x")({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert [b"lifespan"] == inside.bodies


def test_what_nobody_caught_is_answered_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of the app becomes an envelope; log and answer have its kind at most."""
    answered = ask(inside=Inside(ValueError("Purple Walrus 7719")))

    assert (500, "internal") == (answered.status, answered.code)
    assert b"Walrus" not in answered.body
    assert "ValueError" in caplog.text and "Walrus" not in caplog.text
