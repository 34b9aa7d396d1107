"""CSV tables as several programs write them: a plain one, WeChat's as WeClone reads it, iMazing's."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz_source import Sample
from tests.histories import History, Said


@dataclass(frozen=True)
class Dialect:
    """How a table is written down."""

    delimiter: str = ","
    encoding: str = "utf-8"
    newline: str = "\r\n"
    quote_all: bool = False


def address(person: int) -> str:
    return f"+1402555010{person}"


def write(history: History, folder: Path, dialect: Dialect = Dialect()) -> Path:
    """A table with one column for each thing, me marked by a flag."""
    header = ["conversation", "chat_type", "when", "from", "message", "is_from_me"]
    return _write(history, folder / "history.csv", dialect, header, _plain)


def _plain(history: History, said: Said, number: int) -> list[str]:
    kind = "group" if said.thread in history.groups else "private"
    mine = str(said.sender == 0).lower()
    return [f"thread {said.thread}", kind, said.at.isoformat(), address(said.sender), said.text, mine]


def write_wechat(history: History, folder: Path) -> Path:
    """The table that WeClone trains from."""
    header = "id,MsgSvrID,type_name,is_sender,talker,room_name,msg,src,CreateTime".split(",")
    return _write(history, folder / "wechat.csv", Dialect(encoding="utf-8-sig"), header, _wechat)


def _wechat(history: History, said: Said, number: int) -> list[str]:
    mine = said.sender == 0
    talker = f"wxid_{said.sender}"
    at = f"{said.at:%Y/%m/%d %H:%M:%S}"
    return [str(number), str(10**18 + number), "文本", str(int(mine)), talker, f"room{said.thread}", said.text, "", at]


def write_imazing(history: History, folder: Path) -> Path:
    """iMazing's table of Apple Messages: local times, nobody named where I wrote."""
    header = (
        "Chat Session,Message Date,Delivered Date,Read Date,Edited Date,Service,Type,Sender ID,Sender Name,Status,"
        "Replying to,Subject,Text,Reactions,Attachment,Attachment type"
    ).split(",")
    return _write(history, folder / "imazing.csv", Dialect(encoding="utf-8-sig", newline="\n"), header, _imazing)


def _imazing(history: History, said: Said, number: int) -> list[str]:
    session = f"Group {said.thread}" if said.thread in history.groups else f"Person {said.thread + 1}"
    way, who = ("Outgoing", ["", ""])
    if said.sender:
        way, who = "Incoming", [address(said.sender), f"Person {said.sender}"]
    date = f"{said.at:%Y-%m-%d %H:%M:%S}"
    return [session, date, "", "", "", "iMessage", way, *who, "Read", "", "", said.text, "", "", ""]


def _write(
    history: History,
    path: Path,
    dialect: Dialect,
    header: Iterable[str],
    row: Callable[[History, Said, int], list[str]],
) -> Path:
    quoting = csv.QUOTE_ALL if dialect.quote_all else csv.QUOTE_MINIMAL
    with path.open("w", encoding=dialect.encoding, newline="") as file:
        writer = csv.writer(file, delimiter=dialect.delimiter, lineterminator=dialect.newline, quoting=quoting)
        writer.writerow(header)
        writer.writerows(row(history, said, number) for number, said in enumerate(history.said))
    return path


SAMPLE = """\
Chat Session,Message Date,Edited Date,Service,Type,Sender ID,Sender Name,Text,Attachment,Attachment type
Ida Brandt,2024-02-03 10:00:00,,iMessage,Incoming,+14025550101,Ida Brandt,"are you up?
it is ""late"", no",,
Ida Brandt,2024-02-03 10:00:09,2024-02-03 10:01:00,iMessage,Outgoing,,,"yes 👍🏽, why",,
Ida Brandt,2024-02-03T10:00:11Z,,iMessage,Outgoing,,,,IMG_1.heic,image/heic
Hikers,2024/2/3 10:05,,SMS,Incoming,+14025550102,Ben Okafor,FALSE,,
Hikers,1706954760,,SMS,Incoming,jo@example.com,Jo,null,,
Hikers,"Feb 3, 2024 10:07:00 AM",,SMS,Outgoing,,,NA,,
Hikers,2024-02-03 10:08:00,,SMS,Notification,,,Ben named the conversation,,
"""
WECHAT_SAMPLE = """\
id,type_name,is_sender,talker,msg,src,CreateTime
1,文本,0,wxid_ida,在吗,,2024-02-03 11:00
2,图片,1,wxid_me,[图片],a/b.jpg,2024-02-03 11:01
3,文本,1,wxid_me,好,,
"""


def sample(folder: Path) -> Sample:
    """Some of everything, in two files."""
    path = folder / "export"
    path.mkdir()
    (path / "messages.csv").write_text(SAMPLE, encoding="utf-8")
    (path / "wechat.csv").write_text(WECHAT_SAMPLE, encoding="utf-8-sig")
    return Sample(path)
