"""The store is read without trust: no link is followed, nothing blocks, and each file is read once.

Each case starts from a good published generation and changes one thing in its folder; the ids are those of
fault-matrix.md, A01 to A48.
"""

import json
import os
import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from errors import AdapterRefused, UnknownAdapter
from prompt_format.adapter_store import (
    BESIDE,
    MAX_CONFIG,
    MAX_MANIFEST,
    MAX_WEIGHTS,
    MOST_STRANGERS,
    AdapterFiles,
    current,
    generations,
    is_unlabelled,
    names,
    read_file,
    read_folder,
    read_generation,
    read_unlabelled,
    strangers,
)
from prompt_format.manifest import CONFIG, MANIFEST, WEIGHTS
from tests.fakes import checked, checked_files, make_adapter, write
from training.evaluation_report import CURVE, HTML, JSON

FILES = (CONFIG, WEIGHTS, MANIFEST)
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give files away and make devices")
as_user = pytest.mark.skipif(IS_ROOT, reason="root may read everything")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one generation of jo."""
    make_adapter(tmp_path / "adapters")
    return tmp_path / "adapters"


@pytest.fixture
def folder(store: Path) -> Path:
    """The folder of that generation."""
    return store / "jo" / current(store, "jo")


def code_of(read: Callable[[], Any]) -> str:
    with pytest.raises((AdapterRefused, UnknownAdapter)) as refusal:
        read()
    return refusal.value.code


def read_again(folder: Path) -> AdapterFiles:
    return read_generation(folder.parent.parent, folder.parent.name, folder.name)


_opened: list[list[str]] = []
_whole: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened and not isinstance(arguments[0], int):  # a number is a descriptor opened before
        _opened[-1].append(os.path.basename(os.fsdecode(arguments[0])))
        _whole.append(os.fsdecode(arguments[0]))


@contextmanager
def opens() -> Iterator[list[str]]:
    """The last parts of all paths that are opened meanwhile."""
    if not _opened:
        sys.addaudithook(_note)  # for good: there is no way to take one off
    _opened.append([])
    try:
        yield _opened[-1]
    finally:
        _opened.append([])


# -- names and generations


NOT_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "A",
    "-a",
    "a" * 65,
    "é",
    "a\u202eb",
    "jo\n",
    "a\0",
    "a%2f..",
    "~",
    ".staging-jo",
]


@pytest.mark.parametrize("name", NOT_NAMES, ids=ascii)
def test_a_name_that_is_none_touches_nothing(store: Path, name: str) -> None:
    """A01, A08: a name outside its pattern is unknown, and no file is opened for it."""
    with opens() as found:
        assert "unknown_adapter" == code_of(lambda: current(store, name))
        assert "unknown_generation" == code_of(lambda: read_generation(store, name, "0" * 16))
        assert "unknown_adapter" == code_of(lambda: read_unlabelled(store, name, None))
        assert "unknown_generation" == code_of(lambda: strangers(store, name, "0" * 16))
        assert not is_unlabelled(store, name)
        assert [] == generations(store, name)
    assert [] == found


def test_an_unknown_name_is_told_what_there_is(store: Path) -> None:
    """A02: the refusal of an unknown adapter lists the known ones."""
    make_adapter(store, "work")

    with pytest.raises(UnknownAdapter, match="no adapter named 'mum'; there are: jo, work"):
        current(store, "mum")


def test_an_empty_store_has_no_names(tmp_path: Path) -> None:
    """A store that is not there yet has no adapters."""
    assert [] == names(tmp_path / "nowhere")
    assert "unknown_adapter" == code_of(lambda: current(tmp_path / "nowhere", "jo"))


@pytest.mark.parametrize(
    "generation", ["", "current", "CURRENT", "..", "0" * 15, "0" * 17, "A" * 16, "0" * 16 + "\n", "g" * 16], ids=ascii
)
def test_a_generation_that_is_none_touches_nothing(store: Path, generation: str) -> None:
    """A03: a generation outside its pattern is unknown, and no file is opened for it."""
    with opens() as found:
        assert "unknown_generation" == code_of(lambda: read_generation(store, "jo", generation))
    assert [] == found


def test_an_absent_generation_is_unknown(store: Path) -> None:
    """A03: a well-formed generation that is not there is unknown."""
    assert "unknown_generation" == code_of(lambda: read_generation(store, "jo", "0" * 16))


def test_strangers_in_the_store_are_no_adapters(store: Path) -> None:
    """Staging folders, files and odd names are left out of every list."""
    for stranger in (".staging-mo-1", "Mo", "jo\n", "mo mo", "é"):
        (store / stranger).mkdir()
    (store / "a-file").write_text("")
    here = current(store, "jo")
    for stranger in (".staging-x", "report", "0" * 15, here + "\n"):
        (store / "jo" / stranger).mkdir()

    assert ["jo"] == names(store)
    assert [here] == generations(store, "jo")


# -- CURRENT


def test_current_names_a_generation(store: Path, folder: Path) -> None:
    """CURRENT is one line; its line break may be missing."""
    assert folder.name == current(store, "jo")

    write(store / "jo" / "CURRENT", folder.name.encode())
    assert folder.name == current(store, "jo")


CURRENTS: dict[str, bytes] = {
    "empty": b"",
    "two lines": b"0123456789abcdef\n0123456789abcdef\n",
    "blank line": b"0123456789abcdef\n\n",
    "a path": b"../jo/0123456789",
    "upper case": b"0123456789ABCDEF\n",
    "binary": bytes(range(256)),
    "wide digits": "０１２３４５６７８９abcdef".encode(),
    "1 MB": b"0" * 2**20,
}


@pytest.mark.parametrize("case", CURRENTS)
def test_a_current_that_names_nothing_is_refused(store: Path, folder: Path, case: str) -> None:
    """A05: a CURRENT that is not one generation is invalid; with the generation given the adapter still loads."""
    write(store / "jo" / "CURRENT", CURRENTS[case])

    assert "current_invalid" == code_of(lambda: current(store, "jo"))
    assert folder.name == checked(store, "jo", folder.name).generation


def test_a_current_that_is_no_file_is_refused(store: Path, folder: Path) -> None:
    """A05: a CURRENT that is a link or a folder is invalid, and the link is not followed."""
    path = store / "jo" / "CURRENT"
    path.rename(store / "jo" / "elsewhere")
    path.symlink_to("elsewhere")
    assert "current_invalid" == code_of(lambda: current(store, "jo"))

    path.unlink()
    path.mkdir()
    assert "current_invalid" == code_of(lambda: current(store, "jo"))


def test_a_missing_current_is_missing(store: Path) -> None:
    """A name without CURRENT has generations, and none in use."""
    (store / "jo" / "CURRENT").unlink()

    assert "missing_file" == code_of(lambda: current(store, "jo"))


# -- folders


def link_generation(folder: Path) -> None:
    folder.rename(folder.with_name("0" * 15))
    folder.symlink_to(folder.with_name("0" * 15))


def link_generation_away(folder: Path) -> None:
    away = folder.parent.parent.parent / "away"
    folder.rename(away)
    folder.symlink_to(away)


def link_name(folder: Path) -> None:
    moved = folder.parent.with_name("mo")
    folder.parent.rename(moved)
    folder.parent.symlink_to(moved)


FOLDERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "A06 generation is a link": ("not_a_regular_file", link_generation),
    "A06 generation is a link out of the store": ("not_a_regular_file", link_generation_away),
    "A06 name is a link": ("not_a_regular_file", link_name),
    "A07 generation writable by its group": ("unsafe_file", lambda folder: folder.chmod(0o720)),
    "A07 generation writable by others": ("unsafe_file", lambda folder: folder.chmod(0o702)),
    "A07 name writable by others": ("unsafe_file", lambda folder: folder.parent.chmod(0o702)),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_others_could_change_is_refused(folder: Path, case: str) -> None:
    """A name or generation folder is a folder of ours that only we can write to."""
    code, change = FOLDERS[case]
    change(folder)

    assert code == code_of(lambda: read_again(folder))


@as_root
def test_a_folder_of_another_owner_is_refused(folder: Path) -> None:
    """A07: a folder that belongs to somebody else is not ours."""
    os.chown(folder, 12345, -1)

    assert "unsafe_file" == code_of(lambda: read_again(folder))


def test_a_file_in_place_of_the_generation_is_refused(folder: Path) -> None:
    """A generation is a folder."""
    for file in FILES:
        (folder / file).unlink()
    folder.rmdir()
    folder.write_bytes(b"")

    assert "not_a_regular_file" == code_of(lambda: read_again(folder))


# -- files


def replaced(file: str, by: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        by(folder / file)

    return change


def listening(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("devices cannot be made here")


def second_link(path: Path) -> None:
    os.link(path, path.parent.parent / "second")


def sparse(size: int) -> Callable[[Path], None]:
    def grow(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(size)

    return grow


def good_link(path: Path) -> None:
    away = path.parent.parent / "away"
    write(away, b"x")
    path.symlink_to(away)


KINDS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "A10 config missing": ("missing_file", CONFIG, lambda path: None),
    "A11 weights missing": ("missing_file", WEIGHTS, lambda path: None),
    "A31 weights a link to a system file": ("not_a_regular_file", WEIGHTS, lambda path: path.symlink_to("/etc/passwd")),
    "A32 weights a link to good weights": ("not_a_regular_file", WEIGHTS, good_link),
    "A33 link loop": ("not_a_regular_file", WEIGHTS, lambda path: path.symlink_to(path.name)),
    "A33 link to nothing": ("not_a_regular_file", WEIGHTS, lambda path: path.symlink_to("nothing")),
    "A35 FIFO": ("not_a_regular_file", WEIGHTS, os.mkfifo),
    "A36 device": ("not_a_regular_file", WEIGHTS, device),
    "A37 socket": ("not_a_regular_file", WEIGHTS, listening),
    "A38 folder": ("not_a_regular_file", WEIGHTS, Path.mkdir),
    "A47 config a FIFO": ("not_a_regular_file", CONFIG, os.mkfifo),
    "A47 manifest a FIFO": ("not_a_regular_file", MANIFEST, os.mkfifo),
    "A47 config a device": ("not_a_regular_file", CONFIG, device),
    "A47 manifest a link": ("not_a_regular_file", MANIFEST, lambda path: path.symlink_to("/etc/passwd")),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_is_no_regular_file_is_refused(folder: Path, case: str) -> None:
    """A link, FIFO, socket, device or folder in place of a file is refused at once and never followed."""
    code, file, by = KINDS[case]
    replaced(file, by)(folder)

    with opens() as found:
        assert code == code_of(lambda: read_again(folder))
    assert "passwd" not in found


STATES: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "A34 second link": ("unsafe_file", WEIGHTS, second_link),
    "A40 another owner": ("unsafe_file", WEIGHTS, lambda path: os.chown(path, 12345, -1)),
    "A41 writable by its group": ("unsafe_file", WEIGHTS, lambda path: path.chmod(0o620)),
    "A41 writable by others": ("unsafe_file", MANIFEST, lambda path: path.chmod(0o602)),
    "A42 sparse tail": ("file_too_large", WEIGHTS, sparse(MAX_WEIGHTS + 1)),
    "A47 config of 5 GB": ("file_too_large", CONFIG, sparse(5 * 2**30)),
    "A47 manifest of 5 GB": ("file_too_large", MANIFEST, sparse(5 * 2**30)),
    "A54 config of one byte too many": ("file_too_large", CONFIG, sparse(MAX_CONFIG + 1)),
    "A60 manifest of 2 MB": ("file_too_large", MANIFEST, sparse(2 * MAX_MANIFEST)),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=as_root) if "owner" in case else case for case in STATES])
def test_a_file_that_cannot_be_trusted_is_refused(folder: Path, case: str) -> None:
    """A file that others could change, or that is too large, is refused before it is read."""
    code, file, change = STATES[case]
    change(folder / file)

    tracemalloc.start()
    try:
        assert code == code_of(lambda: read_again(folder))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@as_user
def test_a_file_without_permission_is_unreadable(folder: Path) -> None:
    """A39: a file of mode 000 is unreadable."""
    (folder / WEIGHTS).chmod(0)

    assert "unreadable_file" == code_of(lambda: read_again(folder))


def test_all_faults_of_the_files_are_named_at_once(folder: Path) -> None:
    """A config that is missing and weights that are a FIFO are one refusal that names both."""
    (folder / CONFIG).unlink()
    replaced(WEIGHTS, os.mkfifo)(folder)

    with pytest.raises(AdapterRefused) as refusal:
        read_again(folder)
    assert f"{CONFIG} is missing" == refusal.value.message
    assert [f"{WEIGHTS} is not a regular file"] == refusal.value.details


def test_reading_takes_no_more_memory_than_the_file(folder: Path) -> None:
    """What is set aside for a file is its size, not what it might have been."""
    tracemalloc.start()
    try:
        read_again(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@on_linux
def test_a_read_error_is_an_unreadable_file() -> None:
    """A48: where the disk fails in the middle the file is unreadable."""
    descriptor = os.open("/proc/self", os.O_RDONLY)
    try:
        assert "unreadable_file" == code_of(lambda: read_file(descriptor, "mem", 2**20))
    finally:
        os.close(descriptor)


@on_linux
@pytest.mark.skipif(not IS_ROOT, reason="the file must be ours")
def test_a_file_that_grows_while_it_is_read_is_refused() -> None:
    """A file that gives more bytes than it had is said to have changed."""
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        assert "file_changed" == code_of(lambda: read_file(descriptor, "uptime", 2**20))
    finally:
        os.close(descriptor)


ODD = ["evil.py", "x.pkl", "adapter_model.bin", "tokenizer_config.json", "chat_template.jinja", ".DS_Store"]


def put_strangers(folder: Path, count: int = 300) -> int:
    """Files of nobody here and a FIFO; returns how many."""
    others = [*ODD, "a\nb", "n" * 250, "\u202egnp.exe", *(f"{number}.bin" for number in range(count))]
    for name in others:
        (folder / name).write_bytes(b"import os")
    os.mkfifo(folder / "pipe")
    return len(others) + 1


def test_strangers_in_the_folder_are_never_opened(store: Path, folder: Path) -> None:
    """A43: other files in a generation's folder do not hinder it and are not opened, only counted."""
    assert 0 == strangers(store, "jo", folder.name)
    count = put_strangers(folder)

    with opens() as found:
        assert folder.name == checked(store, "jo", folder.name).generation
        assert count == strangers(store, "jo", folder.name)
    assert {"jo", folder.name, *FILES} == set(found)


