"""Datasets back from disk: every row checked and encoded before the first step."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from errors import DataRefused, PromptRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.contract import Contract
from prompt_format.format import Example, PromptFormat, format_for
from prompt_format.variants import VARIANTS


class Row(BaseModel):
    """One line of train, valid or test."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    messages: list[dict[str, str]]
    contract: str
    thread: str
    at: str | None


@dataclass(frozen=True)
class Dataset:
    """A dataset of one variant, encoded for one tokenizer.

    Attributes:
        splits: split -> examples, in the file's order.
        messages: split -> the chat messages of the same rows.
        digest: SHA-256 over the three files.
        cut: How many examples lost the start of their prompt to ``max_tokens``.
        refused: How many were longer than ``max_tokens`` with the reply alone.
    """

    folder: Path
    format: PromptFormat
    splits: dict[str, list[Example]]
    messages: dict[str, list[Any]]
    digest: str
    cut: int
    refused: int


def load_dataset(folder: Path, template: ChatTemplate, max_tokens: int) -> Dataset:
    """The dataset in *folder*, checked against this tokenizer.

    Raises:
        DataRefused: If it is absent, empty, damaged, or was made for another tokenizer, template or version.
    """
    summary = _summary(folder)
    form = _format(template, _contract(summary, folder), folder)
    splits: dict[str, list[Example]] = {}
    messages: dict[str, list[Any]] = {}
    digest = hashlib.sha256()
    cut = 0
    refused: Counter[str] = Counter()
    for split in ("train", "valid", "test"):
        raw = _read(folder / f"{split}.jsonl")
        if hashlib.sha256(raw).hexdigest() != summary["sha256"].get(f"{split}.jsonl"):
            raise DataRefused(
                f"'{folder / split}.jsonl' is not the file that dataset.json describes: build the dataset again",
                code="digest_mismatch",
            )
        digest.update(raw)
        rows = _rows(raw, folder / f"{split}.jsonl", form.contract.digest)
        whole = [_example(form, row, folder / f"{split}.jsonl", number) for number, row in enumerate(rows, 1)]
        kept = [(row, _fit(example, max_tokens)) for row, example in zip(rows, whole, strict=True)]
        refused[split] = sum(example is None for _, example in kept)
        cut += sum(e is not None and len(e.ids) < len(w.ids) for (_, e), w in zip(kept, whole, strict=True))
        splits[split] = [example for _, example in kept if example is not None]
        messages[split] = [row.messages for row, example in kept if example is not None]
    if not splits["train"] or not splits["valid"]:
        raise _too_few(folder, splits, refused, max_tokens)
    return Dataset(folder, form, splits, messages, digest.hexdigest(), cut, refused.total())


def _too_few(folder: Path, splits: Mapping[str, list[Example]], refused: Counter[str], max_tokens: int) -> DataRefused:
    """What to say of a dataset without a row to train on or to validate on: which it is, and what to do."""
    empty, lacks = ("valid", "validate on") if splits["train"] else ("train", "learn from")
    advice = "Import more messages and build again"
    if refused[empty]:
        advice = (
            f"the replies of {refused[empty]} rows alone are longer than max_tokens {max_tokens}. Set it higher, "
            "or import more messages and build again"
        )
    elif empty == "valid":
        advice = f"the last sessions with a contact are held out where there are at least three. {advice}"
    return DataRefused(
        f"'{folder}' holds {len(splits['train'])} training and {len(splits['valid'])} validation rows, so there is "
        f"nothing to {lacks}: {advice}",
        code="empty_dataset",
    )


def _summary(folder: Path) -> dict[str, Any]:
    if not (folder / "dataset.json").is_file():
        there = sorted(path.parent.name for path in folder.parent.glob("*/dataset.json"))
        if there:
            advice = f"built are: {', '.join(there)}"
        else:
            advice = "run `python -m training build data/messages/*.jsonl --name NAME` first"
        kind = "variant" if folder.name in VARIANTS else "dataset"
        raise DataRefused(f"no {kind} at '{folder}' (no dataset.json): {advice}", code="no_dataset")
    try:
        summary = json.loads(_read(folder / "dataset.json"))
    except ValueError:
        summary = None
    if not isinstance(summary, dict) or not isinstance(summary.get("sha256"), dict):
        raise DataRefused(f"'{folder / 'dataset.json'}' is damaged: build the dataset again", code="dataset_malformed")
    return summary


def _contract(summary: dict[str, Any], folder: Path) -> Contract:
    try:
        return Contract.model_validate(summary.get("contract"))
    except ValidationError as error:
        fields = [".".join(map(str, row["loc"])) or "contract" for row in error.errors(include_input=False)]
        raise DataRefused(
            f"'{folder / 'dataset.json'}' has no contract that this version reads: build again",
            code="contract_malformed",
            details=fields,
        ) from None


def _format(template: ChatTemplate, contract: Contract, folder: Path) -> PromptFormat:
    try:
        return format_for(template, contract)
    except DataRefused as error:
        raise DataRefused(
            f"the dataset '{folder}' does not fit: {error.message}. Build it again with this model (--model), or train "
            "on the one it was built with",
            code=error.code,
            details=error.details,
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataRefused(
            f"'{path}' cannot be read ({type(error).__name__}): build again", code="unreadable_file"
        ) from None


def _rows(raw: bytes, path: Path, contract: str) -> list[Row]:
    rows = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError:
            raise DataRefused(f"'{path}' line {number} is no training row: build again", code="row_malformed") from None
        if row.contract != contract:
            raise DataRefused(
                f"'{path}' line {number} was made under another contract: build again", code="contract_mismatch"
            )
        rows.append(row)
    return rows


def _example(form: PromptFormat, row: Row, path: Path, number: int) -> Example:
    messages: Sequence[Any] = row.messages
    try:
        return form.encode_row(messages)
    except (PromptRefused, KeyError) as error:
        raise DataRefused(
            f"'{path}' line {number} cannot be encoded ({error}): build again", code="row_malformed"
        ) from None


def _fit(example: Example, max_tokens: int) -> Example | None:
    """*example* in *max_tokens*: the context is cut from the left, the reply never. None when the reply is too long."""
    over = len(example.ids) - max_tokens
    if over <= 0:
        return example
    if example.reply_start - over < 1:
        return None
    return Example(example.ids[over:], example.reply_start - over)
