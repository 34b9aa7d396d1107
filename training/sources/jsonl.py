"""JSON Lines: in the project's own normalised record, or objects whose keys are known by name or told by ``--column``.

A row of our own says itself whether it is mine, or ``--me`` does. Of a foreign row, ``{"from": {"name": ...}}`` is the
key ``from.name``.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from training.records import Record, to_line
from training.sources.cells import Row
from training.sources.columns import ALIASES, check_told, find_columns, is_entry, no_messages, plain, told_columns
from training.sources.export import DamagedFile, Export, each_file, lines
from training.sources.options import Options
from training.sources.outcome import Item, NotUnderstood
from training.sources.table import Table

_FIELD_OF = {alias: field for field in ("text", "sent_at", "sender_id", "sender_name") for alias in ALIASES[field]}
_LOOKED_AT = 100  # so many first rows show what a file is
_DEPTH = 3  # of objects within objects whose keys are seen
_NO_OPTIONS = Options()


def recognises(export: Export) -> bool:
    """A first line with one of our threads, or one whose keys tell words, sender and time."""
    return any(_looks_like_messages(export.head(name, 1 << 16)) for name in _files(export))


def read(export: Export, options: Options) -> Iterator[Item]:
    """The rows of every ``.jsonl`` file (a single file may be called anything)."""
    foreign = [name for name in _files(export) if not _is_own_file(export, name, options)]
    table = _surveyed(export, foreign, options)
    yield from table.notes()
    for name in _files(export):
        if name in foreign:
            yield from each_file(export, [name], lambda name: _items(export, name, options, table))
        else:
            yield from each_file(export, [name], lambda name: _own_records(export, name, options))


def _files(export: Export) -> list[str]:
    endings = (".jsonl", ".ndjson")
    return export.names if export.is_single_file else [name for name in export.names if name.endswith(endings)]


def _looks_like_messages(head: bytes) -> bool:
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    if not first.startswith(b"{"):
        return False
    row = _object(first)
    if row is None:
        return b'"thread_id"' in first
    found = find_columns(tuple(_flat(row)))
    return "thread_id" in row or ("text" in found and "sent_at" in found and is_entry(found))


def _is_own_file(export: Export, name: str, options: Options) -> bool:
    """Whether one of the first rows is a record of ours."""
    if options.columns:
        return False
    with suppress(DamagedFile):
        whole = (row for _, row in _objects(export, name) if row is not None)
        return any(_is_own(tuple(row), bool(options.me)) for row in islice(whole, _LOOKED_AT))
    return False


@lru_cache(maxsize=1024)
def _is_own(keys: tuple[str, ...], me_is_told: bool) -> bool:
    """Whether an object with *keys* is a record of ours: no other name stands for what it lacks."""
    if "thread_id" not in keys or not (me_is_told or "from_me" in keys):
        return False
    return all(_FIELD_OF.get(plain(key), key) in keys for key in keys)


def _objects(export: Export, name: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(where, object) of each line that is not blank; None for one that is none."""
    with export.open(name) as file:
        for number, line in enumerate(lines(file), 1):
            if line is None:
                yield f"{name} line {number}: longer than 16 MB", None
            elif line.strip():
                yield f"{name} line {number}: not a message record", _object(line)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _own_records(export: Export, name: str, options: Options) -> Iterator[Item]:
    for where, row in _objects(export, name):
        yield (_record(row, options) if row else None) or NotUnderstood(where)


def _record(row: dict[str, Any], options: Options) -> Record | None:
    try:
        if options.me:
            row["from_me"] = options.is_me(row.get("sender_id"), row.get("sender_name"))
        record = msgspec.convert({"source": "jsonl", **row}, Record)
        to_line(record)
    except (ValueError, RecursionError, TypeError, AttributeError):
        return None
    return record


def _surveyed(export: Export, names: list[str], options: Options) -> Table:
    """What all foreign rows say together.

    Raises:
        DataRefused: If no row is a message, ``--column`` fits none, or they do not say who is me.
    """
    table = Table("jsonl", options, flag_is_told=any(field in ("from_me", "mine") for field in options.columns))
    keys: dict[str, None] = {}
    taken = 0
    for name in names:
        with suppress(DamagedFile):  # said when it is read the second time
            for where, row in _objects(export, name):
                flat = _flat(row or {})
                if len(keys) < _LOOKED_AT:
                    keys |= dict.fromkeys(flat)
                if (found := _row(where, name, flat, options)) is not None:
                    table.take(found)
                    taken += 1
    if options.columns and keys:
        check_told(options.columns, list(keys))
    if keys and not taken:
        raise no_messages(names[0], list(keys))
    table.settle()
    return table


def _items(export: Export, name: str, options: Options, table: Table) -> Iterator[Item]:
    for where, row in _objects(export, name):
        found = _row(where, name, _flat(row or {}), options)
        yield NotUnderstood(where) if found is None else table.item(found)


def _row(where: str, name: str, flat: dict[str, Any], options: Options) -> Row | None:
    places = find_columns(tuple(flat), told_columns(options.columns))
    values = list(flat.values())
    cells = {field: _words(values[place]) for field, place in places.items()}
    if not is_entry(places) or cells.get("text", "") is None:
        return None
    home = name.rpartition(".")[0] or name
    return Row(where.rpartition(":")[0], home, {field: words for field, words in cells.items() if words is not None})


def _words(value: Any) -> str | None:
    """A plain value as a cell; None for a list or an object."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else None


def _flat(row: dict[str, Any], depth: int = _DEPTH) -> dict[str, Any]:
    """*row* with the keys of objects within it as ``outer.inner``."""
    flat = dict(row)
    for key, value in row.items():
        if isinstance(value, dict) and depth > 1:
            flat |= {f"{key}.{inner}": found for inner, found in _flat(value, depth - 1).items()}
    return flat
