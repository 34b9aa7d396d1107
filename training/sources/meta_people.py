"""Who is in the conversations of a Messenger or Instagram export, which of them is me, and which files belong together.

People are known by name only. An encrypted conversation and the unencrypted one before it are joined by their people.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from training.identifiers import canonical_name, visible
from training.records import ThreadKind
from training.sources.export import Export
from training.sources.meta_files import ChatFile, Platform, own_names
from training.sources.meta_phrases import callings
from training.sources.options import Options, ask_who_is_me

# Deleted accounts share one name, in every language with that of the platform in it: "Facebook user".
_DELETED = re.compile(r"facebook|instagram", re.IGNORECASE)


@dataclass
class Conversation:
    """One conversation; ``is_self`` where it is mine alone, with myself."""

    thread_id: str
    kind: ThreadKind
    name: str
    people: frozenset[str]
    is_self: bool = False
    files: list[ChatFile] = field(default_factory=list)

    @property
    def known_as(self) -> set[str]:
        return {called for name in self.people for called in callings(name)}


def who_is_me(export: Export, chats: Sequence[ChatFile], options: Options) -> tuple[set[str], str | None]:
    """My names in the export, and a guess that the user should know of.

    Raises:
        DataRefused: If the export does not say it.
    """
    everybody = {name for chat in chats for name in (*chat.participants, *chat.senders)}
    if options.me or not everybody:
        return {name for name in everybody if options.is_me(name)}, None
    if own := own_names(export) & everybody:
        return own, None
    threads = _people_of_threads(chats)
    pairs = {people for people in threads if len(people) == 2}
    sets = pairs if len(pairs) > 1 else {people for people in threads if len(people) > 1}
    common = frozenset.intersection(*sets) if len(sets) > 1 else frozenset()
    if len(common) == 1:
        (name,) = common
        return {name}, f"taken to be you: '{name}', the one person in every conversation; --me can say otherwise"
    raise ask_who_is_me(_candidates(threads, {chat.title for chat in chats}))


def conversations(
    source: Platform, chats: Iterable[ChatFile], mine: set[str], region: str | None
) -> tuple[list[Conversation], int]:
    """The conversations, and how many of them join several of one name: perhaps of different people."""
    folders: dict[tuple[bool, str], list[ChatFile]] = defaultdict(list)
    for chat in chats:
        folders[chat.is_flat, chat.folder].append(chat)
    found: dict[str, Conversation] = {}
    for (is_flat, _), files in sorted(folders.items()):
        one = _conversation(source, files, mine, region)
        if is_flat and one.kind == "group":
            one.thread_id = _id_of_encrypted_group(source, one, found.values())
        found.setdefault(one.thread_id, one).files += files
    return list(found.values()), sum(_has_namesakes(one) for one in found.values())


def person(source: Platform, name: str, place: str, region: str | None) -> str:
    """The identifier of *name*; nameless and deleted people are told apart by *place*."""
    if not visible(name) or _DELETED.search(name):
        return f"{source}:{visible(name) or 'somebody'} in {place}"
    return canonical_name(source, name, region)


def _people_of_threads(chats: Iterable[ChatFile]) -> Counter[frozenset[str]]:
    folders: dict[str, set[str]] = defaultdict(set)
    for chat in chats:
        folders[chat.folder].update(chat.participants or chat.senders)
    return Counter(frozenset(name for name in people if not _is_nobody(name)) for people in folders.values())


def _candidates(threads: Counter[frozenset[str]], titles: set[str]) -> list[str]:
    """Who is in most conversations first; a conversation of two bears the name of the other one."""
    counts: Counter[str] = Counter()
    for people, count in threads.items():
        counts.update(dict.fromkeys(people, count))
    return sorted(counts, key=lambda name: (-counts[name], name in titles, name))


def _conversation(source: Platform, files: Sequence[ChatFile], mine: set[str], region: str | None) -> Conversation:
    listed = {name for chat in files for name in chat.participants}
    senders = {name for chat in files for name in chat.senders}
    title = next((chat.title for chat in files if chat.title), "")
    others = listed - mine
    gone = {name for name in senders - listed - mine if not _is_nobody(name)}  # wrote here and is no longer listed
    crowd = max(sum(name not in mine for name in chat.participants) for chat in files)
    place, people = files[0].place, frozenset(listed | senders)
    other = _only(others) if not gone or title in others else None
    other = other if others else _only(gone)
    if other is not None and crowd < 2:
        return Conversation(person(source, other, place, region), "dm", title or other, people)
    if others or gone:
        return Conversation(f"{source}:{place}", "group", title or place, people)
    alone = bool(listed) and title in mine
    return Conversation(f"{source}:{place}", "dm", title or place, people, alone)


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _is_nobody(name: str) -> bool:
    return not visible(name) or _DELETED.search(name) is not None


def _id_of_encrypted_group(source: Platform, group: Conversation, others: Iterable[Conversation]) -> str:
    """That of the one group of the same people, or else one made of their names: the file's number means nothing."""
    same = [one for one in others if one.kind == "group" and one.people == group.people and not one.files[0].is_flat]
    named = [one for one in same if one.name == group.name] or same
    if len(named) == 1:
        return named[0].thread_id
    names = "\n".join([group.name, *sorted(group.people)]).encode(errors="replace")
    return f"{source}:encrypted {hashlib.sha256(names).hexdigest()[:16]}"


def _has_namesakes(one: Conversation) -> bool:
    """A conversation may have been cut over to encryption, then it has two folders; otherwise one."""
    return len({chat.place for chat in one.files if not chat.is_flat and "e2ee_cutover/" not in chat.folder + "/"}) > 1
