"""What stands behind a header of a WhatsApp export: typed words, or something WhatsApp says in the phone's language.

Words of WhatsApp itself are known by three signs: nobody's name before them, the invisible mark U+200E, or being from
first to last a phrase that WhatsApp writes. Parts of a phrase never count: "I left my keys" is somebody's.
"""

import re
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from training.identifiers import visible
from training.records import Attachment, Kind
from training.sources.whatsapp_headers import CONTROLS
from training.sources.whatsapp_phrases import (
    ATTACHED,
    CALL,
    DELETED,
    DONE_BY_AUTHOR,
    EDITED,
    MISSING,
    NOTICE,
    OMITTED,
    PLACE,
    POLL,
)  # fmt: skip

MARK = "\u200e"
RECURS = 3  # so often in a file, and a phrase in no list is taken to be WhatsApp's
_MAX_PHRASES = 10_000  # that are counted in a file
_MIME = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp",
    "heic": "image/heic", "mp4": "video/mp4", "mov": "video/quicktime", "3gp": "video/3gpp", "avi": "video/x-msvideo",
    "mkv": "video/x-matroska", "opus": "audio/ogg", "ogg": "audio/ogg", "m4a": "audio/mp4", "mp3": "audio/mpeg",
    "aac": "audio/aac", "amr": "audio/amr", "wav": "audio/wav", "pdf": "application/pdf", "vcf": "text/vcard",
    "txt": "text/plain", "csv": "text/csv", "zip": "application/zip", "json": "application/json", "html": "text/html",
    **dict.fromkeys("doc docx xls xlsx ppt pptx pps odt ods rtf rar 7z apk xml pages numbers key ics epub was".split()),
}  # fmt: skip
_KIND_MIME = {"image": "image/*", "video": "video/*", "audio": "audio/*", "sticker": "image/webp", "gif": "image/gif",
              "contact": "text/vcard"}  # fmt: skip
_C = f"[{CONTROLS}]*"
_EXTENSION = "|".join(_MIME)
_NAME = rf"(?P<name>[^\n<>]*\.(?:{_EXTENSION}))"
_BEFORE_PHRASE = re.compile(rf"{_NAME} {_C}[(<]{_C}(?P<phrase>[^()<>\n]{{2,40}}){_C}[)>]", re.IGNORECASE)
_ANY_FILE = re.compile(rf"(?P<name>[^\n<>]+) {_C}[(<]{_C}(?P<phrase>[^()<>\n]{{2,40}}){_C}[)>]")
_INSIDE = re.compile(rf"<\s?[^<>:\n]{{2,40}}: {_NAME}\s?>", re.IGNORECASE)
_ANY_INSIDE = re.compile(r"<\s?(?P<phrase>[^<>:\n]{2,40}): (?P<name>[^<>\n]+?)\s?>")
_OWN_NAME = re.compile(r"(?:[A-Z]{3}-\d{8}-WA\d+|\d{8}-[A-Z]+-|\d{4}-\d\d-\d\d-[A-Z]+-|\.\w+$)")
_FILE = re.compile(rf"[^\n<>/]+\.(?:{_EXTENSION})", re.IGNORECASE)
_DOCUMENT = re.compile(r"(?P<name>[^\n]+\.\w{2,5})(?: • [^\n]*)?")
_EDITED = re.compile(rf"\s*(?P<mark>{MARK}?)<{_C}(?P<phrase>[^<>\n]{{4,60}})>{_C}\s*\Z")
_BRACKETED = re.compile(r"<[^<>\n]{2,60}>")
_CONTACT = re.compile(r"[^\W\d]{4,12}\s?: [^\n/]+\.vcf")


class Body(NamedTuple):
    """A body understood: the fields of its record."""

    kind: Kind
    text: str = ""
    flags: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()


_MISSING = Body("media", flags=("missing",))


@dataclass
class Phrases:
    """How often what may be WhatsApp's own phrase occurs in a file: languages that are in no list repeat theirs."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, line: str) -> None:
        """Take note of the first line of a body."""
        phrase = _possible_phrase(line)
        if phrase and (phrase in self.counts or len(self.counts) < _MAX_PHRASES):
            self.counts[phrase] += 1

    def recurs(self, line: str) -> bool:
        """Whether the phrase of *line* occurs often."""
        phrase = _possible_phrase(line)
        return phrase is not None and self.counts[phrase] >= RECURS


def _possible_phrase(line: str) -> str | None:
    text = line.strip(CONTROLS)
    if text.endswith((")", ">")):
        if _BRACKETED.fullmatch(text):
            return text
        match = _BEFORE_PHRASE.fullmatch(text)
        return f"({match['phrase']})" if match else None
    return text if is_marked(line) and len(text) <= 40 and text.count(" ") <= 3 else None


def is_marked(body: str) -> bool:
    """Whether WhatsApp's mark stands before the first letter."""
    return not body[:1].isalnum() and MARK in body[: len(body) - len(body.lstrip(CONTROLS))]


def is_notice(line: str, author: str) -> bool:
    """Whether *line* is what WhatsApp says by itself, though *author* stands before it."""
    text = line.strip(CONTROLS)
    key = _key(text[:300])
    if NOTICE.match(key):
        return True
    name = _key(author)
    return key.startswith(name) and key in {phrase.format(name) for phrase in DONE_BY_AUTHOR}


