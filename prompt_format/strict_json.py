"""JSON as written by a program that means it: UTF-8, no duplicate keys, no NaN, not nested without end."""

import json
from typing import Any

MAX_DEPTH = 32


def parse_strict(raw: bytes) -> Any:
    """The value of *raw*.

    Raises:
        ValueError: If it is not strict JSON; the message says why and never repeats content.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_small_int
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    if _depth_exceeds(value, MAX_DEPTH):
        raise ValueError("it is nested too deeply")
    if b"\\u" in raw:
        _check_unicode(value)
    return value


def _check_unicode(value: Any) -> None:
    r"""Half a surrogate pair (``\ud800``) could be read, but never be sent or written again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError("it holds NaN or Infinity")


def _small_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("it holds an integer of more than 20 digits")
    return int(digits)


def _depth_exceeds(value: Any, limit: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    if limit == 0:
        return True
    return any(_depth_exceeds(item, limit - 1) for item in (value.values() if isinstance(value, dict) else value))
