"""Damage a sample export in some thousand ways and import each: ``python -m tests.fuzz_source SOURCE [COUNT]``.

A process of its own, so that its memory can be measured and a hang cannot stop the tests. Prints one JSON object.
Every import must end with a coverage report or an error of ours: nothing else, within 5 s each, within 300 MB in all.
"""

import importlib
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import FrameType

from errors import SamevoiceError
from training.history import import_messages
from training.sources.options import Options

LIMIT_S = 5


@dataclass(frozen=True)
class Sample:
    """A small export of a source, with some of everything it can hold, as ``tests/writers/<source>.py`` writes it."""

    path: Path
    me: tuple[str, ...] = ()


class TooSlow(Exception):
    """An import took longer than LIMIT_S."""


def main(source: str, count: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        sample = importlib.import_module(f"tests.writers.{source.replace('-', '_')}").sample(Path(name))
        signal.signal(signal.SIGALRM, _too_slow)
        outcomes: Counter[str] = Counter()
        failures = []
        slowest = 0.0
        work = Path(name, "mutant")
        for number in range(count):
            export = _mutant(sample.path, work, random.Random(f"{source}{number}"))
            began = time.perf_counter()
            try:
                outcomes[_import(source, export, sample.me, work)] += 1
            except Exception as error:  # noqa: BLE001  whatever it is, it is what this program looks for
                failures.append(f"{number}: {type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1][:3]}")
            slowest = max(slowest, time.perf_counter() - began)
            shutil.rmtree(work)
    found = {"mutants": count, **outcomes, "slowest_s": slowest, "peak_mb": _peak_mb(), "failures": failures[:20]}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _import(source: str, export: Path, me: tuple[str, ...], work: Path) -> str:
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        coverage = import_messages(source, export, Options(me=me, zone=UTC), work / "out.jsonl")
    except SamevoiceError as error:
        assert error.message and "Traceback" not in str(error)
        return "refused"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    coverage.as_json(), coverage.lines()
    return "said_so" if coverage.not_understood or coverage.notes else "whole"


def _peak_mb() -> float:
    """The most memory this program ever held. On Linux getrusage would count what its parent held as well."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _mutant(original: Path, work: Path, pick: random.Random) -> Path:
    """A damaged copy of *original*: of one of its files, or of the zip around them."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    copy = work / original.name
    if original.is_dir():
        shutil.copytree(original, copy)
        victim = pick.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
        victim.write_bytes(_damaged(victim.read_bytes(), pick))
        return copy
    data = original.read_bytes()
    if data.startswith(b"PK") and pick.random() < 0.7:
        with zipfile.ZipFile(original) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        victim_name = pick.choice(sorted(members))
        members[victim_name] = _damaged(members[victim_name], pick)
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return copy
    copy.write_bytes(_damaged(data, pick))
    return copy


def _damaged(data: bytes, pick: random.Random) -> bytes:
    for _ in range(pick.choice([1, 1, 1, 2, 5])):
        data = pick.choice(MUTATIONS)(data, pick)
    return data


def _truncated(data: bytes, pick: random.Random) -> bytes:
    return data[: pick.randrange(len(data) + 1)]


def _flipped(data: bytes, pick: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(pick.choice([1, 1, 10, 100])):
        if found:
            found[pick.randrange(len(found))] ^= 1 << pick.randrange(8)
    return bytes(found)


def _cut(data: bytes, pick: random.Random) -> bytes:
    start = pick.randrange(len(data) + 1)
    return data[:start] + data[start + pick.randrange(1, 200) :]


def _repeated(data: bytes, pick: random.Random) -> bytes:
    start = pick.randrange(len(data) + 1)
    piece = data[start : start + pick.randrange(1, 400)]
    return data[:start] + piece * pick.choice([2, 2, 50]) + data[start:]


def _inserted(data: bytes, pick: random.Random) -> bytes:
    start = pick.randrange(len(data) + 1)
    return data[:start] + pick.choice(RUBBISH) + data[start:]


def _replaced(data: bytes, pick: random.Random) -> bytes:
    """A number or a word of it becomes an odd one."""
    old, new = pick.choice(SWAPS)
    return data.replace(old, new, pick.choice([1, 1, -1]))


def _recoded(data: bytes, pick: random.Random) -> bytes:
    text = data.decode("utf-8", errors="replace")
    return text.encode(pick.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig"]), "replace")


def _nothing(data: bytes, pick: random.Random) -> bytes:
    return pick.choice([b"", b"\x00" * 100, b"\xff" * 100, pick.randbytes(500), b"\n" * 10_000])


RUBBISH = [
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b'"', b"\\", b"\n", b"\r", b"<", b"&", b"]]>", b"}", b"[" * 5000,
    b"{\"a\":" * 5000, b"9" * 400, b"-", b"1e999", b"NaN", b"null", b"true", b"\xe2\x80\x8e", b"\xe2\x80\xae",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"x" * 200_000,
]  # fmt: skip
SWAPS = [
    (b"1", b"99999999999999999999"), (b"2", b"-1"), (b"0", b"null"), (b'"', b""), (b":", b""), (b",", b""),
    (b"{", b"["), (b"20", b"00"), (b"true", b"7"), (b"false", b'""'), (b"null", b"{}"), (b"[", b"{"), (b"]", b""),
    (b"<", b"<<"), (b"=", b""),
    (b'":"', b'":["'), (b'": "', b'": {"'), (b'": [', b'": 5, "x": ['), (b'": {', b'": true, "x": {'), (b"\n", b"\r"),
]  # fmt: skip
MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    _truncated, _truncated, _flipped, _flipped, _cut, _repeated, _inserted, _inserted, _replaced, _replaced, _recoded,
    _nothing,
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000))
