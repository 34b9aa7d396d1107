"""Datasets from messages: how they are split, what is counted, and that a build is whole or not there."""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from errors import BaseRefused, DataRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.contract import Contract
from prompt_format.persona import measure
from prompt_format.variants import VARIANTS
from tests.tiny import conversation, files_in, files_no_larger_than, read_jsonl, record, write_jsonl
from tests.toy_tokenizers import CHATML, byte_level, chat_template
from training.chosen import choose
from training.contacts import Contacts, load_contacts
from training.conversations import read_history
from training.dataset import build
from training.dataset_files import Written, _mend
from training.plan import Plan
from training.selection import LONG, SPLITS, Limits

Rows = Sequence[dict[str, Any]]
Chosen = tuple[str, int, datetime | None, tuple[str, ...]]
TWO_THREADS = [*conversation("0101", 20), *conversation("0102", 10)]
LONG_WORDS = "we should really do that again soon"


@cache
def template() -> ChatTemplate:
    return ChatTemplate(byte_level())


def related(folder: Path) -> Contacts:
    """Two people with a relation: one by thread, one by sender."""
    path = folder / "contacts.yaml"
    path.write_text('"0101": {relation: family}\n"+14025550102": {relation: close friend}\n')
    return load_contacts(path)


def built(folder: Path, rows: Rows = TWO_THREADS, variant: str = "raw_style", **options: Any) -> Written:
    history = read_history([write_jsonl(folder / "messages.jsonl", rows)])
    return build(history, template(), folder / "built", Plan("Jo", [variant], **options)).variants[0]


def rows_of(found: Written) -> dict[str, list[Any]]:
    return {split: read_jsonl(found.folder / f"{split}.jsonl") for split in SPLITS}


def summary_of(found: Written) -> dict[str, Any]:
    return json.loads((found.folder / "dataset.json").read_text())


def splits_of(folder: Path, rows: Rows = TWO_THREADS, **options: Any) -> dict[str, list[Chosen]]:
    """For each split (thread, block, when the reply began, its bubbles) of every pair."""
    chosen = choose(read_history([write_jsonl(folder / "messages.jsonl", rows)]), Plan("Jo", **options))
    splits: dict[str, list[Chosen]] = {split: [] for split in SPLITS}
    for number, turns in chosen.selection.splits.items():
        conversation = chosen.conversation(number)
        for answer in conversation.answers:
            if answer.turn in turns:
                turn = conversation.turns[answer.turn]
                found = (chosen.keys[number][2], answer.block, turn.began, turn.bubbles)
                splits[turns[answer.turn]].append(found)
    return splits


def moment_of(pair: Chosen) -> tuple[str, str]:
    """Thread and time of a reply, as its record has them."""
    assert pair[2]
    return pair[0], pair[2].isoformat().replace("+00:00", "Z")


# -- the split


def test_the_last_blocks_of_each_thread_are_held_out(tmp_path: Path) -> None:
    """A tenth of each thread's blocks, the last, is test; the tenth before it is valid; all earlier is train."""
    splits = splits_of(tmp_path)
    blocks = {
        split: {(thread, block) for thread, block, _, _ in pairs if thread == "0101"} for split, pairs in splits.items()
    }

    assert {("0101", block) for block in range(16)} == blocks["train"]
    assert {("0101", 16), ("0101", 17)} == blocks["valid"]
    assert {("0101", 18), ("0101", 19)} == blocks["test"]


def test_every_reply_stands_in_one_split(tmp_path: Path) -> None:
    """None is lost, none is twice."""
    splits = splits_of(tmp_path)
    found = [(thread, at) for pairs in splits.values() for thread, _, at, _ in pairs]

    assert len(TWO_THREADS) // 2 == len(found) == len(set(found))


