"""Private data that is recognised by its letters: addresses of all kinds, keys, passwords. Every pattern is linear."""

import ipaddress
import re
from collections.abc import Iterator

# kind, start, end
Span = tuple[str, int, int]

_BEFORE = r"(?<![A-Za-z0-9])"
_AFTER = r"(?![A-Za-z0-9])"
_CJK = "\u3000-\u9fff\uac00-\ud7af\uff00-\uffef"
_URL_END = rf"\s<>\"'`“”‘’«»{_CJK}"

_URL = re.compile(
    rf"(?:(?<![A-Za-z])[A-Za-z][A-Za-z0-9+.\-]{{1,15}}://|(?<![A-Za-z0-9])www\.)[^{_URL_END}]+", re.IGNORECASE
)
_DOMAIN = re.compile(
    rf"(?<![A-Za-z0-9@.\-])(?:[A-Za-z0-9][A-Za-z0-9\-]{{0,62}}\.){{1,5}}"
    rf"(?:(?:com|org|net|edu|gov|info|io|app|dev|xyz|co\.uk|com\.au|co\.jp|com\.cn)(?![A-Za-z0-9\-]|\.[A-Za-z])"
    rf"(?:[/?#:][^{_URL_END}]*)?|[a-z]{{2,10}}/[^{_URL_END}]{{3,}})",
    re.IGNORECASE,
)
_TRAILING = ".,;:!?)]}…*_~|"
_FILE = re.compile(r"\.(?:jpe?g|png|gif|heic|pdf|docx?|xlsx?|txt|mp[34]|mov|py|js|md|zip)/", re.IGNORECASE)

_AT = re.compile("@")
_LOCAL = re.compile(r"[A-Za-z0-9._%+\-À-ɏ]{1,64}")  # read backwards
_HOST = re.compile(r"(?:[A-Za-z0-9À-ɏ][A-Za-z0-9À-ɏ\-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z])")

_IPV4 = re.compile(r"(?<![A-Za-z0-9.|])(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})(?![0-9+])(?!\.[0-9])")
VERSION = re.compile(r"(?:\bv|version|ver\.?|build|update|release|firmware|ios|android)\s?$", re.IGNORECASE)
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")
_MAC = re.compile(rf"{_BEFORE}(?:[0-9A-Fa-f]{{2}}([:\-]))(?:[0-9A-Fa-f]{{2}}\1){{4}}[0-9A-Fa-f]{{2}}{_AFTER}")

