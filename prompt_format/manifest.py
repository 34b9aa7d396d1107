"""What an adapter generation says about itself: ``manifest.json``, its reader and its writer.

It is written last, so a generation folder without one is unfinished. ``generation`` is the digest of weights, config
and contract: the same training result is the same generation, and a folder cannot pose as another.
"""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import AdapterRefused
from prompt_format.contract import Contract
from prompt_format.strict_json import parse_strict

SCHEMA_VERSION = 2
WEIGHTS, CONFIG, MANIFEST = "adapters.safetensors", "adapter_config.json", "manifest.json"
SIGNED_FILES = (WEIGHTS, CONFIG)
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
GENERATION_PATTERN = r"^[0-9a-f]{16}$"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class BaseIdentity(_Part):
    """The base model it was trained on."""

    id: str = Field(max_length=300)
    fingerprint: str = Field(pattern="^sha256:[0-9a-f]{64}$")


class Lora(_Part):
    """What the weights are; the same facts as adapter_config.json, which mlx-lm reads."""

    type: Literal["lora", "dora"]
    rank: int = Field(ge=1, le=1024)
    scale: Finite
    modules: list[str] = Field(min_length=1, description="full paths of the layers it changes")


class File(_Part):
    sha256: Sha256
    size: int = Field(ge=0)


class Data(_Part):
    """The dataset it was trained on."""

    digest: str
    counts: dict[str, int]


class Training(_Part):
    config: dict[str, Any]
    steps: int
    tokens: int
    seed: int
    versions: dict[str, str]


class Gate(_Part):
    """Whether the adapter may become current by itself, and if not, why.

    Attributes:
        overridden: It did not pass, and somebody made it current all the same.
    """

    passed: bool
    reasons: list[str] = []
    overridden: bool = False

    @property
    def words(self) -> str:
        """As a list shows it."""
        return "gate passed" if self.passed else f"gate not passed{' (overridden)' if self.overridden else ''}"


class Manifest(_Part):
    """The whole document."""

    schema_version: int
    name: str = Field(pattern=NAME_PATTERN)
    generation: str = Field(pattern=GENERATION_PATTERN)
    created_at: str
    base: BaseIdentity
    contract: Contract
    lora: Lora
    files: dict[str, File]
    data: Data
    training: Training
    metrics: dict[str, Finite]
    probe: list[Finite] = Field(default=[], description="logits of a fixed prompt, as the trainer computed them")
    base_probe: list[Finite] = Field(default=[], description="the same without the adapter")
    gate: Gate


def generation_of(weights_sha256: str, config_sha256: str, contract: Contract) -> str:
    """The first 16 hex digits of the SHA-256 over weights, config and contract."""
    text = f"{weights_sha256}\n{config_sha256}\n{contract.digest}\n"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_entry(data: bytes) -> File:
    return File(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def write_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``."""
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in *raw*.

    Raises:
        AdapterRefused: ``manifest_malformed``, ``manifest_version`` or ``manifest_invalid``, naming every field.
    """
    try:
        value = parse_strict(raw)
    except ValueError as error:
        raise AdapterRefused(f"{MANIFEST} cannot be read: {error}", code="manifest_malformed") from None
    if not isinstance(value, dict):
        raise AdapterRefused(f"{MANIFEST} is not a JSON object", code="manifest_malformed")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise AdapterRefused(
            f"{MANIFEST} has schema version {_shown(version)}; this version reads {SCHEMA_VERSION}: train again, "
            "or use the version that wrote it",
            code="manifest_version",
        )
    try:
        return Manifest.model_validate(value, strict=True)
    except ValidationError as error:
        raise AdapterRefused(
            f"{MANIFEST} does not say what it must", code="manifest_invalid", details=_faults(error)
        ) from None


def check_files_listed(manifest: Manifest) -> None:
    """Refuse a manifest that signs other files than the two that are read."""
    if set(manifest.files) != set(SIGNED_FILES):
        raise AdapterRefused(f"{MANIFEST} must list exactly {' and '.join(SIGNED_FILES)}", code="manifest_invalid")


def now_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(version: Any) -> str:
    return str(version) if isinstance(version, int) and not isinstance(version, bool) else "of no known kind"


def _faults(error: ValidationError) -> list[str]:
    rows = error.errors(include_input=False, include_url=False, include_context=False)
    return [f"{'.'.join(str(part)[:64] for part in row['loc'])}: {row['type']}" for row in rows]