def test_within_a_thread_time_goes_from_train_to_test(tmp_path: Path) -> None:
    """No reply that is trained on is newer than one that is held out."""
    splits = splits_of(tmp_path)
    for thread in ("0101", "0102"):
        times = [[at for whose, _, at, _ in splits[split] if at and whose == thread] for split in SPLITS]
        assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])


@pytest.mark.parametrize("variant", ["raw_style", "raw_style_variable", "turns"])
def test_no_message_stands_in_two_splits(tmp_path: Path, variant: str) -> None:
    """Neither a context nor a reply of one split shares a message with another split's."""
    found = rows_of(built(tmp_path, variant=variant))
    said = {split: "\n".join(m["content"] for row in rows for m in row["messages"]) for split, rows in found.items()}
    asked = [row["text"] for row in TWO_THREADS if not row["from_me"]]  # each question is asked once
    where = {text: [split for split in SPLITS if text in said[split]] for text in asked}

    assert {} == {text: splits for text, splits in where.items() if len(splits) != 1}


@pytest.mark.parametrize("held_out", ["valid", "test"])
def test_a_long_reply_that_is_held_out_is_not_trained_on(tmp_path: Path, held_out: str) -> None:
    """Were it, it would be known by heart. Spelling in capitals or with other spaces does not hide it."""
    rows = [dict(row) for row in TWO_THREADS]
    chosen = moment_of(splits_of(tmp_path)[held_out][0])
    for row in rows:
        if row["from_me"] and (row["thread_id"], row["sent_at"]) == chosen:
            row["text"] = LONG_WORDS
    rows[1]["text"], rows[3]["text"] = LONG_WORDS.upper(), LONG_WORDS.replace(" ", "\n", 1)
    found = built(tmp_path, rows)

    assert LONG_WORDS not in (found.folder / "train.jsonl").read_text().lower().replace("\\\\n", " ")
    assert LONG_WORDS in (found.folder / f"{held_out}.jsonl").read_text()
    assert 2 == summary_of(found)["dropped"]["reply_also_held_out"]


def test_a_short_reply_may_stand_in_every_split(tmp_path: Path) -> None:
    """Short replies are the voice, and are the same again and again."""
    rows = [{**row, "text": "x" * (LONG - 1) if row["from_me"] else row["text"]} for row in TWO_THREADS]

    found = built(tmp_path, rows, limits=Limits(per_reply=1))

    assert len(TWO_THREADS) // 2 == sum(found.counts.values())


@pytest.mark.parametrize(
    ("blocks", "counts"), [(1, (2, 0, 0)), (2, (4, 0, 0)), (3, (2, 2, 2)), (14, (24, 2, 2)), (15, (22, 4, 4))]
)
def test_how_many_blocks_are_held_out(tmp_path: Path, blocks: int, counts: tuple[int, int, int]) -> None:
    """From three blocks on at least one each, two replies in a block; fewer are all trained on."""
    splits = splits_of(tmp_path, conversation("0101", blocks))

    assert counts == tuple(len(splits[split]) for split in SPLITS)


# -- what is left out


def test_every_message_left_out_is_counted(tmp_path: Path) -> None:
    """By reason, in dataset.json: what no line is, what no text is, what is no reply, groups."""
    more = [
        record("0101", 30 * 1440, False, "look"),
        record("0101", 30 * 1440, False, "", kind="media"),
        record("0101", 30 * 1440 + 1, True, "so cute"),
        record("0101", 31 * 1440, False, "ok?"),
        record("0101", 31 * 1440 + 1, True, "https://example.org", flags=["link_only"]),
        record("0109", 0, False, "hello all", thread_kind="group"),
        record("0109", 1, True, "hi", thread_kind="group"),
        {"text": "of nobody"},
    ]
    dropped = summary_of(built(tmp_path, [*TWO_THREADS, *more]))["dropped"]

    assert {
        "answers_media": 1, "group_thread": 2, "not_my_words": 1, "not_text: media": 1, "not_understood": 1,
    } == {reason: count for reason, count in dropped.items() if count}  # fmt: skip


