"""What training loops get wrong, each stated once: the table says where.

The traps are those of mlx-lm's own trainer (TR), its config keys (CK), and what loading adapters (LD) and quantised
bases (QB) do to training. A test named without a file is in this one.

    TR1   padding in the loss             test_reply_loss.py::test_padding_is_in_no_loss
          and in the gradient             test_a_batch_in_parts_has_the_gradient_of_the_whole
    TR2   trained after the end of turn   test_rows.py::test_the_loss_is_on_the_reply_and_the_end_of_its_turn
    TR3   lengths are not sorted          test_little_of_an_epoch_is_padding
    TR4   last rows never seen            test_finetune.py::test_every_row_is_seen_once_an_epoch
          in one batch each               test_reply_loss.py::test_every_row_is_in_one_batch
          the same batches for ever       test_an_epoch_has_every_row_and_batches_of_its_own
    TR5   a long prompt: the reply is cut test_rows.py::test_a_context_is_cut_from_the_left_and_the_reply_never
          a loss of 0/0                   test_a_prompt_of_one_token_has_a_loss
    TR6   the mask begins elsewhere       test_format.py::test_the_head_of_an_example_is_the_prompt
          in a dataset's rows             test_format.py::test_a_row_of_a_dataset_is_the_example
    TR7   which turn is trained           test_of_a_row_of_turns_the_last_is_trained
    TR8   some of the validation rows     test_reply_loss.py::test_the_mean_is_over_tokens_not_rows
          the same weights, other numbers test_the_same_weights_validate_the_same_all_run_long
    TR9   the last weights, not the best  test_finetune.py::test_the_best_weights_are_kept_not_the_last
          no early stop                   test_finetune.py::test_it_stops_early
          the best after a stop           test_finetune.py::test_a_run_that_was_stopped_knows_its_best_weights
    TR10  half of a run is resumed        test_finetune.py::test_a_run_that_was_stopped_goes_on_as_if_it_had_not
    TR11  resumed from another run        test_finetune.py::test_a_checkpoint_of_another_run_is_refused
          from an adapter's weights       test_the_weights_of_an_adapter_are_no_checkpoint
    TR12  a mean of means                 test_a_batch_in_parts_has_the_gradient_of_the_whole
          in the loop                     test_a_step_is_given_the_gradient_of_the_mean
    TR13  classes are patched             test_no_class_is_changed_by_training
    TR14  a setting never arrives         test_nothing_of_mlx_lms_trainer_is_used
    TR15  a loss in half precision        test_reply_loss.py::test_half_precision_does_not_reach_the_loss
          against one in float32          test_the_loss_of_half_precision_logits_is_taken_in_float32
    TR16  rows of another kind            test_rows.py::test_a_row_that_is_none
          no dataset                      test_training_command.py::test_train_on_what_is_not_there
          an empty file                   test_odd_datasets.py::test_a_split_without_rows
    TR17  no guard against NaN            test_finetune.py::test_a_loss_that_is_no_number_stops_the_run
          nothing is published            test_train.py::test_a_loss_that_is_no_number_publishes_nothing
          no clipping                     test_a_steep_step_is_clipped_and_keeps_its_direction
          nothing to train                test_lora.py::test_modules_that_match_nothing_are_refused
    TR18  weights of the base are trained test_a_base_that_was_not_frozen_is
          and published                   test_train.py::test_what_is_published_passes_the_services_checks
          and served                      test_adapter_check.py::test_weights_that_cannot_be_meant_are_refused
    TR19  the wired limit stays           test_nothing_of_mlx_lms_trainer_is_used
    TR20  which id pads                   test_tokens_of_no_row_are_in_no_loss
    CK1   keys that are never read        test_config.py::test_an_unknown_key_names_the_nearest
          from the command                test_settings_of_other_programs_are_refused_by_the_command
    CK2   scale is not alpha              test_lora.py::test_the_scale_is_mlx_lms
          of rslora                       test_methods.py::test_rslora_divides_by_the_root_of_the_rank
    CK3   settings given in part          test_config.py::test_the_config_of_the_interface_is_all_defaults
          what mlx-lm needs is written    test_lora.py::test_mlx_lm_reads_what_is_written
    CK4   how many layers                 test_lora.py::test_modules_and_layers_choose
          and how many are written down   test_the_layers_that_are_written_down_are_those_there_are
    CK5   the prompt is learnt by heart   test_reply_loss.py::test_what_stands_before_the_reply_is_no_target
          how much is trained on is told  test_whoever_watches_is_told_how_much_is_trained_on
    LD7   dropout stays on                test_dropout_is_off_wherever_it_is_measured
    LD9   the scale of another adapter    test_slots.py::test_a_slot_holds_what_was_written_last
    QB2   the size of a packed layer      test_a_base_of_any_bit_width_is_trained
    QB3   adapters in half precision      test_an_adapter_is_float32_whatever_its_base
"""

