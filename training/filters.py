"""What is never learnt from, by its words: reactions sent as text, codes, bare links, automatic replies, pastes.

Importers flag what their source marks; these rules hold for every source. A message that is no message (a reaction
as text) is left out as a whole; the others stay in the context, and only a reply of mine that holds one is left out.
"""

import re
from collections.abc import Sequence

from training.records import Record

MAX_REPLY_CHARACTERS = 1000
NEVER_A_REPLY = {"forwarded", "auto", "otp", "link_only", "spam", "scheduled", "failed", "truncated"}

_QUOTED = r"(?:“.*”|\".*\"|„.*“|«.*»)"
_THING = r"(?:an? (?:image|photo|video|movie|message|attachment|audio message|sticker|link|location|contact))"
_REACTION = re.compile(
    rf"\s*(?:(?:Loved|Liked|Disliked|Laughed at|Emphasi[sz]ed|Questioned) (?:{_QUOTED}|{_THING})"
    rf"|Reacted .{{1,12}} to (?:{_QUOTED}|{_THING}|your message)"
    rf"|Removed .{{1,24}} from (?:{_QUOTED}|{_THING})"
    rf"|\u200b?[^\w\s]{{1,12}}\u200b? to “.*”)\s*",
    re.DOTALL,
)
_LINK_ONLY = re.compile(r"\s*(?:(?:https?://|www\.)\S+\s*)+", re.IGNORECASE)
_AUTOMATIC = re.compile(
    r"\s*(?:can['’]t talk (?:right )?now[.,!].{0,40}"
    r"|sorry, I can['’]t talk right now\.?"
    r"|I['’]m (?:driving|in a meeting|busy) (?:with .{0,40}|right now)[.,].{0,200}"
    r"|I(?:['’]m| am) not receiving notifications\..{0,300}"
    r"|.{0,40}\(I(?:['’]m| am) not receiving notifications\..{0,300}"
    r"|(?:this is an )?(?:automatic|automated|auto)[- ]?(?:reply|response|message)\b.{0,300})",
    re.IGNORECASE | re.DOTALL,
)
_SIGNATURE = re.compile(r"\s*Sent from my (?:iPhone|iPad|Android|Galaxy|phone)\b.*", re.IGNORECASE | re.DOTALL)
_CODE_BLOCK = "```"


def is_reaction_text(text: str) -> bool:
    """Whether *text* is a reaction as other systems show it: ``Liked “see you there”``."""
    return text[-1:] in _REACTION_ENDS and _REACTION.fullmatch(text) is not None


_REACTION_ENDS = {*'”"“»egnkto \n'}  # of a quotation, or of the things above


def why_no_reply(record: Record, text: str) -> str | None:
    """Why a message of mine is nobody's words to learn; None if it is."""
    if not NEVER_A_REPLY.isdisjoint(record.flags):
        return "not_my_words"
    if len(text) < 4:
        return None
    if _LINK_ONLY.fullmatch(text):
        return "link_only"
    if _AUTOMATIC.fullmatch(text) or _SIGNATURE.fullmatch(text):
        return "automatic"
    return "code_block" if _CODE_BLOCK in text else None


def why_no_thread(records: Sequence[Record], others: set[str], mine: set[str]) -> str | None:
    """Why a whole conversation is left out; None if it is one of people.

    Args:
        others: Identifiers of everybody but me who wrote in it, and the other side's of a direct one.
        mine: My own identifiers.
    """
    if all(other.startswith("short:") for other in others) and others:
        return "business"
    if others and others <= mine:
        return "self_chat"
    said = {record.from_me for record in records if record.kind == "text"}
    return None if said == {True, False} else "one_sided"
