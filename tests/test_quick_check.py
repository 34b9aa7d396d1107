"""What a short run shows a person."""

from pathlib import Path

import pytest

from prompt_format.chat_template import ChatTemplate
from tests.tiny import tiny_dataset, tiny_model
from tests.toy_tokenizers import byte_level
from training.config import parse_config
from training.quick_check import SHOWN, first_rows, side_by_side
from training.rows import Dataset, load_dataset
from training.samples import Sample
from training.train import train
from training.watch import Lines


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(tiny_dataset(tmp_path).folder, ChatTemplate(byte_level()), 512)


def test_rows_are_shown_as_the_model_sees_them(dataset: Dataset) -> None:
    """Control tokens and all; what the loss is on stands between marks, and ends with the end of the turn."""
    text = "\n".join(line.removeprefix("  ") for line in first_rows(dataset))
    example = dataset.splits["train"][0]
    decode = dataset.format.template.tokenizer.decode

    assert SHOWN == text.count("[[") - SHOWN  # once in each heading, once in each row
    assert f"row 1, {len(example.ids)} tokens" in text
    assert decode(example.ids[: example.reply_start]) + "[[" in text
    assert "[[" + decode(example.ids[example.reply_start :]) + "]]" in text


def test_replies_stand_side_by_side() -> None:
    """Some questions, far apart; a reply of nothing is said to be one."""
    samples = [Sample([f"question {n}?"], ["yes", "sure"], [], [f"reply {n}"]) for n in range(30)]

    assert [
        "asked    question 0?", "base     (nothing)", "adapter  reply 0", "in truth yes / sure",
        "asked    question 10?", "base     (nothing)", "adapter  reply 10", "in truth yes / sure",
        "asked    question 20?", "base     (nothing)", "adapter  reply 20", "in truth yes / sure",
    ] == side_by_side(samples)  # fmt: skip


def test_the_generation_before_answers_too() -> None:
    """Where one was measured; a question of several bubbles is one line."""
    assert ["asked    a / b", "base     c", "previous (nothing)", "adapter  d", "in truth e"] == side_by_side(
        [Sample(["a", "b"], ["e"], ["c"], ["d"], previous=[])]
    )


def test_fewer_questions_are_all_shown() -> None:
    """Two of two, none of none."""
    assert 8 == len(side_by_side([Sample(["a"], ["b"], ["c"], ["d"])] * 2)) and [] == side_by_side([])


def test_a_run_shows_them_only_when_asked_to(tmp_path: Path) -> None:
    """Rows come before the first step, replies after the last."""
    tiny_model(tmp_path / "model")
    tiny_dataset(tmp_path, blocks=5)
    settings = {"name": "jo", "model": str(tmp_path / "model"), "data": str(tmp_path / "raw_style"), "iters": 2}
    lines: list[str] = []
    train(parse_config(settings, "jo.yaml"), tmp_path / "store", Lines(lines.append), look=True)
    quiet: list[str] = []
    train(parse_config(settings, "jo.yaml"), tmp_path / "store", Lines(quiet.append))

    starts = [line.split()[0] for line in lines]
    assert starts.index("row") < starts.index("trained") < starts.index("asked")
    assert not {"row", "asked"} & {line.split()[0] for line in quiet}
