"""Adapters that were trained elsewhere: PEFT's folder and mlx-lm's, converted exactly, or refused by name."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_unflatten
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import save_file

from base_model.load import Base, load_base, projections
from errors import AdapterRefused, ConfigRefused, DataRefused, Refused
from prompt_format.adapter_check import check_adapter
from prompt_format.adapter_store import current, names, read_generation
from prompt_format.chat_template import ChatTemplate
from prompt_format.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest, read_manifest
from prompt_format.probe import PROBE_LOGITS, probe_prompt
from prompt_format.variants import DEFAULT_WINDOWS
from tests.tiny import files_in, tiny_model
from training.__main__ import main
from training.adopt import adopt
from training.previous import put_on, read

Json = dict[str, Any]
Arrays = dict[str, np.ndarray]
IDS = [[5, 9, 200, 31, 7, 7, 90]]
RANK, ALPHA = 4, 6
KINDS = ("llama", "lfm2")
# What PEFT writes into every folder. The path is of nobody's computer.
TOLD: Json = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "/somewhere/model", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": ALPHA, "lora_bias": False, "lora_dropout": 0.1, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.18.0",
    "qalora_group_size": 16, "r": RANK, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(tiny_model(folder / kind, kind)) for kind in KINDS}


@pytest.fixture
def model(models: dict[str, str]) -> str:
    return models["llama"]


def on(base: Base, targets: list[str], blocks: tuple[int, ...] = (0, 1)) -> list[str]:
    """The paths of the layers that are named so in *blocks*."""
    return [
        path
        for path in projections(base.model)
        if path.endswith(tuple(targets)) and any(f".{block}." in path for block in blocks)
    ]


def factors(base: Base, modules: list[str], seed: int = 0) -> Arrays:
    """PEFT's A (rank, inputs) and B (outputs, rank) of *modules*: <module>.A and <module>.B."""
    random, shapes, found = np.random.default_rng(seed), projections(base.model), {}
    for module in modules:
        inputs, outputs = shapes[module]
        found[f"{module}.A"] = random.normal(0, 0.3, (RANK, inputs)).astype(np.float32)
        found[f"{module}.B"] = random.normal(0, 0.3, (outputs, RANK)).astype(np.float32)
    return found


PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "m": "lora_magnitude_vector"}


def peft_name(name: str) -> str:
    module, _, part = name.rpartition(".")
    return f"base_model.model.{module}.{PARTS[part]}"


def peft_folder(folder: Path, arrays: Arrays, **told: Any) -> Path:
    """A folder as PEFT saves it; *arrays* have names as ``factors`` gives them, or PEFT's own."""
    folder.mkdir(mode=0o700)
    named = {peft_name(name) if name.rpartition(".")[2] in PARTS else name: value for name, value in arrays.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({**TOLD, **told}, indent=2))
    (folder / "README.md").write_text("a stranger")
    return folder


def logits(model: Any, ids: list[list[int]] = IDS) -> np.ndarray:
    return np.array(model(mx.array(ids))[0].astype(mx.float32))


def imported(store: Path, generation: str, model: str) -> Base:
    """The base with what was published on it, by the reader that training uses."""
    base = load_base(model)
    put_on(base.model, read(store, "jo", generation))
    return base


def manifest_of(store: Path, generation: str) -> Manifest:
    return read_manifest((store / "jo" / generation / MANIFEST).read_bytes())


# -- what is computed


class Reference(nn.Module):
    """x W + s x A B with PEFT's own arrays, A (rank, inputs) and B (outputs, rank)."""

    def __init__(self, linear: Any, a: np.ndarray, b: np.ndarray, scale: float):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = mx.array(a), mx.array(b)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(x) + self.scale * ((x @ self.a.T) @ self.b.T)


def with_reference(base: Base, arrays: Arrays, scale: float) -> Any:
    linear = dict(base.model.named_modules())
    layers = [
        (module, Reference(linear[module], arrays[f"{module}.A"], arrays[f"{module}.B"], scale))
        for module in sorted({name.rpartition(".")[0] for name in arrays})
    ]
    base.model.update_modules(tree_unflatten(layers))
    return base.model


