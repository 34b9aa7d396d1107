"""The variants in a folder that ``build`` wrote: those that hold data, and why the others do not."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from errors import DataRefused, one_line
from prompt_format.contract import Contract
from prompt_format.variants import VARIANTS
from training.selection import SPLITS


@dataclass(frozen=True)
class Variant:
    """A dataset of one variant that can be trained on; ``rows`` are counted in its files, split by split."""

    folder: Path
    contract: Contract
    rows: dict[str, int]


class _Summary(BaseModel):
    """What is needed of ``dataset.json``."""

    model_config = ConfigDict(hide_input_in_errors=True)

    contract: Contract
    sha256: dict[str, str]


def find_variants(data: Path) -> tuple[list[Variant], list[str]]:
    """The variants in *data* that can be trained on, and why each other one cannot.

    Raises:
        DataRefused: If *data* is no folder.
    """
    if not data.is_dir():
        raise DataRefused(f"no folder '{data}': run `python -m training build` first", code="no_dataset")
    found: dict[str, Variant] = {}
    left_out = []
    for folder in _folders(data):
        try:
            variant = read_variant(folder)
        except DataRefused as refused:
            left_out.append(f"{folder.absolute().name}: {one_line(refused)}")
            continue
        first = found.setdefault(variant.contract.variant, variant)
        if first is not variant:
            left_out.append(f"{folder.name}: holds the variant {variant.contract.variant}, as {first.folder.name} does")
    return list(found.values()), left_out


def _folders(data: Path) -> list[Path]:
    """*data* itself where it is that of one variant; else those in it, and those that the variants would have."""
    if data.absolute().name in VARIANTS or any((data / name).exists() for name in ("dataset.json", "train.jsonl")):
        return [data]
    others = {path.name for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")} - set(VARIANTS)
    return [data / name for name in [*VARIANTS, *sorted(others)]]


def read_variant(folder: Path) -> Variant:
    """The variant in *folder*: its contract, and how many rows its files hold.

    Raises:
        DataRefused: If there is nothing to learn from, or the files are not those that ``dataset.json`` describes:
            everything in ``details``.
    """
    if not folder.exists():
        raise DataRefused("not built", code="no_dataset")
    summary = _summary(folder)
    rows: dict[str, int] = {}
    faults = []
    for split in SPLITS:
        file = f"{split}.jsonl"
        try:
            digest, rows[split] = _digest_and_rows(folder / file)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            faults.append(f"{file} is missing" if missing else f"{file} cannot be read ({type(error).__name__})")
            continue
        if digest != summary.sha256.get(file):
            faults.append(f"{file} is not the file that dataset.json describes")
    faults += [f"0 {split} rows" for split in ("train", "valid") if rows.get(split) == 0]
    if summary.contract.variant not in VARIANTS:
        faults.append("a variant that this version does not know")
    if faults:
        raise DataRefused("has to be built again", code="empty_dataset", details=faults)
    return Variant(folder, summary.contract, rows)


def _summary(folder: Path) -> _Summary:
    try:
        return _Summary.model_validate_json((folder / "dataset.json").read_bytes())
    except FileNotFoundError:
        raise DataRefused("no dataset.json: has to be built again", code="no_dataset") from None
    except OSError as error:
        raise DataRefused(f"dataset.json cannot be read ({type(error).__name__})", code="unreadable_file") from None
    except ValidationError:  # which may quote what stands there, be it only a key
        raise DataRefused(
            "has to be built again: dataset.json is damaged or of another version", code="dataset_malformed"
        ) from None


def _digest_and_rows(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    rows = 0
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            rows += bool(line.strip())
    return digest.hexdigest(), rows
