"""JSON read entry by entry: what comes out, and what becomes of a document that is not whole."""

import io
import json
import tracemalloc
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import QUICK, THOROUGH
from training.sources.export import DamagedFile
from training.sources.json_stream import MAX_DEPTH, entries, first

PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab[{"\\'), inner))


class Slowly(io.BytesIO):
    """A file that gives a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 3) if size and size > 0 else size)


class Breaks(io.BytesIO):
    """A file whose end cannot be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size and not data:
            raise DamagedFile("'chat.json' is damaged")
        return data


def so_far(file: IO[bytes], prefix: str = "item") -> tuple[list[Any], str | None]:
    """(entries read, the error that ended it)."""
    found = []
    try:
        for entry in entries(file, prefix, "chat.json"):
            found.append(entry)
    except DamagedFile as damaged:
        return found, damaged.message
    return found, None


@QUICK
@given(st.lists(VALUES, max_size=4), st.booleans())
def test_entries_are_what_was_written(values: list[Any], as_ascii: bool) -> None:
    """However the bytes come, and with a byte order mark or without."""
    data = json.dumps({"about": "x", "messages": values}, ensure_ascii=as_ascii).encode()
    for file in (io.BytesIO(data), Slowly(data), io.BytesIO(b"\xef\xbb\xbf" + data), Slowly(b"\xef\xbb\xbf" + data)):
        assert (values, None) == so_far(file, "messages.item")


def test_there_may_be_nothing_at_the_prefix() -> None:
    """No list, an empty one, or something else."""
    for document in (b"{}", b"[]", b'{"messages": []}', b'{"messages": 5}', b"1"):
        assert ([], None) == so_far(io.BytesIO(document), "messages.item")


@pytest.mark.parametrize(
    "document",
    [
        b'[{"a": 1}, {"b": 2}, {"c": ',
        b'[{"a": 1}, {"b": 2}, "cut of',
        b'[{"a": 1}, {"b": 2}, NaN]',
        b'[{"a": 1}, {"b": 2}, {"c" 3}]',
        b'[{"a": 1}, {"b": 2}, "\xff"]',
        b'[{"a": 1}, {"b": 2}, 1e999]',
        b'[{"a": 1}, {"b": 2}, 123456789012345678901234567890]',
        b'[{"a": 1}, {"b": 2}, \x00]',
        b'[{"a": 1}, {"b": 2}] and more',
    ],
    ids=ascii,
)
def test_a_document_that_breaks_off_is_read_as_far_as_it_goes(document: bytes) -> None:
    """What was whole is yielded, and then the damage is said by the file's name alone."""
    found, error = so_far(Slowly(document))

    assert [{"a": 1}, {"b": 2}] == found
    assert error is not None
    assert error.startswith("'chat.json' is not whole JSON: it was read as far as it goes (")


@pytest.mark.parametrize(
    "document",
    [b"", b" ", b"\xef\xbb\xbf", b"hello, my pin is 4711", b"<html>", b"\x00" * 100, b"{'a': 1}", b"PK\x03\x04"],
    ids=ascii,
)
def test_what_is_no_json_is_damaged(document: bytes) -> None:
    """Its content is not repeated."""
    found, error = so_far(io.BytesIO(document))

    assert ([], True) == (found, error is not None)
    assert "4711" not in str(error)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_another_encoding_is_damage(encoding: str) -> None:
    """JSON is UTF-8; nothing wrong is read from it."""
    found, error = so_far(io.BytesIO(json.dumps(["née", "b"], ensure_ascii=False).encode(encoding)))

    assert ([], True) == (found, error is not None)


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":', b"[[1],"], ids=ascii)
@pytest.mark.parametrize("is_closed", [True, False])
def test_brackets_without_end_cost_little(unit: bytes, is_closed: bool) -> None:
    """100,000 of them: ijson alone would take memory by their square."""
    close = {b"[": b"]", b"{": b"}"}
    ends = b"".join(close[bytes([c])] for c in reversed(unit) if bytes([c]) in close and unit != b"[[1],")
    document = b'["a", ' + unit * 100_000 + b"1" + (ends or b"]") * 100_000 * is_closed + b"]"
    tracemalloc.start()
    try:
        found, error = so_far(io.BytesIO(document))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert f"'chat.json' is not whole JSON: it is nested more than {MAX_DEPTH} deep" == error
    assert [] == found
    assert 4 << 20 > peak


def test_nesting_up_to_the_limit_is_read() -> None:
    """And one more is not."""
    for depth, is_read in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        found, error = so_far(io.BytesIO(b"[" * depth + b"]" * depth))

        assert (is_read, is_read) == (bool(found), error is None)


@THOROUGH
@given(st.lists(st.sampled_from(["[" * 300, "{", "\\", '"', "a", '\\"', "\n", "é"]), max_size=6).map("".join))
def test_brackets_within_words_are_no_nesting(words: str) -> None:
    """Nor do quotes, backslashes and ends of pieces within words confuse it."""
    data = json.dumps([words, {words: words}, words]).encode()

    assert ([words, {words: words}, words], None) == so_far(Slowly(data))


def test_damage_below_passes_through() -> None:
    """What the file says of itself is what is said, after the entries before it."""
    assert ([1, 2], "'chat.json' is damaged") == so_far(Breaks(b"[1, 2, "))


def test_half_a_surrogate_pair_is_no_damage() -> None:
    """It comes as a question mark."""
    assert (["?", "b"], None) == so_far(io.BytesIO(b'["\\ud83d", "b"]'))


def test_large_documents_are_not_held() -> None:
    """32 MB of entries in one or two of memory."""
    document = b"[" + b",".join([b'{"text": "%s"}' % (b"x" * 1000)] * 32_000) + b"]"
    tracemalloc.start()
    try:
        count = sum(1 for _ in entries(io.BytesIO(document), "item", "chat.json"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (32_000, True) == (count, peak < 2 << 20)


# -- first


def test_plain_values_are_found_by_their_place() -> None:
    """Text, number, truth and null; those that are not there or not plain are left out."""
    document = b'{"name": "Ana", "id": 7, "old": null, "is": true, "list": [1], "in": {"name": "Ben"}, "half": 0.5}'
    places = {"name", "id", "old", "is", "list", "in.name", "absent", "half"}

    assert {"name": "Ana", "id": 7, "old": None, "is": True, "in.name": "Ben", "half": 0.5} == first(
        io.BytesIO(document), places, "chat.json"
    )


def test_the_first_of_several_counts() -> None:
    """A place within a list stands for each of it."""
    assert {"item.name": "Ana"} == first(io.BytesIO(b'[{"name": "Ana"}, {"name": "Ben"}]'), {"item.name"}, "chat.json")


def test_it_reads_no_further_than_it_must() -> None:
    """What is damaged behind what was asked for does not matter."""
    assert {"name": "Ana"} == first(Slowly(b'{"name": "Ana", oh no'), {"name"}, "chat.json")


@pytest.mark.parametrize("document", [b"", b"no", b'{"a": 1', b"[" * 100_000, b'{"a": ' * 100_000], ids=lambda d: d[:9])
def test_a_document_without_it_that_is_not_whole_is_damaged(document: bytes) -> None:
    """It was looked for to the end."""
    with pytest.raises(DamagedFile, match="'chat.json' is not whole JSON"):
        first(io.BytesIO(document), {"name"}, "chat.json")