def test_groups_are_learned_from_when_asked_for(tmp_path: Path) -> None:
    """With --groups their replies are rows like others."""
    rows = [{**row, "thread_kind": "group"} for row in TWO_THREADS]

    assert len(TWO_THREADS) // 2 == sum(built(tmp_path, rows, groups=True).counts.values())


def test_a_reply_that_no_prompt_can_carry_is_counted(tmp_path: Path) -> None:
    """One to a text that the chat template changes is left out under the refusal's code."""
    rows = [*TWO_THREADS[:-2], {**TWO_THREADS[-2], "text": "a zebra?"}, TWO_THREADS[-1]]
    rewrites = ChatTemplate(byte_level(CHATML.replace("m.content", "m.content | replace('zebra', 'horse')")))
    history = read_history([write_jsonl(tmp_path / "messages.jsonl", rows)])
    (found,) = build(history, rewrites, tmp_path / "built", Plan("Jo", ["raw_style"])).variants

    assert len(TWO_THREADS) // 2 - 1 == sum(found.counts.values())
    assert 1 == summary_of(found)["dropped"]["refused: template_loses_text"]


def test_overlapping_files_count_a_message_once(tmp_path: Path) -> None:
    """Two exports of one history, the second longer, give the same rows as the second alone."""
    first = write_jsonl(tmp_path / "a.jsonl", TWO_THREADS[:40])
    second = write_jsonl(tmp_path / "b.jsonl", TWO_THREADS)
    plan = Plan("Jo", ["raw_style"])
    (once,) = build(read_history([second]), template(), tmp_path / "once", plan).variants
    (twice,) = build(read_history([first, second]), template(), tmp_path / "twice", plan).variants

    assert files_in(once.folder, but=["dataset.json"]) == files_in(twice.folder, but=["dataset.json"])
    assert 40 == summary_of(twice)["dropped"]["in_an_earlier_file"]


def test_the_same_words_twice_in_one_file_are_two_messages(tmp_path: Path) -> None:
    """Two equal messages of one second can both be real."""
    rows = [record("0101", 0, False, "hi"), record("0101", 1, True, "ok"), record("0101", 1, True, "ok")]
    (row,) = rows_of(built(tmp_path, rows))["train"]

    assert "ok / ok" == row["messages"][-1]["content"]


# -- what is written


def test_a_row_says_where_it_comes_from(tmp_path: Path) -> None:
    """The contract it was made under, the thread as a hash, and when the reply began."""
    found = built(tmp_path)
    row = rows_of(found)["train"][0]

    assert ["messages", "contract", "thread", "at"] == list(row)
    assert (found.contract, "2026-01-05T09:01:00Z") == (row["contract"], row["at"])
    assert ["system", "user", "assistant"] == [message["role"] for message in row["messages"]]


def test_no_number_and_no_thread_stands_in_a_dataset(tmp_path: Path) -> None:
    """Who the others are cannot be read from it."""
    rows = [{**row, "text": "hi", "thread_name": "Ilona"} for row in TWO_THREADS]
    content = b"".join(files_in(built(tmp_path, rows).folder).values())

    assert [] == [name for name in (b"0101", b"0102", b"+1402", b"Ilona") if name in content]


def test_the_summary_describes_the_files(tmp_path: Path) -> None:
    """Counts, bytes and digests are those of the files beside it, and the contract is the rows'."""
    found = built(tmp_path)
    summary, files = summary_of(found), files_in(found.folder)

    assert {f"{split}.jsonl": len(files[f"{split}.jsonl"]) for split in SPLITS} == summary["bytes"]
    assert found.counts == summary["counts"] == {split: len(rows) for split, rows in rows_of(found).items()}
    assert found.contract == summary["contract_digest"] == Contract.model_validate(summary["contract"]).digest


