"""Small files of JSON within an export, which say more about its conversations."""

import json
from typing import Any

from training.sources.export import Export

_BOM = b"\xef\xbb\xbf"
_SMALL = 4 << 20  # bytes


def small_object(export: Export, name: str) -> dict[str, Any]:
    """The object in a file of a few lines; an empty one where it is none, as it only helps to name people."""
    try:
        value = json.loads(export.head(name, _SMALL).removeprefix(_BOM))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
