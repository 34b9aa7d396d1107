"""Private data made of digits: cards, accounts, telephone numbers, codes, coordinates, and where people live."""

import re
from collections.abc import Iterator

from phonenumbers import Leniency, PhoneNumberMatcher

from training.privacy.letters import VERSION, Span, holds
from training.privacy.stand_ins import digits_of

MANY_DIGITS = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){3}")  # fewer are nobody's number
_MANY = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){9}")
_CLUSTER = re.compile(r"[0-9]+(?:[ .\-][0-9]+)*")
_GROUP = re.compile(r"[0-9]+")
_DATE = re.compile(
    r"(?<![0-9./\-])(?:(?:19|20)[0-9]{2}([./\-])[0-9]{1,2}\1[0-9]{1,2}"
    r"|[0-9]{1,2}([./\-])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2}))"
    r"(?![0-9]|[./\-][0-9])"
)
_YEARS = re.compile(r"(?:19|20)[0-9]{2}[ ]?[\-/][ ]?(?:19|20)[0-9]{2}")
_AFTER_YEAR = re.compile(r"(?:19|20)[0-9]{2} [0-9]{1,3}")
_FRACTION = re.compile(r"[0-9][.,]$")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+")

_SSN = re.compile(r"(?<![0-9\-])[0-9]{3}([\- ])[0-9]{2}\1[0-9]{4}(?![0-9]|-[0-9])")
_ID = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-CEGHJ-PR-TW-Za-ceghj-pr-tw-z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-Da-d]"
    r"|[1-9][0-9]{16}[0-9Xx]"
    r"|(?=[A-HJ-NPR-Z]*[0-9])(?=[0-9]*[A-HJ-NPR-Z])[A-HJ-NPR-Z0-9]{17})(?![A-Za-z0-9])"
)
_NAMED_ID = re.compile(
    r"(?:passport|driver'?s? licen[cs]e|driving licen[cs]e|national insurance|ni number|护照|身份证)"
    r"(?: ?(?:number|no\.?|num|nr\.?|#|号码?))?(?: is|:|=|：|是)? {0,2}#?"
    r"([A-Za-z]{0,3}[0-9][A-Za-z0-9]{4,14})(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PLATE = re.compile(
    r"(?:(?:licen[cs]e|number|reg(?:istration)?|car)? ?plates?|车牌)(?: ?(?:number|no\.?|号))?(?: is|:|=|：|是)? {0,2}"
    r"([A-Za-z]{1,3}[ \-]?[0-9]{1,4}[ \-]?[A-Za-z]{0,3}|[0-9]{1,4}[ \-]?[A-Za-z]{2,3}[ \-]?[0-9]{0,4})(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_CHINESE_PLATE = re.compile(rf"[{_PROVINCES}][A-Z][·\- ]?[A-Z0-9]{{5,6}}(?![A-Za-z0-9])")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_BORN = re.compile(
    r"(?:(?<![A-Za-z])(?:born|dob|d\.o\.b\.?)|date of birth|birth ?date|birthday|bday|生日|出生)[^\n0-9]{0,20}?"
    rf"((?<![0-9])[0-9]{{1,4}}[./\-][0-9]{{1,2}}[./\-][0-9]{{2,4}}(?![0-9])|(?:19"
    rf"|20)[0-9]{{2}}年[0-9]{{1,2}}月[0-9]{{1,2}}日"
    rf"|{_MONTH} [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}}|[0-9]{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH},? [0-9]{{4}})",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    r"(?<![A-Za-z])(?:account|acct|a/c|routing|sort ?code|konto|iban|member(?:ship)?|policy|customer|卡号|账号)"
    r"(?: ?(?:number|no\.?|num|nr\.?|#|id))?(?: is|:|=|：|是)? {0,2}#?"
    r"([0-9](?:[ \-]?[0-9]){4,20})(?![0-9]|[./,:][0-9])",
    re.IGNORECASE,
)
_CODE_WORD = re.compile(
    r"(?<![A-Za-z])(?:(?<!zip )(?<!area )(?<!error )(?<!postal )codes?|otp|pins?|2fa|tan|verification|passcode"
    r"|código|验证码|校验码|动态码)(?![A-Za-z])",
    re.IGNORECASE,
)
_CODE = re.compile(r"(?<![0-9A-Za-z$€£¥.,:/\-])(?:G-)?([0-9]{4,8}|[0-9]{3}[ \-][0-9]{3})(?![0-9A-Za-z%]|[.,:/\-][0-9])")
_COORDINATES = re.compile(
    r"(?<![0-9.])[+\-]?[0-9]{1,3}\.[0-9]{4,}°? ?[NSns]?[,;/ ]{1,3}"
    r"[+\-]?[0-9]{1,3}\.[0-9]{4,}(?:°? ?[EWew](?![A-Za-z]))?(?![0-9.][0-9])"
    r"|[0-9]{1,2}° ?[0-9]{1,2}['′’] ?[0-9.]{1,6}[\"″”]? ?[NS][, ]{1,2}"
    r"[0-9]{1,3}° ?[0-9]{1,2}['′’] ?[0-9.]{1,6}[\"″”]? ?[EW]"
)

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ \-]?[A-Za-z0-9]{2})")
_IBAN_LENGTHS = dict(
    pair.split(":") for pair in
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 EE:20 "
    "EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 "
    "KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 "
    "PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 SA:24 SC:31 SD:18 SE:24 SI:19 SK:24 SM:27 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 "
    "VA:22 VG:24 XK:20".split()
)  # fmt: skip

