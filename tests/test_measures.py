"""How near replies are to a person's own: facts by example, laws by hypothesis, texts that try to break it."""

import json
import math
import os
import random
import re
import subprocess
import sys
from dataclasses import asdict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_format.persona import Persona
from prompt_format.variants import speaker_label
from tests.hostile import QUICK
from tests.hostile import replies as hostile_replies
from training.measures.authorship import Verifier, Voices, authorship
from training.measures.bundles import BUNDLE, Reply, bundles
from training.measures.faults import FAULTS, Faults, Generated, count_faults, faults_of_each, find_faults
from training.measures.style import StyleDistance, distance, habits, kolmogorov_smirnov, mean_distance, total_variation
from training.measures.yardstick import Measures, Yardstick, bits_per_character

LABEL = speaker_label(Persona(name="Jo"))
ZERO = StyleDistance(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
LIKE_JO = [["idk lol"], ["ya", "on my way rn"], ["u ok"], ["haha no way 😂"], ["k"], ["tbh same"], ["gonna be late"]]
LIKE_SAM = [
    ["I do not know."],
    ["Yes, I am on my way!"],
    ["Are you well?"],
    ["That is fine, thank you."],
    ["Certainly."],
]


def apart(one: list[list[str]], other: list[list[str]]) -> StyleDistance:
    return distance(habits(one), habits(other))


def written(like: list[list[str]], count: int, seed: int) -> list[Reply]:
    """*count* replies in the manner of *like*, each of two of them."""
    draw = random.Random(seed)
    return [[*draw.choice(like), *draw.choice(like)] for _ in range(count)]


def faults(*bubbles: str, asked: tuple[str, ...] = ("home yet?",), ended: bool = True) -> set[str]:
    """The faults of one reply by a model that learnt nothing."""
    found = asdict(find_faults([Generated(asked, bubbles, ended)], [], LABEL))
    return {name for name, count in found.items() if count and name != "replies"}


def copies(text: str, learnt: list[list[str]]) -> int:
    return find_faults([Generated(["?"], [text], True)], learnt, LABEL).copy


# -- style


def test_a_set_is_at_no_distance_from_itself() -> None:
    """Nor from itself twice over, or in another order."""
    assert [ZERO] * 3 == [apart(LIKE_JO, other) for other in (LIKE_JO, LIKE_JO * 2, LIKE_JO[::-1])]


def test_sets_with_nothing_in_common_are_at_distance_one() -> None:
    """In every habit, and so on the whole."""
    found = apart([["u 😂"]], [["THX. thx", "So it is, I think.", "BYE! lol!"]])

    assert (StyleDistance(1.0, 1.0, 1.0, 1.0, 1.0, 1.0), 1.0) == (found, found.mean)


@pytest.mark.parametrize(
    ("one", "other", "habit", "expected"),
    [
        ([["a"], ["a b"]], [["a b"], ["a b c"]], "words", 0.5),
        ([["a"]] * 3 + [["a"] * 2], [["a"]], "bubbles", 0.25),
        ([["ok"], ["Ok"]], [["ok"]], "case", 0.5),
        ([["Ok", "Then"]], [["Ok then"]], "case", 0.0),
        ([["OK THEN"]], [["Ok Then"]], "case", 1.0),
        ([["ok."], ["ok"]], [["ok"], ["ok"]], "ending", 0.5),
        ([["ok..."]], [["ok…"]], "ending", 0.0),
        ([["ok.", "ya"]], [["ya"]], "ending", 0.0),
        ([["ok ❤️"]], [["ya 😂"]], "ending", 0.0),
        ([["ok 😂"], ["ok"]], [["ok"]], "emoji", 0.5),
        ([["😂👍"]], [["😂"]], "emoji", 0.5),
        ([["😂😂😂"]], [["😂"]], "emoji", 0.0),
        ([["idk lol"]], [["IDK, really"]], "abbreviations", 0.5),
        ([["rude"]], [["you are"]], "abbreviations", 0.0),
    ],
)
def test_each_habit(one: list[list[str]], other: list[list[str]], habit: str, expected: float) -> None:
    """How much of one set would have to change, or for numbers the widest gap between the cumulative shares."""
    assert expected == asdict(apart(one, other))[habit]


def test_no_replies_have_no_habits() -> None:
    """There is nothing to measure."""
    with pytest.raises(ValueError, match="no replies"):
        habits([])


def test_another_writer_is_further_off_than_the_same() -> None:
    """The two reference points are in order, on bundles as large as what is measured."""
    held_out = habits(written(LIKE_JO, 200, seed=1))
    own, others = (mean_distance(written(like, 400, seed=2), held_out, 24).mean for like in (LIKE_JO, LIKE_SAM))

    assert 0 < own < 0.2 < 0.5 < others <= 1


def test_fewer_replies_are_further_off() -> None:
    """Chance alone keeps few replies at a distance, which is why the size of a bundle is asked for."""
    held_out = habits(written(LIKE_JO, 200, seed=1))
    means = [mean_distance(written(LIKE_JO, 400, seed=2), held_out, size).mean for size in (5, 20, 100)]

    assert means == sorted(means, reverse=True)


# -- authorship


def test_bundles_leave_no_reply_out() -> None:
    """Each reply is in one bundle; sizes differ by one at most."""
    replies = [[str(number)] for number in range(107)]
    found = bundles(replies, BUNDLE)

    assert sorted(map(tuple, replies)) == sorted(tuple(reply) for bundle in found for reply in bundle)
    assert [22, 22, 21, 21, 21] == [len(bundle) for bundle in found]


@pytest.mark.parametrize(("replies", "expected"), [(0, 0), (1, 1), (19, 1), (29, 1), (31, 2), (200, 10)])
def test_as_many_bundles_as_come_nearest_to_the_size(replies: int, expected: int) -> None:
    """One of fewer where there are too few, and none of nothing."""
    assert expected == len(bundles([["ok"]] * replies, BUNDLE))


def voices() -> Voices:
    jo, sam = ([written(like, 200, seed) for seed in (1, 2)] for like in (LIKE_JO, LIKE_SAM))
    return Voices(jo[0], jo[1], sam[0], sam[1])


def test_the_person_is_told_from_others() -> None:
    """Bundles in the person's manner are nearer to the person; those in other people's manner are not."""
    known = voices()
    verifier = Verifier(known.own, known.others)
    good, bad = (authorship(verifier, written(like, 100, seed=3), known) for like in (LIKE_JO, LIKE_SAM))

    assert (5, 1.0, 0.0) == (good.bundles, good.nearer, bad.nearer)
    assert (1.0, 0.0) == (good.own_nearer, good.others_nearer)
    assert bad.others == pytest.approx(bad.generated, abs=0.02)
    assert good.own == pytest.approx(good.generated, abs=0.02)
    assert good.others < good.own <= 1


def test_held_out_bundles_are_as_large_as_the_generated_ones() -> None:
    """More text is nearer to any profile: 24 replies score the same as generated and as held-out ones."""
    known, made = voices(), written(LIKE_JO, 24, seed=3)
    found = authorship(Verifier(known.own, known.others), made, Voices(known.own, made, known.others, made))

    assert (1, found.generated, found.generated) == (found.bundles, found.own, found.others)


def test_what_was_learnt_scores_one() -> None:
    """A profile of one bundle is that bundle; replies without a 3-gram in common score zero."""
    ((own, others),) = Verifier([["ok then"]], [["busy"]]).scores([["ok then"]])

    assert (pytest.approx(1.0), 0.0) == (own, others)


def test_text_of_neither_voice_is_near_neither() -> None:
    """Strange 3-grams count for nobody, and an empty reply has none."""
    assert [(0.0, 0.0)] == Verifier(LIKE_JO, LIKE_SAM).scores([["жжжжжж"]])
    assert [(0.0, 0.0)] == Verifier(LIKE_JO, LIKE_SAM).scores([[]])


def test_voices_that_are_not_there_are_refused() -> None:
    """No profile of nothing, and nothing to verify."""
    with pytest.raises(ValueError, match="no replies"):
        Verifier([], LIKE_SAM)
    with pytest.raises(ValueError, match="no replies"):
        authorship(Verifier(LIKE_JO, LIKE_SAM), [], voices())


# -- faults


@pytest.mark.parametrize(
    ("bubbles", "asked", "expected"),
    [
        (("ya", "almost"), ("home yet?",), set()),
        (("home yet?",), ("home yet?",), {"echo"}),
        (("Home  YET?",), ("home yet?",), {"echo"}),
        (("hey", "home yet?"), ("hey", "home yet?"), {"echo"}),
        (("home yet?",), ("hey", "home yet?"), {"echo"}),
        (("hey",), ("hey", "home yet?"), set()),
        (("home yet? ya",), ("home yet?",), set()),
        (("no stop it no stop it no stop it",), ("ok",), {"loop"}),
        (("no stop it", "no stop it", "no stop it"), ("ok",), {"loop"}),
        (("no stop it no stop it",), ("ok",), set()),
        (("go go go",), ("ok",), set()),
        (("ha ha ha ha ha",), ("ok",), {"loop"}),
        (("Them: hi",), ("ok",), {"label"}),
        (("Jo: hi",), ("ok",), {"label"}),
        (("hi", "Them 2: hey"), ("ok",), {"label"}),
        (("hi\nJo: hey",), ("ok",), {"label"}),
        (("I told Jo: no",), ("ok",), set()),
        ((), ("ok",), {"empty"}),
        ((" \n",), ("ok",), {"empty"}),
        ((), ("",), {"empty"}),
    ],
)
def test_each_fault(bubbles: tuple[str, ...], asked: tuple[str, ...], expected: set[str]) -> None:
    """Echo, loop, label and empty, and what is near to them but none."""
    assert expected == faults(*bubbles, asked=asked)


def test_a_reply_that_was_cut_off_never_ended() -> None:
    """Whatever it says."""
    assert {"endless"} == faults("and then", ended=False)


PRIVATE = "meet me behind the old mill at nine"


@pytest.mark.parametrize("learnt", [1, 2])
def test_a_copy_is_found(learnt: int) -> None:
    """Six words in a row of a reply that was learnt from, whatever their case, anywhere in it."""
    assert 1 == copies("ok so Meet me behind the OLD mill", [[PRIVATE]] * learnt)


def test_a_copy_is_found_across_bubbles() -> None:
    """On both sides."""
    assert 1 == copies("meet me behind the old mill", [["so meet me", "behind the old", "mill"]])


@pytest.mark.parametrize(
    ("text", "learnt"),
    [
        ("meet me behind the old mill", [[PRIVATE]] * 3),
        ("meet me behind the old", [[PRIVATE]]),
        ("meet me behind that old mill at nine", [[PRIVATE]]),
        ("ok", [["ok"]]),
    ],
    ids=["stock", "five words", "one changed", "short"],
)
def test_what_is_no_copy(text: str, learnt: list[list[str]]) -> None:
    """A phrase of three replies is a stock phrase, and five words are too few."""
    assert 0 == copies(text, learnt)


def test_a_phrase_said_often_in_one_reply_is_no_stock_phrase() -> None:
    """Replies are counted, not occurrences."""
    assert 1 == copies(PRIVATE, [[PRIVATE] * 9])


def test_shares_of_faults() -> None:
    """Of all replies; none of no replies."""
    found = find_faults([Generated(["a"], ["a"], True), Generated(["a"], ["b"], False)], [], LABEL)

    assert Faults(replies=2, echo=1, loop=0, copy=0, endless=1, label=0, empty=0) == found
    assert (0.5, 0.0) == (found.share("echo"), found.share("loop"))
    assert 0.0 == find_faults([], [], LABEL).share("echo")


def test_faults_of_each_reply() -> None:
    """In their order; the counts are of them."""
    made = [Generated(["a"], ["a"], False), Generated(["a"], ["b"], True), Generated(["a"], [], True)]
    each = faults_of_each(made, [], LABEL)

    assert [{"echo", "endless"}, set(), {"empty"}] == each
    assert find_faults(made, [], LABEL) == count_faults(each)
    assert {"replies", *FAULTS} == asdict(count_faults(each)).keys()


# -- bits per character


def test_bits_per_character() -> None:
    """Eight characters of one bit each cost 8 ln 2 nats."""
    assert 1.0 == bits_per_character(8 * math.log(2), 8)


@pytest.mark.parametrize("characters", [0, -1])
def test_no_characters_no_bits(characters: int) -> None:
    """Nothing to share the loss among."""
    with pytest.raises(ValueError, match="no characters"):
        bits_per_character(1.0, characters)


# -- all of it


def measured(generated: list[Reply]) -> Measures:
    known = voices()
    return Yardstick(known, known.own, LABEL).measure([Generated(["so"], reply, True) for reply in generated])


def test_figures_of_a_good_and_a_bad_imitation() -> None:
    """A good one is about as near as the person's own replies; one in another's manner is as far as others are."""
    good, bad = (measured(written(like, 40, seed=3)) for like in (LIKE_JO, LIKE_SAM))

    assert good.style.mean < good.style_others.mean / 2
    assert abs(bad.style.mean - bad.style_others.mean) < 0.1
    assert good.style_own.mean < 0.2
    assert (1.0, 0.0) == (good.authorship.nearer, bad.authorship.nearer)


def test_figures_as_json() -> None:
    """Plain values under plain names, and no text."""
    found = measured(written(LIKE_JO, 40, seed=3)).as_json()

    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert {"style", "style_own", "style_others", "authorship", "replies", "faults"} == set(found)
    assert {"count": 0, "share": 0.0} == found["faults"]["echo"]
    assert {*asdict(ZERO), "mean"} == set(found["style"])
    assert [] == re.findall(r"idk|haha", json.dumps(found))


def test_every_process_gives_the_same_figures() -> None:
    """Strings are hashed anew in each; the figures do not depend on it."""
    code = (
        "from tests.test_measures import *\n"
        "print(json.dumps(measured(written(LIKE_JO + LIKE_SAM + [['😂👍 idk rn'], [PRIVATE]], 60, seed=4)).as_json()))"
    )
    seeds = ("1", "2")
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in seeds
    }

    assert 1 == len(found)


