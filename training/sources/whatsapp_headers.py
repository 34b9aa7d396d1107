"""Headers of WhatsApp's "Export chat": date, time and what stands round them, as the phone's language writes them.

    1/8/25, 08:12 - Name: text              Android
    [08/01/2025, 08:12:07] Name: text       iPhone

One file has one shape of header throughout: separators, brackets, width of the year and clock. Lines of another shape
are text that somebody pasted. Which number is the day is decided over all dates of the file (``DateVotes``).
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

CONTROLS = "\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
SAMPLE = 5000  # lines
FIRST_YEAR = 2009  # of WhatsApp
BUDDHIST = 543  # years that the calendar of Thai phones is ahead

_AM = r"a\.?\s?m\b\.?|上午|早上|清晨|凌晨|午前|오전|ص|ق\.\s?ظ\.?|π\.?\s?μ\.?|öö|sa\b|de\.|pd\b|fm\b|पूर्वाह्न|म\.पू\."
_PM = r"p\.?\s?m\b\.?|下午|晚上|午後|오후|م|ب\.\s?ظ\.?|μ\.?\s?μ\.?|ös|ch\b|du\.|md\b|em\b|अपराह्न|म\.उ\."
_NOON = "中午"
_CLOCK = f"{_AM}|{_PM}|{_NOON}"
_C = f"[{CONTROLS}]{{0,4}}"
_GAP = rf"[\s{CONTROLS}]{{0,4}}"
_HEADER = re.compile(
    rf"""{_C}(?P<open>\[?){_C}
    (?P<first>\d{{1,4}}){_C}(?P<sep>[/.\-\u2010-\u2013])\s?{_C}(?P<second>\d{{1,4}}){_C}(?P=sep)\s?{_C}
    (?P<third>\d{{1,4}})(?!\d)(?P<dot>\.?){_C}(?P<comma>[,،、]?){_GAP}
    (?:(?P<before>{_CLOCK}){_GAP}|(?P<word>[^\W\d_]{{1,5}}\.?)\s)?
    (?P<hour>\d{{1,2}}){_C}(?P<colon>[:.：]|\s?h\s?){_C}(?P<minute>\d\d)(?:{_C}(?P=colon){_C}(?P<seconds>\d\d))?(?!\d)
    (?:[\s_{CONTROLS}]{{0,4}}(?P<after>{_CLOCK}))?
    {_C}(?P<end>\]|\s[-–—](?=\s|$)|:(?=\s)|(?=\s))\s?""",
    re.VERBOSE | re.IGNORECASE,
)
_IS_PM, _IS_NOON = re.compile(_PM, re.IGNORECASE), re.compile(_NOON)
_AMERICAN = "AM"
_ORDERS = {0: ("ymd", "ydm"), 1: ("myd", "dym"), 2: ("dmy", "mdy"), None: ("dmy", "mdy", "ymd")}


class Shape(NamedTuple):
    """All that is the same in every header of a file; two phones or languages differ in some of it."""

    open: str
    separator: str
    dot: str
    comma: str
    word: str
    clock: str
    colon: str
    has_seconds: bool
    end: str
    year_at: int | None


class Header(NamedTuple):
    """The header of one line; *date* as written, *rest* is what follows it."""

    shape: Shape
    date: tuple[int, int, int]
    time: tuple[int, int, int]
    rest: str


def header_of(line: str) -> Header | None:
    """The header that *line* begins with, in whatever shape."""
    match = _HEADER.match(line)
    if match is None:
        return None
    opening, first, separator, second, third, dot, comma, before, word, hour, colon, minute, seconds, after, end = (
        match.groups()
    )
    widths = len(first), len(second), len(third)
    shape = _shape(opening, separator, widths, dot, comma, word, before, after, colon, seconds is not None, end)
    if shape is None:
        return None
    time = (_hour(int(hour), before or after), int(minute), int(seconds or 0))
    return Header(shape, (int(first), int(second), int(third)), time, line[match.end() :])


@lru_cache(maxsize=1024)
def _shape(
    opening: str, separator: str, widths: tuple[int, int, int], dot: str, comma: str,
    word: str | None, before: str | None, after: str | None, colon: str, has_seconds: bool, end: str,
) -> Shape | None:  # fmt: skip
    years = [place for place, width in enumerate(widths) if width > 2]
    if bool(opening) != (end == "]") or len(years) > 1 or 3 in widths:
        return None
    # Capitals are American; other English writes am and pm, Spanish a. m. and p. m.
    behind = (_AMERICAN if after in ("AM", "PM") else "after") if after else ""
    clock = "before" if before else behind
    year_at = years[0] if years else None
    return Shape(
        opening, separator, dot, comma, word or "", clock, colon.strip(), has_seconds, end.strip(), year_at
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _hour(hour: int, marker: str | None) -> int:
    """Of 24. Some twelve-hour phones write 00:08 a. m., and hours above twelve are what they are."""
    if marker is None or hour > 12:
        return hour
    if _IS_NOON.match(marker):
        return hour + 12 if hour < 6 else hour
    return hour % 12 + (12 if _IS_PM.match(marker) else 0)


def local_time(header: Header, order: str) -> datetime | None:
    """When, on the phone's clock; None where there is no such day or hour."""
    day = _day(header.date, order)
    hour, minute, second = header.time
    if day is None or hour > 23 or minute > 59 or second > 59:
        return None
    return day.replace(hour=hour, minute=minute, second=second)


