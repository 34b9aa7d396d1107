"""Sentences that Messenger and Instagram put into conversations themselves, told from what people type.

The export shows them as ordinary messages, in the language of the account. A sentence counts only as a whole, and most
only where its first words name the sender or, for my own, are "You": people also say
"I left the keys". Whoever reads text here has repaired it before (``meta_message.repaired``).
"""

import re
from collections.abc import Collection

from training.records import Kind

_LONGEST = 300  # characters; no such sentence is longer

# An emoji between these words is never typed: what stands before and after it is enough.
_REACTION = re.compile(
    r"(?:.{1,60} )?(?:reacted|(?:hat|heeft)(?: mit| met)?|a réagi(?: avec| par)?|reaccionó(?: con)?"
    r"|ha reaccionado(?: con)?|ha reagito(?: con)?|reagiu(?: com)?|reageerde(?: met)?|zareagował(?:a|\(a\))?)"
    r" [^\w\s]\S{0,12} (?:to (?:your|a) (?:message|story)|auf (?:deine|eine) (?:nachricht|story) reagiert"
    r"|à (?:ton|votre|un) message|a (?:tu|un) mensaje|al tuo messaggio|a un messaggio|à (?:sua|tua|uma) mensagem"
    r"|op (?:je|een) bericht(?: gereageerd)?|gereageerd op (?:je|een) bericht|na (?:twoją|tę) wiadomość)\.?",
    re.IGNORECASE,
)
_LIKED = {
    "liked a message", "liked your message", "gefällt eine nachricht", "hat eine nachricht mit „gefällt mir“ markiert",
    "a aimé un message", "indicó que le gusta un mensaje", "le gustó un mensaje", "ha messo mi piace a un messaggio",
    "curtiu uma mensagem", "vindt een bericht leuk", "vond een bericht leuk",
}  # fmt: skip
_SENT_ABROAD = re.compile(
    r"(?:.{1,60} )?(?:ha(?:t|st) einen anhang gesendet|(?:a|avez|as) envoyé une pièce jointe"
    r"|env(?:ió|iaste) un archivo adjunto|ha(?:i)? inviato un allegato|enviou um anexo"
    r"|(?:heeft|hebt) een bijlage (?:verzonden|gestuurd))\.",
    re.IGNORECASE,
)
# Whole sentences without a name in front, or with any.
_ANYBODYS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (
        re.compile(r"(?:You are now connected on Messenger|You can now (?:message and )?call each other\b.*)\.?"),
        "system",
    ),
    (
        re.compile(r"Say hi to your new (?:Facebook friend|connection), .+|This poll is no longer available\.?"),
        "system",
    ),
    (re.compile(r"(?:The )?(?:video|audio|voice) (?:chat|call) ended\.?|The call ended\.?", re.IGNORECASE), "call"),
    (re.compile(r"You missed an? (?:video |audio |voice )?(?:call|chat) from .+\.?"), "call"),
    (re.compile(r"User unsent a message\.?"), "deleted"),
)
_MISSED = re.compile(r"(.+) missed your (?:video |audio |voice )?(?:call|chat)\.?")
# What the sender did.
_DEEDS: dict[Kind, tuple[str, ...]] = {
    "reaction": (r"(?:liked|loved) a message",),
    "deleted": (r"unsent a message",),
    "call": (
        r"missed (?:your|an?) (?:video |audio |voice )?(?:call|chat)(?: from .+)?",
        r"(?:started|joined) (?:an?|the) (?:video |audio |voice |group )?(?:call|chat)",
        r"ended the (?:video )?(?:call|chat)",
        r"called you",
    ),
    "media": (
        r"(?:sent|shared) (?:an?|\d+|the|his|her|their|your) (?:live |voice |\w+'s )?"
        r"(?:attachment|photo|picture|video|link|sticker|GIF|message|clip|recording|audio|location|reel|post|story|file"
        r"|profile|contact|song|playlist)s?",
    ),
    "system": (
        r"(?:added .+ to|removed .+ from|left|joined|created) the (?:group|chat|conversation)",
        r"named the (?:group|chat|conversation) .+",
        r"(?:changed|removed) the (?:group|chat) (?:name|photo).*",
        r"(?:changed|set|removed) the (?:chat |group )?(?:theme|colou?r|wallpaper|emoji|quick reaction)\b.*",
        r"(?:set|cleared) (?:the|your|his|her|their|its)(?: own)? nickname\b.*",
        r"created (?:a|the) (?:poll|plan|event|reminder)\b.*",
        r"voted for .+|changed (?:his|her|their|your) vote.*",
        r"(?:un)?pinned a message|waved at (?:you|each other)|is now (?:an|the) admin.*|made .+ an admin",
        r"turned (?:on|off) (?:disappearing messages|vanish mode|member approval|message requests).*",
    ),
}
_DEED = {kind: re.compile("|".join(sentences)) for kind, sentences in _DEEDS.items()}
_NAME = r"[^\W\da-z][\w.'’-]*(?: [^\W\da-z][\w.'’-]*){0,3}"
_GROUP = re.compile(
    rf"(?P<who>{_NAME}) (?:added (?P<whom>.+) to the group|removed (?P<out>.+) from the group"
    r"|named the group .+|changed the group photo|set the nickname for .+ to .+)\.?"
)
_PRONOUNS = {
    "i", "he", "she", "it", "we", "you", "they", "who", "somebody", "someone", "nobody", "everyone", "me", "him", "her",
    "us", "them", "this", "that", "these", "those", "mum", "mom", "dad",
}  # fmt: skip


def service_kind(text: str, sender: str, known_as: Collection[str], mine: bool) -> Kind | None:
    """What kind of service sentence *text* is; None where a person may have typed it.

    Args:
        known_as: What a sentence may call the people of the conversation.
        mine: Whether the sender is me: then the sentence begins with "You" and ends with a full stop.
    """
    text = text.strip()
    if len(text) > _LONGEST or "\n" in text:
        return None
    if _REACTION.fullmatch(text) or text.casefold() in _LIKED:
        return "reaction"
    for pattern, kind in _ANYBODYS:
        if pattern.fullmatch(text):
            return kind
    missed = _MISSED.fullmatch(text)
    if missed and missed[1] in known_as:
        return "call"
    return _deed(text, sender, mine) or _in_any_language(text, sender) or _of_a_group(text)


def callings(name: str) -> set[str]:
    """What the service calls somebody of that name: all of it or its first word."""
    return {name, name.partition(" ")[0]} - {""}


def _deed(text: str, sender: str, mine: bool) -> Kind | None:
    for name in callings(sender) | ({"You"} if mine and text.endswith(".") else set()):
        if text.startswith(name + " "):
            rest = text[len(name) + 1 :].removesuffix(".")
            for kind, pattern in _DEED.items():
                if pattern.fullmatch(rest):
                    return kind
    return None


def _in_any_language(text: str, sender: str) -> Kind | None:
    """Nobody begins a sentence with their own full name; the service does, whatever its language."""
    if _SENT_ABROAD.fullmatch(text):
        return "media"
    return "system" if " " in sender and text.startswith(sender + " ") and text.endswith(".") else None


def _of_a_group(text: str) -> Kind | None:
    match = _GROUP.fullmatch(text)
    if match is None:
        return None
    said = {word.casefold() for word in (match["who"], match["whom"], match["out"]) if word}
    return None if said & _PRONOUNS else "system"
