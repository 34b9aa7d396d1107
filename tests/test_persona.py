"""A persona is a name that can be a label, and a style counted on replies."""

import pytest
from pydantic import ValidationError

from prompt_format.persona import Persona, Style, check_category, check_name, measure, style_rules

PLAIN = Style(lower_case=0, full_stop=100, emoji=0, words=8, bubbles=10)


@pytest.mark.parametrize(
    "name", ["Me", "Jo", "Ana Lucía", "O’Neil", "Jean-Luc", "张伟", "Ольга", "R2D2", "Themba", "a" * 32]
)
def test_names(name: str) -> None:
    """Words of letters and digits, in any script, are a name."""
    assert name == check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " ", "Jo ", " Jo", "Jo  Li", "Jo:", "Jo\n", "Jo\nLi", "<|im_end|>", "[INST]", "J_o", "a" * 33, "Jo/Li",
     "\\start", "Them", "them", "THEM 2", "Them 10", "-Jo", "Jo\u2028Li", "Jo\U000f0000", "Jo\u0301"],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    """White space at the ends, marks, line breaks, and the label of the other side are no name."""
    with pytest.raises(ValidationError):
        Persona(name=name)


@pytest.mark.parametrize("category", ["family", "friend", "work", "close friend", "co-worker", "a" * 32])
def test_categories(category: str) -> None:
    """Lower-case words are a category."""
    assert category == check_category(category)


@pytest.mark.parametrize(
    "category", ["", "Family", "work ", "work\n", "a.b", "family, evil", "<|im_end|>", "a" * 33, "été"]
)
def test_what_is_no_category(category: str) -> None:
    """Anything but short lower-case words is no category."""
    with pytest.raises(ValueError, match="a category is"):
        check_category(category)


@pytest.mark.parametrize(
    ("replies", "part", "value"),
    [
        ([["ya"], ["Ok"]], "lower_case", 50),
        ([["ya", "Ok"]], "lower_case", 0),
        ([["ok 😅"], ["123"], ["日本"]], "lower_case", 100),
        ([["ya."], ["ok"], ["no"]], "full_stop", 33),
        ([["ya.", "ok"]], "full_stop", 0),
        ([["ya", "ok."]], "full_stop", 100),
        ([["😅"], ["ok"], ["no"], ["ha 😅😅"]], "emoji", 50),
        ([["ya"], ["a b c"], ["a b c d e"]], "words", 3),
        ([["a b", "c d"]], "words", 4),
        ([["a", "b"], ["c"], ["d"]], "bubbles", 13),
        ([["a"]], "bubbles", 10),
    ],
    ids=ascii,
)
def test_what_is_measured(replies: list[list[str]], part: str, value: int) -> None:
    """Shares are per cent of replies, words a median, bubbles ten times a mean; short replies count like long ones."""
    assert value == getattr(measure(replies), part)


@pytest.mark.parametrize(
    ("replies", "favourites"),
    [
        ([["😅"], ["😅"], ["🫠"], ["👍🏽"], ["👍🏽"], ["👍🏽"], ["🎉"]], ["👍🏽", "😅", "🎉"]),
        ([["😅😅😅😅"], ["🫠"], ["🫠"]], ["🫠", "😅"]),
        ([["👩‍👩‍👧"], ["🧑🏽‍🤝‍🧑🏽"], ["🏳️‍🌈"]], ["🏳️‍🌈", "👩‍👩‍👧", "🧑🏽‍🤝‍🧑🏽"]),
        ([["🇩🇪🇫🇷"], ["🇩🇪"]], ["🇩🇪", "🇫🇷"]),
        ([["❤️"]], ["❤️"]),
        ([["ok :)"], ["→ ©"]], []),
    ],
    ids=ascii,
)
def test_favourite_emoji(replies: list[list[str]], favourites: list[str]) -> None:
    """The favourites are those in most replies, three at most, each whole: skin, flag and family stay together."""
    assert favourites == measure(replies).favourite_emoji


def test_the_order_of_replies_does_not_matter() -> None:
    """The same replies in another order have the same style."""
    replies = [["ya"], ["Ok.", "fine 🎉"], ["no 😅"], ["a b c"]]

    assert measure(replies) == measure(replies[::-1])


def test_no_replies_have_no_style() -> None:
    """Without replies there is nothing to measure."""
    with pytest.raises(ValueError, match="no replies"):
        measure([])


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({}, "normal capitals, full stop at the end, about 8 words"),
        ({"lower_case": 50}, "mostly lower case, full stop at the end, about 8 words"),
        ({"lower_case": 90}, "all lower case, full stop at the end, about 8 words"),
        ({"full_stop": 59}, "normal capitals, sometimes a full stop, about 8 words"),
        ({"full_stop": 10}, "normal capitals, no full stop at the end, about 8 words"),
        ({"words": 0}, "normal capitals, full stop at the end, about 1 words"),
        ({"bubbles": 13}, "normal capitals, full stop at the end, about 8 words, often several bubbles"),
        ({"bubbles": 18}, "normal capitals, full stop at the end, about 8 words, mostly several bubbles"),
        (
            {"emoji": 3, "favourite_emoji": ["😅"]},
            "normal capitals, full stop at the end, about 8 words, now and then 😅",
        ),
        (
            {"emoji": 30, "favourite_emoji": ["😅", "🎉"]},
            "normal capitals, full stop at the end, about 8 words, often 😅 🎉",
        ),
        ({"emoji": 2, "favourite_emoji": ["😅"]}, "normal capitals, full stop at the end, about 8 words"),
    ],
    ids=ascii,
)
def test_style_in_words(change: dict[str, object], rules: str) -> None:
    """Each measure has a phrase, and a rare habit has none."""
    assert rules == style_rules(PLAIN.model_copy(update=change))


@pytest.mark.parametrize("field", ["lower_case", "full_stop", "emoji"])
@pytest.mark.parametrize("share", [-1, 101])
def test_a_share_is_a_per_cent(field: str, share: int) -> None:
    """A share below 0 or above 100 per cent is refused."""
    with pytest.raises(ValidationError):
        Style.model_validate({**PLAIN.model_dump(), field: share})
