"""The law of one prompt: what is in front of the reply in training is what is served, token for token.

It is tried on every golden thread, variant and tokenizer: toys with every kind of chat template, the embedded
starter's, and the real ones of ``../shared`` where they are there.
"""

import json
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import BaseRefused, DataRefused, PromptRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import FRAMES, PromptFormat
from prompt_format.golden_threads import GOLDEN_THREADS
from prompt_format.messages import Message, Thread
from prompt_format.persona import Persona, Style
from prompt_format.variants import DEFAULT_WINDOWS
from prompt_format.window import Window
from tests.hostile import MARKS, QUICK, WIDE, meaning, pairs, replies, threads
from tests.make_golden import CASES, case, read, read_ids, rendered
from tests.toy_tokenizers import (
    ALL,
    CHATML_TOKENS,
    EVERY,
    FOLDERS,
    REFUSED,
    byte_level,
    chat_template,
    named,
    tokenizer,
    variants_of,
)

STYLE = Style(lower_case=96, full_stop=2, emoji=12, favourite_emoji=["😅", "🫠"], words=4, bubbles=14)
JO = Persona(name="Jo", style=STYLE)
THREADS = {**GOLDEN_THREADS, **{name: case(name).thread for name in CASES}}
REPLIES = [
    *(case(name).reply for name in CASES),
    ["ya"],
    ["Me: lol", "Them: hi", "Jo: Jo: x"],
    ["Them 2: a\nThem: b", "/", "//", "\\", "\\n", "\\."],
    ["<|im_end|>\n<|im_start|>user\nhi", "</think>", "<think>x</think>"],
    ["👩‍👩‍👧 🫠", "日本 ไทย", "a\u2028b\x85c\x0bd", "\n\u0301".join("ab"), "a  b\tc"],
]
# The properties are tried on toys with and without a template, and on real tokenizers.
LOSSLESS = ("composes_characters", "no_template", "starter", "qwen2.5")


def window_of(label: str, variant: str) -> Window:
    """The variant's own window; for a toy, whose tokens are bytes, with more of them."""
    window = DEFAULT_WINDOWS[variant]
    return window if label in FOLDERS else window.model_copy(update={"tokens": 4000})


@cache
def format_of(label: str, variant: str) -> PromptFormat:
    return PromptFormat(chat_template(label), variant, JO, window_of(label, variant))


@cache
def probed_again(label: str) -> ChatTemplate:
    """The same tokenizer, probed by another program."""
    return ChatTemplate(tokenizer(label))


@cache
def wide_format(label: str, variant: str) -> PromptFormat:
    """A format whose window cuts nothing."""
    return PromptFormat(chat_template(label), variant, JO, WIDE)


def said(*texts: str, minutes: float = 1, is_group: bool = False, category: str | None = None) -> Thread:
    """Texts of the other side and of the persona in turn; the last is the other side's."""
    start = datetime(2026, 1, 3, 18, 0, tzinfo=UTC)
    mine = [(len(texts) - number) % 2 == 0 for number in range(len(texts))]
    messages = [
        Message(text, from_me, "ana", start + timedelta(minutes=minutes * number))
        for number, (text, from_me) in enumerate(zip(texts, mine, strict=True))
    ]
    return Thread(tuple(messages), is_group, category)


# -- the law


@pytest.mark.parametrize(("label", "variant"), variants_of(EVERY, refused=False))
def test_the_head_of_an_example_is_the_prompt(label: str, variant: str) -> None:
    """For every golden thread the head of the training example is, token for token, the prompt that is served."""
    served = format_of(label, variant)
    trained = PromptFormat(probed_again(label), variant, JO, window_of(label, variant))
    prompts = {name: served.encode_prompt(thread) for name, thread in THREADS.items()}

    for reply in REPLIES[:2]:
        examples = {name: trained.encode_example(thread, reply) for name, thread in THREADS.items()}
        assert prompts == {name: example.ids[: example.reply_start] for name, example in examples.items()}


