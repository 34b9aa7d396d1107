"""LoRA layers on a frozen base: what they cover, that they begin as nothing, and that they come off."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters

from base_model.load import load_base, projections
from errors import ConfigRefused
from prompt_format.adapter_check import AdapterConfig, config_json, covered_modules, expected_tensors
from prompt_format.manifest import CONFIG, WEIGHTS
from tests.tiny import LAYERS, tiny_model
from training.config import TrainConfig, parse_config
from training.lora import Off, adapter_weights, choose_layers, set_adapter, wear

IDS = mx.array([[7, 8, 9, 20, 21]])
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]


def config(**settings: Any) -> TrainConfig:
    return parse_config({"name": "jo", "data": "d", "rank": 4, **settings}, "jo.yaml")


@pytest.fixture(params=["llama", "lfm2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return load_base(str(tiny_model(tmp_path, request.param))).model


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    return load_base(str(tiny_model(tmp_path / "llama"))).model


def put_on(model: Any, config: TrainConfig) -> tuple[AdapterConfig, list[str]]:
    """A new adapter on *model*: its config, and the layers it changes."""
    adapter, modules = choose_layers(model, config)
    wear(model, adapter)
    return adapter, modules


def some_weights(model: Any) -> dict[str, mx.array]:
    """Weights of the adapter's shapes, none of them zero."""
    mx.random.seed(1)
    return {name: 0.1 * mx.random.normal(value.shape) for name, value in adapter_weights(model).items()}


# -- putting on


def test_all_means_every_linear_layer_of_every_block(model: Any) -> None:
    """And the embedding, the norms and the head stay as they are."""
    shapes = projections(model)
    adapter, modules = put_on(model, config())

    assert list(shapes) == modules
    assert LAYERS == adapter.num_layers
    assert set(expected_tensors(tuple(modules), shapes, 4)) == set(adapter_weights(model))


def test_only_the_adapter_is_trainable(model: Any) -> None:
    """Two float32 tensors for each layer, of the shapes that its size and the rank give."""
    shapes = projections(model)
    _, modules = put_on(model, config())
    found = {name: value.shape for name, value in adapter_weights(model).items()}

    assert expected_tensors(tuple(modules), shapes, 4) == found
    assert {mx.float32} == {value.dtype for value in adapter_weights(model).values()}


def test_a_new_adapter_changes_nothing(model: Any) -> None:
    """The logits are the base's, to the last bit."""
    before = model(IDS)
    put_on(model, config())
    model.eval()

    assert mx.array_equal(before, model(IDS))


@pytest.mark.parametrize(
    ("settings", "blocks", "keys"),
    [
        ({"modules": ["q_proj", "v_proj"]}, {0, 1}, ["self_attn.q_proj", "self_attn.v_proj"]),
        ({"modules": ["self_attn.q_proj"]}, {0, 1}, ["self_attn.q_proj"]),
        ({"modules": ATTENTION, "layers": 1}, {1}, [f"self_attn.{name}" for name in ATTENTION]),
        ({"modules": ["mlp.down_proj"], "layers": 99}, {0, 1}, ["mlp.down_proj"]),
    ],
    ids=str,
)
def test_modules_and_layers_choose(llama: Any, settings: dict[str, Any], blocks: set[int], keys: list[str]) -> None:
    """By the end of their names, in the last so many blocks; what was changed is what the config says."""
    shapes = projections(llama)
    adapter, modules = put_on(llama, config(**settings))

    assert keys == adapter.lora_parameters.keys
    assert {f"model.layers.{block}.{key}" for block in blocks for key in keys} == set(modules)
    assert set(covered_modules(shapes, adapter.num_layers, keys, LAYERS)) == set(modules)
    assert {f"{module}.lora_{ab}" for module in modules for ab in "ab"} == set(adapter_weights(llama))


def test_a_key_that_only_other_blocks_have_is_not_written_down(tmp_path: Path) -> None:
    """The last block of this LFM2 has attention and no convolution."""
    model = load_base(str(tiny_model(tmp_path, "lfm2"))).model
    adapter, modules = put_on(model, config(modules=["in_proj", "q_proj"], layers=1))

    assert (["self_attn.q_proj"], ["model.layers.1.self_attn.q_proj"]) == (adapter.lora_parameters.keys, modules)


