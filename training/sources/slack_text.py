"""The markup of Slack's message texts, turned into what a person saw.

    &amp; &lt; &gt;                     & < >
    <@U012AB3CD>  <@U012AB3CD|jo>       @Jo
    <#C012AB3CD|random>                 #random
    <!here>  <!subteam^S01|@crew>       @here  @crew
    <https://a.example|our page>        our page: the label is what was typed
    :tada:  :+1::skin-tone-3:           where it is known; a workspace's own emoji keep their names

One pass, so that nothing is unescaped twice. Bold, code and quotes stay as the marks that were typed.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from training.sources.loose_json import mapping, sequence, string

_MARK = re.compile(
    r"&(?P<entity>amp|lt|gt);"
    r"|<(?P<sign>[@#!]?)(?P<what>[^<>|]+)(?:\|(?P<label>[^<>]*))?>"
    r"|:(?P<emoji>[a-z0-9_+'-]{1,80}):(?::skin-tone-(?P<tone>[2-6]):)?"
)
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">"}
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

# Names that are not the names of Unicode; those that are need no table.
_EMOJI = {
    "+1": "👍", "-1": "👎", "100": "💯", "blush": "😊", "clap": "👏", "confused": "😕", "cry": "😢",
    "disappointed": "😞", "face_palm": "🤦", "facepalm": "🤦", "grin": "😁", "grinning": "😀",
    "heart": "❤️", "heart_eyes": "😍", "hugging_face": "🤗", "hushed": "😯", "innocent": "😇",
    "joy": "😂", "kissing_heart": "😘", "laughing": "😆", "muscle": "💪", "neutral_face": "😐",
    "ok_hand": "👌", "open_mouth": "😮", "pensive": "😔", "pray": "🙏", "raised_hands": "🙌",
    "rage": "😡", "relaxed": "☺️", "rolling_on_the_floor_laughing": "🤣", "see_no_evil": "🙈",
    "shrug": "🤷", "simple_smile": "🙂", "slightly_frowning_face": "🙁",
    "slightly_smiling_face": "🙂", "smile": "😄", "smiley": "😃", "smirk": "😏", "sob": "😭",
    "stuck_out_tongue": "😛", "stuck_out_tongue_winking_eye": "😜", "sunglasses": "😎",
    "sweat_smile": "😅", "tada": "🎉", "thinking_face": "🤔", "thumbsdown": "👎", "thumbsup": "👍",
    "upside_down_face": "🙃", "wave": "👋", "weary": "😩", "white_check_mark": "✅", "wink": "😉",
    "x": "❌", "yum": "😋", "zany_face": "🤪",
}  # fmt: skip


def plain(text: str, user: Callable[[str], str | None], channel: Callable[[str], str | None], blocks: Any) -> str:
    """*text* as it was shown.

    Args:
        user, channel: The name of an id; None where it is not known.
        blocks: The message's own ``blocks``, whose emoji say which character they are.
    """
    emoji: Mapping[str, str] | None = None

    def replace(match: re.Match[str]) -> str:
        nonlocal emoji
        if match["entity"]:
            return _ENTITIES[match["entity"]]
        if match["emoji"]:
            emoji = _emoji_of(blocks) if emoji is None else emoji
            return _emoji(match, emoji)
        return _reference(match, user, channel)

    return _MARK.sub(replace, text)


def _reference(match: re.Match[str], user: Callable[[str], str | None], channel: Callable[[str], str | None]) -> str:
    what, label = match["what"], _unescaped(match["label"] or "")
    match match["sign"]:
        case "@":
            return "@" + (user(what) or label.removeprefix("@") or "someone")
        case "#":
            return "#" + (label.removeprefix("#") or channel(what) or "channel")
        case "!":
            return label or "@" + what.partition("^")[0]
    return (
        (label or _unescaped(what.removeprefix("mailto:").removeprefix("tel:")))
        if _LINK.match(what)
        else _unescaped(match[0])
    )


def _unescaped(text: str) -> str:
    return re.sub(r"&(amp|lt|gt);", lambda match: _ENTITIES[match[1]], text)


def _emoji(match: re.Match[str], known: Mapping[str, str]) -> str:
    name, tone = match["emoji"], match["tone"]
    found = known.get(name) or _EMOJI.get(name) or _by_unicode_name(name)
    if found is None:
        return match[0]
    return found + chr(0x1F3F9 + int(tone)) if tone and len(found) == 1 else found


def _by_unicode_name(name: str) -> str | None:
    try:
        found = unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return None
    return found if len(found) == 1 and unicodedata.category(found) == "So" else None


def _emoji_of(blocks: Any) -> dict[str, str]:
    """Name -> characters, as the rich text elements of a message have them (``1f44d`` or ``1f468-200d-1f4bb``)."""
    found = {}
    waiting = list(sequence(blocks))
    while waiting:
        element = mapping(waiting.pop())
        waiting += sequence(element.get("elements"))
        if element.get("type") == "emoji" and (characters := _characters(string(element.get("unicode")))):
            found[string(element.get("name"))] = characters
    return found


def _characters(code: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{2,6}(-[0-9a-fA-F]{2,6}){0,15}", code):
        return ""
    points = [int(part, 16) for part in code.split("-")]
    return (
        "".join(map(chr, points)) if max(points) <= 0x10FFFF and not any(0xD800 <= p < 0xE000 for p in points) else ""
    )
