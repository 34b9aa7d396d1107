"""Which replies are learnt from and which are held out."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_format.messages import Thread
from prompt_format.persona import measure
from tests.hostile import QUICK, THOROUGH
from tests.tiny import BEGAN, record, write_jsonl
from training.chosen import Chosen, choose
from training.contacts import load_contacts
from training.conversations import read_history
from training.plan import Plan
from training.selection import CONTACT_SHARE, LONG, SPLITS, Limits, _quarter, _sketch, spelling

Rows = Sequence[dict[str, Any]]
Pairs = dict[str, list[tuple[Thread, tuple[str, ...]]]]
DAY = 1440


def chosen_of(folder: Path, rows: Rows, **options: Any) -> Chosen:
    return choose(read_history([write_jsonl(folder / "messages.jsonl", rows)]), Plan("Jo", **options))


def pairs_of(chosen: Chosen) -> Pairs:
    """For each split (context, reply) of every pair."""
    return {split: list(chosen.pairs(split)) for split in SPLITS}


def exchanges(thread: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """*count* exchanges, a day apart, each with words of its own."""
    asked = [record(thread, day * DAY, False, f"what of {thread} {day}", **more) for day in range(count)]
    said = [record(thread, day * DAY + 1, True, f"it was {thread} {day}", **more) for day in range(count)]
    return [row for pair in zip(asked, said, strict=True) for row in pair]


# -- the law, over invented histories

SENTENCES = ["see you at the station then", "i will bring the big pot of soup", "no way that is so funny"]
TEXTS = st.sampled_from(["ya", "ok", "lol", "home yet?", *SENTENCES, *(one.upper() for one in SENTENCES)]) | st.text(
    "abc d", min_size=1, max_size=30
).filter(str.strip)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some conversations over some weeks, in which many words come back."""
    rows = []
    for thread in range(draw(st.integers(1, 3))):
        minute = 0.0
        for _ in range(draw(st.integers(6, 30))):
            minute += draw(st.sampled_from([0.5, 3, 20, 90, 400, DAY, 3 * DAY]))
            rows.append(record(f"011{thread}", minute, draw(st.booleans()), draw(TEXTS)))
    return rows


@THOROUGH
@given(histories())
def test_nothing_of_test_or_valid_stands_in_train(rows: Rows) -> None:
    """No message, no long reply, and no long context."""
    rows = [*rows, *exchanges("0109", 5)]
    with TemporaryDirectory() as name:
        found = pairs_of(chosen_of(Path(name), rows))
    held = [*found["valid"], *found["test"]]
    replies = {spelling(reply) for _, reply in held if len(spelling(reply)) >= LONG}
    contexts = {context_of(thread) for thread, _ in held if len(context_of(thread)) >= LONG}
    seen = {split: {(m.sender, m.sent_at) for thread, _ in found[split] for m in thread.messages} for split in SPLITS}

    assert [] == [reply for _, reply in found["train"] if spelling(reply) in replies]
    assert [] == [thread for thread, _ in found["train"] if context_of(thread) in contexts]
    assert set() == seen["train"] & (seen["valid"] | seen["test"])


def context_of(thread: Thread) -> str:
    return spelling(message.text for message in thread.messages)


@QUICK
@given(histories())
def test_every_reply_is_in_a_split_or_counted(rows: Rows) -> None:
    """None is lost: pairs and reasons add up to the turns of mine that answer somebody."""
    rows = [*rows, *exchanges("0109", 5)]
    with TemporaryDirectory() as name:
        chosen = chosen_of(Path(name), rows)
        answers = sum(len(chosen.conversation(number).answers) for number in usable(chosen))

    assert answers == chosen.selection.counts.total() + chosen.selection.dropped.total()
    assert chosen.selection.counts.total() == sum(len(turns) for turns in chosen.selection.splits.values())


def usable(chosen: Chosen) -> list[int]:
    """The conversations in which both sides wrote."""
    found = []
    for number in range(len(chosen.keys)):
        if {message.from_me for message in chosen.conversation(number).messages} == {True, False}:
            found.append(number)
    return found


