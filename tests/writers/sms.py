"""Backups as "SMS Backup & Restore" writes them: direct messages as ``sms``, those of groups as ``mms``."""

from datetime import timedelta
from pathlib import Path

from tests.fuzz_source import Sample
from tests.histories import History, Said

ME = "+14025550100"
_HEAD = (
    "<?xml version='1.0' encoding='UTF-8' standalone='yes' ?>\n<?xml-stylesheet type=\"text/xsl\" href=\"sms.xsl\"?>\n"
)


def number(person: int) -> str:
    """The telephone number of person *person*."""
    return f"+1402555010{person}"


def members(thread: int) -> list[int]:
    """Everybody in group *thread* but me."""
    return sorted({thread + 1, 4, 5})


def sent_at(history: History, index: int) -> int:
    """The time of a message in milliseconds, no two alike."""
    return round((history.said[index].at + timedelta(milliseconds=index)).timestamp() * 1000)


def write(history: History, folder: Path) -> Path:
    """*history* as a backup in *folder*."""
    entries = [_entry(history, index) for index in range(len(history.said))]
    path = folder / "sms-20240301000000.xml"
    path.write_bytes(backup(*entries).encode())
    return path


def backup(*entries: str, count: int | None = None) -> str:
    """A whole file."""
    declared = len(entries) if count is None else count
    body = "".join(f"  {entry}\n" for entry in entries)
    return f'{_HEAD}<smses count="{declared}" backup_set="1" backup_date="1709164800000">\n{body}</smses>\n'


def element(tag: str, content: str = "", /, **attributes: str) -> str:
    """One element; like Android's serializer it quotes by ``'`` what holds a ``"``."""
    pairs = "".join(f" {name}={_quoted(value)}" for name, value in attributes.items())
    return f"<{tag}{pairs}>{content}</{tag}>" if content else f"<{tag}{pairs} />"


def sms(address: str, date: int, kind: str, body: str, /, **more: str) -> str:
    """A text message; *kind* is 1 for received, 2 for sent."""
    fixed = {"protocol": "0", "address": address, "date": str(date), "type": kind, "subject": "null", "body": body}
    return element("sms", **{**fixed, "status": "-1", "contact_name": "(Unknown)", **more})


def mms(address: str, date: int, box: str, parts: list[str], addrs: list[tuple[str, str]], /, **more: str) -> str:
    """A picture or group message; *addrs* are (number, role)."""
    rows = "".join(element("addr", address=who, type=role, charset="106") for who, role in addrs)
    content = element("parts", "".join(parts)) + (element("addrs", rows) if rows else "")
    fixed = {"date": str(date), "msg_box": box, "address": address, "sub": "null", "m_id": f"m{date}", "date_sent": "0"}
    return element("mms", content, **{**fixed, "m_type": {"1": "132", "2": "128"}.get(box, "null"), **more})


def text(words: str, seq: str = "0") -> str:
    """A text part."""
    return element("part", seq=seq, ct="text/plain", name="null", chset="106", cl="text.txt", text=words)


def picture(name: str, data: str = "aGk=") -> str:
    """A picture part."""
    return element("part", seq="0", ct="image/jpeg", name="null", cl=name, text="null", data=data)


def _entry(history: History, index: int) -> str:
    said = history.said[index]
    if said.thread not in history.groups:
        return sms(number(said.thread + 1), sent_at(history, index), "1" if said.sender else "2", said.text)
    return _in_group(said, sent_at(history, index))


def _in_group(said: Said, at: int) -> str:
    others = [number(person) for person in members(said.thread)]
    receivers = [who for who in [ME, *others] if who != number(said.sender)]
    addrs = [(number(said.sender), "137"), *((who, "151") for who in receivers)]
    return mms("~".join(others), at, "1" if said.sender else "2", [text(said.text)], addrs)


def _quoted(value: str) -> str:
    mark = "'" if '"' in value else '"'
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", mark: "&apos;"}
    return mark + "".join(marks.get(c) or (f"&#{ord(c)};" if c in "\t\n\r" else c) for c in value) + mark


def sample(folder: Path) -> Sample:
    """Some of everything: both directions, pictures, groups of three kinds, drafts, a business, an old emoji."""
    rcs = [(number(0), "151"), (number(2), "137"), (number(2), "130"), (number(3), "130")]
    entries = [
        sms(number(1), 1709164800000, "1", "home yet?", contact_name="Ana Example", date_sent="1709164799000"),
        sms(number(1), 1709164860000, "2", 'ya "soon"\n\U0001f44d', status="64"),
        "<!-- old -->" + sms("(402) 555-0101", 1709164870000, "1", "ok").replace("ok", "ok &#55357;&#56832;"),
        sms(number(1), 1709164880000, "3", "never mind"),
        sms("262966", 1709164890000, "1", "your code is 123456"),
        mms(number(1), 1709164900000, "1", [picture("cat.jpg", "QUJD" * 20), text("look")], [(number(1), "137")]),
        mms(number(1), 1709164910000, "2", [picture("dog.jpg")], []),
        mms("group_7@rcs.google.com", 1709164920000, "1", [text("hi all")], rcs, ct_t="text/plain", tr_id="proto:x"),
        mms(f"{number(2)}~{number(3)}", 1709164930000, "2", [text("one"), text("two", "1")], [(ME, "137")]),
        element("call", number=number(1), duration="5", date="1709164940000", type="1"),
    ]
    path = folder / "sms-20240301000000.xml"
    path.write_bytes(backup(*entries).encode())
    return Sample(path)
