"""Secrets planted in a history, and a search for them in everything that a build writes."""

from collections import Counter
from pathlib import Path

from prompt_format.chat_template import ChatTemplate
from tests.private_examples import labelled
from tests.tiny import files_in, record, write_jsonl
from tests.toy_tokenizers import byte_level
from training.contacts import load_contacts
from training.conversations import read_history
from training.dataset import build
from training.plan import Plan
from training.privacy.block_list import BlockList
from training.privacy.rules import Rules

DAY = 1440.0
PLANTED = list(labelled())


def planted_history(folder: Path) -> Path:
    """Each secret once in a message of theirs and once in one of mine, among ordinary exchanges."""
    rows = []
    for number, (_, text, _) in enumerate(PLANTED):
        thread, day = f"01{10 + number % 5}", number // 5 * DAY
        rows += [
            record(thread, day, False, f"what now {number}"),
            record(thread, day + 1, True, "wait"),
            record(thread, day + 2, False, text),
            record(thread, day + 3, True, f"ok got it {number}"),
            record(thread, day + 4, False, f"and {number} yours?"),
            record(thread, day + 5, True, text),
            record(thread, day + 6, False, f"thanks {number}"),
            record(thread, day + 7, True, f"np {number}"),
        ]
    return write_jsonl(folder / "messages.jsonl", rows)


def test_no_planted_secret_reaches_a_dataset(tmp_path: Path) -> None:
    """Twenty kinds and more in twenty places and more: masked in contexts, left out where my own reply holds one."""
    people = tmp_path / "contacts.yaml"
    people.write_text('"0110": {relation: friend}')
    plan = Plan("Jo", contacts=load_contacts(people), rules=Rules(region="US"))
    built = build(read_history([planted_history(tmp_path)]), ChatTemplate(byte_level()), tmp_path / "built", plan)
    written = {variant.variant: b"".join(files_in(variant.folder).values()).decode() for variant in built.variants}

    assert 4 == len(written)
    assert 20 <= len({kind for kind, _, _ in PLANTED}) and 400 <= len(PLANTED)
    assert [] == [(name, kind) for name, text in written.items() for kind, _, secret in PLANTED if secret in text]
    left_out = Counter(reason.split(":")[0] for reason in built.selection.dropped.elements())
    assert len(PLANTED) == left_out["private"] + left_out["link_only"]
    assert all("ok got it 5" in text for text in written.values())  # the answers to masked words are learnt


def test_nothing_that_the_user_blocked_reaches_a_dataset(tmp_path: Path) -> None:
    """Words are masked or left out, the conversation of a blocked contact is not there at all."""
    rows = [row for day in range(12) for row in [
        record("0101", day * DAY, False, f"how goes Project Heron {day}"),
        record("0101", day * DAY + 1, True, f"slowly {day}"),
        record("0101", day * DAY + 2, False, f"and otherwise {day}"),
        record("0101", day * DAY + 3, True, f"project  heron is all i do {day}"),
        record("0102", day * DAY, False, f"doctor says {day}"),
        record("0102", day * DAY + 1, True, f"take the pills {day}"),
    ]]  # fmt: skip
    blocked = BlockList(words=("project heron",), contacts=("+1 402 555 0102",))
    plan = Plan("Jo", ["turns"], rules=Rules("US", blocked))
    history = read_history([write_jsonl(tmp_path / "messages.jsonl", rows)])
    built = build(history, ChatTemplate(byte_level()), tmp_path / "built", plan)
    text = b"".join(files_in(built.variants[0].folder).values()).decode().lower()

    assert ("slowly" in text, "heron" in text, "doctor" in text, "pills" in text) == (True, False, False, False)
    assert 12 == built.selection.dropped["private: blocked"]
    assert 24 == built.statistics.dropped["blocked_thread"]