def test_the_style_is_measured_on_train_alone(tmp_path: Path) -> None:
    """However the held-out replies are written, the persona's style is that of the others."""
    splits = splits_of(tmp_path)
    held_out = {moment_of(pair) for split in ("valid", "test") for pair in splits[split]}
    rows = [dict(row) for row in TWO_THREADS]
    for row in rows:
        if row["from_me"] and (row["thread_id"], row["sent_at"]) in held_out:
            row["text"] = "NO WAY 🎉."
    found = built(tmp_path, rows, "raw_style_variable")

    assert "NO WAY" in (found.folder / "test.jsonl").read_text()
    persona = summary_of(found)["contract"]["persona"]
    assert measure([bubbles for *_, bubbles in splits_of(tmp_path, rows)["train"]]).model_dump() == persona["style"]
    assert (100, 0) == (persona["style"]["lower_case"], persona["style"]["emoji"])


def test_the_same_messages_give_the_same_bytes(tmp_path: Path) -> None:
    """A second build elsewhere gives the same files; one from lines in another order gives the same rows."""
    first, again = built(tmp_path / "a"), built(tmp_path / "b")
    backwards = built(tmp_path / "c", TWO_THREADS[::-1])

    assert files_in(first.folder) == files_in(again.folder)
    assert files_in(first.folder, but=["dataset.json"]) == files_in(backwards.folder, but=["dataset.json"])


def test_a_build_replaces_the_one_before(tmp_path: Path) -> None:
    """Nothing of the old files stays, and nothing lies beside the folder."""
    built(tmp_path)
    (tmp_path / "built" / "raw_style" / "stray.txt").write_text("x")
    found = built(tmp_path, conversation("0103", 4))

    assert {"train.jsonl", "valid.jsonl", "test.jsonl", "dataset.json"} == set(files_in(found.folder))
    assert {"raw_style", "report.html"} == {path.name for path in (tmp_path / "built").iterdir()}


