"""The training config: a strict YAML file. An unknown key is an error that names the nearest known one."""

import difflib
import math
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from errors import ConfigRefused
from prompt_format.adapter_check import MAX_RANK
from prompt_format.manifest import NAME_PATTERN

Method = Literal["lora", "dora", "rslora", "pissa", "lora-plus", "galore"]
METHODS: tuple[Method, ...] = get_args(Method)
# What other programs call a setting, where the spelling does not give it away.
ELSEWHERE = {"lora_alpha": "'scale', which is alpha / rank", "alpha": "'scale', which is alpha / rank", "r": "'rank'"}


class _Strict(BaseModel):
    """Nothing unknown. A number may be text: YAML 1.1 reads 1e-4 as that."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_or_no(cls, value: Any) -> Any:
        if isinstance(value, bool):  # which would pass for 1 or 0
            raise ValueError("a number or a name is wanted, not yes or no")
        return value


class Schedule(_Strict):
    """Learning rate over the run: linear warm-up over a share of the steps, then decay."""

    warmup: float = Field(0.05, ge=0, le=0.5)
    decay: Literal["cosine", "constant"] = "cosine"


class EarlyStopping(_Strict):
    """Stop when validation has not improved for ``patience`` evaluations in a row."""

    patience: int = Field(3, ge=1)
    evaluations_per_epoch: int = Field(4, ge=1, le=100)


class GateLimits(_Strict):
    """What an adapter must reach to become current by itself."""

    max_valid_ratio: float = Field(1.0, gt=0, description="valid loss, adapter over base")


class TrainConfig(_Strict):
    """Everything that decides a run."""

    name: str = Field(pattern=NAME_PATTERN)
    model: str = "base_model/starter"
    data: Path
    method: Method = "lora"
    rank: int = Field(8, ge=1, le=MAX_RANK)
    scale: float = Field(2.0, gt=0, le=1000)
    modules: Literal["all"] | list[str] = "all"
    layers: Literal["all"] | int = "all"
    dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Schedule = Schedule()
    batch_size: int = Field(8, ge=1)
    epochs: float | None = Field(None, gt=0)
    iters: int | None = Field(None, ge=1)
    max_tokens: int = Field(512, ge=32)
    prompt_loss_weight: float = Field(0.0, ge=0, le=1)
    memory_gb: float | None = Field(None, gt=0, description="what a step may take; null: half of the machine's memory")
    early_stopping: EarlyStopping = EarlyStopping()
    seed: int = Field(0, ge=0, lt=2**32)
    gate: GateLimits = GateLimits()

    @property
    def effective_scale(self) -> float:
        """What the adapter's product is multiplied by; ``scale`` is alpha / rank.

        rsLoRA divides alpha by the root of the rank instead, so that a higher rank does not learn more slowly:
        Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023), theorem 3.2.
        """
        return self.scale * math.sqrt(self.rank) if self.method == "rslora" else self.scale

    def steps(self, rows: int) -> int:
        """Optimizer steps of the whole run; three epochs where the config says neither epochs nor iters."""
        if self.iters is not None:
            return self.iters
        return max(1, round((self.epochs or 3) * math.ceil(rows / self.batch_size)))


def load_config(path: Path) -> TrainConfig:
    """The config in *path*.

    Raises:
        ConfigRefused: If it cannot be read or is wrong: every fault in ``details``.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigRefused(f"no config '{path}': write one, or see data/example/jo.yaml", code="no_config") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or no such date
        raise ConfigRefused(
            f"'{path}' is not readable YAML ({type(error).__name__})", code="config_malformed"
        ) from None
    return parse_config(raw, str(path))


def parse_config(raw: Any, where: str) -> TrainConfig:
    """The config in a parsed YAML document; *where* names it in messages. Raises as ``load_config`` does."""
    if not isinstance(raw, dict):
        raise ConfigRefused(f"'{where}' is not a list of settings (name: value)", code="config_malformed")
    try:
        config = TrainConfig.model_validate(raw)
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False)
        raise ConfigRefused(
            f"'{where}' has settings that cannot be", code="config_invalid", details=[_fault(row) for row in rows]
        ) from None
    faults = _unfit_for_method(config)
    if config.epochs is not None and config.iters is not None:
        faults.append("epochs and iters: give one of them")
    if config.name == "base":
        faults.append("name: 'base' is what requests call the base model")
    if isinstance(config.layers, int) and config.layers < 1:
        faults.append("layers: at least 1, or all")
    if faults:
        raise ConfigRefused(f"'{where}' has settings that cannot be", code="config_invalid", details=faults)
    return config


def _unfit_for_method(config: TrainConfig) -> list[str]:
    faults = []
    if config.method == "pissa" and 2 * config.rank > MAX_RANK:
        faults.append(f"rank: at most {MAX_RANK // 2} with method pissa, whose adapter has twice the rank")
    if config.method == "galore" and config.dropout:
        faults.append("dropout: 0 with method galore, which trains the weights themselves: no adapter to drop out")
    return faults


def _fault(row: Any) -> str:
    where = ".".join(str(part) for part in row["loc"])
    if row["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(row["loc"][-1]), _known(row["loc"][:-1]), 1, cutoff=0.4)
        near = [ELSEWHERE[where]] if where in ELSEWHERE else [f"'{name}'" for name in near]
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_known(row['loc'][:-1]))}"
        return f"unknown key '{where}': {hint}"
    return f"{where}: {row['msg']}"


def _known(path: tuple[Any, ...]) -> list[str]:
    model: Any = TrainConfig
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