import ast
import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten

from base_model.load import load_base, projections
from errors import ConfigRefused, TrainingStopped
from prompt_format.adapter_check import expected_tensors
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import Example
from prompt_format.window import Window
from tests.tiny import LAYERS, tiny_dataset, tiny_model
from tests.toy_tokenizers import ROOT, byte_level
from training.__main__ import main
from training.config import TrainConfig, parse_config
from training.finetune import Run, Trained, finetune
from training.lora import choose_layers, wear
from training.reply_loss import buckets, loss_sum, make_batch, mean_loss, reply_logits
from training.rows import Dataset, load_dataset
from training.watch import Step

TESTS = Path(__file__).parent
STILL = 1e-30  # a learning rate that changes no weight
VARIANTS = ["raw_style", "turns"]
# Of different lengths; the last two go on from the first as successive rows of one conversation do.
ROWS = [
    Example([*range(40, 60), 7, 8, 20, 21, 22, 260], 22),
    Example([*range(40, 60), 7, 9, 30, 260], 22),
    Example([5, 260], 1),
    Example([*range(70, 110), 11, 260], 40),
    Example([70, 71, 72, 12, 13, 14, 15, 16, 17, 260], 3),
    Example([*range(40, 60), 20, 260], 20),
    Example([*range(40, 60), 7, 8, 20, 21, 22, 260, 31, 32, 23, 260], 28),
    Example([*range(40, 60), 7, 8, 20, 21, 22, 260, 31, 33, 34, 24, 25, 26, 27, 260], 29),
]


class Seen:
    """Who watches a run and remembers it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.validations: list[float] = []

    def say(self, line: str) -> None:
        """Not of interest."""

    def stepped(self, step: Step) -> None:
        self.steps.append(step)

    def validated(self, step: int, loss: float, is_best: bool) -> None:
        self.validations.append(loss)


class Kept:
    """In the place of a run's method: keeps the gradients it is given, and steps nowhere."""

    def __init__(self, method: Any):
        self.optimizer = method.optimizer
        self.gradients: dict[str, mx.array] = {}

    def update(self, gradients: Any, rate: float) -> None:
        self.gradients = dict(tree_flatten(gradients))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for kind in ("llama", "lfm2"):
        tiny_model(folder / kind, kind)
    for variant in VARIANTS:
        tiny_dataset(folder, variant, blocks=8)
    return folder


@pytest.fixture(params=["llama", "lfm2"])
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    return load_base(str(folder / request.param)).model


@pytest.fixture
def llama(folder: Path) -> Any:
    return load_base(str(folder / "llama")).model


def data(folder: Path, variant: str = "raw_style", max_tokens: int = 512) -> Dataset:
    return load_dataset(folder / variant, ChatTemplate(byte_level()), max_tokens)


def config(**settings: Any) -> TrainConfig:
    chosen = {
        "rank": 4, "batch_size": 4, "learning_rate": 0.02, "schedule": {"decay": "constant", "warmup": 0},
        "early_stopping": {"patience": 99, "evaluations_per_epoch": 2},
    }  # fmt: skip
    return parse_config({"name": "jo", "data": "d", **chosen, **settings}, "jo.yaml")


def trained(model: Any, dataset: Dataset, watch: Any = None, **settings: Any) -> Trained:
    return finetune(model, dataset, config(**settings), watch or Seen())


def worn(model: Any) -> Any:
    """*model* with an adapter that changes it."""
    wear(model, choose_layers(model, config())[0])
    return moved(model)


