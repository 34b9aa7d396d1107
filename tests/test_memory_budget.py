"""The memory budget: what is refused before it is spent, and what the refusal says."""

from pathlib import Path

import pytest

from errors import Refused, exit_code
from service.memory_budget import Budget, budget, check, host_limit, size

GB, MB = 10**9, 10**6
SUM = 4_500_000_000


def a_budget(**other: int) -> Budget:
    """2 GB of weights, 16 rows of 0.1 GB, 9 slots of 0.02 GB, 0.5 GB of prefixes, 0.22 GB of workspace: 4.5 GB."""
    sizes = {
        "weights": 2 * GB, "rows": 16, "context": 4096, "row_bytes": 100 * MB, "slots": 9, "rank": 16,
        "slot_bytes": 20 * MB, "prefix_bytes": 500 * MB, "workspace": 220 * MB,
    }  # fmt: skip
    return budget(**{**sizes, **other})


def refusal(found: Budget, limit: int) -> Refused:
    with pytest.raises(Refused) as refused:
        check(found, limit)
    return refused.value


# -- the sum


def test_the_total_is_the_sum_of_everything() -> None:
    """Weights, rows times their cache, slots times theirs, prefix cache and workspace."""
    assert SUM == a_budget().total


@pytest.mark.parametrize(
    ("other", "more"),
    [
        ({"weights": 3 * GB}, GB), ({"rows": 17}, 100 * MB), ({"row_bytes": 200 * MB}, 1600 * MB),
        ({"slots": 10}, 20 * MB), ({"slot_bytes": 30 * MB}, 90 * MB), ({"prefix_bytes": 0}, -500 * MB),
        ({"workspace": 0}, -220 * MB), ({"context": 8192, "rank": 32}, 0),
    ],
)  # fmt: skip
def test_each_number_counts(other: dict[str, int], more: int) -> None:
    """Each counts as often as it is there; context and rank are names only, their sizes come in bytes."""
    assert SUM + more == a_budget(**other).total


def test_lines_are_the_items_their_sum_and_the_limit() -> None:
    """What is printed at start, sizes under one another."""
    expected = [
        "weights                  2.00 GB",
        "16 rows x 4096 tokens    1.60 GB",
        "9 slots of rank 16       0.18 GB",
        "prefix cache             0.50 GB",
        "workspace                0.22 GB",
        "sum                      4.50 GB",
        "limit                   16.00 GB",
    ]

    assert expected == a_budget().lines(16 * GB)
    assert expected[:-1] == a_budget().lines()


@pytest.mark.parametrize(
    ("count", "written"), [(0, "0.00 MB"), (7_490_000, "7.49 MB"), (10 * MB, "0.01 GB"), (1_420 * MB, "1.42 GB")]
)
def test_sizes_are_written_for_people(count: int, written: str) -> None:
    """Two decimals, in GB but for what would be nothing in it."""
    assert written == size(count)


# -- the refusal


def test_exactly_the_limit_passes() -> None:
    """What just fits is served."""
    check(a_budget(), SUM)


def test_one_byte_more_is_refused() -> None:
    """It is bad input: exit code 1, with a code of its own."""
    error = refusal(a_budget(), SUM - 1)

    assert ("memory_budget", 1) == (error.code, exit_code(error))


def test_the_refusal_has_the_sum_the_limit_and_every_item() -> None:
    """Whoever reads it sees where the memory would go."""
    error = refusal(a_budget(), 4 * GB)

    assert "4.50 GB" in error.message
    assert "0.50 GB more than the limit of 4.00 GB" in error.message
    assert "--memory-gb" in error.message
    assert a_budget().lines() == error.details
    for name in ("weights", "16 rows x 4096 tokens", "9 slots of rank 16", "prefix cache", "workspace", "sum"):
        assert any(line.startswith(name) for line in error.details), name


@pytest.mark.parametrize(
    ("other", "limit", "advice"),
    [
        ({}, 4 * GB, ": lower --rows by 5, or --context;"),
        ({}, SUM - 1, ": lower --rows by 1, or --context;"),
        ({}, 3 * GB, ": lower --rows by 15, or --context;"),
        ({"prefix_bytes": 5 * GB}, SUM, ": lower --prefix-cache-mb by 4500;"),
        ({"slot_bytes": 500 * MB}, 8 * GB, ": lower --slots by 2, or --rank;"),
        ({}, 2_900 * MB, ": lower --rows, --context, --prefix-cache-mb, --slots, --rank;"),
        ({"rows": 1, "row_bytes": 1600 * MB}, 4 * GB, ": lower --rows, --context, --prefix-cache-mb, --slots, --rank;"),
        ({"prefix_bytes": 0}, 2_400 * MB, ": lower --rows, --context, --slots, --rank;"),
        ({}, 2 * GB, ": take a smaller or a quantised --model, or more memory;"),
    ],
)
def test_the_refusal_names_what_helps_most(other: dict[str, int], limit: int, advice: str) -> None:
    """The largest item that can shrink, and by how much where that is enough; all of them where it is not."""
    assert advice in refusal(a_budget(**other), limit).message


