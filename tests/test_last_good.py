"""The record of what last served: what is written, and everything that is ignored when it is read."""

import json
import stat
from pathlib import Path

import pytest

from service.last_good import RECORD, LastGood

OLD, NEW = "0" * 16, "f" * 16


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two generations of jo and one of mo."""
    for folder in (f"jo/{OLD}", f"jo/{NEW}", f"mo/{OLD}"):
        (tmp_path / "adapters" / folder).mkdir(parents=True, mode=0o700)
    return tmp_path / "adapters"


def read(store: Path) -> LastGood:
    """The record as the next start finds it."""
    record = LastGood(store)
    record.read()
    return record


def test_what_was_noted_is_read_at_the_next_start(store: Path) -> None:
    """The last generation noted of each name is what the next start finds, in a file only its owner may read."""
    record = LastGood(store)
    for name, generation in (("jo", OLD), ("mo", OLD), ("jo", NEW)):
        record.note(name, generation)

    assert [NEW, OLD, None] == [read(store).get(name) for name in ("jo", "mo", "ann")]
    assert 0o600 == stat.S_IMODE((store / RECORD).stat().st_mode)
    assert [RECORD, "jo", "mo"] == sorted(path.name for path in store.iterdir())


def test_nothing_is_written_twice(store: Path) -> None:
    """Noting what is known already leaves the file alone."""
    record = LastGood(store)
    record.note("jo", OLD)
    (store / RECORD).unlink()
    record.note("jo", OLD)
    record.forget(["mo"])

    assert not (store / RECORD).exists()


def test_what_left_the_store_is_dropped(store: Path) -> None:
    """A name that is forgotten, and a generation that is on the disk no more, are in the record no more."""
    record = LastGood(store)
    record.note("jo", NEW)
    record.note("mo", OLD)
    record.forget(["mo", "ann"])
    assert [NEW, None] == [read(store).get(name) for name in ("jo", "mo")]

    (store / "jo" / NEW).rmdir()
    assert read(store).get("jo") is None


def entry(name: str, generation: object) -> bytes:
    return json.dumps({"last_good": {"jo": NEW, name: generation}}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 50,
        b"[]",
        b"{}",
        b'{"last_good": []}',
        b'{"last_good": {"jo": "' + NEW.encode()[:7],
        b'{"last_good": {"jo": "ffffffffffffffff"}, "last_good": {}}',
        b"[" * 100_000,
        entry("../jo", NEW),
        entry("mo", "../../etc"),
        entry("mo", 5),
        entry("mo", None),
    ],
    ids=[
        "empty", "zeroed", "a list", "another document", "no table", "torn", "a key twice", "deep", "a path as name",
        "a path as generation", "a number", "null",
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_ignored(store: Path, data: bytes) -> None:
    """C44: what is torn or not of this service's making is as good as missing; the next note mends it."""
    (store / RECORD).write_bytes(data)
    (store / RECORD).chmod(0o600)
    record = read(store)
    assert record.get("jo") is None

    record.note("mo", OLD)
    assert (None, OLD) == (read(store).get("jo"), read(store).get("mo"))


def test_a_record_of_another_store_is_ignored(store: Path, tmp_path: Path) -> None:
    """C44: generations that this store does not have are not taken from it."""
    LastGood(store).note("jo", NEW)
    other = tmp_path / "other"
    (other / "jo").mkdir(parents=True)
    (store / RECORD).rename(other / RECORD)

    assert read(other).get("jo") is None


def test_a_record_others_may_write_or_a_link_is_ignored(store: Path, tmp_path: Path) -> None:
    """It is opened with the care of any other file of the store."""
    LastGood(store).note("jo", NEW)
    (store / RECORD).chmod(0o622)
    assert read(store).get("jo") is None

    (store / RECORD).chmod(0o600)
    (store / RECORD).rename(tmp_path / "elsewhere")
    (store / RECORD).symlink_to(tmp_path / "elsewhere")
    assert read(store).get("jo") is None


def test_a_store_that_is_gone_has_no_record_and_stops_nobody(tmp_path: Path) -> None:
    """Neither reading nor writing fails where there is no store; what was noted is known as long as this runs."""
    record = read(tmp_path / "away")
    record.note("jo", NEW)

    assert NEW == record.get("jo")


def test_a_disk_that_refuses_leaves_the_old_record(store: Path) -> None:
    """Where the new file cannot be written, the old one stays as it was."""
    record = LastGood(store)
    record.note("jo", OLD)
    (store / f"{RECORD}.new").mkdir()  # in the way
    record.note("jo", NEW)

    assert (OLD, NEW) == (read(store).get("jo"), record.get("jo"))


def test_what_a_killed_service_left_is_overwritten(store: Path) -> None:
    """Half a record beside the real one is neither read nor in the way."""
    (store / f"{RECORD}.new").write_bytes(b'{"last_good": {"jo"')
    record = read(store)
    record.note("jo", NEW)

    assert NEW == read(store).get("jo") and not (store / f"{RECORD}.new").exists()
