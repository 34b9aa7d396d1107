"""A dataset back from disk: it fits this tokenizer and is what its summary says, or it is refused."""

import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from errors import DataRefused
from prompt_format.chat_template import ChatTemplate
from tests.tiny import conversation, read_jsonl, tiny_dataset, write_jsonl
from tests.toy_tokenizers import CHATML, byte_level, chat_template
from training.conversations import read_history
from training.dataset import build
from training.plan import Plan
from training.rows import load_dataset
from training.selection import SPLITS


@cache
def template() -> ChatTemplate:
    return ChatTemplate(byte_level())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_dataset(tmp_path).folder


def change_summary(folder: Path, **parts: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def write_rows(folder: Path, split: str, lines: list[str]) -> None:
    """The split's file anew, and its digest in the summary, as one would who meant it."""
    content = "".join(line + "\n" for line in lines).encode()
    (folder / f"{split}.jsonl").write_bytes(content)
    digests = json.loads((folder / "dataset.json").read_text())["sha256"]
    change_summary(folder, sha256={**digests, f"{split}.jsonl": hashlib.sha256(content).hexdigest()})


def test_every_row_is_encoded(folder: Path) -> None:
    """In the file's order, with the messages beside the ids."""
    dataset = load_dataset(folder, template(), 512)
    rows = {split: read_jsonl(folder / f"{split}.jsonl") for split in SPLITS}

    assert {"train": 40, "valid": 4, "test": 4} == {split: len(found) for split, found in dataset.splits.items()}
    assert {split: [row["messages"] for row in found] for split, found in rows.items()} == dataset.messages
    for split, found in rows.items():
        assert [dataset.format.encode_row(row["messages"]) for row in found] == dataset.splits[split]


def test_the_loss_is_on_the_reply_and_the_end_of_its_turn(folder: Path) -> None:
    """What follows the prompt is the reply's bytes and one control token, nothing else."""
    dataset = load_dataset(folder, template(), 512)
    decode = template().tokenizer.decode
    trained = [decode(example.ids[example.reply_start :]) for example in dataset.splits["train"]]

    assert [row[-1]["content"] + "<|im_end|>" for row in dataset.messages["train"]] == trained


def test_the_digest_is_that_of_the_rows(tmp_path: Path) -> None:
    """The same rows give the same one, other rows another."""
    first, again = tiny_dataset(tmp_path / "a").folder, tiny_dataset(tmp_path / "b").folder
    other = tiny_dataset(tmp_path / "c", blocks=13).folder
    digests = [load_dataset(folder, template(), 512).digest for folder in (first, again, other)]

    assert digests[0] == digests[1] != digests[2]


# -- max_tokens


def test_a_context_is_cut_from_the_left_and_the_reply_never(folder: Path) -> None:
    """Rows that are too long lose their first tokens; how many did is counted."""
    whole = load_dataset(folder, template(), 512)
    cut = load_dataset(folder, template(), 80)

    assert 0 == whole.cut
    assert sum(len(e.ids) > 80 for split in SPLITS for e in whole.splits[split]) == cut.cut > 0
    for before, after in zip(whole.splits["train"], cut.splits["train"], strict=True):
        assert before.ids[-len(after.ids) :] == after.ids
        assert before.ids[before.reply_start :] == after.ids[after.reply_start :]
        assert min(80, len(before.ids)) == len(after.ids)


def test_a_reply_that_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    """Its messages go with it, so that rows and messages stay side by side."""
    rows = conversation("0101", 12)
    rows[1]["text"] = "x" * 200
    messages = write_jsonl(tmp_path / "messages.jsonl", rows)
    (found,) = build(read_history([messages]), template(), tmp_path, Plan("Jo", ["raw_style"])).variants
    dataset = load_dataset(found.folder, template(), 120)

    assert (1, 19, 19) == (dataset.refused, len(dataset.splits["train"]), len(dataset.messages["train"]))
    assert not any("x" * 200 in row[-1]["content"] for row in dataset.messages["train"])


def test_a_reply_keeps_at_least_one_token_of_its_prompt(folder: Path) -> None:
    """Something must predict the reply's first token."""
    dataset = load_dataset(folder, template(), 32)

    assert 1 <= min(example.reply_start for example in dataset.splits["train"])


# -- datasets that are refused


def test_a_dataset_for_another_tokenizer_is_refused(folder: Path) -> None:
    """The message names the folder, every part that differs, and what to do."""
    with pytest.raises(DataRefused, match=re.escape(f"the dataset '{folder}' does not fit")) as refused:
        load_dataset(folder, chat_template("starter"), 512)
    parts = {detail.split()[0] for detail in refused.value.details}

    assert "contract_mismatch" == refused.value.code
    assert "Build it again with this model (--model), or train on the one it was built with" in refused.value.message
    assert {"contract.template_sha256", "contract.tokenizer_sha256", "contract.golden"} <= parts


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (lambda: byte_level(CHATML + " "), {"contract.template_sha256"}),
        (
            lambda: byte_level(merges=(("h", "o"),)),
            {"contract.tokenizer_sha256", "contract.end_of_turn", "contract.golden"},
        ),
    ],
    ids=["another template", "another vocabulary"],
)
def test_what_differs_is_named(folder: Path, other: Callable[[], Any], parts: set[str]) -> None:
    """Each part of the contract by itself."""
    with pytest.raises(DataRefused) as refused:
        load_dataset(folder, ChatTemplate(other()), 512)
    assert parts == {detail.split()[0] for detail in refused.value.details}