_PHONE_HINT = re.compile(r"[+(]{0,2}(?:[0-9][ .\-/()]{0,3}){7,}")
_PHONE_WORD = re.compile(
    r"(?:call|text|phone|tel|number|cell|mobile|whatsapp|ring|dial|电话|手机)[^0-9]{0,20}$", re.IGNORECASE
)
_WRITTEN_PHONE = re.compile(
    r"(?<![0-9])(?:\(?[0-9]{3}\)?[ .\-]{1,2}[0-9]{3}[ .\-][0-9]{4}"
    r"|0[0-9]{1,4}[ \-/]{1,2}[0-9][0-9 \-]{4,9}[0-9])(?![0-9])"
)
_SLICE = 200  # characters given to phonenumbers at a time: its work grows faster than its text


def found_by_digits(text: str, region: str | None) -> Iterator[Span]:
    """Everything private in *text* that digits give away; overlaps are left in, the surer first."""
    lower = text.lower()
    for kind, pattern, group, words in _PATTERNS:
        for match in pattern.finditer(text) if not words or holds(lower, words) else ():
            yield kind, *match.span(group)
    if _MANY.search(text):
        yield from _ibans(text)
        yield from _cards(text)
    yield from _codes(text)
    yield from _phones(text, region)
    yield from _long_numbers(text)


# kind, pattern, which group of it, and words without which it cannot match
_PATTERNS: tuple[tuple[str, re.Pattern[str], int, tuple[str, ...]], ...] = (
    ("coordinates", _COORDINATES, 0, (".", "°")),
    ("birth_date", _BORN, 1, ("born", "dob", "d.o.b", "birth", "bday", "生日", "出生")),
    ("id", _NAMED_ID, 1, ("passport", "licen", "insurance", "ni number", "护照", "身份证")),
    ("id", _ID, 0, ()),
    ("ssn", _SSN, 0, ("-", " ")),
    ("plate", _PLATE, 1, ("plate", "车牌")),
    ("plate", _CHINESE_PLATE, 0, tuple(_PROVINCES)),
    ("account", _ACCOUNT, 1, ("acc", "a/c", "routing", "sort", "konto", "iban", "member", "policy", "custom", "号")),
)


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length = int(_IBAN_LENGTHS.get(match[0][:2].upper(), 0))
        window = text[match.start() : match.start() + 2 * length]
        kept = ""
        for place, letter in enumerate(window):
            if letter.isascii() and letter.isalnum():
                kept += letter.upper()
            elif letter not in " -":
                break
            if len(kept) == length:
                following = text[match.start() + place + 1 : match.start() + place + 2]
                if _is_iban(kept) and not (following.isascii() and following.isalnum()):
                    yield "iban", match.start(), match.start() + place + 1
                break


