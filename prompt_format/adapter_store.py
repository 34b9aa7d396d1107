"""The folder where training and service meet: ``adapters/<name>/<generation>/`` and ``adapters/<name>/CURRENT``.

Reading only, and carefully: names are matched against their patterns before the file system is touched, each file is
opened without following links and without blocking, read once, and everything later uses those bytes. Writing is
``training/publish.py``.

An adapter without a manifest is unlabelled: a generation folder that lacks one, or mlx-lm's two files dropped straight
into ``adapters/<name>/``. It is read only by who asks for it as such.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from errors import AdapterRefused, SamevoiceError, UnknownAdapter
from prompt_format.manifest import CONFIG, GENERATION_PATTERN, MANIFEST, NAME_PATTERN, WEIGHTS

CURRENT = "CURRENT"
BESIDE = ("report.html", "report.json", "loss.png")  # for people to look at: training writes them, nobody reads them
PEFT_WEIGHTS, PEFT_PICKLE = "adapter_model.safetensors", "adapter_model.bin"
MOST_STRANGERS = 1000  # are counted
MAX_CURRENT, MAX_CONFIG, MAX_MANIFEST, MAX_WEIGHTS = 2**20, 64 * 2**10, 2**20, 8 * 2**30


@dataclass(frozen=True)
class AdapterFiles:
    """The bytes of one generation, each file read once. ``manifest`` is None where there is none."""

    weights: bytes
    config: bytes
    manifest: bytes | None


def names(store: Path) -> list[str]:
    """The adapter names in *store*, sorted; staging folders and strangers are left out."""
    if not store.is_dir():
        return []
    return sorted(e.name for e in os.scandir(store) if re.fullmatch(NAME_PATTERN, e.name) and e.is_dir())


def generations(store: Path, name: str) -> list[str]:
    """The generations of *name*, sorted by name (they are digests: order says nothing of age)."""
    folder = store / name
    if not re.fullmatch(NAME_PATTERN, name) or not folder.is_dir():
        return []
    return sorted(e.name for e in os.scandir(folder) if re.fullmatch(GENERATION_PATTERN, e.name) and e.is_dir())


def current(store: Path, name: str) -> str:
    """The generation that CURRENT of *name* names.

    Raises:
        UnknownAdapter: If there is no such adapter.
        AdapterRefused: ``missing_file`` or ``current_invalid``.
    """
    if not re.fullmatch(NAME_PATTERN, name) or not (store / name).is_dir():
        known = ", ".join(names(store)) or "none"
        raise UnknownAdapter(f"no adapter named '{name[:64]}'; there are: {known}")
    with _opened(store / name) as folder:
        if not _holds(folder, CURRENT):
            raise _without_current(folder, name)
        raw = read_file(folder, CURRENT, MAX_CURRENT, code="current_invalid")
    text = raw.decode("ascii", errors="replace").removesuffix("\n")
    if not re.fullmatch(GENERATION_PATTERN, text):
        raise AdapterRefused(
            f"CURRENT of '{name}' does not name a generation: use `training adapters rollback {name}`",
            code="current_invalid",
        )
    return text


def is_unlabelled(store: Path, name: str) -> bool:
    """Whether *name* is a plain mlx-lm folder: weights in the name folder itself, and no CURRENT."""
    if not re.fullmatch(NAME_PATTERN, name):
        return False
    try:
        with _opened(store / name) as folder:
            return _holds(folder, WEIGHTS) and not _holds(folder, CURRENT)
    except AdapterRefused:
        return False


def unlabelled(name: str) -> AdapterRefused:
    """The refusal of an adapter without a manifest, with both ways to use it."""
    return AdapterRefused(
        f"'{name}' has no manifest.json: nobody knows for which base and prompt it was made. To serve it as it is, "
        "reload it with allow_unlabelled and a variant; to keep it, use `python -m training adapters import`",
        code="unlabelled",
    )


def read_generation(store: Path, name: str, generation: str) -> AdapterFiles:
    """All files of one generation.

    Raises:
        UnknownAdapter: ``unknown_generation``, if the folder does not exist.
        AdapterRefused: If a file is missing, too large, no regular file or not safely ours.
    """
    with _generation(store, name, generation) as folder:
        return _read_all(folder)


def read_unlabelled(store: Path, name: str, generation: str | None) -> AdapterFiles:
    """All files of an adapter that may lack a manifest.

    Args:
        generation: None is the name folder itself (see ``is_unlabelled``).

    Raises:
        UnknownAdapter: ``unknown_adapter`` or ``unknown_generation``, if the folder does not exist.
        AdapterRefused: As ``read_generation``.
    """
    with _folder(store, name, generation) as folder:
        return _read_all(folder)


def strangers(store: Path, name: str, generation: str | None) -> int:
    """How many entries of an adapter's folder nobody here wrote; counting ends at ``MOST_STRANGERS``. Opens none.

    Args:
        generation: None is the name folder itself.

    Raises:
        UnknownAdapter, AdapterRefused: As ``read_unlabelled``, about the folder.
    """
    ours = {CONFIG, WEIGHTS, MANIFEST, *BESIDE}
    if generation is None:
        ours |= {CURRENT, *generations(store, name)}
    with _folder(store, name, generation) as folder, os.scandir(folder) as entries:
        found = (entry for entry in entries if entry.name not in ours and not entry.name.startswith(".staging-"))
        return sum(1 for _ in islice(found, MOST_STRANGERS))


def read_folder(path: Path, weights: str = WEIGHTS) -> AdapterFiles:
    """All files of an adapter folder outside a store, with the same care.

    Args:
        weights: The file that holds the weights: mlx-lm's or PEFT's.

    Raises:
        AdapterRefused: As ``read_generation``.
    """
    with _opened(path) as folder:
        return _read_all(folder, weights)


def read_file(folder: int, name: str, limit: int, code: str = "not_a_regular_file") -> bytes:
    """Bytes of one regular file of ours in an open folder. Never follows a link, never blocks.

    Args:
        folder: Descriptor of the open folder.
        name: One of our own constants: it must hold no slash.
        limit: The most bytes it may have.

    Raises:
        AdapterRefused: ``missing_file``, ``not_a_regular_file``, ``unsafe_file``, ``file_too_large``,
            ``file_changed`` or ``unreadable_file``.
    """
    handle = _open_file(folder, name, code)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise AdapterRefused(f"{name} is not a regular file", code=code)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022 or info.st_nlink != 1:
            raise AdapterRefused(
                f"{name} is writable by others, belongs to someone else or has a second link", code="unsafe_file"
            )
        if info.st_size > limit:
            raise AdapterRefused(f"{name} is larger than {limit} bytes", code="file_too_large")
        with os.fdopen(os.dup(handle), "rb") as file:
            data = file.read(info.st_size + 1)  # asking for more would set that much memory aside
    except OSError:
        raise AdapterRefused(f"{name} could not be read to its end", code="unreadable_file") from None
    finally:
        os.close(handle)
    if len(data) != info.st_size:
        raise AdapterRefused(f"{name} changed while it was read: try again", code="file_changed")
    return data


def _open_file(folder: int, name: str, code: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise AdapterRefused(f"{name} is missing", code="missing_file") from None
    except PermissionError:
        raise AdapterRefused(f"{name} cannot be read: check its mode", code="unreadable_file") from None
    except OSError:  # a link (ELOOP), a socket or a device without a driver (ENXIO)
        raise AdapterRefused(f"{name} is not a regular file", code=code) from None


def _read_all(folder: int, weights: str = WEIGHTS) -> AdapterFiles:
    faults: list[AdapterRefused] = []
    found: dict[str, bytes] = {}
    for name, limit in ((CONFIG, MAX_CONFIG), (MANIFEST, MAX_MANIFEST), (weights, MAX_WEIGHTS)):
        try:
            found[name] = read_file(folder, name, limit)
        except AdapterRefused as fault:
            if name != MANIFEST or fault.code != "missing_file":
                faults.append(fault)
    if faults:
        more = [fault.message for fault in faults[1:]]
        raise AdapterRefused(faults[0].message + _peft_hint(folder), code=faults[0].code, details=more)
    return AdapterFiles(found[weights], found[CONFIG], found.get(MANIFEST))


def _without_current(folder: int, name: str) -> AdapterRefused:
    """Why the adapter *name*, open as *folder*, has no generation in use."""
    if _holds(folder, WEIGHTS):
        return unlabelled(name)
    return AdapterRefused(f"{CURRENT} is missing{_peft_hint(folder)}", code="missing_file")


def _peft_hint(folder: int) -> str:
    """What to add to a refusal where the folder is PEFT's."""
    if _holds(folder, WEIGHTS) or not (_holds(folder, PEFT_WEIGHTS) or _holds(folder, PEFT_PICKLE)):
        return ""
    return ": this is a PEFT folder, which `python -m training adapters import PATH --name NAME` converts"


