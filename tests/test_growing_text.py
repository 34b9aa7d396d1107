r"""The text of a reply while it is written: what was shown stays, and adds up to the reply.

Tokens are the toy tokenizer's bytes unless a test says otherwise, so every token may stop in the middle of anything.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_format.format import PromptFormat
from prompt_format.persona import Persona
from service.growing_text import GrowingText
from tests.hostile import MARKS, THOROUGH, texts
from tests.toy_tokenizers import chat_template, named

NAMES = ("Jo", "Me", "Mel", "Theo", "Zoë Kim", "T")
RAW = ["\n", " ", " / ", "/", "\\", "\\n", "\\/", "\\.", ":", "Th", "em", "Them", " 2", "M", "e", "Jo", "J", "é", "🫠"]


def form_of(name: str = "Jo", label: str = "chatml") -> PromptFormat:
    return PromptFormat(chat_template(label), "raw_style", Persona(name=name))


def grown(form: PromptFormat, ids: list[int]) -> list[str]:
    """What each token gives and, last, what the end does."""
    growing = GrowingText(form)
    return [*map(growing.take, ids), growing.rest(ids)]


def pieces(text: str, name: str = "Jo") -> list[str]:
    """The same for a reply that a model writes as *text*, byte by byte."""
    form = form_of(name)
    return grown(form, form.template.encode_text(text))


def whole(form: PromptFormat, ids: list[int]) -> str:
    return "\n".join(form.decode_reply(ids))


def test_each_letter_comes_as_it_is_written() -> None:
    """Plain text is shown token by token, a space with the letter behind it, and nothing is left for the end."""
    assert ["y", "a", "", " o", "k", ""] == pieces("ya ok")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a / b", ["a", "", "", "", "\nb", ""]),
        ("a /b", ["a", "", "", " /b", ""]),
        (r"a\nb", ["a", "", "", "\nb", ""]),
        (r"a\\b", ["a", "", "", "\\b", ""]),
        (r"a\.b", ["a", "", "", "b", ""]),
        (r"a\x", ["a", "", r"\x", ""]),
        ("a\\", ["a", "", "\\"]),
        ("aé", ["a", "", "é", ""]),
        ("a😅b", ["a", "", "", "", "😅", "b", ""]),
        ("a  ", ["a", "", "", ""]),
        (" a", ["", "a", ""]),
        ("", [""]),
    ],
    ids=ascii,
)
def test_what_is_half_written_is_held_back(text: str, shown: list[str]) -> None:
    """A separator, an escape or a character is shown when it is known what it is; a space with what follows it."""
    assert shown == pieces(text)


@pytest.mark.parametrize("before", ["", "Jo: ", "Jo:"])
@pytest.mark.parametrize("behind", ["", "\nThem: hi", "\nThem 12: hi", "\nJo: hi", "\nMe: hi\nThem: where", "\nThem:"])
def test_a_label_is_never_shown(before: str, behind: str) -> None:
    """What may become a speaker's label waits until it has become one; then neither it nor what follows is shown."""
    found = pieces(before + "ya" + behind)

    assert "ya" == "".join(found)
    assert {"", "y", "a"} == set(found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Them", "Jo"),
        ("Then we go", "Jo"),
        ("Meeting at 5", "Jo"),
        ("Jojo came", "Jo"),
        ("ok\nMe", "Jo"),
        ("The", "Theo"),
    ],
)
def test_what_only_begins_like_a_label_is_shown_in_the_end(text: str, name: str) -> None:
    """A line that turns out to be no label comes whole."""
    assert text == "".join(pieces(text, name))


@pytest.mark.parametrize("text", ["Then we go", "Meeting at 5", "Jojo came", "Joking", "Theme: x"])
def test_a_line_that_can_no_longer_be_a_label_is_shown_at_once(text: str) -> None:
    """It is held back for as long as it may still become one, and no longer."""
    assert "" == pieces(text)[-1]


@pytest.mark.parametrize("name", NAMES)
def test_the_pieces_add_up_to_the_reply(name: str) -> None:
    """Whatever bytes a model writes, at each moment the pieces add up to a beginning of the final text, and at the
    end to all of it.
    """
    form = form_of(name)
    marks = [*RAW, name, f"{name}:", f"\n{name}: ", "Them: ", "\nThem 2: ", "\nMe: "]
    raw = st.lists(st.sampled_from(marks) | texts(MARKS), max_size=6).map("".join)
    odd = st.integers(0, len(form.template.tokenizer) - 1)  # type: ignore[arg-type]

    @THOROUGH
    @given(raw, st.lists(st.tuples(st.integers(0, 40), odd), max_size=2), st.integers(0, 60))
    def holds(text: str, changes: list[tuple[int, int]], limit: int) -> None:
        ids = form.template.tokenizer.encode(text, add_special_tokens=False)
        for place, token in changes:
            ids.insert(place, token)
        ids = ids[:limit]
        *given_, rest = grown(form, ids)
        final = whole(form, ids)
        assert final.startswith("".join(given_))
        assert final == "".join(given_) + rest

    holds()


@pytest.mark.parametrize("label", named("sentencepiece", "starter", "qwen2.5", "stories260k", "merges_across_the_seam"))
def test_any_tokens_of_any_tokenizer_add_up(label: str) -> None:
    """The same for whatever ids other tokenizers have: pieces of words, bytes, control tokens."""
    form = form_of(label=label)
    ids_of = st.lists(st.integers(0, len(form.template.tokenizer) - 1), max_size=12)  # type: ignore[arg-type]

    @THOROUGH
    @given(ids_of)
    def holds(ids: list[int]) -> None:
        assert whole(form, ids) == "".join(grown(form, ids))

    holds()