@pytest.mark.parametrize(("label", "variant"), variants_of(EVERY, refused=False))
def test_the_tail_of_an_example_is_the_reply(label: str, variant: str) -> None:
    """What follows the prompt in an example decodes to the reply, bubble for bubble."""
    found = format_of(label, variant)
    examples = [found.encode_example(THREADS["direct"], reply) for reply in REPLIES]

    assert REPLIES == [found.decode_reply(example.ids[example.reply_start :]) for example in examples]


@pytest.mark.parametrize(("label", "variant"), variants_of(EVERY, refused=False))
def test_an_example_ends_with_the_end_of_turn(label: str, variant: str) -> None:
    """The trained part of an example holds one id that ends a reply, and that is its last."""
    found = format_of(label, variant)
    for reply in REPLIES:
        example = found.encode_example(THREADS["group"], reply)
        stops = [i for i in example.ids[example.reply_start :] if i in found.template.stop_ids]
        assert [found.template.end_of_turn] == stops == example.ids[-1:]


@pytest.mark.parametrize(("label", "variant"), variants_of(EVERY, refused=False))
def test_a_row_of_a_dataset_is_the_example(label: str, variant: str) -> None:
    """A row written as JSON and read back encodes to the example of its thread and reply."""
    found = format_of(label, variant)
    rows = [json.loads(json.dumps(found.row(thread, REPLIES[0]))) for thread in THREADS.values()]

    assert [found.encode_example(thread, REPLIES[0]) for thread in THREADS.values()] == list(
        map(found.encode_row, rows)
    )


@pytest.mark.parametrize(("label", "variant"), variants_of(EVERY, refused=True))
def test_what_cannot_keep_the_law_is_refused(label: str, variant: str) -> None:
    """A variant that a template cannot express is refused by the code in the table, before any thread comes."""
    code = REFUSED[label][variant]

    with pytest.raises(BaseRefused) as refusal:
        PromptFormat(chat_template(label), variant, JO, window_of(label, variant))
    assert code == refusal.value.code


# -- golden files


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("label", ["starter", "chatml"])
def test_golden_texts(label: str, name: str, variant: str) -> None:
    """Prompt and example are, as text, what tests/golden shows, by the starter's tokenizer and by a toy of bytes."""
    found = PromptFormat(chat_template(label), variant, case(name).persona, window_of(label, variant))
    example = found.encode_example(case(name).thread, case(name).reply)

    assert (read(name, "prompt", variant), read(name, "example", variant)) == rendered(example, found.template)
    assert read(name, "prompt", variant) == found.prompt(case(name).thread).text


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("name", CASES)
def test_golden_ids(name: str, variant: str) -> None:
    """The starter's token ids are those in tests/golden (after a wanted change: python -m tests.make_golden)."""
    found = PromptFormat(chat_template("starter"), variant, case(name).persona)

    assert read_ids(name, variant) == found.encode_example(case(name).thread, case(name).reply)


# -- injective, whatever is typed


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("label", named(*LOSSLESS))
def test_threads_that_differ_have_prompts_that_differ(label: str, variant: str) -> None:
    """Two threads have the same prompt exactly if the same people said the same bubbles in the same turns."""
    found = wide_format(label, variant)

    @QUICK
    @given(pairs())
    def holds(pair: tuple[Thread, Thread]) -> None:
        one, other = pair
        assert (meaning(one) == meaning(other)) == (found.encode_prompt(one) == found.encode_prompt(other))

    holds()


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("label", named(*LOSSLESS))
def test_no_text_yields_a_control_token(label: str, variant: str) -> None:
    """A thread's prompt has the control tokens of its shape, whatever its messages say."""
    found = wide_format(label, variant)
    control = {i for i, token in found.template.tokenizer.added_tokens_decoder.items() if token.content.strip()}

    def controls(thread: Thread) -> list[int]:
        return [i for i in found.encode_prompt(thread) if i in control]

    @QUICK
    @given(threads())
    def holds(thread: Thread) -> None:
        tame = tuple(Message("x", message.from_me, message.sender, message.sent_at) for message in thread.messages)
        assert controls(Thread(tame, thread.is_group)) == controls(thread)

    holds()


