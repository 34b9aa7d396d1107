"""What each variant makes of the same turns."""

import pytest

from prompt_format.bubbles import split_bubbles
from prompt_format.persona import Persona, Style
from prompt_format.turns import Turn
from prompt_format.variants import DEFAULT_WINDOWS, OPENING, VARIANTS, ChatMessage, one_line, speaker_label

JO = Persona(name="Jo", style=Style(lower_case=100, full_stop=0, emoji=0, words=3, bubbles=10))
NAMELESS = Persona()
STYLE = " Style: all lower case, no full stop at the end, about 3 words."


def them(*bubbles: str, speaker: str | None = None) -> Turn:
    return Turn(False, speaker, bubbles)


def me(*bubbles: str) -> Turn:
    return Turn(True, None, bubbles)


DIRECT = [them("home yet?"), me("ya", "just now"), them("ok")]
GROUP = [them("hi", speaker="b"), them("yo", speaker="a"), me("hey"), them("so", speaker="b"), them("ok", speaker="c")]


def chat(variant: str, turns: list[Turn], *, persona: Persona = JO, is_group: bool = False, category: str | None = None,
         protected: tuple[str, ...] = ()) -> list[ChatMessage]:  # fmt: skip
    return VARIANTS[variant](persona, turns, is_group, category, protected)


@pytest.mark.parametrize(
    ("variant", "system"),
    [
        ("raw_style", "You are Jo, texting."),
        ("raw_style_variable", "You are Jo, texting." + STYLE),
        ("category_aware", "You are Jo, texting with family." + STYLE),
        ("turns", "You are Jo, texting." + STYLE),
    ],
)
def test_the_system_prompt(variant: str, system: str) -> None:
    """Only the variants that say so write the measured style, and only category_aware the relation."""
    assert {"role": "system", "content": system} == chat(variant, DIRECT, category="family")[0]


@pytest.mark.parametrize(
    ("variant", "system"),
    [
        ("raw_style", "You are Me, texting in a group."),
        ("raw_style_variable", "You are Me, texting in a group."),
        ("category_aware", "You are Me, texting in a group."),
        ("turns", "You are Me, texting in a group."),
    ],
)
def test_nothing_is_said_of_what_is_not_known(variant: str, system: str) -> None:
    """Without a measured style or a category nothing is said of them; a group is named as one."""
    assert system == chat(variant, GROUP, persona=NAMELESS, is_group=True)[0]["content"]


@pytest.mark.parametrize("variant", ["raw_style", "raw_style_variable", "category_aware"])
def test_a_transcript(variant: str) -> None:
    """A transcript is one user message with a labelled line for each turn."""
    expected = [{"role": "user", "content": "Them: home yet?\nJo: ya / just now\nThem: ok"}]

    assert expected == chat(variant, DIRECT)[1:]


@pytest.mark.parametrize("variant", ["raw_style", "raw_style_variable", "category_aware"])
def test_a_group_s_transcript(variant: str) -> None:
    """In a group the others are numbered in order of appearance; the first has no number."""
    expected = "Them: hi\nThem 2: yo\nJo: hey\nThem: so\nThem 3: ok"

    assert expected == chat(variant, GROUP, is_group=True)[1]["content"]


def test_turns_are_a_chat() -> None:
    """In `turns` the other side is the user and the persona the assistant."""
    expected = [
        {"role": "user", "content": "home yet?"},
        {"role": "assistant", "content": "ya / just now"},
        {"role": "user", "content": "ok"},
    ]

    assert expected == chat("turns", DIRECT)[1:]


def test_turns_of_a_group_are_labelled() -> None:
    """In `turns` every turn of the others has its label, and those in a row share a line."""
    expected = [
        {"role": "user", "content": "Them: hi // Them 2: yo"},
        {"role": "assistant", "content": "hey"},
        {"role": "user", "content": "Them: so // Them 3: ok"},
    ]

    assert expected == chat("turns", GROUP, is_group=True)[1:]


