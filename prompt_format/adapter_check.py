"""Whether the bytes of an adapter are what they must be, without mlx: config, tensors, values.

The checks run cheap and safe first. Each stage reports all its faults, then stops, because the next one would read
what is not trusted yet.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from collections.abc import Set as AnySet
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import safetensors
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import AdapterRefused, BaseRefused, DataRefused
from prompt_format.adapter_store import AdapterFiles, unlabelled
from prompt_format.binding import disagreements
from prompt_format.chat_template import ChatTemplate
from prompt_format.contract import Contract
from prompt_format.format import PromptFormat, format_for
from prompt_format.manifest import (
    CONFIG,
    WEIGHTS,
    Manifest,
    check_files_listed,
    file_entry,
    generation_of,
    read_manifest,
)
from prompt_format.strict_json import parse_strict

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
MAX_RANK = 256
MAX_LENGTH = 1e4  # of a row of a base's weight, which DoRA's m is: those of real models are hundreds at most
# Without the base's weights, what a factor may be is what no training gives. mlx-lm and PEFT begin A with values below
# 1 and B with zeros, and Adam moves a value by about the learning rate a step: hardly beyond 1 in a thousand steps.
# Largest are factors begun as principal components (PiSSA), where |scale| |A| |B|, as Frobenius norms, is the sum of
# the singular values taken, twice: at most 2 sqrt(rank) |W|, some 10^4 at rank 256 for the heaviest layers of real
# models (|W| some hundreds). Weights times a million are far beyond both.
MAX_VALUE = 1e4  # of one value of A or B
MAX_CHANGE = 1e5  # of |scale| |A| |B|

Config = TypeVar("Config", bound=BaseModel)


class LoraParameters(BaseModel):
    """mlx-lm's ``lora_parameters``: y + scale * (x A) B."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    rank: int = Field(ge=1, le=MAX_RANK)
    scale: float = Field(ge=-1000, le=1000, allow_inf_nan=False)
    dropout: float = Field(ge=0, lt=1)
    keys: list[str] = Field(min_length=1)


