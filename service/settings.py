"""Every setting of the service, its default, and where it comes from: the command line, then ``SAMEVOICE_*``."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.listening import is_loopback


@dataclass(frozen=True)
class Settings:
    """As resolved.

    Attributes:
        rank: The largest adapter rank that fits a slot.
        rows: How many replies decode at once.
        context: Tokens that a prompt and its reply may take together; the base's own context if that is less.
        prefix_cache_mb: The most that prompts already read may keep in memory; 0 keeps none.
        memory_gb: What the service may need in memory at most; None: what is found to be there.
        socket: A unix socket to listen on; then *host* and *port* are of no use.
        certificate: With *key*: TLS, by files in PEM.
        check: Only say what would be served. Not a setting that is printed.
    """

    model: str = "base_model/starter"
    adapters: Path = Path("adapters")
    adapter: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = Path(".samevoice/token")
    slots: int = 8
    rank: int = 16
    rows: int = 16
    waiting: int = 64
    deadline_s: float = 120.0
    context: int = 4096
    prefix_cache_mb: int = 512
    memory_gb: float | None = None
    socket: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check: bool = False

    def lines(self) -> list[str]:
        """``name = value``, to be printed at start."""
        return [f"{name} = {value}" for name, value in vars(self).items() if name != "check"]

    def warnings(self) -> list[str]:
        """What works and should be known."""
        if self.socket is not None:
            return []
        found = []
        if self.token_file is None:
            found.append("--no-auth: every program and every user of this machine can use the service")
        if not is_loopback(self.host) and self.certificate is None:
            found.append(
                f"{self.host} is reached over a network, where messages and the token can be read: "
                "give --certificate and --key"
            )
        return found


def read_settings(arguments: Sequence[str] | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that *arguments* and *environment* give. Wrong usage ends the process with exit code 2."""
    default = Settings()

    def of(name: str, otherwise: object) -> str:
        return environment.get(f"SAMEVOICE_{name}", str(otherwise))

    parser = argparse.ArgumentParser(prog="python -m service", description="Serve replies in your voice.")
    parser.add_argument("--model", default=of("MODEL", default.model), help="folder or hub id of the base model")
    parser.add_argument("--adapters", type=Path, default=of("ADAPTERS", default.adapters), help="the adapter store")
    parser.add_argument("--adapter", default=environment.get("SAMEVOICE_ADAPTER"), help="answers when none is named")
    parser.add_argument("--host", default=of("HOST", default.host))
    parser.add_argument("--port", type=int, default=of("PORT", default.port), help="0 takes any free port")
    auth = parser.add_mutually_exclusive_group()
    auth.add_argument("--token-file", type=Path, default=of("TOKEN_FILE", default.token_file), help="made if absent")
    auth.add_argument("--no-auth", action="store_true", help="no token, on a loopback address only")
    parser.add_argument(
        "--socket", type=_path, default=of("SOCKET", ""), help="listen on this unix socket, not on a host and port"
    )
    parser.add_argument("--certificate", type=_path, default=of("CERTIFICATE", ""), help="for TLS, with --key; PEM")
    parser.add_argument("--key", type=_path, default=of("KEY", ""), help="of the certificate; PEM, without a password")
    parser.add_argument("--check", action="store_true", help="say what would be served, and start nothing")
    parser.add_argument("--slots", type=int, default=of("SLOTS", default.slots), help="adapters in memory at once")
    parser.add_argument("--rank", type=int, default=of("RANK", default.rank), help="largest adapter rank")
    parser.add_argument("--rows", type=int, default=of("ROWS", default.rows), help="replies decoded at once")
    parser.add_argument("--waiting", type=int, default=of("WAITING", default.waiting), help="replies queued at most")
    parser.add_argument("--deadline", type=float, default=of("DEADLINE", default.deadline_s), help="seconds a reply")
    parser.add_argument(
        "--context", type=int, default=of("CONTEXT", default.context), help="tokens of a prompt and its reply"
    )
    parser.add_argument(
        "--prefix-cache-mb", type=int, default=of("PREFIX_CACHE_MB", default.prefix_cache_mb), help="0 keeps none"
    )
    parser.add_argument(
        "--memory-gb", type=float, default=environment.get("SAMEVOICE_MEMORY_GB"), help="if not what is there"
    )
    options = parser.parse_args(arguments)
    bounds = {
        "slots": (1, 256), "rank": (1, 256), "rows": (1, 256), "waiting": (1, 10_000), "port": (0, 65535),
        "deadline": (0.1, 86_400), "context": (64, 1_000_000), "prefix_cache_mb": (0, 1_000_000),
        "memory_gb": (0.001, 1_000_000),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name.replace('_', '-')} must be between {low} and {high}")
    _check_together(parser, options)
    return Settings(
        options.model, options.adapters, options.adapter, options.host, options.port,
        None if options.no_auth else options.token_file,
        options.slots, options.rank, options.rows, options.waiting, options.deadline,
        options.context, options.prefix_cache_mb, options.memory_gb,
        options.socket, options.certificate, options.key, options.check,
    )  # fmt: skip


def _path(written: str) -> Path | None:
    return Path(written) if written else None


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the process with exit code 2 where options do not go together."""
    if (options.certificate is None) != (options.key is None):
        parser.error("--certificate and --key are given together or not at all")
    if options.socket is not None and options.certificate is not None:
        parser.error("--certificate is of no use with --socket: what goes through it stays on this machine")
    if options.no_auth and options.socket is None and not is_loopback(options.host):
        parser.error(f"--no-auth on {options.host} would let everybody in: use a token")
