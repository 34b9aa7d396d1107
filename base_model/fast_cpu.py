"""Make MLX fast on a Linux CPU, before anything imports it.

The ``mlx-cpu`` wheels link reference BLAS. Opening an optimised BLAS with its symbols made global, before the first
``import mlx.core``, makes those win: a float32 product then runs some 50 times faster. And glibc hands every large
block back to the kernel when it is freed, so each large array costs page faults again: told not to, element-wise
work on large arrays runs several times faster.
"""

import ctypes
import os
import sys
from importlib.metadata import distributions
from pathlib import Path

_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/OpenBLAS/lib")
_NAMES = ("libopenblas.so.0", "libopenblas.so", "libblis.so.4")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h

HOW_TO_INSTALL = (
    "no optimised BLAS found: float32 work on this CPU will be some 50 times slower than it need be. "
    "Install one (Debian, Ubuntu: apt-get install libopenblas0-pthread; Fedora: dnf install openblas) or set "
    "SAMEVOICE_BLAS to the path of a libopenblas.so"
)


def prepare_cpu(threads: int | None = None, side_by_side: bool = False) -> str | None:
    """Open a fast BLAS and settle malloc. Returns the library's path; None where there is none or none is needed.

    Args:
        threads: How many threads a BLAS call may use; None lets the library decide.
        side_by_side: Whether MLX will be given work on several CPU streams at once. It queues some ten operations at
            a time, by default in an order that finishes one stream's before it begins the next one's; across the
            whole graph it fills them all: two cores were found 91 % busy instead of 57 %.

    Call it before ``import mlx.core``: afterwards it has no effect.
    """
    if sys.platform != "linux":
        return None
    if threads is not None:
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    if side_by_side and not _computes_on_cuda():
        os.environ.setdefault("MLX_BFS_MAX_WIDTH", "1000")
    _keep_freed_memory()
    for path in _candidates():
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue  # not there, or for another machine: try the next
        return path
    return None


def _computes_on_cuda() -> bool:
    """Whether MLX's build for NVIDIA GPUs is installed: there, memory matters more than the order."""
    return any((dist.metadata["Name"] or "").startswith("mlx-cuda") for dist in distributions())


def _candidates() -> list[str]:
    chosen = os.environ.get("SAMEVOICE_BLAS")
    if chosen:
        return [chosen]
    triplet = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu"
    folders = [triplet / "openblas-pthread", triplet, *map(Path, _FOLDERS)]
    return [str(folder / name) for folder in folders for name in _NAMES if (folder / name).exists()]


def _keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # not glibc: nothing to settle
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 * 2**20)
