"""From the messages of one thread to what was said and what I answered."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from prompt_format.messages import Message, Thread
from prompt_format.window import Window
from tests.tiny import BEGAN, record
from training.filters import MAX_REPLY_CHARACTERS
from training.pairs import read_conversation
from training.privacy.rules import Rules
from training.records import Record

HOUR = 60.0
NO_RULES = Rules(is_on=False)


def them(minute: float, text: str, **more: Any) -> dict[str, Any]:
    return record("0101", minute, False, text, **more)


def me(minute: float, text: str, **more: Any) -> dict[str, Any]:
    return record("0101", minute, True, text, **more)


@dataclass(frozen=True)
class Pair:
    """A reply that can be learnt, as the file's tests look at it."""

    context: Thread
    reply: tuple[str, ...]
    at: datetime | None
    block: int


def pairs_of(
    rows: Sequence[dict[str, Any]], category: str | None = None, rules: Rules = NO_RULES
) -> tuple[list[Pair], dict[str, int]]:
    """(pairs, how many messages and replies were left out by reason)."""
    records = [msgspec.convert({"order": number, **row}, Record) for number, row in enumerate(rows)]
    records.sort(key=lambda record: (record.sent_at or BEGAN, record.order))
    found = read_conversation(records, category, Window(), rules)
    dropped = Counter(found.dropped)
    dropped.update(answer.why_not for answer in found.answers if answer.why_not)
    pairs = [
        Pair(found.context(one), found.turns[one.turn].bubbles, found.turns[one.turn].began, one.block)
        for one in found.answers
        if one.why_not is None
    ]
    return pairs, dict(dropped)


def said(pairs: Sequence[Pair]) -> list[tuple[list[str], list[str]]]:
    """For each pair (the texts before the reply, the bubbles of the reply)."""
    return [([message.text for message in pair.context.messages], list(pair.reply)) for pair in pairs]


def test_a_pair_is_what_was_said_before_and_what_i_answered() -> None:
    """Each turn of mine after one of theirs is a pair; all before it is the context."""
    rows = [them(0, "home yet?"), me(1, "ya"), them(2, "want tea"), me(3, "ok")]

    assert [(["home yet?"], ["ya"]), (["home yet?", "ya", "want tea"], ["ok"])] == said(pairs_of(rows)[0])


def test_a_burst_is_one_reply() -> None:
    """What I write in one go is one reply of several bubbles; what they write in one go stays apart as messages."""
    rows = [them(0, "home yet?"), them(1, "hello??"), me(2, "ya"), me(2.5, "just now"), me(3, "sorry")]

    assert [(["home yet?", "hello??"], ["ya", "just now", "sorry"])] == said(pairs_of(rows)[0])


def test_what_i_say_unasked_is_no_reply() -> None:
    """Neither my first words nor a second turn of mine, long after the first, is a pair."""
    rows = [me(0, "morning"), them(1, "hi"), me(2, "home yet?"), me(2 + HOUR, "hello??")]

    assert [(["morning", "hi"], ["home yet?"])] == said(pairs_of(rows)[0])


def test_a_pair_knows_where_it_comes_from() -> None:
    """The time at which the reply began, the kind of thread and the relation."""
    rows = [them(0, "home yet?", thread_kind="group"), me(1, "ya"), me(2, "now")]
    (pair,), _ = pairs_of(rows, "family")

    assert datetime(2026, 1, 5, 9, 1, tzinfo=UTC) == pair.at
    assert (True, "family") == (pair.context.is_group, pair.context.category)
    assert (Message("home yet?", False, "+14025550101", BEGAN),) == pair.context.messages


def test_messages_are_taken_in_the_order_they_were_sent() -> None:
    """The file's order counts only among messages of one moment."""
    rows = [me(1, "ya"), them(0, "are you"), them(0, "home?")]

    assert [(["are you", "home?"], ["ya"])] == said(pairs_of(rows)[0])


