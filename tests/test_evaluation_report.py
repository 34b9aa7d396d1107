"""The page and the JSON that an evaluation leaves to be looked at."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from prompt_format.manifest import Gate
from prompt_format.persona import Persona
from prompt_format.variants import speaker_label
from training.evaluate import Amounts, Looked, Verdict
from training.evaluation_figures import FAULTS as WORDS
from training.evaluation_figures import figures, table
from training.evaluation_report import SHOWN_SAMPLES, About, report_files
from training.measures.authorship import Voices
from training.measures.faults import FAULTS, Generated, find_faults
from training.measures.yardstick import Yardstick
from training.samples import Sample

HOSTILE = "<script>alert(1)</script> & \"<b>\" '{{ 7*7 }}' \u202e \ud800"
ABOUT = About("jo@0123456789abcdef", "base_model/starter", "raw_style", "lora", 20, "data/personal/raw_style")
PNG = b"\x89PNG\r\n\x1a\n not really"
PASSED = Gate(passed=True)
LEARNT = [["ya", "on my way"], ["ok then"], ["so meet me behind the old mill at nine"]]
ASKED = [["home yet?"], ["did you feed the cat", "and the dog"], ["tea"], [HOSTILE]]
REAL = [["ya"], ["no", "did you"], ["yes"], ["haha"]]


def looked(loss: float, *replies: list[str]) -> Looked:
    """A model that gave *replies*; those that are not given are what the person wrote."""
    said = [*replies, *REAL[len(replies) :]]
    generated = [Generated(asked, reply, ended=True) for asked, reply in zip(ASKED, said, strict=True)]
    return Looked(loss, loss, loss / 2, generated, yardstick().measure(generated))


def yardstick() -> Yardstick:
    return Yardstick(Voices(LEARNT, REAL, ASKED, ASKED), LEARNT, speaker_label(Persona(name="Jo")))


def verdict(adapter: Looked | None = None, previous: Looked | None = None, note: str = "", times: int = 1) -> Verdict:
    base, adapter = looked(4.0, ["home yet?"]), adapter or looked(3.0)
    samples = [
        Sample(
            ASKED[i], REAL[i], [*base.generated[i].bubbles], [*adapter.generated[i].bubbles],
            [*previous.generated[i].bubbles] if previous else None, adapter.measures.each[i],
        )
        for i in range(4)
    ]  # fmt: skip
    own = find_faults([Generated(asked, real, True) for asked, real in zip(ASKED, REAL, strict=True)], LEARNT, LABEL)
    return Verdict(base, adapter, previous, note, own, Amounts(3, 4, 20, 30, 4, 3), samples * times, PASSED)


LABEL = speaker_label(Persona(name="Jo"))


def page(found: Verdict | None = None, gate: Gate = PASSED, curve: bytes | None = PNG) -> str:
    return report_files(ABOUT, found or verdict(), gate, curve)["report.html"].decode()


class Tags(HTMLParser):
    """Collects every tag with its attributes, and what is open; raises where something else is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "html":
            assert tag == self.open.pop()


# -- what is safe


def test_what_people_wrote_stays_text() -> None:
    """No message becomes markup, and half a character is no error."""
    text = page(verdict(looked(3.0, [HOSTILE])))

    assert HOSTILE[:20] not in text and "&lt;script&gt;alert(1)" in text and "{{ 7*7 }}" in text
    assert set() == {tag for tag, _ in Tags(text).seen} & {"script", "b<", "iframe", "link", "object"}


