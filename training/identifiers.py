"""One spelling for each way to name a person: E.164 numbers, lower-case e-mail addresses, short codes, names.

    +14025550101            a phone number, however it was written
    jo@example.com          an e-mail address
    short:262966            a short code or an alphanumeric sender: a business
    whatsapp:Ilona Varga    a name or an account that means something within one source only

Numbers are accepted when they are possible, not only when they are valid: new ranges fail the stricter test.
"""

import re
import unicodedata
from functools import lru_cache

import phonenumbers

_PREFIX = re.compile(r"(?:tel|mailto): ?", re.IGNORECASE)
_NUMBER = re.compile(r"[( ]*[+\uff0b]?[\d\s().\-/\u2010-\u2015\u2212]+")
_MAIL = re.compile(r"[^@\s:;,<>\"()\[\]]+@[^@\s:;,<>\"()\[\]]+")
_GROUP_ADDRESS = re.compile(r"@rcs(?:\.|$)|@g\.us$|@s\.whatsapp\.|^urn:", re.IGNORECASE)
_SHORT_CODE = 6  # so many digits or fewer are a business's
_WITH_COUNTRY = 11  # so many digits or more may be a whole number without its +
# Mobile numbers of these countries are written with and without a digit that says so.
_SAME_NUMBER = ((re.compile(r"\+521(\d{10})"), "+52"), (re.compile(r"\+549(\d{10})"), "+54"))


def visible(text: str) -> str:
    """*text* composed (NFC), without control and format characters, white space around it or in runs."""
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _UNSEEN)
    return " ".join(unicodedata.normalize("NFC", kept).split())


_UNSEEN = {"Cc", "Cf", "Cs"}


@lru_cache(maxsize=65536)
def canonical_address(raw: str, region: str | None = None) -> str | None:
    """*raw* as an E.164 number, a lower-case e-mail address or ``short:...``; None if it is no address at all.

    Args:
        region: Country (``US``) whose numbers may be written without their country code.
    """
    text = visible(raw)
    if re.match("short:.", text):
        return text
    text = _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text
    if not text or _GROUP_ADDRESS.search(text):
        return None
    if "@" in text:
        return visible(text.lower()) if _MAIL.fullmatch(text) else None
    return _number(text, region) if _NUMBER.fullmatch(text) else None


def _number(text: str, region: str | None) -> str | None:
    digits = "".join(str(unicodedata.decimal(c)) for c in text if c.isdecimal())
    if not digits:
        return None
    if len(digits) <= _SHORT_CODE:
        return f"short:{digits}"
    international = text if "+" in text else re.sub(r"^00", "+", text)
    return _e164(international, region) or _whole_number(digits.removeprefix("00"))


def _whole_number(digits: str) -> str | None:
    """A number with its country code but no +. It must be valid, as half of the national ones would be possible."""
    found = _e164("+" + digits, None) if len(digits) >= _WITH_COUNTRY else None
    return found if found and phonenumbers.is_valid_number(phonenumbers.parse(found)) else None


def _e164(text: str, region: str | None) -> str | None:
    try:
        found = _collapsed(phonenumbers.parse(text, region))
        number = phonenumbers.parse(found)
    except phonenumbers.NumberParseException:
        return None
    is_number = phonenumbers.is_possible_number(number) and _collapsed(number) == found  # 00 in front would come off
    return found if is_number else None


def _collapsed(number: phonenumbers.PhoneNumber) -> str:
    found = str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    for pattern, prefix in _SAME_NUMBER:
        if match := pattern.fullmatch(found):
            return prefix + match.group(1)
    return found


def canonical_handle(raw: str, region: str | None = None) -> str:
    """The address of a source that knows people by address; what is none is a business (``short:AMAZON``)."""
    return canonical_address(raw, region) or f"short:{visible(raw)}"


def canonical_name(source: str, raw: str, region: str | None = None) -> str:
    """The sender of a source that knows people by name: an address where the name is one, else a name of *source*."""
    return canonical_address(raw, region) or f"{source}:{visible(raw)}"


def region_of(address: str) -> str | None:
    """The country of an E.164 number; None for anything else."""
    if not address.startswith("+"):
        return None
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(address))
    except phonenumbers.NumberParseException:
        return None
