"""``training build``: messages -> ``data/personal/<variant>/{train,valid,test}.jsonl`` and ``dataset.json``.

Every row is made by ``prompt_format``, in the form mlx-lm's chat datasets take, and names the contract it was made
under. The split is by time within each thread; the style is measured on the training split alone.
"""

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from errors import BaseRefused, DataRefused, PromptRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.persona import Persona, check_name, measure
from prompt_format.variants import DEFAULT_WINDOWS, VARIANTS
from prompt_format.window import Window
from training.pairs import Pair, reply_pairs
from training.private_files import write_synced
from training.records import Record, read_records

SPLITS = ("train", "valid", "test")
HELD_OUT_SHARE = 0.1  # of each thread's blocks, for valid and again for test
LONG_REPLY = 20  # characters from which a reply that also stands in test may not be trained on


@dataclass
class Built:
    """What was written for one variant."""

    variant: str
    folder: Path
    counts: dict[str, int]
    contract: str


@dataclass
class History:
    """All messages, by thread, and what reading them left out."""

    threads: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    dropped: Counter[str] = field(default_factory=Counter)
    sources: dict[str, str] = field(default_factory=dict)


def build(
    paths: Sequence[Path],
    name: str,
    template: ChatTemplate,
    out: Path,
    variants: Sequence[str] = (),
    relations: Mapping[str, str] | None = None,
    groups: bool = False,
    window: Window | None = None,
) -> list[Built]:
    """Build the datasets of *variants* (none given: each that can hold data) from message files.

    Args:
        name: The persona's name, as prompts label it.
        relations: thread_id or sender_id -> category, for ``category_aware``.
        groups: Also learn from group chats.
        window: Other limits than the variant's own.

    Raises:
        DataRefused: If there is nothing to build from; nothing has been written then.
    """
    chosen = _chosen(variants, relations)
    history = read_history(paths)
    try:
        check_name(name)
    except ValueError as error:
        raise DataRefused(str(error), code="invalid_name") from None
    splits, dropped = split_pairs(history, relations or {}, groups, window or Window())
    if not splits["train"]:
        raise DataRefused(
            f"no replies to learn from in {', '.join(map(str, paths))}: {len(history.threads)} threads, none with an "
            "answer of yours to somebody's message. Check --me at import",
            code="no_pairs",
            details=[f"{reason}: {count}" for reason, count in sorted(dropped.items())],
        )
    persona = Persona(name=name, style=measure([pair.reply for pair in splits["train"]]))
    return [
        _write_variant(variant, PromptFormat(template, variant, persona, window), splits, history, dropped, out)
        for variant in _expressible(chosen, template, persona, window, explicit=bool(variants))
    ]


def read_history(paths: Sequence[Path]) -> History:
    """All records of *paths* by thread.

    Raises:
        DataRefused: If no message was found.
    """
    history = History()
    earlier: set[Any] = set()  # what stood in the files before this one
    for path in paths:
        digest = hashlib.sha256()
        here: set[Any] = set()
        for record in read_records(path):
            if isinstance(record, ValidationError):
                history.dropped["not_understood"] += 1
                continue
            digest.update(record.model_dump_json().encode())
            marks = _marks(record)
            if not earlier.isdisjoint(marks):
                history.dropped["in_an_earlier_file"] += 1
                continue
            here |= marks
            history.threads[record.thread_id].append(record)
        earlier |= here
        history.sources[path.name] = digest.hexdigest()
    if not history.threads:
        given = ", ".join(map(str, paths)) or "no file given"
        raise DataRefused(
            f"no messages to build from ({given}): run `python -m training import SOURCE PATH --me ...` first",
            code="no_messages",
            details=[f"{reason}: {count} lines" for reason, count in sorted(history.dropped.items())],
        )
    return history


def _marks(record: Record) -> set[Any]:
    """What shows that a message of one file is one of another file too: overlapping exports are usual.

    Within a file two equal messages of one second can both be real.
    """
    marks: set[Any] = set()
    if record.source_id is not None:
        marks.add((record.source, record.thread_id, record.source_id))
    if record.sent_at is not None:
        marks.add((record.thread_id, record.sender_id, record.from_me, record.sent_at, record.kind, record.text))
    return marks


def split_pairs(
    history: History, relations: Mapping[str, str], groups: bool, window: Window
) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """(split -> pairs, dropped by reason). The last tenth of each thread's blocks is test, the tenth before valid."""
    dropped = Counter(history.dropped)
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for _, records in sorted(history.threads.items()):
        if not groups and any(record.thread_kind == "group" for record in records):
            dropped["group_thread"] += sum(record.from_me for record in records)
            continue
        pairs = reply_pairs(records, _relation(records, relations), window, dropped)
        blocks = sorted({pair.block for pair in pairs})
        held = max(1, round(len(blocks) * HELD_OUT_SHARE)) if len(blocks) >= 3 else 0
        first_valid, first_test = len(blocks) - 2 * held, len(blocks) - held
        place = dict.fromkeys(blocks[first_valid:first_test], "valid") | dict.fromkeys(blocks[first_test:], "test")
        for pair in pairs:
            splits[place.get(pair.block, "train")].append(pair)
    _drop_repeated_replies(splits, dropped)
    return splits, dropped