def test_what_training_writes_is_no_stranger(store: Path, folder: Path) -> None:
    """A43: reports, the files of a generation and what a publisher is just writing are not warned of."""
    assert {HTML, JSON, CURVE} == set(BESIDE)
    for name in (*BESIDE, ".staging-report.html-17"):
        (folder / name).write_bytes(b"")

    assert [0, 0] == [strangers(store, "jo", folder.name), strangers(store, "jo", None)]


def test_counting_strangers_ends(store: Path, folder: Path) -> None:
    """A43: ten thousand files cost no more than a thousand."""
    put_strangers(folder, count=MOST_STRANGERS + 5)

    assert MOST_STRANGERS == strangers(store, "jo", folder.name)


def test_a_generation_is_found_in_the_folder_that_was_checked(store: Path, folder: Path) -> None:
    """A44: once the name folder is open, nothing is looked up by its path again: it may be another one by then."""
    _whole.clear()
    with opens():
        read_again(folder)

    assert [str(store / "jo"), folder.name, CONFIG, MANIFEST, WEIGHTS] == _whole


def test_what_was_read_is_what_serves(store: Path, folder: Path) -> None:
    """A44 to A46: once read, an adapter does not change, whatever happens to its files."""
    files = read_again(folder)
    before = files.weights
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\xff" * 64)
    os.truncate(folder / CONFIG, 3)
    (folder / MANIFEST).unlink()

    assert before == checked_files(files, "jo", folder.name).weights