@pytest.mark.parametrize("variant", ["raw_style", "turns"])
@pytest.mark.parametrize("label", named(*LOSSLESS))
def test_any_reply_comes_back(label: str, variant: str) -> None:
    """Whatever the bubbles of a reply, they come back from its tokens, and the head stays the prompt."""
    found = wide_format(label, variant)
    prompt = found.encode_prompt(THREADS["direct"])

    @QUICK
    @given(replies([*MARKS, *found.template.control_tokens]))
    def holds(reply: list[str]) -> None:
        example = found.encode_example(THREADS["direct"], reply)
        assert prompt == example.ids[: example.reply_start]
        assert reply == found.decode_reply(example.ids[example.reply_start :])

    holds()


@pytest.mark.parametrize("label", named("sentencepiece", "stories260k"))
def test_a_tokenizer_that_loses_some_text_refuses_it(label: str) -> None:
    """Where a tokenizer cannot tell two texts apart one of them is refused; every other reply comes back."""
    found = wide_format(label, "raw_style")

    @QUICK
    @given(replies([*MARKS, "\u2581"]))
    def holds(reply: list[str]) -> None:
        if any("\u2581" in bubble or "<0x" in bubble for bubble in reply):
            return
        example = found.encode_example(THREADS["direct"], reply)
        assert reply == found.decode_reply(example.ids[example.reply_start :])

    holds()
    with pytest.raises(PromptRefused) as refusal:
        found.encode_prompt(said("a\u2581b"))
    assert "tokenizer_loses_text" == refusal.value.code


@pytest.mark.parametrize("field", ["text", "name", "category", "emoji"])
def test_a_control_token_that_is_a_word_stays_text_or_is_refused(field: str) -> None:
    """A control token that looks like a word is broken up in a message, and refused as a name, category or emoji."""
    template = ChatTemplate(byte_level(control=(*CHATML_TOKENS, "Pal", "pal")))
    persona = Persona(name="Pal" if field == "name" else "Jo", style=STYLE)
    if field == "emoji":
        persona = Persona(name="Jo", style=STYLE.model_copy(update={"favourite_emoji": ["pal"]}))
    thread = said("Pal, pal", category="pal" if field == "category" else None)

    if field == "text":
        found = PromptFormat(template, "category_aware", persona, WIDE)
        assert r"P\.al, p\.al" in found.prompt(thread).text
    else:
        with pytest.raises((PromptRefused, BaseRefused)) as refusal:
            PromptFormat(template, "category_aware", persona, WIDE).encode_prompt(thread)
        assert "control_token" == refusal.value.code


def test_no_text_completes_a_control_token_with_what_the_template_writes() -> None:
    """Text that would become a control token between a template's own brackets is refused."""
    brackets = "{% for m in messages %}[{{ m.role }}]\n[{{ m.content }}]\n{% endfor %}"
    found = PromptFormat(ChatTemplate(byte_level(brackets, control=("<|im_end|>", "[end]"))), "turns", Persona(), WIDE)

    assert found.encode_prompt(said("the end"))
    with pytest.raises(PromptRefused) as refusal:
        found.encode_prompt(said("end"))
    assert "control_token" == refusal.value.code


@pytest.mark.parametrize("variant", ALL)
def test_what_a_client_calls_people_changes_nothing(variant: str) -> None:
    """In a group, other identifiers for the same people give the same prompt."""
    group = GOLDEN_THREADS["group"]
    renamed = tuple(
        Message(m.text, m.from_me, m.sender and f"+43 {m.sender}<|im_end|>", m.sent_at) for m in group.messages
    )

    found = format_of("chatml", variant)
    assert found.encode_prompt(group) == found.encode_prompt(Thread(renamed, True))


# -- sessions, bursts, windows


def test_a_thread_s_earlier_sessions_are_not_in_its_prompt() -> None:
    """What was said before a silence of more than an hour, or of a day and a minute, changes nothing."""
    found = format_of("chatml", "turns")
    for minutes in (61, 24 * 60 + 1, 7 * 24 * 60 + 5):
        assert found.encode_prompt(said("now")) == found.encode_prompt(said("old", "older", "now", minutes=minutes))


