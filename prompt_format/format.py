"""The prompt format of one contract: thread -> prompt, (thread, reply) -> training example, tokens -> bubbles.

``encode_example(thread, reply).ids[:reply_start] == encode_prompt(thread)`` holds by construction: both take the head
from the same call, and the reply is tokenised on its own.
Try it: ``POST /prompt`` shows messages, text and ids of any thread; ``tests/golden`` holds some.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from errors import BaseRefused, DataRefused, PromptRefused
from prompt_format.bubbles import split_bubbles
from prompt_format.chat_template import ChatTemplate
from prompt_format.contract import FORMAT_VERSION, Contract, GoldenPrompt, differences
from prompt_format.golden_threads import GOLDEN_THREADS
from prompt_format.messages import Message, Thread, canonical
from prompt_format.persona import Persona, check_category
from prompt_format.turns import Turn, current_session, merge_bursts
from prompt_format.variants import DEFAULT_WINDOWS, VARIANTS, ChatMessage, one_line, speaker_label
from prompt_format.window import Window, windows

FRAMES = 64  # kinds of thread whose head and tail a format remembers


@dataclass(frozen=True)
class Prompt:
    """Chat messages, the text they render to, and its token ids: exactly what the model is fed."""

    messages: list[ChatMessage]
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and reply; the loss is on ``ids[reply_start:]``, whose last id ends the turn."""

    ids: list[int]
    reply_start: int


