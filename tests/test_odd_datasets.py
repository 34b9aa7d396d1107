"""Histories and datasets as nobody expects them: either there is training, or one error says what is missing.

An error ends the command with exit code 1, says what to do, and leaves nothing behind: no dataset, no adapter store.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from base_model.load import load_base
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import Example
from tests.tiny import ANSWERED, ASKED, read_jsonl, record, tiny_dataset, tiny_model, write_jsonl
from tests.toy_tokenizers import byte_level
from training.__main__ import main
from training.config import TrainConfig, parse_config
from training.finetune import finetune
from training.publish import list_adapters
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset, load_dataset
from training.selection import SPLITS
from training.watch import Lines

Rows = list[dict[str, Any]]
EMOJI = ["😂", "❤️", "👍🏽", "👨‍👩‍👧", "🎉🎉", "🥲"]
RIGHT_TO_LEFT = ["שלום", "مرحبا", "أنا في الطريق", "תודה רבה", "نعم", "לא"]
NO_SPACES = ["好的", "马上到", "はい", "了解です", "네", "吃饭了吗"]
ENDLESS = "over and over " * 7200  # more than 100 kB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a command, with a link to the model; the process is left as it was."""
    before = os.umask(0o022)
    environment = dict(os.environ)
    (tmp_path / "model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.umask(before)
    os.environ.clear()
    os.environ.update(environment)


def talk(
    days: int = 12, *, thread: str = "0101", mine: Sequence[str] | None = ANSWERED, theirs: Sequence[str] | None = None
) -> Rows:
    """Two questions and two answers a day; None of a side is its silence, and no *theirs* are questions without end."""
    rows = []
    for day in range(days):
        for number in range(2):
            minute, place = 1440.0 * day + 3 * number, 2 * day + number
            asked = theirs[place % len(theirs)] if theirs else f"{ASKED[place % len(ASKED)]} {place}"
            rows.append(record(thread, minute, False, asked))
            if mine is not None:
                rows.append(record(thread, minute + 1, True, mine[place % len(mine)]))
    return rows


def with_person(number: int, days: int) -> Rows:
    """What one of several people and I wrote."""
    return talk(days, thread=f"01{number:02}", theirs=[f"hi {number}", f"how are you {number}"])


def only_mine() -> Rows:
    return [row for row in talk() if row["from_me"]]


def build(home: Path, rows: Rows) -> int:
    """Run the command on *rows*; its exit code."""
    write_jsonl(home / "messages.jsonl", rows)
    return main(["build", "messages.jsonl", "--name", "Jo", "--model", "model", "--variant", "raw_style", "-o", "out"])


def train(home: Path, **settings: Any) -> int:
    """Run the command on what was built; its exit code."""
    chosen = {"name": "jo", "model": "model", "data": "out/raw_style", "rank": 4, "iters": 2, "batch_size": 4}
    (home / "jo.yaml").write_text(yaml.safe_dump({**chosen, **settings}))
    return main(["train", "jo.yaml", "--adapters", "store"])


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, when that is one error and the reasons for it."""
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("note: ")]

    assert "" == said.out
    assert lines[0].startswith("error [") and all(line.startswith("  - ") for line in lines[1:])
    return "\n".join(lines)


def loaded(home: Path, max_tokens: int = 512) -> Dataset:
    return load_dataset(home / "out" / "raw_style", ChatTemplate(byte_level()), max_tokens)


def config(**settings: Any) -> TrainConfig:
    chosen = {
        "rank": 4, "batch_size": 4, "learning_rate": 0.02, "schedule": {"decay": "constant", "warmup": 0}, "iters": 3,
        "early_stopping": {"patience": 99, "evaluations_per_epoch": 1},
    }  # fmt: skip
    return parse_config({"name": "jo", "data": "d", **chosen, **settings}, "jo.yaml")


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def learns(model: Path, dataset: Dataset, **settings: Any) -> bool:
    """Whether training on *dataset* takes its steps, every loss is a number, and that of its own rows falls."""
    base = load_base(str(model)).model
    rows = dataset.splits["train"]
    before = mean_loss(base, rows, reply_logits(base))
    found = finetune(base, dataset, config(**settings), Lines(quiet))
    losses = [loss for _, loss in [*found.position.losses, *found.position.validation]]
    after = mean_loss(base, rows, reply_logits(base))
    return len(found.position.losses) == 3 and all(map(math.isfinite, losses)) and after < before


def write_split(folder: Path, split: str, rows: Rows) -> None:
    """The split's file anew and its digest in the summary, as a build that came to these rows would write them."""
    path = write_jsonl(folder / f"{split}.jsonl", rows)
    summary = json.loads((folder / "dataset.json").read_text())
    summary["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(summary))


# -- histories without anything to learn


NOTHING: dict[str, tuple[Callable[[], Rows], list[str]]] = {
    "no message": (list, ["error [no_messages]: no messages to build from (messages.jsonl): run `python -m training"]),
    "one of mine": (lambda: talk(1)[1:2], ["1 conversations, none with an answer of yours", "one_sided: 1"]),
    "one of theirs": (lambda: talk(1)[:1], ["1 conversations, none with an answer of yours", "one_sided: 1"]),
    "only mine": (only_mine, ["none with an answer of yours to somebody's message. Check --me", "one_sided: 24"]),
    "only theirs": (
        lambda: talk(mine=None),
        ["none with an answer of yours to somebody's message. Check --me", "one_sided: 24"],
    ),
    "no text": (
        lambda: [{**row, "kind": "media", "text": ""} for row in talk()],
        ["none with an answer of yours to somebody's message", "one_sided: 48"],
    ),
    "bare links": (
        lambda: talk(mine=["https://example.org/1"]),
        ["none of your 24 answers can be learnt from. Import more messages", "link_only: 24"],
    ),
    "endless answers": (
        lambda: talk(mine=[ENDLESS]),
        ["none of your 24 answers can be learnt from. Import more messages", "too_long: 24"],
    ),
    "one long question": (
        lambda: talk(theirs=["what are you up to this evening?"]),
        ["none of your 24 answers can be learnt from. Import more messages", "context_also_held_out: "],
    ),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_history_without_anything_to_learn(capsys: pytest.CaptureFixture[str], home: Path, case: str) -> None:
    """The error says whether there were answers at all, and why each was left out; no dataset is written."""
    rows, messages = NOTHING[case]

    assert 1 == build(home, rows())
    said = one_error(capsys)
    assert [] == [message for message in messages if message not in said]
    assert {"messages.jsonl", "model"} == {path.name for path in home.iterdir()}


# -- datasets without a row to train on or to validate on


FEW: dict[str, tuple[Callable[[], Rows], int]] = {
    "one row": (lambda: talk(1)[:2], 1),
    "two rows": (lambda: talk(1), 2),
    "two days": (lambda: talk(2), 4),
    "one message again and again": (lambda: talk(1) * 12, 2),
    "six people, two days each": (lambda: [row for number in range(1, 7) for row in with_person(number, 2)], 24),
}


@pytest.mark.parametrize("case", FEW)
def test_a_history_of_too_few_days(capsys: pytest.CaptureFixture[str], home: Path, case: str) -> None:
    """Without replies held out nothing is trained: the error says when some are, and the store is not made."""
    rows, count = FEW[case]
    assert 0 == build(home, rows())
    capsys.readouterr()

    assert 1 == train(home)
    said = one_error(capsys)
    assert f"'out/raw_style' holds {count} training and 0 validation rows, so there is nothing to validate on: " in said
    assert "the last sessions with a contact are held out where there are at least three. Import more messages" in said
    assert not (home / "store").exists()


@pytest.mark.parametrize(
    ("long", "counts"), [(("train", "valid"), "0 training and 0"), (("valid",), "20 training and 0")]
)
def test_replies_longer_than_max_tokens(
    capsys: pytest.CaptureFixture[str], home: Path, long: tuple[str, ...], counts: str
) -> None:
    """Where they are all that a split has, the error names the setting that left them out."""
    assert 0 == build(home, talk())
    for split in long:
        rows = read_jsonl(home / "out" / "raw_style" / f"{split}.jsonl")
        for row in rows:
            row["messages"][-1]["content"] = "so it goes on " * 20
        write_split(home / "out" / "raw_style", split, rows)
    capsys.readouterr()

    assert 1 == train(home, max_tokens=128)
    said = one_error(capsys)
    left_out = 20 if "train" in long else 2
    assert f"'out/raw_style' holds {counts} validation rows, so there is nothing to " in said
    assert f"the replies of {left_out} rows alone are longer than max_tokens 128. Set it higher" in said
    assert not (home / "store").exists()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_without_rows(capsys: pytest.CaptureFixture[str], home: Path, split: str) -> None:
    """A dataset whose file is empty is refused by what it then lacks."""
    folder = tiny_dataset(home / "out", blocks=4).folder
    write_split(folder, split, [])

    assert 1 == train(home)
    said = one_error(capsys)
    lacks = {"train": "0 training and 4 validation rows, so there is nothing to learn from: Import more messages"}
    assert lacks.get(split, "8 training and 0 validation rows, so there is nothing to validate on: the last") in said
    assert not (home / "store").exists()


def test_without_test_rows_the_verdict_is_over_the_validation_rows(home: Path) -> None:
    """It is trained and published all the same; the manifest says that there were none."""
    folder = tiny_dataset(home / "out", blocks=4).folder
    write_split(folder, "test", [])

    assert 0 == train(home, iters=1)
    (row,) = list_adapters(home / "store")
    assert {"train": 8, "valid": 4, "test": 0} == row.manifest.data.counts
    assert row.manifest.metrics["valid_loss"] == row.manifest.metrics["test_loss"]


def test_one_row_is_trained_on_and_published(home: Path) -> None:
    """In a batch of a thousand, with one to validate on: every step sees it."""
    folder = tiny_dataset(home / "out", blocks=4).folder
    for split in SPLITS:
        write_split(folder, split, read_jsonl(folder / f"{split}.jsonl")[:1])

    assert 0 == train(home, batch_size=1000)
    (row,) = list_adapters(home / "store")
    assert (None, {"train": 1, "valid": 1, "test": 1}) == (row.fault, row.manifest.data.counts)


# -- histories that are odd, and enough


def with_an_endless_question() -> Rows:
    """Days before the others somebody sent 100 kB, and was answered."""
    return [record("0101", -1440, False, ENDLESS), record("0101", -1439, True, "tldr"), *talk()]


def numbered(words: Sequence[str]) -> list[str]:
    """As many texts of *words* as there are questions, no two alike."""
    return [f"{word} {number}" for number in range(5) for word in words]


def with_an_endless_answer() -> Rows:
    return [*talk()[:-1], record("0101", 11 * 1440 + 4, True, ENDLESS)]


ODD: dict[str, tuple[Callable[[], Rows], tuple[int, int, int]]] = {
    "one contact": (talk, (20, 2, 2)),
    "replies of emoji": (lambda: talk(mine=EMOJI), (20, 2, 2)),
    "nothing but emoji": (lambda: talk(mine=EMOJI, theirs=[a + b for a in EMOJI for b in EMOJI]), (20, 2, 2)),
    "one answer to all": (lambda: talk(mine=["ok"]), (10, 2, 2)),
    "one exchange again and again": (lambda: talk(mine=["ok"], theirs=["?"]), (2, 2, 2)),
    "right to left": (lambda: talk(mine=RIGHT_TO_LEFT, theirs=numbered(RIGHT_TO_LEFT)), (20, 2, 2)),
    "no spaces": (lambda: talk(mine=NO_SPACES, theirs=numbered(NO_SPACES)), (20, 2, 2)),
    "an endless question": (with_an_endless_question, (21, 2, 2)),
    "an endless answer": (with_an_endless_answer, (20, 2, 1)),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_history_is_learnt_from(home: Path, model: Path, case: str) -> None:
    """So many rows in each split, and training on them lowers their loss."""
    rows, counts = ODD[case]
    assert 0 == build(home, rows())
    dataset = loaded(home)

    assert counts == tuple(len(dataset.splits[split]) for split in SPLITS)
    assert (0, 0) == (dataset.cut, dataset.refused)
    assert learns(model, dataset)


@pytest.mark.parametrize("words", [EMOJI, RIGHT_TO_LEFT, NO_SPACES], ids=["emoji", "right to left", "no spaces"])
def test_replies_in_any_script_are_trained_whole(home: Path, words: list[str]) -> None:
    """The tokens of the loss are the words as they were written, and no other."""
    assert 0 == build(home, talk(mine=words))
    dataset = loaded(home)
    trained = [dataset.format.decode_reply(row.ids[row.reply_start :]) for row in dataset.splits["train"]]

    assert {(word,) for word in words} == set(map(tuple, trained))


def test_of_an_endless_question_the_end_is_read(home: Path) -> None:
    """As much as the window holds, and the reply is whole."""
    assert 0 == build(home, with_an_endless_question())
    dataset = loaded(home)
    (found,) = [row for row in dataset.messages["train"] if row[-1]["content"] == "tldr"]
    example = dataset.splits["train"][dataset.messages["train"].index(found)]
    window = dataset.format.window

    assert found[-2]["content"].endswith("over and over")
    assert len(found[-2]["content"]) <= window.characters + 20 and example.reply_start <= window.tokens
    assert ["tldr"] == dataset.format.decode_reply(example.ids[example.reply_start :])


# -- rows that are odd


LONGER = [*range(40, 60), 7, 8, 20, 21, 260]
STRANGE = {
    "one row": [Example(LONGER, 22)],
    "one row eight times": [Example(LONGER, 22)] * 8,
    "rows of one length": [Example([*range(begin, begin + 20), 30, 260], 20) for begin in range(40, 52)],
    "each the beginning of the next": [Example([*LONGER[:end], 260], end - 1) for end in range(10, len(LONGER))],
    "a reply of nothing but its end": [Example([*range(40, 60), 260], 20), Example(LONGER, 22)],
    "a prompt of one token": [Example([5, 20, 260], 1), Example([5, 260], 1), Example(LONGER, 22)],
    "one long among short": [Example([*[7, 8, 9] * 50, 20, 260], 150), *[Example([5, 9, 20, 260], 2)] * 6],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset whose rows do not matter."""
    folder = tiny_dataset(tmp_path_factory.mktemp("plain"), blocks=4).folder
    return load_dataset(folder, ChatTemplate(byte_level()), 512)


@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_strange_rows_are_learnt(model: Path, plain: Dataset, case: str, batch_size: int) -> None:
    """In batches of any size, larger than there are rows too."""
    rows = STRANGE[case]
    dataset = replace(plain, splits={"train": rows, "valid": rows, "test": rows})

    assert learns(model, dataset, batch_size=batch_size)


def test_equal_rows_count_as_often_as_they_are_there(model: Path) -> None:
    """One that is there eight times weighs eight times as much as one that is there once, in any order."""
    base = load_base(str(model)).model
    logits = reply_logits(base)
    one, other = Example(LONGER, 22), Example([*range(40, 60), 30, 31, 260], 20)
    expected = (8 * mean_loss(base, [one], logits) + mean_loss(base, [other], logits)) / 9

    for place in (0, 4, 8):
        rows = [one] * 8
        rows.insert(place, other)
        assert expected == pytest.approx(mean_loss(base, rows, logits), rel=1e-5)
