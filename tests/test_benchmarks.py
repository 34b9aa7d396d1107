"""The parts of the benchmarks that hold without measuring anything."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.lfm2 import Model, ModelArgs

from base_model.load import load_base
from benchmarks.example import OURS, THEIRS
from benchmarks.figures import Panel, draw_bars
from benchmarks.first_step import apart_from, written_out
from benchmarks.http_client import Answer, events
from benchmarks.mlx_lm_trainer import fit, loss_and_gradient, one_epoch, put_lora_on, read_rows
from benchmarks.random_lfm2 import LFM2_350M, write_random_lfm2
from benchmarks.row_speed import EIGHT, ONE, ONE_ROW, measure_rows, row_ratios
from benchmarks.serve_rounds import Asked, first_tokens, of_threads
from benchmarks.serve_speed import agreement, judged
from benchmarks.serving_world import (
    ADAPTERS,
    FAINT,
    GENERATIONS,
    RETRAINED,
    SCRIPT,
    Question,
    World,
    formats_of,
    publish_adapters,
    write_base,
)
from benchmarks.train_speed import Took, merged, spread, summary
from prompt_format.chat_template import ChatTemplate
from tests.tiny import tiny_dataset, tiny_model
from training.config import TrainConfig
from training.reply_loss import mean_loss, reply_logits
from training.rows import load_dataset

SMALL = {**LFM2_350M, "vocab_size": 512, "hidden_size": 32, "block_dim": 32, "block_ff_dim": 96, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Of a tiny model and a tiny dataset."""
    folder = tmp_path_factory.mktemp("tiny")
    data = tiny_dataset(folder / "data").folder
    model = str(tiny_model(folder / "model", "lfm2"))
    return TrainConfig(name="tiny", model=model, data=data, rank=2, scale=0.01, batch_size=4, max_tokens=2048)


def worn(config: TrainConfig) -> tuple[Any, Any, Any]:
    """(model with a LoRA on it, its tokenizer, the dataset)."""
    base = load_base(config.model)
    put_lora_on(base.model, config)
    return base.model, base.tokenizer, load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [9, 5]), (2, [9, 3, 8]), (5, [9, 1, 3, 5, 8, 9]), (50, [9, 1, 3, 5, 8, 9])],
)
def test_steps_are_spread_over_an_epoch(count: int, expected: list[int]) -> None:
    """The largest batch comes first, to warm up; then as many as asked for, evenly from small to large."""
    assert expected == spread([5, 9, 1, 8, 3], lambda size: size, count)


def test_a_rate_is_of_whole_steps() -> None:
    """Examples a second are those of the counted steps over their seconds; the rounds give median and range."""
    turns = [Took(8, [1.0, 3.0], 1.0, 2.0), Took(8, [1.0, 1.0], 1.0, 2.0), Took(8, [4.0, 4.0], 1.0, 2.0)]

    found = summary(turns)

    assert (2.0, 1.0, 4.0) == (found["examples_a_second"], found["lowest"], found["highest"])


def test_a_case_that_is_not_run_stays(tmp_path: Path) -> None:
    """With where and when it was measured, also when a second run leaves it out; a case that is run is written anew."""
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"cases": {"lfm2-350m": {"rate": 1}, "starter": {"rate": 2}}, "measured": "monday"}))

    once = merged(path, {"starter": {"rate": 3}})
    path.write_text(json.dumps({"cases": once, "measured": "tuesday"}))
    twice = merged(path, {"starter": {"rate": 4}})

    assert {"starter": {"rate": 3}, "lfm2-350m": {"rate": 1, "measured": "monday"}} == once
    assert {"starter": {"rate": 4}, "lfm2-350m": {"rate": 1, "measured": "monday"}} == twice
    assert {"starter": {"rate": 5}} == merged(tmp_path / "none.json", {"starter": {"rate": 5}})


def test_lfm2_350m_has_its_number_of_parameters() -> None:
    """The config makes a model of 354 million parameters; nothing is computed for it."""
    model = Model(ModelArgs.from_dict(LFM2_350M))

    assert 354_483_968 == sum(array.size for _, array in tree_flatten(model.parameters()))


def test_a_random_model_is_a_base(tmp_path: Path, config: TrainConfig) -> None:
    """What is written loads as any base does; the seed decides the weights."""
    sizes = {write_random_lfm2(tmp_path / name, Path(config.model), SMALL, seed) for name, seed in (("a", 0), ("b", 1))}
    a, b = load_base(str(tmp_path / "a")), load_base(str(tmp_path / "b"))
    write_random_lfm2(tmp_path / "c", Path(config.model), SMALL)

    assert sizes == {sum(array.size for _, array in tree_flatten(a.model.parameters()))}
    assert a.fingerprint != b.fingerprint
    assert a.fingerprint == load_base(str(tmp_path / "c")).fingerprint


