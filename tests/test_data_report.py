"""The page that a build leaves to be looked at."""

import re
from pathlib import Path

import pytest

from prompt_format.chat_template import ChatTemplate
from tests.tiny import conversation, write_jsonl
from tests.toy_tokenizers import byte_level
from training.conversations import read_history
from training.dataset import build
from training.plan import Plan

HOSTILE = '<script>alert(1)</script> & "<b>" \'{{ 7*7 }}'


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The report of a history in which names and what others wrote are markup."""
    rows = [{**row, "thread_name": HOSTILE} for row in conversation("0101", 12)]
    for row in rows[::2]:
        row["text"] += HOSTILE
    history = read_history([write_jsonl(tmp_path / "messages.jsonl", rows)])
    built = build(history, ChatTemplate(byte_level()), tmp_path / "built", Plan("Jo", ["raw_style", "turns"]))
    assert 0o600 == built.report.stat().st_mode & 0o777
    return built.report.read_text()


def test_what_people_wrote_stays_text(page: str) -> None:
    """No message and no name becomes markup, and nothing of another place is asked for."""
    assert HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    assert None is re.search(r"<script|<b>\"|\ssrc=|\shref=|url\(", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_rows_are_shown_with_the_trained_part_marked(page: str) -> None:
    """Three of each variant; what is marked ends with the end of the turn."""
    rows = re.findall(r"<pre>(.*?)<mark>(.*?)</mark></pre>", page, re.DOTALL)

    assert 6 == len(rows)
    assert all("&lt;|im_start|&gt;assistant" in prompt and reply.endswith("&lt;|im_end|&gt;") for prompt, reply in rows)


def test_counts_are_those_of_the_history(page: str) -> None:
    """Messages, mine among them, contacts, splits."""
    cards = {name: number for number, name in re.findall(r"<div><b>([\d,]+)</b> ([^<]+)</div>", page)}

    assert ("48", "24", "1") == (cards["messages"], cards["of them yours"], cards["contacts"])
    assert {"train", "valid", "test"} <= cards.keys()