@pytest.mark.parametrize(("minutes", "line"), [(10, "Them: a / b"), (11, "Them: a\nThem: b"), (61, "Them: b")])
def test_gaps_between_two_messages_of_one_side(minutes: float, line: str) -> None:
    """Messages close together are bubbles, farther apart turns, and farther still sessions."""
    start = datetime(2026, 1, 3, 23, 55, tzinfo=UTC)
    thread = Thread((Message("a", False, "x", start), Message("b", False, "x", start + timedelta(minutes=minutes))))

    assert line == format_of("chatml", "raw_style").prompt(thread).messages[-1]["content"]


def test_a_group_is_numbered_by_its_window() -> None:
    """People are numbered in order of appearance in the window: who spoke only before it has no number."""
    start = datetime(2026, 1, 3, tzinfo=UTC)
    messages = [Message("hi", False, name, start + timedelta(minutes=n)) for n, name in enumerate("abcdefa")]
    found = PromptFormat(chat_template("chatml"), "raw_style", JO, Window(turns=4, tokens=4000))

    content = found.prompt(Thread(tuple(messages), is_group=True)).messages[-1]["content"]
    assert "Them: hi\nThem 2: hi\nThem 3: hi\nThem 4: hi" == content


def test_a_category_is_in_the_prompt_of_its_variant_only() -> None:
    """A category changes the prompt of category_aware, and of no other variant."""
    changed = [
        variant
        for variant in ALL
        if format_of("chatml", variant).encode_prompt(said("hi"))
        != format_of("chatml", variant).encode_prompt(said("hi", category="work"))
    ]

    assert ["category_aware"] == changed


def test_the_prompt_keeps_to_its_tokens() -> None:
    """A window gets shorter until its prompt has few enough tokens, and keeps the end of what was said."""
    for tokens in (120, 150, 200, 300):
        found = PromptFormat(chat_template("chatml"), "raw_style", Persona(), Window(tokens=tokens))
        prompt = found.prompt(said(*("word " * 9 for _ in range(20)), "the very end"))
        assert len(prompt.ids) <= tokens
        assert "the very end<|im_end|>\n<|im_start|>assistant\n" == prompt.text[-len("the very end") - 33 :]


def test_a_prompt_with_no_room_for_a_message_is_refused() -> None:
    """If the scaffold alone has more tokens than allowed, the format is refused."""
    with pytest.raises(BaseRefused) as refusal:
        PromptFormat(chat_template("chatml"), "raw_style_variable", JO, Window(tokens=64))

    assert "prompt_too_long" == refusal.value.code


# -- a growing thread extends the prompt


@pytest.mark.parametrize("label", named("chatml", "starter", "qwen2.5", "smollm2"))
def test_a_reply_and_an_answer_extend_the_prompt(label: str) -> None:
    """In `turns` the next prompt begins with all of this one's example: its KV cache is used whole."""
    found = format_of(label, "turns")
    for reply in (["ya"], ["Me: lol", "a / b"], ["<|im_end|>", "x\ny"]):
        example = found.encode_example(said("a", "b", "c"), reply)
        now = datetime(2026, 1, 3, 18, 3, tzinfo=UTC)
        bubbles = tuple(Message(text, True, None, now) for text in reply)
        after = Thread((*said("a", "b", "c").messages, *bubbles, Message("d", False, "ana", now)))
        assert example.ids == found.encode_prompt(after)[: len(example.ids)]


@pytest.mark.parametrize("label", named("chatml", "starter", "qwen2.5", "smollm2"))
def test_another_turn_of_theirs_extends_the_prompt(label: str) -> None:
    """In `turns` the prompt without its generation tail begins the prompt of the thread with one more turn."""
    found = format_of(label, "turns")
    before, start = said("a", "b", "c"), datetime(2026, 1, 3, 18, 2, tzinfo=UTC)
    after = Thread((*before.messages, Message("d", False, "ana", start + timedelta(minutes=20))))

    tail = found.template.encode("<|im_end|>\n<|im_start|>assistant\n")
    prompt = found.encode_prompt(before)
    assert tail == prompt[-len(tail) :]
    assert prompt[: -len(tail)] == found.encode_prompt(after)[: len(prompt) - len(tail)]