def test_the_loss_written_out_is_ours(config: TrainConfig) -> None:
    """Each row alone gives the mean loss that training measures."""
    model, _, dataset = worn(config)
    rows = dataset.splits["train"][:5]

    loss, _, tokens = written_out(model, rows)

    assert loss == pytest.approx(mean_loss(model, rows, reply_logits(model)), abs=1e-5)
    assert tokens == sum(len(row.ids) - row.reply_start for row in rows)


def test_gradients_that_are_not_the_same_are_apart(config: TrainConfig) -> None:
    """A gradient is no distance from itself, and a tenth of its norm from one that is a tenth longer."""
    model, _, dataset = worn(config)
    _, gradient, _ = written_out(model, dataset.splits["train"][:2])

    assert apart_from(gradient, gradient) == 0
    assert apart_from(gradient, tree_map(lambda array: 1.1 * array, gradient)) == pytest.approx(0.1, rel=1e-3)


def test_mlx_lm_counts_more_tokens(config: TrainConfig) -> None:
    """Its loss is over what stands behind the end of turn and over one token of padding a row too."""
    model, tokenizer, dataset = worn(config)
    ours = [row.ids for row in dataset.splits["train"][:3]]
    rows = read_rows(config.data / "train.jsonl", tokenizer, range(3))

    _, _, tokens = loss_and_gradient(model, rows)

    behind = sum(len(rows[i][0]) - len(ids) for i, ids in enumerate(ours))
    assert tokens == sum(len(row.ids) - row.reply_start for row in dataset.splits["train"][:3]) + behind + 3


def test_mlx_lm_trains_on_the_batches_it_is_given(config: TrainConfig) -> None:
    """Its trainer takes one step for each, tells of it, and leaves the last weights on the model."""
    base = load_base(config.model)
    rows = read_rows(config.data / "train.jsonl", base.tokenizer)
    losses: list[float] = []

    fit(base.model, rows, config, 2, 1e-2, losses.append, one_epoch(rows, config.batch_size, 0)[:2])

    trained = dict(tree_flatten(base.model.trainable_parameters()))
    assert len(losses) == 2
    assert all(bool(mx.any(value != 0).item()) for name, value in trained.items() if name.endswith("lora_b"))


def test_bars_are_drawn(tmp_path: Path) -> None:
    """A benchmark's bars are one PNG file."""
    panel = Panel("speed", "examples a second", {"a": 1.0, "b": 2.0}, {"a": (0.9, 1.1)})

    path = draw_bars("x", [[panel]], folder=tmp_path)

    assert path.read_bytes().startswith(b"\x89PNG")


# -- serving


def answer(first_s: float = 1.0, total_s: float = 2.0, text: str = "ok", prompt_tokens: int = 10) -> Answer:
    return Answer(text, first_s, total_s, prompt_tokens, cached_tokens=4, completion_tokens=3)


