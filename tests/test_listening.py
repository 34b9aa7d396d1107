"""What the service listens on: addresses, unix sockets and TLS. Sockets and files are real ones."""

import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from errors import Locked, Refused, exit_code
from service.app import create_app, with_doors
from service.certificate import check_certificate
from service.engine import Engine
from service.listening import Listening, is_loopback, on_address, on_unix_socket
from service.settings import Settings
from tests.fakes import PATIENCE, TOKEN, FakeDevice


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A socket's place under a short name: a path of a hundred characters is too long for one."""
    short = Path("/tmp") / f"samevoice-{os.getpid()}-{threading.get_ident() % 10_000}"
    yield short / "socket"
    shutil.rmtree(short, ignore_errors=True)


@contextlib.contextmanager
def answering(listening: Listening, folder: Path, **config: object) -> Iterator[None]:
    """The service on fakes, behind its doors, answering there."""
    app = create_app(Settings(adapters=folder / "adapters"), Engine(FakeDevice))
    inside = with_doors(app, listening.hosts, TOKEN)
    server = uvicorn.Server(uvicorn.Config(inside, http="h11", ws="none", log_config=None, **config))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening.socket]})
    thread.start()
    try:
        until = time.monotonic() + PATIENCE
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def status(connection: socket.socket, host: str, more: str = "") -> int:
    """The status of ``GET /readyz``."""
    with connection:
        connection.settimeout(PATIENCE)
        connection.sendall(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n".encode())
        return int(connection.recv(100).split()[1])


BEARER = f"Authorization: Bearer {TOKEN}\r\n"


# -- addresses


def test_loopback_is_told_from_a_network() -> None:
    """Names are not looked up: only localhost is a name of this machine."""
    here = ["127.0.0.1", "127.8.9.1", "::1", "localhost"]
    elsewhere = ["0.0.0.0", "::", "", "192.168.1.4", "studio.local", "localhost.evil.example", "::ffff:1.2.3.4"]

    assert here == [host for host in here + elsewhere if is_loopback(host)]


def test_on_loopback_every_name_of_this_machine_may_be_asked_for() -> None:
    """A Host header names the machine as people do, with the port that was bound."""
    with on_address("127.0.0.1", 0) as listening:
        port = listening.socket.getsockname()[1]

        assert {f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"} == listening.hosts
        assert (f"http://127.0.0.1:{port}", f"curl http://127.0.0.1:{port}") == (listening.address, listening.curl)


def test_with_a_certificate_the_address_is_https() -> None:
    """curl is told whom to trust."""
    with on_address("127.0.0.1", 0, Path("my cert.pem")) as listening:
        port = listening.socket.getsockname()[1]

        assert f"curl --cacert 'my cert.pem' https://127.0.0.1:{port}" == listening.curl


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_an_ipv6_address_is_written_in_brackets() -> None:
    """W99: as in a URL; and '::' is no IPv4 address."""
    try:
        with on_address("::1", 0) as listening:
            port = listening.socket.getsockname()[1]
            assert f"http://[::1]:{port}" == listening.address and f"[::1]:{port}" in (listening.hosts or ())
            assert listening.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except Refused as refusal:
        pytest.skip(f"this machine has no IPv6 address: {refusal}")


def test_a_port_in_use_is_refused() -> None:
    """O40: exit code 1, and the message names the port."""
    with on_address("127.0.0.1", 0) as listening:
        listening.socket.listen()
        port = listening.socket.getsockname()[1]
        with pytest.raises(Refused, match=f"127.0.0.1:{port}") as refusal, on_address("127.0.0.1", port):
            pass

    assert ("port_in_use", 1) == (refusal.value.code, exit_code(refusal.value))


@pytest.mark.parametrize("host", ["256.1.1.1", "a" * 70 + ".example", "203.0.113.7", ":x"])
def test_what_is_no_address_of_ours_is_refused(host: str) -> None:
    """Whatever a host is, it is one line."""
    with pytest.raises(Refused, match="cannot listen on"), on_address(host, 0):
        pass


# -- unix sockets


def test_a_unix_socket_is_its_owners_alone(path: Path) -> None:
    """W98: mode 0600 in a folder of mode 0700 that is made, and gone at the end."""
    with on_unix_socket(path) as listening:
        assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
        assert listening.hosts is None
        assert f"curl --unix-socket {path} http://localhost" == listening.curl

    assert [] == list(path.parent.iterdir())


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o777])
def test_a_folder_open_to_others_is_refused(path: Path, mode: int) -> None:
    """W98: whoever may enter the folder could be asked in our place."""
    path.parent.mkdir()
    path.parent.chmod(mode)

    with pytest.raises(Refused, match="chmod 700") as refusal, on_unix_socket(path):
        pass
    assert ("unsafe_file", 1) == (refusal.value.code, exit_code(refusal.value))


