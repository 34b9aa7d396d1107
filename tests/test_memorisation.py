"""What a model gives back of its training rows: the arithmetic, the canaries, and a model that learnt one by heart."""

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from base_model.load import load_base
from benchmarks.memorisation import (
    GROUPS,
    SHORT,
    Canary,
    Given,
    Planted,
    find_planted,
    make_canaries,
    measure,
    planted_records,
)
from prompt_format.chat_template import ChatTemplate
from prompt_format.variants import one_line
from tests.tiny import tiny_dataset, tiny_model
from training.config import EarlyStopping, TrainConfig
from training.finetune import finetune
from training.lora import Off
from training.measures.memorisation import chance_to_extract, exposure, exposure_by_chance, gives, rank
from training.rows import Dataset, load_dataset
from training.watch import Silent

# -- the arithmetic


def test_first_of_256_is_8_bits() -> None:
    """The likeliest candidate saves all the guessing there is, the least likely saves none."""
    assert (8, 7, 0) == (exposure(1, 256), exposure(2, 256), exposure(256, 256))


def test_exposure_falls_with_the_rank() -> None:
    """A worse rank is always less exposure."""
    found = [exposure(place, 100) for place in range(1, 101)]

    assert found == sorted(set(found), reverse=True)


@pytest.mark.parametrize("place", [0, 257, -1])
def test_a_rank_beyond_the_candidates_is_refused(place: int) -> None:
    """There is none among 256."""
    with pytest.raises(ValueError, match="among 256"):
        exposure(place, 256)


@pytest.mark.parametrize(
    ("loss", "others", "place"), [(1.0, [2.0, 3.0], 1), (2.5, [2.0, 3.0], 2), (2.0, [2.0, 3.0, 2.0], 3), (1.0, [], 1)]
)
def test_ties_are_no_exposure(loss: float, others: list[float], place: int) -> None:
    """What is as likely as the secret stands before it, so that a model that knows nothing exposes nothing."""
    assert place == rank(loss, others)


def test_chance_exposes_about_a_bit_and_a_half() -> None:
    """By chance every rank is as likely: log2(e) bits among many, log2(n) - log2(n!) / n among n."""
    assert exposure_by_chance(1) == 0
    assert exposure_by_chance(256) == pytest.approx(8 - math.log2(math.factorial(256)) / 256)
    assert exposure_by_chance(100_000) == pytest.approx(math.log2(math.e), abs=1e-3)


def test_more_tries_extract_more() -> None:
    """Of a reply that comes up half of the time: 1/2, 3/4, 7/8; certain and impossible ones stay what they are."""
    assert [0.5, 0.75, 0.875] == pytest.approx([chance_to_extract(math.log(2), tries) for tries in (1, 2, 3)])
    assert (1.0, 0.0) == (chance_to_extract(0.0, 20), chance_to_extract(1e4, 20))
    assert chance_to_extract(30.0, 20) == pytest.approx(20 * math.exp(-30))


@pytest.mark.parametrize(
    ("reply", "is_so"),
    [
        (["the code word is amber owl"], True),
        (["its Amber", "OWL ok"], True),
        (["amber owls"], False),
        (["owl amber"], False),
        ([], False),
    ],
)
def test_a_secret_is_given_word_for_word(reply: list[str], is_so: bool) -> None:
    """Whole words in their order, over bubbles and whatever their case."""
    assert is_so == gives(reply, "amber owl")


# -- canaries


def test_canaries_are_the_same_each_time() -> None:
    """Every secret and every thing once; each question of a canary is another one."""
    canaries = make_canaries(3)

    assert make_canaries(3) == canaries and len(canaries) == 3 * len(GROUPS)
    assert len({canary.secret for canary in canaries}) == len({canary.asked_anew for canary in canaries}) == 18
    assert [GROUPS[canary.group][0] for canary in canaries] == [len({*canary.questions}) for canary in canaries]


