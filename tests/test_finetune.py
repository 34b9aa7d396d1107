"""The training loop on models of some thousand weights: what is kept, when it stops, and that it can go on."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from base_model.load import load_base
from errors import TrainingStopped
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import Example
from tests.tiny import files_no_larger_than, tiny_dataset, tiny_model
from training.config import TrainConfig, parse_config
from training.finetune import Trained, finetune, learning_rate
from training.memory import budget, passes
from training.reply_loss import mean_loss, reply_logits
from training.rows import Dataset, load_dataset
from training.watch import Lines

FEW = {
    "rank": 4, "batch_size": 6, "iters": 4, "learning_rate": 0.02, "schedule": {"decay": "constant"},
    "early_stopping": {"patience": 99, "evaluations_per_epoch": 100},
}  # fmt: skip


class Stopped(Exception):
    """Somebody pulls the plug."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for kind in ("llama", "lfm2"):
        tiny_model(folder / kind, kind)
    tiny_dataset(folder, blocks=5)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    template = ChatTemplate(load_base(str(folder / "llama")).tokenizer)
    return load_dataset(folder / "raw_style", template, 32)


@pytest.fixture(scope="module")
def contrary(dataset: Dataset) -> Dataset:
    """The held-out reply ends as the others do but begins otherwise: what is learned helps at first, and then harms."""
    train, valid = [Example([7, 8, 9, 20, 21, 260], 3)] * 6, [Example([7, 8, 9, 30, 21, 260], 3)]
    return replace(dataset, splits={**dataset.splits, "train": train, "valid": valid})


@pytest.fixture(scope="module")
def trained(folder: Path, dataset: Dataset) -> Callable[..., Trained]:
    """Trains a model loaded for it: ``trained(iters=3, kind="lfm2", checkpoint=path)``."""

    def run(kind: str = "llama", data: Dataset = dataset, say: Any = quiet, **more: Any) -> Trained:
        options = {name: more.pop(name) for name in ("checkpoint", "resume", "fingerprint") if name in more}
        model = more.pop("model", None) or load_base(str(folder / kind)).model
        return finetune(model, data, config(**more), Lines(say), **options)

    return run


@pytest.fixture(scope="module")
def undisturbed(trained: Callable[..., Trained]) -> Trained:
    """A run from beginning to end."""
    return trained()