def _drop_repeated_replies(splits: dict[str, list[Pair]], dropped: Counter[str]) -> None:
    """No long reply of valid or test is trained on as well: it would be known by heart."""
    held = {_spelling(pair) for split in ("valid", "test") for pair in splits[split]}
    kept = [p for p in splits["train"] if len(_spelling(p)) < LONG_REPLY or _spelling(p) not in held]
    dropped["reply_also_held_out"] += len(splits["train"]) - len(kept)
    splits["train"] = kept


def _spelling(pair: Pair) -> str:
    return " ".join(" ".join(pair.reply).lower().split())


def _relation(records: Sequence[Record], relations: Mapping[str, str]) -> str | None:
    keys = [records[0].thread_id, *(r.sender_id for r in records if not r.from_me and r.sender_id)]
    return next((relations[key] for key in keys if key in relations), None)


def _chosen(variants: Sequence[str], relations: Mapping[str, str] | None) -> list[str]:
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        raise DataRefused(f"no variant named '{unknown[0]}'; there are: {', '.join(VARIANTS)}", code="unknown_variant")
    if "category_aware" in variants and not relations:
        raise DataRefused(
            "category_aware needs to know your relation with people: give --contacts contacts.yaml", code="no_relations"
        )
    return list(variants) or [v for v in VARIANTS if v != "category_aware" or relations]


def _expressible(
    variants: Iterable[str], template: ChatTemplate, persona: Persona, window: Window | None, explicit: bool
) -> list[str]:
    """The variants the base's template can carry. One that was asked for and cannot be is an error."""
    found = []
    for variant in variants:
        try:
            PromptFormat(template, variant, persona, window)
        except BaseRefused:
            if explicit:
                raise
            continue
        found.append(variant)
    return found


def _write_variant(
    variant: str,
    form: PromptFormat,
    splits: Mapping[str, Sequence[Pair]],
    history: History,
    dropped: Counter[str],
    out: Path,
) -> Built:
    """Write one variant's folder: staged beside it, then moved into place as a whole."""
    dropped = Counter(dropped)
    files = {split: _rows(form, splits[split], dropped) for split in SPLITS}
    counts = {split: len(rows) for split, rows in files.items()}
    data = {f"{split}.jsonl": "".join(rows).encode() for split, rows in files.items()}
    summary = {
        "variant": variant,
        "contract": form.contract.model_dump(mode="json"),
        "contract_digest": form.contract.digest,
        "counts": counts,
        "bytes": {file: len(content) for file, content in data.items()},
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in data.items()},
        "dropped": dict(sorted(dropped.items())),
        "threads": len(history.threads),
        "sources": history.sources,
        "window_default": form.window == DEFAULT_WINDOWS[variant],
    }
    data["dataset.json"] = (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode()
    _replace_folder(out / variant, data)
    return Built(variant, out / variant, counts, form.contract.digest)


def _rows(form: PromptFormat, pairs: Sequence[Pair], dropped: Counter[str]) -> list[str]:
    rows = []
    for pair in pairs:
        try:
            messages = form.row(pair.context, pair.reply)
        except PromptRefused as refused:
            dropped[f"refused: {refused.code}"] += 1
            continue
        row: dict[str, Any] = {
            "messages": messages,
            "contract": form.contract.digest,
            "thread": hashlib.sha256(pair.thread_id.encode()).hexdigest()[:12],
            "at": pair.at.isoformat().replace("+00:00", "Z") if pair.at else None,
        }
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    return rows


def _mend(folder: Path) -> None:
    """Put back or clear away what a build that was killed left beside *folder*; its rows are somebody's messages."""
    for old in sorted(folder.parent.glob(f".old-{folder.name}-*")):
        if not folder.exists():
            os.rename(old, folder)
    for left in [*folder.parent.glob(f".old-{folder.name}-*"), *folder.parent.glob(f".staging-{folder.name}-*")]:
        shutil.rmtree(left, ignore_errors=True)


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """*folder* with exactly *files*: the old one stays until the new one is whole."""
    staged = folder.with_name(f".staging-{folder.name}-{os.getpid()}")
    old = folder.with_name(f".old-{folder.name}-{os.getpid()}")
    _mend(folder)
    try:
        staged.mkdir(parents=True, mode=0o700)
        for name, content in files.items():
            write_synced(staged / name, content)
        replaces = folder.exists()
        if replaces:
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        try:
            os.rename(staged, folder)
        except OSError:
            if replaces:
                os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
