r"""One turn as one line of text, and back.

A turn is a line: ``home in 10 / want anything``. Its bubbles stand between `` / `` (how verse is quoted in running
text, so models know it as a line break). Since a turn never holds a raw line break, nothing typed into a message can
look like another turn, a speaker label or the next section of a plain-text chat template. Where turns of one side
have to share a line they stand between `` // ``.

Four escapes make it reversible. All begin with a backslash, and a typed backslash is doubled, so none can be typed:

    \\   a backslash
    \n   a line break inside a bubble
    \/   the first of some slashes that stand alone, and would look like a separator
    \.   nothing: it breaks up a protected string, such as a control token, so that it stays text
"""

import re
import unicodedata
from collections.abc import Sequence

SEPARATOR = " / "
TURN_SEPARATOR = " // "
_LONE_SLASHES = re.compile(r"(?<!\S)/(?=/*(?!\S))")
_ANY_SEPARATOR = re.compile(r"(?<!\S)/+(?!\S)")
_ESCAPE = re.compile(r"\\([\\n/.])")
_MEANING = {"\\": "\\", "n": "\n", "/": "/", ".": ""}


def join_bubbles(bubbles: Sequence[str], protected: Sequence[str] = ()) -> str:
    """The line for *bubbles*, none of which may be empty; no string of *protected* occurs in it."""
    return protect(SEPARATOR.join(_escape(bubble) for bubble in bubbles), protected)


def split_bubbles(line: str) -> list[str]:
    """The bubbles of *line*: the inverse of ``join_bubbles``. Unknown escapes stay as they are, empty bubbles go."""
    bubbles = (unescape(part.strip()).strip() for part in _ANY_SEPARATOR.split(line))
    return [bubble for bubble in bubbles if bubble]


def unescape(text: str) -> str:
    """The text that *text* stands for."""
    return _ESCAPE.sub(lambda match: _MEANING[match.group(1)], text)


def protect(text: str, protected: Sequence[str]) -> str:
    r"""*text* with ``\.`` after the first character of each *protected* string in it."""
    for string in protected:
        if string in text:  # looking ahead finds those that overlap, too: |||x|||x|||
            text = re.sub(f"{re.escape(string[0])}(?={re.escape(string[1:])})", lambda match: match[0] + r"\.", text)
    return text


def _escape(bubble: str) -> str:
    first, *rest = bubble.replace("\\", "\\\\").split("\n")
    return _LONE_SLASHES.sub(r"\\/", first + "".join(_line_break(line) + line for line in rest))


def _line_break(line: str) -> str:
    # Before an accent the escape must not end in a letter: tokenizers that apply NFC would make one character of them.
    return r"\n\." if line and unicodedata.combining(line[0]) else r"\n"
