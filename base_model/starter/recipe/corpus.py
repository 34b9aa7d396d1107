"""Public dialogue sets -> chat rows in the project's own prompt format.

Reads the sets named in ``MIX`` (one gzipped file of JSON lines each; see the model card for their origin and
licences), filters them, makes about half of the speakers text informally by rules, and renders each dialogue with
``prompt_format``, so that the base model meets the delimiters that adapters and the service use. Whole dialogues are
held out by a hash of their id.
"""

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_format.messages import canonical
from prompt_format.persona import Persona, measure
from prompt_format.turns import Turn
from prompt_format.variants import VARIANTS, ChatMessage

# How often a row is seen in one pass.
MIX = {
    "synthetic_persona_chat": 0.6,
    "self_dialogue": 0.6,
    "personachat_partial": 2.0,
    "ubuntu_irc": 0.4,
    "star": 0.2,
    "casino": 1.0,
    "persuasion_for_good": 0.5,
    "ms_personality_chat": 0.05,
}
HELD_OUT = 64  # one dialogue in so many
NAMES = """
Ada Alex Amir Ana Ben Bo Cleo Dani Dee Eli Ella Emre Finn Gia Hal Ida Ines Iris Jan Jo Joss Kai Kim Lea Leo
Lin Lou Mae Max Mia Mika Milo Mo Nadia Nell Nico Nora Omar Pia Quinn Rae Remy Rio Rosa Ruth Sam Sana Sol Tess
Theo Tom Uma Val Vera Wes Yara Yuki Zoe
""".split()
_PLACE_HOLDER = re.compile(r"\[[^\]]{1,40}\]|\b[Uu]ser ?[12]\b|<url>|<email>|@S\d")
# Answers of the personality sets that speak as a program, or give a telephone number for a crisis.
_NOT_A_PERSON = re.compile(
    r"\bbots?\b|\bhumans?\b|suicid|\bcode\b|\bdigital\b|computer program|formulas|hardware|corporeal|purely virtual|"
    r"omnipresence|biological concept|(?:made|created|built|imagined|name) me\b|wouldn't be here without it|"
    r"apply to me|age-free|no body|don't (?:even |really )?have an? (?:body|name|age|family|boss|face|gender)|"
    r"don't have (?:family|romantic)|have one$|actually have a gender|need to eat|don't eat|Eating would|"
    r"We generally work independently|We're all|answer(?:s|ing|er)?\b.*question|one answer|asking them|"
    r"way to know how you look|can't see you|because I don't",
    re.IGNORECASE,
)
_SHORT = {
    "you": "u", "your": "ur", "are": "r", "because": "bc", "tomorrow": "tmrw", "right now": "rn", "with": "w/",
    "going to": "gonna", "want to": "wanna", "i don't know": "idk", "on my way": "omw", "probably": "prob",
    "definitely": "def", "okay": "ok", "yes": "ya", "no": "nah", "really": "rly", "please": "pls", "thanks": "thx",
    "favorite": "fav", "about": "abt", "people": "ppl", "though": "tho", "though,": "tho", "very": "v",
    "something": "smth", "never mind": "nvm", "what are you": "wyd", "see you": "cu", "best friend": "bff",
}  # fmt: skip
_EMOJI = "😂 😊 🙂 😅 👍 ❤️ 😭 🙏 🎉 😎 🔥 🤔 🥲 😴 🙃 ✨ 🐶 🐱 🍕 🎸 🚲 ☕".split()


@dataclass(frozen=True)
class Texting:
    """How one speaker types: each a chance from 0 to 1, drawn once per speaker."""

    lower: bool
    full_stops: bool
    apostrophes: bool
    shorten: float
    split: float
    emoji: float
    favourites: tuple[str, ...]


def dialogues(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The usable dialogues of one set."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            turns = row["turns"][:6] if name == "persuasion_for_good" else row["turns"]
            text = "\n".join(turn["text"] for turn in turns)
            if len({turn["speaker"] for turn in turns}) != 2 or _PLACE_HOLDER.search(text):
                continue
            if name == "ms_personality_chat" and _NOT_A_PERSON.search(turns[-1]["text"]):
                continue
            yield {"id": row["id"], "turns": turns, "source": name}


def is_held_out(identifier: str) -> bool:
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:4], "big") % HELD_OUT == 0