CASES: dict[str, tuple[str, list[str], tuple[int, ...], Json, float]] = {
    "LoRA": ("llama", ["q_proj", "v_proj"], (0, 1), {}, ALPHA / RANK),
    "rsLoRA": ("llama", ["q_proj", "v_proj"], (0, 1), {"use_rslora": True}, ALPHA / math.sqrt(RANK)),
    "every linear": (
        "llama",
        ["_proj"],
        (0, 1),
        {"target_modules": "all-linear"},
        ALPHA / RANK,
    ),
    "the first block alone": (
        "llama",
        ["q_proj", "up_proj"],
        (0,),
        {"target_modules": ["up_proj", "self_attn.q_proj"], "layers_to_transform": [0]},
        ALPHA / RANK,
    ),
    "a pattern": ("llama", ["q_proj"], (1,), {"target_modules": r".*1.*q_proj"}, ALPHA / RANK),
    "but for one": (
        "llama",
        ["v_proj"],
        (0, 1),
        {"exclude_modules": ["q_proj"], "layers_to_transform": None},
        ALPHA / RANK,
    ),
    "convolutions": ("lfm2", ["in_proj", "w1"], (0, 1), {"target_modules": ["in_proj", "w1"]}, ALPHA / RANK),
    "a negative alpha": ("llama", ["q_proj", "v_proj"], (0, 1), {"lora_alpha": -2.5}, -2.5 / RANK),
}


@pytest.mark.parametrize("case", CASES)
def test_an_imported_lora_computes_what_peft_does(tmp_path: Path, models: dict[str, str], case: str) -> None:
    """Its logits are those of x W + s x A B, and the probe in its manifest is of them."""
    kind, targets, blocks, told, scale = CASES[case]
    base = load_base(models[kind])
    arrays = factors(base, on(base, targets, blocks))
    bare = logits(base.model)
    made = adopt(peft_folder(tmp_path / "peft", arrays, **told), tmp_path / "store", "jo", models[kind])
    reference = with_reference(base, arrays, scale)
    found = imported(tmp_path / "store", made.generation, models[kind])
    prompt = probe_prompt(checked_again(tmp_path / "store", made.generation, models[kind]).format)

    assert np.abs(logits(reference) - bare).max() > 0.1
    np.testing.assert_allclose(logits(found.model), logits(reference), rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        manifest_of(tmp_path / "store", made.generation).probe,
        logits(reference, [prompt])[-1, :PROBE_LOGITS],
        rtol=0,
        atol=2e-5,
    )


def checked_again(store: Path, generation: str, model: str) -> Any:
    """What the service says of it."""
    base = load_base(model)
    files = read_generation(store, "jo", generation)
    template, shapes = ChatTemplate(base.tokenizer), projections(base.model)
    return check_adapter(files, "jo", generation, base.fingerprint, template, shapes, len(base.model.layers))


def with_lengths(base: Base, arrays: Arrays, scale: float) -> tuple[Arrays, Any]:
    """*arrays* with an m for each module, and the model whose weights are m (W + s B A) / its lengths."""
    random, linear, found, weights = np.random.default_rng(1), dict(base.model.named_modules()), dict(arrays), []
    for module in sorted({name.rpartition(".")[0] for name in arrays}):
        weight = np.array(linear[module].weight) + scale * arrays[f"{module}.B"] @ arrays[f"{module}.A"]
        lengths = np.linalg.norm(weight, axis=1)
        found[f"{module}.m"] = (lengths * random.uniform(0.5, 2, lengths.shape)).astype(np.float32)
        weights.append((f"{module}.weight", mx.array(weight * (found[f"{module}.m"] / lengths)[:, None])))
    base.model.load_weights(weights, strict=False)
    return found, base.model


@pytest.mark.parametrize("ending", ["", ".weight"])
def test_an_imported_dora_computes_what_peft_does(tmp_path: Path, model: str, ending: str) -> None:
    """PEFT's magnitude vector, by either of its names, is mlx-lm's m."""
    base = load_base(model)
    arrays, reference = with_lengths(base, factors(base, on(base, ["q_proj", "v_proj"])), ALPHA / RANK)
    named = {peft_name(name) + (ending if name.endswith(".m") else ""): value for name, value in arrays.items()}
    made = adopt(peft_folder(tmp_path / "peft", named, use_dora=True), tmp_path / "store", "jo", model)
    found = imported(tmp_path / "store", made.generation, model)

    assert checked_again(tmp_path / "store", made.generation, model).dora
    np.testing.assert_allclose(logits(found.model), logits(reference), rtol=0, atol=5e-5)


