"""Whether an adapter without a manifest can be served: mlx-lm's own folder, and a variant that somebody vouches for.

The checks are those of ``adapter_check``, as far as they need no manifest. What a manifest would say is made up from
the config, the bytes and the variant, and says so: nothing was measured, and there is no probe to compare with.
"""

import struct
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import AdapterRefused, BaseRefused, DataRefused, InvalidField
from prompt_format.adapter_check import (
    MAX_RANK,
    CheckedAdapter,
    block_of,
    bounds_faults,
    check_bounds,
    check_tensors,
    fitting_format,
    inner_name,
    inner_names,
    read_config,
)
from prompt_format.adapter_store import AdapterFiles
from prompt_format.binding import disagreements
from prompt_format.chat_template import ChatTemplate
from prompt_format.contract import Contract
from prompt_format.format import PromptFormat
from prompt_format.manifest import (
    CONFIG,
    SCHEMA_VERSION,
    WEIGHTS,
    BaseIdentity,
    Data,
    Gate,
    Lora,
    Manifest,
    Training,
    file_entry,
    generation_of,
)
from prompt_format.persona import Persona
from prompt_format.strict_json import parse_strict

EVERY_BLOCK = -1  # mlx-lm's num_layers
UNKNOWN_TIME = "1970-01-01T00:00:00Z"  # older than any: such an adapter is never the newest
REASON = "unlabelled: nobody knows how it was trained, and it was never measured"


class PlainParameters(BaseModel):
    """mlx-lm's ``lora_parameters``. ``keys`` are names inside a block or whole paths; None is every linear layer."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    rank: int = Field(ge=1, le=MAX_RANK)
    scale: float = Field(ge=-1000, le=1000, allow_inf_nan=False)
    dropout: float = Field(ge=0, lt=1)
    keys: list[str] | None = Field(None, min_length=1)


class PlainConfig(BaseModel):
    """``adapter_config.json`` as mlx-lm writes it: what it read of its command line, of which this matters."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    fine_tune_type: Literal["lora", "dora"]
    num_layers: int = Field(ge=EVERY_BLOCK)
    lora_parameters: PlainParameters


def check_unlabelled(
    files: AdapterFiles,
    name: str,
    variant: str,
    base_name: str,
    base_fingerprint: str,
    template: ChatTemplate,
    shapes: Mapping[str, tuple[int, int]],
    layers: int,
    persona: Persona | None = None,
) -> CheckedAdapter:
    """All checks on the bytes of an adapter that has no manifest.

    Weights that were published once still say for which base and prompt: then those count, and *variant* must agree.

    Args:
        variant: What prompts it was trained on, as whoever loads it says.
        shapes: The base's linear layers, path -> (inputs, outputs).
        layers: How many decoder blocks the base has.
        persona: Whose voice it is; None is "Me", of no measured style.

    Raises:
        InvalidField: If it has a manifest: then that is to be believed, and checked.
        AdapterRefused: With the code of the first stage that failed and all its faults.
    """
    if files.manifest is not None:
        raise InvalidField(
            f"'{name}' has a manifest.json, which names its variant: leave out what is for those without"
        )
    form = _format(files.weights, variant, base_fingerprint, template, persona or Persona())
    config = read_config(files.config, PlainConfig)
    modules = _modules(config, shapes, layers)
    parameters, kind = config.lora_parameters, config.fine_tune_type
    check_tensors(files.weights, modules, shapes, parameters.rank, kind, parameters.scale)
    base = BaseIdentity(id=base_name[:300], fingerprint=base_fingerprint)
    lora = Lora(type=kind, rank=parameters.rank, scale=parameters.scale, modules=list(modules))
    manifest = _manifest(files, name, base, form.contract, lora)
    return CheckedAdapter(
        name, manifest.generation, manifest, form, lora.rank, lora.scale, kind == "dora", modules, files.weights
    )


def contract_inside(weights: bytes) -> Contract | None:
    """The contract that published weights hold in their metadata (``prompt_format.binding``); None in others.

    Raises:
        AdapterRefused: ``contract_mismatch``, if what they hold is no contract of this version.
    """
    try:
        (size,) = struct.unpack_from("<Q", weights)
        text: Any = parse_strict(weights[8 : 8 + size])["__metadata__"]["contract"]
    except (struct.error, ValueError, LookupError, TypeError):
        return None  # a damaged file too: a later check says so
    try:
        return Contract.model_validate_json(text) if isinstance(text, str) else None
    except ValidationError:
        raise AdapterRefused("contract: what the weights say of it cannot be read", code="contract_mismatch") from None


def _format(weights: bytes, variant: str, fingerprint: str, template: ChatTemplate, persona: Persona) -> PromptFormat:
    """The prompt format that the weights name, or else that of *variant* and *persona*."""
    said = contract_inside(weights)
    if said is None:
        try:
            return PromptFormat(template, variant, persona)
        except (DataRefused, BaseRefused) as error:  # no such variant, or none that this base can carry
            raise AdapterRefused(error.message, code=error.code, details=error.details) from None
    altered = disagreements(weights, said, fingerprint)
    if altered:
        raise AdapterRefused("the weights were trained on another base", code="base_mismatch", details=altered)
    if said.variant != variant:
        raise AdapterRefused(
            f"the weights say that they were trained on the variant '{said.variant}', not '{variant}'",
            code="contract_mismatch",
        )
    return fitting_format(template, said)


def _modules(config: PlainConfig, shapes: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """The layers that mlx-lm would put the adapter on, if it can go there in a service."""
    parameters, inside = config.lora_parameters, inner_names(shapes)
    blocks = layers if config.num_layers == EVERY_BLOCK else config.num_layers
    keys = sorted(inside) if parameters.keys is None else parameters.keys
    faults = bounds_faults(parameters.scale, blocks, keys, inside | set(shapes), layers)
    check_bounds(faults)
    first = layers - blocks
    modules = tuple(p for p in shapes if p in keys or (block_of(p) >= first and inner_name(p) in keys))
    if not modules:
        check_bounds([f"lora_parameters.keys: none is a layer of the last {blocks} blocks"])
    return modules


def _manifest(files: AdapterFiles, name: str, base: BaseIdentity, contract: Contract, lora: Lora) -> Manifest:
    """What a manifest can say of it."""
    entries = {WEIGHTS: file_entry(files.weights), CONFIG: file_entry(files.config)}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        generation=generation_of(entries[WEIGHTS].sha256, entries[CONFIG].sha256, contract),
        created_at=UNKNOWN_TIME,
        base=base,
        contract=contract,
        lora=lora,
        files=entries,
        data=Data(digest="", counts={}),
        training=Training(config={}, steps=0, tokens=0, seed=0, versions={}),
        metrics={},
        probe=[],
        gate=Gate(passed=False, reasons=[REASON]),
    )
