"""A Messages database (``chat.db``, ``sms.db``), opened so that nothing is written beside it and nothing missed.

Text is handed out as bytes: one that is not UTF-8 must not end the reading of a table.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from training.sources.export import DamagedFile
from training.sources.outcome import NotUnderstood

_DAMAGE = (sqlite3.Error, UnicodeDecodeError)  # the latter where SQLite's own message quotes damaged bytes
_TRIES = 3
_FIRST = -(1 << 63)
BATCH = 64  # rows that fit into a processor's cache


class Database:
    """Reads one database. Every error of SQLite becomes a DamagedFile.

    Attributes:
        unread: Tables that could be read only in part, where that ended nothing.
    """

    def __init__(self, connection: sqlite3.Connection, name: str):
        self._connection, self._name = connection, name
        self.unread: list[str] = []

    def columns(self, table: str) -> set[str]:
        """Names of the columns of *table*; none if it is not there."""
        return {str(row[1], errors="replace") for row in self.rows(f"PRAGMA table_info({table})")}

    def rows(self, query: str, *values: Any, at_once: int = 1) -> Iterator[tuple[Any, ...]]:
        """The rows of *query*, one after the other, read *at_once* at a time: a fifth faster for large tables.

        Raises:
            DamagedFile: Where they can be read no further; the rows read with the damaged one are lost.
        """
        try:
            cursor = self._connection.execute(query, values)
            while batch := cursor.fetchmany(at_once):
                yield from batch
        except _DAMAGE as error:
            raise DamagedFile(f"'{self._name}' is damaged or no Messages database ({type(error).__name__})") from None

    def table(self, table: str, *columns: str, distinct: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a table that fits into memory: NULL for a column that is not there, nothing without the table."""
        there = self.columns(table)
        if not there:
            return []
        names = ", ".join(name if name in {"ROWID", *there} else "NULL" for name in columns)
        return self.small(f"SELECT {'DISTINCT ' * distinct}{names} FROM {table}", table)

    def small(self, query: str, table: str) -> list[tuple[Any, ...]]:
        """The rows of *query* on *table*, as far as they can be read; they fit into memory."""
        found = []
        try:
            for row in self.rows(query):
                found.append(row)
        except DamagedFile:
            self.unread.append(table)
        return found

    def in_order(self, query: str, table: str) -> Iterator[tuple[Any, ...] | NotUnderstood]:
        """The rows of *query* whose first column is a ROWID above its one parameter, rising.

        Goes on behind a damaged stretch, and says where it was.

        Raises:
            DamagedFile: Where nothing can be read behind it either.
        """
        last, step, is_gap, at_once = _FIRST, 0, False, BATCH
        row: tuple[Any, ...] = (_FIRST,)
        while True:
            try:
                for row in self.rows(query, last + step, at_once=at_once):
                    if is_gap:
                        yield NotUnderstood(f"'{self._name}': {table} rows between {last} and {row[0]} are damaged")
                        is_gap = False
                    yield row
                return
            except DamagedFile:
                is_gap = at_once == 1
                if is_gap:
                    last, step = _behind(last, step, row[0])
                else:  # again one by one, for those read together with the damaged row
                    last, at_once = max(last, row[0]), 1
                if last + step > self._last_row(table):
                    raise

    def _last_row(self, table: str) -> int:
        found: Any = next(self.rows(f"SELECT max(ROWID) FROM {table}"), (None,))[0]
        return found if isinstance(found, int) else _FIRST


def _behind(last: int, step: int, read: int) -> tuple[int, int]:
    """Where to go on after a failure: behind the last row that was read, in longer and longer steps."""
    if read > last:
        return read, 1
    if last == _FIRST:
        return 0, 0  # look for the first row where rows begin, not at the least number there is
    return last, 2 * step or 1


@contextmanager
def opened(path: Path, name: str) -> Iterator[Database]:
    """The database at *path*, called *name* in errors, as it is now: with what still waits in its ``-wal`` file.

    Raises:
        DamagedFile: If it is no database or cannot be copied.
    """
    with _at_rest(path, name) as place:
        try:
            connection = sqlite3.connect(f"{place.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        except _DAMAGE as error:
            raise DamagedFile(f"'{name}' cannot be opened ({type(error).__name__})") from None
        connection.text_factory = bytes
        with closing(connection):
            yield Database(connection, name)


@contextmanager
def _at_rest(path: Path, name: str) -> Iterator[Path]:
    """*path* where SQLite can read it without writing beside it, else a private copy, deleted afterwards.

    SQLite puts two files beside a database in WAL mode even to read it, and fails where it may not. Its -shm file is
    an index of the -wal that it makes anew; one copied from under a running program could be stale.
    """
    wal = path.with_name(path.name + "-wal")
    try:
        if not _is_in_wal_mode(path) and not (wal.is_file() and wal.stat().st_size):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="samevoice-") as folder:  # mode 0700
            yield _copied(path, wal, Path(folder))
    except OSError as error:
        raise DamagedFile(f"'{name}' cannot be read or copied ({type(error).__name__})") from None


def _is_in_wal_mode(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def _copied(path: Path, wal: Path, folder: Path) -> Path:
    """A copy of the pair; again if Messages wrote to it meanwhile."""
    for _ in range(_TRIES):
        before = _state(path), _state(wal)
        shutil.copyfile(path, folder / path.name)
        if wal.is_file():
            shutil.copyfile(wal, folder / wal.name)
        if before == (_state(path), _state(wal)):
            break
    return folder / path.name


def _state(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