def moved(model: Any) -> Any:
    """*model* with its adapter moved away from where it begins, which changes nothing."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_b"):
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape, key=mx.random.key(len(name)))
    return model


def gradients(model: Any, rows: Sequence[Example], share: bool = True) -> tuple[float, dict[str, mx.array]]:
    """The sum of the losses of *rows* and its gradient by every trainable weight."""
    logits = reply_logits(model)
    batch = make_batch(rows, share=logits.shares) if share else make_batch(rows)
    loss, found = nn.value_and_grad(model, loss_sum(logits))(model, batch)
    return loss.item(), dict(tree_flatten(found))


def summed(model: Any, groups: Sequence[Sequence[Example]], share: bool = True) -> dict[str, mx.array]:
    """The sum of the gradients of groups of rows."""
    found = [gradients(model, rows, share)[1] for rows in groups]
    return {name: sum((one[name] for one in found[1:]), found[0][name]) for name in found[0]}


def distance(one: dict[str, mx.array], other: dict[str, mx.array]) -> float:
    """How far two gradients are apart, as a share of the length of the first."""
    assert one.keys() == other.keys()
    apart = sum(float(mx.square(value - other[name]).sum().item()) for name, value in one.items())
    return math.sqrt(apart / sum(float(mx.square(value).sum().item()) for value in one.values()))


def in_groups(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """*items* in order, so many at a time."""
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


# -- the table


def test_every_trap_of_training_is_stated_somewhere() -> None:
    """TR1 to TR20 and CK1 to CK5 are in the table, and each test it names exists."""
    table = re.findall(r"^    (?:([A-Z]{2}\d+)|   )? .*?(?:(test_\w+\.py)::)?(test_\w+)$", __doc__ or "", re.MULTILINE)
    there = {path.name: path.read_text() for path in TESTS.glob("test_*.py")}
    named = {trap for trap, _, _ in table if trap}

    assert {f"TR{number}" for number in range(1, 21)} | {f"CK{number}" for number in range(1, 6)} <= named
    assert len(table) == (__doc__ or "").count(" test_") > 50
    assert [] == [test for _, file, test in table if f"\ndef {test}(" not in there[file or Path(__file__).name]]


# -- what a batch is worth


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("share", [True, False], ids=["shared", "whole"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(model: Any, size: int, share: bool) -> None:
    """TR1, TR12: the sum over rows, however they are put together and padded. A mean of means would be another."""
    worn(model)
    whole = gradients(model, ROWS, share)[1]

    assert distance(whole, summed(model, in_groups(ROWS, size), share)) < 2e-6


@pytest.mark.parametrize("settings", [{}, {"memory_gb": 1e-3}], ids=["at once", "in passes"])
def test_a_step_is_given_the_gradient_of_the_mean(model: Any, settings: dict[str, Any]) -> None:
    """TR12: over the tokens of the batch, in whatever parts it was computed; the mean of the rows' means is another.
    A small scale keeps it short, so that nothing is clipped."""
    run = Run(model, ROWS, ROWS, config(scale=1e-3, **settings), reply_logits(model), Seen())
    moved(model)
    run.method = kept = Kept(run.method)
    run.take_step(list(range(len(ROWS))))
    tokens = [len(row.ids) - row.reply_start for row in ROWS]
    rows = [gradients(model, [row])[1] for row in ROWS]
    mean = {name: sum(row[name] for row in rows) / sum(tokens) for name in rows[0]}
    of_means = {name: sum(row[name] / n for row, n in zip(rows, tokens, strict=True)) / len(rows) for name in rows[0]}

    assert distance(mean, kept.gradients) < 1e-5
    assert distance(mean, of_means) > 0.1


def test_a_steep_step_is_clipped_and_keeps_its_direction(llama: Any) -> None:
    """TR17: a gradient a thousand times as long is cut to one of length 1."""
    llama.lm_head.weight = 1000 * llama.lm_head.weight
    run = Run(llama, ROWS, ROWS, config(), reply_logits(llama), Seen())
    moved(llama)
    run.method = kept = Kept(run.method)
    run.take_step([0, 1, 2, 3])
    steep = gradients(llama, ROWS[:4])[1]
    length = math.sqrt(sum(float(mx.square(value).sum().item()) for value in steep.values()))

    assert length > 100
    assert distance({name: value / length for name, value in steep.items()}, kept.gradients) < 1e-4


@pytest.mark.parametrize("share", [True, False], ids=["shared", "whole"])
def test_tokens_of_no_row_are_in_no_loss(llama: Any, share: bool) -> None:
    """TR20: whatever id pads. Other embeddings for all ids that stand in no row leave the gradient as it is."""
    model = worn(llama)
    expected = gradients(model, ROWS, share)[1]
    weight = np.array(model.model.embed_tokens.weight)
    of_none = np.setdiff1d(np.arange(len(weight)), [token for row in ROWS for token in row.ids])
    weight[of_none] *= -3
    model.model.embed_tokens.weight = mx.array(weight)

    assert 100 < len(of_none)
    assert distance(expected, gradients(model, ROWS, share)[1]) < 1e-7


def test_the_loss_of_half_precision_logits_is_taken_in_float32(llama: Any) -> None:
    """TR15: token by token it is exact to a thousandth, where bfloat16 is off by a hundredth and more. The loss of a
    base in bfloat16 is that of the base in float32, to a hundredth."""
    batch = make_batch(ROWS)
    whole = loss_sum(reply_logits(llama))(llama, batch).item()
    llama.set_dtype(mx.bfloat16)
    logits = reply_logits(llama)
    found = logits(llama, batch)
    exact = np.array(found, np.float64)
    exact = np.log(np.exp(exact - exact.max(1, keepdims=True)).sum(1)) + exact.max(1)
    exact -= np.take_along_axis(np.array(found, np.float64), np.array(batch.targets)[:, None], 1)[:, 0]
    ours = np.array(nn.losses.cross_entropy(found, batch.targets))
    half = np.array(nn.losses.cross_entropy(found.astype(mx.bfloat16), batch.targets).astype(mx.float32))

    assert np.abs(ours - exact).max() < 1e-3 < 1e-2 < np.abs(half - exact).max()
    assert exact.sum() == pytest.approx(loss_sum(logits)(llama, batch).item(), rel=1e-6)
    assert whole == pytest.approx(loss_sum(logits)(llama, batch).item(), rel=1e-2)


# -- epochs


@pytest.mark.parametrize(("size", "most"), [(4, 0.1), (8, 0.15)])
def test_little_of_an_epoch_is_padding(folder: Path, size: int, most: float) -> None:
    """TR3: however the rows are drawn, and less than in any order that looks at no lengths."""
    rows = data(folder).splits["train"]
    lengths = [len(row.ids) for row in rows]

    def padding(batches: Sequence[Sequence[int]]) -> float:
        return 1 - sum(lengths) / sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)

    def mixed(seed: int) -> list[Sequence[int]]:
        return in_groups(random.Random(seed).sample(range(len(rows)), len(rows)), size)

    ours = [padding(buckets(rows, size, random.Random(f"0/{epoch}"))) for epoch in range(5)]
    assert max(ours) < most
    assert sum(ours) / 5 < min(padding(mixed(seed)) for seed in range(5))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_has_every_row_and_batches_of_its_own(folder: Path, llama: Any, variant: str) -> None:
    """TR4: at a standstill an epoch's losses add up to that of all rows; the batches of the next are others."""
    dataset, seen = data(folder, variant), Seen()
    expected = mean_loss(llama, dataset.splits["train"], reply_logits(llama))
    trained(llama, dataset, seen, epochs=2, batch_size=4, learning_rate=STILL)
    epochs = in_groups(seen.steps, 6)

    for steps in epochs:
        assert expected == pytest.approx(sum(s.loss * s.tokens for s in steps) / sum(s.tokens for s in steps), rel=1e-5)
        assert len(dataset.splits["train"]) == sum(step.rows for step in steps) == 24
    first, second = ({(round(step.loss, 4), step.tokens) for step in steps} for steps in epochs)
    assert len(first & second) <= 2


