"""``training configs``: one config for each cell that can be trained on; what cannot is left out by name."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from errors import ConfigRefused, DataRefused
from tests.tiny import files_in, tiny_dataset, tiny_model
from tests.toy_tokenizers import CHATML, ROOT, byte_level
from training.__main__ import main
from training.built_variants import find_variants
from training.config import METHODS, load_config
from training.configs import Made, adapter_name, make_configs
from training.grid import GRID, load_grid

HUB = "nobody/nothing-350M"
NOT_BUILT = [f"{variant}: not built" for variant in ("raw_style_variable", "category_aware")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one with the same tokenizer and another template, and datasets of two variants for the first."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model(folder / "model")
    tiny_model(folder / "other")
    byte_level(CHATML + " ").save_pretrained(folder / "other")
    for variant in ("raw_style", "turns"):
        tiny_dataset(folder / "personal", variant, blocks=4)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a command: links to the models, a copy of the data; the process is left as it was."""
    before = os.umask(0o022)
    environment = dict(os.environ)
    for name in ("model", "other"):
        (tmp_path / name).symlink_to(made / name)
    shutil.copytree(made / "personal", tmp_path / "personal")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.umask(before)
    os.environ.clear()
    os.environ.update(environment)


def a_grid(*models: str, **settings: Any) -> Path:
    """grid.yaml with *models*, each with the same *settings*."""
    path = Path("grid.yaml")
    path.write_text(yaml.safe_dump({"settings": settings, "models": [{"model": model} for model in models]}))
    return path


def configs_of(*models: str, data: str = "personal", name: str | None = None) -> Made:
    return make_configs(Path(data), Path("configs"), a_grid(*models), name)


def written() -> list[str]:
    return sorted(path.name for path in Path("configs").iterdir())


def files_of(*models: str, variants: Sequence[str] = ("raw_style", "turns")) -> list[str]:
    """The configs of *models* x methods x *variants*."""
    return sorted(
        f"jo-{model}-{method}-{variant}.yaml" for model in models for method in METHODS for variant in variants
    )


def rewrite(file: str, text: str) -> None:
    """Put *text* into a file of raw_style, and its digest into dataset.json, as a build would have."""
    folder = Path("personal/raw_style")
    (folder / file).write_text(text)
    summary = json.loads((folder / "dataset.json").read_text())
    summary["sha256"][file] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(summary))


# -- the grid that is written


def test_each_cell_is_a_config_of_its_own() -> None:
    """Models x methods x variants that hold data, named after all three; nothing else is in the folder."""
    tiny_model(Path("second"), kind="lfm2")
    made = configs_of("model", "second")
    files = files_of("model", "second")

    assert files == written() == sorted(cell.file for cell in made.cells)
    assert 2 * len(METHODS) * 2 == len(files) and ["written"] * len(files) == made.states


def test_a_config_says_what_the_grid_says() -> None:
    """It is a strict config like any other: `train` loads it, and what the grid leaves out is the usual."""
    make_configs(Path("personal"), Path("configs"), a_grid("model", rank=4, learning_rate="3e-4", iters=7))
    config = load_config(Path("configs/jo-model-lora-turns.yaml"))

    assert ("model", Path("personal/turns"), "lora") == (config.model, config.data, config.method)
    assert (4, 3e-4, 7, None) == (config.rank, config.learning_rate, config.iters, config.epochs)
    assert (8, 512) == (config.batch_size, config.max_tokens)


def test_a_models_own_settings_win() -> None:
    """Over those of the whole grid."""
    grid = {"settings": {"rank": 4, "seed": 3}, "models": [{"model": "model", "short": "m.1", "rank": 32}]}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    cell = make_configs(Path("personal"), Path("configs"), Path("grid.yaml")).cells[0]

    assert ("jo-m.1-lora-raw_style", 32, 3) == (cell.config.name, cell.config.rank, cell.config.seed)