def test_turns_of_one_side_in_a_row_share_a_message() -> None:
    """Two turns of one side, kept apart by time, share a chat message and stay two."""
    expected = [
        {"role": "user", "content": "a / b // c"},
        {"role": "assistant", "content": "d // e"},
        {"role": "user", "content": "f"},
    ]

    assert expected == chat("turns", [them("a", "b"), them("c"), me("d"), me("e"), them("f")])[1:]


def test_a_chat_that_i_began_opens_with_a_stand_in() -> None:
    """Where the persona spoke first, an opening that nobody can type stands for the user."""
    expected = [
        {"role": "user", "content": OPENING},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": r"\\start"},
    ]

    assert expected == chat("turns", [me("hi"), them(OPENING)])[1:]


@pytest.mark.parametrize("variant", VARIANTS)
def test_roles_alternate(variant: str) -> None:
    """After the system message user and assistant take turns, and a user's is the last."""
    turns = [me("a"), me("b"), *GROUP, me("c"), them("d", speaker="a"), them("e", speaker="z")]

    roles = [message["role"] for message in chat(variant, turns, is_group=True)]
    assert ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"] == roles


@pytest.mark.parametrize("variant", VARIANTS)
def test_senders_names_are_not_shown(variant: str) -> None:
    """What a client calls the people of a group changes nothing."""
    other = [Turn(turn.from_me, turn.speaker and f"+43 {turn.speaker}", turn.bubbles) for turn in GROUP]

    assert chat(variant, GROUP, is_group=True) == chat(variant, other, is_group=True)


def test_who_speaks_late_gets_a_late_number() -> None:
    """The twelfth to speak is Them 12, and keeps that number."""
    speakers = [f"s{number}" for number in range(12)]
    turns = [them("hi", speaker=speaker) for speaker in [*speakers, "s11", "s0"]]

    lines = chat("raw_style", turns, is_group=True)[1]["content"].split("\n")
    assert ["Them: hi", "Them 2: hi", "Them 3: hi"] == lines[:3]
    assert ["Them 12: hi", "Them 12: hi", "Them: hi"] == lines[-3:]


def test_numbers_count_what_is_in_the_window() -> None:
    """Who spoke before the window has no number in it."""
    assert "Them: so\nThem 2: ok" == chat("raw_style", GROUP[3:], is_group=True)[1]["content"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("Me: no you", r"M\.e: no you"),
        ("Jo: hi", r"J\.o: hi"),
        ("Them: hi", r"T\.hem: hi"),
        ("Them 2: hi", r"T\.hem 2: hi"),
        ("me: hi", "me: hi"),
        ("so Jo: hi", "so Jo: hi"),
        ("Them 2x: hi", "Them 2x: hi"),
        ("Joan: hi", "Joan: hi"),
    ],
)
def test_a_typed_label_is_broken_up(typed: str, line: str) -> None:
    """A turn that begins with a speaker's label is written so that it is none, and reads as it was typed."""
    written = one_line(JO, [typed], ())

    assert (line, [typed]) == (written, split_bubbles(written))
    assert not speaker_label(JO).match(written)


@pytest.mark.parametrize("variant", VARIANTS)
def test_protected_strings_are_broken_up_in_every_turn(variant: str) -> None:
    """A protected string typed by anybody does not stand in any chat message."""
    turns = [them("x<eot>y", "<eot>"), me("<eot>"), them("<eot>", speaker="b")]

    contents = [message["content"] for message in chat(variant, turns, is_group=True, protected=("<eot>",))]
    assert [] == [content for content in contents if "<eot>" in content]


def test_every_variant_has_a_window() -> None:
    """Every variant has a default window, and only `turns` moves it in steps."""
    assert list(VARIANTS) == list(DEFAULT_WINDOWS)
    assert ["turns"] == [name for name, window in DEFAULT_WINDOWS.items() if window.step > 1]