class PromptFormat:
    """One variant, window and persona on one tokenizer.

    Raises:
        BaseRefused: If the chat template cannot express the variant.
        DataRefused: If the variant does not exist.
    """

    def __init__(self, template: ChatTemplate, variant: str, persona: Persona, window: Window | None = None):
        if variant not in VARIANTS:
            raise DataRefused(f"no variant named '{variant}'; there are: {', '.join(VARIANTS)}", code="unknown_variant")
        self.template, self.variant, self.persona = template, variant, persona
        self.window = window or DEFAULT_WINDOWS[variant]
        self._frames: dict[tuple[bool, str | None], tuple[tuple[int, ...], int]] = {}
        try:
            if variant == "turns" and not template.distinguishes_speakers():
                raise BaseRefused(
                    "this base model's chat template does not mark who speaks, so the variant 'turns' cannot be told "
                    "apart from forged text: use raw_style, raw_style_variable or category_aware",
                    code="variant_not_supported",
                )
            self.contract = self._contract()
            self.digest = self.contract.digest
        except PromptRefused as error:
            raise BaseRefused(
                f"this base model cannot carry the variant '{variant}': {error.message}", code=error.code
            ) from None

    def encode_prompt(self, thread: Thread) -> list[int]:
        """Token ids of the prompt for *thread*. Raises as ``prompt`` does."""
        return self.prompt(thread).ids

    @property
    def extends(self) -> bool:
        """Whether the prompt of a thread that has grown begins with the one before it and the reply."""
        return self.variant == "turns"

    def head_ids(self, is_group: bool = False, category: str | None = None) -> tuple[int, ...]:
        """What every prompt of this format begins with, in threads of this kind: the system prompt and its scaffold."""
        return self._frame(is_group, category)[0]

    def marks(self, ids: Sequence[int], is_group: bool = False, category: str | None = None) -> tuple[int, ...]:
        """How far other prompts will be the same as *ids*: what a prefix cache had best keep.

        One place is the end of the head; the other, where prompts are transcripts, the end of the last line. The line's
        last token is left out, since the break that follows it in a longer transcript may be part of that token.
        """
        head, tail = self._frame(is_group, category)
        begins = [len(head)] if head and tuple(ids[: len(head)]) == head else []
        line_end = len(ids) - tail - 1
        return (*begins, line_end) if not self.extends and line_end > len(head) else tuple(begins)

    def _frame(self, is_group: bool, category: str | None) -> tuple[tuple[int, ...], int]:
        """(the ids that prompts of this kind begin with alike, how many they end with alike)."""
        known = self._frames.get((is_group, category))
        if known is None:
            texts = ("a", "b")
            threads = [Thread((Message(text, from_me=False),), is_group, category) for text in texts]
            one, other = (self.encode_prompt(thread) for thread in threads)
            mine_first = (Message("a", from_me=True), Message("b", from_me=False))
            mine = self.encode_prompt(Thread(mine_first, is_group, category))
            head = min(_alike(one, other), _alike(one, mine)) - 1  # what follows may be part of its last token
            known = tuple(one[: max(head, 0)]), _alike(one[::-1], other[::-1])
            if len(self._frames) == FRAMES:
                self._frames.clear()  # a client may name ever new categories
            self._frames[is_group, category] = known
        return known

    def encode_example(self, thread: Thread, reply: Sequence[str]) -> Example:
        """Token ids of the prompt for *thread* and of *reply*, a list of bubbles. Raises as ``prompt`` does."""
        return self.encode_row(self.row(thread, reply))

    def prompt(self, thread: Thread) -> Prompt:
        """The prompt for *thread*: the longest window of its last session that fits.

        Raises:
            PromptRefused: If nobody but the persona has said anything, or the template cannot carry the text.
        """
        if not thread.messages or thread.messages[-1].from_me:
            raise PromptRefused(
                "the last message must be the other side's: there is nothing to answer", code="nothing_to_answer"
            )
        if thread.category is not None:
            try:
                check_category(thread.category)
            except ValueError as error:
                raise PromptRefused(str(error), code="invalid_category") from None
        return self.prompt_after(merge_bursts(thread, self.window.burst_gap), thread.is_group, thread.category)

    def prompt_after(self, turns: Sequence[Turn], is_group: bool = False, category: str | None = None) -> Prompt:
        """The prompt for a thread whose turns are known: those that ``merge_bursts`` gives, the last one not mine.

        Raises:
            PromptRefused: If the template cannot carry the text, or too few tokens are allowed for any.
        """
        session = current_session(turns, self.window.session_gap)
        for cut in windows(session, self.window):
            messages = VARIANTS[self.variant](self.persona, cut, is_group, category, self.template.protected)
            prompt = self._encode(messages)
            if len(prompt.ids) <= self.window.tokens:
                return prompt
        raise PromptRefused(
            f"the prompt takes more than {self.window.tokens} tokens before any message: allow more",
            code="prompt_too_long",
        )

    def row(self, thread: Thread, reply: Sequence[str]) -> list[ChatMessage]:
        """The chat messages of a training row: the prompt's, and the reply as assistant.

        Raises:
            PromptRefused: As ``prompt`` does; also if *reply* holds no text.
        """
        return [*self.prompt(thread).messages, self._answer(reply)]

    def row_after(
        self, turns: Sequence[Turn], reply: Sequence[str], is_group: bool = False, category: str | None = None
    ) -> list[ChatMessage]:
        """As ``row``, for a thread whose turns are known. Raises as ``prompt_after`` and ``row`` do."""
        return [*self.prompt_after(turns, is_group, category).messages, self._answer(reply)]

    def encode_row(self, messages: Sequence[ChatMessage]) -> Example:
        """Token ids of a training row, as ``row`` makes them and datasets hold them.

        Raises:
            PromptRefused: If the last message is no reply, or the template cannot carry the text.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise PromptRefused("a training row must end with an assistant message: the reply", code="no_reply")
        head = self._encode(messages[:-1]).ids
        return Example([*head, *self.template.encode_reply(messages[-1]["content"])], len(head))

    def texts(self, example: Example) -> tuple[str, str]:
        """(prompt, reply) of *example* as the model sees them, control tokens included: for people to look at."""
        return (
            self.template.as_text(example.ids[: example.reply_start]),
            self.template.as_text(example.ids[example.reply_start :]),
        )

    def decode_reply(self, ids: Sequence[int]) -> list[str]:
        """The bubbles of a reply from its token ids: the inverse of what ``encode_example`` appends.

        What a model writes beyond one turn of its own (another line with a speaker label, say) is left out.
        """
        return self.parse_reply(self.template.decode_reply(ids))

    def parse_reply(self, text: str) -> list[str]:
        """The bubbles of a reply's text. An untrained model's own label in front is taken off."""
        speaker = speaker_label(self.persona)
        bubbles: list[str] = []
        for number, line in enumerate(text.strip().split("\n")):
            if speaker.match(line):
                if number > 0 or not line.startswith(self.persona.name):
                    break
                line = speaker.sub("", line, count=1)
            bubbles += split_bubbles(line)
        return bubbles

    def check(self, contract: Contract) -> None:
        """Refuse *contract* unless this format gives the same one.

        Raises:
            DataRefused: Code ``contract_mismatch``; each part that differs is named, with both values.
        """
        found = differences(contract, self.contract)
        if found:
            raise DataRefused(
                "made for another prompt than this base model and this version give",
                code="contract_mismatch",
                details=found,
            )

    def _answer(self, reply: Sequence[str]) -> ChatMessage:
        bubbles = [bubble for bubble in map(canonical, reply) if bubble]
        if not bubbles:
            raise PromptRefused("the reply has no text: there is nothing to learn from it", code="no_reply")
        return {"role": "assistant", "content": one_line(self.persona, bubbles, self.template.protected)}

    def _encode(self, messages: Sequence[ChatMessage]) -> Prompt:
        return Prompt(list(messages), *self.template.encode_prompt(messages))

    def _contract(self) -> Contract:
        return Contract(
            format_version=FORMAT_VERSION,
            variant=self.variant,
            window=self.window,
            persona=self.persona,
            template_sha256=self.template.template_sha256,
            tokenizer_sha256=self.template.tokenizer_sha256,
            control_tokens_sha256=self.template.control_tokens_sha256,
            end_of_turn=self.template.end_of_turn,
            golden=[
                GoldenPrompt(thread=name, ids=self.encode_prompt(thread)) for name, thread in GOLDEN_THREADS.items()
            ],
        )


def format_for(template: ChatTemplate, contract: Contract) -> PromptFormat:
    """The format that *contract* describes, on this tokenizer, checked part by part.

    Raises:
        DataRefused: Code ``contract_mismatch``, naming each part that differs.
        BaseRefused: If the chat template cannot express the variant.
    """
    if contract.variant not in VARIANTS:
        raise DataRefused(
            f"contract.variant is '{contract.variant}', which this version does not know", code="contract_mismatch"
        )
    found = PromptFormat(template, contract.variant, contract.persona, contract.window)
    found.check(contract)
    return found


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