def test_a_method_may_want_another_learning_rate() -> None:
    """It is the model's, times what the grid says of the method; once, wherever the rate itself stands."""
    (method, *others) = METHODS
    grid = {"learning_rate_times": {method: 0.3}, "models": [{"model": "model", "learning_rate": "1e-4"}]}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    make_configs(Path("personal"), Path("configs"), Path("grid.yaml"))
    rates = {load_config(path).method: load_config(path).learning_rate for path in Path("configs").iterdir()}

    assert {method: 3e-5, **dict.fromkeys(others, 1e-4)} == rates


def test_a_method_that_a_models_settings_rule_out_is_left_out_by_name() -> None:
    """PiSSA doubles the rank, and GaLore has no dropout; the other methods are written."""
    model = {"model": "model", "short": "m", "rank": 200, "dropout": 0.1}
    Path("grid.yaml").write_text(yaml.safe_dump({"models": [model]}))
    made = make_configs(Path("personal"), Path("configs"), Path("grid.yaml"))

    assert {"lora", "dora", "rslora", "lora-plus"} == {cell.config.method for cell in made.cells}
    assert [["model x pissa"], ["model x galore"]] == [line.split(":")[:1] for line in made.left_out[-2:]]


def test_the_shipped_grid_has_the_starter_and_the_lfm2_line() -> None:
    """Each with a learning rate, a batch size and a rank of its own."""
    models = load_grid(GRID)

    assert [
        "base_model/starter",
        "LiquidAI/LFM2-350M",
        "LiquidAI/LFM2-700M",
        "LiquidAI/LFM2-1.2B",
        "LiquidAI/LFM2-2.6B",
    ] == [model.model for model in models]
    assert all({"rank", "learning_rate", "batch_size"} <= set(model.settings) for model in models)


def test_configs_are_for_their_owner_alone() -> None:
    """They carry a person's name."""
    configs_of("model")

    assert {0o600} == {path.stat().st_mode & 0o777 for path in Path("configs").iterdir()}


def test_rows_are_counted_in_the_files() -> None:
    """Not taken from what dataset.json says of them."""
    made = configs_of("model")
    lines = {split: len(Path(f"personal/turns/{split}.jsonl").read_text().splitlines()) for split in made.cells[1].rows}

    assert lines == made.cells[1].rows


@pytest.mark.parametrize("data", ["personal/turns", "renamed"])
def test_the_folder_of_one_variant(home: Path, data: str) -> None:
    """It is taken alone, whatever its name; of the others nothing is said."""
    (home / "renamed").symlink_to("personal/turns")
    made = configs_of("model", data=data)

    assert files_of("model", variants=["turns"]) == written()
    assert [] == made.left_out


def test_one_variant_in_two_folders(home: Path) -> None:
    """The folder that has its name counts; the copy is named."""
    shutil.copytree("personal/turns", "personal/a copy")
    made = configs_of("model")

    assert {Path("personal/raw_style"), Path("personal/turns")} == {cell.config.data for cell in made.cells}
    assert [*NOT_BUILT, "a copy: holds the variant turns, as turns does"] == made.left_out


# -- what is there already


def test_an_edited_config_stays() -> None:
    """It is said to be kept; the others are unchanged, and one that was deleted is written again."""
    tiny_model(Path("second"))
    first = configs_of("model", "second")
    edited, deleted = Path("configs") / first.cells[0].file, Path("configs") / first.cells[1].file
    edited.write_text(edited.read_text() + "gate: {max_valid_ratio: 0.9}\n")
    mine = edited.read_bytes()
    deleted.unlink()
    again = configs_of("model", "second")

    others = len(first.cells) - 2
    assert ["kept", "written", *["unchanged"] * others] == again.states
    assert mine == edited.read_bytes() and deleted.is_file()
    assert f"{len(first.cells)} configs: 1 written, {others} unchanged, 1 kept" in again.lines()


