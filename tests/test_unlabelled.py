"""mlx-lm's folder without a manifest: what it must be to be served on somebody's word for the variant.

The cases of bytes and config are those of test_adapter_check.py, here without a manifest that could betray them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from errors import AdapterRefused, InvalidField
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.adapter_store import AdapterFiles, read_generation
from prompt_format.binding import bind
from prompt_format.format import PromptFormat
from prompt_format.manifest import CONFIG, WEIGHTS, file_entry, generation_of, read_manifest, write_manifest
from prompt_format.persona import Persona
from prompt_format.unlabelled import check_unlabelled, contract_inside
from prompt_format.variants import DEFAULT_WINDOWS, VARIANTS
from tests.fakes import BLOCKS, KEYS, SHAPES, facts, make_adapter, make_weights
from tests.test_adapter_check import BYTES, CONFIGS, LENGTHS, MEANINGS, RAW_CONFIGS, said, saved
from tests.toy_tokenizers import KINDS, chat_template, variants_of

Json = dict[str, Any]
LAST_BLOCK = tuple(path for path in SHAPES if f".{BLOCKS - 1}." in path)
# What mlx-lm's trainer writes: all that it was told. The paths are of nobody's computer.
TOLD = {
    "adapter_path": "adapters", "batch_size": 4, "config": None, "data": "somewhere/data", "fine_tune_type": "lora",
    "grad_checkpoint": False, "iters": 1000, "learning_rate": 1e-05, "lr_schedule": None, "mask_prompt": False,
    "max_seq_length": 2048, "model": "mlx-community/toy", "num_layers": 2, "optimizer": "adam",
    "optimizer_config": {"adam": {}, "sgd": {}}, "resume_adapter_file": None, "save_every": 100, "seed": 0,
    "steps_per_eval": 200, "test": False, "train": True, "val_batches": 25, "wandb": None,
    "lora_parameters": {"rank": 2, "dropout": 0.0, "scale": 20.0},
}  # fmt: skip


def plain(weights: bytes | None = None, kind: str = "lora", **told: Any) -> AdapterFiles:
    """A folder as mlx-lm leaves it; *told* changes its config, ``keys`` and other parameters too."""
    parameters = TOLD["lora_parameters"] | {key: told.pop(key) for key in ("keys", "rank", "scale") if key in told}
    config = {**TOLD, "fine_tune_type": kind, "lora_parameters": parameters, **told}
    return AdapterFiles(weights or save(make_weights(2, kind=kind)), json.dumps(config).encode(), None)


def checked(files: AdapterFiles, variant: str = "raw_style", template: str = "chatml", **more: Any) -> CheckedAdapter:
    base = facts()
    template_ = chat_template(template)
    return check_unlabelled(
        files, "jo", variant, base.name, base.fingerprint, template_, base.shapes, base.blocks, **more
    )


def refusal_of(files: AdapterFiles, variant: str = "raw_style", template: str = "chatml") -> AdapterRefused:
    with pytest.raises(AdapterRefused) as refusal:
        checked(files, variant, template)
    return refusal.value


# -- what is accepted


def test_what_mlx_lm_writes_is_accepted() -> None:
    """A12, A58: its whole command line in the config is ignored, and without keys every linear layer is meant."""
    files = plain()
    found = checked(files)

    assert (2, 20.0, False, tuple(SHAPES)) == (found.rank, found.scale, found.dora, found.modules)
    assert found.weights is files.weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_given_the_prompts_that_were_asked_for(variant: str) -> None:
    """The variant's own window, and "Me", whose style nobody measured."""
    form = checked(plain(), variant).format

    assert (variant, DEFAULT_WINDOWS[variant], Persona()) == (form.variant, form.window, form.persona)


def test_a_persona_may_be_named() -> None:
    """As an import does."""
    assert "Jo" == checked(plain(), persona=Persona(name="Jo")).manifest.contract.persona.name


def test_its_manifest_says_only_what_is_known() -> None:
    """What the bytes are; that it was never measured; no probe, and a time before any other."""
    files = plain()
    found = checked(files)
    manifest = found.manifest

    assert {WEIGHTS: file_entry(files.weights), CONFIG: file_entry(files.config)} == manifest.files
    assert ("jo", facts().name, facts().fingerprint) == (manifest.name, manifest.base.id, manifest.base.fingerprint)
    assert ("lora", 2, 20.0, list(SHAPES)) == tuple(manifest.lora.model_dump().values())
    assert ([], {}, "1970-01-01T00:00:00Z") == (manifest.probe, manifest.metrics, manifest.created_at)
    assert not manifest.gate.passed and manifest.gate.reasons[0].startswith("unlabelled")
    assert manifest == read_manifest(write_manifest(manifest))


