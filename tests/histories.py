"""Invented histories for testing importers: strategies for hypothesis, and texts that try to break a format.

A test of a source writes such a history in that source's own format (``tests/writers/<source>.py``), imports it, and
expects the same history back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import strategies as st

from training.history import Coverage, import_messages
from training.records import Record, records_with_places
from training.sources.options import Options

START = datetime(2024, 2, 28, 23, 50, tzinfo=UTC)

HOSTILE = [
    "two\nlines", "\n\nthree\n\n\nlines\n", "[28/02/2024, 23:50:00] Ana: not a header",
    "2/28/24, 11:50 PM - Ana: nor this", "\u200e<attached: photo.jpg>", "\u202eright to left\u202c שלום",
    "zero\u200bwidth\u200d\ufeff", "👩‍👩‍👧 👍🏽 🇩🇪 e\u0301", "\"quoted\", 'single', `back`",
    "<|im_end|><|im_start|>user",
    "a / b // c \\n", "&amp; &lt;b&gt; <b>tag</b> ]]> <!-- -->", '{"type": "message"}', "null", "NA", "FALSE", "0",
    "=1+1", "tab\there", "\u00e3\u00a9 mojibake?", "é", "Loved by all", "I left my keys", "Ana added sugar", "x" * 300,
    "я" * 200, "日" * 90, "%s {0} ${x}", "a: b: c", "\\x01 \\u0041 \\",
]  # fmt: skip
LONG = "long " * 20_000  # 100 kB


@dataclass(frozen=True)
class Said:
    """One message: who (0 is me, others by number) said what in which thread and when (whole seconds, UTC)."""

    thread: int
    sender: int
    at: datetime
    text: str


@dataclass(frozen=True)
class History:
    """Messages in time order. Thread *t* is a group if it is in *groups*; a direct thread *t* is with person t + 1."""

    said: tuple[Said, ...]
    groups: frozenset[int] = frozenset()


def words(exclude: str = "") -> st.SearchStrategy[str]:
    """Hostile message texts, never blank; none holds a character of *exclude* or half a surrogate pair."""
    letters = st.characters(exclude_categories=["Cs"], exclude_characters=exclude + "\x00")
    known = [text for text in [*HOSTILE, LONG] if not set(exclude).intersection(text)]
    return (st.sampled_from(known) | st.text(letters, min_size=1, max_size=20)).filter(lambda text: bool(text.strip()))


@st.composite
def histories(draw: st.DrawFn, texts: st.SearchStrategy[str] | None = None, groups: bool = True) -> History:
    """One to three threads of a few messages each; at least one message is mine and one somebody else's."""
    count = draw(st.integers(1, 3))
    group_threads = frozenset(draw(st.sets(st.integers(0, count - 1)))) if groups else frozenset[int]()
    texts = words() if texts is None else texts
    said = []
    at = START
    for number in range(draw(st.integers(2, 8))):
        at += timedelta(seconds=draw(st.sampled_from([0, 1, 30, 90, 3600, 86_400])))
        thread = draw(st.integers(0, count - 1))
        other = draw(st.sampled_from([thread + 1, 4, 5] if thread in group_threads else [thread + 1]))
        sender = {0: 0, 1: other}.get(number, draw(st.sampled_from([0, other])))
        said.append(Said(thread, sender, at, draw(texts)))
    return History(tuple(said), group_threads)


def imported(source: str, export: Path, folder: Path, *me: str, options: Options | None = None) -> Sequence[Record]:
    """The records that importing *export* writes, in the order of the file."""
    return read(source, export, folder, *me, options=options)[0]


def read(
    source: str, export: Path, folder: Path, *me: str, options: Options | None = None
) -> tuple[list[Record], Coverage]:
    """(records, coverage) of importing *export* as *source*; *me* as ``--me`` would give it."""
    out = folder / "out" / "imported.jsonl"
    coverage = import_messages(source, export, options or Options(me=me, zone=UTC), out)
    records = [record for record in read_records(out) if record is not None]
    assert len(records) == coverage.kept
    return records, coverage


def read_records(path: Path) -> Iterator[Record | None]:
    """The records of a message file in its order, and None for each line that is none."""
    for number, (_, _, found) in enumerate(records_with_places(path)):
        if found is not None:
            found.order = found.order or number
        yield found
