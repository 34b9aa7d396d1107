"""An export as named files: what is seen, what is left out, and what becomes of damage."""

import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.hostile import THOROUGH
from training.sources.export import Damage, DamagedFile, Export, each_file, lines
from training.sources.outcome import Item, Skipped

CHAT = b"hello\nworld\n"
NOISE = b"".join(os.urandom(0) + bytes([n * n * n % 251, n % 241, n % 7]) for n in range(200_000))
FLAGS_IN_FILE, FLAGS_IN_DIRECTORY = (b"PK\x03\x04", 6), (b"PK\x01\x02", 8)


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def flagged(path: Path, change: Callable[[int], int]) -> Path:
    """*path* with other flags on its only member."""
    data = bytearray(path.read_bytes())
    for mark, offset in (FLAGS_IN_FILE, FLAGS_IN_DIRECTORY):
        place = data.index(mark) + offset
        flags = change(int.from_bytes(data[place : place + 2], "little"))
        data[place : place + 2] = flags.to_bytes(2, "little")
    path.write_bytes(data)
    return path


def contents(export: Export) -> dict[str, bytes]:
    found = {}
    for name in export.names:
        with export.open(name) as file:
            found[name] = file.read()
    return found


def refusal(path: Path) -> DataRefused:
    with pytest.raises(DataRefused) as refused:
        _ = Export(path).names
    return refused.value


# -- what is seen


def test_a_single_file_has_its_own_name(tmp_path: Path) -> None:
    """And lies on disk."""
    path = tmp_path / "chat.txt"
    path.write_bytes(CHAT)
    export = Export(path)

    assert {"chat.txt": CHAT} == contents(export)
    assert (True, path, b"hell") == (export.is_single_file, export.on_disk("chat.txt"), export.head("chat.txt", 4))