def rows(folder: Path, seed: int, held_out: bool) -> Iterator[list[ChatMessage]]:
    """One pass over the mix, set by set: each dialogue as one chat, seen from a speaker drawn at random.

    A held-out pass takes every held-out dialogue once, whatever its weight.
    """
    draw = random.Random(seed)
    for name in MIX:
        yield from set_rows(folder, name, draw, held_out)


def set_rows(folder: Path, name: str, draw: random.Random, held_out: bool) -> Iterator[list[ChatMessage]]:
    """The rows of one set."""
    weight = MIX[name]
    for dialogue in dialogues(folder, name):
        if is_held_out(dialogue["id"]) == held_out:
            times = 1 if held_out else int(weight) + (draw.random() < weight % 1)
            for _ in range(times):
                yield from chats(dialogue["turns"], draw)


def chats(raw: list[dict[str, Any]], draw: random.Random) -> Iterator[list[ChatMessage]]:
    """*raw* turns as chats: long ones in pieces, half of them as `turns`, half as a transcript with one reply."""
    me = draw.choice(sorted({turn["speaker"] for turn in raw}))
    habits = {speaker: _texting(draw) for speaker in sorted({turn["speaker"] for turn in raw})}
    turns: list[Turn] = []
    for turn in raw:
        bubbles = _type(turn["text"], habits[turn["speaker"]], draw)
        from_me = turn["speaker"] == me
        if bubbles and turns and turns[-1].from_me == from_me:
            turns[-1] = Turn(from_me, None, turns[-1].bubbles + bubbles)
        elif bubbles:
            turns.append(Turn(from_me, None, bubbles))
    mine = [turn.bubbles for turn in turns if turn.from_me]
    if not mine or len(turns) < 2:
        return
    persona = Persona(name=draw.choice(NAMES), style=measure(mine))
    begin = 0
    while begin < len(turns) - 1:
        chunk = turns[begin : begin + draw.choice((3, 5, 7, 9, 11))]
        begin += len(chunk)
        while len(chunk) > 1 and not chunk[-1].from_me:
            chunk.pop()
        if len(chunk) > 1 and chunk[-1].from_me:
            yield _chat(persona, chunk, draw)


def _chat(persona: Persona, chunk: list[Turn], draw: random.Random) -> list[ChatMessage]:
    variant = draw.choice(("turns", "turns", "raw_style", "raw_style_variable", "raw_style_variable"))
    chat = VARIANTS[variant](persona, chunk[:-1], False, None, ())
    reply = VARIANTS["turns"](persona, chunk[-1:], False, None, ())[-1]
    if variant == "turns" and chat[-1]["role"] == "assistant":
        chat.pop()
    return [*chat, reply]


def _texting(draw: random.Random) -> Texting:
    informal = draw.random() < 0.6
    return Texting(
        lower=informal and draw.random() < 0.8,
        full_stops=not informal or draw.random() < 0.15,
        apostrophes=not informal or draw.random() < 0.4,
        shorten=draw.choice((0.0, 0.5, 0.9)) if informal else 0.0,
        split=draw.choice((0.0, 0.3, 0.8)) if informal else 0.0,
        emoji=draw.choice((0.0, 0.0, 0.1, 0.3)) if informal else 0.0,
        favourites=tuple(draw.sample(_EMOJI, 2)),
    )


def _type(text: str, habit: Texting, draw: random.Random) -> tuple[str, ...]:
    """*text* as bubbles, typed with *habit*."""
    parts = re.split(r"(?<=[.!?])\s+", canonical(text))
    if not habit.split or draw.random() > habit.split:
        parts = [" ".join(parts)]
    bubbles = [_spell(part, habit, draw) for part in parts]
    bubbles = [bubble for bubble in bubbles if bubble][:4]
    if bubbles and draw.random() < habit.emoji:
        bubbles[-1] = f"{bubbles[-1]} {draw.choice(habit.favourites)}"
    return tuple(bubbles)


def _spell(text: str, habit: Texting, draw: random.Random) -> str:
    if habit.lower:
        text = text.lower()
    if habit.shorten:
        for long, short in _SHORT.items():
            if draw.random() < habit.shorten:
                text = re.sub(rf"(?<![\w']){re.escape(long)}(?![\w'])", short, text)
    if not habit.apostrophes:
        text = text.replace("'", "").replace("’", "")
    if not habit.full_stops:
        text = re.sub(r"(?<![.])\.(?=$| [^.])", "", text) if habit.split else text.rstrip(".")
    return canonical(text)