@pytest.mark.parametrize(
    ("modules", "named"),
    [(["nope"], r"\['nope'\]"), (["q_proj", "nope"], r"\['nope'\]"), (["proj"], r"\['proj'\]"), ([], r"\[\]")],
    ids=str,
)
def test_modules_that_match_nothing_are_refused(llama: Any, modules: list[str], named: str) -> None:
    """The message names them and what there is; the model is left as it was."""
    before = {name for name, _ in tree_flatten(llama.parameters())}

    with pytest.raises(ConfigRefused, match=f"modules {named} match no linear layer .*; there are: mlp.down_proj, "):
        put_on(llama, config(modules=modules))
    assert before == {name for name, _ in tree_flatten(llama.parameters())}


def test_no_class_of_the_model_is_changed(model: Any) -> None:
    """A model loaded later in this process is a plain one."""
    classes = {type(module) for _, module in model.named_modules()}
    calls = {kind: kind.__call__ for kind in classes}
    put_on(model, config())

    assert calls == {kind: kind.__call__ for kind in classes}


def test_one_seed_gives_one_beginning(tmp_path: Path) -> None:
    """lora_a is drawn from mlx's own random numbers."""
    drawn = []
    for seed in (0, 0, 1):
        model = load_base(str(tiny_model(tmp_path))).model
        mx.random.seed(seed)
        put_on(model, config())
        drawn.append(mx.concatenate([value.flatten() for _, value in sorted(adapter_weights(model).items())]))

    assert mx.array_equal(drawn[0], drawn[1])
    assert not mx.array_equal(drawn[0], drawn[2])


# -- putting in, taking off


def test_what_is_put_in_is_read_out(model: Any) -> None:
    """Every tensor, to the last bit, and the base's weights stay as they were."""
    put_on(model, config())
    frozen = {name: value for name, value in tree_flatten(model.parameters()) if "lora" not in name}
    weights = some_weights(model)
    set_adapter(model, weights)

    assert all(mx.array_equal(weights[name], value) for name, value in adapter_weights(model).items())
    for name, value in tree_flatten(model.parameters()):
        assert "lora" in name or mx.array_equal(frozen[name], value)


def test_off_is_the_base(model: Any) -> None:
    """Inside the block the logits are the base's; after it the adapter is back, also when the block fails."""
    base = model(IDS)
    put_on(model, config())
    model.eval()
    set_adapter(model, some_weights(model))
    worn = model(IDS)

    with pytest.raises(ZeroDivisionError), Off(model):
        assert mx.array_equal(base, model(IDS))
        raise ZeroDivisionError
    assert mx.array_equal(worn, model(IDS))
    assert not mx.array_equal(base, worn)


def test_the_scale_is_mlx_lms(llama: Any) -> None:
    """y + scale * x A B."""
    layer = llama.model.layers[0].self_attn.q_proj
    x = mx.random.normal((1, 3, 32))
    before = layer(x)
    put_on(llama, config(modules=["q_proj"], scale=3.0))
    llama.eval()
    weights = some_weights(llama)
    set_adapter(llama, weights)
    a, b = (weights[f"model.layers.0.self_attn.q_proj.lora_{ab}"] for ab in "ab")

    assert mx.allclose(before + 3.0 * (x @ a @ b), llama.model.layers[0].self_attn.q_proj(x), rtol=1e-5, atol=1e-5)


def test_mlx_lm_reads_what_is_written(tmp_path: Path) -> None:
    """Config and weights in a folder are an adapter for mlx-lm itself: the same logits."""
    folder = tiny_model(tmp_path / "model")
    model = load_base(str(folder)).model
    adapter, _ = put_on(model, config(layers=1, scale=3.0))
    model.eval()
    set_adapter(model, some_weights(model))
    written = tmp_path / "adapter"
    written.mkdir()
    (written / CONFIG).write_bytes(config_json(adapter))
    mx.save_safetensors(str(written / WEIGHTS), adapter_weights(model))
    theirs = load_adapters(load_base(str(folder)).model, str(written))
    theirs.eval()

    assert {"rank": 4, "scale": 3.0, "dropout": 0.0} == {
        key: json.loads(config_json(adapter))["lora_parameters"][key] for key in ("rank", "scale", "dropout")
    }
    assert mx.array_equal(model(IDS), theirs(IDS))


def test_a_quantised_base_takes_an_adapter(llama: Any) -> None:
    """Sizes are those of the layer, not of its packed weights."""
    nn.quantize(llama, group_size=32, bits=4)
    base = llama(IDS)
    put_on(llama, config())
    llama.eval()

    assert (32, 4) == adapter_weights(llama)["model.layers.0.self_attn.q_proj.lora_a"].shape
    assert mx.allclose(base, llama(IDS), rtol=1e-5, atol=1e-5)