def test_an_adapter_rewritten_in_place_is_refused(folder: Path) -> None:
    """A44, A45: new bytes under the old manifest are a digest mismatch."""
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")

    assert "digest_mismatch" == code_of(lambda: checked_files(read_again(folder), "jo", folder.name))


def test_a_folder_outside_a_store_is_read_with_the_same_care(folder: Path) -> None:
    """A folder to import is read as a generation is, its manifest being optional."""
    (folder / MANIFEST).unlink()
    files = read_folder(folder)
    assert files.manifest is None and "toy" == json.loads(files.config)["model"]

    replaced(WEIGHTS, os.mkfifo)(folder)
    assert "not_a_regular_file" == code_of(lambda: read_folder(folder))
    assert "missing_file" == code_of(lambda: read_folder(folder / "nothing"))


PEFT = ["adapter_model.safetensors", "adapter_model.bin"]


@pytest.mark.parametrize("weights", PEFT)
def test_a_folder_made_by_another_program_has_no_place_here(store: Path, folder: Path, weights: str) -> None:
    """A93: a PEFT folder lacks mlx-lm's files, as a generation and as a name; the refusal says how to convert it."""
    for file in (MANIFEST, WEIGHTS):
        (folder / file).unlink()
    write(folder / weights, b"x")
    folder.rename(store / "mo")

    for read in (
        lambda: current(store, "mo"),
        lambda: read_unlabelled(store, "mo", None),
        lambda: read_folder(store / "mo"),
    ):
        with opens() as found, pytest.raises(AdapterRefused, match="adapters import PATH --name NAME") as refusal:
            read()
        assert "missing_file" == refusal.value.code and weights not in found
    assert not is_unlabelled(store, "mo")


