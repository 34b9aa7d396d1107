"""How a row chooses its tokens: what its seed says, of what its parameters leave, whoever stands beside it."""

from collections import Counter
from collections.abc import Sequence
from math import exp

import mlx.core as mx
import pytest

from service.choice import Sampling
from service.decoding import choose
from service.sampling import REMEMBERED, Chooser

PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGITS = mx.log(mx.array([PROBABILITIES])) + 3.0
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1)
DRAWS = 400


def chooser(sampling: Sampling, seed: int = 0, prompt: Sequence[int] = (0,)) -> Chooser:
    return Chooser(sampling, seed, prompt)


def draws(one: Chooser, count: int = DRAWS) -> list[int]:
    """What *one* chooses, time after time."""
    tokens = mx.concatenate([choose([one], LOGITS, None)[0] for _ in range(count)])
    return tokens.tolist()  # type: ignore[return-value]


def test_a_greedy_row_takes_the_likeliest() -> None:
    """At temperature 0, and so near it that its logits could not be divided."""
    for temperature in (0, 1e-9, 5e-324):
        assert [0] * 5 == draws(chooser(Sampling(temperature=temperature)), 5)


def test_a_seed_decides_the_draws() -> None:
    """The same seed draws the same, another one something else; any 64 bits are a seed."""
    seeds = [0, 1, 7, 2**32, 2**64 - 1]
    written = [tuple(draws(chooser(WARM, seed), 40)) for seed in seeds]

    assert written == [tuple(draws(chooser(WARM, seed), 40)) for seed in seeds]
    assert len(seeds) == len(set(written))


def test_draws_are_the_row_s_own() -> None:
    """Beside greedy rows, others' draws and penalties, at any place in the batch."""
    alone = draws(chooser(WARM, 5), 30)
    others = [
        chooser(GREEDY),
        chooser(WARM, 6),
        chooser(Sampling(temperature=2, top_p=0.5, repetition_penalty=1.5), 5),
    ]
    for place in range(4):
        rows = [*others[:place], chooser(WARM, 5), *others[place:]]
        fed, found = None, []
        for _ in range(30):
            fed, _ = choose(rows, mx.repeat(LOGITS, 4, axis=0), fed)
            found.append(fed[place].item())
        assert alone == found


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (WARM, {0, 1, 2, 3, 4}),
        (Sampling(temperature=1, top_k=2), {0, 1}),
        (Sampling(temperature=1, top_k=5), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1, top_k=10**6), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1, top_p=0.6), {0, 1}),
        (Sampling(temperature=1, top_p=1e-300), {0}),
        (Sampling(temperature=1, min_p=0.3), {0, 1, 2}),
        (Sampling(temperature=1, min_p=1.0), {0}),
        (Sampling(temperature=2, top_k=3, top_p=0.9, min_p=0.01), {0, 1, 2}),
    ],
    ids=lambda value: repr(value).removeprefix("Sampling") if isinstance(value, Sampling) else None,
)
def test_only_what_the_parameters_leave_is_drawn(sampling: Sampling, left: set[int]) -> None:
    """And all of it is."""
    assert left == set(draws(chooser(sampling)))


@pytest.mark.parametrize("temperature", [0.5, 1, 2])
def test_draws_are_as_frequent_as_they_are_likely(temperature: float) -> None:
    """Temperature is the exponent by which likelihoods are flattened or sharpened."""
    weights = [probability ** (1 / temperature) for probability in PROBABILITIES]
    found = Counter(draws(chooser(Sampling(temperature=temperature), 11), 2 * DRAWS))

    for token, weight in enumerate(weights):
        assert weight / sum(weights) == pytest.approx(found[token] / (2 * DRAWS), abs=0.05)


def test_a_logprob_is_what_the_model_says() -> None:
    """In nats, at temperature 1, whatever temperature and cuts the token was drawn with."""
    rows = [chooser(GREEDY), chooser(Sampling(temperature=2, top_k=3), 3)]
    tokens, logprobs = choose(rows, mx.repeat(LOGITS, 2, axis=0), None)

    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):  # type: ignore[arg-type]
        assert PROBABILITIES[token] == pytest.approx(exp(logprob), abs=1e-5)


def test_a_penalty_makes_what_was_said_less_likely() -> None:
    """Of prompt and reply together the last twenty: a positive logit is divided, a negative one multiplied."""

    def logits() -> mx.array:
        return mx.array([[2.0, -2.0, 2.0, -2.0]])

    one = chooser(Sampling(0, repetition_penalty=2.0), prompt=[0, *[1] * (REMEMBERED - 1)])
    assert [[1.0, -4.0, 2.0, -2.0]] == one.penalised(logits(), None).tolist()
    assert [[2.0, -4.0, 2.0, -4.0]] == one.penalised(logits(), mx.array([3])).tolist()  # 0 is too long ago
    assert [[2.0, -4.0, 2.0, -4.0]] == one.penalised(logits(), None).tolist()
    assert [[2.0, -2.0, 2.0, -2.0]] == chooser(GREEDY, prompt=[0, 1]).penalised(logits(), mx.array([3])).tolist()


def test_a_penalty_is_the_row_s_own() -> None:
    """The likeliest token that has just been said is taken no more; the row beside takes it again."""
    rows = [chooser(Sampling(0, repetition_penalty=2.0), prompt=[4]), chooser(GREEDY, prompt=[4])]
    fed, found = None, []
    for _ in range(3):
        fed, _ = choose(rows, mx.repeat(LOGITS, 2, axis=0), fed)
        found.append(fed.tolist())

    assert [[0, 0], [1, 0], [2, 0]] == found
