"""The text of a reply while it is written: what can be shown already, token by token."""

import re
from collections.abc import Sequence
from typing import Any

from prompt_format.format import PromptFormat
from prompt_format.persona import OTHER_SIDE

REPLACEMENT = "\ufffd"  # stands for a character whose bytes have not all come
# A token of a tokenizer that falls back to bytes. It reads a run of them as a whole: one that makes no character makes
# none of the run one.
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
NUMBERED = re.compile(rf"{OTHER_SIDE}( \d*)?")  # on the way to "Them 2:"


class GrowingText:
    """Takes tokens, gives text; what it gave is never taken back.

    A reply's last line is held back while it may still turn out to be a speaker's label, which is no part of the
    reply, or while a character or an escape in it is half written.
    """

    def __init__(self, form: PromptFormat):
        self._form = form
        self._tokenizer: Any = form.template.tokenizer
        self._labels = tuple(f"{label}:" for label in (form.persona.name, OTHER_SIDE, "Me"))
        self._tokens: list[int] = []
        self._given = ""

    def take(self, token: int) -> str:
        """The text that *token* adds, or that it makes certain."""
        self._tokens.append(token)
        text = "\n".join(self._form.decode_reply(self._tokens))
        half_written = text.endswith((REPLACEMENT, "\\")) or self._is_byte(token)
        return "" if half_written or self._may_be_label(text.rpartition("\n")[2]) else self._give(text)

    def rest(self, tokens: Sequence[int]) -> str:
        """What the finished reply, *tokens*, has beyond what was given."""
        return self._give("\n".join(self._form.decode_reply(tokens)))

    def _give(self, text: str) -> str:
        if not text.startswith(self._given):
            return ""
        new, self._given = text[len(self._given) :], text
        return new

    def _is_byte(self, token: int) -> bool:
        return bool(BYTE.fullmatch(self._tokenizer.convert_ids_to_tokens(token) or ""))

    def _may_be_label(self, line: str) -> bool:
        return bool(NUMBERED.fullmatch(line)) or any(label.startswith(line) for label in self._labels)