def test_nothing_is_asked_for_from_elsewhere() -> None:
    """The policy forbids it, and the only source is the picture in the page itself."""
    text = page()
    tags = Tags(text).seen
    sources = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]

    assert [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"] == sources
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")
    policy = [attributes["content"] for _, attributes in tags if attributes.get("http-equiv")]
    assert ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"] == policy


def test_the_same_evaluation_gives_the_same_bytes() -> None:
    """There is no clock in it."""
    first, second = (report_files(ABOUT, verdict(previous=looked(3.5)), PASSED, PNG) for _ in range(2))

    assert first == second and {"report.html", "report.json", "loss.png"} == first.keys()
    assert not re.search(r"\b20\d\d\b", first["report.html"].decode())


# -- what it says


def test_the_verdict_comes_first() -> None:
    """Passed, or every reason; and whether somebody went against it."""
    reasons = ["validation loss 5.000 is <b>", "9 of 64 replies loop"]
    failed = page(gate=Gate(passed=False, reasons=reasons))
    overridden = page(gate=Gate(passed=False, reasons=reasons, overridden=True))

    assert 'class="verdict passed"' in page() and "<b>The gate passed</b>" in page()
    assert 'class="verdict failed"' in failed and "<b>The gate did not pass</b>" in failed
    assert "<li>validation loss 5.000 is &lt;b&gt;</li><li>9 of 64 replies loop</li>" in failed
    assert "The gate did not pass, and it was made current all the same" in overridden
    assert failed.index("The gate did not pass") < failed.index("<table") < failed.index("Side by side")


def test_replies_that_copy_are_warned_of() -> None:
    """How many of how many, and which; no warning without one."""
    copy = looked(3.0, ["ok meet me behind the old mill"])

    assert "<b>1 of 4 replies copy what you once wrote.</b>" in page(verdict(copy))
    assert '<span class="tag">copies training replies</span>' in page(verdict(copy))
    assert 'class="warning"' not in page() and 'class="tag"' not in page()


def test_replies_stand_side_by_side() -> None:
    """Asked, base, adapter and truth, and the generation before where there is one."""
    text, more = page(verdict(looked(3.0, ["hm"]))), page(verdict(looked(3.0, ["hm"]), previous=looked(3.5, [])))

    assert '<span class="bubble" dir="auto">and the dog</span>' in text
    assert '<div class="adapter"><small>adapter</small><span class="bubble" dir="auto">hm</span>' in text
    assert (0, 4) == (text.count("<small>previous</small>"), more.count("<small>previous</small>"))
    assert (4, 4) == (text.count("<small>base</small>"), text.count("<small>in truth</small>"))


def test_a_step_back_is_warned_of() -> None:
    """Where the generation before expected the person better: the gate knows the base alone."""
    warning = "The previous generation expected you better"

    assert warning in page(verdict(looked(3.0), previous=looked(2.5)))
    assert warning not in page(verdict(looked(3.0), previous=looked(3.5))) + page()


def test_an_empty_reply_is_said_to_be_one() -> None:
    """And is tagged as a fault."""
    text = page(verdict(looked(3.0, [])))

    assert 1 == text.count("(nothing)") and '<span class="tag">is empty</span>' in text


def test_many_samples_unfold() -> None:
    """The first ones are open, none is left out."""
    text = page(verdict(times=8))

    assert 32 == text.count('<article class="sample">')
    assert SHOWN_SAMPLES == text.partition("<details>")[0].count('<article class="sample">')
    assert f"<summary>{32 - SHOWN_SAMPLES} more</summary>" in text


def test_a_generation_that_is_not_compared_with_is_named() -> None:
    """With the reason."""
    text = page(verdict(note="not compared with jo@ffffffffffffffff: it is damaged"))

    assert "not compared with jo@ffffffffffffffff: it is damaged" in text and "<th>previous</th>" not in text


def test_without_a_curve_there_is_no_picture() -> None:
    """Nor a file of one."""
    assert "<img" not in page(curve=None) and "How training went" not in page(curve=None)
    assert "loss.png" not in report_files(ABOUT, verdict(), PASSED, None)


def test_what_is_opened_is_closed() -> None:
    """Every tag, in its place."""
    assert [] == Tags(page(verdict(previous=looked(3.5), times=8))).open


# -- figures


def test_every_model_has_its_column() -> None:
    """The generation before only where it was measured."""
    rows = {figure.key: figure for figure in figures(verdict(looked(3.0), looked(3.5)))}

    assert {"base": 4.0, "previous": 3.5, "adapter": 3.0, "own": None, "others": None} == rows["test_loss"].values
    assert {"base": 0.25, "previous": 0.0, "adapter": 0.0, "own": 0.0, "others": None} == rows["echo"].values
    assert None is {figure.key: figure for figure in figures(verdict())}["style_mean"].values["previous"]
    assert "4 held-out replies, 20 tokens" == rows["test_loss"].counted
    assert all(figure.counted for figure in rows.values())


@pytest.mark.parametrize(
    ("key", "base", "adapter", "expected"),
    [
        ("test_loss", 4, 3, "better"),
        ("test_loss", 3, 4, "worse"),
        ("test_loss", 3, 3, "same"),
        ("nearer", 0, 1, "better"),
    ],
)
def test_better_is_less_or_more(key: str, base: float, adapter: float, expected: str) -> None:
    """As the figure has it."""
    (found,) = (figure for figure in figures(verdict()) if figure.key == key)

    assert expected == replace(found, values={**found.values, "base": base, "adapter": adapter}).change


def test_every_fault_has_words() -> None:
    """A tag and a row for each."""
    assert {*FAULTS} == {*WORDS}


def test_the_short_table() -> None:
    """One line for each of the figures that matter, in columns."""
    lines = table(verdict(looked(3.0), looked(3.5)))

    assert ["base", "previous", "adapter", "you", "others"] == lines[0].split()
    assert ["nats", "a", "token", "4.000", "3.500", "3.000", "–", "–"] == lines[1].split()
    assert {len(lines[0])} == {len(line) for line in lines}
    assert "previous" not in table(verdict())[0]


def test_the_json_holds_the_same() -> None:
    """Figures, amounts, the gate and every sample."""
    found = verdict(looked(3.0, [HOSTILE]), looked(3.5), times=8)
    raw = report_files(ABOUT, found, Gate(passed=False, reasons=["no"], overridden=True), None)["report.json"]
    data = json.loads(raw)

    assert {"passed": False, "reasons": ["no"], "overridden": True} == data["gate"]
    assert [figure.values["adapter"] for figure in figures(found)] == [row["adapter"] for row in data["figures"]]
    assert (32, [HOSTILE.replace("\ud800", "?")]) == (len(data["samples"]), data["samples"][0]["adapter"])
    assert ("jo@0123456789abcdef", 4) == (data["about"]["adapter"], data["replies"]["generated"])