# -- laws

SHARES = st.dictionaries(st.integers(-3, 3), st.integers(1, 9), min_size=1).map(
    lambda weights: {value: Fraction(weight, sum(weights.values())) for value, weight in weights.items()}
)
PLAIN = st.lists(st.sampled_from(["ok", "Ok", "OK.", "idk lol", "😂", "a b c", "no!", "…"]), max_size=3)
SETS = st.lists(PLAIN | hostile_replies(), min_size=1, max_size=6)


@QUICK
@given(SHARES, SHARES, SHARES)
def test_both_distances_are_metrics(
    one: dict[int, Fraction], other: dict[int, Fraction], third: dict[int, Fraction]
) -> None:
    """In range, symmetric, zero between equals alone, and no way round is shorter."""
    for measure in (total_variation, kolmogorov_smirnov):
        assert 0 <= measure(one, other) <= 1
        assert measure(one, other) == measure(other, one)
        assert (measure(one, other) == 0) == (one == other)
        assert measure(one, third) <= measure(one, other) + measure(other, third) + 1e-15
    assert kolmogorov_smirnov(one, other) <= total_variation(one, other)


@QUICK
@given(SETS, SETS, SETS, st.randoms(use_true_random=False))
def test_style_is_a_pseudometric(one: list[Reply], other: list[Reply], third: list[Reply], draw: random.Random) -> None:
    """In range, symmetric, the same in any order, and no way round is shorter, in each habit and in the mean."""
    a, b, c = habits(one), habits(other), habits(third)
    mixed = draw.sample(one, len(one))

    assert distance(a, b) == distance(b, a) == distance(habits(mixed), b)
    assert ZERO == distance(a, habits(mixed))
    assert all(0 <= value <= 1 for value in (*asdict(distance(a, b)).values(), distance(a, b).mean))
    assert distance(a, c).mean <= distance(a, b).mean + distance(b, c).mean + 1e-12


