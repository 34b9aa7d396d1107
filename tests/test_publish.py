"""Into the store: whole or not at all, and back to an earlier generation."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors

from errors import AdapterRefused, Locked, UnknownAdapter
from prompt_format.adapter_check import check_manifest
from prompt_format.adapter_store import current, generations, names, read_generation
from prompt_format.binding import bind
from prompt_format.manifest import CONFIG, MANIFEST, WEIGHTS, Gate, generation_of
from tests.tiny import a_candidate, files_in, files_no_larger_than
from training.publish import generation_name, list_adapters, locked, publish, rollback


@pytest.fixture
def open_umask() -> Iterator[None]:
    """What is private now is so by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def published(store: Path, count: int = 1) -> list[str]:
    """*count* generations of jo, each made current in its turn, in the order of their times."""
    found = []
    for seed in range(count):
        found.append(publish(store, a_candidate(seed=seed), activate=True))
        set_time(store, found[-1], f"2026-01-0{seed + 1}T00:00:00Z")
    return found


def set_time(store: Path, generation: str, created_at: str) -> None:
    path = store / "jo" / generation / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": created_at}))


def is_whole(store: Path, generation: str, name: str = "jo") -> bool:
    return check_manifest(read_generation(store, name, generation), name, generation).generation == generation


# -- publishing


def test_a_generation_is_three_files_and_current_names_it(tmp_path: Path) -> None:
    """Weights, config and manifest in adapters/<name>/<generation>/, and nothing else but the lock."""
    generation = publish(tmp_path, a_candidate(), activate=True)

    assert {f"jo/{generation}/{file}" for file in (WEIGHTS, CONFIG, MANIFEST)} | {"jo/CURRENT", ".lock"} == set(
        files_in(tmp_path)
    )
    assert f"{generation}\n" == (tmp_path / "jo" / "CURRENT").read_text()
    assert (["jo"], [generation]) == (names(tmp_path), generations(tmp_path, "jo"))


def test_what_was_published_is_what_the_manifest_says(tmp_path: Path) -> None:
    """The service's own check passes, every part of the candidate is in it, and the tensors are the ones given."""
    given = a_candidate()
    generation = publish(tmp_path, given, activate=True)
    files = read_generation(tmp_path, "jo", generation)
    manifest = check_manifest(files, "jo", generation)

    assert (bind(given.weights, given.contract, given.base.fingerprint), given.config) == (files.weights, files.config)
    assert dict(safetensors.deserialize(given.weights)) == dict(safetensors.deserialize(files.weights))
    for part in ("name", "base", "contract", "lora", "data", "training", "metrics", "probe", "gate"):
        assert getattr(given, part) == getattr(manifest, part)


def test_a_generation_is_named_by_what_it_holds(tmp_path: Path) -> None:
    """Other weights, another config or another contract is another generation; other metrics are not."""
    given = a_candidate()
    others = [
        a_candidate(seed=1),
        replace(given, config=given.config + b" "),
        replace(given, contract=given.contract.model_copy(update={"variant": "raw_style_variable"})),
    ]
    first, again, *other = [
        publish(tmp_path, made, activate=False) for made in (given, replace(given, metrics={}), *others)
    ]
    entries = check_manifest(read_generation(tmp_path, "jo", first), "jo", first).files

    assert first == again == generation_of(entries[WEIGHTS].sha256, entries[CONFIG].sha256, given.contract)
    assert 4 == len({first, *other})


def test_what_lies_beside_is_not_signed(tmp_path: Path) -> None:
    """Files to look at are there when the manifest is, and may be changed or lost; the generation is the same."""
    beside = {"report.html": b"<p>", "report.json": b"{}", "loss.png": b"PNG"}
    generation = publish(tmp_path, replace(a_candidate(), beside=beside), activate=True)
    folder = tmp_path / "jo" / generation

    assert {WEIGHTS, CONFIG, MANIFEST, *beside} == files_in(folder).keys()
    assert beside == {name: (folder / name).read_bytes() for name in beside}
    assert MANIFEST == max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).name
    (folder / "report.html").write_text("other")
    (folder / "loss.png").unlink()
    assert is_whole(tmp_path, generation)
    assert generation == generation_name(a_candidate()) == publish(tmp_path, a_candidate(), activate=False)
    assert "other" == (folder / "report.html").read_text()


