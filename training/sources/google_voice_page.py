"""A page of Google Voice, as html.parser reads it: times, senders, words and what was sent along.

    <div class="hChatLog hfeed"><div class="participants"> <cite>...</cite>, ... </div>
    <div class="message"><abbr class="dt" title="2024-02-28T23:50:00.000-05:00">...</abbr>:
    <cite class="sender vcard"><a class="tel" href="tel:+1..."><span class="fn">name</span></a></cite>:
    <q>words<br>more words</q> <div><img src="..." /></div></div> ...

I am an ``abbr`` with the class fn, everybody else a ``span``. Knows nothing of files and conversations.
"""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from training.identifiers import visible
from training.records import Attachment

_MEDIA = {"img": ("src", "image"), "audio": ("src", "audio"), "video": ("src", "video")}
_LINKED = {"video": "video", "vcard": "text/vcard", "audio": "audio"}
_WRAP = r"(?<![ \t\r])[ \t\r]*+\n[ \t\r\n]*"  # a line end of the page's source, with the spaces around it
_WRAPPED = re.compile(_WRAP)
_WRAPPED_EDGE = re.compile(rf"(?:\A|(?<=\0)){_WRAP}|{_WRAP}(?=\0|\Z)")


@dataclass
class Message:
    """One message as its page has it; of a member of a group, the name and number only."""

    time: str | None = None
    number: str = ""
    name: str = ""
    is_me: bool = False
    is_named: bool = False
    text: str | None = None  # None until its end was seen
    attachments: list[Attachment] = field(default_factory=list)


class Page(HTMLParser):
    """One page, once it is fed: its messages, and what it says of them all.

    A message lasts until the next begins, so that markup which does not fit costs no more than one.

    Attributes:
        members: Who is in the group, without me.
        labels: What the page is filed under: sms, inbox, spam ...
        deleted: Whether the user deleted it, as the page says it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self.members: list[Message] = []
        self.is_chat = self.is_call = self.has_end = self.is_group = False
        self.labels: set[str] = set()
        self.title = self.deleted = ""
        self._person: Message | None = None
        self._into: str | None = None  # what characters are part of: title, name, text, deleted
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        classes = attributes.get("class", "").split()
        if self._into == "text":
            if tag == "br":
                self._text.append("\0")  # a break, unlike a line end of the page's source
            if "message" not in classes:
                return
        if tag == "div":
            self._division(classes)
        elif tag == "abbr" and "dt" in classes and self.messages:
            self.messages[-1].time = attributes.get("title")
        elif tag == "title" or (tag == "q" and self.messages):
            self._begin("title" if tag == "title" else "text")
        elif "fn" in classes and self._person is not None:
            self._person.is_me = tag == "abbr"
            self._person.is_named = True
            self._begin("name")
        else:
            self._other(tag, attributes, classes)

    def handle_endtag(self, tag: str) -> None:
        if tag == "html":
            self.has_end = True
        elif tag == "cite":
            self._person = None
        elif tag == "q" and self._into == "text":
            self.messages[-1].text = _words("".join(self._text))
            self._into = None
        elif self._into == "name" and tag in ("span", "abbr") and self._person is not None:
            self._person.name = visible("".join(self._text))
            self._into = None
        elif self._into == "deleted" and tag == "div":
            self.deleted = visible("".join(self._text))
            self._into = None
        elif self._into == "title" and tag == "title":
            self.title = visible("".join(self._text))
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._text.append(data.replace("\0", ""))

    def _begin(self, what: str) -> None:
        self._into, self._text = what, []

    def _division(self, classes: list[str]) -> None:
        self.is_chat |= "hChatLog" in classes
        self.is_call |= "haudio" in classes
        self.is_group |= "participants" in classes
        if "message" in classes:
            self.messages.append(Message())
            self._into = self._person = None
        elif "deletedStatusContainer" in classes:
            self._begin("deleted")

    def _other(self, tag: str, attributes: dict[str, str], classes: list[str]) -> None:
        if tag == "cite":
            self._person = self.messages[-1] if self.messages else Message()
            if not self.messages:
                self.members.append(self._person)
        elif self._person is not None and "tel" in classes:
            self._person.number = visible(attributes.get("href", "").removeprefix("tel:"))
        elif tag == "a" and attributes.get("rel") == "tag":
            self.labels.add(attributes.get("href", "").rpartition("#")[2])
        elif self.messages:
            link, mime = _MEDIA.get(tag, ("href", next((_LINKED[c] for c in classes if c in _LINKED), "")))
            if mime:
                self.messages[-1].attachments.append(Attachment(mime=mime, name=attributes.get(link) or None))


def _words(text: str) -> str:
    """What was typed: line ends of the page's source are spaces, or nothing at its edges; ``<br>`` is a line end."""
    lines = [_WRAPPED.sub(" ", line) for line in _WRAPPED_EDGE.sub("", text).split("\0")]
    return "\n".join(lines).rstrip("\n")