def test_a_variant_that_was_never_built(folder: Path) -> None:
    """The message names those that were."""
    with pytest.raises(DataRefused, match="no variant at '.*turns' .no dataset.json.: built are: raw_style"):
        load_dataset(folder.parent / "turns", template(), 512)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The message says how to build one."""
    with pytest.raises(DataRefused, match="no dataset at '.*absent' .no dataset.json.: run `python -m training build"):
        load_dataset(tmp_path / "absent", template(), 512)


@pytest.mark.parametrize("blocks", [1, 2])
def test_too_few_rows_to_learn_from(tmp_path: Path, blocks: int) -> None:
    """Without a row to validate on there is nothing to train."""
    folder = tiny_dataset(tmp_path, blocks=blocks).folder

    with pytest.raises(DataRefused, match=f"'{folder}' holds {4 * blocks} training and 0 validation rows") as refused:
        load_dataset(folder, template(), 512)
    assert "empty_dataset" == refused.value.code


def test_nothing_left_after_the_limit(folder: Path) -> None:
    """A dataset whose every reply is too long is empty too."""
    with pytest.raises(DataRefused, match="holds 0 training and 0 validation rows"):
        load_dataset(folder, template(), 1)


@pytest.mark.parametrize("split", SPLITS)
def test_a_file_that_was_changed(folder: Path, split: str) -> None:
    """One byte more, and it is not the file that the summary describes."""
    with (folder / f"{split}.jsonl").open("a") as file:
        file.write("\n")

    with pytest.raises(DataRefused, match=f"{split}.jsonl' is not the file that dataset.json describes"):
        load_dataset(folder, template(), 512)


@pytest.mark.parametrize("split", SPLITS)
def test_a_file_that_is_gone(folder: Path, split: str) -> None:
    """It is named."""
    (folder / f"{split}.jsonl").unlink()

    with pytest.raises(DataRefused, match=f"{split}.jsonl' cannot be read .FileNotFoundError.: build again"):
        load_dataset(folder, template(), 512)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_summary_that_is_none(folder: Path, content: str) -> None:
    """dataset.json cut off or empty."""
    (folder / "dataset.json").write_text(content)

    with pytest.raises(DataRefused, match="dataset.json' is damaged: build the dataset again"):
        load_dataset(folder, template(), 512)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"sha256": None}, "dataset.json' is damaged"),
        ({"sha256": []}, "dataset.json' is damaged"),
        ({"sha256": {}}, "train.jsonl' is not the file"),
        ({"contract": None}, "dataset.json' has no contract that this version reads"),
        ({"contract": {}}, "dataset.json' has no contract that this version reads(.|\n)*format_version"),
    ],
    ids=str,
)
def test_a_summary_that_says_too_little(folder: Path, parts: dict[str, Any], message: str) -> None:
    """It is refused before a row is read."""
    change_summary(folder, **parts)

    with pytest.raises(DataRefused, match=message):
        load_dataset(folder, template(), 512)


@pytest.mark.parametrize("field", ["format_version", "variant", "window", "persona"])
def test_a_contract_that_was_changed(folder: Path, field: str) -> None:
    """A contract that says other than the rows is refused with them."""
    contract = json.loads((folder / "dataset.json").read_text())["contract"]
    other = {
        "format_version": 99, "variant": "raw", "window": {**contract["window"], "turns": 3},
        "persona": {**contract["persona"], "name": "Flo"},
    }  # fmt: skip
    change_summary(folder, contract={**contract, field: other[field]})

    with pytest.raises(DataRefused):
        load_dataset(folder, template(), 512)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rubbish", "valid.jsonl' line 2 is no training row"),
        ("{}", "valid.jsonl' line 2 is no training row"),
        ('{"messages": "hi", "contract": "%s", "thread": "x", "at": null}', "line 2 is no training row"),
        (
            '{"messages": [], "contract": "sha256:0", "thread": "x", "at": null}',
            "line 2 was made under another contract",
        ),
        ('{"messages": [], "contract": "%s", "thread": "x", "at": null}', "line 2 cannot be encoded"),
        ('{"messages": [{}], "contract": "%s", "thread": "x", "at": null}', "line 2 cannot be encoded"),
    ],
    ids=["no JSON", "no fields", "no list", "another contract", "no messages", "no role"],
)
def test_a_row_that_is_none(folder: Path, line: str, message: str) -> None:
    """Every row is looked at before the first step; the message names the line, not its text."""
    contract = json.loads((folder / "dataset.json").read_text())["contract_digest"]
    good = (folder / "valid.jsonl").read_text().splitlines()
    write_rows(folder, "valid", [good[0], line.replace("%s", contract), *good[2:]])

    with pytest.raises(DataRefused, match=message):
        load_dataset(folder, template(), 512)


def test_a_typed_control_token_is_refused(folder: Path) -> None:
    """A row that was written by hand cannot smuggle one in."""
    good = (folder / "valid.jsonl").read_text().splitlines()
    row = json.loads(good[0])
    row["messages"][1]["content"] += "<|im_end|>"
    write_rows(folder, "valid", [json.dumps(row), *good[1:]])

    with pytest.raises(DataRefused, match="valid.jsonl' line 1 cannot be encoded"):
        load_dataset(folder, template(), 512)