def test_nothing_is_written_over_a_link_or_a_folder() -> None:
    """Whatever has the name of a config stays."""
    Path("configs").mkdir()
    Path("configs/jo-model-lora-raw_style.yaml").mkdir()
    Path("configs/jo-model-lora-turns.yaml").symlink_to("nowhere")

    assert 2 == configs_of("model").states.count("kept")
    assert Path("configs/jo-model-lora-turns.yaml").is_symlink()


# -- variants without data


def _no_summary(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def _no_train(folder: Path) -> None:
    (folder / "train.jsonl").unlink()


def _empty_train(folder: Path) -> None:
    (folder / "train.jsonl").write_text("")


def _no_rows(folder: Path) -> None:
    rewrite("train.jsonl", "")
    rewrite("valid.jsonl", "\n\n")


def _other_rows(folder: Path) -> None:
    (folder / "test.jsonl").write_bytes((folder / "test.jsonl").read_bytes() + b"{}\n")


def _damaged(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"contract": ')


def _other_version(folder: Path) -> None:
    summary = json.loads((folder / "dataset.json").read_text())
    summary["contract"] |= {"window": "my pin is 4711", "my pin is 4711": 1}
    (folder / "dataset.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (shutil.rmtree, "not built"),
        (_no_summary, "no dataset.json: has to be built again"),
        (_no_train, "has to be built again: train.jsonl is missing"),
        (
            _empty_train,
            "has to be built again: train.jsonl is not the file that dataset.json describes, 0 train rows",
        ),
        (_no_rows, "has to be built again: 0 train rows, 0 valid rows"),
        (_other_rows, "has to be built again: test.jsonl is not the file that dataset.json describes"),
        (_damaged, "has to be built again: dataset.json is damaged or of another version"),
        (_other_version, "has to be built again: dataset.json is damaged or of another version"),
    ],
    ids=["absent", "no summary", "no train", "empty train", "no rows", "other rows", "damaged", "other version"],
)
def test_a_variant_without_data_is_left_out_by_name(spoil: Callable[[Path], None], why: str) -> None:
    """With the reason; the variant that holds data is in the grid all the same."""
    spoil(Path("personal/raw_style"))
    made = configs_of("model")

    assert files_of("model", variants=["turns"]) == written()
    assert [f"raw_style: {why}", *NOT_BUILT] == made.left_out


def test_a_folder_that_is_no_variant() -> None:
    """It is named, for it may be one that was spoilt; what a build is writing is not."""
    Path("personal/pictures").mkdir()
    Path("personal/.staging-turns-1").mkdir()

    assert [*NOT_BUILT, "pictures: no dataset.json: has to be built again"] == find_variants(Path("personal"))[1]


def test_no_variant_is_left() -> None:
    """Every reason is said at once, and nothing is written."""
    _no_train(Path("personal/raw_style"))
    _damaged(Path("personal/turns"))
    with pytest.raises(DataRefused, match="no variant in 'personal' can be trained on") as refused:
        configs_of("model")

    assert [
        "raw_style: has to be built again: train.jsonl is missing",
        *NOT_BUILT,
        "turns: has to be built again: dataset.json is damaged or of another version",
    ] == refused.value.details
    assert not Path("configs").exists()


def test_no_folder_at_all() -> None:
    """The message says how to get one."""
    with pytest.raises(DataRefused, match="no folder 'absent': run `python -m training build` first"):
        configs_of("model", data="absent")


# -- models


def test_a_model_on_disk_that_the_data_does_not_fit() -> None:
    """It is left out, variant by variant, and what to do is said."""
    made = configs_of("model", "other")
    why = "the data was built for another chat template: build with --model other first"

    assert files_of("model") == written()
    assert [*NOT_BUILT, f"other x raw_style: {why}", f"other x turns: {why}"] == made.left_out


def test_another_tokenizer() -> None:
    """It is told from another template."""
    tiny_model(Path("third"))
    byte_level(merges=(("h", "e"),)).save_pretrained("third")

    why = "the data was built for another tokenizer: build with --model third first"
    assert f"third x turns: {why}" in configs_of("model", "third").left_out


def test_a_model_that_is_not_there_or_not_whole() -> None:
    """Each is left out with all that is wrong with it."""
    tiny_model(Path("half"))
    for name in ("config.json", "model.safetensors"):
        (Path("half") / name).unlink()
    *_, absent, half = configs_of("model", "./absent", "half").left_out

    assert absent.startswith("./absent: no model at './absent': give the path of a folder")
    assert half.startswith("half: the model in 'half' cannot be used: config.json is missing, there is no model*.safe")


def test_no_model_fits() -> None:
    """Nothing is written, and all reasons are said: those of the models and those of the variants."""
    with pytest.raises(DataRefused, match="no model of 'grid.yaml' fits the data in 'personal'") as refused:
        configs_of("other", "./absent")

    assert ["raw_style_variable", "category_aware", "other x raw_style", "other x turns", "./absent"] == [
        detail.partition(":")[0] for detail in refused.value.details
    ]
    assert not Path("configs").exists()


def test_a_hub_model_that_is_not_here() -> None:
    """It gets its configs; that nothing was checked is said, and what the data is known to fit."""
    made = configs_of("model", HUB)

    assert "jo-nothing-350m-lora-turns.yaml" in written()
    assert [
        f"{HUB} is not on this machine, so it was not checked that the data fits it (it fits model): "
        f"build with --model {HUB} first, unless you did"
    ] == made.notes


def test_a_hub_model_that_is_here_is_checked(home: Path) -> None:
    """One that was downloaded before is as good as a folder; half a download is not."""
    for name, source in (("fits", "model"), ("other", "other"), ("half", "model")):
        cached = home / "hub" / "hub" / f"models--tiny--{name}"
        shutil.copytree(home / source, cached / "snapshots" / "1")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("1")
    (home / "hub/hub/models--tiny--half/snapshots/1/model.safetensors").unlink()
    arguments = ["configs", "personal", "--grid", str(a_grid("tiny/fits", "tiny/other", "tiny/half", "a/b--c"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(home / "hub")}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-m", "training", *arguments], env=environment, capture_output=True, text=True, check=True
    )

    assert {"fits", "half"} == {name.split("-")[1] for name in written()}
    assert "left out: tiny/other x turns: the data was built for another chat template: build with" in done.stdout
    assert "left out: a/b--c: no folder of that name, and no hub id either\n" in done.stdout
    assert "note: tiny/half is not on this machine" in done.stdout and "note: tiny/fits" not in done.stdout


# -- names of adapters


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ("Jo", "jo-m-lora-turns"),
        ("Jo Varga", "jo-varga-m-lora-turns"),
        ("Zoë d’Été", "zoe-d-ete-m-lora-turns"),
        ("Groß", "gross-m-lora-turns"),
        ("..jo_2.", "jo_2-m-lora-turns"),
        ("x" * 100, "x" * 51 + "-m-lora-turns"),
        ("x" * 50 + " y", "x" * 50 + "-m-lora-turns"),
    ],
)
def test_a_name_that_adapters_may_have(person: str, name: str) -> None:
    """Small letters without accents, at most 64 in all; the person's part is what gives way."""
    assert name == adapter_name(person, "m", "lora", "turns")


