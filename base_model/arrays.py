"""Two things of mlx with the types they really have."""

from pathlib import Path
from typing import Any, cast

import mlx.core as mx


def scalar(value: mx.array) -> float:
    """The value of a scalar array."""
    return float(cast(float, value.item()))


def load_arrays(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """(arrays, metadata) of a safetensors file, read now rather than when they are used.

    Raises:
        RuntimeError: If the file is damaged.
    """
    arrays, metadata = cast(Any, mx.load(str(path), return_metadata=True))
    mx.eval(list(arrays.values()))
    return arrays, metadata
