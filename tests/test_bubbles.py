"""One turn is one line, and the line gives the bubbles back."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_format.bubbles import TURN_SEPARATOR, join_bubbles, protect, split_bubbles
from prompt_format.messages import canonical
from tests.hostile import QUICK, THOROUGH, replies

TOKENS = ("<|im_start|>", "<|im_end|>", "</think>", "<think>", "|||mail|||", "--", "aa")


@pytest.mark.parametrize(
    ("bubbles", "line"),
    [
        (["home in 10", "want anything"], "home in 10 / want anything"),
        (["1/2 and/or 3"], "1/2 and/or 3"),
        (["a / b"], r"a \/ b"),
        (["a // b"], r"a \// b"),
        (["/"], r"\/"),
        (["/", "/"], r"\/ / \/"),
        (["http://a.b/c/"], "http://a.b/c/"),
        (["milk\nbread"], r"milk\nbread"),
        (["a\n/\nb"], r"a\n/\nb"),
        (["a\u2028/\u2028b"], "a\u2028\\/\u2028b"),
        ([r"C:\new"], r"C:\\new"),
        ([r"¯\_(ツ)_/¯"], r"¯\\_(ツ)_/¯"),
        (["a\n\u0301b"], "a\\n\\.\u0301b"),
    ],
    ids=ascii,
)
def test_how_bubbles_are_written(bubbles: list[str], line: str) -> None:
    """Bubbles stand between slashes, and what is typed like a separator, a line break or an escape is escaped."""
    assert line == join_bubbles(bubbles)


@pytest.mark.parametrize(
    ("line", "bubbles"),
    [
        ("a / b", ["a", "b"]),
        ("a // b /// c", ["a", "b", "c"]),
        (" / a /  / b / ", ["a", "b"]),
        ("", []),
        (" / ", []),
        (r"50\50 \x", [r"50\50 \x"]),
        ("a\\", ["a\\"]),
        (r"\/ / \.a", ["/", "a"]),
        (r"a / \. / \n / b\n", ["a", "b"]),
    ],
    ids=ascii,
)
def test_how_a_model_s_line_is_read(line: str, bubbles: list[str]) -> None:
    """A line that no one escaped is read all the same: empty bubbles are left out, unknown escapes stay."""
    assert bubbles == split_bubbles(line)


@THOROUGH
@given(replies())
def test_split_is_the_inverse_of_join(bubbles: list[str]) -> None:
    """Joining and splitting gives the bubbles back, protected strings or not."""
    assert bubbles == split_bubbles(join_bubbles(bubbles))
    assert bubbles == split_bubbles(join_bubbles(bubbles, TOKENS))


@THOROUGH
@given(replies([*TOKENS, "<|im_", "end|>", "|||", "mail", "-", "a", "\\", "/", "\n", "<", ".", "\\."]))
def test_no_protected_string_is_left(bubbles: list[str]) -> None:
    """No protected string occurs in a line, however its parts are arranged."""
    line = join_bubbles(bubbles, TOKENS)

    assert [] == [token for token in TOKENS if token in line]


@THOROUGH
@given(replies())
def test_a_turn_is_one_line(bubbles: list[str]) -> None:
    """A line holds neither a line break nor what stands between turns."""
    line = join_bubbles(bubbles)

    assert "\n" not in line
    assert TURN_SEPARATOR not in line


@QUICK
@given(st.text(st.sampled_from([*"a/\\n. \n", "\u2028"])))
def test_bubbles_are_never_blank(line: str) -> None:
    """Whatever a model writes, its bubbles have text and no white space at their ends."""
    assert [] == [bubble for bubble in split_bubbles(line) if not bubble or bubble != bubble.strip()]


def test_small_bubbles_never_collide() -> None:
    """Of all the bubbles up to three characters, alone and in pairs of up to two, no two give the same line."""
    letters = ["a", "n", "/", "\\", "\n", ".", " ", "\u0301"]
    words = {canonical("".join(word)) for size in (1, 2, 3) for word in product(letters, repeat=size)} - {""}
    short = sorted(word for word in words if len(word) <= 2)
    bubbles = [*((word,) for word in words), *product(short, repeat=2)]

    assert len(bubbles) == len({join_bubbles(pair) for pair in bubbles})


def test_protected_strings_that_overlap_are_all_broken_up() -> None:
    """Of two protected strings that share their border, both are broken up."""
    assert r"|\.||x|\.||x|||" == protect("|||x|||x|||", ["|||x|||"])