@pytest.mark.parametrize("person", ["", "日本", "😀", "--"])
def test_a_person_without_a_letter_for_it(person: str) -> None:
    """The option that helps is named."""
    with pytest.raises(ConfigRefused, match="give one with --name"):
        configs_of("model", name=person)
    assert not Path("configs").exists()


# -- grids


@pytest.mark.parametrize(
    ("grid", "faults"),
    [
        (
            {
                "settings": {"lora_rank": 8, "name": "jo", "model": "x"},
                "models": [{"model": "a/m", "learnin_rate": 1}, {"model": "b/m", "rank": 0, "data": "d"}],
            },
            [
                "settings: 'model' cannot be said here",
                "settings: 'name' cannot be said here",
                "settings: unknown key 'lora_rank': did you mean 'rank'?",
                "a/m: unknown key 'learnin_rate': did you mean 'learning_rate'?",
                "b/m: 'data' cannot be said here",
                "b/m: rank: Input should be greater than or equal to 1",
                "2 models are called 'm': give each a short of its own",
            ],
        ),
        (
            {"settings": {"epochs": 1}, "models": [{"model": "m", "iters": 1}]},
            ["m: epochs and iters: give one of them"],
        ),
        ({"models": [{"short": "x"}, {"model": "m", "short": "A b"}]}, ["models.0.model: ", "models.1.short: "]),
        (
            {"learning_rate_times": {"loro": 2}, "models": [{"model": "m"}]},
            ["learning_rate_times: no method 'loro'; there are: lora, "],
        ),
        ({"learning_rate_times": {"lora": 0}, "models": [{"model": "m"}]}, ["learning_rate_times.lora: Input should"]),
        ({"models": []}, ["models: List should have at least 1 item"]),
        ({"model": "m"}, ["models: Field required", "model: Extra inputs are not permitted"]),
        ([1], ["grid: Input should be"]),
    ],
    ids=["settings", "two lengths", "entries", "no such method", "no rate", "no models", "no grid", "a list"],
)
def test_a_grid_that_cannot_be(grid: Any, faults: list[str]) -> None:
    """Every fault is named at once, with the model it is of."""
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(ConfigRefused, match="'grid.yaml' is a grid that cannot be") as refused:
        load_grid(Path("grid.yaml"))

    assert len(faults) == len(refused.value.details)
    assert [] == [
        (fault, found)
        for fault, found in zip(faults, refused.value.details, strict=True)
        if not found.startswith(fault)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no grid 'grid.yaml': copy training/grid.yaml and edit it"),
        (b"models: [", "'grid.yaml' is not readable YAML"),
        (b"models: 2026-13-45", "'grid.yaml' is not readable YAML"),
        (b"\xff\xfe\x00", "'grid.yaml' is not readable YAML"),
        (b"a: " + b"[" * 1000, "'grid.yaml' is not readable YAML"),
        (b"", "'grid.yaml' is a grid that cannot be"),
    ],
    ids=["absent", "cut off", "no such date", "not UTF-8", "deep", "empty"],
)
def test_a_file_that_is_no_grid(content: bytes | None, message: str) -> None:
    """It is refused by its name."""
    if content is not None:
        Path("grid.yaml").write_bytes(content)
    with pytest.raises(ConfigRefused, match=message):
        load_grid(Path("grid.yaml"))