def test_the_same_weights_validate_the_same_all_run_long(folder: Path, model: Any) -> None:
    """TR8: at a standstill every evaluation gives the base's loss over the whole split, to the last bit."""
    dataset, seen = data(folder), Seen()
    found = trained(model, dataset, seen, epochs=1, learning_rate=STILL)

    assert [found.base_loss] * 2 == seen.validations


def test_whoever_watches_is_told_how_much_is_trained_on(folder: Path, llama: Any) -> None:
    """CK5: the replies' tokens beside all that are read: of these rows less than a tenth."""
    dataset, seen = data(folder), Seen()
    trained(llama, dataset, seen, epochs=1)
    rows = dataset.splits["train"]

    assert sum(len(row.ids) - row.reply_start for row in rows) == sum(step.tokens for step in seen.steps)
    assert sum(len(row.ids) for row in rows) == sum(step.read_tokens for step in seen.steps)
    assert 0.01 < sum(step.tokens for step in seen.steps) / sum(step.read_tokens for step in seen.steps) < 0.1


# -- rows


def test_of_a_row_of_turns_the_last_is_trained(tmp_path: Path) -> None:
    """TR7: an earlier reply stands in the prompt, and is the trained one of a row of its own."""
    tiny_dataset(tmp_path, "turns", blocks=4, window=Window(turns=3, characters=200))
    dataset = data(tmp_path, "turns")
    form, rows = dataset.format, dataset.messages["train"]
    longest = max(rows, key=len)
    example = dataset.splits["train"][rows.index(longest)]
    prompt, reply = form.texts(example)
    end_of_turn = form.texts(Example(example.ids[-1:], 0))[1]

    assert ["system", "user", "assistant", "user", "assistant"] == [message["role"] for message in longest]
    assert example.ids[example.reply_start :] == make_batch([example]).targets.tolist()
    assert longest[-1]["content"] + end_of_turn == reply
    assert longest[2]["content"] + end_of_turn in prompt
    assert longest[:3] in rows


