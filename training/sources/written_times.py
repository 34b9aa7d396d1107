"""Times as programs write them into tables: epochs of any unit, ISO 8601, 4/10/24, Oct 4, 2024, 2024年10月4日."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((1e8, None), (1e11, 10**6), (1e14, 10**3), (1e17, 1), (1e20, "0.001"))  # below -> microseconds of one
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e\+?\d+)?", re.IGNORECASE | re.ASCII)
_COMPACT = re.compile(r"(?:19|20)\d{6}(?:\d{6})?", re.ASCII)
_DAY = re.compile(r"(\d{1,4})\s?([./-])\s?(\d{1,2})\s?\2\s?(\d{1,4})(?!\d)\.?", re.ASCII)
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*\.?"
_NAMED = re.compile(
    rf"(?:[a-z]+\.?,? )?(?:{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})|(\d{{1,2}})\.?[ -]{_MONTH},?[ -](\d{{4}}))",
    re.IGNORECASE | re.ASCII,
)
_CLOCK = re.compile(
    r"[T,\s]*(?:at )?([ap])?\s?(\d{1,2})[:.](\d{2})(?:[:.](\d{2})(?:[.,](\d{1,9}))?)?"
    r"\s?(?:([ap])\.?\s?m\.?)?\s?(Z|UTC|GMT)?([+-]\d{2}:?\d{2})?",
    re.IGNORECASE | re.ASCII,
)
_CHINESE = str.maketrans({"年": "-", "月": "-", "日": " "})


def shows_day_first(text: str) -> bool | None:
    """Whether *text* can only be read day first (True), only month first (False), or shows neither (None).

    Raises:
        ValueError: If it reads as two different days.
    """
    match = _DAY.match(text)
    if match is None or len(match[1]) > 2 or match[2] == ".":
        return None
    first, second = int(match[1]), int(match[3])
    if first > 12 or second > 12:
        return None if first > 12 and second > 12 else first > 12
    if first != second:
        raise ValueError("ambiguous")
    return None


def read_time(text: str, day_first: bool | None) -> datetime | None:
    """The moment that *text* names, without a zone where it has none; None if it names none.

    Args:
        day_first: Whether 3/4/2024 is the third of April; with dots it always is.
    """
    try:
        return _number(text) if _NUMBER.fullmatch(text) else _iso(text) or _written(text, day_first)
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> datetime | None:
    if _COMPACT.fullmatch(text):
        return datetime.strptime(text, "%Y%m%d%H%M%S" if len(text) == 14 else "%Y%m%d")
    size = abs(float(text))
    unit = next((unit for below, unit in _UNITS if size < below), None)
    if unit is None:
        return None
    return _EPOCH + timedelta(microseconds=int(Decimal(text) * Decimal(unit)))


def _iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _written(text: str, day_first: bool | None) -> datetime | None:
    text = text.translate(_CHINESE).replace("上午", " a ").replace("下午", " p ").replace("- ", "-")
    text = " ".join(text.split())
    if match := _DAY.match(text):
        day = _numeric_day(match, day_first)
    elif match := _NAMED.match(text):
        month = (match[1] or match[5])[:3].lower()
        day = datetime(int(match[3] or match[6]), _MONTHS[month], int(match[2] or match[4]))
    else:
        return None
    rest = text[match.end() :].strip()
    if not rest:
        return day
    clock = _CLOCK.fullmatch(rest)
    return _at(day, clock) if clock else None


def _numeric_day(match: re.Match[str], day_first: bool | None) -> datetime:
    first, second, third = int(match[1]), int(match[3]), int(match[4])
    if len(match[1]) == 4:
        return datetime(first, second, third)
    year = third if len(match[4]) == 4 else 2000 + third
    if match[2] == "." or (day_first if day_first is not None else first > 12):
        first, second = second, first
    return datetime(year, first, second)


def _at(day: datetime, clock: re.Match[str]) -> datetime:
    hour = int(clock[2])
    if half := (clock[1] or clock[6] or "").lower():
        hour = hour % 12 + (12 if half == "p" else 0)
    second, fraction = int(clock[4] or 0), (clock[5] or "0").ljust(6, "0")[:6]
    moment = day.replace(hour=hour, minute=int(clock[3]), second=second, microsecond=int(fraction))
    if clock[8]:
        return datetime.fromisoformat(moment.isoformat() + clock[8])
    return moment.replace(tzinfo=UTC) if clock[7] else moment