def test_what_is_advised_is_enough() -> None:
    """Lowered as the message says, the budget fits."""
    assert "--rows by 5" in refusal(a_budget(), 4 * GB).message

    check(a_budget(rows=11), 4 * GB)
    with pytest.raises(Refused):
        check(a_budget(rows=12), 4 * GB)


# -- what there is

MEMINFO = "MemTotal:       32000 kB\nMemFree:         1000 kB\nMemAvailable:   20000 kB\nHugePages_Total:   0\n"
AVAILABLE = 20000 * 1024
NONE_V1 = "9223372036854771712"  # what version 1 says for no limit


def a_system(root: Path, cgroup: str | None, files: dict[str, str], meminfo: str = MEMINFO) -> Path:
    """A Linux whose files say so."""
    files = {"proc/meminfo": meminfo, **{f"sys/fs/cgroup/{path}": text for path, text in files.items()}}
    for path, text in files.items() if cgroup is None else {"proc/self/cgroup": cgroup, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def v2(folder: str, most: str, now: int, files: int = 0) -> dict[str, str]:
    stat = f"anon 5\nfile {files}\ninactive_file {files - files // 3}\nactive_file {files // 3}\n"
    return {f"{folder}memory.max": f"{most}\n", f"{folder}memory.current": f"{now}\n", f"{folder}memory.stat": stat}


def v1(folder: str, most: str, now: int, files: int = 0) -> dict[str, str]:
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {files}\ntotal_active_file 0\n"
    top = f"memory/{folder}"
    return {f"{top}memory.limit_in_bytes": most, f"{top}memory.usage_in_bytes": f"{now}", f"{top}memory.stat": stat}


LIMITS = {
    "no control groups": (None, {}, AVAILABLE),
    "a group without a limit": ("0::/a\n", v2("a/", "max", 100), AVAILABLE),
    "a group's limit": ("0::/a\n", v2("a/", "9000", 100), 8900),
    "less the page cache, which can go": ("0::/a\n", v2("a/", "9000", 3000, files=2000), 8000),
    "a group with more than there is": ("0::/a\n", v2("a/", "99000000000", 0), AVAILABLE),
    "the group around it": ("0::/a/b\n", {**v2("a/", "5000", 500), **v2("a/b/", "9000", 100)}, 4500),
    "the smaller of both": ("0::/a/b\n", {**v2("a/", "9000", 500), **v2("a/b/", "5000", 100)}, 4900),
    "a container that sees itself as the top": ("0::/\n", v2("", "9000", 1000), 8000),
    "a container that is told the host's path": ("0::/docker/x\n", v2("", "9000", 1000), 8000),
    "a path with a colon": ("0::/a:b\n", v2("a:b/", "9000", 1000), 8000),
    "another group": ("0::/a\n", v2("b/", "10", 1), AVAILABLE),
    "version 1": ("5:cpu:/a\n4:memory:/a\n", v1("a/", "9000", 3000, files=1000), 7000),
    "version 1 without a limit": ("4:memory:/a\n0::/\n", v1("a/", NONE_V1, 3000), AVAILABLE),
    "version 1 beside another controller": ("4:cpu,memory:/a\n", v1("a/", "9000", 1000), 8000),
    "version 1 at the top": ("4:memory:/docker/x\n", v1("", "9000", 1000), 8000),
    "version 1 of another controller": ("4:cpu:/a\n", v1("a/", "9000", 1000), AVAILABLE),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_hosts_limit_is_the_smallest_there_is(case: str, tmp_path: Path) -> None:
    """What is available, or what a control group of this process, or one around it, leaves."""
    cgroup, files, expected = LIMITS[case]

    assert expected == host_limit(a_system(tmp_path, cgroup, files))


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    """Then every budget is refused, also where usage is above a limit that was lowered."""
    limit = host_limit(a_system(tmp_path, "0::/a\n", v2("a/", "1000", 1500)))

    assert 0 == limit
    assert "more than the limit" in refusal(a_budget(), limit).message


def test_without_linux_files_the_limit_is_what_the_machine_has(tmp_path: Path) -> None:
    """No such files, or ones that do not say what is available: all memory there is."""
    everything = host_limit(tmp_path)

    assert everything >= GB
    assert everything == host_limit(a_system(tmp_path, None, {}, meminfo="MemTotal: 5 kB\n"))


def test_this_machine_tells_a_limit() -> None:
    """Where the tests run there is memory, and not more than the machine has."""
    assert 0 < host_limit() <= host_limit(Path("/nowhere"))