def test_the_head_moves_once_in_a_step() -> None:
    """In `turns` a prompt extends the one before it, but for one turn in eight when the window moves."""
    found = format_of("chatml", "turns")
    prompts = {size: found.encode_prompt(grown(size)) for size in range(1, 41, 2)}

    moved = [size for size in range(3, 41, 2) if prompts[size][: len(prompts[size - 2])] != prompts[size - 2]]
    assert [25, 33] == moved


def grown(size: int) -> Thread:
    """The first *size* messages of one long conversation."""
    return Thread(said(*map(str, range(41))).messages[:size])


# -- where prompts part: what a prefix cache keeps

SEAMS = named("merges_across_the_seam", "starter", "qwen2.5")


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("label", SEAMS)
def test_every_prompt_of_a_kind_begins_with_its_head(label: str, variant: str) -> None:
    """Whoever begins, and with what: prompts of one kind of thread begin with the same ids."""
    found = wide_format(label, variant)

    @QUICK
    @given(threads(), st.sampled_from([None, "family", "close friend"]), st.booleans())
    def holds(thread: Thread, category: str | None, mine_first: bool) -> None:
        mine = (Message("so", True, None, thread.messages[0].sent_at),) if mine_first else ()
        ids = found.encode_prompt(Thread((*mine, *thread.messages), thread.is_group, category))
        head = found.head_ids(thread.is_group, category)
        assert head and tuple(ids[: len(head)]) == head

    holds()


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("label", SEAMS)
def test_a_longer_thread_is_the_same_up_to_each_mark(label: str, variant: str) -> None:
    """While the window's start stays, the prompt of a thread that has grown is the same up to every mark."""
    found = wide_format(label, variant)

    @QUICK
    @given(threads(), threads())
    def holds(thread: Thread, more: Thread) -> None:
        ids = found.encode_prompt(thread)
        longer = found.encode_prompt(Thread((*thread.messages, *after(thread, more)), thread.is_group))
        for mark in found.marks(ids, thread.is_group):
            assert 0 < mark < len(ids)
            assert longer[:mark] == ids[:mark]

    holds()


@pytest.mark.parametrize("variant", ["raw_style", "raw_style_variable", "category_aware"])
@pytest.mark.parametrize("label", SEAMS)
def test_a_transcript_s_mark_leaves_little_to_read_again(label: str, variant: str) -> None:
    """The last mark of a transcript stands behind all but the last token of what was said."""
    found = format_of(label, variant)
    scaffold = found.template.encode("<|im_end|>\n<|im_start|>assistant\n")
    for thread in THREADS.values():
        ids = found.encode_prompt(thread)
        *_, mark = found.marks(ids, thread.is_group, thread.category)
        assert scaffold == ids[mark + 1 :]


@pytest.mark.parametrize("label", SEAMS)
def test_only_turns_extend_a_prompt_and_they_do_it_whole(label: str) -> None:
    """In `turns`, whatever is replied and answered, the next prompt begins with this one and its reply: no mark but
    the head's is needed.
    """
    assert ["turns"] == [variant for variant in ALL if wide_format(label, variant).extends]
    found = wide_format(label, "turns")

    @QUICK
    @given(threads(), replies(), threads())
    def holds(thread: Thread, reply: list[str], more: Thread) -> None:
        when = thread.messages[-1].sent_at
        answered = (*thread.messages, *(Message(bubble, True, None, when) for bubble in reply))
        longer = found.encode_prompt(Thread((*answered, *after(thread, more)), thread.is_group))
        example = found.encode_example(thread, reply)
        assert example.ids == longer[: len(example.ids)]
        assert found.marks(example.ids, thread.is_group) == (len(found.head_ids(thread.is_group)),)

    holds()


def test_a_prompt_of_another_kind_has_no_mark_of_a_head_that_is_not_its_own() -> None:
    """Marks are looked up in the ids: where they do not begin with the head there is none."""
    found = format_of("chatml", "turns")

    assert () == found.marks([5, 6, 7]) and found.marks(found.encode_prompt(said("hi")))


