"""--check: the same refusals as a start, the same screen, and nothing left behind."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from errors import BaseRefused
from prompt_format.manifest import CONFIG
from service.__main__ import main
from service.checking import check
from service.engine import Engine
from service.registry import Registry
from service.settings import Settings
from tests.fakes import FakeDevice, make_adapter, write
from tests.registries import spoil

STARTER = str(Path("base_model/starter").resolve())


@pytest.fixture(autouse=True)
def _a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """main() sets the umask of the process; and it looks at the folder that it is started in."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    yield
    os.umask(before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shown(store: Path) -> list[tuple[str, str | None]]:
    """What a check announces: each name, and what it would answer with."""
    found: list[tuple[str, str | None]] = []

    def announce(registry: Registry) -> None:
        found.extend((row["name"], row["generation"]) for row in registry.describe())

    device = FakeDevice()
    check(Settings(adapters=store), Engine(lambda: device), announce)
    assert device.closed
    return found


def test_a_check_tells_what_would_be_served(tmp_path: Path) -> None:
    """Adapters are read, checked and staged as at a start; the store is left byte for byte as it was."""
    store = tmp_path / "adapters"
    generation = make_adapter(store)
    make_adapter(store, "mo")
    spoil(store, "mo")
    before = contents(store)

    assert [("jo", generation), ("mo", None)] == shown(store)
    assert before == contents(store)


def test_a_base_that_cannot_be_used_is_refused() -> None:
    """What the engine says of the base is what the check says, and nothing is announced."""

    def refuse() -> FakeDevice:
        raise BaseRefused("no model there")

    told: list[Registry] = []
    with pytest.raises(BaseRefused, match="no model there"):
        check(Settings(), Engine(refuse), told.append)
    assert [] == told


# -- the whole command


def token_open(here: Path) -> None:
    (here / ".samevoice").mkdir(mode=0o700)
    write(here / ".samevoice/token", b"a-token-of-invented-letters-0123")
    (here / ".samevoice/token").chmod(0o644)


def store_open(here: Path) -> None:
    make_adapter(here / "adapters")
    (here / "adapters").chmod(0o755)


def no_config(here: Path) -> None:
    (here / "model").mkdir()


REFUSED: dict[str, tuple[str, list[str], Callable[[Path], object]]] = {
    "W28 token for all to read": ("unsafe_file", [], token_open),
    "W28 token folder for all to read": ("unsafe_file", [], lambda here: (here / ".samevoice").mkdir(mode=0o755)),
    "P21 store for all to read": ("unsafe_file", [], store_open),
    "the store is a file": ("no_folder", [], lambda here: write(here / "adapters", b"")),
    "W98 socket folder for all to read": (
        "unsafe_file", ["--socket", "s/socket"], lambda here: (here / "s").mkdir(mode=0o755),
    ),
    "O44 no model": ("base_refused", ["--model", "./nowhere"], lambda here: None),
    "O44 no config": ("base_refused", ["--model", "./model"], no_config),
    "O43 too little memory": ("memory_budget", ["--model", STARTER, "--memory-gb", "0.01"], lambda here: None),
    "no certificate": ("no_file", ["--certificate", "c.pem", "--key", "k.pem"], lambda here: None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_start_refuses_a_check_refuses(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """O45: the same message and exit code 1 of both, the check first: it mends nothing."""
    code, arguments, spoil_it = REFUSED[case]
    os.umask(0)
    spoil_it(tmp_path)
    said = []
    for more in (["--check"], []):
        assert 1 == main(["--port", "0", *arguments, *more])
        said.append([line for line in capsys.readouterr().err.splitlines() if not line.startswith("note")])

    assert said[0] == said[1]
    assert f"error [{code}]" in said[0][0] or (code == "base_refused" and said[0][0].startswith("error ["))


def test_a_port_in_use_is_refused_by_both(capsys: pytest.CaptureFixture[str]) -> None:
    """O40, O45: exit code 1, and the port is named."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for more in (["--check"], []):
            assert 1 == main(["--port", port, *more])
            assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_a_check_starts_nothing_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 and the start screen; of a first start there is the lock of the store and no token yet."""
    assert 0 == main(["--check", "--model", STARTER, "--port", "0", "--rows", "1"])

    out = capsys.readouterr().out
    assert "token     in .samevoice/token, which a start will make" in out
    assert "checked   http://127.0.0.1:" in out and "ready" not in out and "sum " in out
    assert {"adapters/.serving": b""} == contents(tmp_path)


def test_an_open_store_with_nothing_in_it_is_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P21: a checkout brings the store's folder as git makes folders; that is no reason to refuse a first start."""
    store = tmp_path / "adapters"
    store.mkdir()
    store.chmod(0o755)
    write(store / ".gitignore", b"*")
    main(["--check", "--model", "./nowhere", "--port", "0"])

    assert 0o700 == store.stat().st_mode & 0o777
    assert "unsafe_file" not in capsys.readouterr().err


def test_a_bad_adapter_does_not_keep_a_check_from_passing(tmp_path: Path) -> None:
    """As a start it says which adapter is refused, and serves the others."""
    generation = make_adapter(tmp_path / "adapters")
    write(tmp_path / "adapters/jo" / generation / CONFIG, b"{}")

    assert [("jo", None)] == shown(tmp_path / "adapters")
