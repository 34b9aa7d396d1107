"""What stands in for private data: values of the same shape that are reserved for examples, so that they are nobody's.

Each is a fixed point: the stand-in of a stand-in is itself.
"""

import re
from collections.abc import Callable
from itertools import cycle, islice

EMAIL = "name@example.com"
URL = "https://example.com/"
ADDRESS = "12 Example Street"
COORDINATES = "0.0000, 0.0000"
PASSWORD = "password is example"
SSN = "000-00-0000"
BIRTH_DATE = "1/1/2000"
MAC = "00:00:5e:00:53:01"
BLOCKED = "..."
_CARDS = {13: "4222222222222", 14: "30569309025904", 15: "378282246310005", 16: "4242424242424242"}
_IBAN = "GB82WEST12345698765432"
_FILLER = "0123456789abcdef"


def digits_of(text: str) -> str:
    return "".join(letter for letter in text if "0" <= letter <= "9")


def in_layout(text: str, digits: str) -> str:
    """*text* with its digits replaced by *digits*, as many; what stands between them is kept."""
    rest = iter(digits)
    return "".join(next(rest) if "0" <= letter <= "9" else letter for letter in text)


def counting(text: str) -> str:
    """123-456 for 904-118."""
    return in_layout(text, "".join(islice(cycle("1234567890"), len(text))))


def phone(text: str) -> str:
    """A number 555-01xx, which no telephone has, written as *text* is."""
    count = len(digits_of(text))
    if count in (7, 10, 11) and not text.startswith("+") or (count == 11 and text.startswith("+1")):
        return in_layout(text, "12025550100"[-count:])
    return "+1 202 555 0100" if text.startswith("+") else "202-555-0100"


def card(text: str) -> str:
    number = _CARDS.get(len(digits_of(text)))
    return in_layout(text, number) if number else _CARDS[16]


def iban(text: str) -> str:
    return " ".join(re.findall(".{1,4}", _IBAN)) if " " in text else _IBAN


def ip(text: str) -> str:
    return "2001:db8::1" if ":" in text else "192.0.2.1"


def filler(text: str) -> str:
    return "".join(islice(cycle(_FILLER), len(text)))


def shape(text: str) -> str:
    """XX123456X for AB904118C."""
    return counting("".join("X" if letter.isalpha() else letter for letter in text))


def _always(stand_in: str) -> Callable[[str], str]:
    return lambda text: stand_in


STAND_INS: dict[str, Callable[[str], str]] = {
    "email": _always(EMAIL),
    "url": _always(URL),
    "phone": phone,
    "card": card,
    "iban": iban,
    "ssn": _always(SSN),
    "ip": ip,
    "mac": _always(MAC),
    "address": _always(ADDRESS),
    "coordinates": _always(COORDINATES),
    "crypto": filler,
    "key": filler,
    "number": counting,
    "password": _always(PASSWORD),
    "code": counting,
    "account": counting,
    "id": shape,
    "plate": shape,
    "birth_date": _always(BIRTH_DATE),
    "blocked": _always(BLOCKED),
}
_NUMERIC = ("phone", "card", "number")


def is_stand_in(kind: str, text: str) -> bool:
    """Whether *text*, found as *kind*, is a stand-in, of whichever kind."""
    if STAND_INS[kind](text).lower() == text.lower():
        return True
    if len(digits_of(text)) < 4 or any(letter.isalpha() for letter in text):
        return False
    return any(STAND_INS[other](text) == text for other in _NUMERIC)