def test_messages_without_a_time_keep_the_order_of_the_file() -> None:
    """Nothing is known of the gaps between them, so they are one conversation."""
    rows = [them(0, "home yet?"), me(1, "ya"), them(2, "want tea"), me(3, "ok")]
    found, _ = pairs_of([{**row, "sent_at": None} for row in rows])

    assert [(["home yet?"], ["ya"]), (["home yet?", "ya", "want tea"], ["ok"])] == said(found)
    assert [0, 0] == [pair.block for pair in found]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([them(0, "home yet?"), me(12 * HOUR + 1, "ya")], "too_late"),
        ([them(0, "home yet?"), me(1, "x" * (MAX_REPLY_CHARACTERS + 1))], "too_long"),
        ([them(0, "home yet?"), me(1, "x" * 600), me(2, "x" * 600)], "too_long"),
        *(
            ([them(0, "home yet?"), me(1, "ya"), me(2, "call you later", flags=[flag])], "not_my_words")
            for flag in ("forwarded", "auto", "otp", "link_only", "spam", "scheduled", "failed")
        ),
    ],
    ids=["late", "long", "long in two", "forwarded", "auto", "otp", "link_only", "spam", "scheduled", "failed"],
)
def test_replies_that_are_left_out(rows: list[dict[str, Any]], reason: str) -> None:
    """Each is counted under its reason."""
    assert ([], {reason: 1}) == pairs_of(rows)


@pytest.mark.parametrize(
    "rows",
    [
        [them(0, "home yet?"), me(12 * HOUR, "ya")],
        [them(0, "home yet?"), me(1, "x" * MAX_REPLY_CHARACTERS)],
        [them(0, "home yet?"), me(1, "ya", flags=["edited"])],
        [them(0, "home yet?", flags=["forwarded"]), me(1, "ya")],
        [them(0, "home yet?"), me(1, "k")],
    ],
    ids=["just in time", "just short enough", "edited", "to a forwarded one", "one letter"],
)
def test_replies_that_are_kept(rows: list[dict[str, Any]]) -> None:
    """A limit is reached, not passed; only flags of mine count; no reply is too short."""
    found, dropped = pairs_of(rows)

    assert (1, {}) == (len(found), dropped)


@pytest.mark.parametrize("kind", ["media", "call"])
def test_an_answer_to_something_unseen_is_left_out(kind: str) -> None:
    """What answers a photo or a call would be noise; what is said after the next words is not."""
    photo = them(1, "", kind=kind)
    rows = [them(0, "look"), photo, me(2, "so cute"), them(3, "i know"), me(4, "who is that")]
    found, dropped = pairs_of(rows)

    assert [["who is that"]] == [list(pair.reply) for pair in found]
    assert {f"not_text: {kind}": 1, "answers_media": 1} == dropped


def test_a_photo_between_my_bubbles_spoils_the_reply() -> None:
    """A burst of mine that goes on after a photo of theirs answers something unseen."""
    rows = [them(0, "hi"), me(1, "hey"), them(1.5, "", kind="media"), me(2, "so cute")]

    assert ([], {"not_text: media": 1, "answers_media": 1}) == pairs_of(rows)


@pytest.mark.parametrize("kind", ["reaction", "system", "deleted"])
def test_what_is_no_message_is_not_answered(kind: str) -> None:
    """A reaction or a notice stands in no context and spoils no reply."""
    rows = [them(0, "home yet?"), them(0.5, "Liked a message", kind=kind), me(1, "ya")]
    found, dropped = pairs_of(rows)

    assert [(["home yet?"], ["ya"])] == said(found)
    assert {f"not_text: {kind}": 1} == dropped


def test_my_own_photo_spoils_nothing() -> None:
    """Only what the other side sent is unseen."""
    rows = [them(0, "home yet?"), me(1, "", kind="media"), me(2, "see")]

    assert [(["home yet?"], ["see"])] == said(pairs_of(rows)[0])


def test_a_message_of_white_space_is_empty() -> None:
    """It is left out and counted."""
    rows = [them(0, "home yet?"), them(1, " \n"), me(2, "ya")]

    assert ({"empty": 1}, [(["home yet?"], ["ya"])]) == (pairs_of(rows)[1], said(pairs_of(rows)[0]))