def test_what_a_dead_server_left_is_replaced(path: Path) -> None:
    """W98: a socket that nobody listens on is in nobody's way."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    left = path.stat().st_ino, path.stat().st_ctime_ns

    with on_unix_socket(path):
        assert left != (path.stat().st_ino, path.stat().st_ctime_ns)


def test_a_live_server_is_left_alone(path: Path) -> None:
    """W98: the second one ends with exit code 3, even while the first is loading, and the first one's socket stays."""
    with on_unix_socket(path):
        made = path.stat().st_ino
        with pytest.raises(Locked, match="another service listens") as refusal, on_unix_socket(path):
            pass
        assert (made, 3) == (path.stat().st_ino, exit_code(refusal.value))


def test_a_live_server_that_is_too_busy_is_left_alone(path: Path) -> None:
    """W98: one that takes no more connections is no dead one."""
    path.parent.mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(path))
        with pytest.raises(Locked), on_unix_socket(path):
            pass


BESIDE: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("mine"),
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to("elsewhere"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_is_no_socket_is_left_alone(path: Path, case: str) -> None:
    """Nothing but a dead socket is ever removed."""
    path.parent.mkdir(mode=0o700)
    BESIDE[case](path)

    with pytest.raises(Refused, match="is no socket") as refusal, on_unix_socket(path):
        pass
    assert ("socket_in_use", True) == (refusal.value.code, os.path.lexists(path))


def test_a_path_too_long_for_a_socket_is_refused(path: Path) -> None:
    """One line, and no file is left."""
    with pytest.raises(Refused, match="too long") as refusal, on_unix_socket(path.with_name("x" * 120)):
        pass
    assert ("socket_in_use", []) == (refusal.value.code, list(path.parent.iterdir()))


def test_what_another_has_put_there_stays(path: Path) -> None:
    """At the end only our own socket is removed, and a folder that is gone is no error."""
    with on_unix_socket(path):
        path.unlink()
        path.write_text("another's")
    assert "another's" == path.read_text()

    with on_unix_socket(path.with_name("second")):
        shutil.rmtree(path.parent)


def test_the_service_answers_on_a_unix_socket(path: Path, tmp_path: Path) -> None:
    """W13, W98: any Host passes there, and the token is still wanted."""

    def connected() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return connection

    with on_unix_socket(path) as listening, answering(listening, tmp_path):
        assert [200, 200] == [status(connected(), host, BEARER) for host in ("localhost", "evil.example")]
        assert 401 == status(connected(), "localhost")


# -- TLS


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates for 127.0.0.1, 0.pem and 1.pem, their keys, and a key with a password."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("pairs")
    made = "req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -days 2".split()
    for number in (0, 1):
        files = ["-keyout", str(folder / f"{number}.key"), "-out", str(folder / f"{number}.pem")]
        subprocess.run([program, *made, *files], check=True, capture_output=True)
    locked = ["-aes256", "-passout", "pass:secret", "-in", str(folder / "0.key"), "-out", str(folder / "locked.key")]
    subprocess.run([program, "rsa", *locked], check=True, capture_output=True)
    for key in folder.glob("*.key"):
        key.chmod(0o600)
    return folder


def test_the_service_answers_over_tls(pairs: Path, tmp_path: Path) -> None:
    """With a certificate it speaks TLS and nothing else; its own origin is https then."""
    trusting = ssl.create_default_context(cafile=str(pairs / "0.pem"))
    check_certificate(pairs / "0.pem", pairs / "0.key")
    with on_address("127.0.0.1", 0, pairs / "0.pem") as listening:
        port = listening.socket.getsockname()[1]

        def connected() -> ssl.SSLSocket:
            return trusting.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")

        files = {"ssl_certfile": pairs / "0.pem", "ssl_keyfile": pairs / "0.key"}
        with answering(listening, tmp_path, **files):
            host = f"127.0.0.1:{port}"
            assert 200 == status(connected(), host, BEARER + f"Origin: https://{host}\r\n")
            assert 403 == status(connected(), host, BEARER + f"Origin: http://{host}\r\n")
            with pytest.raises((ConnectionError, IndexError)):
                status(socket.create_connection(("127.0.0.1", port)), host, BEARER)


@pytest.mark.parametrize(
    ("certificate", "key", "code"),
    [
        ("0.pem", "1.key", "bad_certificate"),
        ("0.key", "0.pem", "unsafe_file"),
        ("0.key", "0.key", "bad_certificate"),
        ("0.pem", "locked.key", "bad_certificate"),
        ("none.pem", "0.key", "no_file"),
        ("0.pem", "none.key", "no_file"),
    ],
)
def test_what_is_no_pair_is_refused(pairs: Path, certificate: str, key: str, code: str) -> None:
    """One line that names the files, and nobody is asked for a password."""
    (pairs / "0.pem").chmod(0o644)
    with pytest.raises(Refused) as refusal:
        check_certificate(pairs / certificate, pairs / key)

    assert (code, 1) == (refusal.value.code, len(str(refusal.value).splitlines()))
    assert "none" not in key + certificate or "none." in str(refusal.value)


def test_a_key_that_others_can_read_is_refused(pairs: Path, tmp_path: Path) -> None:
    """Whoever has the key can answer in our place."""
    key = tmp_path / "copy.key"
    key.write_bytes((pairs / "0.key").read_bytes())
    key.chmod(0o640)

    with pytest.raises(Refused, match="chmod 600") as refusal:
        check_certificate(pairs / "0.pem", key)
    assert "unsafe_file" == refusal.value.code
