"""Google Voice as Takeout writes it: a page a conversation and burst, in ``Takeout/Voice/Calls``."""

import html
from datetime import timedelta, timezone
from pathlib import Path

from tests.fuzz_source import Sample
from tests.histories import History, Said

ME = "+14025550100"
_ZONE = timezone(timedelta(hours=-5))


def number(person: int) -> str:
    """The telephone number of person *person*."""
    return f"+1402555010{person}"


def members(thread: int) -> list[int]:
    """Everybody in group *thread* but me."""
    return sorted({thread + 1, 4, 5})


def write(history: History, folder: Path, burst: int = 3) -> Path:
    """*history* as a Takeout folder, a page for each *burst* messages of a conversation; newest first in each."""
    for thread in {said.thread for said in history.said}:
        said = [message for message in history.said if message.thread == thread]
        for start in range(0, len(said), burst):
            _write_page(folder, said[start : start + burst], thread in history.groups, start)
    return folder / "Takeout"


def page(*messages: str, title: str = "", group: str = "", labels: str = "sms inbox", deleted: str = "False") -> str:
    """A whole page."""
    tags = ", ".join(f'<a rel="tag" href="http://www.google.com/voice#{label}">x</a>' for label in labels.split())
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x.dtd"><html><head>'
        f'<title>{html.escape(title)}</title>\n<style type="text/css">\n.hChatLog {{ width: 1px }}\n</style></head>\n'
        f'<body><div class="hChatLog hfeed">{group}\n{" ".join(messages)}</div>\n<div class="tags">Labels:\n{tags}'
        "</div>\n"
        f'<div class="deletedStatusContainer">User Deleted:\n{deleted}</div></body></html>'
    )


def message(time: str, sender: str, words: str, more: str = "") -> str:
    """A message; *words* and *more* are markup."""
    return (
        f'<div class="message"><abbr class="dt" title="{time}">Feb 28, 2024,\u202f6:50 PM\nEastern Time</abbr>:\n'
        f"{sender}:\n<q>{words}</q>\n{more}</div>"
    )


def person(tel: str, name: str = "") -> str:
    """Somebody else."""
    return f'<cite class="sender vcard">{_linked(tel, name)}</cite>'


def me(tel: str = ME) -> str:
    """Me."""
    return f'<cite class="sender vcard"><a class="tel" href="tel:{tel}"><abbr class="fn" title="">Me</abbr></a></cite>'


def participants(*people: str) -> str:
    """Who is in a group, without me."""
    return f'<div class="participants">Group conversation with:\n{", ".join(people)}</div>'


def call(tel: str, name: str = "") -> str:
    """The page of a call."""
    who = f'<div class="contributor vcard">Missed call from\n{_linked(tel, name)}</div>'
    return f'<html><body><div class="haudio">{who}</div></body></html>'


def markup(text: str) -> str:
    """*text* as Google writes it."""
    return html.escape(text).replace("&#x27;", "&#39;").replace("\n", "<br>")


def _linked(tel: str, name: str) -> str:
    return f'<a class="tel" href="tel:{tel}"><span class="fn">{html.escape(name)}</span></a>'


def _write_page(folder: Path, said: list[Said], is_group: bool, start: int) -> None:
    calls = folder / "Takeout" / "Voice" / "Calls"
    calls.mkdir(parents=True, exist_ok=True)
    thread = said[0].thread
    written = [
        message(
            f"{(one.at + timedelta(milliseconds=start + index)).astimezone(_ZONE).isoformat(timespec='milliseconds')}",
            person(number(one.sender)) if one.sender else me(),
            markup(one.text) + "<br>" * (index % 2),
        )
        for index, one in enumerate(said)
    ]
    stamp = f"{said[0].at:%Y-%m-%dT%H_%M_%SZ}"
    group = participants(*(person(number(one), number(one)) for one in members(thread))) if is_group else ""
    name = f"Group Conversation - {stamp}" if is_group else f"{number(thread + 1)} - Text - {stamp}"
    path = calls / f"{name}.html"
    if path.exists():
        path = calls / f"{name}({start}).html"
    path.write_text(page(*reversed(written), group=group), encoding="utf-8", newline="")


def sample(folder: Path) -> Sample:
    """Some of everything: a contact, a page of mine alone, a group, media, a call, a list of phones."""
    times = [f"2024-02-28T18:50:0{second}.000-05:00" for second in range(6)]
    image = '<div><img src="Ana Example - Text - 1" alt="Image MMS Attachment" /></div>'
    ana = person(number(1), "Ana Example")
    pages = {
        "Ana Example - Text - 2024-02-28T23_50_00Z": page(
            message(times[1], me(), "ya &#39;soon&#39;<br>\U0001f44d<br>"),
            message(times[0], ana, "home yet?"),
            message(times[2], ana, "MMS Received", image),
            title="Me to\nAna Example",
        ),
        "Ana Example - Text - 2024-02-29T23_50_00Z": page(message(times[3].replace("28T", "29T"), me(), "?")),
        "Group Conversation - 2024-02-28T23_50_04Z": page(
            message(times[4], person(number(2), "Ben"), "", image),
            message(times[5], me(), "nice"),
            group=participants(ana, person(number(2), "Ben")),
        ),
        "+14025550103 - Missed - 2024-02-28T23_50_00Z": call(number(3)),
    }
    calls = folder / "Takeout" / "Voice" / "Calls"
    calls.mkdir(parents=True)
    for name, content in pages.items():
        (calls / f"{name}.html").write_text(content, encoding="utf-8")
    phones = f"BEGIN:VCARD\nitem1.TEL:{ME}\nitem1.X-ABLabel:Google Voice\nEND:VCARD\n"
    (folder / "Takeout" / "Voice" / "Phones.vcf").write_text(phones, encoding="utf-8")
    return Sample(folder / "Takeout")
