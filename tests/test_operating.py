"""docs/operating.md says what the settings are, and the supervisors' files what the exit codes mean."""

import plistlib
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from service.settings import Settings
from tests.test_settings import EVERY

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy/samevoice.service").read_text(encoding="utf-8")
AGENT = ROOT / "deploy/agent.sh"


def test_every_setting_stands_in_the_page() -> None:
    """The table has each option with its environment name and default, in the order of the settings, and no other."""
    rows = re.findall(r"^\| `(--[\w-]+)` \| `(SAMEVOICE_\w+)` \| (?:`(.*?)`|none) \|", PAGE, re.M)
    default = vars(Settings())

    assert [
        (option, variable, "" if default[name] is None else str(default[name]))
        for name, (option, variable, _, _) in EVERY.items()
    ] == rows


def test_every_file_that_the_page_links_is_there() -> None:
    """No link of the page leads nowhere, and the README leads to it."""
    links = re.findall(r"\]\(([^)]+)\)", PAGE)

    assert links and all((ROOT / "docs" / link).is_file() for link in links)
    assert "(docs/operating.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_systemd_starts_anew_what_failed_and_not_what_was_refused() -> None:
    """Exit code 70 means a new start; 1, 2 and 3 do not."""
    said = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.M))

    assert ("on-failure", "1 2 3") == (said["Restart"], said["RestartPreventExitStatus"])
    assert ("0077", "yes", "yes", "strict") == tuple(
        said[name] for name in ("UMask", "NoNewPrivileges", "PrivateTmp", "ProtectSystem")
    )
    assert '"@PROJECT@/.venv/bin/python" -m service' == said["ExecStart"]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say against it."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    python = tmp_path / "a project/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(shutil.which("true") or "/bin/true")
    unit = tmp_path / "samevoice.service"
    unit.write_text(UNIT.replace("@PROJECT@", str(tmp_path / "a project")), encoding="utf-8")

    found = subprocess.run(
        [program, "verify", "--user", str(unit)], env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (0, "") == (found.returncode, found.stderr)


def test_launchd_understands_the_agent() -> None:
    """A property list whose paths are in the project, for its owner alone, started anew where it did not end well."""
    raw = (ROOT / "deploy/org.samevoice.service.plist").read_bytes().replace(b"@PROJECT@", str(ROOT).encode())
    agent = plistlib.loads(raw)

    assert ("org.samevoice.service", {"SuccessfulExit": False}) == (agent["Label"], agent["KeepAlive"])
    assert (0o077, 10, True) == (agent["Umask"], agent["ThrottleInterval"], agent["RunAtLoad"])
    assert ["/bin/sh", str(AGENT)] == agent["ProgramArguments"] and AGENT.is_file()
    log = str(ROOT / ".samevoice/service.log")
    assert [log, log] == [agent["StandardOutPath"], agent["StandardErrorPath"]]


def fake_service(project: Path, script: str) -> None:
    """Something that stands where the project's Python stands."""
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)


@pytest.mark.parametrize(("code", "told"), [(0, 0), (1, 0), (2, 0), (3, 0), (70, 70), (139, 139)])
def test_launchd_is_told_that_a_refusal_ended_well(tmp_path: Path, code: int, told: int) -> None:
    """launchd has no codes that prevent a new start: 1, 2 and 3 reach it as 0, and failures as they are."""
    fake_service(tmp_path, f"exit {code}")

    assert told == subprocess.run(["/bin/sh", str(AGENT)], cwd=tmp_path).returncode


def test_the_agent_gives_settings_and_signals_on(tmp_path: Path) -> None:
    """The service sees .samevoice/environment, and has the time that it takes to end when it is told to."""
    fake_service(
        tmp_path,
        'trap "sleep 0.3; echo ended; exit 70" TERM; echo "$SAMEVOICE_PORT $*"; for _ in 1 2 3 4 5; do sleep 1; done',
    )
    (tmp_path / ".samevoice").mkdir()
    (tmp_path / ".samevoice/environment").write_text("SAMEVOICE_PORT=9000\n")
    with subprocess.Popen(["/bin/sh", str(AGENT)], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "9000 -m service\n" == process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert ("ended\n", 70) == (process.stdout.read(), process.wait(20))


def made(project: Path, system: str, target: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """*target* made in *project* where ``uname`` says *system* and there is nothing but *programs*: name -> script."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    folder = project / "programs"
    folder.mkdir(exist_ok=True)
    for name in ("sh", "mkdir", "chmod", "sed", "id", "rm", "cat"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    for name, script in {"uname": f"echo {system}", **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o700)
    shutil.copy(ROOT / "Makefile", project)
    shutil.copytree(ROOT / "deploy", project / "deploy", dirs_exist_ok=True)
    command = [make, "-s", "-o", "setup", target]
    environment = {"PATH": str(folder), "HOME": str(project)}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_make_says_what_to_do_where_there_is_no_supervisor(tmp_path: Path) -> None:
    """Where neither launchd nor systemd is, install-service ends with the command and the exit codes that matter."""
    found = made(tmp_path, "Other", "install-service", systemctl="exit 1")

    assert found.returncode != 0
    assert f"cd '{tmp_path}' && .venv/bin/python -m service" in found.stdout and "exit code 70" in found.stdout
    assert 0o700 == (tmp_path / ".samevoice").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("system", "program", "place", "starts"),
    [
        ("Linux", "systemctl", ".config/systemd/user/samevoice.service", "--user restart samevoice.service"),
        ("Darwin", "launchctl", "Library/LaunchAgents/org.samevoice.service.plist", "bootstrap gui/"),
    ],
)
def test_make_installs_and_removes(tmp_path: Path, system: str, program: str, place: str, starts: str) -> None:
    """The file with the project's folder filled in, and the supervisor told; removing takes the file away again."""
    told = {program: f'echo "$*" >>"{tmp_path}/told"'}
    installed = made(tmp_path, system, "install-service", **told)

    assert 0 == installed.returncode, installed
    text = (tmp_path / place).read_text(encoding="utf-8")
    assert str(tmp_path) in text and "@PROJECT@" not in text
    assert starts in (tmp_path / "told").read_text()

    assert 0 == made(tmp_path, system, "remove-service", **told).returncode
    assert not (tmp_path / place).exists()


@pytest.mark.parametrize("name", ["a&b", "50%", "a$b"])
def test_make_refuses_a_folder_that_units_cannot_name(tmp_path: Path, name: str) -> None:
    """Rather than a unit that starts something else."""
    (tmp_path / name).mkdir()
    found = made(tmp_path / name, "Linux", "install-service", systemctl="exit 0")

    assert found.returncode != 0 and "move the project" in found.stdout
    assert not (tmp_path / name / ".config").exists()
