"""What the service will need in memory at most, item by item, against what there is. Knows no mlx: takes numbers.

``memory_facts`` measures them on the loaded model. Sizes are bytes; a GB is a thousand MB, an MB a million bytes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from errors import Refused

MB = 10**6
LEAST_SLOTS = 3  # the base's, one adapter's, and one to load its next generation into


@dataclass(frozen=True)
class Item:
    """One line of the budget.

    Attributes:
        setting: The setting that makes it smaller, empty where none does.
        unit: Bytes that go when that is lowered by one.
        least: Bytes that stay when that is as low as it may be.
        also: Another setting that makes it smaller, empty where none does.
    """

    name: str
    bytes: int
    setting: str = ""
    unit: int = 1
    least: int = 0
    also: str = ""


@dataclass(frozen=True)
class Budget:
    """Everything that takes memory when the service is as busy as its settings allow."""

    items: tuple[Item, ...]

    @property
    def total(self) -> int:
        return sum(item.bytes for item in self.items)

    def lines(self, limit: int | None = None) -> list[str]:
        """The items, their sum and the *limit*, a line each, sizes right-aligned."""
        rows = [(item.name, item.bytes) for item in self.items] + [("sum", self.total)]
        rows += [] if limit is None else [("limit", limit)]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {size(count):>9}" for name, count in rows]


def budget(
    *,
    weights: int,
    rows: int,
    context: int,
    row_bytes: int,
    slots: int,
    rank: int,
    slot_bytes: int,
    prefix_bytes: int,
    workspace: int,
) -> Budget:
    """The budget of a base of *weights* bytes.

    Args:
        row_bytes: The cache of each of *rows* rows at *context* tokens.
        slot_bytes: Each of *slots* slots of *rank*: the base's and the one to reload into are among them.
        prefix_bytes: The most that the prefix cache keeps.
        workspace: What a prefill and a decode step take for a while.
    """
    return Budget(
        (
            Item("weights", weights),
            Item(f"{rows} rows x {context} tokens", rows * row_bytes, "--rows", row_bytes, row_bytes, "--context"),
            Item(
                f"{slots} slots of rank {rank}", slots * slot_bytes, "--slots", slot_bytes,
                min(slots, LEAST_SLOTS) * slot_bytes, "--rank",
            ),
            Item("prefix cache", prefix_bytes, "--prefix-cache-mb", MB),
            Item("workspace", workspace),
        )
    )  # fmt: skip


def check(found: Budget, limit: int) -> None:
    """Return if *found* is at most *limit* bytes.

    Raises:
        Refused: ``memory_budget``, with the sum, the limit, every item, and the setting that helps most.
    """
    if found.total <= limit:
        return
    over = found.total - limit
    raise Refused(
        f"this needs {size(found.total)} of memory at most, {size(over)} more than the limit of {size(limit)}: "
        f"{_remedy(found, over)}; --memory-gb sets another limit",
        code="memory_budget",
        details=found.lines(),
    )


def host_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may still take on the host: what is available on Linux, what there is elsewhere.

    Ask before the model is loaded. Of Linux' MemAvailable and what each control group around us leaves, the smallest.

    Args:
        root: Under which ``proc`` and ``sys`` lie.
    """
    available = _fields(root / "proc/meminfo").get("MemAvailable:")
    if available is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([available * 1024, *_groups(root)]))


def size(count: int) -> str:
    """*count* bytes for people: in GB from ten MB on, in MB below."""
    return f"{count / 1e9:.2f} GB" if count >= 10 * MB else f"{count / 1e6:.2f} MB"


def _remedy(found: Budget, over: int) -> str:
    """What to do: what helps most comes first."""
    can = sorted((item for item in found.items if item.setting and item.bytes), key=lambda item: -item.bytes)
    if sum(item.bytes for item in can) < over:
        return "take a smaller or a quantised --model, or more memory"
    most = can[0]
    by = -(-over // most.unit)
    if by * most.unit <= most.bytes - most.least:
        return f"lower {most.setting} by {by}" + (f", or {most.also}" if most.also else "")
    return "lower " + ", ".join(name for item in can for name in (item.setting, item.also) if name)


def _groups(root: Path) -> Iterator[int]:
    """What each memory control group of this process, and each around it, leaves.

    In a container the path may be the host's, of which only the end is to be seen: what is not there is passed over.
    The page cache counts as free: the kernel gives it up when memory is asked for.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, most, now, kept = root / "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, most, now = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            kept = "total_"
        else:
            continue
        inner = top / path.lstrip("/")
        for folder in [inner, *inner.parents][: len(inner.parts) - len(top.parts) + 1]:
            limit, used = _number(folder / most), _number(folder / now)
            if limit is not None and used is not None:
                stat = _fields(folder / "memory.stat")
                files = sum(stat.get(f"{kept}{kind}_file", 0) for kind in ("active", "inactive"))
                yield limit - used + files


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or the word for no limit."""
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    """The first number after each name of a file of such lines; none where there is no file."""
    rows = (line.split() for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # what the system does not tell does not bind us
        return []