@pytest.mark.parametrize(
    ("second", "blocks"),
    [
        ([them(HOUR, "want tea"), me(HOUR + 1, "ok")], [0, 0]),
        ([them(HOUR + 2, "want tea"), me(HOUR + 3, "ok")], [0, 1]),
        ([them(30, "want tea"), me(30 + 10 * HOUR, "ok")], [0, 0]),
        ([them(30, "want tea"), me(30 + 13 * HOUR, "ok"), them(30 + 13 * HOUR + 1, "what"), me(50 * HOUR, "hm")], [0]),
    ],
    ids=["no silence", "a silence", "a late reply", "too late a reply"],
)
def test_a_silence_begins_a_new_block(second: list[dict[str, Any]], blocks: list[int]) -> None:
    """More than an hour without a word ends a block, unless a late reply bridges it."""
    found, _ = pairs_of([them(0, "home yet?"), me(1, "ya"), *second])

    assert blocks == [pair.block for pair in found]


def test_the_context_of_a_pair_is_the_session_before_it() -> None:
    """No prompt reaches further back: a silence lies between."""
    rows = [them(0, "home yet?"), me(1, "ya"), them(HOUR + 2, "want tea"), me(HOUR + 3, "ok")]

    assert [(["home yet?"], ["ya"]), (["want tea"], ["ok"])] == said(pairs_of(rows)[0])


def test_a_late_reply_has_the_session_it_answers_as_context() -> None:
    """And what follows it begins with the reply."""
    rows = [them(0, "home yet?"), me(1, "ya"), them(2, "want tea"), me(5 * HOUR, "ok"), them(5 * HOUR + 1, "now?")]
    found = pairs_of([*rows, me(5 * HOUR + 2, "sure")])[0]

    assert (["home yet?", "ya", "want tea"], ["ok"]) == said(found)[1]
    assert (["ok", "now?"], ["sure"]) == said(found)[2]


def test_a_reply_that_says_it_answers_something_earlier_is_left_out() -> None:
    """An explicit link beats what stands just before."""
    rows = [
        them(0, "want tea", source_id="a"), me(1, "no"), them(2, "who won", source_id="b"),
        me(3, "ok then", reply_to="a"),
    ]  # fmt: skip
    linked = [*rows[:3], me(3, "we did", reply_to="b")]

    assert {"answers_something_earlier": 1} == pairs_of(rows)[1]
    assert (["want tea", "no", "who won"], ["we did"]) == said(pairs_of(linked)[0])[1]


def test_in_a_group_only_a_quick_or_linked_reply_is_a_reply() -> None:
    """With many speaking at once, what stands just before need not be what is answered."""

    def group(minute: float, **more: Any) -> dict[str, int]:
        rows = [them(0, "who won", source_id="a"), me(minute, "we did", **more)]
        return pairs_of([{**row, "thread_kind": "group"} for row in rows])[1]

    assert ({}, {"too_late_in_a_group": 1}, {}) == (group(2), group(3), group(3, reply_to="a"))


def test_the_parts_of_a_message_are_bubbles() -> None:
    """One source message can hold several."""
    rows = [them(0, "look\nhere", parts=["look", "here"]), me(1, "ya\nnice", parts=["ya", "nice"])]

    assert [(["look", "here"], ["ya", "nice"])] == said(pairs_of(rows)[0])


def test_in_a_group_two_people_are_two_turns() -> None:
    """The reply answers the last of them."""
    rows = [them(0, "home yet?"), {**them(1, "who won"), "sender_id": "+14025550107"}, me(2, "ya")]
    found, _ = pairs_of([{**row, "thread_kind": "group"} for row in rows])

    assert [(["home yet?", "who won"], ["ya"])] == said(found)
    assert "+14025550107" == found[0].context.messages[-1].sender


@pytest.mark.parametrize(
    "rows",
    [[], [them(0, "hi")], [me(0, "hi")], [them(0, "", kind="media")]],
    ids=["empty", "only them", "only me", "a photo"],
)
def test_threads_without_an_answer_of_mine(rows: list[dict[str, Any]]) -> None:
    """They give no pair."""
    assert [] == pairs_of(rows)[0]


def test_moments_at_the_ends_of_the_calendar_are_times_like_others() -> None:
    """The years 1 and 9999 do not stop the reader."""
    first, last = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:00-12:00"
    rows = [{**them(0, "hi"), "sent_at": first}, {**me(0, "ya"), "sent_at": last}]

    assert ([], {"too_late": 1}) == pairs_of(rows)
