"""A grid of training configs: models x methods x the variants that really hold data, one strict file for each cell.

    data/personal/<variant>/ + grid.yaml  ->  configs/<name>-<model>-<method>-<variant>.yaml

What cannot be trained on is left out by name. A config that is there already may be edited: it stays as it is.
Knows nothing of MLX and downloads nothing: that a hub model is not here, and so could not be checked, is said.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from base_model.resolve import is_hub_id, resolve
from base_model.tokenizer import load_tokenizer
from errors import BaseRefused, ConfigRefused, DataRefused, one_line
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import format_for
from training.built_variants import Variant, find_variants
from training.config import METHODS, Method, TrainConfig, load_config, parse_config
from training.grid import GRID, Model, load_grid, plain
from training.private_files import sync_folder, write_synced
from training.selection import SPLITS

NAME_LENGTH = 64  # of adapter names, as prompt_format.manifest has it
HEADER = """\
# Edit freely: `training configs` never overwrites a file that is there.
# Train with it: python -m training train THIS_FILE
"""


@dataclass(frozen=True)
class Cell:
    """One config of the grid, not written yet."""

    config: TrainConfig
    rows: dict[str, int]

    @property
    def file(self) -> str:
        return f"{self.config.name}.yaml"


@dataclass(frozen=True)
class Made:
    """What ``make_configs`` did.

    Attributes:
        cells: One for each config, in the grid's order.
        states: What became of each: written, unchanged or kept.
        left_out: What is not in the grid, each with its reason.
        notes: What could not be checked.
    """

    folder: Path
    cells: list[Cell]
    states: list[str]
    left_out: list[str]
    notes: list[str]

    def lines(self) -> list[str]:
        """The grid as a table, then what was left out and what could not be checked."""
        paths = [str(self.folder / cell.file) for cell in self.cells]
        width = max(map(len, paths))
        table = [_row("config", width, SPLITS, "")]
        for path, cell, state in zip(paths, self.cells, self.states, strict=True):
            table.append(_row(path, width, [f"{cell.rows[split]:,}" for split in SPLITS], state))
        counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(self.states).items(), reverse=True))
        table.append(f"{len(self.cells)} configs: {counts}")
        if "kept" in self.states:
            table.append("kept: not what the grid gives now, so perhaps edited; delete it to have it written again")
        return [*table, *(f"left out: {line}" for line in self.left_out), *(f"note: {line}" for line in self.notes)]


def make_configs(data: Path, out: Path, grid: Path = GRID, name: str | None = None) -> Made:
    """Write a config into *out* for each cell of *grid* that can be trained on *data*.

    Args:
        data: The folder that ``training build`` wrote, or that of one variant in it.
        name: What adapter names begin with; None is the name of the persona.

    Raises:
        ConfigRefused: If the grid is wrong, or adapters cannot be named so.
        DataRefused: If no cell is left: every reason in ``details``, and nothing is written.
    """
    models = load_grid(grid)
    variants, left_out = find_variants(data)
    if not variants:
        raise DataRefused(f"no variant in '{data}' can be trained on", code="empty_dataset", details=left_out)
    plan = _Plan([], left_out, [], [])
    for model in models:
        _add_model(plan, model, variants, name)
    if not plan.cells:
        raise DataRefused(f"no model of '{grid}' fits the data in '{data}'", code="nothing_fits", details=plan.left_out)
    states = _write(plan.cells, out)
    return Made(out, plan.cells, states, plan.left_out, [_unchecked(model, plan.fit) for model in plan.unchecked])


@dataclass
class _Plan:
    """The grid so far; ``fit`` are models that fit the data, ``unchecked`` those of which it is not known."""

    cells: list[Cell]
    left_out: list[str]
    fit: list[str]
    unchecked: list[str]


def _add_model(plan: _Plan, model: Model, variants: Sequence[Variant], name: str | None) -> None:
    try:
        template = _template(model.model)
    except BaseRefused as refused:
        plan.left_out.append(f"{model.model}: {one_line(refused)}")
        return
    fitting = []
    for variant in variants:
        why = _misfit(model.model, template, variant) if template else None
        if why:
            plan.left_out.append(f"{model.model} x {variant.contract.variant}: {why}")
        else:
            fitting.append(variant)
    if fitting:
        methods, unfit = _methods(model)
        plan.cells += _cells(model, methods, fitting, name)
        plan.left_out += unfit
        (plan.fit if template else plan.unchecked).append(model.model)


# -- does the data fit the model


def _template(model: str) -> ChatTemplate | None:
    """The chat template of *model*, None for a hub model that is not on this machine. Raises BaseRefused."""
    folder = _cached(model) if is_hub_id(model) else resolve(model)
    return ChatTemplate(load_tokenizer(folder)) if folder else None


def _cached(model: str) -> Path | None:
    """Where the hub model *model* lies on this machine, if all that is read of it does."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        raise BaseRefused("no folder of that name, and no hub id either", code="no_such_model") from None
    if not isinstance(config, str):
        return None
    try:
        return resolve(str(Path(config).parent.absolute()))
    except BaseRefused:
        return None  # a download that has not ended


