"""One file a source: an export of some program -> normalised records. ``SOURCES`` is the registry.

A reader takes the path and who "me" is, and yields each message as a dict of the normalised record, or for a row it
does not understand a short reason that never repeats the row.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.sources.jsonl import read_jsonl

Reader = Callable[[Path, str | None], Iterator[dict[str, Any] | str]]
SOURCES: dict[str, Reader] = {"jsonl": read_jsonl}
