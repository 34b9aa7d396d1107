"""The four prompt variants, each a pure function (persona, turns, thread's kind and category) -> chat messages.

    raw_style           a short fixed window, written as a transcript with speaker labels
    raw_style_variable  a longer window, and the persona's measured style in the system prompt
    category_aware      that, plus the relation with this contact
    turns               every turn in a chat message of its own, mine as assistant: a longer thread extends the prompt

A transcript is one line a turn: ``Them: home yet?``, then ``Jo: ya / just now``. In ``turns`` the turns of one side
that follow each other share a chat message and its one line, so that roles alternate, as many templates demand.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TypedDict

from prompt_format.bubbles import TURN_SEPARATOR, join_bubbles
from prompt_format.persona import OTHER_SIDE, Persona, style_rules
from prompt_format.turns import Turn
from prompt_format.window import Window


class ChatMessage(TypedDict):
    """One message as chat templates take it; ``role`` is system, user or assistant."""

    role: str
    content: str


# What stands for the other side when I spoke first: templates want a user first. A typed backslash is doubled, so
# nobody can type this.
OPENING = r"\start"

Variant = Callable[[Persona, Sequence[Turn], bool, str | None, Sequence[str]], list[ChatMessage]]


def raw_style(
    persona: Persona, turns: Sequence[Turn], is_group: bool, category: str | None, protected: Sequence[str]
) -> list[ChatMessage]:
    """A transcript under one short sentence."""
    return _transcript(_who(persona, is_group, None), persona, turns, is_group, protected)


def raw_style_variable(
    persona: Persona, turns: Sequence[Turn], is_group: bool, category: str | None, protected: Sequence[str]
) -> list[ChatMessage]:
    """A transcript under the persona's measured style."""
    system = _who(persona, is_group, None) + _style(persona)
    return _transcript(system, persona, turns, is_group, protected)


def category_aware(
    persona: Persona, turns: Sequence[Turn], is_group: bool, category: str | None, protected: Sequence[str]
) -> list[ChatMessage]:
    """A transcript under the measured style and the relation with this contact."""
    system = _who(persona, is_group, category) + _style(persona)
    return _transcript(system, persona, turns, is_group, protected)


def turns(
    persona: Persona, turns: Sequence[Turn], is_group: bool, category: str | None, protected: Sequence[str]
) -> list[ChatMessage]:
    """A chat: the persona is the assistant. In a group each turn of the others begins with its label."""
    lines = _lines(persona, turns, is_group, protected)
    labelled = [
        (turn.from_me, line if turn.from_me or not is_group else f"{label}: {line}")
        for turn, (label, line) in zip(turns, lines, strict=True)
    ]
    chat: list[ChatMessage] = [{"role": "system", "content": _who(persona, is_group, None) + _style(persona)}]
    if turns[0].from_me:
        chat.append({"role": "user", "content": OPENING})
    for from_me, side in groupby(labelled, key=lambda item: item[0]):
        content = TURN_SEPARATOR.join(line for _, line in side)
        chat.append({"role": "assistant" if from_me else "user", "content": content})
    return chat


def one_line(persona: Persona, bubbles: Sequence[str], protected: Sequence[str]) -> str:
    """The line of one turn or reply. A speaker label typed at its start is broken up, so that it stays text."""
    return _one_line(persona.name, tuple(bubbles), tuple(protected))


@lru_cache(maxsize=1024)  # while a conversation is read, each turn stands in many windows
def _one_line(name: str, bubbles: tuple[str, ...], protected: tuple[str, ...]) -> str:
    line = join_bubbles(bubbles, protected)
    return line[0] + r"\." + line[1:] if _label(name).match(line) else line


def speaker_label(persona: Persona) -> re.Pattern[str]:
    """A label as transcripts write it: the persona's, or one of the other side's."""
    return _label(persona.name)


@lru_cache(maxsize=16)
def _label(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{re.escape(name)}|{OTHER_SIDE}(?: \d+)?|Me):")


VARIANTS: dict[str, Variant] = {
    "raw_style": raw_style,
    "raw_style_variable": raw_style_variable,
    "category_aware": category_aware,
    "turns": turns,
}

DEFAULT_WINDOWS = {
    "raw_style": Window(turns=4, characters=600),
    "raw_style_variable": Window(),
    "category_aware": Window(),
    "turns": Window(turns=24, step=8, characters=3000),
}


def _who(persona: Persona, is_group: bool, category: str | None) -> str:
    where = " in a group" if is_group else ""
    whom = f" with {category}" if category else ""
    return f"You are {persona.name}, texting{where}{whom}."


def _style(persona: Persona) -> str:
    return f" Style: {style_rules(persona.style)}." if persona.style else ""


def _transcript(
    system: str, persona: Persona, turns: Sequence[Turn], is_group: bool, protected: Sequence[str]
) -> list[ChatMessage]:
    lines = _lines(persona, turns, is_group, protected)
    content = "\n".join(f"{label}: {line}" for label, line in lines)
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def _lines(persona: Persona, turns: Sequence[Turn], is_group: bool, protected: Sequence[str]) -> list[tuple[str, str]]:
    """(label, text) of each turn. The others are numbered in order of appearance in this window."""
    numbers: dict[str | None, int] = {}
    lines = []
    for turn in turns:
        if turn.from_me:
            label = persona.name
        else:
            number = numbers.setdefault(turn.speaker, len(numbers) + 1)
            label = OTHER_SIDE if number == 1 else f"{OTHER_SIDE} {number}"
        lines.append((label, one_line(persona, turn.bubbles, protected)))
    return lines