def _misfit(model: str, template: ChatTemplate, variant: Variant) -> str | None:
    """Why *model* cannot be trained on *variant*; None where it can."""
    contract = variant.contract
    build = f"build with --model {model} first"
    if contract.tokenizer_sha256 != template.tokenizer_sha256:
        return f"the data was built for another tokenizer: {build}"
    if contract.template_sha256 != template.template_sha256:
        return f"the data was built for another chat template: {build}"
    try:
        format_for(template, contract)
    except DataRefused:
        return f"the data was built by another version: {build}"
    except BaseRefused as refused:
        return one_line(refused)
    return None


def _unchecked(model: str, fit: Sequence[str]) -> str:
    known = f" (it fits {', '.join(fit)})" if fit else ""
    return (
        f"{model} is not on this machine, so it was not checked that the data fits it{known}: "
        f"build with --model {model} first, unless you did"
    )


# -- the configs


def _methods(model: Model) -> tuple[list[Method], list[str]]:
    """The methods that *model*'s settings allow, and why not the others."""
    fit: list[Method] = []
    unfit: list[str] = []
    for method in METHODS:
        try:
            parse_config({**model.settings, "name": "n", "model": model.model, "data": "d", "method": method}, "grid")
            fit.append(method)
        except ConfigRefused as refused:
            unfit.append(f"{model.model} x {method}: {'; '.join(refused.details)}")
    return fit, unfit


def _cells(model: Model, methods: Sequence[Method], variants: Sequence[Variant], name: str | None) -> Iterator[Cell]:
    for method in methods:
        for variant in variants:
            person = variant.contract.persona.name if name is None else name
            told = {
                "name": adapter_name(person, model.short, method, variant.contract.variant),
                "model": model.model,
                "data": str(variant.folder),
                "method": method,
            }
            config = parse_config({**model.settings, **told}, told["name"])
            rate = config.learning_rate * model.learning_rate_times.get(method, 1)
            yield Cell(config.model_copy(update={"learning_rate": float(f"{rate:.4g}")}), variant.rows)


def adapter_name(person: str, model: str, method: str, variant: str) -> str:
    """``<person>-<model>-<method>-<variant>`` as adapters may be called; *person* is shortened where it must be.

    Raises:
        ConfigRefused: If nothing of *person* can stand in such a name.
    """
    rest = f"-{model}-{method}-{variant}"
    begin = plain(person)[: NAME_LENGTH - len(rest)].rstrip("-._")
    if not begin:
        raise ConfigRefused(
            f"'{person}' has no letter that an adapter's name may have (a to z, 0 to 9): give one with --name",
            code="config_invalid",
        )
    return begin + rest


def _write(cells: Sequence[Cell], out: Path) -> list[str]:
    """Write and load back all of *cells*, then move those that are new to *out*. Returns what became of each."""
    out.mkdir(parents=True, exist_ok=True)
    staging = out / f".staging-configs-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        for cell in cells:
            _stage(cell, staging)
        return [_keep(staging / cell.file, out / cell.file) for cell in cells]
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        sync_folder(out)


def _stage(cell: Cell, staging: Path) -> None:
    settings = cell.config.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)
    write_synced(staging / cell.file, (HEADER + text).encode())
    if load_config(staging / cell.file) != cell.config:
        raise ConfigRefused(f"the config '{cell.config.name}' cannot be written as YAML", code="config_malformed")


def _keep(staged: Path, path: Path) -> str:
    if not os.path.lexists(path):
        os.rename(staged, path)
        return "written"
    return "unchanged" if path.is_file() and path.read_bytes() == staged.read_bytes() else "kept"


# -- words


def _row(config: str, width: int, numbers: Sequence[str], state: str) -> str:
    return " ".join([f"{config:{width}}", *(f"{number:>8}" for number in numbers), f" {state}"]).rstrip()