@pytest.mark.usefixtures("open_umask")
def test_what_is_published_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Folders 0700, files 0600, whatever the umask is."""
    store = tmp_path / "adapters"
    publish(store, replace(a_candidate(), beside={"report.html": b"<p>"}), activate=True)
    paths = [store, *store.rglob("*")]

    assert {0o700} == {path.stat().st_mode & 0o777 for path in paths if path.is_dir()}
    assert {0o600} == {path.stat().st_mode & 0o777 for path in paths if path.is_file()}


def test_a_store_that_others_can_read_is_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P21: a checkout brings the store's folder open; publishing closes it once, and says so."""
    store = tmp_path / "adapters"
    store.mkdir()
    store.chmod(0o755)
    for seed in (0, 1):
        publish(store, a_candidate(seed=seed), activate=True)

    assert 0o700 == store.stat().st_mode & 0o777
    assert 1 == capsys.readouterr().err.count("it is yours alone now")


def test_without_activation_current_stays(tmp_path: Path) -> None:
    """The first generation that does not pass the gate leaves the adapter without one."""
    first = publish(tmp_path, a_candidate(passed=False), activate=False)
    with pytest.raises(AdapterRefused, match="CURRENT is missing"):
        current(tmp_path, "jo")
    publish(tmp_path, a_candidate(), activate=True)
    second = publish(tmp_path, a_candidate(seed=1), activate=False)

    assert first == current(tmp_path, "jo") != second


def test_publishing_what_is_there_writes_nothing_but_current(tmp_path: Path) -> None:
    """The files stay the ones that they were, the manifest with its time included."""
    first, second = published(tmp_path, 2)
    folder = tmp_path / "jo" / first
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    publish(tmp_path, a_candidate(seed=0), activate=True)

    assert before == {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    assert first == current(tmp_path, "jo")
    assert {first, second} == set(generations(tmp_path, "jo"))


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_publishing_over_a_damaged_generation_mends_it(tmp_path: Path, file: str, damage: str) -> None:
    """The same training result is the same generation, so there is no other way to mend it."""
    (generation,) = published(tmp_path)
    path = tmp_path / "jo" / generation / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    publish(tmp_path, a_candidate(), activate=True)

    assert is_whole(tmp_path, generation)


@pytest.mark.parametrize("largest", [0, 64, 1000, 3000], ids=lambda size: f"{size} bytes")
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, largest: int) -> None:
    """Whichever write is refused: no file of the new generation, no staging folder, the old one current."""
    published(tmp_path)
    before = files_in(tmp_path)

    with files_no_larger_than(largest), pytest.raises(OSError, match="File too large"):
        publish(tmp_path, a_candidate(seed=1), activate=True)
    assert before == files_in(tmp_path)
    assert {"jo", ".lock"} == {path.name for path in tmp_path.iterdir()}
    assert is_whole(tmp_path, publish(tmp_path, a_candidate(seed=1), activate=True))


def test_what_killed_publishers_left_is_tidied_up(tmp_path: Path) -> None:
    """Staging folders, half a CURRENT and half a manifest go; a killed training's checkpoint stays for --resume."""
    (generation,) = published(tmp_path)
    next_one = publish(tmp_path / "elsewhere", a_candidate(seed=1), activate=False)
    for folder in (f".staging-jo-{next_one}", ".staging-jo-0123456789abcdef-17"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / WEIGHTS).write_bytes(b"half")
    for number in (17, os.getpid()):
        (tmp_path / "jo" / f".staging-CURRENT-{number}").write_text("half")
        (tmp_path / "jo" / generation / f".staging-{MANIFEST}-{number}").write_text("half")
    (tmp_path / ".staging-checkpoint-jo.safetensors").write_bytes(b"state")

    assert next_one == publish(tmp_path, a_candidate(seed=1), activate=True)
    assert {".staging-checkpoint-jo.safetensors"} == {path.name for path in tmp_path.rglob(".staging-*")}
    assert is_whole(tmp_path, generation) and is_whole(tmp_path, next_one)


