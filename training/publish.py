"""Into the store: staging folder -> generation folder -> CURRENT, each step whole or not at all.

Files are written to ``adapters/.staging-*``, which readers never look at, and synced; the manifest last; then one
rename makes the generation, and one more makes it current. A kill at any moment leaves the old state or the new.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from errors import AdapterRefused, Locked, UnknownAdapter
from prompt_format.adapter_check import check_manifest
from prompt_format.adapter_store import CURRENT, current, generations, names, read_generation
from prompt_format.binding import bind
from prompt_format.contract import Contract
from prompt_format.manifest import (
    CONFIG,
    MANIFEST,
    SCHEMA_VERSION,
    WEIGHTS,
    BaseIdentity,
    Data,
    Gate,
    Lora,
    Manifest,
    Training,
    file_entry,
    generation_of,
    now_text,
    write_manifest,
)
from training.private_files import replace_file, sync_folder, write_synced

LOCK = ".lock"


@dataclass(frozen=True)
class Candidate:
    """Everything a generation is made of.

    Attributes:
        beside: Files for a person to look at, name -> content: not signed, and no part of what the generation is.
    """

    name: str
    weights: bytes
    config: bytes
    base: BaseIdentity
    contract: Contract
    lora: Lora
    data: Data
    training: Training
    metrics: dict[str, float]
    probe: list[float]
    gate: Gate
    base_probe: list[float] = field(default_factory=list)
    beside: dict[str, bytes] = field(default_factory=dict)


def publish(store: Path, candidate: Candidate, activate: bool) -> str:
    """Write *candidate* to *store* and return its generation; with *activate*, make it current.

    Publishing what is there already writes nothing new, unless it was damaged; but that it was made current against
    the gate is noted in its manifest.

    Raises:
        OSError: If the disk refuses; nothing is left behind then.
    """
    gate = judged(candidate.gate, activate)
    weights = _bound(candidate)
    entries = {WEIGHTS: file_entry(weights), CONFIG: file_entry(candidate.config)}
    generation = generation_name(candidate)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION, name=candidate.name, generation=generation,
        created_at=now_text(datetime.now(UTC)), base=candidate.base, contract=candidate.contract, lora=candidate.lora,
        files=entries, data=candidate.data, training=candidate.training, metrics=candidate.metrics,
        probe=candidate.probe, base_probe=candidate.base_probe, gate=gate,
    )  # fmt: skip
    files = {WEIGHTS: weights, CONFIG: candidate.config, **candidate.beside, MANIFEST: write_manifest(manifest)}
    with locked(store):
        folder = store / candidate.name
        if not _is_whole(store, candidate.name, generation):
            shutil.rmtree(folder / generation, ignore_errors=True)
            _place(store, folder, generation, files)
        elif activate:
            _note_override(store, candidate.name, generation)
        if activate:
            point_to(store, candidate.name, generation)
    return generation


def judged(gate: Gate, activate: bool) -> Gate:
    """*gate*, with whether its adapter is made current against it."""
    return gate.model_copy(update={"overridden": activate and not gate.passed})


def generation_name(candidate: Candidate) -> str:
    """The generation that *candidate* will be."""
    weights, config = file_entry(_bound(candidate)), file_entry(candidate.config)
    return generation_of(weights.sha256, config.sha256, candidate.contract)


def _bound(candidate: Candidate) -> bytes:
    return bind(candidate.weights, candidate.contract, candidate.base.fingerprint)


def _note_override(store: Path, name: str, generation: str) -> Manifest:
    """Have the manifest say that its adapter is made current against the gate, if it is."""
    manifest = check_manifest(read_generation(store, name, generation), name, generation)
    gate = judged(manifest.gate, activate=True)
    if gate != manifest.gate:
        manifest = manifest.model_copy(update={"gate": gate})
        replace_file(store / name / generation / MANIFEST, write_manifest(manifest))
    return manifest


def point_to(store: Path, name: str, generation: str) -> None:
    """Make *generation* the current one of *name*."""
    replace_file(store / name / CURRENT, f"{generation}\n".encode())


def rollback(store: Path, name: str, generation: str | None) -> Manifest:
    """Make *generation* current, or the one published before the current; returns its manifest.

    That it did not pass the gate is no hindrance, and is noted as overridden.

    Raises:
        UnknownAdapter: If there is none such.
        AdapterRefused: If that generation's files are not what its manifest says.
    """
    if generation is None:
        generation = _before(store, name)
    check_manifest(read_generation(store, name, generation), name, generation)
    with locked(store):
        manifest = _note_override(store, name, generation)
        point_to(store, name, generation)
    return manifest


@contextlib.contextmanager
def locked(store: Path, wait_s: float = 10) -> Iterator[None]:
    """Hold the store for writing; waits a moment for another publisher, and tidies up after those that were killed.

    Raises:
        Locked: If another process holds it for more than *wait_s*.
    """
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    if store.stat().st_mode & 0o077:
        # A checkout brings the store so; with adapters in it the service would refuse it.
        store.chmod(0o700)
        print(f"note: others could read the store '{store}': it is yours alone now (mode 0700)", file=sys.stderr)
    handle = os.open(store / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Locked(f"another process is writing to '{store}': try again when it is done") from None
                time.sleep(0.1)
        _sweep(store)
        yield
    finally:
        os.close(handle)  # gives the lock back


def _place(store: Path, folder: Path, generation: str, files: dict[str, bytes]) -> None:
    staged = store / f".staging-{folder.name}-{generation}"
    try:
        staged.mkdir(mode=0o700)
        for name, data in files.items():  # the manifest is the last of them
            write_synced(staged / name, data)
        sync_folder(staged)
        folder.mkdir(exist_ok=True, mode=0o700)
        sync_folder(store)
        os.rename(staged, folder / generation)
        sync_folder(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _is_whole(store: Path, name: str, generation: str) -> bool:
    try:
        check_manifest(read_generation(store, name, generation), name, generation)
    except (AdapterRefused, UnknownAdapter):
        return False
    return True


def _sweep(store: Path) -> None:
    """Remove what killed publishers left behind: whoever holds the lock is the only living one.

    The checkpoints of killed trainings (files in the store itself) stay, for ``--resume``.
    """
    for entry in store.glob(".staging-*/"):
        shutil.rmtree(entry, ignore_errors=True)
    for entry in store.glob(f"*/.staging-{CURRENT}-*"):
        entry.unlink(missing_ok=True)
    for entry in store.glob(f"*/*/.staging-{MANIFEST}-*"):
        entry.unlink(missing_ok=True)


def in_order_of_time(store: Path, name: str) -> list[str]:
    """The whole generations of *name*, in the order in which they were published."""
    made = []
    for generation in generations(store, name):
        with contextlib.suppress(AdapterRefused):
            manifest = check_manifest(read_generation(store, name, generation), name, generation)
            made.append((manifest.created_at, generation))
    return [generation for _, generation in sorted(made)]


def _before(store: Path, name: str) -> str:
    try:
        now = current(store, name)
    except AdapterRefused:  # CURRENT is gone or damaged: the newest whole generation is the way back
        now = ""
    ordered = in_order_of_time(store, name)
    place = ordered.index(now) if now in ordered else len(ordered)
    if place == 0:
        before = f" before {now}" if now else ""
        raise UnknownAdapter(f"'{name}' has no whole generation{before}", code="unknown_generation")
    return ordered[place - 1]


@dataclass(frozen=True)
class Listed:
    """One generation as ``training adapters list`` shows it; *fault* says why it cannot be served."""

    name: str
    generation: str
    is_current: bool
    manifest: Manifest | None
    fault: str | None


def list_adapters(store: Path) -> list[Listed]:
    """Every generation in *store*."""
    rows = []
    for name in names(store):
        try:
            now = current(store, name)
        except (AdapterRefused, UnknownAdapter):
            now = None
        for generation in generations(store, name):
            try:
                manifest = check_manifest(read_generation(store, name, generation), name, generation)
                rows.append(Listed(name, generation, generation == now, manifest, None))
            except AdapterRefused as fault:
                rows.append(Listed(name, generation, generation == now, None, f"{fault.code}: {fault.message}"))
    return rows
