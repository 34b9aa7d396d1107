"""Exports of WhatsApp as the programs of Android and iPhone write them, in the shapes of several languages."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.fuzz_source import Sample
from tests.histories import History

LRM, NARROW = "\u200e", "\u202f"
NOTICE = "Messages and calls are end-to-end encrypted. Only people in this chat can read them."
ME = "Edda Kristjans"


@dataclass(frozen=True)
class Style:
    """How a phone writes: *header* is what stands before the name, *step* is how many seconds its clock counts in."""

    header: Callable[[datetime], str]
    is_iphone: bool = False
    step: int = 1


def _twelve(at: datetime, morning: str, afternoon: str, before: bool = False, seconds: bool = False) -> str:
    """The time on a clock of twelve hours, and which half of the day it is."""
    time = f"{at.hour % 12 or 12}:{at:%M:%S}" if seconds else f"{at.hour % 12 or 12}:{at:%M}"
    half = morning if at.hour < 12 else afternoon
    return half + time if before else time + half


def _american(at: datetime) -> str:
    return f"{at.month}/{at.day}/{at:%y}, {_twelve(at, ' AM', ' PM')} - "


def _new_american(at: datetime) -> str:
    return f"{at.month}/{at.day}/{at:%y}, {_twelve(at, NARROW + 'AM', NARROW + 'PM')} - "


def _spanish(at: datetime) -> str:
    return f"{at.day}/{at.month}/{at.year}, " + _twelve(at, " a.\u00a0m.", " p.\u00a0m.") + " - "


def _korean(at: datetime) -> str:
    return f"{at.year}. {at.month}. {at.day}. {_twelve(at, '오전 ', '오후 ', before=True)} - "


def _american_iphone(at: datetime) -> str:
    return f"[{at.month}/{at.day}/{at:%y}, {_twelve(at, NARROW + 'AM', NARROW + 'PM', seconds=True)}] "


def _chinese_iphone(at: datetime) -> str:
    return f"[{at.year}/{at.month}/{at.day} {_twelve(at, '上午', '下午', before=True, seconds=True)}] "


STYLES = {
    "android, month first": Style(lambda at: f"{at.month}/{at.day}/{at:%y, %H:%M} - ", step=60),
    "android, twelve hours": Style(_american, step=60),
    "android, narrow space": Style(_new_american, step=60),
    "android, day first": Style(lambda at: f"{at:%d/%m/%Y, %H:%M} - ", step=60),
    "android, dots": Style(lambda at: f"{at:%d.%m.%y, %H:%M} - ", step=60),
    "android, dashes": Style(lambda at: f"{at:%d-%m-%Y %H:%M} – ", step=60),
    "android, spanish": Style(_spanish, step=60),
    "android, year first": Style(lambda at: f"{at:%Y/%m/%d}, {_twelve(at, ' am', ' pm')} - ", step=60),
    "android, finnish": Style(lambda at: f"{at.day}.{at.month}.{at.year} klo {at.hour}.{at:%M} - ", step=60),
    "android, korean": Style(_korean, step=60),
    "iphone, day first": Style(lambda at: f"[{at:%d/%m/%Y, %H:%M:%S}] ", True),
    "iphone, month first": Style(_american_iphone, True),
    "iphone, dots": Style(lambda at: f"[{at:%d.%m.%y, %H:%M:%S}] ", True),
    "iphone, year first": Style(lambda at: f"[{at:%Y-%m-%d, %H:%M:%S}] ", True),
    "iphone, chinese": Style(_chinese_iphone, True),
}


def name_of(person: int) -> str:
    """Person 0 is me."""
    return ME if person == 0 else f"Person {person}"


def title_of(history: History, thread: int) -> str:
    """What a phone calls the thread."""
    return f"Group {thread}" if thread in history.groups else name_of(thread + 1)


def write(history: History, folder: Path, style: Style) -> Path:
    """*history* as a folder of one export a chat: text files of Android, zips of an iPhone."""
    out = folder / "exports"
    out.mkdir()
    for thread in sorted({said.thread for said in history.said}):
        title = title_of(history, thread)
        text = "".join(_lines(history, thread, style))
        if style.is_iphone:
            with zipfile.ZipFile(out / f"WhatsApp Chat - {title}.zip", "w") as archive:
                archive.writestr("_chat.txt", text)
        else:
            (out / f"WhatsApp Chat with {title}.txt").write_bytes(text.encode())
    return out


def _lines(history: History, thread: int, style: Style) -> list[str]:
    said = [message for message in history.said if message.thread == thread]
    first, title = style.header(said[0].at), title_of(history, thread)
    system = [NOTICE] + [f'Person 9 created group "{title}"'] * (thread in history.groups)
    author = f"{title}: {LRM}" if style.is_iphone else ""
    lines = [f"{first}{author}{text}\n" for text in system]
    return lines + [f"{style.header(message.at)}{name_of(message.sender)}: {message.text}\n" for message in said]


SAMPLE_ANDROID = f"""\
2/27/24, 11:58{NARROW}PM - {NOTICE}
2/27/24, 11:58{NARROW}PM - Tove: did you water it
2/27/24, 11:59{NARROW}PM - Nils: ya
twice
2/28/24, 12:01{NARROW}AM - Nils: <Media omitted>
2/28/24, 12:02{NARROW}AM - Tove: IMG-20240228-WA0003.jpg (file attached)
look at its leaves
2/28/24, 12:02{NARROW}AM - Tove: This message was deleted
2/28/24, 9:30{NARROW}AM - Tove: ok: so: now? <This message was edited>
2/28/24, 9:31{NARROW}AM - Nils: Missed voice call
2/28/24, 9:31{NARROW}AM - Tove: location: https://maps.google.com/?q=1.5,2.5
2/28/24, 9:32{NARROW}AM - Tove:
2/28/24, 9:33{NARROW}AM - Nils: null
2/29/24, 10:00{NARROW}AM - Tove changed their phone number to a new number.
3/1/24, 1:00{NARROW}PM - Nils: https://example.com/fern
"""

SAMPLE_IPHONE = f"""\
[27/02/2024, 20:00:00] Fern club: {LRM}{NOTICE}
[27/02/2024, 20:00:00] Fern club: {LRM}Tove created this group
[27/02/2024, 20:00:05] Nils: hi all
[27/02/2024, 20:00:09] ~{NARROW}Pia: hello 👩‍👩‍👧
[27/02/2024, 20:01:00] \u202a+46 70 174 06 05\u202c: who is this
{LRM}[27/02/2024, 20:02:10] Nils: {LRM}image omitted
{LRM}[27/02/2024, 20:02:30] Nils: {LRM}<attached: 00000012-PHOTO-2024-02-27-20-02-30.jpg>
[28/02/2024, 08:00:00] Tove: {LRM}POLL:
Which pot?
{LRM}OPTION: clay ({LRM}2 votes)
{LRM}OPTION: tin ({LRM}0 votes)
[28/02/2024, 08:01:00] ~{NARROW}Pia: {LRM}~{NARROW}Pia left
[28/02/2024, 08:02:00] Tove: @\u2068Nils\u2069 clay then {LRM}<This message was edited>
"""


def sample(folder: Path) -> Sample:
    """One chat of an Android phone and one group of an iPhone, in a folder."""
    out = folder / "whatsapp"
    out.mkdir()
    (out / "WhatsApp Chat with Tove.txt").write_bytes(SAMPLE_ANDROID.encode())
    (out / "fern_club.txt").write_bytes(SAMPLE_IPHONE.encode())
    return Sample(out)