def test_two_publishers_at_once(tmp_path: Path) -> None:
    """Every generation is whole, and CURRENT names one of them."""
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda seed=seed: made.append(publish(tmp_path, a_candidate(seed=seed), activate=True)))
        for seed in (0, 1, 2, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(set(made)) == generations(tmp_path, "jo")
    assert all(is_whole(tmp_path, generation) for generation in made)
    assert current(tmp_path, "jo") in made


# -- the gate


def overridden(store: Path, generation: str) -> bool:
    return check_manifest(read_generation(store, "jo", generation), "jo", generation).gate.overridden


def test_activation_against_the_gate_is_recorded(tmp_path: Path) -> None:
    """When it is published, or later; what was made current by itself, or never, says nothing."""
    passed = publish(tmp_path, a_candidate(), activate=True)
    waiting = publish(tmp_path, a_candidate(seed=1, passed=False), activate=False)
    forced = publish(tmp_path, a_candidate(seed=2, passed=False), activate=True)

    assert [False, False, True] == [overridden(tmp_path, one) for one in (passed, waiting, forced)]
    assert waiting == publish(tmp_path, a_candidate(seed=1, passed=False), activate=True)
    assert overridden(tmp_path, waiting) and is_whole(tmp_path, waiting)


def test_what_was_recorded_stays(tmp_path: Path) -> None:
    """Publishing it once more without activation does not take it back."""
    generation = publish(tmp_path, a_candidate(passed=False), activate=True)
    publish(tmp_path, a_candidate(passed=False), activate=False)

    assert overridden(tmp_path, generation)


def test_rollback_against_the_gate_is_recorded(tmp_path: Path) -> None:
    """It says so to whoever asked, and the manifest says so afterwards."""
    first = publish(tmp_path, a_candidate(passed=False), activate=False)
    second = publish(tmp_path, a_candidate(seed=1), activate=True)

    assert (False, True) == (
        rollback(tmp_path, "jo", second).gate.overridden,
        rollback(tmp_path, "jo", first).gate.overridden,
    )
    assert overridden(tmp_path, first) and not overridden(tmp_path, second)
    assert {WEIGHTS, CONFIG, MANIFEST} == files_in(tmp_path / "jo" / first).keys()


def test_a_rollback_that_cannot_be_recorded_is_none(tmp_path: Path) -> None:
    """On a full disk CURRENT and manifest stay as they were."""
    first = publish(tmp_path, a_candidate(passed=False), activate=False)
    publish(tmp_path, a_candidate(seed=1), activate=True)
    before = files_in(tmp_path)

    with files_no_larger_than(20), pytest.raises(OSError, match="File too large"):  # enough for CURRENT
        rollback(tmp_path, "jo", first)
    assert before == files_in(tmp_path)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (Gate(passed=True), "gate passed"),
        (Gate(passed=False, reasons=["worse"]), "gate not passed"),
        (Gate(passed=False, reasons=["worse"], overridden=True), "gate not passed (overridden)"),
    ],
    ids=str,
)
def test_a_gate_in_words(gate: Gate, words: str) -> None:
    """As the list has it."""
    assert words == gate.words


def test_manifests_from_before_overrides_were_recorded_are_read(tmp_path: Path) -> None:
    """They say nothing of one."""
    generation = publish(tmp_path, a_candidate(), activate=True)
    path = tmp_path / "jo" / generation / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["gate"]["overridden"]
    path.write_text(json.dumps(manifest))

    assert is_whole(tmp_path, generation) and not overridden(tmp_path, generation)


# -- the lock


def test_a_publisher_waits_for_another(tmp_path: Path) -> None:
    """It goes on when the lock is given back."""
    order = []

    def hold() -> None:
        with locked(tmp_path):
            taken.set()
            time.sleep(0.15)
            order.append("first")

    taken = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    with locked(tmp_path):
        order.append("second")
    holder.join()

    assert ["first", "second"] == order


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    """The message names the store."""
    with locked(tmp_path), pytest.raises(Locked, match=f"another process is writing to '{tmp_path}'"):
        with locked(tmp_path, wait_s=0.05):
            pass
    with locked(tmp_path, wait_s=0):
        pass


# -- rolling back


def test_rollback_makes_the_one_before_current(tmp_path: Path) -> None:
    """One step at a time, by the time of publishing."""
    first, second, third = published(tmp_path, 3)

    assert [second, first] == [rollback(tmp_path, "jo", None).generation for _ in range(2)]
    assert first == current(tmp_path, "jo")
    assert sorted([first, second, third]) == generations(tmp_path, "jo")


def test_rollback_to_a_generation_makes_it_current(tmp_path: Path) -> None:
    """Forwards too."""
    first, second = published(tmp_path, 2)
    rollback(tmp_path, "jo", first)
    rollback(tmp_path, "jo", second)

    assert second == current(tmp_path, "jo")


def test_rollback_passes_over_a_damaged_generation(tmp_path: Path) -> None:
    """The newest whole one before the current is taken."""
    first, second, _ = published(tmp_path, 3)
    (tmp_path / "jo" / second / WEIGHTS).unlink()

    assert first == rollback(tmp_path, "jo", None).generation


