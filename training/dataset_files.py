"""The files of a dataset: rows written conversation by conversation, and folders replaced as a whole."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from errors import PromptRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.persona import Persona
from prompt_format.variants import DEFAULT_WINDOWS
from prompt_format.window import Window
from training.chosen import Chosen
from training.pairs import Answer, Conversation
from training.private_files import sync, sync_folder, write_synced
from training.progress import Tell, silent
from training.selection import SPLITS

MANY_PAIRS = 5000  # from so many on, other processes help: each takes seconds to start
_AT_ONCE = 1000  # pairs a process is given


@dataclass
class Written:
    """What was written for one variant."""

    variant: str
    folder: Path
    counts: dict[str, int]
    contract: str


@dataclass
class Rows:
    """Rows of some conversations: (variant, split) -> lines and how many; and for each variant what was refused."""

    lines: dict[tuple[str, str], bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


class _File:
    """A file of rows being written."""

    def __init__(self, path: Path):
        self.name = path.name
        self._file: IO[bytes] = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> str:
        """Digest of the whole; it is on the disk then."""
        self._file.flush()
        sync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()


def write_variants(formats: Sequence[PromptFormat], chosen: Chosen, out: Path, tell: Tell = silent) -> list[Written]:
    """Write one folder a variant: all staged beside their places, then moved there, each as a whole."""
    staged = {form.variant: out / f".staging-{form.variant}-{os.getpid()}" for form in formats}
    with ExitStack() as stack:
        for variant, folder in staged.items():
            _mend(out / variant)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
        files = {(v, split): _File(folder / f"{split}.jsonl") for v, folder in staged.items() for split in SPLITS}
        for file in files.values():
            stack.callback(file._file.close)
        counts, refused = _write_rows(formats, chosen, files, tell)
        written = []
        for form in formats:
            mine = {split: files[form.variant, split] for split in SPLITS}
            summary = _summary(form, chosen, mine, counts, refused[form.variant])
            write_synced(staged[form.variant] / "dataset.json", summary)
            numbers = {split: counts[form.variant, split] for split in SPLITS}
            written.append(Written(form.variant, out / form.variant, numbers, form.contract.digest))
        for variant, folder in staged.items():
            _move(folder, out / variant)
    return written


def _write_rows(
    formats: Sequence[PromptFormat], chosen: Chosen, files: dict[tuple[str, str], _File], tell: Tell
) -> tuple[Counter[tuple[str, str]], dict[str, Counter[str]]]:
    counts: Counter[tuple[str, str]] = Counter()
    refused: dict[str, Counter[str]] = defaultdict(Counter)
    for rows in _all_rows(formats, chosen):
        for key, lines in rows.lines.items():
            files[key].write(lines)
        counts.update(rows.counts)
        tell("rows written", counts.total(), len(formats) * chosen.selection.counts.total())
        for variant, reasons in rows.refused.items():
            refused[variant].update(reasons)
    return counts, refused


def _all_rows(formats: Sequence[PromptFormat], chosen: Chosen) -> Iterator[Rows]:
    """The rows of all conversations in order, some at a time."""
    groups = list(_groups(chosen))
    workers = chosen.plan.workers or (os.cpu_count() or 1 if chosen.selection.counts.total() >= MANY_PAIRS else 1)
    if workers == 1:
        for group in groups:
            yield rows_of(formats, chosen, group)
        return
    recipe = [(form.variant, form.persona, form.window) for form in formats]
    start = (formats[0].template, recipe, chosen)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, start) as pool:
        yield from pool.map(_rows_in_worker, groups)


_IN_WORKER: tuple[list[PromptFormat], Chosen]


def _start(template: ChatTemplate, recipe: Sequence[tuple[str, Persona, Window]], chosen: Chosen) -> None:
    global _IN_WORKER
    _IN_WORKER = ([PromptFormat(template, *parts) for parts in recipe], chosen)


def _rows_in_worker(numbers: Sequence[int]) -> Rows:
    return rows_of(*_IN_WORKER, numbers)


def _groups(chosen: Chosen) -> Iterator[list[int]]:
    group: list[int] = []
    pairs = 0
    for number, turns in sorted(chosen.selection.splits.items()):
        group.append(number)
        pairs += len(turns)
        if pairs >= _AT_ONCE:
            yield group
            group, pairs = [], 0
    if group:
        yield group


def rows_of(formats: Sequence[PromptFormat], chosen: Chosen, numbers: Sequence[int]) -> Rows:
    """The rows of the conversations *numbers*, for each of *formats*."""
    rows = Rows()
    for number in numbers:
        conversation = chosen.conversation(number)
        thread = hashlib.sha256("\0".join(chosen.keys[number]).encode()).hexdigest()[:12]
        splits = chosen.selection.splits[number]
        for answer in conversation.answers:
            if answer.turn in splits:
                for form in formats:
                    _add_row(rows, form, conversation, answer, splits[answer.turn], thread)
    return rows


def _add_row(
    rows: Rows, form: PromptFormat, conversation: Conversation, answer: Answer, split: str, thread: str
) -> None:
    turn = conversation.turns[answer.turn]
    session = conversation.turns[answer.session + form.window.unreachable(answer.turn - answer.session) : answer.turn]
    try:
        messages = form.row_after(session, turn.bubbles, conversation.is_group, conversation.category)
    except PromptRefused as refused:
        rows.refused[form.variant][f"refused: {refused.code}"] += 1
        return
    at = turn.began.isoformat().replace("+00:00", "Z") if turn.began else None
    row = {"messages": messages, "contract": form.digest, "thread": thread, "at": at}
    rows.lines[form.variant, split] += msgspec.json.encode(row) + b"\n"
    rows.counts[form.variant, split] += 1


def _summary(
    form: PromptFormat,
    chosen: Chosen,
    files: dict[str, _File],
    counts: Counter[tuple[str, str]],
    refused: Counter[str],
) -> bytes:
    found: dict[str, Any] = {
        "variant": form.variant,
        "contract": form.contract.model_dump(mode="json"),
        "contract_digest": form.contract.digest,
        "counts": {split: counts[form.variant, split] for split in SPLITS},
        "bytes": {file.name: file.size for file in files.values()},
        "sha256": {file.name: file.close() for file in files.values()},
        **chosen.statistics.as_json(),
        "sources": chosen.history.sources,
        "window_default": form.window == DEFAULT_WINDOWS[form.variant],
    }
    found["dropped"] = dict(sorted((Counter(found["dropped"]) + refused).items()))
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()


def _mend(folder: Path) -> None:
    """Put back or clear away what a build that was killed left beside *folder*; its rows are somebody's messages."""
    for old in sorted(folder.parent.glob(f".old-{folder.name}-*")):
        if not folder.exists():
            os.rename(old, folder)
    for left in [*folder.parent.glob(f".old-{folder.name}-*"), *folder.parent.glob(f".staging-{folder.name}-*")]:
        shutil.rmtree(left, ignore_errors=True)


def _move(staged: Path, folder: Path) -> None:
    """*staged* to *folder*: the old one stays until the new one is in its place."""
    old = folder.with_name(f".old-{folder.name}-{os.getpid()}")
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
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
