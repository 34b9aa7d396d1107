"""Whose voice it is: a name, and a style measured on that person's own replies."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

OTHER_SIDE = "Them"
_NAME = re.compile(r"[^\W_]+(?:[ '’-][^\W_]+)*")
_CATEGORY = re.compile(r"[a-z]+(?:[ -][a-z]+)*")
_PICTURE = "[\U0001f000-\U0001faff\u2600-\u27bf\u2b50][\ufe0f\U0001f3fb-\U0001f3ff]?"
_EMOJI = re.compile(f"[\U0001f1e6-\U0001f1ff]{{2}}|{_PICTURE}(?:\u200d{_PICTURE})*")  # a flag is two letters


def check_name(name: str) -> str:
    """*name*, if it can be a speaker label.

    Raises:
        ValueError: If it is not plain words of at most 32 characters, or is the label of the other side.
    """
    if len(name) > 32 or not _NAME.fullmatch(name):
        raise ValueError("a persona's name is one or more words of letters and digits, at most 32 characters")
    if re.fullmatch(rf"{OTHER_SIDE}( \d+)?", name, re.IGNORECASE):
        raise ValueError(f"'{name}' is what prompts call the other side: choose another name")
    return name


def check_category(category: str) -> str:
    """*category*, if it can stand in a prompt.

    Raises:
        ValueError: If it is not lower-case words (``family``, ``close friend``) of at most 32 characters.
    """
    if len(category) > 32 or not _CATEGORY.fullmatch(category):
        raise ValueError("a category is lower-case words like family, friend or work, at most 32 characters")
    return category


def check_emoji(text: str) -> str:
    """*text*, if it is one emoji: it stands in the system prompt, where no other text may.

    Raises:
        ValueError: If it is not.
    """
    if not _EMOJI.fullmatch(text):
        raise ValueError("a favourite emoji is one emoji")
    return text


class Style(BaseModel):
    """How someone texts, in whole numbers, so that it is the same on every machine. Shares are per cent of replies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lower_case: int = Field(ge=0, le=100, description="replies without a capital letter")
    full_stop: int = Field(ge=0, le=100, description="replies whose last bubble ends with a full stop")
    emoji: int = Field(ge=0, le=100, description="replies with an emoji")
    favourite_emoji: list[Annotated[str, AfterValidator(check_emoji)]] = Field(default=[], max_length=3)
    words: int = Field(ge=0, description="median words in a reply")
    bubbles: int = Field(ge=10, description="ten times the mean number of bubbles in a reply")


class Persona(BaseModel):
    """The name that labels the persona's turns, and the measured style (None: not measured)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(check_name)] = "Me"
    style: Style | None = None


class Observed(NamedTuple):
    """What one reply says of a style: small, where the reply itself would be large."""

    lower_case: bool
    full_stop: bool
    emoji: tuple[str, ...]
    words: int
    bubbles: int


def observe(bubbles: Sequence[str]) -> Observed:
    """One reply, measured."""
    text = "\n".join(bubbles)
    emoji = tuple(sorted(set(_EMOJI.findall(text)))) if not text.isascii() else ()
    return Observed(text == text.lower(), text.endswith("."), emoji, len(text.split()), len(bubbles))


def measure(replies: Iterable[Sequence[str]]) -> Style:
    """The style of *replies*, each a list of bubbles. Short replies count like any other: they are the voice.

    Raises:
        ValueError: If there are no replies.
    """
    return style_of([observe(bubbles) for bubbles in replies])


def style_of(replies: Sequence[Observed]) -> Style:
    """The style of replies that have been observed. Raises as ``measure`` does."""
    if not replies:
        raise ValueError("no replies to measure a style on")
    favourites = Counter(emoji for reply in replies for emoji in reply.emoji)
    ranked = sorted(favourites.items(), key=lambda item: (-item[1], item[0]))

    def share(flags: Iterable[bool]) -> int:
        return round(100 * sum(flags) / len(replies))

    return Style(
        lower_case=share(reply.lower_case for reply in replies),
        full_stop=share(reply.full_stop for reply in replies),
        emoji=share(bool(reply.emoji) for reply in replies),
        favourite_emoji=[emoji for emoji, _ in ranked[:3]],
        words=round(statistics.median(reply.words for reply in replies)),
        bubbles=round(10 * statistics.mean(reply.bubbles for reply in replies)),
    )


def style_rules(style: Style) -> str:
    """*style* in words for a system prompt: ``all lower case, no full stop at the end, about 4 words``."""
    rules = [_case(style.lower_case), _full_stop(style.full_stop), f"about {max(style.words, 1)} words"]
    if style.bubbles >= 13:
        rules.append("often several bubbles" if style.bubbles < 18 else "mostly several bubbles")
    if style.emoji >= 3:
        often = "often" if style.emoji >= 30 else "now and then"
        rules.append(f"{often} {' '.join(style.favourite_emoji)}")
    return ", ".join(rules)


def _case(lower_case: int) -> str:
    if lower_case >= 90:
        return "all lower case"
    return "mostly lower case" if lower_case >= 50 else "normal capitals"


def _full_stop(full_stop: int) -> str:
    if full_stop <= 10:
        return "no full stop at the end"
    return "full stop at the end" if full_stop >= 60 else "sometimes a full stop"
