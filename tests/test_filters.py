"""What is never learnt from, by its words."""

from typing import Any

import pytest

from training.filters import is_reaction_text, why_no_reply, why_no_thread
from training.records import Record

REACTIONS = [
    "Liked “see you there”", 'Laughed at "no way"', "Loved an image", "Emphasized “what”", "Emphasised “what”",
    "Questioned “two\nlines”", "Disliked “”", "Reacted 😂 to “that's it”", "Reacted 👍🏽 to your message",
    "Removed a heart from “ok”", "Removed an exclamation mark from an image", "\u200b👍\u200b to “ see you ”",
    "❤️ to “ok”", "Liked „bis gleich“", " Loved “ok” ",
]  # fmt: skip
WORDS = [
    "I loved the movie", "Like I wonder if…", "Loved it", "Liked", "Loved you in “Titanic”, really",
    "Removed the shelf", "Questioned by the boss", "Reacted badly to the news", "“ok”", "to “whom”", "he Liked “ok”",
    "Loved an image of her once",
]  # fmt: skip


@pytest.mark.parametrize("text", REACTIONS)
def test_a_reaction_sent_as_text_is_no_message(text: str) -> None:
    """Curly or straight quotes, with or without them, in the forms of phones of both kinds."""
    assert is_reaction_text(text)


@pytest.mark.parametrize("text", WORDS)
def test_words_that_only_look_like_a_reaction_are_words(text: str) -> None:
    """The whole text must be one."""
    assert not is_reaction_text(text)


def mine(text: str, **more: Any) -> str | None:
    return why_no_reply(Record(source="s", thread_id="t", from_me=True, text=text, **more), text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.org/a?b=c", "link_only"),
        ("www.example.org\nhttp://example.org", "link_only"),
        ("Can't talk now, call you later?", "automatic"),
        ("Can’t talk right now. What's up?", "automatic"),
        ("Sorry, I can't talk right now.", "automatic"),
        ("I'm driving with Do Not Disturb While Driving turned on. I'll see your message later.", "automatic"),
        ("I’m not receiving notifications. If this is urgent, reply “urgent”", "automatic"),
        ("Auto-reply: out of office until May", "automatic"),
        ("Sent from my iPhone", "automatic"),
        ("```\nprint(1)\n```", "code_block"),
    ],
)
def test_what_i_did_not_write_is_not_learnt(text: str, reason: str) -> None:
    """Bare links, what phones answer by themselves, pasted code."""
    assert reason == mine(text)


@pytest.mark.parametrize(
    "text",
    ["ya", "👍", "k", "look https://example.org", "i can't talk now sorry mum is here and wants tea",
     "i'm driving so later", "automatic doors are weird", "did you get what i sent from my phone", "`ls`"],
)  # fmt: skip
def test_my_own_words_are_learnt(text: str) -> None:
    """However short, and also with a link among them."""
    assert mine(text) is None


@pytest.mark.parametrize("flag", ["forwarded", "auto", "otp", "link_only", "spam", "scheduled", "failed", "truncated"])
def test_what_the_source_marks_is_not_learnt(flag: str) -> None:
    """A flag counts whatever the words."""
    assert "not_my_words" == mine("see you", flags=["edited", flag])
    assert mine("see you", flags=["edited"]) is None


def thread(*from_me: bool, kind: str = "text") -> list[Record]:
    return [Record(source="s", thread_id="t", from_me=one, text="hi", kind=kind) for one in from_me]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("records", "others", "reason"),
    [
        (thread(True, False), {"+14025550101"}, None),
        (thread(True, False), {"short:262966"}, "business"),
        (thread(True, False), {"short:AMAZON"}, "business"),
        (thread(True, False), {"short:262966", "+14025550101"}, None),
        (thread(True, False), {"+14025550100"}, "self_chat"),
        (thread(True, True), {"+14025550101"}, "one_sided"),
        (thread(False), {"+14025550101"}, "one_sided"),
        ([*thread(True), *thread(False, kind="media")], {"+14025550101"}, "one_sided"),
        (thread(True, False), set(), None),
    ],
)
def test_conversations_that_are_left_out(records: list[Record], others: set[str], reason: str | None) -> None:
    """With a business, with myself, or in which one side never wrote a word."""
    assert reason == why_no_thread(records, others, {"+14025550100", "jo@example.com"})
