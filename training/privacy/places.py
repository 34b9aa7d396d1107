"""Where people live: street addresses as they are written in several languages."""

import re
from collections.abc import Iterator

from training.privacy.letters import Span, holds

_SURE = r"street|st|avenue|ave|av|road|rd|boulevard|blvd|lane|ln"
_LIKELY = (
    "drive|dr|court|ct|place|pl|square|sq|terrace|ter|way|parkway|pkwy|circle|cir|highway|hwy|close|crescent|gardens|"
    "grove|row|mews|walk|quay|trail|alley|plaza"
)
_NO_STREET = (
    r"(?:min|mins|minutes?|hours?|hrs?|days?|weeks?|months?|years?|miles?|km|kms|meters?|blocks?|more|people|guys|"
    r"times?|of|the|a|an|on|in|at|to|and|or|for|is|was|am|pm|st|nd|rd|th|down|up|from|by|with|till|until|x|lanes?|"
    r"beers?|dollars?|bucks|percent|kids|friends|cars|shots|this|that|my|your|his|her|our|long|way|off)"
)
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|"
    "OR|PA|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY"
)
_POSTCODE = r"[A-Z]{1,2}[0-9][A-Z0-9]? [0-9][A-Z]{2}"
_TAIL = (
    r"(?:\.(?![A-Za-z0-9]))?(?: (?:NW|NE|SW|SE|N|S|E|W)(?![A-Za-z]))?"
    r"(?:,? (?:apt|apartment|unit|suite|ste|flat|floor|#)\.? ?#?[A-Za-z0-9]{1,6}(?![A-Za-z0-9]))?"
    rf"(?:,? (?-i:(?:[A-Z][A-Za-z.]{{1,20}},? ){{0,3}}(?:(?:{_STATES})(?![A-Za-z])(?: [0-9]{{5}}(?![0-9]))?"
    rf"|{_POSTCODE})))?"
)
_NUMBER = r"(?<![A-Za-z0-9$€£¥.,:/\-])[0-9]{1,5}[A-Za-z]? "
_PATTERNS = [
    re.compile(pattern, flags)
    for pattern, flags in [
        (
            rf"{_NUMBER}(?:(?:N|S|E|W|North|South|East|West)\.? )?"
            rf"(?:(?!{_NO_STREET}\b)[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'\-]{{1,20}}\.? |"
            rf"[0-9]{{1,3}}(?:st|nd|rd|th) ){{1,3}}(?:{_SURE})(?![A-Za-z0-9]){_TAIL}",
            re.IGNORECASE,
        ),
        (
            rf"{_NUMBER}(?:(?!(?i:{_NO_STREET})\b)[A-ZÀ-Þ][A-Za-zÀ-ɏ'\-]{{1,20}}\.? ){{1,3}}"
            rf"(?:{_LIKELY.title()}|{_LIKELY.upper()})"
            r"(?![A-Za-z0-9])(?:,? (?:Apt|Unit|Suite|#)\.? ?[A-Za-z0-9]{1,6})?",
            0,
        ),
        (rf"(?<![A-Za-z])(?:[A-Z][A-Za-z.]{{1,20}} ?[A-Za-z]{{0,20}}, )?"
            rf"(?:{_STATES}) [0-9]{{5}}(?:-[0-9]{{4}})?(?![0-9])", 0),
        (rf"(?<![A-Za-z0-9]){_POSTCODE}(?![A-Za-z0-9])", 0),
        (r"(?<![A-Za-z])p\.?o\.? box [0-9]{1,6}(?![0-9])", re.IGNORECASE),
        (
            r"(?<![A-Za-zÀ-ɏ])[A-ZÄÖÜ][A-Za-zÄÖÜäöüß\-]{2,25}(?i:straße|strasse|str\.|weg|platz|allee"
            r"|gasse) [0-9]{1,4}[a-z]?(?![A-Za-z0-9])"
            r"(?:,? [0-9]{5} [A-ZÄÖÜ][a-zäöüß]{2,20})?",
            0,
        ),
        (
            r"(?<![0-9])[0-9]{1,4}(?: bis| ter)?,? (?:rue|avenue|boulevard|place|chemin|impasse|quai) (?:(?:de"
            r"|du|des|la|le|les) |"
            r"l'|d'){0,2}[A-ZÀ-Þ][A-Za-zÀ-ɏ'\-]{2,25}"
            r"(?: [A-ZÀ-Þ][A-Za-zÀ-ɏ'\-]{2,25})?(?:,? [0-9]{5} [A-ZÀ-Þ][a-zà-ÿ]{2,20})?",
            0,
        ),
        (r"(?<![A-Za-z])(?:[Cc]alle|[Aa]venida|[Vv]ia|[Rr]ua) "
            r"(?:[A-Za-zÀ-ɏ']{2,20} ){0,3}[A-Za-zÀ-ɏ']{2,20},? (?:nº ?|n\.º ?)?[0-9]{1,4}(?![0-9])", 0),
        (r"(?:[\u4e00-\u9fff]{2,8}[省市])?[\u4e00-\u9fff]{1,8}[路街道巷弄] ?[0-9]{1,5}号(?: ?[0-9A-Za-z]{1,5}[室楼栋层]"
        r"|[0-9]{1,3}单元){0,4}", 0),
        (r"[\u4e00-\u9fff]{2,8}[省市][\u4e00-\u9fff]{1,8}[区县镇][\u4e00-\u9fff0-9]{0,12}", 0),
    ]
]  # fmt: skip
# Words without which the patterns after the fourth cannot match.
_HINTS = (
    ("box",), ("straße", "strasse", "str.", "weg", "platz", "allee", "gasse"),
    ("rue", "avenue", "boulevard", "place", "chemin", "impasse", "quai"), ("calle", "avenida", "via", "rua"),
    tuple("路街道巷弄"), tuple("省市"),
)  # fmt: skip
_ENGLISH = re.compile(rf"[0-9][A-Za-z]? .{{2,70}}?(?<![A-Za-z])(?:{_SURE}|{_LIKELY})(?![A-Za-z])", re.IGNORECASE)
_FIVE = re.compile(r"[0-9]{5}|[0-9][A-Z]{2}")


def found_places(text: str) -> Iterator[Span]:
    """Addresses in *text*; overlaps are left in."""
    lower = text.lower()
    is_english, has_code = _ENGLISH.search(text) is not None, _FIVE.search(text) is not None
    may = [is_english, is_english, has_code, has_code, *(holds(lower, words) for words in _HINTS)]
    for pattern, worth in zip(_PATTERNS, may, strict=True):
        for match in pattern.finditer(text) if worth else ():
            yield "address", match.start(), match.start() + len(match[0].rstrip(" ."))