@pytest.mark.parametrize("content", [None, b"", b"rubbish\n", b"0123456789abcdef\n"], ids=ascii)
def test_rollback_mends_current(tmp_path: Path, content: bytes | None) -> None:
    """Where CURRENT is gone, damaged or names nothing, the newest whole generation is taken."""
    _, second = published(tmp_path, 2)
    path = tmp_path / "jo" / "CURRENT"
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    assert second == rollback(tmp_path, "jo", None).generation == current(tmp_path, "jo")


def test_rollback_to_what_is_not_there(tmp_path: Path) -> None:
    """The message names the adapter and the generation; CURRENT stays."""
    (generation,) = published(tmp_path)

    with pytest.raises(UnknownAdapter, match=f"'jo' has no whole generation before {generation}"):
        rollback(tmp_path, "jo", None)
    with pytest.raises(UnknownAdapter, match="adapter 'jo' has no generation 0123456789abcdef"):
        rollback(tmp_path, "jo", "0123456789abcdef")
    with pytest.raises(UnknownAdapter, match="no adapter named 'mum'; there are: jo"):
        rollback(tmp_path, "mum", None)
    with pytest.raises(UnknownAdapter):
        rollback(tmp_path, "jo", "../../etc")
    assert generation == current(tmp_path, "jo")


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, MANIFEST])
def test_rollback_to_a_damaged_generation_is_refused(tmp_path: Path, file: str) -> None:
    """CURRENT stays where it was."""
    first, second = published(tmp_path, 2)
    (tmp_path / "jo" / first / file).write_bytes(b"{}")

    with pytest.raises(AdapterRefused):
        rollback(tmp_path, "jo", first)
    assert second == current(tmp_path, "jo")


def test_a_full_disk_leaves_current_as_it_was(tmp_path: Path) -> None:
    """A rollback that cannot write is no rollback."""
    first, second = published(tmp_path, 2)
    before = files_in(tmp_path)

    with files_no_larger_than(0), pytest.raises(OSError, match="File too large"):
        rollback(tmp_path, "jo", first)
    assert (second, before) == (current(tmp_path, "jo"), files_in(tmp_path))


# -- the list


def test_every_generation_is_listed(tmp_path: Path) -> None:
    """With its manifest, and which one is current."""
    first, second = published(tmp_path, 2)
    rows = {row.generation: row for row in list_adapters(tmp_path)}

    assert {first: False, second: True} == {generation: row.is_current for generation, row in rows.items()}
    assert {None} == {row.fault for row in rows.values()}
    assert "2026-01-02T00:00:00Z" == rows[second].manifest.created_at


def test_what_cannot_be_served_is_listed_with_its_fault(tmp_path: Path) -> None:
    """A damaged generation and a plain mlx-lm folder do not hide the others."""
    first, second = published(tmp_path, 2)
    (tmp_path / "jo" / second / WEIGHTS).write_bytes(b"cut")
    plain = tmp_path / "plain" / "0123456789abcdef"
    plain.mkdir(parents=True)
    (plain / WEIGHTS).write_bytes(a_candidate().weights)
    (plain / CONFIG).write_bytes(a_candidate().config)
    faults = {(row.name, row.generation): (row.fault or "").partition(":")[0] for row in list_adapters(tmp_path)}

    assert {
        ("jo", first): "",
        ("jo", second): "digest_mismatch",
        ("plain", "0123456789abcdef"): "unlabelled",
    } == faults


def test_a_damaged_current_hides_nothing(tmp_path: Path) -> None:
    """The generations are listed, none as the current one."""
    published(tmp_path, 2)
    (tmp_path / "jo" / "CURRENT").write_text("rubbish")

    assert [False, False] == [row.is_current for row in list_adapters(tmp_path)]


def test_strangers_in_the_store_are_left_alone(tmp_path: Path) -> None:
    """Names that are none, files, and staging folders are not listed."""
    (generation,) = published(tmp_path)
    for name in (".staging-x", "Jo", "jo\n", "jo/not-a-generation", f"jo/{generation}\n"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("x")

    assert [generation] == [row.generation for row in list_adapters(tmp_path)]


@pytest.mark.parametrize("store", ["empty", "absent"])
def test_an_empty_store_has_no_adapters(tmp_path: Path, store: str) -> None:
    """Nor has one that is not there."""
    (tmp_path / "empty").mkdir()

    assert [] == list_adapters(tmp_path / store)
