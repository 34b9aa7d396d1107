"""Slack: an export of a workspace, a zip or its folder.

    users.json  channels.json  groups.json  dms.json  mpims.json      who and where there is
    general/2024-05-01.json                                           the messages of a day, a list

Rows of most subtypes are by the service or by programs. Exports do not say whose they are, and only those of paid plans
hold direct messages.
"""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from training.records import Record
from training.sources.export import DamagedFile, Export, each_file
from training.sources.json_stream import entries
from training.sources.loose_json import mapping, string
from training.sources.options import Options, ask_who_is_me
from training.sources.outcome import Item, NotUnderstood, Skipped
from training.sources.slack_people import LISTS, Conversation, People
from training.sources.slack_row import HAPPENINGS, Content, content_of, kind_of, moment_of
from training.sources.slack_text import plain

_DAY = re.compile(r"(?:(?:(?P<root>.*)/)?(?P<folder>[^/]+)/)?(?P<day>\d{4}-\d\d-\d\d)\.json")
_SKIPPED = {
    "bot_message": "bot", "slackbot_response": "bot", "message_changed": "hidden", "message_replied": "hidden",
    "reply_broadcast": "duplicate",  # of the reply itself, which is a row of its own
}  # fmt: skip


def recognises(export: Export) -> bool:
    """Files named by days, beside the list of users or channels or with rows that have a ``ts``."""
    days = _day_files(export)
    if not days:
        return False
    listed = any(name.rpartition("/")[2] in LISTS for name in export.names)
    head = export.head(days[0])
    return listed or (head.lstrip().startswith(b"[") and b'"ts"' in head)


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every row of every day of every conversation.

    Raises:
        DataRefused: If ``--me`` is not given, or is the name of several people.
    """
    people = People(export)
    names = _day_files(export)
    if not options.me:
        raise ask_who_is_me(_candidates(_meet_everybody(export, names, people), people))
    if not any(people.is_me(user, options) for user in people.users):
        _meet_everybody(export, names, people)
    people.refuse_ambiguous(options)
    yield from people.notes
    reader = _Reader(export, people, options)
    yield from each_file(export, names, reader.items)


def _day_files(export: Export) -> list[str]:
    """Conversation by conversation and day by day; the same day of several exports stands together."""
    found = [(match["folder"] or "", match["day"], name) for name in export.names if (match := _DAY.fullmatch(name))]
    return [name for _, _, name in sorted(found)]


def _meet_everybody(export: Export, names: list[str], people: People) -> Counter[str]:
    """How much each user wrote; *people* then knows those too who are in no list."""
    wrote: Counter[str] = Counter()
    for name in names:
        try:
            for row in map(mapping, _rows(export, name)):
                user = string(row.get("user"))
                people.meet(user, row.get("user_profile"))
                wrote[user] += not row.get("subtype") and not row.get("bot_id")
        except DamagedFile:
            continue  # it is damaged for the second reading too, which says so
    return wrote


def _candidates(wrote: Counter[str], people: People) -> list[str]:
    """Who could be the owner: who is in most direct conversations, then who writes most. Names that are one's own."""
    direct = Counter(people.direct_partners())
    users = [user for user in {**wrote, **direct} if user and not people.is_bot(user)]
    users.sort(key=lambda user: (-direct[user], -wrote[user]))
    bearers = Counter(people.name(user) for user in people.users)
    return [name if (name := people.name(user)) and bearers[name] == 1 else user for user in users]


def _rows(export: Export, name: str) -> Iterator[Any]:
    with export.open(name) as file:
        yield from entries(file, "item", name)


