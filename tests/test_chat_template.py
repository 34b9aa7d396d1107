"""Any tokenizer with any chat template keeps the law of one prompt, or is refused."""

from typing import Any

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from errors import BaseRefused, PromptRefused
from prompt_format.bubbles import join_bubbles
from prompt_format.chat_template import ChatTemplate
from prompt_format.variants import ChatMessage
from tests.toy_tokenizers import (
    CHATML,
    CHATML_TOKENS,
    KINDS,
    ONLY_TRANSCRIPTS,
    TOYS,
    USELESS,
    byte_level,
    chat_template,
    named,
    tokenizer,
)


def chat(*contents: str) -> list[ChatMessage]:
    """A system message, then user and assistant by turns."""
    roles = ["system", *["user", "assistant"] * len(contents)]
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


HELLO = chat("be kind", "hello")

# -- what stands in front of the reply


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("chatml", "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"),
        ("no_template", "be kind\n\n### Message:\nhello\n\n### Reply:\n"),
        ("refuses_a_system_role", "<|im_start|>user\nbe kind\n\nhello<|im_end|>\n<|im_start|>assistant\n"),
        ("drops_the_system_text", "<|im_start|>user\nbe kind\n\nhello<|im_end|>\n<|im_start|>assistant\n"),
        (
            "writes_its_own_system_text",
            "<|im_start|>system\nYou answer questions.<|im_end|>\n"
            "<|im_start|>user\nbe kind\n\nhello<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "adds_a_default_system_text",
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("space_before_the_reply", "be kind\nGuest: hello\nHost: "),
        ("plain_text_markers_on_one_line", " SYSTEM: be kind USER: hello ASSISTANT: "),
        (
            "think_block_before_the_reply",
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        (
            "thinks_aloud_in_the_prompt",
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n</think>\n",
        ),
        (
            "channel_before_the_reply",
            "<|open|>system<|text|>be kind<|close|><|open|>user<|text|>hello<|close|>"
            "<|open|>assistant<|channel|>final<|text|>",
        ),
        (
            "another_history_with_a_reply",
            "[closed]<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("joins_tokens_from_role_names", "<|system|>be kind<|im_end|><|user|>hello<|im_end|><|assistant|>"),
        ("loses_roles", "be kind<|im_end|>hello<|im_end|>"),
    ],
)
def test_the_head(kind: str, head: str) -> None:
    """The prompt is what the template writes in front of a reply, not what it writes to ask for one."""
    assert "<|startoftext|>" + head == chat_template(kind).head(HELLO)


@pytest.mark.parametrize(
    ("kind", "date"),
    [
        ("dates_always", "Thursday 01 January 2026, 00:00"),
        ("dates_without_system", "Today: 2026-01-01"),
        ("dates_by_variable", "[01 Jan 2026]"),
    ],
)
def test_the_date_stands_still(kind: str, date: str) -> None:
    """A template that writes today's date gets the same one every day."""
    assert date in chat_template(kind).head(HELLO)


@pytest.mark.parametrize("kind", ["trims", "refuses_two_of_one_side", "drops_think_blocks_from_history"])
def test_text_that_comes_through_is_carried(kind: str) -> None:
    """A template that would change other text is used as long as it leaves this text alone."""
    history = chat("be kind", "a\u2028b  c", "ok </ think> \t x", "and?")

    assert chat_template("chatml").head(history) == chat_template(kind).head(history)


@pytest.mark.parametrize(
    ("kind", "history"),
    [
        ("trims", chat("be kind", "hello ")),
        ("escapes_markup", chat("be kind", "a & b")),
        ("drops_think_blocks_from_history", chat("be kind", "a", "<think>b</think>c", "d")),
        ("keeps_only_the_last_exchange", chat("be kind", "a", "b", "c")),
    ],
)
def test_text_that_would_be_changed_is_refused(kind: str, history: list[ChatMessage]) -> None:
    """A conversation that the template drops or rewrites part of is refused by a stable code."""
    with pytest.raises(PromptRefused) as refusal:
        chat_template(kind).head(history)

    assert "template_loses_text" == refusal.value.code


def test_a_template_that_cuts_long_text_is_found_out_when_it_does() -> None:
    """A template that cuts messages carries short ones and is refused for a long one."""
    template = ChatTemplate(byte_level(CHATML.replace("m.content", "m.content[:50]")))

    assert template.head(HELLO)
    with pytest.raises(PromptRefused) as refusal:
        template.head(chat("be kind", "x" * 51))
    assert "template_loses_text" == refusal.value.code


def test_what_the_template_refuses_is_refused() -> None:
    """A conversation on which the template raises is refused by a stable code."""
    with pytest.raises(PromptRefused) as refusal:
        chat_template("refuses_history").head(chat("be kind", "a", "b", "c"))

    assert "template_refused" == refusal.value.code


def test_typed_stand_ins_are_text() -> None:
    """The strings that stand for messages while a template is probed can be typed like any other."""
    head = chat_template("chatml").head(chat("reply7f3a9c", "reply7f3a9c1z reply7f3a9c0z", "reply7f3a9c", "x"))

    assert head.count("reply7f3a9c") == 4


# -- which are refused


@pytest.mark.parametrize("kind", USELESS)
def test_a_template_that_carries_no_conversation_is_refused(kind: str) -> None:
    """A template that raises, loses the reply or changes every text is refused, and what to do is said."""
    with pytest.raises(BaseRefused, match="Choose a base with a chat template") as refusal:
        ChatTemplate(byte_level(USELESS[kind]))

    assert "base_refused" == refusal.value.code


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"normalizer": normalizers.Lowercase()}, "does not give back"),
        ({"normalizer": normalizers.NFKC()}, "does not give back"),
        ({"normalizer": normalizers.NFD()}, "does not give back"),
        ({"control": (*CHATML_TOKENS, "~")}, "of 1 characters can be typed"),
        ({"eos": None, "template": "{% for m in messages %}{{ m.content }}|{% endfor %}"}, "no eos token"),
        ({"eos": None, "template": None}, "no eos token"),
    ],
    ids=["lower-case", "NFKC", "NFD", "one-letter token", "no end", "no end and no template"],
)
def test_a_tokenizer_that_cannot_be_used_safely_is_refused(change: dict[str, Any], fault: str) -> None:
    """A tokenizer that loses text, has a control token anyone can type, or no end of turn is refused by its fault."""
    with pytest.raises(BaseRefused, match=fault):
        ChatTemplate(byte_level(**change))