@QUICK
@given(SETS, SETS, SETS, st.randoms(use_true_random=False))
def test_order_does_not_matter(own: list[Reply], others: list[Reply], made: list[Reply], draw: random.Random) -> None:
    """All figures are in range and the same, to the last bit, in whatever order replies come."""

    def figures(a: list[Reply], b: list[Reply], c: list[Reply]) -> Measures:
        return Yardstick(Voices(a, a, b, b), a, LABEL).measure([Generated(["ok"], reply, True) for reply in c])

    found = figures(own, others, made)

    assert found == figures(*(draw.sample(replies, len(replies)) for replies in (own, others, made)))
    assert all(0 <= value <= 1 for name, value in asdict(found.authorship).items() if name != "bundles")
    assert all(0 <= found.faults.share(name) <= 1 for name in asdict(found.faults) if name != "replies")


@QUICK
@given(
    st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=4)
)
def test_copies_are_those_that_a_plain_search_finds(said: list[str], learnt: list[list[str]]) -> None:
    """Six words in a row that stand in one or two replies."""
    runs = {" ".join(said[i : i + 6]) for i in range(len(said) - 5)}
    expected = any(0 < sum(run in " ".join(reply) for reply in learnt) < 3 for run in runs)

    assert expected == bool(copies(" ".join(said), [[" ".join(reply)] for reply in learnt]))