def understand(body: str, author: str | None, phrases: Phrases, nobodies: Set[str] = frozenset()) -> Body:
    """What *body* is.

    Args:
        author: The name before it; None where there is none.
        phrases: Those of the file.
        nobodies: Authors that are no persons, such as the group's name.
    """
    text = body.lstrip(CONTROLS)
    flags: tuple[str, ...] = ()
    edited = _EDITED.search(text) if text.endswith(">") or text[-1:] in CONTROLS else None
    if edited and edited.start() > 0 and _is_edited(edited):
        text, flags = text[: edited.start()], ("edited",)
    found = _not_text(text, phrases) or _with_caption(text, phrases)
    if found is None:
        if author is None or author in nobodies or is_notice(text.partition("\n")[0], author):
            return Body("system")
        if is_marked(body) and "\n" not in text:
            return Body("media") if phrases.recurs(MARK + text) else Body("system")
        found = Body("text", text)
    return found._replace(flags=(*found.flags, *flags))


def _is_edited(match: re.Match[str]) -> bool:
    return _key(match["phrase"]) in EDITED or (
        bool(match["mark"]) and not _INSIDE.fullmatch(match[0].strip(" " + MARK))
    )


@lru_cache(maxsize=4096)  # the same line is looked at from several sides
def _key(text: str) -> str:
    # Most lines are plain, and taking them letter by letter is slow.
    shown = " ".join(text.split()) if text.isascii() and text.isprintable() else visible(text)
    return shown.casefold().rstrip(".")


def _not_text(text: str, phrases: Phrases) -> Body | None:
    """*text* where all of it is WhatsApp's and stands for something else."""
    if not text.strip() or text == "null":
        return _MISSING
    first = text.partition("\n")[0]
    if len(first) > 300:
        return None
    key = _key(first)
    if key.rstrip(" :") in POLL and first.rstrip().endswith((":", "：")):
        return Body("media", flags=("poll",))
    return _of_one_line(key) if "\n" not in text else None


def _of_one_line(key: str) -> Body | None:
    if key in DELETED:
        return Body("deleted")
    if CALL.fullmatch(key):
        return Body("call")
    if MISSING.fullmatch(key):
        return _MISSING
    if PLACE.fullmatch(key):
        return Body("media", flags=("location",))
    return Body("media", attachments=(Attachment("text/vcard"),)) if _CONTACT.fullmatch(key) else None


def _with_caption(text: str, phrases: Phrases) -> Body | None:
    """*text* where a medium stands for itself, before a caption or (after the mark) behind one."""
    first, _, caption = text.partition("\n")
    if media := _medium(first, phrases):
        if caption and _FILE.fullmatch(caption.strip()):
            return media._replace(attachments=(_named(caption.strip()),))
        return media._replace(kind="text", text=caption) if caption.strip() else media
    before, mark, last = text.rpartition(MARK)
    media = _medium(last, phrases) if mark and "\n" not in last else None
    if media is None:
        return None
    before = before.rstrip().rstrip(CONTROLS).rstrip()
    if _is_document(media) and (match := _DOCUMENT.fullmatch(before.replace(MARK, ""))):
        return media._replace(attachments=media.attachments or (_named(match["name"]),))
    return media._replace(kind="text", text=before) if before else media


def _is_document(media: Body) -> bool:
    return all(
        (attached.mime or "application/").startswith(("application/", "text/")) for attached in media.attachments
    )


def _medium(line: str, phrases: Phrases) -> Body | None:
    """The medium that *line* as a whole names."""
    line = line.strip().strip(CONTROLS)
    if not line or len(line) > 300:
        return None
    key = _key(line)
    bare = key[1:-1].strip() if key.startswith("<") and key.endswith(">") else key
    for kind, known in OMITTED.items():
        if bare in known and (kind or bare != key):
            mime = _KIND_MIME.get(kind)
            return Body(
                "media",
                flags=("sticker",) if kind == "sticker" else (),
                attachments=(Attachment(mime),) if mime else (),
            )
    if not line.endswith((")", ">")):
        return None
    if match := _attached(line, phrases):
        return Body("media", flags=_flags_of(match["name"]), attachments=(_named(match["name"]),))
    return Body("media") if _BRACKETED.fullmatch(line) and phrases.recurs(line) else None


def _attached(line: str, phrases: Phrases) -> re.Match[str] | None:
    if match := _INSIDE.fullmatch(line):
        return match
    if (match := _ANY_INSIDE.fullmatch(line)) and _key(match["phrase"]) in ATTACHED:
        return match
    if match := _BEFORE_PHRASE.fullmatch(line):
        is_known = _key(match["phrase"]) in ATTACHED or _OWN_NAME.match(match["name"])
        return match if is_known or phrases.recurs(line) else None
    match = _ANY_FILE.fullmatch(line)
    # Of one word, as in "the plan (attached)", it is anybody's phrase.
    return match if match and " " in match["phrase"].strip() and _key(match["phrase"]) in ATTACHED else None


def _flags_of(name: str) -> tuple[str, ...]:
    return ("sticker",) if name.upper().startswith("STK-") or "-STICKER-" in name.upper() else ()


def _named(name: str) -> Attachment:
    shown = visible(name)
    return Attachment(_MIME.get(shown.rpartition(".")[2].casefold()), shown)
