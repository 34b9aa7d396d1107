"""A LoRA or DoRA as PEFT saves it, in mlx-lm's layout.

PEFT keeps A as (rank, inputs) and B as (outputs, rank), mlx-lm their transposes; its scale is alpha / rank, or
alpha / sqrt(rank) for rsLoRA; DoRA's magnitude vector is mlx-lm's m. A setting that makes the layers compute what
mlx-lm's do not is refused by name, and so is one that this version does not know.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field

from errors import AdapterRefused
from prompt_format.adapter_check import MAX_RANK, block_of, check_bounds, read_config, tensors, unexpected
from prompt_format.adapter_store import PEFT_WEIGHTS, AdapterFiles
from prompt_format.unlabelled import EVERY_BLOCK

_TENSOR = re.compile(r"base_model\.model\.(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?)")
# How A and B began. The others (PiSSA, OLoRA, LoftQ ...) begin by changing the base, which is not with the adapter.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
# Where it came from and how it was trained: nothing that the trained layers compute.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}


class PeftConfig(BaseModel):
    """What of PEFT's ``adapter_config.json`` decides what the layers compute."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(allow_inf_nan=False)
    use_rslora: bool = False
    use_dora: bool = False
    bias: Literal["none"] = "none"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    init_lora_weights: bool | str | None = True

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def to_mlx_lm(files: AdapterFiles, shapes: Mapping[str, tuple[int, int]]) -> AdapterFiles:
    """PEFT's *files* as mlx-lm would have written them, float32. Whether they fit the base, ``check_unlabelled`` says.

    Args:
        shapes: The base's linear layers, path -> (inputs, outputs).

    Raises:
        AdapterRefused: If config or weights cannot be read, or say what mlx-lm's layers cannot.
    """
    config = read_config(files.config, PeftConfig)
    check_bounds(_faults(config))
    found = _renamed(tensors(files.weights, PEFT_WEIGHTS), shapes)
    modules = sorted({name.rpartition(".")[0] for name in found} | set(_targets(config, shapes)))
    if not modules:
        raise AdapterRefused(f"{PEFT_WEIGHTS} holds no tensor", code="tensor_missing")
    parameters = {"rank": config.r, "scale": config.scale, "dropout": 0.0, "keys": modules}
    kind = "dora" if config.use_dora else "lora"
    said = {"fine_tune_type": kind, "num_layers": EVERY_BLOCK, "lora_parameters": parameters}
    return AdapterFiles(safetensors.numpy.save(found, {"format": "mlx"}), json.dumps(said).encode(), None)


def _faults(config: PeftConfig) -> list[str]:
    unknown = sorted(key for key, value in (config.model_extra or {}).items() if value and key not in _HARMLESS)
    faults = [f"{key[:64]}: only PEFT's default can be imported" for key in unknown]
    if config.init_lora_weights not in _BEGINNINGS:
        faults.append("init_lora_weights: it began by changing the base, and that base is not in the folder")
    return faults


def _renamed(found: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    named = {name: _TENSOR.fullmatch(name) for name in found}
    strange = sorted(name for name, match in named.items() if match is None or match[1] not in shapes)
    if strange:
        raise unexpected(PEFT_WEIGHTS, strange)
    renamed = {}
    for name, match in named.items():
        if match is not None:
            module, part = match[1], match[2]
            tensor = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}.get(part, "m")
            renamed[f"{module}.{tensor}"] = np.ascontiguousarray(found[name].T)
    return renamed


def _targets(config: PeftConfig, shapes: Mapping[str, Any]) -> list[str]:
    """The layers that the config means, so that a missing tensor is noticed.

    Where it means them by a pattern, what is in the file must do: a stranger's pattern is not run.
    """
    wanted, left_out = config.target_modules, config.exclude_modules or []
    if wanted == "all-linear":
        wanted = list(shapes)
    if not isinstance(wanted, list) or not isinstance(left_out, list):
        return []
    blocks = config.layers_to_transform
    blocks = [blocks] if isinstance(blocks, int) else blocks
    return [
        path
        for path in shapes
        if _ends(path, wanted) and not _ends(path, left_out) and (not blocks or block_of(path) in blocks)
    ]


def _ends(path: str, names: list[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)