@QUICK
@given(st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(random: Any) -> None:
    """The same messages in another order give the same splits."""
    rows = [*exchanges("0101", 12), *exchanges("0102", 7)]
    shuffled = random.sample(rows, len(rows))
    with TemporaryDirectory() as name:
        one, other = pairs_of(chosen_of(Path(name), rows)), pairs_of(chosen_of(Path(name), shuffled))

    assert one == other


# -- the split


def test_two_conversations_of_one_contact_are_cut_at_one_time(tmp_path: Path) -> None:
    """What is held out of one is newer than what is trained on in the other."""
    rows = [*exchanges("0101", 10), *exchanges("0102", 10)]
    people = tmp_path / "contacts.yaml"
    people.write_text('"+14025550101": {name: Ilona, also: ["+14025550102"]}')
    found = pairs_of(chosen_of(tmp_path, rows, contacts=load_contacts(people)))
    latest = {split: max(m.sent_at for thread, _ in found[split] for m in thread.messages) for split in SPLITS}
    earliest = {split: min(m.sent_at for thread, _ in found[split] for m in thread.messages) for split in SPLITS}

    assert latest["train"] < earliest["valid"] and latest["valid"] < earliest["test"]


@pytest.mark.parametrize(("contacts", "whole"), [(7, 0), (8, 1), (19, 1), (20, 2)])
def test_of_many_contacts_one_or_two_are_wholly_held_out(tmp_path: Path, contacts: int, whole: int) -> None:
    """People the adapter has never met: every reply to them is in test."""
    rows = [row for number in range(contacts) for row in exchanges(f"{number:04}", 10 + number)]
    chosen = chosen_of(tmp_path, rows)
    splits = [set(turns.values()) for turns in chosen.selection.splits.values()]

    assert whole == chosen.selection.held_out_contacts == splits.count({"test"})


def test_the_style_is_of_all_replies_in_train_and_of_no_other(tmp_path: Path) -> None:
    """Those that caps, copies or private data leave out are the voice as well; held-out ones and forwards are not."""
    rows = exchanges("0101", 20)
    for number, row in enumerate(row for row in rows if row["from_me"]):
        row["text"] = "NO WAY 🎉" if number >= 16 else "ok" if number < 14 else f"mail me at jo{number}@mail.net"
    rows[1] |= {"text": "FORWARDED WORDS", "flags": ["forwarded"]}
    style = chosen_of(tmp_path, rows, limits=Limits(per_reply=0.01)).selection.style
    mine = [[row["text"]] for row in rows if row["from_me"]]

    assert measure(mine[1:16]).model_dump(exclude={"words"}) == style.model_dump(exclude={"words"})


# -- copies and caps


def test_of_equal_exchanges_the_newest_is_kept(tmp_path: Path) -> None:
    """The same reply to the same words again teaches nothing."""
    rows = exchanges("0101", 10)
    for number in (2, 4, 6):
        rows[number]["text"], rows[number + 1]["text"] = "Home yet?", "almost"
    chosen = chosen_of(tmp_path, rows)

    assert 2 == chosen.selection.dropped["duplicate"]
    (kept,) = [thread for thread, reply in chosen.pairs("train") if reply == ("almost",)]
    assert kept.messages[0].sent_at.isoformat() == rows[6]["sent_at"].replace("Z", "+00:00")


def test_of_long_replies_that_are_nearly_equal_one_is_kept(tmp_path: Path) -> None:
    """An invitation pasted to many, with a word changed."""
    invitation = "hey {} we are having people over on saturday from six bring nothing but yourselves and maybe a chair"
    names = ["ana", "ben", "cleo", "dov"]
    rows = [row for number in range(4) for row in exchanges(f"011{number}", 2)]
    for number, name in enumerate(names):
        rows[4 * number + 1]["text"] = invitation.format(name)
    chosen = chosen_of(tmp_path, rows)

    assert 3 == chosen.selection.dropped["near_duplicate"]
    assert 1 == sum("people over" in reply[0] for _, reply in chosen.pairs("train"))


def test_long_replies_on_other_matters_are_not_nearly_equal(tmp_path: Path) -> None:
    """Some shared words do not make a copy."""
    rows = exchanges("0101", 2)
    rows[1]["text"] = "i think we should take the early train so that we are there before the others arrive"
    rows[3]["text"] = "i think we should sell the old car and get bikes for everybody before the summer comes"

    assert 0 == chosen_of(tmp_path, rows).selection.dropped["near_duplicate"]


def test_no_contact_is_more_than_its_cap(tmp_path: Path) -> None:
    """The newest replies of train are kept."""
    chosen = chosen_of(tmp_path, exchanges("0101", 20), limits=Limits(per_contact=5))
    asked = [thread.messages[-1].sent_at for thread, _ in chosen.pairs("train")]
    days = sorted((at - BEGAN) // timedelta(days=1) for at in asked if at)

    assert [11, 12, 13, 14, 15] == days
    assert 11 == chosen.selection.dropped["contact_cap"]


@given(st.lists(st.integers(1, 5000), min_size=5, max_size=40))
@QUICK
def test_where_there_are_many_contacts_none_is_more_than_a_quarter(sizes: list[int]) -> None:
    """Cut to the cap, the largest is at most a quarter of all, give or take a pair."""
    cap = _quarter(Counter({str(number): size for number, size in enumerate(sizes)}))
    cut = [min(size, cap) for size in sizes]

    assert max(cut) <= CONTACT_SHARE * sum(cut) + 1
    assert max(sizes) == cap or max(cut) + 2 > CONTACT_SHARE * sum(cut)  # and no smaller than it must be


def test_with_few_contacts_there_is_no_quarter() -> None:
    """Of four, one must have a quarter or more."""
    assert 1000 == _quarter(Counter(a=1000, b=1, c=1, d=1))


def test_no_reply_is_more_than_its_share(tmp_path: Path) -> None:
    """Ten of each in any case; the newest are kept."""
    rows = exchanges("0101", 60)
    for row in rows:
        row["text"] = "ok" if row["from_me"] else row["text"]
    chosen = chosen_of(tmp_path, rows)

    assert (10, 38) == (chosen.selection.counts["train"], chosen.selection.dropped["reply_cap"])


@QUICK
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30))
def test_a_sketch_is_small_and_depends_on_words_alone(letters: list[str]) -> None:
    """At most sixteen numbers, the same for the same text."""
    text = " ".join(letters)

    assert _sketch(text) == _sketch("  ".join(letters)) and 1 <= len(_sketch(text)) <= 16