def test_half_precision_is_held_in_float32(tmp_path: Path, model: str) -> None:
    """Every value is kept: float32 has them all."""
    base = load_base(model)
    arrays = {name: value.astype(np.float16) for name, value in factors(base, on(base, ["q_proj", "v_proj"])).items()}
    made = adopt(peft_folder(tmp_path / "peft", arrays), tmp_path / "store", "jo", model)
    reference = with_reference(base, {n: v.astype(np.float32) for n, v in arrays.items()}, ALPHA / RANK)
    found = imported(tmp_path / "store", made.generation, model)

    np.testing.assert_allclose(logits(found.model), logits(reference), rtol=0, atol=2e-5)


def mlx_lm_folder(folder: Path, base: Base, keys: list[str] | None, num_layers: int = 2, scale: float = 3.0) -> Path:
    """A folder as mlx-lm's trainer leaves it."""
    inner = [path for path in projections(base.model) if keys is None or path.endswith(tuple(keys))]
    arrays = {}
    for name, value in factors(
        base, [path for path in inner if f".{2 - num_layers}." in path or num_layers == 2]
    ).items():
        module, _, part = name.rpartition(".")
        arrays[f"{module}.lora_{part.lower()}"] = np.ascontiguousarray(value.T)
    folder.mkdir(mode=0o700)
    save_file(arrays, folder / WEIGHTS)
    parameters = {"rank": RANK, "dropout": 0.0, "scale": scale, **({"keys": keys} if keys else {})}
    told = {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": parameters, "train": True}
    (folder / CONFIG).write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("keys", [None, ["self_attn.q_proj", "mlp.up_proj"]], ids=["no keys", "keys"])
def test_a_folder_of_mlx_lm_computes_what_mlx_lm_does(tmp_path: Path, model: str, keys: list[str] | None) -> None:
    """And mlx-lm takes what was published of it as well as its own."""
    folder = mlx_lm_folder(tmp_path / "own", load_base(model), keys)
    made = adopt(folder, tmp_path / "store", "jo", model, variant="turns")
    published = tmp_path / "store" / "jo" / made.generation
    own, again = (load_adapters(load_base(model).model, str(path)) for path in (folder, published))
    own.eval()
    again.eval()

    assert ("mlx-lm", "turns") == (made.kind, made.variant)
    assert (logits(own) == logits(again)).all()
    np.testing.assert_allclose(
        logits(imported(tmp_path / "store", made.generation, model).model), logits(own), rtol=0, atol=2e-5
    )


# -- what is published


@pytest.fixture
def folder(tmp_path: Path, model: str) -> Path:
    """A good PEFT folder."""
    base = load_base(model)
    return peft_folder(tmp_path / "peft", factors(base, on(base, ["q_proj", "v_proj"])))


def test_an_import_was_never_measured(tmp_path: Path, model: str, folder: Path) -> None:
    """Its manifest says so, it does not become current by itself, and names no place of this computer."""
    store = tmp_path / "store"
    made = adopt(folder, store, "jo", model)
    manifest = manifest_of(store, made.generation)

    assert ["imported, never measured"] == manifest.gate.reasons
    assert (False, False, {}) == (manifest.gate.passed, manifest.gate.overridden, manifest.metrics)
    with pytest.raises(AdapterRefused, match="CURRENT is missing"):
        current(store, "jo")
    assert str(folder) not in manifest.model_dump_json() and "somewhere" not in manifest.model_dump_json()
    assert {WEIGHTS, CONFIG, MANIFEST} == set(files_in(store / "jo" / made.generation))


def test_an_import_that_is_activated_says_so(tmp_path: Path, model: str, folder: Path) -> None:
    """It is current, against the gate."""
    store = tmp_path / "store"
    made = adopt(folder, store, "jo", model, activate=True)

    assert made.generation == current(store, "jo")
    assert manifest_of(store, made.generation).gate.overridden


def test_an_import_is_given_the_prompts_that_were_asked_for(tmp_path: Path, model: str, folder: Path) -> None:
    """The variant with its own window, and the persona's name; both have a default."""
    store = tmp_path / "store"
    asked = adopt(folder, store, "jo", model, variant="turns", persona="Ann Lee")
    contract = manifest_of(store, asked.generation).contract
    plain = manifest_of(store, adopt(folder, store, "jo", model).generation).contract

    assert ("turns", "Ann Lee", DEFAULT_WINDOWS["turns"]) == (contract.variant, contract.persona.name, contract.window)
    assert ("raw_style", "Me") == (plain.variant, plain.persona.name)


def test_importing_again_is_the_same_generation(tmp_path: Path, model: str, folder: Path) -> None:
    """Nothing of the clock is in it."""
    first, second = (adopt(folder, tmp_path / "store", "jo", model).generation for _ in range(2))

    assert first == second


def test_weights_that_were_published_keep_their_prompts(tmp_path: Path, model: str, folder: Path) -> None:
    """A generation that lost its manifest says what it was trained on; another name for it is refused."""
    store = tmp_path / "store"
    first = adopt(folder, store, "jo", model, variant="turns", persona="Ann")
    published = store / "jo" / first.generation
    (published / MANIFEST).unlink()
    published.rename(tmp_path / "lost")

    with pytest.raises(ConfigRefused, match="trained as 'Ann'"):
        adopt(tmp_path / "lost", store, "jo", model, persona="Jo")
    assert replace(first, kind="mlx-lm") == adopt(tmp_path / "lost", store, "jo", model)


# -- what is refused


def refusal_of(folder: Path, model: str, name: str = "jo", **more: Any) -> Refused:
    """Why *folder* is refused; nothing is written then."""
    store = folder.parent / "store"
    with pytest.raises(Refused) as refusal:
        adopt(folder, store, name, model, **more)
    assert not store.exists()
    return refusal.value


SETTINGS: dict[str, tuple[str, Json]] = {
    "another method": ("peft_type", {"peft_type": "IA3"}),
    "no method": ("peft_type", {"peft_type": None}),
    "rank 0": ("r", {"r": 0}),
    "rank true": ("r", {"r": True}),
    "rank huge": ("r", {"r": 100_000}),
    "alpha a string": ("lora_alpha", {"lora_alpha": "16"}),
    "alpha 0": ("lora_parameters.scale", {"lora_alpha": 0}),
    "alpha huge": ("lora_parameters.scale", {"lora_alpha": 1e30}),
    "bias": ("bias", {"bias": "lora_only"}),
    "bias of lora_B": ("lora_bias", {"lora_bias": True}),
    "rank_pattern": ("rank_pattern", {"rank_pattern": {"q_proj": 2}}),
    "alpha_pattern": ("alpha_pattern", {"alpha_pattern": {"q_proj": 2}}),
    "modules_to_save": ("modules_to_save", {"modules_to_save": ["lm_head"]}),
    "fan_in_fan_out": ("fan_in_fan_out", {"fan_in_fan_out": True}),
    "tokens": ("trainable_token_indices", {"trainable_token_indices": [1]}),
    "layers doubled": ("layer_replication", {"layer_replication": [[0, 2], [1, 2]]}),
    "PiSSA": ("init_lora_weights", {"init_lora_weights": "pissa"}),
    "LoftQ": ("init_lora_weights", {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}),
    "what is not known": ("quantum_config", {"quantum_config": {"bits": 1}}),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_mlx_lm_cannot_carry_is_refused(tmp_path: Path, model: str, case: str) -> None:
    """By its name, rather than left out."""
    named, told = SETTINGS[case]
    base = load_base(model)
    refusal = refusal_of(peft_folder(tmp_path / "peft", factors(base, on(base, ["q_proj"])), **told), model)

    assert "config_invalid" == refusal.code
    assert any(detail.startswith(f"{named}:") for detail in refusal.details)


RAW_CONFIGS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda config: config[:-3],
    "a list": lambda config: b"[]",
    "a key twice": lambda config: config.replace(b"{", b'{"r": 4,', 1),
    "NaN": lambda config: config.replace(b'"lora_alpha": 6', b'"lora_alpha": NaN'),
}


@pytest.mark.parametrize("case", RAW_CONFIGS)
def test_a_config_that_is_not_strict_json_is_refused(model: str, folder: Path, case: str) -> None:
    """PEFT's config is read as ours is."""
    before = (folder / CONFIG).read_bytes()
    (folder / CONFIG).write_bytes(RAW_CONFIGS[case](before))

    assert before != (folder / CONFIG).read_bytes()
    assert "config_malformed" == refusal_of(folder, model).code


Q = "model.layers.1.self_attn.q_proj"
TENSORS: dict[str, tuple[str, str, Callable[[Arrays], Any]]] = {
    "an A missing": ("tensor_missing", f"{Q}.lora_a", lambda a: a.pop(f"{Q}.A")),
    "a layer missing": ("tensor_missing", f"{Q}.lora_b", lambda a: (a.pop(f"{Q}.A"), a.pop(f"{Q}.B"))),
    "none": ("tensor_missing", "lora_a", dict.clear),
    "an embedding": (
        "tensor_unexpected",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        lambda a: a.update({"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((RANK, 9), np.float32)}),
    ),
    "the output layer": (
        "tensor_unexpected",
        "base_model.model.lm_head.lora_A.weight",
        lambda a: a.update({"lm_head.A": np.ones((RANK, 32), np.float32)}),
    ),
    "a saved weight": (
        "tensor_unexpected",
        "base_model.model.lm_head.weight",
        lambda a: a.update({"base_model.model.lm_head.weight": np.ones((9, 32), np.float32)}),
    ),
    "a layer of another model": (
        "tensor_unexpected",
        "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight",
        lambda a: a.update({"model.layers.9.mlp.up_proj.A": np.ones((RANK, 32), np.float32)}),
    ),
    "an m without DoRA": ("tensor_unexpected", f"{Q}.m", lambda a: a.update({f"{Q}.m": np.ones(32, np.float32)})),
    "another rank": ("tensor_shape", f"{Q}.lora_b", lambda a: a.update({f"{Q}.B": np.ones((32, 3), np.float32)})),
    "another size": ("tensor_shape", f"{Q}.lora_a", lambda a: a.update({f"{Q}.A": np.ones((RANK, 31), np.float32)})),
    "integers": ("tensor_dtype", f"{Q}.lora_A", lambda a: a.update({f"{Q}.A": np.ones((RANK, 32), np.int32)})),
    "NaN": ("tensor_not_finite", f"{Q}.lora_a", lambda a: a[f"{Q}.A"].fill(math.nan)),
    "every B zero": ("adapter_is_zero", "", lambda a: [v.fill(0) for n, v in a.items() if n.endswith(".B")]),
    "a million times": ("tensor_too_large", Q, lambda a: a[f"{Q}.A"].fill(1e6)),
    "A and B that meet nowhere": (
        "probe_is_base",
        "",
        lambda a: [v.fill(0) for n, v in a.items() if n.endswith(".A")],
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_cannot_be_meant_are_refused(tmp_path: Path, model: str, case: str) -> None:
    """Missing, left over, misshapen, or doing nothing: by the code that the service has for it, and by name."""
    code, named, change = TENSORS[case]
    base = load_base(model)
    arrays = factors(base, on(base, ["q_proj", "v_proj"]))
    change(arrays)
    refusal = refusal_of(peft_folder(tmp_path / "peft", arrays), model)

    assert code == refusal.code
    assert named in " ".join([refusal.message, *refusal.details])


def test_a_dora_of_some_layers_is_refused(tmp_path: Path, model: str) -> None:
    """What mlx-lm's config cannot name is filled up with zeros, which a DoRA has not."""
    base = load_base(model)
    modules = on(base, ["q_proj"], (0,)) + on(base, ["v_proj"], (1,))
    arrays, _ = with_lengths(base, factors(base, modules), ALPHA / RANK)
    refusal = refusal_of(peft_folder(tmp_path / "peft", arrays, use_dora=True, target_modules=".*"), model)

    assert "config_invalid" == refusal.code
    assert "model.layers.0.self_attn.v_proj" in refusal.message


def linked(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "weights")
    (folder / "adapter_model.safetensors").symlink_to("weights")


def pipe(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def labelled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / WEIGHTS)
    (folder / MANIFEST).write_text("{}")


FOLDERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "links, as in a download cache": ("not_a_regular_file", "cp -rL", linked),
    "a FIFO": ("not_a_regular_file", "adapter_model.safetensors is not a regular file", pipe),
    "others may write": ("unsafe_file", "chmod -R go-w", lambda folder: folder.chmod(0o777)),
    "others may write a file": ("unsafe_file", "chmod -R go-w", lambda folder: (folder / CONFIG).chmod(0o666)),
    "pickled": ("missing_file", "safe_serialization=True", pickled),
    "no config": ("missing_file", f"{CONFIG} is missing", lambda folder: (folder / CONFIG).unlink()),
    "no weights": ("missing_file", WEIGHTS, lambda folder: (folder / "adapter_model.safetensors").unlink()),
    "a config of megabytes": (
        "file_too_large",
        CONFIG,
        lambda folder: (folder / CONFIG).write_bytes(b" " * 2**20),
    ),
    "cut weights": (
        "weights_malformed",
        "adapter_model.safetensors is damaged",
        lambda folder: os.truncate(folder / "adapter_model.safetensors", 900),
    ),
    "published already": ("labelled", "adapters rollback", labelled),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_be_read_is_refused(model: str, folder: Path, case: str) -> None:
    """With the care of the store, and with what to do."""
    code, named, change = FOLDERS[case]
    change(folder)
    refusal = refusal_of(folder, model)

    assert code == refusal.code
    assert named in refusal.message
    assert str(folder) not in str(refusal)


def test_no_folder_is_refused(tmp_path: Path, model: str) -> None:
    """By the path that was given."""
    refusal = refusal_of(tmp_path / "nowhere", model)

    assert isinstance(refusal, DataRefused) and "no_such_folder" == refusal.code


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"name": "../jo"}, "invalid_name"),
        ({"name": "Jo"}, "invalid_name"),
        ({"persona": "Them"}, "invalid_name"),
        ({"persona": "a\nb"}, "invalid_name"),
        ({"variant": "raw"}, "unknown_variant"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused(model: str, folder: Path, asked: Json, code: str) -> None:
    """Before anything is read."""
    assert code == refusal_of(folder, model, **asked).code


def test_an_adapter_of_another_base_is_refused(models: dict[str, str], folder: Path) -> None:
    """What is missing there is named."""
    assert "tensor_unexpected" == refusal_of(folder, models["lfm2"]).code


# -- as a command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a command; the process is left as it was."""
    before, environment = os.umask(0o077), dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.umask(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("home")
def test_the_command_says_what_it_did(capsys: pytest.CaptureFixture[str], model: str, folder: Path) -> None:
    """What it read, what it published, that it was never measured, and how to use it all the same."""
    given = ["adapters", "import", folder.name, "--name", "jo", "--model", model, "--adapters", "store"]
    assert 0 == main(given)
    lines = capsys.readouterr().out.splitlines()
    (generation,) = (path.name for path in Path("store/jo").iterdir())

    assert [
        "PEFT adapter on 4 layers; it will be given the prompts of the variant raw_style",
        f"published jo@{generation}",
        "the gate did not pass: imported, never measured",
        f"to use it all the same: python -m training adapters rollback jo {generation}",
    ] == lines

    assert 0 == main([*given, "--activate", "--variant", "turns", "--persona", "Ann"])
    assert capsys.readouterr().out.splitlines()[1].endswith(" (current)")


@pytest.mark.usefixtures("home")
def test_an_import_is_evaluated_on_data_that_is_named(
    capsys: pytest.CaptureFixture[str], model: str, folder: Path
) -> None:
    """It has no dataset of its own: without --data it is refused, not a failure."""
    adopt(folder, Path("store"), "jo", model, activate=True)

    assert 1 == main(["evaluate", "jo", "--adapters", "store"])
    assert "error [no_dataset]: no dataset at 'none'" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_what_was_dropped_into_the_store_is_listed(
    capsys: pytest.CaptureFixture[str], model: str, folder: Path
) -> None:
    """A12, A93: a plain folder and PEFT's, each with what to do; verify says the same and fails."""
    Path("store").mkdir()
    folder.rename("store/ann")
    mlx_lm_folder(Path("store/bo"), load_base(model), None)
    store = ["--adapters", "store"]

    assert ["ann", "bo"] == names(Path("store"))
    assert 0 == main(["adapters", "list", *store])
    ann, bo = capsys.readouterr().out.splitlines()
    assert ann.startswith("  ann  cannot be served: missing_file: ") and "adapters import PATH" in ann
    assert bo.startswith("  bo  cannot be served: unlabelled: ") and "allow_unlabelled" in bo
    for name, code in (("ann", "missing_file"), ("bo", "unlabelled"), ("mo", "unknown_adapter")):
        assert 1 == main(["adapters", "verify", name, *store])
        assert f"error [{code}]: " in capsys.readouterr().err
