"""``grid.yaml``: the base models of a grid of configs, each with the settings of its configs."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import ConfigRefused
from training.config import TrainConfig, parse_config

GRID = Path(__file__).with_name("grid.yaml")
DECIDED_HERE = ("name", "data", "method")


@dataclass(frozen=True)
class Model:
    """A base model of the grid.

    Attributes:
        short: What adapter names call it.
        settings: Of its configs.
        learning_rate_times: Method -> what the learning rate is multiplied by with it; 1 where nothing is said.
    """

    model: str
    short: str
    settings: dict[str, Any]
    learning_rate_times: dict[str, float]


class _Entry(BaseModel):
    """A model of the grid. What else stands beside it are settings of its configs."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    model: str = Field(min_length=1)
    short: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]{0,23}$")

    @property
    def short_name(self) -> str:
        return self.short or plain(Path(self.model).name)[:24].rstrip("-._") or "model"


class _Grid(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    settings: dict[str, Any] = {}
    learning_rate_times: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    models: list[_Entry] = Field(min_length=1)


def load_grid(path: Path) -> list[Model]:
    """The models of the grid in *path*, each with its settings.

    Raises:
        ConfigRefused: If it cannot be read, or gives settings that no config may have: every fault in ``details``.
    """
    grid = _read_grid(path)
    common = _faults(grid.settings, ("model", *DECIDED_HERE))
    faults = [f"settings: {fault}" for fault in common]
    known = get_args(TrainConfig.model_fields["method"].annotation)
    strange = [method for method in grid.learning_rate_times if method not in known]
    faults += [f"learning_rate_times: no method '{method}'; there are: {', '.join(known)}" for method in strange]
    models = [
        Model(e.model, e.short_name, {**grid.settings, **(e.model_extra or {})}, grid.learning_rate_times)
        for e in grid.models
    ]
    for model in models:
        faults += [f"{model.model}: {fault}" for fault in _faults(model.settings, DECIDED_HERE) if fault not in common]
    for short, count in Counter(model.short for model in models).items():
        if count > 1:
            faults.append(f"{count} models are called '{short}': give each a short of its own")
    if faults:
        raise ConfigRefused(f"'{path}' is a grid that cannot be", code="grid_invalid", details=faults)
    return models


def _read_grid(path: Path) -> _Grid:
    try:
        return _Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigRefused(f"no grid '{path}': copy training/grid.yaml and edit it", code="no_grid") from None
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False)
        details = [f"{'.'.join(map(str, row['loc'])) or 'grid'}: {row['msg']}" for row in rows]
        raise ConfigRefused(f"'{path}' is a grid that cannot be", code="grid_invalid", details=details) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or no such date
        raise ConfigRefused(f"'{path}' is not readable YAML ({type(error).__name__})", code="grid_malformed") from None


def _faults(settings: dict[str, Any], not_here: Sequence[str]) -> list[str]:
    """What a config with *settings* would be refused for, and which of *not_here* are among them."""
    faults = [f"'{key}' cannot be said here" for key in not_here if key in settings]
    try:
        parse_config({**settings, "name": "name", "model": "model", "data": "data", "method": "lora"}, "grid")
    except ConfigRefused as refused:
        faults += refused.details
    return faults


def plain(text: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9._-]+", "-", bare).strip("-._")