_PREFIXED_KEY = re.compile(
    rf"{_BEFORE}(?:(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_\-]{{16,200}}|gh[opusr]_[A-Za-z0-9]{{20,255}}"
    r"|github_pat_[A-Za-z0-9_]{20,255}|glpat-[A-Za-z0-9_\-]{16,64}|xox[abprse]-[A-Za-z0-9\-]{10,255}"
    r"|A(?:KIA|SIA)[0-9A-Z]{16}|AIza[0-9A-Za-z_\-]{30,40}|ya29\.[0-9A-Za-z_\-]{20,255}|hf_[A-Za-z0-9]{20,64}"
    r"|npm_[A-Za-z0-9]{30,64}|SG\.[A-Za-z0-9_\-]{16,64}\.[A-Za-z0-9_\-]{16,64}"
    rf"|eyJ[A-Za-z0-9_\-]{{8,2000}}\.[A-Za-z0-9_\-]{{8,4000}}(?:\.[A-Za-z0-9_\-]{{8,1000}})?){_AFTER}"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s]{0,10000}(?:-----END [A-Z ]{0,30}-----)?"
)
_HEX = re.compile(
    rf"{_BEFORE}(?:0x)?(?:[0-9a-fA-F]{{32,}}|[0-9a-fA-F]{{8}}(?:-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}){_AFTER}"
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{24,}(?![A-Za-z0-9+/])={0,2}")
_CRYPTO = re.compile(
    rf"{_BEFORE}(?:[13][a-km-zA-HJ-NP-Z1-9]{{25,34}}|(?:bc|tb|ltc)1[a-z0-9]{{25,62}}|BC1[A-Z0-9]{{25,62}}"
    rf"|0[xX][0-9a-fA-F]{{40}}|[LMDT][a-km-zA-HJ-NP-Z1-9]{{33}}){_AFTER}"
)

_PASSWORD = re.compile(
    r"(?<![A-Za-z])(?:password|passwort|passcode|passphrase|passwd|pwd|pw|contraseña|mot de passe|密码)"
    r"(?:[ \t](?:for|to|of|on)(?:[ \t][\w\-']{1,20}){1,3})?"
    r"(?:[ \t]+(?:is:?|was|ist|es|est)(?=\s)|[ \t]*[:=：是为])[\s\"'“”‘’`]{0,3}([^\s\"“”‘’`，。]{3,64})",
    re.IGNORECASE,
)
_NO_PASSWORD = frozenset(
    "wrong right correct incorrect expired required the not a an my your our his her their its same still on in too "
    "really so changed reset weak strong what that this written saved good bad gone here there safe secure invalid "
    "important needed always never just actually now being it case all also for old new long short different "
    "protected like with only where which why when how and but or already probably maybe stored set sent easy hard "
    "simple fine working broken lost missing annoying very super almost".split()
)


_LONG = re.compile(r"[A-Za-z0-9_\-+/.]{16}")
WORDS = ("pass", "pwd", "pw", "密码", "contrase")


def holds(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of *words* stands in *text*; several times as fast as a pattern of them."""
    for word in words:
        if word in text:
            return True
    return False


def found_by_letters(text: str) -> Iterator[Span]:
    """Everything private in *text* that letters give away; overlaps are left in, the surer first."""
    if "." in text or "://" in text:
        yield from _urls(text)
    if "@" in text:
        yield from _emails(text)
    if holds(text.lower(), WORDS):
        yield from _passwords(text)
    if _LONG.search(text):
        yield from _keys(text)
    if text.count(".") > 2 or text.count(":") > 1 or text.count("-") > 4:
        yield from _hosts(text)


def _urls(text: str) -> Iterator[Span]:
    for match in _URL.finditer(text) if "://" in text or "www." in text.lower() else ():
        end = _trimmed(text, match.start(), match.end())
        if any(letter.isalnum() for letter in text[text.find(":", match.start(), end) + 1 : end]):
            yield "url", match.start(), end
    for match in _DOMAIN.finditer(text) if "." in text else ():
        if not _FILE.search(match[0]):
            yield "url", match.start(), _trimmed(text, match.start(), match.end())


def _trimmed(text: str, start: int, end: int) -> int:
    """Where an address ends that runs to *end*: punctuation of the sentence is not part of it."""
    while end > start and text[end - 1] in _TRAILING:
        end -= 1
    return end


def _emails(text: str) -> Iterator[Span]:
    for at in _AT.finditer(text):
        host = _HOST.match(text, at.end())
        local = _LOCAL.match(text[max(0, at.start() - 64) : at.start()][::-1])
        if host and local:
            yield "email", at.start() - local.end(), host.end()


def _passwords(text: str) -> Iterator[Span]:
    for match in _PASSWORD.finditer(text):
        end = _trimmed(text, match.start(1), match.end(1))
        word = text[match.start(1) : end]
        is_plain = word.split("'")[0].lower() in _NO_PASSWORD or (word.isalpha() and word.endswith("ed"))
        if len(word) >= 3 and not is_plain and not word.lower().startswith(("http:", "https:")):
            yield "password", match.start(), end


def _keys(text: str) -> Iterator[Span]:
    for kind, pattern in (("key", _PRIVATE_KEY), ("key", _PREFIXED_KEY), ("crypto", _CRYPTO), ("key", _HEX)):
        for match in pattern.finditer(text):
            if kind == "key" or _is_mixed(match[0], 0):
                yield kind, match.start(), match.end()
    for match in _TOKEN.finditer(text):
        if _is_mixed(match[0], 6):
            yield "key", match.start(), match.end()


def _is_mixed(token: str, changes: int) -> bool:
    """Whether *token* is made of letters and digits as chance would: enough of each, often changing."""
    classes = ["0" if c.isdigit() else "a" if c.islower() else "A" for c in token[:200] if c.isalnum()]
    if changes == 0:
        return "0" in classes and len(set(classes)) > 1
    changed = sum(one != other for one, other in zip(classes, classes[1:], strict=False))
    return min(classes.count(kind) for kind in "0aA") >= 2 and changed >= changes


def _hosts(text: str) -> Iterator[Span]:
    for match in _MAC.finditer(text):
        yield "mac", match.start(), match.end()
    for match in _IPV4.finditer(text):
        is_version = VERSION.search(text[max(0, match.start() - 10) : match.start()])
        if not is_version and all(int(part) < 256 for part in match[0].split(".")):
            yield "ip", match.start(), match.end()
    for match in _IPV6.finditer(text):
        if sum(c.isalnum() for c in match[0]) >= 3 and any(c.isdigit() for c in match[0]) and _is_ipv6(match[0]):
            yield "ip", match.start(), match.end()


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