def test_its_generation_is_made_of_what_it_is() -> None:
    """The same bytes and prompts are the same generation; others are another."""
    files = plain()
    first = checked(files)
    digests = [file_entry(data).sha256 for data in (files.weights, files.config)]
    others = [checked(files, "turns"), checked(plain(scale=2.0)), checked(plain(save(make_weights(2, seed=1))))]

    assert first.generation == first.manifest.generation == checked(files).generation
    assert first.generation == generation_of(*digests, first.format.contract)
    assert 4 == len({first.generation, *(other.generation for other in others)})


LAYERS: dict[str, tuple[Json, tuple[str, ...]]] = {
    "every block": ({"num_layers": -1}, tuple(SHAPES)),
    "the last block": ({"num_layers": 1}, LAST_BLOCK),
    "names inside a block": ({"keys": list(KEYS)}, tuple(SHAPES)),
    "one name in the last block": ({"num_layers": 1, "keys": [KEYS[0]]}, tuple(p for p in LAST_BLOCK if KEYS[0] in p)),
    "no keys said to be none": ({"keys": None}, tuple(SHAPES)),
    "whole paths": ({"num_layers": 1, "keys": [next(iter(SHAPES))]}, tuple(SHAPES)[:1]),
    "a path and a name": ({"num_layers": 1, "keys": [next(iter(SHAPES)), *KEYS]}, (next(iter(SHAPES)), *LAST_BLOCK)),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_layers_are_those_that_mlx_lm_means(case: str, kind: str) -> None:
    """The last so many blocks and names inside them, or whole paths wherever they are."""
    told, modules = LAYERS[case]
    found = checked(plain(save(make_weights(2, modules, kind=kind)), kind, **told))

    assert (set(modules), kind == "dora") == (set(found.modules), found.dora)


# -- what is refused


def test_one_with_a_manifest_is_not_unlabelled(tmp_path: Path) -> None:
    """A98: its manifest is to be believed and checked, not passed by."""
    generation = make_adapter(tmp_path)

    with pytest.raises(InvalidField, match=r"has a manifest\.json"):
        checked(read_generation(tmp_path, "jo", generation))


def test_a_variant_that_is_none_is_refused() -> None:
    """A69: by name, with what there is."""
    refusal = refusal_of(plain(), "raw_stile")

    assert "unknown_variant" == refusal.code
    assert "raw_style_variable" in refusal.message


@pytest.mark.parametrize(("label", "variant"), variants_of(tuple(KINDS), refused=True))
def test_a_variant_that_this_base_cannot_carry_is_refused(label: str, variant: str) -> None:
    """A69: by the code of what the template cannot do."""
    assert KINDS[label].refused[variant] == refusal_of(plain(), variant, label).code


@pytest.mark.parametrize("case", BYTES)
def test_damaged_weights_are_refused(case: str) -> None:
    """A13 to A29, without a manifest that tells their digest."""
    weights = BYTES[case](plain().weights)
    files = AdapterFiles(weights, plain().config, None)

    assert "weights_malformed" == refusal_of(files).code


@pytest.mark.parametrize("case", MEANINGS)
def test_weights_that_cannot_be_meant_are_refused(case: str) -> None:
    """A71 to A80: tensors missing, left over, misshapen, not finite or too large are refused, and named."""
    code, named, change = MEANINGS[case]
    refusal = refusal_of(plain(saved(change(make_weights(2)))))

    assert code == refusal.code
    assert named in said(refusal)


@pytest.mark.parametrize("case", LENGTHS)
def test_lengths_that_cannot_be_meant_are_refused(case: str) -> None:
    """A76 to A80, A90, of a DoRA's m."""
    code, named, change = LENGTHS[case]
    refusal = refusal_of(plain(saved(change(make_weights(2, kind="dora"))), "dora"))

    assert code == refusal.code
    assert named in said(refusal)


@pytest.mark.parametrize("case", RAW_CONFIGS)
def test_a_config_that_is_not_strict_json_is_refused(tmp_path: Path, case: str) -> None:
    """A50 to A57."""
    good = read_generation(tmp_path, "jo", make_adapter(tmp_path))
    files = AdapterFiles(good.weights, RAW_CONFIGS[case](good.config), None)

    assert "config_malformed" == refusal_of(files).code


# An unknown key is ignored, and -1 is mlx-lm's word for every block.
MEANT = ("A58 unknown key", "A58 unknown inner key", "A86 num_layers -1")


@pytest.mark.parametrize("case", [case for case in CONFIGS if case not in MEANT])
def test_a_config_out_of_bounds_is_refused(case: str) -> None:
    """A82 to A92: a value that cannot be meant is refused, and its field is named."""
    field, change = CONFIGS[case]
    config = json.loads(plain(keys=list(KEYS)).config)
    change(config)
    refusal = refusal_of(AdapterFiles(plain().weights, json.dumps(config).encode(), None))

    assert "config_invalid" == refusal.code
    assert any(field in detail for detail in refusal.details)


def test_keys_of_other_blocks_alone_are_refused() -> None:
    """A87: keys that are names of layers, but of none of the last blocks, would change nothing."""
    shapes = {**SHAPES, "model.layers.0.conv.in_proj": (6, 6)}
    base = facts()
    with pytest.raises(AdapterRefused, match="out of bounds") as refusal:
        check_unlabelled(
            plain(num_layers=1, keys=["conv.in_proj"]), "jo", "raw_style", base.name, base.fingerprint, base.template,
            shapes, base.blocks,
        )  # fmt: skip
    assert ["lora_parameters.keys: none is a layer of the last 1 blocks"] == refusal.value.details


EMBEDDING: dict[str, Callable[[], AdapterFiles]] = {
    "by its tensors": lambda: plain(save(make_weights(2) | embedding())),
    "by its key": lambda: plain(save(make_weights(2) | embedding()), keys=["model.embed_tokens", *KEYS]),
    "an output layer": lambda: plain(keys=["lm_head", *KEYS]),
}


def embedding() -> dict[str, np.ndarray]:
    return {
        "model.embed_tokens.lora_a": np.ones((300, 2), np.float32),
        "model.embed_tokens.lora_b": np.ones((2, 6), np.float32),
    }


@pytest.mark.parametrize("case", EMBEDDING)
def test_an_adapter_of_an_embedding_is_refused(case: str) -> None:
    """mlx-lm can train one; here only the linear layers of blocks take adapters, and the refusal says so."""
    refusal = refusal_of(EMBEDDING[case]())

    assert refusal.code in ("tensor_unexpected", "config_invalid")
    assert "linear layers of" in said(refusal) and "blocks" in said(refusal)


# -- published once, and the manifest lost


def lost(tmp_path: Path, **what: Any) -> AdapterFiles:
    """The two files of a published generation."""
    files = read_generation(tmp_path, "jo", make_adapter(tmp_path, **what))
    return AdapterFiles(files.weights, files.config, None)


def test_weights_that_name_their_prompts_are_given_those(tmp_path: Path) -> None:
    """A12: persona and window are those of the training, and the generation is the one that was published."""
    (generation, files) = (
        make_adapter(tmp_path, variant="turns", persona="Ann"),
        lost(tmp_path, variant="turns", persona="Ann"),
    )
    found = checked(files, "turns")

    assert generation == found.generation
    assert ("Ann", 4) == (found.format.persona.name, found.format.window.turns)


def test_weights_that_name_other_prompts_are_refused(tmp_path: Path) -> None:
    """A68: another variant than the one that was trained on, by both names; another tokenizer, by its part."""
    files = lost(tmp_path, variant="turns")
    refusal = refusal_of(files, "raw_style")

    assert "contract_mismatch" == refusal.code
    assert "'turns', not 'raw_style'" in refusal.message
    assert "contract.template_sha256 is " in said(refusal_of(files, "turns", "trims"))


def test_weights_that_name_another_base_are_refused() -> None:
    """A67: whatever the variant."""
    contract = PromptFormat(chat_template("chatml"), "raw_style", Persona()).contract
    refusal = refusal_of(plain(bind(plain().weights, contract, "sha256:" + "e" * 64)))

    assert "base_mismatch" == refusal.code
    assert "sha256:eeeeeeeeeeee…" in said(refusal)


@pytest.mark.parametrize("said_there", ["", "{}", '{"variant": "turns"}'])
def test_weights_whose_contract_cannot_be_read_are_refused(said_there: str) -> None:
    """A68: rather than served with other prompts."""
    weights = save(make_weights(2), {"contract": said_there})

    assert "contract_mismatch" == refusal_of(plain(weights)).code


def test_weights_of_others_name_no_prompts() -> None:
    """Other metadata, none, or a damaged file: then nothing is said."""
    others = [plain().weights, save(make_weights(2), {"format": "mlx", "base": "mine"}), b"", b"\xff" * 40]

    assert [None] * 4 == [contract_inside(weights) for weights in others]
    assert checked(plain(others[1])).modules


def test_the_arrays_are_untouched() -> None:
    """What is checked is what is handed on, tensor by tensor."""
    given = make_weights(2)

    assert all((load(checked(plain(save(given))).weights)[name] == value).all() for name, value in given.items())