@pytest.fixture(scope="module")
def saved(trained: Callable[..., Trained], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a run of one step."""
    checkpoint = tmp_path_factory.mktemp("saved") / "checkpoint.safetensors"
    trained(iters=1, checkpoint=checkpoint)
    return checkpoint.read_bytes()


def config(**settings: Any) -> TrainConfig:
    chosen = {**FEW, **settings}
    if "epochs" in settings:
        del chosen["iters"]
    return parse_config({"name": "jo", "data": "d", **chosen}, "jo.yaml")


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def stops_at(step: int) -> Callable[[str], None]:
    """Progress whose reader pulls the plug when *step* is said, before it is saved."""

    def say(line: str) -> None:
        if line.startswith(f"step {step}/"):
            raise Stopped

    return say


def same(one: Trained, other: Trained) -> bool:
    """Whether two runs gave the same weights, to the last bit, by the same way."""
    weights = all(mx.array_equal(one.exported.weights[name], value) for name, value in other.exported.weights.items())
    return weights and one.exported.weights.keys() == other.exported.weights.keys() and one.position == other.position


# -- what is learned and kept


@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_training_lowers_the_loss_of_held_out_replies(trained: Callable[..., Trained], kind: str) -> None:
    """By more than a tenth in four steps."""
    found = trained(kind)

    assert found.position.best_loss < 0.9 * found.base_loss


def test_the_base_is_measured_before_the_first_step(
    folder: Path, dataset: Dataset, trained: Callable[..., Trained]
) -> None:
    """Its loss is that of the model without an adapter."""
    model = load_base(str(folder / "llama")).model
    expected = mean_loss(model, dataset.splits["valid"], reply_logits(model))

    assert expected == trained(iters=1).base_loss


def test_the_first_loss_is_the_bases_mean_over_the_batch(
    folder: Path, dataset: Dataset, trained: Callable[..., Trained]
) -> None:
    """Token by token, however the batch is shared out: a new adapter changes nothing."""
    model = load_base(str(folder / "llama")).model
    expected = mean_loss(model, dataset.splits["train"], reply_logits(model))
    (first,) = trained(iters=1, batch_size=100).position.losses

    assert (1, pytest.approx(expected, rel=1e-5)) == first


def test_the_best_weights_are_kept_not_the_last(
    contrary: Dataset, folder: Path, trained: Callable[..., Trained]
) -> None:
    """The model is left with those of the minimum, wherever in the run it was."""
    model = load_base(str(folder / "llama")).model
    found = trained(model=model, data=contrary, iters=20)
    step, loss = min(found.position.validation, key=lambda item: item[1])

    assert (step, loss) == (found.position.best_step, found.position.best_loss)
    assert 1 < step < 20 and found.position.validation[-1][1] > 1.05 * loss
    assert loss == mean_loss(model, contrary.splits["valid"], reply_logits(model))


def test_the_base_is_left_as_it_was(folder: Path, trained: Callable[..., Trained]) -> None:
    """Only the adapter is trained, and the model is ready to be used."""
    model = load_base(str(folder / "llama")).model
    before = dict(tree_flatten(model.parameters()))
    found = trained(model=model)
    after = {name.replace(".linear.", "."): value for name, value in tree_flatten(model.parameters())}

    assert set(before) == {name for name in after if "lora" not in name}
    assert all(mx.array_equal(value, after[name]) for name, value in before.items())
    assert all(mx.array_equal(value, after[name]) for name, value in found.exported.weights.items())
    assert not model.training


@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
def test_every_row_is_seen_once_an_epoch(dataset: Dataset, trained: Callable[..., Trained], batch_size: int) -> None:
    """As many tokens are trained on in two epochs as the replies have twice, the last rows of an odd batch too."""
    replies = sum(len(example.ids) - example.reply_start for example in dataset.splits["train"])
    found = trained(epochs=2, batch_size=batch_size)

    assert 2 * replies == found.position.tokens
    assert 2 * math.ceil(len(dataset.splits["train"]) / batch_size) == found.position.step


def test_one_row_is_enough(dataset: Dataset, trained: Callable[..., Trained]) -> None:
    """Fewer rows than a batch, or than streams, are a batch of their own."""
    splits = {**dataset.splits, "train": dataset.splits["train"][:1]}

    assert 2 == trained(data=replace(dataset, splits=splits), iters=2).position.step


# -- when it stops


def test_it_stops_early(contrary: Dataset, trained: Callable[..., Trained]) -> None:
    """After as many evaluations without a better one as patience says; the steps that were left are not made."""
    said: list[str] = []
    found = trained(data=contrary, iters=200, early_stopping={"patience": 3}, say=said.append)
    losses = [loss for _, loss in found.position.validation]

    assert "stopped early: no better for 3 evaluations" == said[-1]
    assert losses.index(min(losses)) == len(losses) - 4
    assert found.position.step == len(found.position.losses) < 60


def test_it_goes_on_while_it_gets_better(trained: Callable[..., Trained]) -> None:
    """Impatience stops no run whose every evaluation is the best."""
    found = trained(iters=4, learning_rate=0.001, early_stopping={"patience": 1})

    assert (4, 4) == (found.position.step, found.position.best_step)


@pytest.mark.parametrize(("per_epoch", "steps"), [(1, [2, 4, 6, 7]), (100, [1, 2, 3, 4, 5, 6, 7])])
def test_how_often_it_is_measured(trained: Callable[..., Trained], per_epoch: int, steps: list[int]) -> None:
    """So many times an epoch, at most each step, and always at the end."""
    found = trained(iters=7, early_stopping={"patience": 99, "evaluations_per_epoch": per_epoch})

    assert steps == [step for step, _ in found.position.validation]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, trained: Callable[..., Trained]) -> None:
    """The message names the step, the rows and what to change; the last good checkpoint stays."""
    checkpoint = tmp_path / "checkpoint.safetensors"

    with pytest.raises(TrainingStopped, match=r"not a number at step [23]: lower .* batch: \[\d+, ") as stop:
        trained(learning_rate=1e30, schedule={"warmup": 0}, checkpoint=checkpoint)
    assert "not_a_number" == stop.value.code
    assert [checkpoint] == list(tmp_path.iterdir())


def test_a_base_that_gives_no_numbers_is_found_at_the_first_step(
    folder: Path, dataset: Dataset, trained: Callable[..., Trained]
) -> None:
    """All rows of the batch are named."""
    model = load_base(str(folder / "llama")).model
    model.lm_head.weight = mx.full(model.lm_head.weight.shape, math.nan)
    rows = list(range(len(dataset.splits["train"])))

    with pytest.raises(TrainingStopped) as stopped:
        trained(model=model, batch_size=100)
    assert f"at step 1: lower learning_rate or scale. Rows of that batch: {rows}" in stopped.value.message


# -- the same again


@pytest.mark.parametrize("settings", [{}, {"kind": "lfm2"}, {"dropout": 0.2}], ids=["llama", "lfm2", "dropout"])
def test_one_seed_gives_one_result(trained: Callable[..., Trained], settings: dict[str, Any]) -> None:
    """Two runs have the same weights and losses, to the last bit."""
    assert same(trained(**settings), trained(**settings))


def test_another_seed_gives_another_result(trained: Callable[..., Trained], undisturbed: Trained) -> None:
    """It decides the beginning, the order of the rows and the dropout."""
    assert not same(undisturbed, trained(seed=1))


# -- going on


@pytest.mark.parametrize(
    "settings",
    [{}, {"kind": "lfm2"}, {"dropout": 0.2}, {"batch_size": 5, "schedule": {"decay": "cosine"}}],
    ids=["llama", "lfm2", "dropout", "odd batches"],
)
@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    tmp_path: Path, trained: Callable[..., Trained], settings: dict[str, Any], stop: int
) -> None:
    """Weights, optimizer, random numbers, order of the rows and all losses: to the last bit."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        trained(**settings, checkpoint=checkpoint, say=stops_at(stop))

    assert same(trained(**settings), trained(**settings, checkpoint=checkpoint, resume=True))


def test_a_run_that_was_stopped_knows_its_best_weights(
    tmp_path: Path, contrary: Dataset, trained: Callable[..., Trained]
) -> None:
    """Stopped after the minimum, it ends with the weights of before, and as early as it would have."""
    settings = {"data": contrary, "iters": 200, "early_stopping": {"patience": 4}}
    whole = trained(**settings)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        trained(**settings, checkpoint=checkpoint, say=stops_at(whole.position.best_step + 3))

    assert same(whole, trained(**settings, checkpoint=checkpoint, resume=True))


@pytest.mark.parametrize("settings", [{}, {"iters": 200, "early_stopping": {"patience": 1}}], ids=["done", "early"])
def test_a_run_that_was_over_makes_no_further_step(
    tmp_path: Path, contrary: Dataset, trained: Callable[..., Trained], settings: dict[str, Any]
) -> None:
    """Stopped after its last step, before it was published, it gives the same weights again."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole = trained(data=contrary, **settings, checkpoint=checkpoint)

    assert same(whole, trained(data=contrary, **settings, checkpoint=checkpoint, resume=True))


def test_where_it_goes_on_is_said(tmp_path: Path, trained: Callable[..., Trained]) -> None:
    """At the last step that was saved."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        trained(checkpoint=checkpoint, say=stops_at(4))
    said: list[str] = []
    trained(checkpoint=checkpoint, resume=True, say=said.append)

    assert "goes on at step 3" == said[2]


def test_without_resume_a_checkpoint_is_not_looked_at(
    tmp_path: Path, trained: Callable[..., Trained], undisturbed: Trained
) -> None:
    """It is written over."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    trained(checkpoint=checkpoint, seed=1, iters=1)

    assert same(undisturbed, trained(checkpoint=checkpoint))


def test_without_a_checkpoint_nothing_is_written(folder: Path, trained: Callable[..., Trained]) -> None:
    """Not beside the model, nor beside the data."""
    before = sorted(folder.rglob("*"))
    trained(iters=2)

    assert before == sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, "belongs to another config: start without --resume"),
        ({"learning_rate": 0.01}, "belongs to another config: start without --resume"),
        ({"rank": 8}, "belongs to another config: start without --resume"),
        ({"data": "other"}, "belongs to another dataset: start without --resume"),
        ({"data": "other", "seed": 1}, "belongs to another config and dataset: start without --resume"),
        ({"fingerprint": "sha256:other"}, "belongs to another base: start without --resume"),
        ({"kind": "lfm2"}, "holds other layers than this model has: start without --resume"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, dataset: Dataset, trained: Callable[..., Trained], saved: bytes, settings: Any, message: str
) -> None:
    """The message names the file and what differs; the checkpoint stays."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(saved)
    chosen = {**settings, "data": replace(dataset, digest="0" * 64)} if "data" in settings else settings

    with pytest.raises(TrainingStopped, match=f"the checkpoint '{checkpoint}' {message}"):
        trained(iters=1, **chosen, checkpoint=checkpoint, resume=True)
    assert saved == checkpoint.read_bytes()


@pytest.mark.parametrize("kept", [0, 7, 100, 5000])
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, trained: Callable[..., Trained], saved: bytes, kept: int
) -> None:
    """Cut off anywhere, in its header or its weights."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(saved[:kept])

    with pytest.raises(TrainingStopped, match="is damaged: start without --resume"):
        trained(iters=1, checkpoint=checkpoint, resume=True)


def test_there_must_be_a_checkpoint(tmp_path: Path, trained: Callable[..., Trained]) -> None:
    """Where there is none, --resume is refused."""
    with pytest.raises(TrainingStopped, match=f"no checkpoint at '{tmp_path}/none': start without --resume"):
        trained(checkpoint=tmp_path / "none", resume=True)


def test_half_a_checkpoint_is_never_seen(tmp_path: Path, trained: Callable[..., Trained], undisturbed: Trained) -> None:
    """One that was killed while it was written left the one before: the half is written over."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        trained(checkpoint=checkpoint, say=stops_at(4))
    (tmp_path / ".staging-checkpoint.safetensors").write_bytes(b"half")

    assert same(undisturbed, trained(checkpoint=checkpoint, resume=True))
    assert [checkpoint] == list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, trained: Callable[..., Trained], undisturbed: Trained
) -> None:
    """The run stops with what to do, and goes on when there is room."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Stopped):
        trained(checkpoint=checkpoint, say=stops_at(3))
    before = checkpoint.read_bytes()

    with (
        files_no_larger_than(5000),
        pytest.raises(TrainingStopped, match=f"'{checkpoint}' could not be written: is the"),
    ):
        trained(checkpoint=checkpoint, resume=True)
    assert ([checkpoint], before) == (list(tmp_path.iterdir()), checkpoint.read_bytes())
    assert same(undisturbed, trained(checkpoint=checkpoint, resume=True))


# -- the learning rate


def rates(total: int, **schedule: Any) -> list[float]:
    chosen = config(learning_rate=1.0, schedule=schedule)
    return [learning_rate(chosen, step, total) for step in range(total)]


def test_the_rate_rises_and_then_falls_to_a_tenth() -> None:
    """In a line over the first tenth, then along half a cosine."""
    found = rates(100, warmup=0.1)

    assert [pytest.approx(step / 10) for step in range(1, 11)] == found[:10]
    assert found[10:] == sorted(found[10:], reverse=True)
    assert (1.0, pytest.approx(0.55), pytest.approx(0.1, abs=0.001)) == (found[10], found[55], found[99])


def test_a_constant_rate_is_constant() -> None:
    """After the warm-up."""
    assert [0.5, 1.0, *[1.0] * 8] == rates(10, warmup=0.2, decay="constant")


@pytest.mark.parametrize("total", [1, 2, 5])
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5])
def test_no_step_is_without_a_rate(total: int, warmup: float) -> None:
    """However short the run, every rate is above zero and none above the config's."""
    assert all(0 < rate <= 1 for rate in rates(total, warmup=warmup))


# -- memory


def test_a_step_in_many_passes_is_the_same_step(trained: Callable[..., Trained]) -> None:
    """With memory for hardly a token a batch is computed family by family: the same weights, to rounding."""
    said: list[str] = []
    at_once, in_passes = trained(), trained(memory_gb=1e-6, say=said.append)

    assert " in 1 pass, " not in said[1] and " passes, about 0.00 GB of at most 0.0 (memory_gb)" in said[1]
    for (step, loss), (same_step, other) in zip(at_once.position.losses, in_passes.position.losses, strict=True):
        assert step == same_step and other == pytest.approx(loss, rel=1e-4)
    for name, value in at_once.exported.weights.items():
        assert mx.allclose(value, in_passes.exported.weights[name], rtol=1e-2, atol=1e-3), name


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_passes_stay_within_the_limit(tokens: int, count: int) -> None:
    """At 10 bytes a token and 1000 bytes allowed."""
    assert count == passes(tokens, 10, 1000)


def test_half_of_the_machine_is_the_limit_where_none_is_given() -> None:
    """Of its memory, in bytes; else what the config says, in gigabytes."""
    assert 1_500_000_000 == budget(1.5)
    assert 10**8 < budget(None) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
