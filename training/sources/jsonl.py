"""JSON Lines in the project's own normalised record. Each row says itself whether it is mine, or ``--me`` does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from errors import DataRefused
from training.records import Record


def read_jsonl(path: Path, me: str | None) -> Iterator[dict[str, Any] | str]:
    """The records of *path* as dicts, and for each line that is none a short reason (never its text).

    Args:
        me: A ``sender_id`` or ``sender_name`` whose messages are mine; None trusts the rows' own ``from_me``.

    Raises:
        DataRefused: If the file cannot be read.
    """
    try:
        lines = path.open(encoding="utf-8-sig")
    except OSError as error:
        raise DataRefused(f"'{path}' cannot be read ({type(error).__name__})", code="unreadable_file") from None
    with lines:
        for number, line in enumerate(_decoded(lines, path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield f"line {number}: not JSON"
                continue
            yield _normalised(row, me) or f"line {number}: not a message record"


def _decoded(lines: Any, path: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError:
        raise DataRefused(f"'{path}' is not UTF-8 text", code="unreadable_file") from None


def _normalised(row: Any, me: str | None) -> dict[str, Any] | None:
    if not isinstance(row, dict):
        return None
    whole: dict[str, Any] = {"source": "jsonl", **row}
    if me is not None:
        whole["from_me"] = me in (row.get("sender_id"), row.get("sender_name"))
    try:
        Record.model_validate(whole).text.encode()
    except (ValidationError, UnicodeEncodeError):  # the latter for half a surrogate pair
        return None
    return whole
