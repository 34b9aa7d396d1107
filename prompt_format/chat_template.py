"""A tokenizer and its chat template, made to keep the law of one prompt.

Public templates do many things to a conversation: they add a system text, carry today's date, write something
between the prompt and the reply, drop or trim text, refuse roles. So this module never asks a template for a
"generation prompt". It renders the whole conversation *with* a stand-in reply, as training would, and takes what
stands before the stand-in: that head is the prompt, for training and for serving alike. What the template does to
the messages is checked each time: text that does not come through unchanged is refused, never sent.

Knows nothing of threads or variants: chat messages in, token ids out.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from jinja2 import TemplateError

from errors import BaseRefused, PromptRefused
from prompt_format.bubbles import protect
from prompt_format.variants import ChatMessage

# Stands for the reply (and with a number, for a message) while a template is rendered.
STAND_IN = "reply7f3a9c"
# Templates that print the date get this one: the same thread gives the same prompt tomorrow.
PINNED_DATE = datetime(2026, 1, 1)
# Written in Jinja, because transformers hands no function of the caller to a template. The line break belongs to the
# block, so the template itself still begins at the start of a line.
_PIN_THE_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(
        f" | replace('%{code}', '{PINNED_DATE.strftime('%' + code)}')" for code in (*"AaBbDdeFHIjMmpSTYyZ", "-d", "-m")
    )
    + " }}{% endmacro %}\n"
)
# Text that templates look for in replies and cut out, whether or not it is a token.
THINK_TAGS = ("<think>", "</think>")
# For base models that bring no chat template. No message can write its marks: they begin with an empty line, and
# between the lines of a message, each a turn, there is none.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '\n\n### Message:\n' + m.content }}"
    "{% else %}{{ '\n\n### Reply:\n' + m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Every kind of text a tokenizer may lose: composed and joined characters, emoji, controls, rare scripts.
LOSSLESS_SAMPLE = (
    "Hi you — ÄÖß naïve 日本 и ไทย 👍🏽 👩‍👩‍👧 \U0001fae0 ¯\\\\_(ツ)_/¯ a  b\tc\x0b\u2028\u0085 <|x|> [INST] 1234"
)


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    chat_template: Any
    eos_token: Any
    eos_token_id: Any

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...
    def encode(self, text: str, **kwargs: Any) -> list[int]: ...
    def decode(self, ids: Any, **kwargs: Any) -> Any: ...


class ChatTemplate:
    """One tokenizer with its chat template, probed once.

    Raises:
        BaseRefused: If the template cannot carry a conversation or the tokenizer loses text. Everything found is
            in ``details``.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer: Tokenizer = tokenizer
        self._backend = _backend(tokenizer)
        self.text = _template_text(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        # White-space tokens are ordinary text (a tab, a run of spaces): breaking them up would change clean text.
        self.control_tokens = tuple(sorted({t.content for t in added.values() if t.content.strip()}))
        self._control_ids = frozenset(i for i, t in added.items() if t.content.strip())
        self.protected = tuple(sorted({*self.control_tokens, *THINK_TAGS}, key=lambda s: (-len(s), s)))
        self._system_role = True
        self._scaffolds: dict[tuple[str, ...], list[str]] = {}
        self._marks: dict[tuple[str, ...], list[int]] = {}
        self._probe()

    def head(self, messages: Sequence[ChatMessage]) -> str:
        """The text in front of the reply to *messages* (system first, then user and assistant by turns).

        Raises:
            PromptRefused: If the template refuses the conversation or changes a message.
        """
        return self._render(messages)[0]

    def encode(self, head: str) -> list[int]:
        """Token ids of a rendered text; the control tokens in it are the template's own."""
        return self._encode(head.removesuffix(self.lead))

    def encode_prompt(self, messages: Sequence[ChatMessage]) -> tuple[str, list[int]]:
        """The head for *messages* and its token ids, whose only control tokens are the template's own.

        Raises:
            PromptRefused: As ``head`` and ``encode_text`` do.
        """
        try:
            head = self.head(messages)
        except PromptRefused:
            self._check_each(messages)  # a control token typed by somebody is the better reason
            raise
        ids = self.encode(head)
        if not self._comes_through(messages, head, ids):
            self._check_each(messages)
        return head, ids

    def encode_reply(self, text: str) -> list[int]:
        """Token ids of a reply and of the end-of-turn token, tokenised on their own.

        Raises:
            PromptRefused: If *text* would give a control token.
        """
        return [*self.encode_text(self.lead + text), self.end_of_turn]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of text that holds no control token.

        Raises:
            PromptRefused: If it would give one all the same, or if the tokenizer loses some of it.
        """
        ids = self._encode(text)
        if self._control_ids.intersection(ids):
            raise PromptRefused(
                "a message spells a control token that cannot be broken up with this tokenizer", code="control_token"
            )
        if self._decode(ids).strip(" ") != text.strip(" "):
            raise PromptRefused(
                "a message holds characters that this tokenizer does not give back", code="tokenizer_loses_text"
            )
        return ids

    def as_text(self, ids: Sequence[int]) -> str:
        """The text of *ids*, control tokens included."""
        return self._decode(ids)

    def decode_reply(self, ids: Sequence[int]) -> str:
        """The text of generated *ids*; control tokens and all that follows the first of them are left out."""
        plain = []
        for i in ids:
            if i in self.stop_ids or i in self._control_ids:
                break
            plain.append(i)
        return self._decode(plain).removeprefix(self.lead)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends a reply: the template's end of turn and the tokenizer's own end of text."""
        eos = self.tokenizer.eos_token_id
        return frozenset({self.end_of_turn} | ({eos} if eos is not None else set()))

    @cached_property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def tokenizer_sha256(self) -> str:
        """Of the tokenizer as it works: vocabulary, merges, normaliser, added tokens."""
        state = json.loads(self._backend.to_str())
        state.pop("truncation", None)  # set per call by transformers: not what the tokenizer is
        state.pop("padding", None)
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    @cached_property
    def control_tokens_sha256(self) -> str:
        return hashlib.sha256("\n".join(self.control_tokens).encode()).hexdigest()

    def distinguishes_speakers(self) -> bool:
        """Whether the template shows which role said what, with marks that no message can imitate.

        A message of the `turns` variant is one line, so a line break or a control token is such a mark.
        """
        system = ("system",) if self._system_role else ()
        *_, before_reply, after_reply, _, _ = self._scaffold((*system, "user", "assistant", "user"))
        marked = all(
            "\n" in piece or any(token in piece for token in self.control_tokens)
            for piece in (before_reply, after_reply)
        )
        return before_reply != after_reply and marked

    # -- how it is done

    def _comes_through(self, messages: Sequence[ChatMessage], head: str, ids: Sequence[int]) -> bool:
        """Whether the whole prompt decodes to itself with the template's control tokens alone.

        Then so does each message in it. Where it does not, the tokenizer may only write spaces around control tokens.
        """
        marks = [i for i in ids if i in self._control_ids]
        return marks == self._own_marks(messages) and self._decode(ids) == head.removesuffix(self.lead)

    def _check_each(self, messages: Sequence[ChatMessage]) -> None:
        for message in messages:
            self.encode_text(message["content"])

    def _own_marks(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The control tokens that the template itself writes around messages of these roles."""
        chat = list(messages) if self._system_role else _folded(messages)
        roles = tuple(message["role"] for message in chat)
        if roles not in self._marks:
            *before, _ = self._scaffold(roles)
            self._marks[roles] = [i for i in self.encode(STAND_IN.join(before)) if i in self._control_ids]
        return self._marks[roles]

    def _render(self, messages: Sequence[ChatMessage]) -> tuple[str, str]:
        """(head, tail): the text before and after the reply.

        The head is put together from what the template writes around stand-ins; then the template is given the real
        messages, and must write the same. A template that trims, drops or rewrites text is caught by that.
        """
        chat = list(messages) if self._system_role else _folded(messages)
        *before, tail = self._scaffold(tuple(message["role"] for message in chat))
        contents = [message["content"] for message in chat]
        head = "".join(piece + text for piece, text in zip(before, [*contents, ""], strict=True))
        if self._template([*chat, _message("assistant", STAND_IN)]) != head + STAND_IN + tail:
            raise PromptRefused(
                "the chat template changes the text of a message, or what stands around it", code="template_loses_text"
            )
        for token in self.control_tokens:
            if token in head and head.count(token) > sum(piece.count(token) for piece in before):
                raise PromptRefused(
                    "a message and the chat template's own marks together spell a control token", code="control_token"
                )
        return head, tail

    def _scaffold(self, roles: tuple[str, ...]) -> list[str]:
        """What the template writes before each message, before the reply, and after it."""
        if roles not in self._scaffolds:
            names = [f"{STAND_IN}{number}z" for number in range(len(roles))]
            chat = [_message(role, name) for role, name in zip(roles, names, strict=True)]
            rest = self._template([*chat, _message("assistant", STAND_IN)])
            pieces = []
            for name in [*names, STAND_IN]:
                piece, found, rest = rest.partition(name)
                if not found:
                    raise PromptRefused("the chat template drops a message", code="template_loses_text")
                pieces.append(piece)
            self._scaffolds[roles] = [*pieces, rest]
        return self._scaffolds[roles]

    def _template(self, chat: Sequence[ChatMessage]) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(chat),
                chat_template=_PIN_THE_DATE + self.text,
                tokenize=False,
                add_generation_prompt=False,
                enable_thinking=False,
                date_string=PINNED_DATE.strftime("%d %b %Y"),
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise PromptRefused(
                f"the chat template refuses the conversation ({type(error).__name__})", code="template_refused"
            ) from error
        return str(text)

    def _encode(self, text: str) -> list[int]:
        """As transformers does it, without its detours and without offsets."""
        return list(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def _probe(self) -> None:
        """Find out what the template does, or refuse it."""
        user: ChatMessage = {"role": "user", "content": "hello there"}
        try:
            head, tail = self._render([_message("system", "be kind"), user])
        except PromptRefused:
            self._system_role = False  # refused or dropped: its text goes into the first user message
            try:
                head, tail = self._render([_message("system", "be kind"), user])
            except PromptRefused as error:
                raise BaseRefused(
                    f"this base model's chat template cannot carry a conversation: {error.message}. "
                    "Choose a base with a chat template for system, user and assistant messages"
                ) from error
        # A template that writes 'Assistant: ' means the reply's first word to carry the space.
        self.lead = head[len(head.rstrip(" ")) :]
        self.end_of_turn = self._end_of_turn(tail)
        self._check_lossless()

    def _end_of_turn(self, tail: str) -> int:
        """The id that ends a reply: the first control token after it, else the tokenizer's end of text."""
        for i in self._encode(tail):
            if i in self._control_ids:
                return i
        if self.tokenizer.eos_token_id is None:
            raise BaseRefused("neither the chat template nor the tokenizer says how a reply ends (no eos token)")
        return int(self.tokenizer.eos_token_id)

    def _check_lossless(self) -> None:
        faults = []
        if self._decode(self._encode(LOSSLESS_SAMPLE)).strip(" ") != LOSSLESS_SAMPLE:
            faults.append("it does not give back what it encodes (letters, emoji or spaces are lost)")
        for token in self.protected:
            broken = protect(f"a{token}b", self.protected)
            if self._control_ids.intersection(self._encode(broken)):
                faults.append(f"its control token of {len(token)} characters can be typed by a person")
        if faults:
            raise BaseRefused("this base model's tokenizer cannot be used safely", details=faults)


def _backend(tokenizer: Any) -> Any:
    """The Rust tokenizer inside *tokenizer*, set to encode whole texts as they are."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BaseRefused("this tokenizer has no fast (Rust) form: only tokenizer.json files are supported")
    backend.no_truncation()
    backend.no_padding()
    return backend


def _template_text(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template else PLAIN_TEMPLATE


def _message(role: str, content: str) -> ChatMessage:
    return {"role": role, "content": content}


def _folded(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """*messages* for a template that has no system role: its text stands before the first user message."""
    system, first, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]