def test_a_folder_is_seen_with_what_is_in_its_folders(tmp_path: Path) -> None:
    """With / between folders, sorted; empty folders are nothing."""
    for name in ("b/two.txt", "b/c/one.txt", "a.txt", "Ä ö/#%.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "empty").mkdir()
    export = Export(tmp_path)

    assert ["a.txt", "b/c/one.txt", "b/two.txt", "Ä ö/#%.txt"] == export.names
    assert {name: name.encode() for name in export.names} == contents(export)
    assert (False, tmp_path / "b/two.txt") == (export.is_single_file, export.on_disk("b/two.txt"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_seen_like_a_folder(tmp_path: Path, kind: int) -> None:
    """However it is packed and whatever it is called; folders in it are no files."""
    files = {"a/b/one.txt": CHAT, "two.txt": b"", "../up.txt": b"up", "/root.txt": b"root"}
    export = Export(zipped(tmp_path / "export.bin", {**files, "a/": b""}, kind))

    assert files == contents(export)
    assert not export.is_single_file


def test_a_zip_in_a_folder_is_one_more_folder(tmp_path: Path) -> None:
    """Beside the other files; a zip within a zip is a file."""
    inner = zipped(tmp_path / "inner.zip", {"x": b"x"}).read_bytes()
    (tmp_path / "inner.zip").unlink()
    zipped(tmp_path / "in/chat.ZIP", {"_chat.txt": CHAT, "media/inner.zip": inner})
    (tmp_path / "a.txt").write_bytes(b"a")

    assert {"a.txt": b"a", "in/chat.ZIP/_chat.txt": CHAT, "in/chat.ZIP/media/inner.zip": inner} == contents(
        Export(tmp_path)
    )


def test_hundreds_of_zips_are_not_all_open_at_once(tmp_path: Path) -> None:
    """Systems allow 256 open files."""
    for number in range(60):
        zipped(tmp_path / f"{number:02}.zip", {"_chat.txt": b"%d" % number})
    export = Export(tmp_path)
    opened = len(os.listdir("/dev/fd"))
    found = contents(export)

    assert [b"%d" % number for number in range(60)] == list(found.values())
    assert 20 > len(os.listdir("/dev/fd")) - opened


def test_two_files_of_one_zip_can_be_read_by_turns(tmp_path: Path) -> None:
    """Each keeps its place."""
    export = Export(zipped(tmp_path / "export.zip", {"a": b"1\n" * 50_000, "b": b"2\n" * 50_000}))
    with export.open("a") as a, export.open("b") as b:
        assert {(b"1\n", b"2\n")} == set(zip(a, b, strict=True))


def test_a_zip_stays_readable_when_others_are_opened(tmp_path: Path) -> None:
    """A file that is being read is not closed by what comes after it."""
    for number in range(40):
        zipped(tmp_path / f"{number:02}.zip", {"a": b"%d\n" % number * 50_000})
    export = Export(tmp_path)
    with export.open("00.zip/a") as first:
        assert b"0\n" == first.readline()
        assert 40 == len(contents(export))
        assert 49_999 == len(list(first))


def test_the_last_of_two_members_of_one_name_counts(tmp_path: Path) -> None:
    """As for whoever unpacks the zip."""
    path = zipped(tmp_path / "export.zip", {"a": b"old"})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a", b"new")

    assert {"a": b"new"} == contents(Export(path))


@pytest.mark.parametrize(
    "name", ["__MACOSX/._chat.txt", "__MACOSX/a/b.txt", "._chat.txt", "a/._chat.txt", ".DS_Store", "a/.DS_Store"]
)
def test_what_macos_adds_is_not_seen(tmp_path: Path, name: str) -> None:
    """It has the endings of the user's files and is none of them."""
    path = zipped(tmp_path / "in" / "export.zip", {name: b"\0", "chat.txt": CHAT})

    assert ["chat.txt"] == Export(path).names
    assert ["export.zip/chat.txt"] == Export(path.parent).names


def test_a_name_in_utf_8_that_does_not_say_so_is_read(tmp_path: Path) -> None:
    """The archiver of macOS writes such zips."""
    path = flagged(zipped(tmp_path / "export.zip", {"José 🌻.txt": CHAT}), lambda flags: flags & ~0x800)

    assert {"José 🌻.txt": CHAT} == contents(Export(path))


def test_an_old_name_stays_as_it_is(tmp_path: Path) -> None:
    """What is no UTF-8 is what zips had before."""
    path = zipped(tmp_path / "export.zip", {"Jos_.txt": CHAT})
    path.write_bytes(path.read_bytes().replace(b"Jos_", b"Jos\x82"))

    assert {"José.txt": CHAT} == contents(Export(path))


def test_folders_within_a_zip_of_windows_are_folders(tmp_path: Path) -> None:
    """Some write them with a backslash."""
    path = zipped(tmp_path / "export.zip", {"a_chat.txt": CHAT})
    path.write_bytes(path.read_bytes().replace(b"a_chat", b"a\\chat"))

    assert ["a/chat.txt"] == Export(path).names


# -- what is left out, and what is refused


def test_pipes_links_to_nothing_and_circles_are_left_out(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever; a link to a file is that file."""
    (tmp_path / "chat.txt").write_bytes(CHAT)
    (tmp_path / "linked.txt").symlink_to("chat.txt")
    (tmp_path / "broken.txt").symlink_to("nothing")
    (tmp_path / "self.txt").symlink_to("self.txt")
    (tmp_path / "circle").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.zip")

    assert {"chat.txt": CHAT, "linked.txt": CHAT} == contents(Export(tmp_path))


def test_nothing_at_the_path_is_refused(tmp_path: Path) -> None:
    """By its name."""
    assert "no_such_file" == refusal(tmp_path / "absent.zip").code


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """An export is read more than once."""
    os.mkfifo(tmp_path / "pipe")

    assert "is neither a file nor a folder" in refusal(tmp_path / "pipe").message


def test_what_lies_in_a_zip_is_not_on_disk(tmp_path: Path) -> None:
    """Even where a file of that name is: a member's name may be any path."""
    outside = tmp_path / "outside.db"
    outside.write_bytes(b"x")
    path = zipped(tmp_path / "in" / "export.zip", {str(outside): b"y", "../outside.db": b"z"})
    for export in (Export(path), Export(path.parent)):
        for name in export.names:
            with pytest.raises(DamagedFile, match="lies inside a zip: unpack it first"):
                export.on_disk(name)


# -- damage


@pytest.mark.parametrize("keep", [4, 10, 100, 1000])
def test_a_zip_that_was_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    """Its list of files stood at the end."""
    path = zipped(tmp_path / "export.zip", {"chat.txt": NOISE})
    path.write_bytes(path.read_bytes()[:keep])

    assert ("damaged_file", "'export.zip' is damaged or cannot be read (BadZipFile)") == (
        refusal(path).code,
        refusal(path).message,
    )


def test_a_damaged_zip_in_a_folder_does_not_stop_the_others(tmp_path: Path) -> None:
    """It is told; a file that only has the name of a zip is one."""
    cut = zipped(tmp_path / "cut.zip", {"chat.txt": NOISE})
    cut.write_bytes(cut.read_bytes()[:1000])
    (tmp_path / "text.zip").write_bytes(b"no zip")
    zipped(tmp_path / "whole.zip", {"chat.txt": CHAT})
    export = Export(tmp_path)

    assert {"whole.zip/chat.txt": CHAT} == contents(export)
    assert [f"'{name}.zip' is damaged or cannot be read (BadZipFile)" for name in ("cut", "text")] == sorted(
        export.unreadable
    )


def test_a_folder_of_nothing_but_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    """Rather than called no export."""
    (tmp_path / "chat.zip").write_bytes(b"PK\x03\x04")

    assert "'chat.zip' is damaged or cannot be read (BadZipFile)" == refusal(tmp_path).message


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    """What to do stands in the message."""
    path = flagged(zipped(tmp_path / "export.zip", {"chat.txt": CHAT}), lambda flags: flags | 1)

    with pytest.raises(DamagedFile, match="'chat.txt' is encrypted: unpack it with its password first"):
        Export(path).open("chat.txt")


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_read_up_to_the_damage(tmp_path: Path, kind: int) -> None:
    """As far as its packing allows: bzip2 and LZMA do so by large blocks."""
    path = zipped(tmp_path / "export.zip", {"chat.txt": NOISE}, kind)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(data)
    found = b""

    with pytest.raises(DamagedFile, match="'chat.txt' is damaged"), Export(path).open("chat.txt") as file:
        while True:
            found += file.read1()
    assert found[:1000] == NOISE[: min(1000, len(found))]
    assert kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA) or len(found) > len(NOISE) // 4


def test_the_head_of_a_damaged_file_is_what_can_be_read(tmp_path: Path) -> None:
    """Enough to recognise an export that is damaged further on."""
    path = zipped(tmp_path / "export.zip", {"chat.txt": NOISE}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[-3000] ^= 0xFF
    path.write_bytes(data)

    assert NOISE[:4096] == Export(path).head("chat.txt")
    assert NOISE[:50_000] == Export(path).head("chat.txt", len(NOISE))[:50_000]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    """A file is said when it is opened, a folder when the names are asked for."""
    (tmp_path / "chat.txt").touch(mode=0)
    (tmp_path / "closed").mkdir(mode=0)
    export = Export(tmp_path)

    with pytest.raises(DamagedFile, match="PermissionError"):
        export.open("chat.txt")
    assert (["folder 'closed' cannot be read (PermissionError)"], b"") == (export.unreadable, export.head("chat.txt"))


def test_a_file_that_went_away_is_damaged(tmp_path: Path) -> None:
    """Between listing and reading."""
    path = tmp_path / "chat.txt"
    path.write_bytes(CHAT)
    export = Export(tmp_path)
    assert ["chat.txt"] == export.names
    path.unlink()

    with pytest.raises(DamagedFile, match="'chat.txt' is damaged or cannot be read .FileNotFoundError"):
        export.open("chat.txt")


@THOROUGH
@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_any_damage_is_told_as_damage(kind: int, changes: list[tuple[float, int]], cut: float) -> None:
    """Whatever bytes of a zip are changed or missing, no other error comes out of it."""
    with TemporaryDirectory() as folder:
        path = zipped(Path(folder) / "in" / "export.zip", {"a/chat.txt": CHAT * 40, "b.txt": NOISE[:3000]}, kind)
        data = bytearray(path.read_bytes())
        for place, value in changes:
            data[int(place * len(data))] = value
        path.write_bytes(data if cut < 0.7 else data[: int(cut * len(data))])
        for root in (path, path.parent):
            try:
                export = Export(root)
                for name in export.names:
                    export.head(name)
                    with export.open(name) as file:
                        file.read()
            except DataRefused:
                pass


def test_a_damaged_file_does_not_stop_the_others(tmp_path: Path) -> None:
    """What came before the damage is kept, and the damage is one entry."""
    export = Export(zipped(tmp_path / "export.zip", dict.fromkeys("abc", CHAT)))

    def read(name: str) -> Iterator[Item]:
        yield Skipped(name)
        if name == "b":
            raise DamagedFile("'b' is damaged")
        yield Skipped(name)

    found = list(each_file(export, export.names, read))
    assert [*map(Skipped, "aab"), Damage("'b' is damaged"), *map(Skipped, "cc")] == found


# -- lines


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [b"a", b"\xef\xbb\xbfb"]),
        (b"\xef\xbb\xbf", [b""]),
        (b"\xff\xfea\x00\n", [b"\xff\xfea\x00"]),
        (b"1234567\n12345678\n" + b"x" * 50 + b"\nlast", [b"1234567", None, None, b"last"]),
        (b"x" * 8, [None]),
        (b"x" * 16 + b"\nb\n", [None, b"b"]),
    ],
    ids=ascii,
)
def test_the_lines_of_a_file(content: bytes, found: list[bytes | None]) -> None:
    """Without their ends; one of as many bytes as are allowed, or more, is None and the next one is itself."""
    assert found == list(lines(io.BytesIO(content), longest=8))


def test_a_zip_bomb_is_read_in_little_memory(tmp_path: Path) -> None:
    """A line of 64 MB, packed in 64 kB, costs no more than the longest line that is allowed."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("chat.txt", "w") as member:
        for _ in range(64):
            member.write(b"0" * (1 << 20))
    export = Export(path)
    tracemalloc.start()
    try:
        with export.open("chat.txt") as file:
            found = list(lines(file, longest=1 << 16))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert ([None], True) == (found, peak < 2 << 20)
