"""The user's block list: words however they are written, people, conversations, days."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.hostile import QUICK
from training.privacy.block_list import BlockList, load_block_list
from training.privacy.find import mask

LIST = BlockList(words=("Project Heron", "Zoë", "anna", "秘密", "c++", "x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("project heron is on", "... is on"),
        ("PROJECT  HERON!", "...!"),
        ("ｐｒｏｊｅｃｔ heron", "..."),
        ("project\nheron", "..."),
        ("Zoe\u0308 said", "... said"),
        ("ZOË", "..."),
        ("Anna, anna & ANNA's", "..., ... & ...'s"),
        ("savanna annapolis", "savanna annapolis"),
        ("这是秘密吗", "这是...吗"),
        ("in c++?", "in ...?"),
        ("exit x", "exit ..."),
        ("👍🏽anna👍🏽", "👍🏽...👍🏽"),
        ("nothing here", "nothing here"),
    ],
)
def test_a_word_is_found_however_it_is_written(text: str, expected: str) -> None:
    """Case, width, composed accents and white space do not matter; a longer word is another word."""
    assert mask(text, LIST.find(text)) == expected


@QUICK
@given(st.text(max_size=60), st.sampled_from(LIST.words))
def test_a_masked_text_holds_no_blocked_word(text: str, word: str) -> None:
    """Once masked, nothing is found again."""
    once = mask(f"{text} {word} {text}", LIST.find(f"{text} {word} {text}"))

    assert LIST.find(once) == []


def test_an_empty_list_blocks_nothing() -> None:
    """No word, nobody, no day."""
    empty = BlockList()

    assert not empty.find("anything") and not empty.blocks_contact("a") and not empty.blocks_thread("a")
    assert not empty.blocks_day(datetime(2024, 1, 1, tzinfo=UTC))


def test_people_conversations_and_days_are_blocked() -> None:
    """Addresses in any spelling, names without case, both ends of a span of days."""
    blocked = BlockList(
        contacts=("+1 (402) 555-0101", "Jo@Example.com"),
        threads=("Hikers",),
        dates=((date(2024, 3, 1), date(2024, 3, 14)),),
    )

    assert blocked.blocks_contact("+14025550101") and blocked.blocks_contact(None, "jo@example.com")
    assert not blocked.blocks_contact("+14025550102", None)
    assert blocked.blocks_thread("x", "hikers") and not blocked.blocks_thread("hiker")
    days = [datetime(2024, month, day, 23, 59, tzinfo=UTC) for month, day in ((2, 29), (3, 1), (3, 14), (3, 15))]
    assert [blocked.blocks_day(day) for day in days] == [False, True, True, False]
    assert not blocked.blocks_day(None)


def block_file(folder: Path, text: str) -> Path:
    path = folder / "block.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    """Every part may be left out, and the whole too."""
    path = block_file(tmp_path, "words: [heron, ' two words ']\ndates: [{from: 2024-03-01, to: 2024-03-14}]\n")

    assert load_block_list(path) == BlockList(
        words=("heron", "two words"), dates=((date(2024, 3, 1), date(2024, 3, 14)),)
    )
    assert load_block_list(block_file(tmp_path, "")) == BlockList()


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """By place, never with what stands there."""
    text = "words: [secretword, '']\ncontact: [x]\ndates: [{from: 2024-03-02, to: 2024-03-01}, {from: soon}]\n"
    with pytest.raises(DataRefused) as refused:
        load_block_list(block_file(tmp_path, text))

    assert refused.value.code == "block_list_malformed"
    places = {detail.partition(": ")[0] for detail in refused.value.details}
    assert places == {"words.1", "contact", "dates.0", "dates.1.from", "dates.1.to"}
    assert "secretword" not in str(refused.value)


@pytest.mark.parametrize("text", ["- a\n- b", "words: a", "words: [[a]]", "dates: 5", "words: {a: b}"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    """With the place."""
    with pytest.raises(DataRefused) as refused:
        load_block_list(block_file(tmp_path, text))

    assert refused.value.code == "block_list_malformed" and refused.value.details


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Not there, not YAML, not UTF-8."""
    (tmp_path / "latin").write_bytes(b"words: [caf\xe9]")
    for path in (tmp_path / "none", tmp_path / "latin", block_file(tmp_path, "words: [a")):
        with pytest.raises(DataRefused) as refused:
            load_block_list(path)
        assert refused.value.code == "unreadable_file"