def test_a_dataset_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Folder 0700, files 0600."""
    found = built(tmp_path)

    assert 0o700 == found.folder.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in found.folder.iterdir()}


# -- variants


def test_without_a_choice_each_variant_that_holds_data_is_built(tmp_path: Path) -> None:
    """category_aware only where relations are known; those a template cannot express are left out."""
    history = read_history([write_jsonl(tmp_path / "messages.jsonl", TWO_THREADS)])
    no_speakers = chat_template("plain_text_markers_on_one_line")
    transcripts = ["raw_style", "raw_style_variable"]

    def variants(template: ChatTemplate, **options: Any) -> list[str]:
        return [found.variant for found in build(history, template, tmp_path / "built", Plan("Jo", **options)).variants]

    assert [*transcripts, "turns"] == variants(template())
    assert list(VARIANTS) == variants(template(), contacts=related(tmp_path))
    assert transcripts == variants(no_speakers)


def test_the_relation_comes_from_thread_or_sender(tmp_path: Path) -> None:
    """Whichever of the two the contacts name."""
    found = rows_of(built(tmp_path, variant="category_aware", contacts=related(tmp_path)))["train"]
    systems = {row["messages"][0]["content"].partition(".")[0] for row in found}

    assert {"You are Jo, texting with family", "You are Jo, texting with close friend"} == systems


# -- builds that fail


def only_they_write(row: dict[str, Any]) -> bool:
    return not row["from_me"]


FAILURES = {
    "no files": ({"paths": []}, "no messages to build from .no file given.: run `python -m training import"),
    "absent file": ({"paths": ["absent.jsonl"]}, "no file '.*absent.jsonl': import messages first"),
    "empty file": ({"paths": ["empty.jsonl"]}, "no messages to build from .*empty.jsonl"),
    "rubbish": ({"paths": ["rubbish.jsonl"]}, "no messages to build from .*rubbish(.|\n)*not_understood: 2 lines"),
    "one absent of two": ({"paths": ["messages.jsonl", "absent.jsonl"]}, "no file '.*absent.jsonl'"),
    "none mine": ({"paths": ["theirs.jsonl"]}, "no replies to learn from in .*theirs.jsonl.*Check --me"),
    "a name that is a label": ({"name": "Them"}, "'Them' is what prompts call the other side"),
    "a name of marks": ({"name": "Jo: "}, "a persona's name is one or more words"),
    "an unknown variant": ({"variants": ["raw"]}, "no variant named 'raw'; there are: raw_style, "),
    "no relations": ({"variants": ["category_aware"]}, "write it into contacts.yaml .--contacts."),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_build_that_is_refused_writes_nothing(tmp_path: Path, case: str) -> None:
    """The message says what is wrong, and the datasets that were there stay, byte for byte."""
    options, message = FAILURES[case]
    built(tmp_path)
    write_jsonl(tmp_path / "theirs.jsonl", filter(only_they_write, TWO_THREADS))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "rubbish.jsonl").write_text("rubbish\n{}\n")
    before = files_in(tmp_path / "built")
    paths = [tmp_path / name for name in options.get("paths", ["messages.jsonl"])]

    with pytest.raises(DataRefused, match=message):
        plan = Plan(options.get("name", "Jo"), options.get("variants", ()))
        build(read_history(paths), template(), tmp_path / "built", plan)
    assert before == files_in(tmp_path / "built")
    assert {"raw_style", "report.html"} == {path.name for path in (tmp_path / "built").iterdir()}


def test_a_variant_that_was_asked_for_and_cannot_be_is_refused(tmp_path: Path) -> None:
    """Nothing is written, not even the other variant that was asked for."""
    history = read_history([write_jsonl(tmp_path / "messages.jsonl", TWO_THREADS)])
    template = chat_template("plain_text_markers_on_one_line")

    with pytest.raises(BaseRefused, match="does not mark who speaks"):
        build(history, template, tmp_path / "built", Plan("Jo", ["raw_style", "turns"]))
    assert not (tmp_path / "built").exists()


def test_a_full_disk_leaves_the_dataset_that_was_there(tmp_path: Path) -> None:
    """The system refuses to write a file of the size of the new rows: the old ones stay, and no staging folder."""
    found = built(tmp_path, conversation("0103", 4))
    before = files_in(found.folder)
    history = read_history([write_jsonl(tmp_path / "messages.jsonl", TWO_THREADS)])

    with files_no_larger_than(len(before["train.jsonl"])), pytest.raises(OSError, match="File too large"):
        build(history, template(), tmp_path / "built", Plan("Jo", ["raw_style"]))
    assert before == files_in(found.folder)
    assert {"raw_style", "report.html"} == {path.name for path in (tmp_path / "built").iterdir()}


def test_a_leftover_of_a_killed_build_is_no_obstacle(tmp_path: Path) -> None:
    """In a container every process can have the same number, and so the same staging folder."""
    for kind in ("staging", "old"):
        leftover = tmp_path / "built" / f".{kind}-raw_style-{os.getpid()}"
        leftover.mkdir(parents=True)
        (leftover / "train.jsonl").write_text("half a li")
    built(tmp_path)
    built(tmp_path)

    assert {"raw_style", "report.html"} == {path.name for path in (tmp_path / "built").iterdir()}


def test_a_killed_build_is_mended_by_the_next(tmp_path: Path) -> None:
    """What a kill between its two renames left aside is put back, and staged rows do not stay."""
    folder = tmp_path / "turns"
    (tmp_path / ".old-turns-1").mkdir()
    (tmp_path / ".old-turns-1" / "train.jsonl").write_text("rows")
    (tmp_path / ".staging-turns-2").mkdir()
    _mend(folder)

    assert "rows" == (folder / "train.jsonl").read_text()
    assert ["turns"] == [path.name for path in tmp_path.iterdir()]
