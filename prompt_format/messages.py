"""What a conversation is: messages, in the order they were sent.

A ``Message`` holds its text in canonical form, so that two messages which look the same to a person and to every
tokenizer are equal: line breaks are ``\\n``, characters are composed (Unicode NFC, which some tokenizers apply
anyway), and no white space stands at either end. Everything after this module keeps the text exactly.
"""

import unicodedata
from dataclasses import dataclass
from datetime import datetime

from errors import PromptRefused


def canonical(text: str) -> str:
    """The one spelling of *text* that prompts and datasets use.

    Raises:
        PromptRefused: If *text* holds half a surrogate pair, which no UTF-8 text can.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptRefused(
            "a message holds half of a surrogate pair, which is not valid Unicode: send the text as UTF-8",
            code="invalid_unicode",
        ) from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", lines).strip()


@dataclass(frozen=True)
class Message:
    """One bubble as it was sent.

    Attributes:
        text: The words, in canonical form and never empty.
        from_me: Whether the persona wrote it.
        sender: Any stable identifier of the sender; used only to tell people in a group apart.
        sent_at: When, with a time zone; None when unknown.
    """

    text: str
    from_me: bool
    sender: str | None = None
    sent_at: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", canonical(self.text))
        if not self.text:
            raise PromptRefused("a message has no text: leave empty messages out", code="empty_message")
        if self.sent_at is not None and self.sent_at.tzinfo is None:
            raise PromptRefused(
                "sent_at has no time zone: write it as RFC 3339, for example 2026-01-03T18:20:00Z",
                code="invalid_time",
            )


@dataclass(frozen=True)
class Thread:
    """A conversation up to now, oldest message first.

    Attributes:
        messages: What was said.
        is_group: More than one other person: speakers are then numbered.
        category: The relation with this contact (``family``, ``friend``, ``work`` ...) where the user gave one.
    """

    messages: tuple[Message, ...]
    is_group: bool = False
    category: str | None = None
