"""Several processes that train one adapter: each computes a part of every batch, and all take the same steps.

Under ``mlx.launch`` each process has a rank; alone there is one, of rank 0. Rank 0 talks, saves and publishes.
"""

import hashlib
import itertools
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from base_model.arrays import scalar
from errors import TrainingStopped


class Group:
    """The processes of this run. Every method but the properties must be called by all of them, in the same order."""

    def __init__(self) -> None:
        self._group = mx.distributed.init()

    @property
    def rank(self) -> int:
        return int(self._group.rank())

    @property
    def size(self) -> int:
        return int(self._group.size())

    def sum(self, tree: Any) -> Any:
        """The sum of each array over all ranks, the same bits on each rank. The arrays are of one type."""
        if self.size == 1:
            return tree
        leaves = tree_flatten(tree)
        together = mx.concatenate([array.reshape(-1) for _, array in leaves])  # one message instead of hundreds
        summed = mx.distributed.all_sum(together, group=self._group)
        ends = list(itertools.accumulate(array.size for _, array in leaves))
        pieces = mx.split(summed, ends[:-1])
        return tree_unflatten([(n, p.reshape(a.shape)) for (n, a), p in zip(leaves, pieces, strict=True)])

    def from_first(self, tree: Any) -> Any:
        """What rank 0 has. Every rank must give arrays of the same shapes and types."""
        return tree_map(self._from_first, tree) if self.size > 1 else tree

    def _from_first(self, array: mx.array) -> mx.array:
        mine = array if self.rank == 0 else mx.zeros_like(array)
        return mx.distributed.all_sum(mine, group=self._group)

    def text_from_first(self, text: str) -> str:
        """What rank 0 says; the others may give anything."""
        if self.size == 1:
            return text
        data = list(text.encode())
        length = int(scalar(self._from_first(mx.array(len(data), mx.int32))))
        mine = mx.array(data if self.rank == 0 else [0] * length, mx.int32)
        return bytes(cast(list[int], self._from_first(mine).tolist())).decode()

    def check_same(self, what: str, text: str) -> None:
        """Raises TrainingStopped on every rank if *text* is not the same on all of them."""
        if self.size == 1:
            return
        digest = mx.array(list(hashlib.sha256(text.encode()).digest()), mx.int32)
        differs = (digest != self._from_first(digest)).any().astype(mx.int32)
        if scalar(mx.distributed.all_sum(differs, group=self._group)):
            raise TrainingStopped(
                f"the processes of this run do not have the same {what}: give each machine the same files",
                code="processes_differ",
            )