def _holds(folder: int, name: str) -> bool:
    """Whether an open folder has an entry *name*, of whatever kind. Opens nothing."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


@contextmanager
def _folder(store: Path, name: str, generation: str | None) -> Iterator[int]:
    """A descriptor of a generation's folder, or of the name folder."""
    if generation is not None:
        with _generation(store, name, generation) as folder:
            yield folder
        return
    unknown = UnknownAdapter(f"no adapter named '{name[:64]}'")
    if not re.fullmatch(NAME_PATTERN, name):
        raise unknown
    with _opened(store / name, absent=unknown) as folder:
        yield folder


@contextmanager
def _generation(store: Path, name: str, generation: str) -> Iterator[int]:
    """A descriptor of a generation's folder, found in the open name folder, which nobody can exchange meanwhile."""
    unknown = UnknownAdapter(f"adapter '{name}' has no generation {generation}", code="unknown_generation")
    if not re.fullmatch(NAME_PATTERN, name) or not re.fullmatch(GENERATION_PATTERN, generation):
        raise unknown
    with (
        _opened(store / name, absent=unknown) as parent,
        _opened(Path(generation), within=parent, absent=unknown) as folder,
    ):
        yield folder


@contextmanager
def _opened(path: Path, within: int | None = None, absent: SamevoiceError | None = None) -> Iterator[int]:
    """A descriptor of a folder that is ours, not a link, and not writable by others.

    Args:
        within: Descriptor of the folder that *path* is relative to.
        absent: What to raise where there is none; None is ``missing_file``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    except FileNotFoundError:
        raise absent or AdapterRefused(f"the folder {path.name} is gone", code="missing_file") from None
    except OSError:
        raise AdapterRefused(f"{path.name} is a link or no folder", code="not_a_regular_file") from None
    try:
        info = os.fstat(handle)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise AdapterRefused(
                f"the folder {path.name} is writable by others or belongs to someone else", code="unsafe_file"
            )
        yield handle
    finally:
        os.close(handle)