class AdapterConfig(BaseModel):
    """``adapter_config.json`` as this project writes it and mlx-lm reads it."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    fine_tune_type: str = Field(pattern="^(lora|dora)$")
    num_layers: int = Field(ge=1)
    lora_parameters: LoraParameters
    model: str


@dataclass(frozen=True)
class CheckedAdapter:
    """An adapter that may be read into a slot.

    Attributes:
        dora: It has an m for each module: a DoRA, where others are LoRAs.
        modules: The layers it changes, as paths of the base model.
        weights: The file's bytes, the ones that were checked.
    """

    name: str
    generation: str
    manifest: Manifest
    format: PromptFormat
    rank: int
    scale: float
    dora: bool
    modules: tuple[str, ...]
    weights: bytes


def check_adapter(
    files: AdapterFiles,
    name: str,
    generation: str,
    base_fingerprint: str,
    template: ChatTemplate,
    shapes: Mapping[str, tuple[int, int]],
    layers: int,
) -> CheckedAdapter:
    """All checks on the bytes of one generation.

    Args:
        shapes: The base's linear layers, path -> (inputs, outputs).
        layers: How many decoder blocks the base has.

    Raises:
        AdapterRefused: With the code of the first stage that failed and all its faults.
    """
    manifest = check_manifest(files, name, generation)
    prompt_format = check_fit(manifest, base_fingerprint, template)
    config = check_config(files.config, manifest, shapes, layers)
    modules = tuple(manifest.lora.modules)
    rank, scale = config.lora_parameters.rank, config.lora_parameters.scale
    check_tensors(files.weights, modules, shapes, rank, config.fine_tune_type, scale)
    dora = config.fine_tune_type == "dora"
    return CheckedAdapter(name, generation, manifest, prompt_format, rank, scale, dora, modules, files.weights)


def check_manifest(files: AdapterFiles, name: str, generation: str) -> Manifest:
    """The manifest of *files*, which says truly what they are."""
    if files.manifest is None:
        raise unlabelled(name)
    manifest = read_manifest(files.manifest)
    check_files_listed(manifest)
    if manifest.name != name:
        raise AdapterRefused("manifest.name is another adapter's", code="manifest_invalid")
    wrong = [
        f"files.{file}: size or SHA-256 differs from the manifest's"
        for file, data in ((WEIGHTS, files.weights), (CONFIG, files.config))
        if manifest.files[file] != file_entry(data)
    ]
    if wrong:
        raise AdapterRefused("a file is not the one that was published", code="digest_mismatch", details=wrong)
    altered = disagreements(files.weights, manifest.contract, manifest.base.fingerprint)
    if altered:
        code = "base_mismatch" if altered[0].startswith("base.") else "contract_mismatch"
        raise AdapterRefused(
            "the manifest says something else than the weights it lies beside", code=code, details=altered
        )
    made = generation_of(manifest.files[WEIGHTS].sha256, manifest.files[CONFIG].sha256, manifest.contract)
    if not made == manifest.generation == generation:
        raise AdapterRefused(
            f"folder {generation}, manifest.generation {manifest.generation} and the digest of weights, config and "
            f"contract {made} must be the same",
            code="generation_mismatch",
        )
    return manifest


def check_fit(manifest: Manifest, base_fingerprint: str, template: ChatTemplate) -> PromptFormat:
    """The prompt format of an adapter that fits this base and this version."""
    if manifest.base.fingerprint != base_fingerprint:
        raise AdapterRefused(
            f"base.fingerprint: trained on {manifest.base.fingerprint[:19]}…, the base in memory is "
            f"{base_fingerprint[:19]}…: serve that base, or train again on this one",
            code="base_mismatch",
        )
    return fitting_format(template, manifest.contract)


def fitting_format(template: ChatTemplate, contract: Contract) -> PromptFormat:
    """As ``format_for``, for an adapter. A base that cannot carry the variant has another template than it had."""
    try:
        return format_for(template, contract)
    except (DataRefused, BaseRefused) as error:
        raise AdapterRefused(error.message, code="contract_mismatch", details=error.details) from None


def check_config(raw: bytes, manifest: Manifest, shapes: Mapping[str, Any], layers: int) -> AdapterConfig:
    """``adapter_config.json``, within bounds and equal to the manifest's LoRA block."""
    config = read_config(raw, AdapterConfig)
    parameters = config.lora_parameters
    faults = bounds_faults(parameters.scale, config.num_layers, parameters.keys, inner_names(shapes), layers)
    unknown = [module for module in manifest.lora.modules if module not in shapes]
    if unknown:
        faults.append(f"{len(unknown)} modules are not linear layers of the base, the first: {unknown[0][:80]}")
    check_bounds(faults)
    _check_agreement(config, manifest, shapes, layers)
    return config


def read_config(raw: bytes, kind: type[Config]) -> Config:
    """``adapter_config.json`` as *kind*.

    Raises:
        AdapterRefused: ``config_malformed`` or ``config_invalid``, naming every field.
    """
    try:
        value = parse_strict(raw)
    except ValueError as error:
        raise AdapterRefused(f"{CONFIG} cannot be read: {error}", code="config_malformed") from None
    if not isinstance(value, dict):
        raise AdapterRefused(f"{CONFIG} is not a JSON object", code="config_malformed")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False, include_context=False)
        check_bounds([f"{'.'.join(str(part)[:64] for part in row['loc'])}: {row['type']}" for row in rows])
        raise


def check_bounds(faults: Sequence[str]) -> None:
    """Refuse a config that has *faults*."""
    if faults:
        raise AdapterRefused(f"{CONFIG} is out of bounds", code="config_invalid", details=faults)


def bounds_faults(scale: float, num_layers: int, keys: Sequence[str], known: AnySet[str], layers: int) -> list[str]:
    """What is wrong with the numbers and *keys* of a config, where a key may be one of *known*."""
    faults = []
    if scale == 0:
        faults.append("lora_parameters.scale: 0 makes it the base")
    if not 1 <= num_layers <= layers:
        faults.append(f"num_layers: the base has {layers}")
    if len(set(keys)) != len(keys):
        faults.append("lora_parameters.keys: a key stands in it twice")
    if not known >= set(keys):
        inner = sorted({inner_name(path) for path in known})
        faults.append(f"lora_parameters.keys: only these are linear layers of the base's blocks: {', '.join(inner)}")
    return faults


