"""Rows whose columns are known -> records.

Two passes, as no row tells all: the survey learns who is me, which conversations are groups and which way round the
dates are; then each row becomes an item. Knows nothing of CSV or JSON.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from errors import DataRefused
from training.identifiers import canonical_address, visible
from training.records import Record
from training.sources import cells as cell
from training.sources.cells import Row
from training.sources.options import Options, ask_who_is_me
from training.sources.outcome import Item, Note, NotUnderstood, Skipped
from training.sources.written_times import read_time, shows_day_first

_OTHER, _MINE, _UNSAID = range(3)


class Table:
    """All rows of an export: each is taken once, then the table is settled, then each is read.

    Args:
        flag_is_told: Whether the user named the column that says what is mine: then it is not doubted.
    """

    def __init__(self, source: str, options: Options, flag_is_told: bool = False):
        self._source, self._options, self._flag_is_told = source, options, flag_is_told
        self._marks: dict[
            str, dict[str, list[int]]
        ] = {}  # thread -> sender -> rows marked as other's, mine, not at all
        self._names: dict[str, dict[str, None]] = {}  # sender -> how they are shown
        self._days: Counter[bool] = Counter()
        self._unclear_day: str | None = None
        self._unknown_kinds = 0
        self._order = 0

    def take(self, row: Row) -> None:
        """Take note of one row."""
        cells = row.cells
        self._take_day(cells.get("sent_at", "").strip(), row.where)
        marks = self._marks.setdefault(row.thread, {})
        kind = cells.get("kind", "")
        self._unknown_kinds += not cell.is_known_kind(kind)
        if cell.kind_of(kind) == "system":
            return
        sender, mine = self._sender(row), cell.is_mine(cells)
        marks.setdefault(sender or "", [0, 0, 0])[_UNSAID if mine is None else int(mine)] += 1
        if sender:
            self._names.setdefault(sender, {})[cell.sender_name(cells) or sender] = None

    def _take_day(self, text: str, where: str) -> None:
        try:
            shown = shows_day_first(text)
        except ValueError:
            self._unclear_day = self._unclear_day or where
            return
        if shown is not None:
            self._days[shown] += 1

    def settle(self) -> None:
        """Decide what only all rows together can.

        Raises:
            DataRefused: If they do not say who is me, contradict each other, or their dates can be read in two ways.
        """
        self._day_first = self._settled_days()
        me = self._options.is_me
        self._named_me = {s for s, names in self._names.items() if me(s, s.partition(":")[2], *names)}
        marked: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for senders in self._marks.values():
            for sender, counts in senders.items():
                marked[sender] += counts[_MINE]
                others[sender] += counts[_OTHER]
        self._marked_me = {sender for sender in marked if sender and marked[sender] and not others[sender]}
        self._has_marks = marked.total() + others.total() > 0
        if not self._options.me:
            self._refuse_unknown_me(marked, others)
        self._threads = {thread: self._thread(thread, senders) for thread, senders in self._marks.items()}

    def _settled_days(self) -> bool | None:
        if self._options.day_first is not None:
            return self._options.day_first
        day, month = self._days[True], self._days[False]
        if min(day, month) * 100 > max(day, month):
            raise DataRefused(
                "some dates can only be read day first, others only month first: give --day-first or --no-day-first",
                code="ambiguous_dates",
                details=[f"{day} are day first, {month} month first"],
            )
        if self._unclear_day and day == month:
            raise DataRefused(
                "is 3/4 the third of April? Every date here can be read both ways: give --day-first or --no-day-first",
                code="ambiguous_dates",
                details=[f"such as {self._unclear_day}"],
            )
        return day > month if day or month else None

    def _refuse_unknown_me(self, marked: Counter[str], others: Counter[str]) -> None:
        if not self._has_marks and self._names:
            raise ask_who_is_me([next(iter(self._names[sender])) for sender in self._most_present()])
        both = [sender for sender in self._names if marked[sender] and others[sender]]
        if both and not self._flag_is_told:
            raise DataRefused(
                "the mark of your own messages and the column of senders disagree: give --me if the senders are right, "
                "or --column from_me=COLUMN if the mark is",
                code="who_is_me",
                details=[
                    f"{next(iter(self._names[sender]))}: {marked[sender]} marked as yours, {others[sender]} not"
                    for sender in both[:20]
                ],
            )

    def _most_present(self) -> list[str]:
        threads: Counter[str] = Counter()
        rows: Counter[str] = Counter()
        for senders in self._marks.values():
            threads.update(sender for sender in senders if sender)
            rows.update({sender: sum(counts) for sender, counts in senders.items()})
        return sorted(threads, key=lambda sender: (-threads[sender], -rows[sender]))

    def _thread(self, thread: str, senders: dict[str, list[int]]) -> tuple[str, bool]:
        """(id, is it a group) of a conversation."""
        others = [sender for sender, counts in senders.items() if sender and self._is_other(sender, counts)]
        named = "" if thread.startswith("\x00") else thread
        if len(others) == 1:
            names = {others[0], others[0].partition(":")[2], *self._names[others[0]]}
            if not named or named in names or self._address(named) == others[0]:
                return others[0], False
        return self._address(named) or named or visible(thread) or self._source, len(others) > 1

    def _is_other(self, sender: str, counts: list[int]) -> bool:
        if self._named_me:
            return sender not in self._named_me
        return counts[_OTHER] > 0 or (counts[_UNSAID] > 0 and sender not in self._marked_me)

    def _address(self, text: str) -> str | None:
        return canonical_address(text, self._options.region)

    def _sender(self, row: Row) -> str | None:
        return cell.sender(row.cells, self._source, self._options.region)

    def notes(self) -> Iterator[Note]:
        """What the user should know of the whole, once it is settled."""
        if self._options.me and self._names and not self._named_me and self._has_marks:
            yield Note("nobody here is called what --me says: the export's own mark tells which messages are yours")
        if self._unknown_kinds:
            yield Note(f"{self._unknown_kinds} entries are of a type this version does not know; taken as text")

    def item(self, row: Row) -> Item:
        """What *row* is: a record, or why it is none."""
        self._order += 1
        content = cell.content(row.cells)
        if content is None:
            return Skipped("empty")
        sender = self._sender(row)
        mine = False if content[0] == "system" else self._is_mine(row, sender)
        moment = self._moment(row)
        if mine is None:
            return NotUnderstood(f"{row.where}: it does not say who wrote it")
        if moment is None:
            return NotUnderstood(f"{row.where}: its time is not understood")
        record = self._record(row, mine, sender)
        record.kind, record.text = content
        record.sent_at, record.sent_local = moment
        return record

    def _is_mine(self, row: Row, sender: str | None) -> bool | None:
        if sender and self._named_me:
            return sender in self._named_me
        mine = cell.is_mine(row.cells)
        if mine is None and sender:
            return sender in self._marked_me if self._marked_me or self._options.me else None
        return mine

    def _moment(self, row: Row) -> tuple[datetime | None, str | None] | None:
        """(UTC, local time as written); None if it is not understood."""
        text = f"{row.cells.get('sent_at', '')} {row.cells.get('time_of_day', '')}".strip()
        if not text:
            return None, None
        found = read_time(text, self._day_first) or read_time(visible(text), self._day_first)
        try:
            if found is None:
                return None
            if found.tzinfo is not None:
                return found.astimezone(UTC), None
            return self._options.aware(found), found.isoformat()
        except (OverflowError, ValueError):  # the first and the last day there are
            return None

    def _record(self, row: Row, mine: bool, sender: str | None) -> Record:
        cells = row.cells
        thread, is_group = self._threads[row.thread]
        group = cell.is_group(cells)
        name = cell.shown(cells.get("thread_name", "")) or cell.shown(cells.get("thread_id", ""))
        shown = cell.sender_name(cells)
        if sender is None and not mine and not is_group and name:
            sender, shown = cell.identified(self._source, cells.get("thread_id") or name, self._options.region), name
        elif mine and sender == thread:
            sender = shown = None  # the column names the conversation, not the sender
        return Record(
            source=self._source,
            thread_id=thread,
            thread_kind="group" if (is_group if group is None else group) else "dm",
            thread_name=name or None,
            from_me=mine,
            sender_id=sender,
            sender_name=shown,
            source_id=cells.get("source_id") or None,
            reply_to=cells.get("reply_to") or None,
            flags=[flag for flag in ("edited", "forwarded") if cell.is_said(cells, flag)],
            attachments=cell.attachments(cells),
            order=self._order,
        )