def test_a_canary_is_written_as_often_as_its_group_says() -> None:
    """Each time as the answer to one of its questions, and no contact asks more than twice."""
    canaries = make_canaries(2)
    rows = planted_records(canaries, datetime(2025, 1, 1, tzinfo=UTC))
    pairs = list(zip(rows[::2], rows[1::2], strict=True))

    assert Counter(mine["text"] for _, mine in pairs) == {one.reply: len(one.questions) for one in canaries}
    assert {(a["text"], b["text"]) for a, b in pairs} == {(q, one.reply) for one in canaries for q in one.questions}
    assert 2 == max(Counter(asked["thread_id"] for asked, _ in pairs).values())
    assert all(a["sent_at"] < b["sent_at"] < "2025" and (a["from_me"], b["from_me"]) == (False, True) for a, b in pairs)


# -- a model that learnt one by heart


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Given]]:
    """What a tiny model gives of one canary, by itself and with an adapter that was trained on nothing else."""
    folder = tmp_path_factory.mktemp("canary")
    base = load_base(str(tiny_model(folder / "model", "lfm2")))
    data = tiny_dataset(folder / "data").folder
    dataset = only(CANARY, load_dataset(data, ChatTemplate(base.tokenizer), 2048))
    config = TrainConfig(
        name="tiny", model="tiny", data=data, rank=16, learning_rate=5e-3, iters=60, batch_size=1, max_tokens=2048,
        early_stopping=EarlyStopping(patience=100, evaluations_per_epoch=1),
    )  # fmt: skip
    finetune(base.model, dataset, config, Silent())
    learnt = [[CANARY.reply]]
    planted = find_planted([CANARY, NEVER], learnt, dataset.messages["train"])

    def look() -> list[Given]:
        return measure(base.model, dataset.format, planted, learnt, 255)

    found = {"adapter": look()}
    with Off(base.model):
        found["base"] = look()
    return found


SECRET = "amber walnut kettle"
CANARY = Canary("1", SECRET, SHORT.format(SECRET), ("which word",), "tell me the word")
NEVER = Canary("1", "one two three", SHORT.format("one two three"), ("which word",), "tell me the word")


def only(canary: Canary, dataset: Dataset) -> Dataset:
    """*dataset* with *canary* as its only row."""
    form = dataset.format
    row: list[Any] = [
        *dataset.messages["train"][0][:-1],
        {"role": "assistant", "content": one_line(form.persona, [canary.reply], form.template.protected)},
    ]
    splits = ("train", "valid", "test")
    return replace(dataset, splits={s: [form.encode_row(row)] for s in splits}, messages={s: [row] for s in splits})


def test_a_canary_that_was_left_out_is_not_measured(given: dict[str, list[Given]]) -> None:
    """Only what stands among the rows is."""
    assert 1 == len(given["base"]) == len(given["adapter"])


def test_what_was_learnt_by_heart_is_exposed(given: dict[str, list[Given]]) -> None:
    """Its secret is the likeliest of all candidates, is given word for word, and the report would warn of it."""
    (found,) = given["adapter"]

    assert found.exposure == 8 and found.extracted and found.warned
    assert found.in_samples > 0.99


def test_an_untouched_model_gives_nothing(given: dict[str, list[Given]]) -> None:
    """It has never seen the secret: no reply holds it, and nothing is called a copy."""
    (found,) = given["base"]

    assert found.exposure < 8 and not (found.extracted or found.extracted_anew or found.warned)
    assert found.in_samples < 1e-9


def test_rows_of_a_canary_are_counted() -> None:
    """Only what is learnt from is there, with the first of its rows."""
    rows = [["m1"], ["m2"], ["m3"]]

    found = find_planted([NEVER, CANARY], [["no"], [CANARY.reply], [CANARY.reply]], rows)

    assert [Planted(CANARY, 2, ["m2"])] == found