@lru_cache(maxsize=4096)
def _day(date: tuple[int, int, int], order: str) -> datetime | None:
    part = dict(zip(order, date, strict=True))
    year = part["y"] if part["y"] > 99 else 2000 + part["y"]
    if 2400 < year < 2700:
        year -= BUDDHIST
    try:
        return datetime(year, part["m"], part["d"]) if 1970 <= year <= 2100 else None
    except ValueError:
        return None


@dataclass
class DateVotes:
    """What the dates of one file, in its order, say about which number is the day."""

    shape: Shape
    impossible: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)
    changes: list[int] = field(default_factory=lambda: [0, 0, 0])
    last: tuple[int, int, int] | None = None

    @property
    def orders(self) -> tuple[str, ...]:
        """Those that the shape allows, the likeliest first."""
        orders = _ORDERS[self.shape.year_at]
        is_american = self.shape.clock == _AMERICAN and self.shape.separator == "/" and "mdy" in orders
        return ("mdy", *(order for order in orders if order != "mdy")) if is_american else orders

    def add(self, date: tuple[int, int, int]) -> None:
        """Take note of the next date."""
        if date == self.last:
            return
        latest = datetime.now(UTC).year + 1
        for order in self.orders:
            day = _day(date, order)
            if day is None or (self.shape.year_at is None and not FIRST_YEAR <= day.year <= latest):
                self.impossible[order] += 1
            elif self.last is not None and (before := _day(self.last, order)) is not None:
                self.backward[order] += day < before
        for place, number in enumerate(self.last or date):
            self.changes[place] += number != date[place]
        self.last = date

    def order(self, day_first: bool | None, default: str | None = None) -> tuple[str, bool]:
        """(the order, such as "dmy"; whether it is more than a guess).

        Args:
            day_first: What the user says; it counts where it is possible at all.
            default: The order of other files of the same shape, for where this one shows nothing.
        """

        def weight(order: str) -> tuple[int, ...]:
            against = day_first is not None and "y" != order[0] and (order.index("d") < order.index("m")) != day_first
            # No known language writes year, day, month: only what is impossible otherwise is that.
            return self.impossible[order], order == "ydm", against, self.backward[order]

        def by_changes(order: str) -> tuple[int, int]:
            return -self.changes[order.index("d")], self.changes[order.index("y")]

        best = min(map(weight, self.orders))
        left = sorted((order for order in self.orders if weight(order) == best), key=by_changes)
        if len(left) == 1 or self._are_same(left):
            return left[0], True
        # The day changes more often than the month; a difference of one or two can be chance.
        if by_changes(left[1])[0] - by_changes(left[0])[0] >= 3:
            return left[0], True
        if default in left:
            return default, True
        tied = [order for order in left if by_changes(order) == by_changes(left[0])]
        return tied[0], False

    def _are_same(self, orders: Iterable[str]) -> bool:
        """One date, such as the third of March, that reads the same either way."""
        return (
            self.last is not None and not any(self.changes) and len({_day(self.last, order) for order in orders}) == 1
        )


def main_shape(headers: list[Header]) -> Shape | None:
    """The shape of a file that begins with *headers*: the most frequent, or the first where the file then changes."""
    if not headers:
        return None
    shapes = [header.shape for header in headers]
    main = Counter(shapes).most_common(1)[0][0]
    leading = shapes[: shapes.index(main)]
    is_change = len(leading) >= 3 and len(set(leading)) == 1 and leading[0] not in shapes[len(leading) :]
    return leading[0] if is_change else main