def test_a_prompt_of_one_token_has_a_loss(folder: Path, llama: Any) -> None:
    """TR5: cut to as little as predicts the reply, every loss is a number and every reply is whole."""
    whole = data(folder)
    replies = [row.ids[row.reply_start :] for row in whole.splits["train"]]
    dataset = data(folder, max_tokens=max(map(len, replies)) + 1)
    seen = Seen()
    trained(llama, dataset, seen, epochs=1)

    assert replies == [row.ids[row.reply_start :] for row in dataset.splits["train"]]
    assert 1 == min(row.reply_start for row in dataset.splits["train"])
    assert all(math.isfinite(step.loss) for step in seen.steps) and math.isfinite(seen.validations[-1])


# -- what training leaves alone


def test_no_class_is_changed_by_training(folder: Path, model: Any) -> None:
    """TR13: a model loaded later in this process is a plain one."""
    classes = {type(module) for _, module in model.named_modules()}
    calls = {kind: kind.__call__ for kind in classes}
    ids = mx.array([[7, 8, 9]])
    before = model(ids)
    trained(model, data(folder), iters=2)
    later = load_base(str(folder / model.model_type)).model

    assert calls == {kind: kind.__call__ for kind in classes}
    assert classes == {type(module) for _, module in later.named_modules()}
    assert mx.array_equal(before, later(ids))


def test_nothing_of_mlx_lms_trainer_is_used() -> None:
    """TR14, TR19: neither its loop nor its datasets, nor what they set for a whole process."""
    for path in [*ROOT.glob("training/*.py"), *ROOT.glob("training/methods/*.py"), *ROOT.glob("base_model/*.py")]:
        assert [] == [name for name in used(ast.parse(path.read_text())) if name in NOT_OURS], path


NOT_OURS = {
    "mlx_lm.lora", "mlx_lm.tuner.trainer", "mlx_lm.tuner.datasets", "mlx_lm.tuner.callbacks", "trainer", "train_model",
    "grad_checkpoint", "set_wired_limit", "clear_cache", "set_cache_limit",
}  # fmt: skip


def used(tree: ast.AST) -> Iterator[str]:
    """Every module, name and attribute that a file speaks of."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                yield from [module, *(f"{module}.{one.name}" for one in names)]
            case ast.Import(names=names):
                yield from [one.name for one in names]
            case ast.Attribute(attr=name) | ast.Name(id=name):
                yield name


def test_a_base_that_was_not_frozen_is(folder: Path, model: Any) -> None:
    """TR18: what is exported is the adapter's tensors and no other, and the base is as it was."""
    shapes = projections(model)
    before = dict(tree_flatten(model.parameters()))
    model.unfreeze()
    found = trained(model, data(folder), iters=2)
    after = {name.replace(".linear.", "."): value for name, value in tree_flatten(model.parameters())}

    assert expected_tensors(tuple(found.exported.modules), shapes, 4) == {
        name: value.shape for name, value in found.exported.weights.items()
    }
    assert all(mx.array_equal(value, after[name]) for name, value in before.items())


