"""A function in a process of its own: what it holds in memory, and how its BLAS was opened, ends with it.

Does not import mlx: ``prepare`` has an effect only before that.
"""

import os
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from base_model.fast_cpu import prepare_cpu
from base_model.offline import stay_offline

T = TypeVar("T")


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """What *function* of *arguments* returns in a process of its own: nothing is left of it in this one."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise SystemExit("a process was killed, most likely for want of memory: try a smaller --batch-size") from None


def prepare(threads: int | None, side_by_side: bool = False) -> None:
    """Before mlx is imported: no network, and a BLAS of so many *threads*; None: as many as there are cores."""
    stay_offline(hub_allowed=False)
    prepare_cpu(threads or os.cpu_count(), side_by_side)


def peak_rss() -> int:
    """Bytes of this process that were resident at most. Linux' own count, since what getrusage says is handed down."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
