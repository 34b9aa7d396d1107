"""The generation to compare a new one with, back in memory: to be worn by the same base for a while."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from pydantic import ValidationError

from base_model.load import Base
from errors import AdapterRefused, Refused, UnknownAdapter
from prompt_format.adapter_check import AdapterConfig, check_fit, check_manifest, tensor_table
from prompt_format.adapter_store import current, read_generation
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.manifest import CONFIG, WEIGHTS, Manifest
from training.lora import adapter_weights, take_off, wear
from training.publish import in_order_of_time


@dataclass(frozen=True)
class Generation:
    """A published adapter, in memory. Whether its tensors fit shows when it is put on."""

    name: str
    generation: str
    manifest: Manifest
    adapter: AdapterConfig
    weights: dict[str, mx.array]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.generation}"


@dataclass(frozen=True)
class Previous:
    """The generation to compare with; None with a *note* where there is one that cannot be."""

    generation: Generation | None = None
    note: str = ""


class Worn:
    """``with Worn(model, generation): ...``: a base wears *generation* for a while."""

    def __init__(self, model: Any, generation: Generation):
        self._model, self._generation = model, generation

    def __enter__(self) -> None:
        """Raises AdapterRefused, with the base as it was, if the tensors are not those that its config asks for."""
        try:
            put_on(self._model, self._generation)
        except AdapterRefused:
            take_off(self._model)
            raise

    def __exit__(self, *_: object) -> None:
        take_off(self._model)


def read(store: Path, name: str, generation: str) -> Generation:
    """A generation of *store*. Raises Refused if it is not there or not what its manifest says."""
    files = read_generation(store, name, generation)
    manifest = check_manifest(files, name, generation)
    try:
        adapter = AdapterConfig.model_validate_json(files.config)
    except ValidationError:
        raise AdapterRefused(f"{CONFIG} does not say what it must", code="config_invalid") from None
    return Generation(name, generation, manifest, adapter, _arrays(files.weights))


def _arrays(raw: bytes) -> dict[str, mx.array]:
    tensor_table(raw)  # the strict parser first
    arrays: Any = mx.load(io.BytesIO(raw), format="safetensors")
    if not all(bool(mx.isfinite(array).all().item()) for array in arrays.values()):
        raise AdapterRefused(f"{WEIGHTS} holds NaN or infinity", code="tensor_not_finite")
    return dict(arrays)


def put_on(model: Any, generation: Generation) -> None:
    """Have *model*, a bare base, wear *generation*, whatever its kind, rank and layers are.

    Raises:
        AdapterRefused: If the tensors are not those that its config asks for; some layers may be on then.
    """
    try:
        wear(model, generation.adapter)
    except (ValueError, KeyError) as error:  # a layer that the base lacks, or that takes no adapter
        raise AdapterRefused(
            f"the base cannot wear it ({type(error).__name__}): its config is another model's", code="config_invalid"
        ) from None
    wanted = {name: array.shape for name, array in adapter_weights(model).items()}
    if wanted != {name: array.shape for name, array in generation.weights.items()}:
        raise AdapterRefused(f"{WEIGHTS} and its config name other tensors", code="tensor_shape")
    model.load_weights(list(generation.weights.items()), strict=False)
    model.eval()
    mx.eval(model.parameters())


def current_one(store: Path, name: str, base: Base, form: PromptFormat) -> Previous:
    """The current generation of *name*, if it was made for *base* and the prompts of *form*."""
    try:
        generation = current(store, name)
    except UnknownAdapter:
        return Previous()
    except AdapterRefused as error:
        published_only = error.code == "missing_file"  # nothing was made current yet
        return Previous() if published_only else Previous(note=error.message)
    return fitting(store, name, generation, base, form)


def one_before(store: Path, generation: Generation, base: Base, form: PromptFormat) -> Previous:
    """The generation that was published before *generation*, under the same conditions."""
    made = in_order_of_time(store, generation.name)
    place = made.index(generation.generation)
    return fitting(store, generation.name, made[place - 1], base, form) if place else Previous()


def fitting(store: Path, name: str, generation: str, base: Base, form: PromptFormat) -> Previous:
    """*generation* of *name*, or why there is no comparing with it."""
    try:
        found = read(store, name, generation)
        check(found, base, form)
    except Refused as error:
        return Previous(note=f"not compared with {name}@{generation}: {error.message}")
    return Previous(found)


def check(generation: Generation, base: Base, form: PromptFormat) -> None:
    """Refuse a generation that was made for another base, or for other prompts than those of *form*."""
    theirs = check_fit(generation.manifest, base.fingerprint, ChatTemplate(base.tokenizer))
    if theirs.contract.digest != form.contract.digest:
        raise AdapterRefused(
            f"{generation.label} was trained under another contract than the dataset was built with",
            code="contract_mismatch",
        )
