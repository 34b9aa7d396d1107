"""Messages hold text in one spelling."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import PromptRefused
from prompt_format.messages import Message, Thread, canonical
from tests.hostile import THOROUGH, texts


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("hi", "hi"),
        ("  hi \n", "hi"),
        ("\u2028hi\x0b\x1c\x85\u3000", "hi"),
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("a\r\r\nb", "a\n\nb"),
        ("caf" + "e\u0301", "caf\u00e9"),
        ("\u212a", "K"),
        ("a  b\tc", "a  b\tc"),
        ("a\u2028b\u2029c\x85d\x0be\x0cf", "a\u2028b\u2029c\x85d\x0be\x0cf"),
        ("\ufb01 \uff1c \u00bd", "\ufb01 \uff1c \u00bd"),
        ("a\x00b", "a\x00b"),
    ],
    ids=ascii,
)
def test_canonical_text(typed: str, kept: str) -> None:
    """Line breaks become \\n, characters are composed, white space at the ends goes, and all else stays."""
    assert kept == canonical(typed)


@THOROUGH
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_canonical_text_stays(text: str) -> None:
    """What is canonical once is canonical for good."""
    assert canonical(text) == canonical(canonical(text))


@THOROUGH
@given(texts())
def test_a_message_keeps_canonical_text(text: str) -> None:
    """A message keeps canonical text as it is."""
    assert text == Message(text, False).text


@pytest.mark.parametrize("half", ["\ud83d", "hi \udc00", "\udc00\ud83d"], ids=ascii)
def test_half_a_surrogate_pair_is_refused(half: str) -> None:
    """Half a surrogate pair is refused by a stable code."""
    with pytest.raises(PromptRefused) as refusal:
        Message(half, False)

    assert "invalid_unicode" == refusal.value.code


@pytest.mark.parametrize("blank", ["", " ", "\n", "\u2028 \x85", "\r\n\t\xa0"], ids=ascii)
def test_a_message_without_text_is_refused(blank: str) -> None:
    """A message of white space alone is refused by a stable code."""
    with pytest.raises(PromptRefused) as refusal:
        Message(blank, False)

    assert "empty_message" == refusal.value.code


def test_a_time_without_a_zone_is_refused() -> None:
    """A time without a zone is refused by a stable code."""
    with pytest.raises(PromptRefused) as refusal:
        Message("hi", False, None, datetime(2026, 1, 3))

    assert "invalid_time" == refusal.value.code


def test_a_refusal_does_not_repeat_the_text() -> None:
    """A refusal holds nothing of what was written."""
    with pytest.raises(PromptRefused) as refusal:
        Message("secret \ud83d", False)

    assert "secret" not in str(refusal.value)


def test_equal_messages_are_equal() -> None:
    """Two messages that look the same are equal and hash alike, whatever their line breaks and composition."""
    at = datetime(2026, 1, 3, tzinfo=UTC)

    assert {Message("e\u0301\r\nb ", True, None, at)} == {Message("\u00e9\nb", True, None, at)}


def test_a_thread_is_direct_and_without_a_category_unless_said() -> None:
    """A thread is direct and has no category unless it says so."""
    thread = Thread(())

    assert (False, None) == (thread.is_group, thread.category)