def test_dropout_is_off_wherever_it_is_measured(folder: Path, llama: Any) -> None:
    """LD7: the best loss is that of the model one is left with, which gives the same logits twice."""
    dataset = data(folder)
    found = trained(llama, dataset, iters=6, dropout=0.5)
    ids = mx.array([[7, 8, 9]])

    assert found.position.best_step > 0
    assert found.position.best_loss == mean_loss(llama, dataset.splits["valid"], reply_logits(llama))
    assert mx.array_equal(llama(ids), llama(ids))


# -- resuming


@pytest.mark.parametrize("rank", [4, 16])
def test_the_weights_of_an_adapter_are_no_checkpoint(folder: Path, tmp_path: Path, llama: Any, rank: int) -> None:
    """TR11: a file that names no run is refused, whether or not its tensors would fit."""
    path = tmp_path / "adapters.safetensors"
    exported = trained(llama, data(folder), iters=1, rank=rank).exported
    mx.save_safetensors(str(path), exported.weights, {"format": "mlx"})
    fresh = load_base(str(folder / "llama")).model

    with pytest.raises(TrainingStopped, match="belongs to another config and dataset and base: start without --resume"):
        finetune(fresh, data(folder), config(iters=1), Seen(), path, resume=True)


# -- config keys


def test_settings_of_other_programs_are_refused_by_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CK1: all at once, each with the setting that is meant; exit code 1, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    settings = {"name": "jo", "data": "d", "lora_layers": 16, "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.1}
    (tmp_path / "jo.yaml").write_text(yaml.safe_dump(settings))

    assert 1 == main(["train", "jo.yaml", "--adapters", "store"])
    said = capsys.readouterr().err
    meant = {"layers": "'layers'", "rank": "'rank'", "alpha": "'scale', which is alpha / rank", "dropout": "'dropout'"}
    for key, setting in meant.items():
        assert f"unknown key 'lora_{key}': did you mean {setting}?" in said
    assert ["jo.yaml"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("layers", [1, LAYERS, 10**9, "all"])
def test_the_layers_that_are_written_down_are_those_there_are(llama: Any, layers: int | str) -> None:
    """CK4, LD4: never more than the model has, so that mlx-lm covers the same ones."""
    adapter, modules = choose_layers(llama, config(layers=layers))
    blocks = {module.split(".")[2] for module in modules}

    assert len(blocks) == adapter.num_layers == (1 if layers == 1 else LAYERS)


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layers_are_not_all_layers(layers: int) -> None:
    """CK4, LD4: mlx-lm takes both for every layer."""
    with pytest.raises(ConfigRefused) as refused:
        config(layers=layers)
    assert ["layers: at least 1, or all"] == refused.value.details


# -- bases of other precision


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_base_of_any_bit_width_is_trained(folder: Path, llama: Any, bits: int) -> None:
    """QB2: tensors are of the layers' sizes, not of their packed weights', and the packed weights stay."""
    shapes = projections(llama)
    nn.quantize(llama, group_size=32, bits=bits)
    packed = llama.model.layers[0].mlp.down_proj.weight
    found = trained(llama, data(folder), iters=1)

    assert expected_tensors(tuple(found.exported.modules), shapes, 4) == {
        name: value.shape for name, value in found.exported.weights.items()
    }
    assert mx.array_equal(packed, llama.model.layers[0].mlp.down_proj.linear.weight)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bfloat16", "float16"])
def test_an_adapter_is_float32_whatever_its_base(folder: Path, llama: Any, dtype: mx.Dtype) -> None:
    """QB3: while it is trained and as it is exported; the base keeps its type."""
    llama.set_dtype(dtype)
    found = trained(llama, data(folder), iters=2)

    assert {mx.float32} == {value.dtype for value in found.exported.weights.values()}
    assert {dtype, mx.float32} == {value.dtype for _, value in tree_flatten(llama.parameters())}
    assert all(math.isfinite(loss) for _, loss in found.position.losses)
