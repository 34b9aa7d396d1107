"""What is settled before mlx is imported: seen in a process that has not imported it."""

import os
import subprocess
import sys

import pytest

WIDTH = "MLX_BFS_MAX_WIDTH"


def width(call: str, **environment: str) -> str:
    """What mlx will be told of the order of its work after *call*."""
    script = f"import os; from base_model.fast_cpu import prepare_cpu; {call}; print(os.environ.get('{WIDTH}'))"
    clean = {name: value for name, value in os.environ.items() if name != WIDTH}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="nothing to settle on a Mac")
def test_streams_side_by_side_are_all_filled() -> None:
    """Only where somebody computes on several; and what a person has set stays."""
    assert "None" == width("prepare_cpu()")
    assert "1000" == width("prepare_cpu(side_by_side=True)")
    assert "20" == width("prepare_cpu(side_by_side=True)", **{WIDTH: "20"})


def test_a_path_to_a_blas_that_is_none_is_no_error() -> None:
    """None comes back, and everything works, slowly."""
    script = "from base_model.fast_cpu import prepare_cpu; print(prepare_cpu())"
    environment = {**os.environ, "SAMEVOICE_BLAS": "/nowhere/libblas.so"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert "None" == done.stdout.strip()
