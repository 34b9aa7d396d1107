"""The training config: what it takes, and that what it does not take is named with the nearest thing that it does."""

from pathlib import Path
from typing import Any

import pytest

from errors import ConfigRefused
from training.config import TrainConfig, load_config, parse_config

LEAST = {"name": "jo", "data": "data/personal/raw_style"}
INTERFACE = """
name: jo
model: base_model/starter          # path or hub id
data: data/personal/raw_style_variable
method: lora
rank: 8
scale: 2.0                         # alpha / rank
modules: all
layers: all
dropout: 0.0
learning_rate: 1.0e-4
schedule: {warmup: 0.05, decay: cosine}
batch_size: 8
epochs: 3                          # or iters
max_tokens: 512
prompt_loss_weight: 0.0
early_stopping: {patience: 3, evaluations_per_epoch: 4}
seed: 0
gate: {max_valid_ratio: 1.0}
"""


def faults(**settings: Any) -> list[str]:
    """What is said of these settings, beside the ones that must be there."""
    with pytest.raises(ConfigRefused, match="'jo.yaml' has settings that cannot be") as refused:
        parse_config({**LEAST, **settings}, "jo.yaml")
    return refused.value.details


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "jo.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_config_of_the_interface_is_all_defaults(tmp_path: Path) -> None:
    """Each setting it names has there the value that leaving it out gives."""
    config = load_config(written(tmp_path, INTERFACE))
    least = parse_config({**LEAST, "data": "data/personal/raw_style_variable", "epochs": 3}, "jo.yaml")

    assert least == config


def test_the_examples_config_is_one() -> None:
    """data/example/jo.yaml is what `make demo` trains with."""
    path = Path(__file__).resolve().parents[1] / "data" / "example" / "jo.yaml"

    assert "jo" == load_config(path).name


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lora_layers", "did you mean 'layers'?"),
        ("lora_rank", "did you mean 'rank'?"),
        ("lora_alpha", "did you mean 'scale', which is alpha / rank?"),
        ("alpha", "did you mean 'scale', which is alpha / rank?"),
        ("r", "did you mean 'rank'?"),
        ("lora_dropout", "did you mean 'dropout'?"),
        ("learnin_rate", "did you mean 'learning_rate'?"),
        ("num_layers", "did you mean 'layers'?"),
        ("max_seq_length", "did you mean 'max_tokens'?"),
        ("iterations", "did you mean 'iters'?"),
        ("Rank", "did you mean 'rank'?"),
        ("grad_checkpoint", "there are: name, model, data, method, rank, "),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, meant: str) -> None:
    """Where none is near, all are named."""
    (fault,) = faults(**{key: 8})

    assert fault.startswith(f"unknown key '{key}': {meant}")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"schedule": {"warm_up": 0.1}}, "unknown key 'schedule.warm_up': did you mean 'warmup'?"),
        ({"early_stopping": {"patients": 3}}, "unknown key 'early_stopping.patients': did you mean 'patience'?"),
        ({"gate": {"rank": 1}}, "unknown key 'gate.rank': there are: max_valid_ratio"),
    ],
    ids=["schedule", "early_stopping", "gate"],
)
def test_an_unknown_key_inside_a_setting_is_named_with_its_place(settings: dict[str, Any], fault: str) -> None:
    """The nearest is looked for among its neighbours."""
    assert [fault] == faults(**settings)


def test_every_fault_is_named_at_once() -> None:
    """Nobody should mend four things in four tries."""
    found = faults(lora_rank=8, learning_rate=-1, batch_size="many", schedule={"decay": "linear"}, name="Jo Varga")

    assert 5 == len(found)
    assert ["name", "learning_rate", "schedule.decay", "batch_size", "unknown key 'lora_rank'"] == [
        fault.partition(":")[0] for fault in found
    ]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"rank": 257}, "rank: Input should be less than or equal to 256"),
        ({"rank": 2.5}, "rank: Input should be a valid integer, got a number with a fractional part"),
        ({"scale": 0}, "scale: Input should be greater than 0"),
        ({"dropout": 1}, "dropout: Input should be less than 1"),
        ({"learning_rate": float("nan")}, "learning_rate: Input should be a finite number"),
        (
            {"learning_rate": "fast"},
            "learning_rate: Input should be a valid number, unable to parse string as a number",
        ),
        ({"layers": 0}, "layers: at least 1, or all"),
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
        ({"iters": 0}, "iters: Input should be greater than or equal to 1"),
        ({"epochs": 1, "iters": 10}, "epochs and iters: give one of them"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"max_tokens": 8}, "max_tokens: Input should be greater than or equal to 32"),
        (
            {"method": "adalora"},
            "method: Input should be 'lora', 'dora', 'rslora', 'pissa', 'lora-plus' or 'galore'",
        ),
        ({"method": "pissa", "rank": 129}, "rank: at most 128 with method pissa, whose adapter has twice the rank"),
        (
            {"method": "galore", "dropout": 0.1},
            "dropout: 0 with method galore, which trains the weights themselves: no adapter to drop out",
        ),
        ({"name": "../jo"}, "name: String should match pattern '^[a-z0-9][a-z0-9._-]{0,63}$'"),
        ({"name": "jo\n"}, "name: String should match pattern '^[a-z0-9][a-z0-9._-]{0,63}$'"),
    ],
    ids=str,
)
def test_values_that_are_refused(settings: dict[str, Any], fault: str) -> None:
    """The message names the setting and its limit."""
    assert [fault] == faults(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"method": "pissa", "rank": 128}, {"method": "lora", "rank": 256}, {"method": "dora", "dropout": 0.1}],
    ids=str,
)
def test_what_is_refused_of_one_method_is_taken_of_another(settings: dict[str, Any]) -> None:
    """And up to the limit."""
    assert settings["method"] == parse_config({**LEAST, **settings}, "jo.yaml").method


