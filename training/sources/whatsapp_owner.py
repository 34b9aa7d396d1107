"""Whose phone wrote an export: the file never says, but names of files and what several chats have in common do.

WhatsApp Chat with Ana.txt     of two people in it, the one who is not Ana owns the phone
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from training.identifiers import visible
from training.sources.export import Export
from training.sources.options import Options, ask_who_is_me
from training.sources.outcome import Note
from training.sources.whatsapp_chat import Chat

_UNNAMED = re.compile(r"_?chat", re.IGNORECASE)
_AGAIN = re.compile(r"(?: ?\(\d+\)|-\d)$")  # what a browser adds to a second file of the same name
_TITLE = re.compile(
    r"(?:whatsapp[ -]chatt? (?:with|mit|met|med|-)|chat de whatsapp con|conversa do whatsapp com"
    r"|discussion whatsapp avec|chat (?:di )?whatsapp (?:con|dengan)|чат whatsapp с(?: контактом)?|czat whatsapp z"
    r"|whatsapp ?チャット -)[ :_]+(.+)|[与與] ?(.+?) ?的 ?whatsapp.*|(.+?) ?(?:ile|とのトーク|との) ?whatsapp.*",
    re.IGNORECASE,
)


def _stem(export: Export, file: str) -> str:
    """The name that says whose chat it is: the file's, or of what it lies in where it is called ``_chat.txt``."""
    path = PurePosixPath(file)
    stem = _AGAIN.sub("", _without_extension(path.name))
    if not _UNNAMED.fullmatch(stem):
        return stem
    outside = export.path.parent.name if export.is_single_file else export.path.name
    around = _AGAIN.sub("", _without_extension(path.parent.name or outside))
    return around if "whatsapp" in around.casefold() else ""


def _without_extension(name: str) -> str:
    return re.sub(r"\.(?:txt|zip)$", "", name, flags=re.IGNORECASE)


def title_of(export: Export, file: str) -> str | None:
    """What the name of a file calls the chat: the contact or the group; None where it has only a name of its own."""
    match = _TITLE.fullmatch(visible(_stem(export, file)))
    return next(filter(None, match.groups())) if match else None


def own_name_of(export: Export, file: str) -> str | None:
    """The name a user gave a file; None where it has only the one that every export has."""
    return visible(_stem(export, file)) or None


def owners(export: Export, chats: Sequence[Chat], options: Options) -> tuple[dict[str, frozenset[str]], list[Note]]:
    """(by file, the names in it that are the user's; what to tell of that).

    Raises:
        DataRefused: If the export cannot decide; the answer is ``--me``.
    """
    if options.me:
        told = {c.file: [name for name in c.people if options.is_me(name, name.removeprefix("~ "))] for c in chats}
        return {file: frozenset(names) for file, names in told.items()}, []
    by_name = {chat.file: me for chat in chats if (me := _by_file_name(export, chat))}
    known = frozenset(by_name.values())
    if not known:
        known = frozenset(_in_all(chats))
        if not known:
            return {}, []
        notes = [Note("one person is in all of these chats and was taken to be you; if not, give --me")]
    else:
        notes = []
    mine = {c.file: frozenset({by_name[c.file]}) if c.file in by_name else known.intersection(c.people) for c in chats}
    if any(len(names) > 1 for names in mine.values()):
        raise ask_who_is_me(_candidates(chats))
    silent = sum(not names for names in mine.values())
    if silent:
        notes.append(
            Note(f"in {silent} of {len(chats)} chats nothing is by you; if you have another name there, give --me")
        )
    return mine, notes


def _by_file_name(export: Export, chat: Chat) -> str | None:
    stem = visible(_stem(export, chat.file))
    if len(chat.people) != 2 or "whatsapp" not in stem.casefold():
        return None
    title = title_of(export, chat.file)
    named = [name for name in chat.people if title is not None and _letters(name) == _letters(title)]
    if not named and title is None:  # in a language that is not known here
        named = [name for name in chat.people if _letters(name) and _letters(name) in _letters(stem)]
    return next(name for name in chat.people if name != named[0]) if len(named) == 1 else None


def _letters(name: str) -> str:
    """*name* as file names keep it: some signs are left out of those."""
    return "".join(c for c in name.casefold() if c.isalnum()) or re.sub(r"[/\\:*?\"<>|_~\s]", "", name)


def _in_all(chats: Sequence[Chat]) -> list[str]:
    """The one person who is in every chat of two or more people.

    Raises:
        DataRefused: If it is not exactly one.
    """
    shared = [set(chat.people) for chat in chats if len(chat.people) > 1]
    everywhere = set.intersection(*shared) if len(shared) > 1 else set()
    if len(everywhere) == 1:
        return list(everywhere)
    candidates = _candidates(chats)
    if candidates:
        raise ask_who_is_me(candidates)
    return []


def _candidates(chats: Sequence[Chat]) -> list[str]:
    """Everybody, those in most chats first."""
    places = Counter(name for chat in chats for name in chat.people)
    messages: Mapping[str, int] = sum((chat.people for chat in chats), Counter())
    return sorted(places, key=lambda name: (-places[name], -messages[name], name))