def _check_agreement(config: AdapterConfig, manifest: Manifest, shapes: Mapping[str, Any], layers: int) -> None:
    parameters, lora = config.lora_parameters, manifest.lora
    if set(lora.modules) != set(covered_modules(shapes, config.num_layers, parameters.keys, layers)):
        raise AdapterRefused(
            f"{CONFIG} (num_layers, keys) and the manifest's lora.modules name different layers",
            code="config_disagrees",
        )
    ours = (config.fine_tune_type, parameters.rank, parameters.scale)
    if ours != (lora.type, lora.rank, lora.scale):
        raise AdapterRefused(f"{CONFIG} and the manifest's lora differ in type, rank or scale", code="config_disagrees")


def covered_modules(shapes: Mapping[str, Any], num_layers: int, keys: list[str], layers: int) -> list[str]:
    """The full paths that mlx-lm means by the last *num_layers* blocks and *keys* (names inside a block)."""
    return [path for path in shapes if block_of(path) >= layers - num_layers and inner_name(path) in keys]


def block_of(path: str) -> int:
    """The number of the block that a layer is in: ``model.layers.3.mlp.up_proj`` -> 3."""
    return next(int(part) for part in path.split(".") if part.isdigit())


def inner_name(path: str) -> str:
    """The name of a layer inside its block: ``model.layers.3.mlp.up_proj`` -> ``mlp.up_proj``, which stays as it is."""
    parts = path.split(".")
    return ".".join(parts[next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 0) :])


def inner_names(shapes: Mapping[str, Any]) -> set[str]:
    """The names of the linear layers inside the base's blocks."""
    return {inner_name(path) for path in shapes}


def tensor_table(raw: bytes, file: str = WEIGHTS) -> tuple[dict[str, Any], int]:
    """(name -> entry, where the tensors' bytes begin) of a safetensors file, by the strict parser.

    Raises:
        AdapterRefused: ``weights_malformed``, naming *file*.
    """
    try:
        safetensors.deserialize(raw)
        (size,) = struct.unpack_from("<Q", raw)
        table = parse_strict(raw[8 : 8 + size])
    except (safetensors.SafetensorError, struct.error, ValueError) as error:
        raise AdapterRefused(f"{file} is damaged ({type(error).__name__})", code="weights_malformed") from None
    table.pop("__metadata__", None)
    return table, 8 + size


def tensors(raw: bytes, file: str = WEIGHTS) -> dict[str, np.ndarray]:
    """name -> values, float32, of a safetensors file.

    Raises:
        AdapterRefused: ``weights_malformed`` or ``tensor_dtype``, naming *file*.
    """
    table, body = tensor_table(raw, file)
    _check_types(table, file)
    return {name: _values(raw, entry, body).astype(np.float32).reshape(entry["shape"]) for name, entry in table.items()}


def _check_types(table: Mapping[str, Any], file: str) -> None:
    wrong = [f"{name[:120]}: {entry['dtype']}" for name, entry in table.items() if entry["dtype"] not in _DTYPES]
    if wrong:
        raise AdapterRefused(f"{file} must hold F32, F16 or BF16", code="tensor_dtype", details=wrong)


def check_tensors(
    raw: bytes, modules: tuple[str, ...], shapes: Mapping[str, tuple[int, int]], rank: int, kind: str, scale: float
) -> None:
    """Refuse weights that lack a tensor, have one too many, or hold values that cannot be meant."""
    table, body = tensor_table(raw)
    expected = expected_tensors(modules, shapes, rank, kind)
    missing, extra = sorted(expected.keys() - table.keys()), sorted(table.keys() - expected.keys())
    if missing:
        raise AdapterRefused(f"{WEIGHTS} lacks tensors", code="tensor_missing", details=missing)
    if extra:
        raise unexpected(WEIGHTS, extra)
    misshapen = [
        f"{name}: {table[name]['shape']}, expected {list(shape)}"
        for name, shape in expected.items()
        if table[name]["shape"] != list(shape)
    ]
    if misshapen:
        raise AdapterRefused(f"{WEIGHTS} has tensors of another shape", code="tensor_shape", details=misshapen)
    _check_types(table, WEIGHTS)
    _check_finite(raw, table, body)
    _check_lengths({name: _values(raw, entry, body) for name, entry in table.items() if name.endswith(".m")})
    _check_change(raw, table, body, modules, kind, scale)