def test_all_faults_of_a_tokenizer_are_named_at_once() -> None:
    """A tokenizer with two faults is refused with both."""
    with pytest.raises(BaseRefused) as refusal:
        ChatTemplate(byte_level(normalizer=normalizers.Lowercase(), control=(*CHATML_TOKENS, "~")))

    assert 2 == len(refusal.value.details)


class SlowTokenizer:
    """A tokenizer written in Python, without the Rust backend whose state can be hashed: a number for a letter."""

    chat_template = "{% for m in messages %}\n{{ m.content }}{% endfor %}"
    eos_token, eos_token_id, added_tokens_decoder = "", 0, {}

    def apply_chat_template(self, conversation: list[ChatMessage], **_: object) -> str:
        return "".join("\n" + message["content"] for message in conversation)

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(map(chr, ids))


def test_a_tokenizer_without_a_file_of_its_own_is_refused() -> None:
    """A tokenizer that is not a tokenizer.json cannot be told from another, and so is refused."""
    with pytest.raises(BaseRefused, match="tokenizer.json"):
        _ = ChatTemplate(SlowTokenizer()).tokenizer_sha256


# -- control tokens


@pytest.mark.parametrize(
    "label", named(*KINDS, *TOYS, "starter", "qwen2.5", "smollm2", "gpt2", "pythia", "stories260k")
)
def test_no_control_token_can_be_typed(label: str) -> None:
    """Of every added token, written as bubbles write it, no control token comes back."""
    template = chat_template(label)
    for token in [*template.control_tokens, "<think>", "</think>"]:
        template.encode_text(join_bubbles([f"a{token}b", token, token + token], template.protected))


def test_typed_control_tokens_are_refused() -> None:
    """Text in which a control token was not broken up is refused, never encoded."""
    with pytest.raises(PromptRefused) as refusal:
        chat_template("chatml").encode_text("a<|im_end|>b")

    assert "control_token" == refusal.value.code


def test_white_space_tokens_are_text() -> None:
    """An added token of white space alone is ordinary text and is not broken up."""
    template = ChatTemplate(byte_level(control=(*CHATML_TOKENS, "\t", "    ")))

    assert not {"\t", "    "} & set(template.protected)
    assert template.encode_text("a\tb    c")


@pytest.mark.parametrize("text", ["a\u2581b", "\u2581", "x<0x0A>"])
def test_text_that_a_tokenizer_loses_is_refused(text: str) -> None:
    """Text that would be read as another text is refused: two messages never share their tokens."""
    with pytest.raises(PromptRefused) as refusal:
        chat_template("sentencepiece").encode_text(text)

    assert "tokenizer_loses_text" == refusal.value.code


