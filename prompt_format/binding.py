"""The contract and the base, written into the weights file itself.

A manifest can be edited, and its digests with it. So the publisher also puts contract and base fingerprint into the
metadata of ``adapters.safetensors`` (which mlx-lm ignores), and whoever reads an adapter compares: a manifest that
says something else than the weights is refused by the name of the field.
"""

import json
import struct
from typing import Any

from pydantic import ValidationError

from prompt_format.contract import Contract, differences
from prompt_format.strict_json import parse_strict


def bind(weights: bytes, contract: Contract, base_fingerprint: str) -> bytes:
    """The safetensors file *weights* with *contract* and *base_fingerprint* in its metadata."""
    (size,) = struct.unpack_from("<Q", weights)
    header = json.loads(weights[8 : 8 + size])
    said = {"contract": contract.model_dump_json(), "base": base_fingerprint}
    header["__metadata__"] = {**header.get("__metadata__", {}), **said}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text + weights[8 + size :]


def disagreements(weights: bytes, contract: Contract, base_fingerprint: str) -> list[str]:
    """A sentence for each field in which the metadata of *weights* differs; empty where they say nothing."""
    metadata = _metadata(weights)
    found = []
    if "base" in metadata and metadata["base"] != base_fingerprint:
        found.append(f"base.fingerprint is {base_fingerprint[:19]}…, the weights say {metadata['base'][:19]}…")
    if "contract" in metadata:
        try:
            found += differences(contract, Contract.model_validate_json(metadata["contract"]))
        except ValidationError:
            found.append("contract: what the weights say of it cannot be read")
    return found


def _metadata(weights: bytes) -> dict[str, Any]:
    try:
        (size,) = struct.unpack_from("<Q", weights)
        metadata = parse_strict(weights[8 : 8 + size]).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError):
        return {}  # a damaged file: a later check says so
    return metadata if isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values()) else {}