def unexpected(file: str, names: Sequence[str]) -> AdapterRefused:
    """The refusal of tensors *names* in *file*."""
    return AdapterRefused(
        f"{file} has tensors that do not belong: an adapter is on the linear layers of blocks that its config "
        "names, never on an embedding, the output layer or experts",
        code="tensor_unexpected",
        details=[name[:120] for name in names],
    )


def expected_tensors(
    modules: tuple[str, ...], shapes: Mapping[str, tuple[int, int]], rank: int, kind: str = "lora"
) -> dict[str, tuple[int, ...]]:
    """name -> shape of every tensor that an adapter of *kind*, lora or dora, and *rank* on *modules* has."""
    expected: dict[str, tuple[int, ...]] = {}
    for module in modules:
        inputs, outputs = shapes[module]
        expected[f"{module}.lora_a"] = (inputs, rank)
        expected[f"{module}.lora_b"] = (rank, outputs)
        if kind == "dora":
            expected[f"{module}.m"] = (outputs,)
    return expected


def _check_finite(raw: bytes, table: Mapping[str, Any], body: int) -> None:
    infinite = [name for name, entry in table.items() if not np.isfinite(_values(raw, entry, body)).all()]
    if infinite:
        raise AdapterRefused(f"{WEIGHTS} holds NaN or infinity", code="tensor_not_finite", details=infinite)


def _check_change(
    raw: bytes, table: Mapping[str, Any], body: int, modules: Sequence[str], kind: str, scale: float
) -> None:
    """Of scale * A B, what can be said without the base: that it is something, and nothing that training gives."""
    large, largest = [], 0.0
    for module in modules:
        a, b = (_values(raw, table[f"{module}.{factor}"], body) for factor in ("lora_a", "lora_b"))
        largest = max(largest, float(np.abs(b).max(initial=0)))
        if max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) > MAX_VALUE:
            large.append(f"{module}: values above {MAX_VALUE:.0f}")
        elif abs(scale) * _norm(a) * _norm(b) > MAX_CHANGE:
            large.append(f"{module}: |scale| |A| |B| above {MAX_CHANGE:.0f}")
    if largest == 0 and kind == "lora":
        raise AdapterRefused("every lora_b is zero: the adapter is the base", code="adapter_is_zero")
    if large:
        raise AdapterRefused(f"{WEIGHTS} is larger than training makes it", code="tensor_too_large", details=large)


def _norm(values: np.ndarray) -> float:
    """Frobenius norm. In float32, where the squares of values up to ``MAX_VALUE`` have room."""
    return float(np.linalg.norm(np.asarray(values, np.float32)))


def _check_lengths(lengths: Mapping[str, np.ndarray]) -> None:
    """Of DoRA's m, what can be said without the base. A DoRA whose every lora_b is zero may still differ from the base
    in its m: whether it does, the service's probe finds. Single values may be zero or less, since training can take
    a short row there.
    """
    zero = [name for name, array in lengths.items() if not array.any()]
    if zero:
        raise AdapterRefused("an m is all zero: its layer would be mute", code="adapter_is_zero", details=zero)
    large = [name for name, array in lengths.items() if np.abs(array).max() > MAX_LENGTH]
    if large:
        raise AdapterRefused(
            f"an m holds values above {MAX_LENGTH:.0f}: no row of a weight is that long",
            code="tensor_too_large",
            details=large,
        )


def _values(raw: bytes, entry: dict[str, Any], body: int) -> np.ndarray:
    begin, end = entry["data_offsets"]
    values = np.frombuffer(memoryview(raw)[body + begin : body + end], _DTYPES[entry["dtype"]])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values


def config_json(config: AdapterConfig) -> bytes:
    """The bytes of ``adapter_config.json``."""
    return (json.dumps(config.model_dump(), indent=1) + "\n").encode()