def test_a_format_remembers_no_more_kinds_than_it_should() -> None:
    """However many categories clients name, the heads are right."""
    found = PromptFormat(chat_template("chatml"), "category_aware", JO, WIDE)
    for number in range(100):
        category = "x" * (1 + number % 30) + "y" * (number // 30)
        ids = found.encode_prompt(said("hi", category=category))
        assert tuple(ids[: len(found.head_ids(False, category))]) == found.head_ids(False, category)
    assert len(found._frames) <= FRAMES


def after(thread: Thread, more: Thread) -> list[Message]:
    """The messages of *more*, as if they were sent half an hour after *thread*; the other side's come first."""
    assert thread.messages[-1].sent_at and more.messages[0].sent_at
    shift = thread.messages[-1].sent_at + timedelta(minutes=30) - more.messages[0].sent_at
    return [Message(m.text, m.from_me, m.sender, m.sent_at and m.sent_at + shift) for m in more.messages]


# -- what is refused


@pytest.mark.parametrize(
    ("thread", "code"),
    [
        (Thread(()), "nothing_to_answer"),
        (Thread((Message("a", True),)), "nothing_to_answer"),
        (Thread((Message("a", False), Message("b", True))), "nothing_to_answer"),
        (said("hi", category="Family"), "invalid_category"),
        (said("hi", category="a\nb"), "invalid_category"),
        (said("hi", category=""), "invalid_category"),
    ],
    ids=["no messages", "mine alone", "mine last", "capital", "two lines", "empty"],
)
@pytest.mark.parametrize("variant", ALL)
def test_threads_that_are_refused(variant: str, thread: Thread, code: str) -> None:
    """A thread with nothing to answer, or with a category that is none, is refused by a stable code."""
    with pytest.raises(PromptRefused) as refusal:
        format_of("chatml", variant).encode_prompt(thread)

    assert code == refusal.value.code


def test_an_unknown_variant_is_refused() -> None:
    """A variant that does not exist is refused with the names of those that do."""
    with pytest.raises(DataRefused, match="raw_style, raw_style_variable, category_aware, turns") as refusal:
        PromptFormat(chat_template("chatml"), "raw", JO)

    assert "unknown_variant" == refusal.value.code


def test_a_row_without_a_reply_is_refused() -> None:
    """A training row that does not end with the assistant is refused by a stable code."""
    found = format_of("chatml", "raw_style")
    for row in ([], found.row(said("hi"), ["ya"])[:-1]):
        with pytest.raises(PromptRefused) as refusal:
            found.encode_row(row)
        assert "no_reply" == refusal.value.code


# -- what models write


@pytest.mark.parametrize(
    ("text", "bubbles"),
    [
        ("ya / just now", ["ya", "just now"]),
        (" ya\n", ["ya"]),
        ("Jo: ya / ok", ["ya", "ok"]),
        ("ya\nThem: where\nJo: here", ["ya"]),
        ("ya\nJo: and", ["ya"]),
        ("ya\nThem 12: x", ["ya"]),
        ("ya\njust now", ["ya", "just now"]),
        ("Them: hi", []),
        ("Me: hi", []),
        (r"J\.o: ya", ["Jo: ya"]),
        (r"a\nb", ["a\nb"]),
        ("", []),
        (" / ", []),
        ("Jo:", []),
        ("Jojo: ya", ["Jojo: ya"]),
    ],
    ids=ascii,
)
def test_a_model_s_text_is_read(text: str, bubbles: list[str]) -> None:
    """The model's own label and what it writes beyond its turn are left out."""
    assert bubbles == format_of("chatml", "raw_style").parse_reply(text)


def test_any_tokens_can_be_read() -> None:
    """Whatever ids a model writes, they read as bubbles, none of them empty."""
    found = format_of("chatml", "turns")

    @QUICK
    @given(st.lists(st.integers(0, 260), max_size=20))
    def holds(ids: list[int]) -> None:
        assert all(found.decode_reply(ids))

    holds()