def _is_iban(iban: str) -> bool:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


def _cards(text: str) -> Iterator[Span]:
    for cluster in _CLUSTER.finditer(text):
        if cluster.end() - cluster.start() < 13:
            continue
        groups = [match.span() for match in _GROUP.finditer(text, *cluster.span())]
        for number, (start, _) in enumerate(groups):
            for _, end in groups[number : number + 19]:
                digits = digits_of(text[start:end]) if end - start <= 40 else ""
                if len(digits) > 19 or not digits:
                    break
                is_apart = "_" not in (text[start - 1 : start], text[end : end + 1])
                if len(digits) >= 13 and digits[0] in "23456" and is_apart and _luhn(digits):
                    yield "card", start, end


def _luhn(digits: str) -> bool:
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return sum(map(int, digits[-1::-2])) % 10 == -sum(d - 9 * (d > 9) for d in doubled) % 10 and len(set(digits)) > 1


def _codes(text: str) -> Iterator[Span]:
    """Numbers of 4 to 8 digits within 40 characters after a word for a code, or else the last one before it."""
    for word in _CODE_WORD.finditer(text):
        near = list(_CODE.finditer(text, word.end(), word.end() + 48))
        for match in near or list(_CODE.finditer(text, max(0, word.start() - 48), word.start()))[-1:]:
            is_year = len(match[1]) == 4 and match[1][:2] in ("19", "20") and abs(match.start() - word.end()) > 6
            if not is_year and not _DATE.search(text, max(0, match.start() - 1), match.end() + 1):
                yield "code", *match.span(1)


def _phones(text: str, region: str | None) -> Iterator[Span]:
    for hint in _PHONE_HINT.finditer(text):
        for start in range(hint.start(), hint.end(), _SLICE):
            piece = text[start : min(start + _SLICE, hint.end())]
            for match in PhoneNumberMatcher(piece, region, leniency=Leniency.POSSIBLE):
                if _is_phone(text, start + match.start, start + match.end):
                    yield "phone", start + match.start, start + match.end
            for written in _WRITTEN_PHONE.finditer(piece):
                if _is_phone(text, start + written.start(), start + written.end()):
                    yield "phone", start + written.start(), start + written.end()


def _is_phone(text: str, start: int, end: int) -> bool:
    """Whether what could be a telephone number is no date, sum, score or list."""
    raw = text[start:end]
    digits = digits_of(raw)
    if not 7 <= len(digits) <= 15 or text[start - 1 : start] in tuple("0123456789$€£¥#"):
        return False
    if raw.startswith("+"):
        return True
    if text[end : end + 1] in (",", "_") and text[end + 1 : end + 2].isdigit():
        return False
    if VERSION.search(text[max(0, start - 10) : start]):
        return False
    if _DATE.search(text, max(0, start - 1), end + 1) or _YEARS.search(raw) or _THOUSANDS.fullmatch(raw):
        return False
    groups = [len(group) for group in _GROUP.findall(raw)]
    if len(groups) == 1 and len(digits) < 9:
        return bool(_PHONE_WORD.search(text[max(0, start - 30) : start]))
    if _AFTER_YEAR.fullmatch(raw):
        return False
    return max(groups) > 2 or raw.lstrip("(").startswith("0")


def _long_numbers(text: str) -> Iterator[Span]:
    for group in _GROUP.finditer(text):
        digits = group[0]
        if len(digits) >= 9 and len(set(digits)) > 1 and not digits.endswith("000000"):
            if (
                text[group.start() - 1 : group.start()] not in tuple(".,")
                or not text[group.start() - 2 : group.start() - 1].isdigit()
            ):
                yield "number", group.start(), group.end()
