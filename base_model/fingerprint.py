"""Which base model this is, down to its weights: an adapter only fits the one it was trained on.

Covers the config (what decides the computation, not where the file came from), the quantisation in it, and of every
tensor its name, type, shape and bytes: all bytes of a model up to 1 GiB, of a larger one 4 KiB at the start, in the
middle and at the end of each tensor. So a re-quantised model or another revision never matches; a change of a few
weights in the middle of a very large tensor can go unseen.
"""

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WHOLE_UP_TO = 2**30
_SAMPLE = 4096
# Where it came from and who wrote the file: not what it computes.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}


def fingerprint(folder: Path) -> str:
    """``sha256:`` and 64 hex digits for the model in *folder*, the same however its weights are split in files."""
    files = sorted(folder.glob("model*.safetensors"))
    whole = sum(file.stat().st_size for file in files) <= WHOLE_UP_TO
    tensors = sorted(line for file in files for line in _tensors(file, whole))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for line in tensors:
        digest.update(line.encode())
    return "sha256:" + digest.hexdigest()


def _tensors(file: Path, whole: bool) -> Iterator[str]:
    """One line for each tensor of a safetensors file."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (size,) = struct.unpack_from("<Q", data)
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            yield f"{name} {entry['dtype']} {entry['shape']} {_digest(data, begin, end, whole)}\n"


def _digest(data: mmap.mmap, begin: int, end: int, whole: bool) -> str:
    if whole or end - begin <= 3 * _SAMPLE:
        return hashlib.sha256(data[begin:end]).hexdigest()
    middle = (begin + end) // 2
    parts = (data[begin : begin + _SAMPLE], data[middle : middle + _SAMPLE], data[end - _SAMPLE : end])
    return hashlib.sha256(b"".join(parts)).hexdigest()