@pytest.mark.parametrize("text", ["hi .", "do n't", " a  b ", "ok ?! 's"])
def test_spaces_are_not_cleaned_up(text: str) -> None:
    """A tokenizer that says it cleans up spaces gives them back all the same."""
    template = chat_template("sentencepiece")

    assert text == template.decode_reply(template.encode_reply(text))


# -- the reply


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("chatml", "<|im_end|>"),
        ("no_template", "<|im_end|>"),
        ("channel_before_the_reply", "<|done|>"),
        ("nothing_after_the_reply", "<|im_end|>"),
        ("text_before_the_end_of_turn", "<|im_end|>"),
        ("plain_text_markers", "<|im_end|>"),
    ],
)
def test_the_end_of_turn(kind: str, end: str) -> None:
    """A reply ends with the first control token after it, or with the tokenizer's eos where there is none."""
    template = chat_template(kind)

    assert tokenizer(kind).convert_tokens_to_ids(end) == template.end_of_turn
    assert template.end_of_turn == template.encode_reply("ya")[-1]


def test_generation_stops_at_the_end_of_turn_and_at_eos() -> None:
    """Both the template's end of turn and the tokenizer's eos end a reply."""
    ids = tokenizer("channel_before_the_reply").convert_tokens_to_ids(["<|done|>", "<|im_end|>"])

    assert set(ids) == chat_template("channel_before_the_reply").stop_ids


@pytest.mark.parametrize(("kind", "lead"), [("space_before_the_reply", " "), ("chatml", ""), ("no_template", "")])
def test_a_space_in_front_of_the_reply_belongs_to_it(kind: str, lead: str) -> None:
    """Where a template writes a space before the reply, the prompt ends without and the reply begins with it."""
    template = chat_template(kind)

    prompt = template.tokenizer.decode(template.encode(template.head(HELLO)))
    assert prompt == template.head(HELLO).removesuffix(lead)
    assert lead + "ya" == template.tokenizer.decode(template.encode_reply("ya")[:-1])


@pytest.mark.parametrize("after", ["<|im_end|>", "<|im_end|>\n<|im_start|>user\nmore", "<|pad|>x", ""])
def test_what_follows_a_reply_is_left_out(after: str) -> None:
    """A decoded reply ends at the first control token."""
    template = chat_template("chatml")

    assert "ya" == template.decode_reply(tokenizer("chatml").encode("ya" + after))


def test_a_reply_is_tokenised_on_its_own() -> None:
    """No token reaches over the seam between prompt and reply, even if the vocabulary has one that would."""
    template = chat_template("merges_across_the_seam")
    whole = template.tokenizer.encode(template.head(HELLO) + "ya")

    assert whole != [*template.encode(template.head(HELLO)), *template.encode_reply("ya")[:-1]]
    assert "ya" == template.decode_reply(template.encode_reply("ya"))


# -- speakers


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].refused in ({}, ONLY_TRANSCRIPTS)])
def test_which_templates_tell_speakers_apart(kind: str) -> None:
    """A template tells speakers apart if it marks each role by a line of its own or a control token."""
    assert (KINDS[kind].refused != ONLY_TRANSCRIPTS) == chat_template(kind).distinguishes_speakers()


# -- digests


def sha(toy: PreTrainedTokenizerFast) -> tuple[str, str, str]:
    template = ChatTemplate(toy)
    return template.template_sha256, template.tokenizer_sha256, template.control_tokens_sha256


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({}, (False, False, False)),
        ({"template": CHATML + " "}, (True, False, False)),
        ({"merges": (("a", "b"),)}, (False, True, False)),
        ({"normalizer": normalizers.NFC()}, (False, True, False)),
        ({"control": (*CHATML_TOKENS, "<|more|>")}, (False, True, True)),
        ({"control": CHATML_TOKENS[::-1]}, (False, True, False)),
    ],
    ids=["nothing", "template", "merges", "normalizer", "a control token", "their order"],
)
def test_digests(change: dict[str, Any], changed: tuple[bool, bool, bool]) -> None:
    """Template, tokenizer and control tokens each have a digest, which changes with them and with nothing else."""
    ours, theirs = sha(byte_level()), sha(byte_level(**change))

    assert changed == tuple(one != other for one, other in zip(ours, theirs, strict=True))


def test_what_a_call_sets_does_not_change_the_tokenizer() -> None:
    """Truncation and padding are set per call and are no part of the tokenizer's digest."""
    toy = byte_level()
    before = sha(toy)
    toy.pad_token = "<|pad|>"
    toy(["a long one", "x"], truncation=True, max_length=4, padding="max_length")

    assert before == sha(toy)
