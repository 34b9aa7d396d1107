"""Values of somebody else's JSON, which may be of any type: each function gives what was hoped for, or nothing."""

from typing import Any


def mapping(value: Any) -> dict[str, Any]:
    """*value* if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """*value* if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def string(value: Any) -> str:
    """*value* if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def whole_number(value: Any) -> int | None:
    """*value* as a number that is not negative: JSON has large ones as text. None where it is none below 10**18."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    return None
