"""How import and build grow with a history: chat.db of 10,000, 100,000 and 1,000,000 messages in 500 chats.

Each is a command as a user runs it, in a process of its own: seconds on the clock, seconds of CPU, and the highest sum
of the resident memory of it and its children (on Linux; elsewhere of the largest process).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

from benchmarks.figures import FOLDER, write_figures
from tests.writers.imessage import write_many

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CHATS = 500
SIZES = (10_000, 100_000, 1_000_000)
POLL_S = 0.1


@dataclass
class Cost:
    """What one command took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> int:
    """Measure and write docs/figures/scale.json and scale.png."""
    rows = [_measure(size) for size in SIZES]
    path = write_figures("scale", {"chats": CHATS, "sizes": rows})
    _plot(rows)
    print(f"written: {path} and {FOLDER / 'scale.png'}")
    return 0


def _measure(size: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_many(folder / "chat.db", CHATS, size // CHATS)
        messages = folder / "messages.jsonl"
        imported = _run(["import", "imessage", str(folder / "chat.db"), "-o", str(messages)])
        _relate(folder / "contacts.yaml")
        built = _run(["build", str(messages), "--name", "Jo", "-o", str(folder / "d")])
        summary = json.loads((folder / "d" / "turns" / "dataset.json").read_text())
        kept = json.loads(messages.with_suffix(".report.json").read_text())["kept"]
    rate = size / imported.seconds
    print(
        f"{size:9,} messages: import {imported.seconds:6.1f} s ({rate:,.0f} a second, {imported.peak_mb:.0f} MB), "
        f"build {built.seconds:6.1f} s ({built.peak_mb:.0f} MB), pairs {summary['counts']}"
    )
    return {
        "messages": size, "records": kept, "pairs": summary["counts"], "messages_a_second": round(rate),
        "import": asdict(imported), "build": asdict(built),
    }  # fmt: skip


def _relate(contacts: Path) -> None:
    """Everybody that the import listed is a friend: so that all four variants are built."""
    contacts.write_text(contacts.read_text().replace("relation: null", "relation: friend"))


def _run(arguments: Sequence[str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "training", *arguments], stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"training {arguments[0]} failed")
    seconds = time.perf_counter() - began
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(round(seconds, 2), round(cpu, 2), round(peak[0], 1))


def _watch(process: "subprocess.Popen[bytes]", peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], _resident(process.pid) / 2**20)
        time.sleep(POLL_S)


def _resident(pid: int) -> int:
    """Bytes of *pid* and all below it that are in memory; shared pages count once for each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_resident(int(child)) for child in children)


def _plot(rows: Sequence[dict[str, object]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    sizes = [row["messages"] for row in rows]
    for command in ("import", "build"):
        costs = [row[command] for row in rows]
        left.loglog(sizes, [cost["seconds"] for cost in costs], "o-", label=command)  # type: ignore[index]
        right.semilogx(sizes, [cost["peak_mb"] for cost in costs], "o-", label=command)  # type: ignore[index]
    left.loglog(sizes, [size / sizes[0] * 0.1 for size in sizes], ":", color="grey", label="linear")  # type: ignore
    left.set(xlabel="messages", ylabel="seconds", title="time")
    right.set(xlabel="messages", ylabel="MB", title="memory", ylim=0)
    left.legend()
    right.legend()
    figure.savefig(FOLDER / "scale.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main())