@pytest.fixture(scope="module")
def world(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The adapters of the serving benchmark on a tiny model."""
    model, store = Path(config.model), tmp_path_factory.mktemp("serving") / "adapters"
    return World(model, store, publish_adapters(model, store), formats_of(model))


def test_events_are_read_as_both_servers_write_them() -> None:
    """With names and without, also where an event's data comes before the line that ends it; comments are left out."""
    lines = [b"event: token\n", b'data: {"index": 0}\n', b"\n", b": keepalive 1/2\n", b"data: [DONE]\r\n"]

    assert [("token", '{"index": 0}'), ("message", "[DONE]")] == list(events(lines))


def test_the_first_request_of_a_thread_is_apart() -> None:
    """Nothing is known of the thread then; the medians are of the later ones, in milliseconds."""
    threads = [[answer(9, 9), answer(1, 2), answer(3, 4)], [answer(7, 7), answer(2, 3)]]

    found = of_threads(threads)

    assert (2000, 3000, 8000, 8000) == tuple(
        found[name] for name in ("first_ms", "reply_ms", "cold_first_ms", "cold_reply_ms")
    )
    assert 0.4 == found["cached"]


def test_a_change_is_told_from_what_came_after_it() -> None:
    """Of each three questions one comes right after a change; the very first is asked to have an adapter live."""
    question = Question("turns", [], [], [])
    changes: list[int] = []

    def change(number: int, _: Question) -> Answer:
        changes.append(number)
        return answer(first_s=5)

    found = first_tokens(change, lambda _: answer(first_s=1), [question] * 9)

    assert [0, 1] == changes
    assert {"first_after_swap_ms": 5000, "first_warm_ms": 1000} == found


@pytest.mark.parametrize(
    ("case", "measure", "found", "met"),
    [
        ("lfm2-350m", "swap_ms", 0.2, True),
        ("lfm2-350m", "swap_ms", 0.21, False),
        ("starter", "replies_a_second", 4.0, True),
        ("starter", "replies_a_second", 3.9, False),
        ("starter", "adapter_step_to_base", 1.18, True),
        ("lfm2-350m", "adapter_step_to_base", 1.18, False),
    ],
)
def test_a_target_is_met_or_not(case: str, measure: str, found: float, met: bool) -> None:
    """By its own limit in each case, and in the direction that is better."""
    verdict = judged(case, measure, found)

    assert verdict is not None
    assert met == verdict["met"]


def test_a_swap_of_the_starter_has_no_target() -> None:
    """What is aimed at is a base of a real one's size."""
    assert judged("starter", "swap_ms", 1.0) is None


def test_agreement_counts_prompts_and_replies(world: World) -> None:
    """Prompts by their number of tokens, on each side; replies by what our service would show of mlx-lm's text."""
    question = Question("turns", [], [], [7] * 10)
    ours = [answer(text="ok\nsure"), answer(text="no")]
    theirs = [answer(text=" ok / sure"), answer(text="yes", prompt_tokens=11)]
    rounds = {
        side: [Asked({}, {}, [(question, a) for a in answers])] for side, answers in ((OURS, ours), (THEIRS, theirs))
    }

    found = agreement(rounds, world)

    assert ["2 of 2", "1 of 2", "1 of 2"] == list(found.values())


def test_rows_are_compared_within_a_round() -> None:
    """A round in which the machine was slow for all changes no ratio; more time a step is fewer tokens a second."""
    rates = {"base": [120.0, 12.0], ONE: [100.0, 10.0], EIGHT: [90.0, 9.0], f"base{ONE_ROW}": [11.0, 1.1]}

    found = row_ratios({**rates, f"{ONE}{ONE_ROW}": [10.0, 1.0]})

    assert {"eight_to_one": 0.9, "adapter_step_to_base": 1.2, "adapter_step_to_base_one_row": 1.1} == found


def test_a_thread_grows_by_two_messages(world: World) -> None:
    """Each question is the whole thread so far and ends with the other side; in turns it begins with the one before."""
    asked = world.threads("turns", len(SCRIPT))

    assert [1, 3, 5, 7, 9, 11] == [len(question.messages) for question in asked]
    assert not any(question.messages[-1]["from_me"] for question in asked)
    assert asked[0].chat == asked[1].chat[:2]


def test_no_prompt_is_asked_twice(world: World) -> None:
    """Not even where the window has left the beginning of the thread behind: a cache would look better than it is."""
    asked = [question.ids for _ in range(3) for question in world.threads("raw_style_variable", len(SCRIPT))]

    assert len(asked) == len({tuple(ids) for ids in asked})


def test_adapters_of_the_serving_benchmark_are_served(world: World) -> None:
    """The device takes each as it takes a trained one, probe and all, and decodes with it; nothing ends."""
    assert {name: GENERATIONS if name == RETRAINED else 1 for name in ADAPTERS} == {
        name: len(set(generations)) for name, generations in world.generations.items()
    }
    prompts = [world.threads("raw_style_variable", 1)[0].ids[-8:] for _ in range(2)]

    with ThreadPoolExecutor(1) as thread:  # whose streams end with the device
        found = thread.submit(measure_rows, world.model, world.store, list(ADAPTERS), prompts, 1, 2).result()

    assert {"base", ONE, EIGHT, f"base{ONE_ROW}", f"{ONE}{ONE_ROW}"} == set(found)
    assert all(len(rates) == 2 and min(rates) > 0 for rates in found.values())


def test_the_endless_starter_does_not_end_its_turn(tmp_path: Path) -> None:
    """Its weights are the starter's, but for the rows of its embedding by which a turn ends; those are faint."""
    write_base("starter", tmp_path / "whole")
    write_base("endless-starter", tmp_path / "endless")
    whole, endless = (load_base(str(tmp_path / name)) for name in ("whole", "endless"))

    before, after = (base.model.model.embed_tokens.weight for base in (whole, endless))

    changed = mx.any(before != after, axis=1).tolist()
    stop = sorted(ChatTemplate(whole.tokenizer).stop_ids)
    assert stop == [number for number, differs in enumerate(changed) if differs]
    assert mx.array_equal(FAINT * before[mx.array(stop)], after[mx.array(stop)]).item()
