"""Settings come from the command line, then the environment, then the defaults; wrong usage ends with exit code 2."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings, read_settings

# Setting -> (option, variable, how it is written, what it becomes).
EVERY = {
    "model": ("--model", "SAMEVOICE_MODEL", "LiquidAI/LFM2-700M", "LiquidAI/LFM2-700M"),
    "adapters": ("--adapters", "SAMEVOICE_ADAPTERS", "/srv/adapters", Path("/srv/adapters")),
    "adapter": ("--adapter", "SAMEVOICE_ADAPTER", "jo", "jo"),
    "host": ("--host", "SAMEVOICE_HOST", "::1", "::1"),
    "port": ("--port", "SAMEVOICE_PORT", "0", 0),
    "token_file": ("--token-file", "SAMEVOICE_TOKEN_FILE", "/run/token", Path("/run/token")),
    "slots": ("--slots", "SAMEVOICE_SLOTS", "2", 2),
    "rank": ("--rank", "SAMEVOICE_RANK", "64", 64),
    "rows": ("--rows", "SAMEVOICE_ROWS", "1", 1),
    "waiting": ("--waiting", "SAMEVOICE_WAITING", "10000", 10_000),
    "deadline_s": ("--deadline", "SAMEVOICE_DEADLINE", "1.5", 1.5),
    "context": ("--context", "SAMEVOICE_CONTEXT", "1000000", 1_000_000),
    "prefix_cache_mb": ("--prefix-cache-mb", "SAMEVOICE_PREFIX_CACHE_MB", "0", 0),
    "memory_gb": ("--memory-gb", "SAMEVOICE_MEMORY_GB", "0.5", 0.5),
    "socket": ("--socket", "SAMEVOICE_SOCKET", "/run/socket", Path("/run/socket")),
    "certificate": ("--certificate", "SAMEVOICE_CERTIFICATE", "cert.pem", Path("cert.pem")),
    "key": ("--key", "SAMEVOICE_KEY", "key.pem", Path("key.pem")),
}
# A certificate without its key is wrong usage.
ALONG = {"certificate": {"SAMEVOICE_KEY": "k"}, "key": {"SAMEVOICE_CERTIFICATE": "c"}}
ALSO: dict[str, dict[str, Any]] = {"certificate": {"key": Path("k")}, "key": {"certificate": Path("c")}}


def test_every_setting_is_tried_here() -> None:
    """The table of these tests knows every setting."""
    assert [field.name for field in dataclasses.fields(Settings)] == [*EVERY, "check"]


def test_without_arguments_the_defaults_hold() -> None:
    """Nothing said is the default, which is a loopback address and a token."""
    found = read_settings([], {})

    assert Settings() == found
    assert ("127.0.0.1", 8000, True) == (found.host, found.port, found.token_file is not None)


@pytest.mark.parametrize("name", EVERY)
def test_the_command_line_sets(name: str) -> None:
    """An option sets its setting and no other."""
    option, _, written, value = EVERY[name]
    expected = dataclasses.replace(Settings(), **{name: value}, **ALSO.get(name, {}))

    assert expected == read_settings([option, written], ALONG.get(name, {}))


@pytest.mark.parametrize("name", EVERY)
def test_the_environment_sets(name: str) -> None:
    """A variable sets its setting and no other."""
    _, variable, written, value = EVERY[name]
    expected = dataclasses.replace(Settings(), **{name: value}, **ALSO.get(name, {}))

    assert expected == read_settings([], {variable: written, "OTHER": "x", **ALONG.get(name, {})})


@pytest.mark.parametrize("name", EVERY)
def test_the_command_line_wins_over_the_environment(name: str) -> None:
    """Where both speak, the command line is heard."""
    option, variable, written, value = EVERY[name]

    assert value == getattr(read_settings([option, written], {variable: "77", **ALONG.get(name, {})}), name)


def test_no_auth_means_no_token() -> None:
    """--no-auth takes the token away, even one that the environment names."""
    assert read_settings(["--no-auth"], {"SAMEVOICE_TOKEN_FILE": "/run/token"}).token_file is None


WRONG = [
    ["--port", "-1"], ["--port", "65536"], ["--port", "http"], ["--port", "80.5"],
    ["--slots", "0"], ["--slots", "257"], ["--slots", "many"], ["--rank", "0"], ["--rank", "257"],
    ["--rows", "0"], ["--rows", "-3"], ["--waiting", "0"], ["--waiting", "10001"],
    ["--deadline", "soon"], ["--deadline", "0"], ["--deadline", "-1"], ["--deadline", "nan"], ["--deadline", "inf"],
    ["--context", "63"], ["--context", "1000001"], ["--context", "4e3"], ["--prefix-cache-mb", "-1"],
    ["--prefix-cache-mb", "1000001"], ["--prefix-cache-mb", "0.5"], ["--memory-gb", "0"], ["--memory-gb", "-2"],
    ["--memory-gb", "nan"], ["--memory-gb", "inf"], ["--memory-gb", "all"],
    ["--certificate", "c"], ["--key", "k"], ["--socket", "s", "--certificate", "c", "--key", "k"],
    ["--no-auth", "--host", "0.0.0.0"], ["--no-auth", "--host", ""],
    ["--no-auth", "--token-file", "x"], ["--unknown"], ["jo"], ["--model"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_ends_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be meant is said on standard error, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        read_settings(arguments, {})

    assert 2 == ended.value.code
    assert "usage: python -m service" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SAMEVOICE_PORT", "x"), ("SAMEVOICE_SLOTS", "0"), ("SAMEVOICE_DEADLINE", "nan"), ("SAMEVOICE_CONTEXT", "1"),
        ("SAMEVOICE_MEMORY_GB", ""),
    ],
)  # fmt: skip
def test_a_wrong_environment_ends_with_code_2(variable: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable is checked as its option is."""
    with pytest.raises(SystemExit) as ended:
        read_settings([], {variable: value})
    assert 2 == ended.value.code


def test_wrong_usage_names_the_option_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """An option of several words is named with its hyphens."""
    with pytest.raises(SystemExit):
        read_settings(["--prefix-cache-mb", "-1"], {})

    assert "--prefix-cache-mb must be between 0 and 1000000" in capsys.readouterr().err


def test_settings_are_printed_as_resolved() -> None:
    """Each setting is one line, name = value."""
    lines = read_settings(["--port", "9000"], {"SAMEVOICE_MODEL": "x"}).lines()

    assert list(EVERY) == [line.split(" = ")[0] for line in lines]
    assert {"port = 9000", "model = x"} <= set(lines)


NETWORK = ["--host", "192.168.1.4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], []),
        (["--no-auth"], ["--no-auth: every program"]),
        (["--no-auth", "--host", "::1"], ["--no-auth: every program"]),
        (NETWORK, ["192.168.1.4 is reached over a network"]),
        ([*NETWORK, "--certificate", "c", "--key", "k"], []),
        (["--socket", "s", "--no-auth", *NETWORK], []),
    ],
)
def test_what_works_and_should_be_known_is_a_warning(arguments: list[str], words: list[str]) -> None:
    """W29: no token, or a network without TLS, is a warning each; a socket's folder keeps everybody else out."""
    found = read_settings(arguments, {}).warnings()

    assert len(words) == len(found) and all(line.startswith(start) for line, start in zip(found, words, strict=True))


def test_a_check_is_no_setting() -> None:
    """--check says what to do, so it is not printed among the settings, nor taken from the environment."""
    found = read_settings(["--check"], {})

    assert found.check and Settings().lines() == found.lines()
    assert not read_settings([], {"SAMEVOICE_CHECK": "1"}).check