class _Reader:
    """Turns rows into items, day by day."""

    def __init__(self, export: Export, people: People, options: Options):
        self._export, self._people, self._options = export, people, options
        self._day = ("", "")
        self._seen: set[str | None] = set()  # of one day of one conversation: an export of another time has it again
        self._mine: dict[str, bool] = {}

    def items(self, name: str) -> Iterator[Item]:
        """The items of one file."""
        match = _DAY.fullmatch(name)
        folder = match and match["folder"] or self._export.path.absolute().name
        day = (folder, match["day"] if match else "")
        if day != self._day:
            self._day, self._seen = day, set()
        if not self._export.head(name).lstrip().startswith(b"["):
            yield NotUnderstood(f"{name}: not a list of messages")
            return
        conversation = self._people.conversation(match and match["root"] or "", folder)
        for number, row in enumerate(_rows(self._export, name), 1):
            if isinstance(row, dict):
                yield self._item(row, conversation, number, f"{name} entry {number}")
            else:
                yield NotUnderstood(f"{name} entry {number}: no object")

    def _item(self, row: dict[str, Any], conversation: Conversation, number: int, where: str) -> Item:
        subtype = string(row.get("subtype"))
        content = content_of(row, subtype)
        if content is None:
            return NotUnderstood(f"{where}: its text is none")
        self._people.meet(content.by, row.get("user_profile"))
        if reason := self._skipped(row, subtype, content, conversation):
            return Skipped(reason)
        moment = moment_of(row.get("ts"))
        if moment is None:
            return NotUnderstood(f"{where}: no time")
        record = self._record(row, content, conversation, moment)
        if record.source_id in self._seen:
            return Skipped("duplicate")
        self._seen.add(record.source_id)
        record.kind = kind_of(row, subtype, content)
        record.order = number
        if record.kind != "text":
            record.text = ""
        return record if record.text.strip() or record.kind != "text" else Skipped("empty")

    def _skipped(self, row: dict[str, Any], subtype: str, content: Content, conversation: Conversation) -> str | None:
        """Why a row is on purpose no record, if so."""
        if string(row.get("type")) not in ("", "message"):
            return "event"
        if subtype in _SKIPPED or (row.get("hidden") is True and subtype not in HAPPENINGS):
            return _SKIPPED.get(subtype, "hidden")
        if subtype not in HAPPENINGS and self._is_bot(row, content.by):
            return "bot"
        return self._elsewhere(conversation)

    def _elsewhere(self, conversation: Conversation) -> str | None:
        """Direct conversations that are with nobody, with a program, or none of the user's."""
        if conversation.kind == "channel" or not conversation.members:
            return None
        others = [member for member in conversation.members if not self._is_me(member)]
        if not others:
            return "self_chat"
        if len(others) == len(conversation.members):
            return "others_chat"
        return "bot" if all(self._people.is_bot(other) for other in others) else None

    def _is_bot(self, row: dict[str, Any], by: str) -> bool:
        if self._people.is_bot(by):
            return True
        # Programs that post in a person's name carry both; those of their own are in no list of people.
        return bool(row.get("bot_id")) and by not in self._people.users

    def _is_me(self, user: str) -> bool:
        if user not in self._mine:
            self._mine[user] = user != "" and self._people.is_me(user, self._options)
        return self._mine[user]

    def _record(
        self, row: dict[str, Any], content: Content, conversation: Conversation, moment: tuple[datetime, str]
    ) -> Record:
        sent_at, ts = moment
        parent = moment_of(row.get("thread_ts"))
        thread_id, thread_name = self._thread(conversation)
        return Record(
            source="slack",
            thread_id=thread_id,
            thread_kind="dm" if conversation.kind == "dm" else "group",
            thread_name=thread_name,
            from_me=self._is_me(content.by),
            sender_id=f"slack:{content.by}" if content.by else None,
            sender_name=self._people.name(content.by),
            sent_at=sent_at,
            text=plain(content.text, self._people.name, self._people.channel_name, row.get("blocks")),
            reply_to=f"{conversation.id}:{parent[1]}" if parent and parent[1] != ts else None,
            flags=content.flags,
            source_id=f"{conversation.id}:{ts}",
            attachments=content.files,
        )

    def _thread(self, conversation: Conversation) -> tuple[str, str | None]:
        """(id, name): for a direct conversation the other side's."""
        others = [member for member in conversation.members if not self._is_me(member)]
        if conversation.kind == "dm" and len(others) == 1:
            return f"slack:{others[0]}", self._people.name(others[0])
        return f"slack:{conversation.id}", conversation.name
