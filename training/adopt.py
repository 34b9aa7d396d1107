"""``training adapters import``: an adapter that was trained elsewhere becomes a generation in the store.

It is read with the care of a served one, brought into mlx-lm's layout, held against the base, put on it for the probe,
and published with a manifest that says that it was never measured: by itself it does not become current.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors.mlx import load as load_mlx

from base_model.load import Base, load_base, projections
from errors import AdapterRefused, ConfigRefused, DataRefused
from prompt_format.adapter_check import (
    AdapterConfig,
    CheckedAdapter,
    LoraParameters,
    block_of,
    check_tensors,
    config_json,
    covered_modules,
    expected_tensors,
    inner_name,
    tensors,
)
from prompt_format.adapter_store import PEFT_PICKLE, PEFT_WEIGHTS, AdapterFiles, read_folder
from prompt_format.chat_template import ChatTemplate
from prompt_format.manifest import NAME_PATTERN, WEIGHTS, Data, Gate, Training
from prompt_format.persona import Persona, check_name
from prompt_format.unlabelled import check_unlabelled, contract_inside
from prompt_format.variants import VARIANTS
from training.config import TrainConfig
from training.lora import take_off
from training.peft_folder import to_mlx_lm
from training.previous import Generation, put_on
from training.publish import Candidate, publish
from training.train import probe

VARIANT = "raw_style"  # the one that asks least of an adapter that was trained on other prompts
REASON = "imported, never measured"
NO_DATA = "none"  # in the manifest, where training names its dataset
_HINTS = {
    "not_a_regular_file": "; links are not followed: copy the folder first (cp -rL) and import the copy",
    "unsafe_file": "; copy the folder first, and have only yourself write to the copy (chmod -R go-w)",
}


@dataclass(frozen=True)
class Adopted:
    """What an import left in the store. *kind* is PEFT or mlx-lm; *variant* the prompts that it will be given."""

    name: str
    generation: str
    kind: str
    variant: str
    modules: int
    activated: bool


def adopt(
    path: Path,
    store: Path,
    name: str,
    model: str,
    variant: str | None = None,
    persona: str | None = None,
    activate: bool = False,
) -> Adopted:
    """Publish the adapter in the folder *path*, PEFT's or mlx-lm's, as a generation of *name*.

    Args:
        model: The base that it was trained on, a path or a hub id.
        variant: The prompts that it shall be given; None is what its weights say, or ``VARIANT``.
        persona: The name that labels the persona's turns; None is what its weights say, or "Me".
        activate: Make it current.

    Raises:
        Refused: If it cannot be read, does not fit the base, or does nothing; nothing is written then.
    """
    _check_request(name, variant, persona)
    kind, files = _read(path)
    base = load_base(model)
    shapes = projections(base.model)
    if kind == "PEFT":
        files = to_mlx_lm(files, shapes)
    said = contract_inside(files.weights)
    if said is not None and persona not in (None, said.persona.name):
        raise ConfigRefused(f"the weights say that they were trained as '{said.persona.name}'", code="invalid_name")
    variant = variant or (said.variant if said else VARIANT)
    voice = Persona(name=persona) if persona else Persona()
    template, layers = ChatTemplate(base.tokenizer), len(base.model.layers)
    checked = check_unlabelled(files, name, variant, model, base.fingerprint, template, shapes, layers, voice)
    made = _candidate(base, checked, model)
    generation = publish(store, made, activate)
    return Adopted(name, generation, kind, variant, len(checked.modules), activate)


def _check_request(name: str, variant: str | None, persona: str | None) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigRefused(
            "an adapter's name is lower-case letters, digits, '.', '_' and '-', at most 64", code="invalid_name"
        )
    if variant is not None and variant not in VARIANTS:
        raise ConfigRefused(f"no variant named '{variant}'; there are: {', '.join(VARIANTS)}", code="unknown_variant")
    if persona is not None:
        try:
            check_name(persona)
        except ValueError as error:
            raise ConfigRefused(str(error), code="invalid_name") from None


def _read(path: Path) -> tuple[str, AdapterFiles]:
    """("PEFT" or "mlx-lm", the files) of the folder *path*."""
    if not os.path.lexists(path):
        raise DataRefused(f"no folder at '{path}'", code="no_such_folder")
    is_peft = os.path.lexists(path / PEFT_WEIGHTS)
    if not is_peft and os.path.lexists(path / PEFT_PICKLE) and not os.path.lexists(path / WEIGHTS):
        raise AdapterRefused(
            f"{PEFT_WEIGHTS} is missing, and {PEFT_PICKLE} is pickled, which is never read: save it again with PEFT's "
            "save_pretrained(folder, safe_serialization=True)",
            code="missing_file",
        )
    try:
        files = read_folder(path, PEFT_WEIGHTS if is_peft else WEIGHTS)
    except AdapterRefused as fault:
        message = fault.message + _HINTS.get(fault.code, "")
        raise AdapterRefused(message, code=fault.code, details=fault.details) from None
    if files.manifest is not None:
        raise AdapterRefused(
            "the folder has a manifest.json, so it was published: put it into the store as NAME/GENERATION, as the "
            "manifest names them, and make it current with `training adapters rollback NAME GENERATION`",
            code="labelled",
        )
    return ("PEFT" if is_peft else "mlx-lm"), files


def _candidate(base: Base, checked: CheckedAdapter, model: str) -> Candidate:
    """The generation that *checked* makes."""
    adapter, modules, weights = _as_published(base, checked, model)
    lora = checked.manifest.lora.model_copy(update={"modules": modules})
    config = TrainConfig(name=checked.name, model=model, data=Path(NO_DATA))  # for `training evaluate`
    found, bare = _probe(base, checked, adapter, weights)
    return Candidate(
        name=checked.name,
        weights=weights,
        config=config_json(adapter),
        base=checked.manifest.base,
        contract=checked.format.contract,
        lora=lora,
        data=Data(digest="", counts={}),
        training=Training(config=json.loads(config.model_dump_json()), steps=0, tokens=0, seed=0, versions={}),
        metrics={},
        probe=found,
        gate=Gate(passed=False, reasons=[REASON]),
        base_probe=bare,
    )


def _as_published(base: Base, checked: CheckedAdapter, model: str) -> tuple[AdapterConfig, list[str], bytes]:
    """(config, modules, weights) in the one form that is published: the last so many blocks and the same names in each.

    A LoRA that leaves out some of these layers gets zeros there, which change nothing.
    """
    shapes, layers = projections(base.model), len(base.model.layers)
    blocks = layers - min(map(block_of, checked.modules))
    keys = sorted(set(map(inner_name, checked.modules)))
    modules = covered_modules(shapes, blocks, keys, layers)
    absent = tuple(module for module in modules if module not in checked.modules)
    if absent and checked.dora:
        raise AdapterRefused(
            f"this DoRA leaves out {len(absent)} layers of the blocks that it changes, the first {absent[0]}: there is "
            "no DoRA that changes nothing, so it cannot be published",
            code="config_invalid",
        )
    found = tensors(checked.weights)
    found |= {n: np.zeros(s, np.float32) for n, s in expected_tensors(absent, shapes, checked.rank).items()}
    weights = safetensors.numpy.save(dict(sorted(found.items())), {"format": "mlx"})
    kind = checked.manifest.lora.type
    check_tensors(weights, tuple(modules), shapes, checked.rank, kind, checked.scale)  # what the service will ask
    parameters = LoraParameters(rank=checked.rank, scale=checked.scale, dropout=0.0, keys=keys)
    adapter = AdapterConfig(fine_tune_type=kind, num_layers=blocks, lora_parameters=parameters, model=model)
    return adapter, modules, weights


def _probe(
    base: Base, checked: CheckedAdapter, adapter: AdapterConfig, weights: bytes
) -> tuple[list[float], list[float]]:
    """The probe with the adapter on, and without it; the base is bare again afterwards.

    Raises:
        AdapterRefused: ``probe_not_finite`` or ``probe_is_base``, as the service would.
    """
    bare = probe(base.model, checked.format)
    arrays: Any = load_mlx(weights)
    put_on(base.model, Generation(checked.name, checked.generation, checked.manifest, adapter, arrays))
    found = probe(base.model, checked.format)
    take_off(base.model)
    if not all(map(math.isfinite, found)):
        raise AdapterRefused("with this adapter the model gives no finite logits", code="probe_not_finite")
    if found == bare:
        raise AdapterRefused("with this adapter the model answers exactly as the base", code="probe_is_base")
    return found, bare
