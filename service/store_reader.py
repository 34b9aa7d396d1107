"""The adapter store as the service sees it: what CURRENT of each name says, and generations, read and checked.

What reads here blocks and is called in threads. It knows nothing of slots, and imports no mlx.
"""

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from errors import AdapterRefused, UnknownAdapter
from prompt_format.adapter_check import CheckedAdapter, check_adapter
from prompt_format.adapter_store import CURRENT, AdapterFiles, current, names, read_generation, read_unlabelled
from prompt_format.adapter_store import strangers as count_strangers
from prompt_format.unlabelled import check_unlabelled
from service.engine import BaseFacts

log = logging.getLogger("samevoice.adapters")


@dataclass(frozen=True)
class Look:
    """What is known of a name without reading any generation of it.

    Attributes:
        generation: What CURRENT names; None where it names nothing that is there, and *refusal* says why.
        written_at: When CURRENT was written, in nanoseconds; 0 where there is none.
    """

    generation: str | None
    refusal: AdapterRefused | None = None
    written_at: int = 0


@dataclass(frozen=True)
class Source:
    """Where an adapter is read from.

    Attributes:
        folder: The generation's; None is the name's own, where mlx-lm's files may lie.
        variant: Of an adapter without a manifest, as whoever loads it says; None is one with a manifest.
    """

    name: str
    folder: str | None
    variant: str | None = None


class StoreReader:
    """Reads *store* for a service whose base is *base*."""

    def __init__(self, store: Path, base: BaseFacts):
        self.store, self.base = store, base
        self._checked: dict[str, tuple[Source, list[bytes | None], CheckedAdapter]] = {}

    def exists(self) -> bool:
        return self.store.is_dir()

    def look_at_all(self) -> dict[str, Look]:
        """Every name in the store. Only CURRENTs are read, so a store of thousands costs little."""
        found = {}
        for name in names(self.store):
            with contextlib.suppress(UnknownAdapter):  # removed a moment ago
                found[name] = self.look_at(name)
        return found

    def look_at(self, name: str) -> Look:
        """What CURRENT of *name* says. Raises UnknownAdapter if there is no such name."""
        try:
            generation = current(self.store, name)
        except AdapterRefused as refusal:
            return Look(None, refusal)
        if not (self.store / name / generation).is_dir():
            missing = f"CURRENT names generation {generation}, which is not there"
            return Look(None, AdapterRefused(missing, code="missing_file"))
        written_at = 0
        with contextlib.suppress(OSError):
            written_at = os.stat(self.store / name / CURRENT, follow_symlinks=False).st_mtime_ns
        return Look(generation, None, written_at)

    def check(self, source: Source, timing_ms: dict[str, float]) -> CheckedAdapter:
        """One adapter, read and checked. Bytes that have been checked before are known by their digests.

        Args:
            timing_ms: Is told how long ``read`` and ``verify`` took.

        Raises:
            UnknownAdapter: ``unknown_generation``.
            AdapterRefused: With the code of the first stage of checks that failed, and all its faults.
            InvalidField: If a variant is given for an adapter that has a manifest.
        """
        began = time.perf_counter()
        files = self._read(source)
        read = time.perf_counter()
        digests = [part and hashlib.sha256(part).digest() for part in (files.weights, files.config, files.manifest)]
        before, known, adapter = self._checked.get(source.name, (None, None, None))
        if adapter is not None and (before, known) == (source, digests):
            found = replace(adapter, weights=files.weights)
        else:
            found = self._check(source, files)
            self._checked[source.name] = (source, digests, replace(found, weights=b""))
            self._warn_of_strangers(source)
        timing_ms["read"] = round(1000 * (read - began), 2)
        timing_ms["verify"] = round(1000 * (time.perf_counter() - read), 2)
        return found

    def remembered(self, name: str, generation: str | None) -> CheckedAdapter | None:
        """What *generation* of *name* was found to be when it was last checked, without its weights. Does not block."""
        _, _, adapter = self._checked.get(name, (None, None, None))
        return adapter if adapter is not None and adapter.generation == generation else None

    def forget(self, name: str) -> None:
        """*name* has left the store. Does not block."""
        self._checked.pop(name, None)

    def _read(self, source: Source) -> AdapterFiles:
        if source.folder is None or source.variant is not None:
            return read_unlabelled(self.store, source.name, source.folder)
        return read_generation(self.store, source.name, source.folder)

    def _check(self, source: Source, files: AdapterFiles) -> CheckedAdapter:
        base = self.base
        if source.variant is None:
            generation = source.folder or ""
            return check_adapter(
                files, source.name, generation, base.fingerprint, base.template, base.shapes, base.blocks
            )
        return check_unlabelled(
            files, source.name, source.variant, base.name, base.fingerprint, base.template, base.shapes, base.blocks
        )

    def _warn_of_strangers(self, source: Source) -> None:
        count = count_strangers(self.store, source.name, source.folder)
        if count:
            log.warning("adapter %s: %d entries of its folder are not ours and are left alone", source.name, count)
