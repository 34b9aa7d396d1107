"""CSV of any program, with a header: columns are known by name, or told with ``--column FIELD=COLUMN``.

WeChat tables as WeClone reads them and the tables of iMazing need nothing told.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from training.sources.cells import Row
from training.sources.columns import check_told, find_columns, is_message, no_messages, told_columns
from training.sources.csv_rows import header, open_text, rows
from training.sources.export import DamagedFile, Export, each_file
from training.sources.options import Options
from training.sources.outcome import Item, Note, NotUnderstood
from training.sources.table import Table

_ENDINGS = (".csv", ".tsv")
_NO_OPTIONS = Options()


@dataclass(frozen=True)
class _File:
    name: str
    delimiter: str
    names: tuple[str, ...]
    places: dict[str, int]


def recognises(export: Export) -> bool:
    """A ``.csv`` or ``.tsv`` file whose header has columns for words, for who wrote them and for when."""
    return any(
        is_message(file.places) and "sent_at" in file.places
        for file in (_opened(export, name, _NO_OPTIONS) for name in _names(export, only_csv=True))
        if file
    )


def read(export: Export, options: Options) -> Iterator[Item]:
    """The rows of every CSV file (a single file may be called anything) that holds messages."""
    files, notes = _message_files(export, options)
    table = Table("csv", options, flag_is_told=any(field in ("from_me", "mine") for field in options.columns))
    for file in files.values():
        with suppress(DamagedFile):  # said when it is read the second time
            for row in _rows(export, file):
                if isinstance(row, Row):
                    table.take(row)
    table.settle()
    yield from notes
    yield from table.notes()
    yield from each_file(export, files, lambda name: _items(export, files[name], table))


def _names(export: Export, only_csv: bool = False) -> list[str]:
    if export.is_single_file and not only_csv:
        return export.names
    return [name for name in export.names if name.lower().endswith(_ENDINGS)]


def _opened(export: Export, name: str, options: Options) -> _File | None:
    """What the header of a file says; None if it cannot be read."""
    told = told_columns(options.columns)
    try:
        with open_text(export, name) as text:
            delimiter, names = header(text, lambda names: len(find_columns(names, told)))
    except DamagedFile:
        return None
    return _File(name, delimiter, names, find_columns(names, told))


def _message_files(export: Export, options: Options) -> tuple[dict[str, _File], list[Item]]:
    """The files that hold messages, and what to say of the others.

    Raises:
        DataRefused: If none does, or what the user said of columns fits none.
    """
    opened = {name: _opened(export, name, options) for name in _names(export)}
    readable = [file for file in opened.values() if file is not None]
    if options.columns and readable:
        best = max(readable, key=lambda file: len(file.places))
        check_told(options.columns, best.names)
    files = {file.name: file for file in readable if is_message(file.places)}
    if readable and not files:
        raise no_messages(readable[0].name, readable[0].names)
    notes: list[Item] = [Note(f"'{file.name}' holds no messages") for file in readable if file.name not in files]
    notes += [NotUnderstood(f"'{name}' is damaged or cannot be read") for name, file in opened.items() if file is None]
    return files, notes


def _items(export: Export, file: _File, table: Table) -> Iterator[Item]:
    for row in _rows(export, file):
        yield table.item(row) if isinstance(row, Row) else row


def _rows(export: Export, file: _File) -> Iterator[Row | NotUnderstood]:
    home = file.name.rpartition(".")[0] or file.name
    places = list(file.places.items())
    with open_text(export, file.name) as text:
        for number, row in rows(text, file.delimiter, len(file.names)):
            where = f"{file.name} line {number}"
            if row is None:
                yield NotUnderstood(f"{where}: not a row of {len(file.names)} cells (is every quote closed?)")
            elif not all(map(_is_whole, row)):
                yield NotUnderstood(f"{where}: not UTF-8 (save the file as UTF-8)")
            else:
                yield Row(where, home, {field: row[place] for field, place in places})


def _is_whole(cell: str) -> bool:
    """Whether *cell* holds none of the half surrogates that stand for bytes that were no UTF-8."""
    if cell.isascii():
        return True
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True