@pytest.mark.parametrize("missing", ["name", "data"])
def test_what_a_config_must_say(missing: str) -> None:
    """Whose adapter it is, and which dataset it learns from."""
    with pytest.raises(ConfigRefused) as refused:
        parse_config({key: value for key, value in LEAST.items() if key != missing}, "jo.yaml")
    assert [f"{missing}: Field required"] == refused.value.details


@pytest.mark.parametrize("setting", ["rank", "scale", "layers", "seed", "schedule.warmup", "early_stopping.patience"])
@pytest.mark.parametrize("value", [True, False])
def test_yes_and_no_are_no_numbers(setting: str, value: bool) -> None:
    """YAML reads `rank: yes` as true, which would pass for 1."""
    part, _, name = setting.rpartition(".")
    given = {part: {name: value}} if part else {name: value}

    with pytest.raises(ConfigRefused) as refused:
        parse_config({**LEAST, **given}, "jo.yaml")
    assert [f"{setting}: Value error, a number or a name is wanted, not yes or no"] == refused.value.details


@pytest.mark.parametrize(("text", "rate"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("2E-3", 2e-3), ("0.01", 0.01)])
def test_a_rate_is_a_number_however_it_is_written(tmp_path: Path, text: str, rate: float) -> None:
    """YAML 1.1 reads 1e-4, without a point, as text."""
    path = written(tmp_path, f"name: jo\ndata: d\nlearning_rate: {text}\nschedule: {{warmup: 1e-1}}\n")
    config = load_config(path)

    assert (rate, 0.1) == (config.learning_rate, config.schedule.warmup)


@pytest.mark.parametrize("name", ["007", "1e5", "nan", "inf", "0.5"])
def test_a_name_may_look_like_a_number(name: str) -> None:
    """It stays as it was written."""
    assert name == parse_config({**LEAST, "name": name}, "jo.yaml").name


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, 18), ({"epochs": 1}, 6), ({"epochs": 0.1}, 1), ({"iters": 7}, 7), ({"batch_size": 100}, 3)],
    ids=str,
)
def test_how_many_steps_a_run_has(settings: dict[str, Any], steps: int) -> None:
    """Three epochs where nothing is said, at least one step; 41 rows in batches of 8 are six, the last of one row."""
    assert steps == parse_config({**LEAST, **settings}, "jo.yaml").steps(41)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: [jo", "'.*jo.yaml' is not readable YAML"),
        ("name: 2026-13-45", "'.*jo.yaml' is not readable YAML"),
        ("a: " + "[" * 1000, "'.*jo.yaml' is not readable YAML"),
        (b"\xff\xfe\x00", "'.*jo.yaml' is not readable YAML"),
        ("name: !!python/object/apply:os.system ['exit 1']", "'.*jo.yaml' is not readable YAML"),
        ("", "'.*jo.yaml' is not a list of settings"),
        ("just words", "'.*jo.yaml' is not a list of settings"),
        ("- name: jo", "'.*jo.yaml' is not a list of settings"),
        ("1: 2", "'.*jo.yaml' has settings that cannot be"),
    ],
    ids=["cut off", "no such date", "deep", "not UTF-8", "code", "empty", "words", "a list", "a number as key"],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: str | bytes, message: str) -> None:
    """It is refused by its name."""
    with pytest.raises(ConfigRefused, match=message):
        load_config(written(tmp_path, content))


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    """The message says where to find one."""
    with pytest.raises(ConfigRefused, match="no config '.*absent.yaml': write one, or see data/example/jo.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_a_config_survives_the_way_into_a_manifest() -> None:
    """As JSON and back it is the same: `training evaluate` reads it from there."""
    config = parse_config({**LEAST, "modules": ["q_proj"], "layers": 2, "iters": 5}, "jo.yaml")

    assert config == TrainConfig.model_validate_json(config.model_dump_json())
