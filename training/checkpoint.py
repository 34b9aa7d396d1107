"""The state of a run in one file: weights, best weights, optimizer, random state, position.

Written to a staging name and moved into place, so that a kill leaves the one before. It names the config and the
dataset it belongs to, and is refused for any other.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from base_model.arrays import load_arrays
from errors import TrainingStopped
from training.distributed import Group
from training.methods.method import Method
from training.position import Position
from training.private_files import sync, sync_folder


class Resumable(Protocol):
    """What a checkpoint fills again."""

    method: Method
    best: dict[str, mx.array]
    position: Position


def save_checkpoint(path: Path, run: Resumable, stamp: dict[str, str]) -> None:
    """Write the state of *run* to *path*; *stamp* says what run it is.

    Raises:
        TrainingStopped: If the disk refuses; the checkpoint before stays.
    """
    arrays = {f"trained/{k}": v for k, v in run.method.trained().items()}
    arrays |= {f"best/{k}": v for k, v in run.best.items()}
    arrays |= {f"optimizer/{k}": v for k, v in tree_flatten(run.method.optimizer.state)}
    more = {"random": str(_random_seed()), "position": json.dumps(asdict(run.position))}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".staging-{path.name}")  # the suffix must stay: mlx adds it otherwise
    try:
        mx.save_safetensors(str(staged), arrays, {**stamp, **more})
    except RuntimeError:
        staged.unlink(missing_ok=True)
        raise TrainingStopped(
            f"the checkpoint '{path}' could not be written: is the disk full? Make room and go on with --resume",
            code="checkpoint_not_written",
        ) from None
    with staged.open("rb") as file:
        sync(file.fileno())
    os.replace(staged, path)
    sync_folder(path.parent)


def load_checkpoint(path: Path, run: Resumable, stamp: dict[str, str]) -> None:
    """Fill *run* from *path*.

    Raises:
        TrainingStopped: If there is none, it is damaged, or it belongs to another config or dataset.
    """
    if not path.is_file():
        raise TrainingStopped(f"no checkpoint at '{path}': start without --resume", code="no_checkpoint")
    try:
        arrays, saved = load_arrays(path)
    except RuntimeError:
        raise TrainingStopped(
            f"the checkpoint '{path}' is damaged: start without --resume", code="bad_checkpoint"
        ) from None
    differ = [part for part in stamp if saved.get(part) != stamp[part]]
    if differ:
        raise TrainingStopped(
            f"the checkpoint '{path}' belongs to another {' and '.join(differ)}: start without --resume",
            code="bad_checkpoint",
        )
    for part in ("trained/", "best/"):
        if _shapes(_part(arrays, part)) != _shapes(run.method.trained()):
            raise TrainingStopped(
                f"the checkpoint '{path}' holds other layers than this model has: start without --resume",
                code="bad_checkpoint",
            )
    run.method.restore(_part(arrays, "trained/"))
    run.best = _part(arrays, "best/")
    run.method.optimizer.state = tree_unflatten(list(_part(arrays, "optimizer/").items()))
    mx.random.seed(int(saved["random"]))
    run.position = _position(saved["position"])


def share_state(run: Resumable, group: Group) -> None:
    """Give every rank of *group* the state that rank 0 has: fresh, or from its checkpoint."""
    run.method.restore(group.from_first(run.method.trained()))
    run.best = group.from_first(run.best)
    run.method.optimizer.state = group.from_first(run.method.optimizer.state)
    mx.random.seed(int(group.text_from_first(str(_random_seed()))))
    run.position = _position(group.text_from_first(json.dumps(asdict(run.position))))
    mx.eval(run.best, run.method.optimizer.state)


def _position(text: str) -> Position:
    read = json.loads(text)
    for name in ("losses", "validation"):
        read[name] = [tuple(item) for item in read[name]]
    return Position(**read)


def _random_seed() -> int:
    """The seed that gives back the state of mlx's own random numbers, from which dropout draws: it cannot be set."""
    high, low = cast(Any, mx.random.state)[0].tolist()
    return int(high) << 32 | int(low)


def _shapes(arrays: dict[str, mx.array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _part(arrays: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