HOSTILE = {
    "empty": [],
    "an empty bubble": [""],
    "one long word": ["a" * 100_000],
    "many words": ["to be or not to be " * 6_000],
    "many different words": [" ".join(map(str, range(20_000)))],
    "many bubbles": ["k"] * 50_000,
    "many emoji": ["".join(chr(0x1F300 + number % 700) for number in range(25_000))],
    "flags and families": ["👩‍👩‍👧🇩🇪" * 5_000, "❤️"],
    "right to left": ["שלום \u202eעולם", "مرحبا، كيف حالك؟"],
    "marks alone": ["\u0301" * 1_000, "\u200d\ufe0f"],
    "half a pair": ["\ud800"],
    "labels": ["Them: " * 10_000],
    "line breaks": ["\n" * 50_000],
    "capitals without small letters": ["ǅ", "İ", "ẞ"],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_measured(name: str) -> None:
    """As what was learnt, what was held out, what others wrote and what a model made."""
    bad: list[Reply] = [HOSTILE[name]]
    found = Yardstick(Voices(bad, bad, bad, bad), bad, LABEL).measure([Generated(bad[0], bad[0], False)] * 2)

    assert (0.0, 0.0) == (found.style.mean, found.style_own.mean)
    assert found.faults.echo == (0 if found.faults.empty else 2)
    assert 0 <= found.authorship.generated <= 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_among_plain_ones_are_measured(name: str) -> None:
    """In range still."""
    found = measured([*written(LIKE_JO, 40, seed=3), HOSTILE[name]])

    assert json.dumps(found.as_json(), allow_nan=False)
    assert found.style.mean < 0.3