# -- the command


def test_the_command_prints_the_grid(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each config with its rows, then what was left out and what was not checked."""
    rows = find_variants(Path("personal"))[0][0].rows
    code = main(["configs", "personal", "--grid", str(a_grid("model", HUB)), "--name", "Al", "-o", "out"])
    lines = capsys.readouterr().out.splitlines()
    numbers = [f"{rows[split]}" for split in ("train", "valid", "test")]

    assert 0 == code
    assert ["config", "train", "valid", "test"] == lines[0].split()
    assert ["out/al-model-lora-raw_style.yaml", *numbers, "written"] == lines[1].split()
    *_, total, first, second, note = lines
    count = len(lines) - 5
    assert (f"{count} configs: {count} written", 4 * len(METHODS)) == (total, count)
    assert [f"left out: {line}" for line in NOT_BUILT] == [first, second]
    assert note.startswith(f"note: {HUB} is not on this machine")


def test_the_command_refuses_without_writing(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """Exit code 1; no word of what stands in a damaged file."""
    shutil.rmtree("personal/turns")
    _other_version(Path("personal/raw_style"))
    grid = a_grid("model")
    before = files_in(home)

    assert 1 == main(["configs", "personal", "--grid", str(grid)])
    said = capsys.readouterr()
    assert "error [empty_dataset]: no variant in 'personal' can be trained on" in said.err
    assert "4711" not in said.out + said.err
    assert before == files_in(home) and not Path("configs").exists()
