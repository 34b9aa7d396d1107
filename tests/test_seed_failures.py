"""What went wrong before this project existed, each as a fact that can no longer be."""

import json
from pathlib import Path

import pytest

from errors import ConfigRefused, DataRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.persona import measure
from tests.tiny import conversation, read_jsonl, record, tiny_dataset, write_jsonl
from tests.toy_tokenizers import byte_level
from training.contacts import load_contacts
from training.conversations import read_history
from training.dataset import build
from training.plan import Plan
from training.rows import load_dataset
from training.selection import Limits

DAY = 1440.0


def test_a_folder_without_rows_is_never_trained_on(tmp_path: Path) -> None:
    """A config that points to empty data ends before anything is loaded, and says which file is empty."""
    found = tiny_dataset(tmp_path)
    (found.folder / "train.jsonl").write_text("")

    with pytest.raises(DataRefused, match="train.jsonl"):
        load_dataset(found.folder, ChatTemplate(byte_level()), 512)


def test_a_variant_that_was_never_built_is_never_trained_on(tmp_path: Path) -> None:
    """Neither a folder that is not there nor one that was only made."""
    (tmp_path / "turns").mkdir()

    for name in ("turns", "category_aware"):
        with pytest.raises((DataRefused, ConfigRefused), match=name):
            load_dataset(tmp_path / name, ChatTemplate(byte_level()), 512)


def test_a_build_writes_no_variant_without_rows(tmp_path: Path) -> None:
    """Every folder that a build leaves holds something to train on."""
    history = read_history([write_jsonl(tmp_path / "m.jsonl", conversation("0101", 8))])
    built = build(history, ChatTemplate(byte_level()), tmp_path / "built", Plan("Jo"))

    assert built.variants and all(variant.counts["train"] > 0 for variant in built.variants)


def test_the_style_is_measured_before_replies_are_filtered_and_never_on_held_out_ones(tmp_path: Path) -> None:
    """Short replies that caps thin out are the voice; what will be predicted later is not known yet."""
    rows = conversation("0101", 40)
    mine = [row for row in rows if row["from_me"]]
    for number, row in enumerate(mine):
        row["text"] = "OK" if number % 2 and number < 64 else f"see you then {number}" if number < 64 else "NEVER 🎉!"
    history = read_history([write_jsonl(tmp_path / "m.jsonl", rows)])
    plan = Plan("Jo", ["raw_style_variable"], limits=Limits(per_reply=0.01))
    (variant,) = build(history, ChatTemplate(byte_level()), tmp_path / "built", plan).variants
    summary = json.loads((variant.folder / "dataset.json").read_text())

    assert 22 == summary["dropped"]["reply_cap"]
    assert measure([[row["text"]] for row in mine[:64]]).model_dump() == summary["contract"]["persona"]["style"]


def test_the_category_does_not_depend_on_the_reply(tmp_path: Path) -> None:
    """Were it computed from the answer, the prompt would tell it: only the contact decides."""
    rows = [row for day in range(10) for row in [
        record("0101", day * DAY, False, f"dinner {day}?"),
        record("0101", day * DAY + 1, True, "love you mum" if day % 2 else "send me the invoice"),
    ]]  # fmt: skip
    people = tmp_path / "contacts.yaml"
    people.write_text('"0101": {relation: friend}')
    plan = Plan("Jo", ["category_aware"], contacts=load_contacts(people))
    history = read_history([write_jsonl(tmp_path / "m.jsonl", rows)])
    (variant,) = build(history, ChatTemplate(byte_level()), tmp_path / "built", plan).variants
    systems = {row["messages"][0]["content"] for row in read_jsonl(variant.folder / "train.jsonl")}

    assert 1 == len(systems) and "texting with friend." in systems.pop()


def test_the_split_within_a_contact_is_by_time(tmp_path: Path) -> None:
    """A random one would put what was said before and after a held-out reply into train."""
    found = tiny_dataset(tmp_path, blocks=30)
    moments = {split: {} for split in ("train", "valid", "test")}
    for split, by_thread in moments.items():
        for row in read_jsonl(found.folder / f"{split}.jsonl"):
            by_thread.setdefault(row["thread"], []).append(row["at"])

    for thread in moments["train"]:
        train, valid, test = (moments[split][thread] for split in ("train", "valid", "test"))
        assert max(train) < min(valid) <= max(valid) < min(test)