# -- without a manifest


def dropped_in(store: Path, folder: Path) -> None:
    """mlx-lm's two files as ``adapters/mo/``."""
    (folder / MANIFEST).unlink()
    folder.rename(store / "mo")


def test_a_folder_dropped_straight_in_is_unlabelled(store: Path, folder: Path) -> None:
    """A12: weights in the name folder and no CURRENT; asked for by name alone, both ways to use it are named."""
    config, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    dropped_in(store, folder)

    assert (False, True, False) == tuple(is_unlabelled(store, name) for name in ("jo", "mo", "nobody"))
    assert AdapterFiles(weights, config, None) == read_unlabelled(store, "mo", None)
    assert [] == generations(store, "mo") and ["jo", "mo"] == names(store)
    with pytest.raises(AdapterRefused, match="allow_unlabelled and a variant.*adapters import") as refusal:
        current(store, "mo")
    assert "unlabelled" == refusal.value.code

    write(store / "mo" / "CURRENT", b"0" * 16)
    assert not is_unlabelled(store, "mo")


def test_a_generation_without_manifest_is_read_by_who_asks_for_it(store: Path, folder: Path) -> None:
    """A12: its two files, and no manifest; of a labelled one all three."""
    assert read_again(folder) == read_unlabelled(store, "jo", folder.name)
    (folder / MANIFEST).unlink()

    assert read_unlabelled(store, "jo", folder.name).manifest is None
    assert "unknown_generation" == code_of(lambda: read_unlabelled(store, "jo", "0" * 16))
    assert "unknown_adapter" == code_of(lambda: read_unlabelled(store, "mo", None))


@pytest.mark.parametrize(("kind", "code"), [(os.mkfifo, "not_a_regular_file"), (Path.mkdir, "not_a_regular_file")])
def test_an_unlabelled_folder_is_read_with_the_same_care(
    store: Path, folder: Path, kind: Callable[[Path], Any], code: str
) -> None:
    """A12: no link is followed, nothing blocks, and a folder that others may write to is not read."""
    dropped_in(store, folder)
    replaced(WEIGHTS, kind)(store / "mo")
    assert code == code_of(lambda: read_unlabelled(store, "mo", None))

    (store / "mo").chmod(0o702)
    assert "unsafe_file" == code_of(lambda: read_unlabelled(store, "mo", None))
    assert not is_unlabelled(store, "mo")
    (store / "mo").chmod(0o700)
    (store / "ma").symlink_to("mo")
    assert "not_a_regular_file" == code_of(lambda: read_unlabelled(store, "ma", None))
    assert not is_unlabelled(store, "ma")
