"""What the service listens on, a TCP address or a unix socket, and what its clients call it. Knows no settings.

Both are context managers: what was bound is closed at the end, and a unix socket's file removed.
"""

import contextlib
import fcntl
import ipaddress
import os
import shlex
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from errors import Locked, Refused
from service.private import private_folder


@dataclass(frozen=True)
class Listening:
    """A place to be asked at.

    Attributes:
        socket: Bound; it need not listen yet.
        hosts: What a Host header may say, lower case; None: anything, as no browser comes this way.
        address: As people write it.
        curl: The beginning of a curl command; a path follows at once.
    """

    socket: socket.socket
    hosts: frozenset[str] | None
    address: str
    curl: str


def is_loopback(host: str) -> bool:
    """Only this machine can reach *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def on_address(host: str, port: int, certificate: Path | None = None) -> Iterator[Listening]:
    """*port* of *host*; 0 takes any free one.

    Args:
        certificate: Clients speak TLS and trust this file; None: they do not.

    Raises:
        Refused: ``port_in_use``, or whatever else keeps it from being bound.
    """
    with socket.socket(
        # With its protocol named, or asyncio would leave small writes to wait for each other: 40 ms a token.
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP,
    ) as listener:  # fmt: skip
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # '::' is no IPv4 address
        try:
            listener.bind((host, port))
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "no such host"
            raise Refused(
                f"cannot listen on {host}:{port} ({why}): choose another --port", code="port_in_use"
            ) from None
        port = listener.getsockname()[1]
        scheme, trusts = ("https", f" --cacert {shlex.quote(str(certificate))}") if certificate else ("http", "")
        address = f"{scheme}://{_in_url(host)}:{port}"
        yield Listening(listener, _hosts(host, port, scheme), address, f"curl{trusts} {address}")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _hosts(host: str, port: int, scheme: str) -> frozenset[str]:
    names = {_in_url(host).lower()}
    if is_loopback(host):
        names |= {"localhost", "127.0.0.1", "[::1]"}
    usual = {"http": 80, "https": 443}[scheme]
    return frozenset({f"{name}:{port}" for name in names} | (names if port == usual else set()))


@contextlib.contextmanager
def on_unix_socket(path: Path) -> Iterator[Listening]:
    """A socket at *path*, of mode 0600 in a folder of mode 0700, made if missing.

    It listens at once, so that a second service sees a first one that is still loading: who connects before the
    service is ready waits for it.

    Raises:
        Locked: If somebody listens there already.
        Refused: ``unsafe_file``, if the folder is open to others; ``socket_in_use``, if what is there is no socket of
            a service that has ended, or *path* cannot be bound.
    """
    private_folder(path.parent, "of the socket: give it one of its own")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _alone_in(path.parent):
            _clear(path)
            try:
                listener.bind(str(path))
                path.chmod(0o600)
                listener.listen()
            except (OSError, ValueError) as error:  # a path may be too long for a socket, or hold a NUL
                why = getattr(error, "strerror", None) or str(error)
                raise Refused(
                    f"cannot listen on {path} ({why}): choose another --socket", code="socket_in_use"
                ) from None
            made = _identity(path)
        try:
            yield Listening(listener, None, str(path), f"curl --unix-socket {shlex.quote(str(path))} http://localhost")
        finally:
            with contextlib.suppress(FileNotFoundError), _alone_in(path.parent):
                if _identity(path) == made:
                    path.unlink()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of two services that start at once, one looks and binds after the other."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def _clear(path: Path) -> None:
    """Remove what a service that has ended left at *path*."""
    try:
        kind = path.lstat().st_mode
    except OSError:
        return  # nothing there, or binding will say why not
    if not stat.S_ISSOCK(kind):
        raise Refused(f"{path} is there and is no socket: choose another --socket", code="socket_in_use")
    if _is_answered(path):
        raise Locked(f"another service listens on {path}: stop it, or give another --socket")
    path.unlink()


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # too busy to take us: somebody is there
    return True
