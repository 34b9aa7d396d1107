"""Every way in which the bytes of an adapter can be wrong is refused, by its code (fault-matrix.md, A13 to A91).

Each case starts from a good published generation and changes one thing. The manifest tells the truth about the new
bytes, as a hostile or careless publisher's would, unless the case says that it was left as it was.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from errors import AdapterRefused
from prompt_format.adapter_check import check_adapter, check_manifest, fitting_format, tensor_table
from prompt_format.adapter_store import AdapterFiles, read_generation
from prompt_format.format import PromptFormat
from prompt_format.manifest import CONFIG, WEIGHTS, read_manifest
from prompt_format.persona import Persona
from prompt_format.strict_json import parse_strict
from tests import test_adapter_store
from tests.fakes import KEYS, SHAPES, altered, checked_files, facts, make_adapter, make_weights
from tests.toy_tokenizers import KINDS, chat_template

Json = dict[str, Any]
FIRST, *_, LAST = SHAPES


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> AdapterFiles:
    """The files of a good generation; what is made of them is another object."""
    store = tmp_path_factory.mktemp("check") / "adapters"
    return read_generation(store, "jo", make_adapter(store, variant="raw_style_variable"))


@pytest.fixture(scope="module")
def dora(tmp_path_factory: pytest.TempPathFactory) -> AdapterFiles:
    """Those of a good DoRA."""
    store = tmp_path_factory.mktemp("dora") / "adapters"
    return read_generation(store, "jo", make_adapter(store, kind="dora"))


def refusal_of(files: AdapterFiles, generation: str) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as refusal:
        checked_files(files, "jo", generation)
    return refusal.value


def said(refusal: AdapterRefused) -> str:
    return " ".join([refusal.message, *refusal.details])


def test_a_good_generation_is_accepted(good: AdapterFiles) -> None:
    """What was published passes every check, and the checked bytes are the ones that were read."""
    files, generation = altered(good)
    found = checked_files(files, "jo", generation)

    assert not found.dora
    assert (2, 2.0, tuple(SHAPES)) == (found.rank, found.scale, tuple(sorted(found.modules, key=list(SHAPES).index)))
    assert found.weights is files.weights


# -- weights: bytes


def parts(weights: bytes) -> tuple[Json, bytes]:
    (size,) = struct.unpack_from("<Q", weights)
    return json.loads(weights[8 : 8 + size]), weights[8 + size :]


def together(header: Json | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(change: Callable[[Json], Any]) -> Callable[[bytes], bytes]:
    """A change of the first tensor's entry in the header."""

    def changed(weights: bytes) -> bytes:
        header, body = parts(weights)
        change(header[f"{FIRST}.lora_a"])
        return together(header, body)

    return changed


def table(change: Callable[[Json], Any]) -> Callable[[bytes], bytes]:
    """A change of the whole header."""

    def changed(weights: bytes) -> bytes:
        header, body = parts(weights)
        change(header)
        return together(header, body)

    return changed


def in_header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def changed(weights: bytes) -> bytes:
        header, body = parts(weights)
        text = json.dumps(header).encode()
        assert old in text
        return together(text.replace(old, new, 1), body)

    return changed


def share_bytes(header: Json) -> None:
    header[f"{LAST}.lora_a"]["data_offsets"] = header[f"{FIRST}.lora_a"]["data_offsets"]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "A13 empty": lambda weights: b" "[:0],
    "A13 seven bytes": lambda weights: weights[:7],
    "A14 header cut": lambda weights: weights[:60],
    "A14 last byte cut": lambda weights: weights[:-1],
    "A14 half the body": lambda weights: weights[: len(weights) - len(parts(weights)[1]) // 2],
    "A16 bytes after the end": lambda weights: weights + bytes(100),
    "A17 zeros": lambda weights: bytes(len(weights)),
    "A18 endless header": lambda weights: struct.pack("<Q", 2**63) + weights[8:],
    "A19 header not JSON": lambda weights: together(b"{" * 40, parts(weights)[1]),
    "A19 header not UTF-8": in_header(b'"F32"', b'"F\xff2"'),
    "A19 header a list": lambda weights: together(b"[]", parts(weights)[1]),
    "A20 offsets near 2^64": entry(lambda e: e.update(data_offsets=[2**64 - 48, 2**64])),
    "A20 offsets below 2^64": entry(lambda e: e.update(data_offsets=[2**64 - 49, 2**64 - 1])),
    "A21 negative dimensions": entry(lambda e: e.update(shape=[-6, -2])),
    "A22 shape overflows": entry(lambda e: e.update(shape=[2**62, 2**62])),
    "A23 empty but huge": entry(lambda e: e.update(shape=[0, 10**12])),
    "A24 shared bytes": table(share_bytes),
    "A25 a hole": table(lambda header: header.pop(f"{FIRST}.lora_a")),
    "A26 deep header": lambda weights: together(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "A27 a name twice": in_header(f"{FIRST}.lora_b".encode(), f"{FIRST}.lora_a".encode()),
    "A27 an entry twice": in_header(b"{", b'{"__metadata__": {}, "__metadata__": {}, '),
    "A28 unknown dtype": entry(lambda e: e.update(dtype="F99")),
    "A28 dtype a number": entry(lambda e: e.update(dtype=5)),
    "A28 no dtype": entry(lambda e: e.pop("dtype")),
    "A28 no shape": entry(lambda e: e.pop("shape")),
    "A28 metadata a number": table(lambda header: header.update(__metadata__={"a": 1})),
    "A29 dtype of another size": entry(lambda e: e.update(dtype="F16")),
}


@pytest.mark.parametrize("case", BYTES)
def test_damaged_weights_are_refused(good: AdapterFiles, case: str) -> None:
    """Weights that the strict parser does not take whole are malformed."""
    files, generation = altered(good)
    document = json.loads(files.manifest or b"")
    weights = BYTES[case](good.weights)
    if weights:
        files, generation = altered(good, weights=weights)
        assert "weights_malformed" == refusal_of(files, generation).code

    left_as_it_was = AdapterFiles(weights, good.config, json.dumps(document).encode())
    assert "digest_mismatch" == refusal_of(left_as_it_was, document["generation"]).code


def test_an_empty_weights_file_is_refused() -> None:
    """A13: a file of no bytes is malformed, not an adapter without tensors."""
    with pytest.raises(AdapterRefused) as refusal:
        tensor_table(b"")
    assert "weights_malformed" == refusal.value.code


# -- weights: meaning

Arrays = dict[str, np.ndarray]
# numpy has no BF16 and no F8: their bits travel as integers.
DTYPES = {
    "float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8", "uint32": "U32", "bool": "BOOL",
    "complex64": "C64", "float64": "F64", "uint8": "F8_E4M3",
}  # fmt: skip


def saved(arrays: Arrays) -> bytes:
    """A safetensors file of *arrays*."""
    header: Json = {}
    body = b""
    for name, array in arrays.items():
        data = array.tobytes()
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    return together(header, body)


def bf16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def without(left_out: Callable[[str], bool]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: value for name, value in arrays.items() if not left_out(name)}


def every_second(arrays: Arrays) -> Arrays:
    return {name: value for number, (name, value) in enumerate(sorted(arrays.items())) if number % 2}


def every(change: Callable[[np.ndarray], np.ndarray], suffix: str = "") -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: change(value) if name.endswith(suffix) else value for name, value in arrays.items()}


def more(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: np.ones((6, 2), np.float32)}


def with_one(value: float, kind: Callable[[np.ndarray], np.ndarray] = np.float32) -> Callable[[Arrays], Arrays]:
    def changed(arrays: Arrays) -> Arrays:
        last = arrays[f"{LAST}.lora_b"].copy()
        last[0, 3] = value
        return {name: kind(array) for name, array in (arrays | {f"{LAST}.lora_b": last}).items()}

    return changed


MEANINGS: dict[str, tuple[str, str, Callable[[Arrays], Arrays]]] = {
    "A15 zero body": ("adapter_is_zero", "lora_b", every(np.zeros_like)),
    "A71 every second": ("tensor_missing", f"{FIRST}.lora_a", every_second),
    "A71 all lora_b": ("tensor_missing", f"{LAST}.lora_b", without(lambda name: name.endswith("lora_b"))),
    "A71 one module": ("tensor_missing", f"{FIRST}.lora_b", without(lambda name: name.startswith(FIRST))),
    "A71 one layer": ("tensor_missing", f"{LAST}.lora_a", without(lambda name: ".1." in name)),
    "A72 one zero tensor": (
        "tensor_missing",
        f"{FIRST}.lora_b",
        lambda _: {f"{FIRST}.lora_a": np.zeros((6, 2), np.float32)},
    ),
    "A72 no tensor": ("tensor_missing", f"{FIRST}.lora_a", lambda _: {}),
    "A73 a stranger": ("tensor_unexpected", "evil", more("evil")),
    "A73 a base weight": ("tensor_unexpected", f"{FIRST}.weight", more(f"{FIRST}.weight")),
    "A73 lora_c": ("tensor_unexpected", f"{FIRST}.lora_c", more(f"{FIRST}.lora_c")),
    "A74 another rank": ("tensor_shape", f"{FIRST}.lora_a: [6, 3], expected [6, 2]", lambda _: make_weights(rank=3)),
    "A75 transposed": ("tensor_shape", f"{FIRST}.lora_a", every(lambda value: np.ascontiguousarray(value.T))),
    "A75 flat": ("tensor_shape", f"{FIRST}.lora_b", every(np.ravel)),
    "A76 NaN F32": ("tensor_not_finite", f"{LAST}.lora_b", with_one(math.nan)),
    "A76 NaN F16": ("tensor_not_finite", f"{LAST}.lora_b", with_one(math.nan, np.float16)),
    "A76 NaN BF16": ("tensor_not_finite", f"{LAST}.lora_b", with_one(math.nan, bf16)),
    "A77 infinity": ("tensor_not_finite", f"{LAST}.lora_b", with_one(math.inf)),
    "A77 minus infinity": ("tensor_not_finite", f"{LAST}.lora_b", with_one(-math.inf, np.float16)),
    "A77 infinity BF16": ("tensor_not_finite", f"{LAST}.lora_b", with_one(math.inf, bf16)),
    "A78 lora_b zero": ("adapter_is_zero", "lora_b", every(np.zeros_like, "lora_b")),
    "A78 lora_b minus zero": ("adapter_is_zero", "lora_b", every(lambda value: -np.zeros_like(value), "lora_b")),
    "A79 a million times": ("tensor_too_large", f"{FIRST}: values above 10000", every(lambda value: value * 1e6)),
    "A79 one value F16": ("tensor_too_large", f"{LAST}: values above 10000", with_one(-60_000, np.float16)),
    "A79 one value BF16": ("tensor_too_large", f"{LAST}: values above 10000", with_one(1e30, bf16)),
    "A79 one value F32": ("tensor_too_large", f"{LAST}: values above 10000", with_one(3e38)),
    "A79 the product": (
        "tensor_too_large",
        f"{FIRST}: |scale| |A| |B| above 100000",
        every(lambda v: v / v.max() * 999),
    ),
    "A80 I8": ("tensor_dtype", f"{FIRST}.lora_a: I8", every(lambda value: value.astype(np.int8))),
    "A80 U32": ("tensor_dtype", f"{FIRST}.lora_a: U32", every(lambda value: value.astype(np.uint32))),
    "A80 BOOL": ("tensor_dtype", f"{FIRST}.lora_a: BOOL", every(lambda value: value.astype(bool))),
    "A80 C64": ("tensor_dtype", f"{FIRST}.lora_a: C64", every(lambda value: value.astype(np.complex64))),
    "A80 F64": ("tensor_dtype", f"{FIRST}.lora_a: F64", every(lambda value: value.astype(np.float64))),
    "A80 F8": ("tensor_dtype", f"{FIRST}.lora_a: F8", every(lambda value: value.astype(np.uint8))),
    "A90 lora with m": ("tensor_unexpected", f"{LAST}.m", more(f"{LAST}.m")),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_weights_that_cannot_be_meant_are_refused(good: AdapterFiles, case: str) -> None:
    """Tensors missing, left over, misshapen or not finite are refused, and named."""
    code, named, change = MEANINGS[case]
    files, generation = altered(good, weights=saved(change(load(good.weights))))
    refusal = refusal_of(files, generation)

    assert code == refusal.code
    assert named in said(refusal)


def test_an_adapter_as_large_as_training_makes_it_is_accepted(good: AdapterFiles) -> None:
    """A79: the first components of a heavy layer, as PiSSA begins, are far below the limit."""
    arrays = load(good.weights)
    heavy = {name: value / np.linalg.norm(value) * 70 for name, value in arrays.items()}  # |scale| |A| |B| = 9,800
    files, generation = altered(good, weights=saved(heavy))

    assert files.weights == checked_files(files, "jo", generation).weights


def test_every_missing_tensor_is_named(good: AdapterFiles) -> None:
    """A71: nobody should add four tensors in four tries."""
    files, generation = altered(good, weights=saved({}))
    expected = sorted(f"{module}.lora_{factor}" for module in SHAPES for factor in "ab")

    assert expected == refusal_of(files, generation).details


@pytest.mark.parametrize("kinds", [[np.float16], [bf16], [np.float32, np.float16, bf16]], ids=["F16", "BF16", "mixed"])
def test_half_precision_is_accepted(good: AdapterFiles, kinds: list[Callable[[np.ndarray], np.ndarray]]) -> None:
    """A81: F16, BF16 and mixed floats are accepted."""
    arrays = load(good.weights)
    halved = {name: kinds[number % len(kinds)](array) for number, (name, array) in enumerate(arrays.items())}
    files, generation = altered(good, weights=saved(halved))

    assert files.weights == checked_files(files, "jo", generation).weights


def test_exchanged_tensors_betray_themselves_by_the_digest(good: AdapterFiles) -> None:
    """A30: tensors of equal shape exchanged under the old manifest are a digest mismatch that names the file."""
    arrays = load(good.weights)
    first, last = f"{FIRST}.lora_a", f"{LAST}.lora_a"
    arrays[first], arrays[last] = arrays[last], arrays[first]
    files, generation = altered(good)
    refusal = refusal_of(AdapterFiles(saved(arrays), files.config, files.manifest), generation)

    assert "digest_mismatch" == refusal.code
    assert [f"files.{WEIGHTS}: size or SHA-256 differs from the manifest's"] == refusal.details


# -- the weights of a DoRA


def test_a_good_dora_is_accepted(dora: AdapterFiles) -> None:
    """And is said to be one, with the same facts as a LoRA has."""
    files, generation = altered(dora)
    found = checked_files(files, "jo", generation)

    assert (True, 2, 2.0, set(SHAPES)) == (found.dora, found.rank, found.scale, set(found.modules))


def one_length(value: float, kind: Callable[[np.ndarray], np.ndarray] = np.float32) -> Callable[[Arrays], Arrays]:
    """The last module's m, as *kind*, with *value* in it."""

    def changed(arrays: Arrays) -> Arrays:
        lengths = arrays[f"{LAST}.m"].copy()
        lengths[3] = value
        return arrays | {f"{LAST}.m": kind(lengths)}

    return changed


LENGTHS: dict[str, tuple[str, str, Callable[[Arrays], Arrays]]] = {
    "A90 without m": ("tensor_missing", f"{FIRST}.m", without(lambda name: name.endswith(".m"))),
    "A90 without one m": ("tensor_missing", f"{LAST}.m", without(lambda name: name == f"{LAST}.m")),
    "A73 an m of no module": ("tensor_unexpected", "model.m", more("model.m")),
    "A75 m of one more dimension": ("tensor_shape", f"{FIRST}.m", every(lambda value: value[None], ".m")),
    "A75 m as long as the inputs": ("tensor_shape", f"{FIRST}.m: [6], expected [10]", every(lambda m: m[:6], ".m")),
    "A76 NaN F32": ("tensor_not_finite", f"{LAST}.m", one_length(math.nan)),
    "A76 NaN F16": ("tensor_not_finite", f"{LAST}.m", one_length(math.nan, np.float16)),
    "A76 NaN BF16": ("tensor_not_finite", f"{LAST}.m", one_length(math.nan, bf16)),
    "A77 infinity": ("tensor_not_finite", f"{LAST}.m", one_length(math.inf)),
    "A78 every m zero": ("adapter_is_zero", f"{FIRST}.m", every(np.zeros_like, ".m")),
    "A78 an m minus zero": ("adapter_is_zero", f"{FIRST}.m", every(lambda m: bf16(-np.zeros_like(m)), f"{FIRST}.m")),
    "A79 too long": ("tensor_too_large", f"{LAST}.m", one_length(10_001)),
    "A79 too long F16": ("tensor_too_large", f"{LAST}.m", one_length(60_000, np.float16)),
    "A79 too long BF16": ("tensor_too_large", f"{LAST}.m", one_length(-1e30, bf16)),
    "A80 I8": ("tensor_dtype", f"{FIRST}.m: I8", every(lambda value: value.astype(np.int8), ".m")),
}  # fmt: skip


@pytest.mark.parametrize("case", LENGTHS)
def test_lengths_that_cannot_be_meant_are_refused(dora: AdapterFiles, case: str) -> None:
    """An m that is missing, left over, misshapen, not finite, mute or longer than any row is refused, and named."""
    code, named, change = LENGTHS[case]
    refusal = refusal_of(*altered(dora, weights=saved(change(load(dora.weights)))))

    assert code == refusal.code
    assert named in said(refusal)


@pytest.mark.parametrize(
    "change",
    [every(np.zeros_like, "lora_b"), one_length(0), one_length(-0.5), one_length(1.5, np.float16), one_length(2, bf16)],
    ids=["lora_b zero", "one zero", "one negative", "F16", "BF16"],
)
def test_a_dora_may_differ_in_its_lengths_alone(dora: AdapterFiles, change: Callable[[Arrays], Arrays]) -> None:
    """Whether m differs from the base's lengths its bytes do not say; and a row may have been trained to nothing."""
    files, generation = altered(dora, weights=saved(change(load(dora.weights))))

    assert checked_files(files, "jo", generation).dora


# -- adapter_config.json

RAW_CONFIGS: dict[str, Callable[[bytes], bytes]] = {
    "A50 not JSON": lambda config: b"rank: 2",
    "A50 cut": lambda config: config[:-10],
    "A50 white space": lambda config: b"\n",
    "A51 a list": lambda config: b"[]",
    "A51 a string": lambda config: b'"x"',
    "A51 null": lambda config: b"null",
    "A51 a number": lambda config: b"5",
    "A52 BOM": lambda config: b"\xef\xbb\xbf" + config,
    "A52 not UTF-8": lambda config: config.replace(b"toy", b"t\xffy"),
    "A52 UTF-16": lambda config: config.decode().encode("utf-16"),
    "A53 deep": lambda config: b"[" * 100_000,
    "A53 deep and closed": lambda config: config.replace(b'"toy"', b"[" * 40 + b"]" * 40),
    "A55 a key twice": lambda config: config.replace(b"{", b'{"model": "toy",', 1),
    "A55 an inner key twice": lambda config: config.replace(b'"rank"', b'"rank": 2, "rank"'),
    "A56 long integer": lambda config: config.replace(b'"rank": 2', b'"rank": ' + b"9" * 5000),
    "A57 NaN": lambda config: config.replace(b'"scale": 2.0', b'"scale": NaN'),
    "A57 Infinity": lambda config: config.replace(b'"scale": 2.0', b'"scale": -Infinity'),
}


@pytest.mark.parametrize("case", RAW_CONFIGS)
def test_a_config_that_is_not_strict_json_is_refused(good: AdapterFiles, case: str) -> None:
    """adapter_config.json is strict JSON, or malformed."""
    changed = RAW_CONFIGS[case](good.config)
    assert changed != good.config
    files, generation = altered(good, config=changed)

    assert "config_malformed" == refusal_of(files, generation).code


def parameters(**values: Any) -> Callable[[Json], None]:
    return lambda config: config["lora_parameters"].update(values)


def no_parameter(*names: str) -> Callable[[Json], None]:
    def change(config: Json) -> None:
        for name in names:
            del config["lora_parameters"][name]

    return change


def alpha_for_scale(config: Json) -> None:
    config["lora_parameters"]["alpha"] = config["lora_parameters"].pop("scale")


CONFIGS: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "A58 unknown key": ("seed", lambda config: config.update(seed=1)),
    "A58 unknown inner key": ("bias", parameters(bias="none")),
    "A82 scale 1e30": ("scale", parameters(scale=1e30)),
    "A83 scale a string": ("scale", parameters(scale="20.0")),
    "A83 scale null": ("scale", parameters(scale=None)),
    "A83 scale a list": ("scale", parameters(scale=[2.0])),
    "A84 scale 0": ("scale", parameters(scale=0)),
    "A84 scale 0.0": ("scale", parameters(scale=-0.0)),
    "A84 scale true": ("scale", parameters(scale=True)),
    "A85 dropout 2": ("dropout", parameters(dropout=2)),
    "A85 dropout -0.5": ("dropout", parameters(dropout=-0.5)),
    "A85 dropout 1": ("dropout", parameters(dropout=1)),
    "A86 num_layers 0": ("num_layers", lambda config: config.update(num_layers=0)),
    "A86 num_layers -1": ("num_layers", lambda config: config.update(num_layers=-1)),
    "A86 num_layers 1e9": ("num_layers", lambda config: config.update(num_layers=10**9)),
    "A86 num_layers one more": ("num_layers", lambda config: config.update(num_layers=3)),
    "A86 num_layers true": ("num_layers", lambda config: config.update(num_layers=True)),
    "A86 num_layers 2.5": ("num_layers", lambda config: config.update(num_layers=2.5)),
    "A86 num_layers a string": ("num_layers", lambda config: config.update(num_layers="2")),
    "A87 keys not in the model": ("keys", parameters(keys=[*KEYS, "mlp.side_proj"])),
    "A87 keys empty": ("keys", parameters(keys=[])),
    "A87 keys a string": ("keys", parameters(keys="self_attn.q_proj")),
    "A87 keys a block": ("keys", parameters(keys=[*KEYS, "mlp"])),
    "A87 keys a norm": ("keys", parameters(keys=[*KEYS, "input_layernorm"])),
    "A87 keys the head": ("keys", parameters(keys=[*KEYS, "lm_head"])),
    "A87 keys twice": ("keys", parameters(keys=[*KEYS, KEYS[0]])),
    "A88 full": ("fine_tune_type", lambda config: config.update(fine_tune_type="full")),
    "A89 qlora": ("fine_tune_type", lambda config: config.update(fine_tune_type="qlora")),
    "A89 DORA": ("fine_tune_type", lambda config: config.update(fine_tune_type="DORA")),
    "A89 lora and a line break": ("fine_tune_type", lambda config: config.update(fine_tune_type="lora\n")),
    "A89 a number": ("fine_tune_type", lambda config: config.update(fine_tune_type=5)),
    "A89 absent": ("fine_tune_type", lambda config: config.pop("fine_tune_type")),
    "A91 rank 0": ("rank", parameters(rank=0)),
    "A91 rank -1": ("rank", parameters(rank=-1)),
    "A91 rank 8.0": ("rank", parameters(rank=8.0)),
    "A91 rank 100000": ("rank", parameters(rank=100_000)),
    "A91 rank 1e9": ("rank", parameters(rank=10**9)),
    "A92 no parameters": ("lora_parameters", lambda config: config.pop("lora_parameters")),
    "A92 no rank": ("rank", no_parameter("rank")),
    "A92 no scale": ("scale", no_parameter("scale")),
    "A92 no dropout": ("dropout", no_parameter("dropout")),
    "A92 alpha for scale": ("scale", alpha_for_scale),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_out_of_bounds_is_refused(good: AdapterFiles, case: str) -> None:
    """A value of adapter_config.json that cannot be meant is refused, and its field is named."""
    field, change = CONFIGS[case]
    config = json.loads(good.config)
    change(config)
    files, generation = altered(good, config=json.dumps(config).encode())
    refusal = refusal_of(files, generation)

    assert "config_invalid" == refusal.code
    assert any(field in detail for detail in refusal.details)


def test_a_scale_beyond_all_floats_is_refused(good: AdapterFiles) -> None:
    """A82: 1e999 is infinity, whatever JSON calls it."""
    files, generation = altered(good, config=good.config.replace(b'"scale": 2.0', b'"scale": 1e999'))

    assert "config_invalid" == refusal_of(files, generation).code


def test_all_faults_of_a_config_are_named_at_once(good: AdapterFiles) -> None:
    """Each field that is wrong is in the details."""
    config = json.loads(good.config)
    config |= {"num_layers": 0, "lora_parameters": {"rank": 0, "scale": "2", "dropout": 1, "keys": []}}
    files, generation = altered(good, config=json.dumps(config).encode())
    fields = ["num_layers", *(f"lora_parameters.{name}" for name in ("rank", "scale", "dropout", "keys"))]

    assert fields == [detail.split(":")[0] for detail in refusal_of(files, generation).details]


DISAGREEMENTS: dict[str, Callable[[Json], Any]] = {
    "A70 rank": lambda lora: lora.update(rank=3),
    "A70 scale": lambda lora: lora.update(scale=2.5),
    "A70 modules": lambda lora: lora.update(modules=lora["modules"][1:]),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_a_config_that_disagrees_with_the_manifest_is_refused(good: AdapterFiles, case: str) -> None:
    """adapter_config.json and the manifest's LoRA block say the same."""
    files, generation = altered(good, manifest=lambda document: DISAGREEMENTS[case](document["lora"]))

    assert "config_disagrees" == refusal_of(files, generation).code


def test_fewer_layers_than_the_weights_have_are_refused(good: AdapterFiles) -> None:
    """A86: where config and manifest agree on one layer, the other layer's tensors do not belong."""
    config = json.loads(good.config) | {"num_layers": 1}
    kept = [module for module in SHAPES if ".1." in module]
    files, generation = altered(
        good, config=json.dumps(config).encode(), manifest=lambda document: document["lora"].update(modules=kept)
    )
    refusal = refusal_of(files, generation)

    assert "tensor_unexpected" == refusal.code
    assert 4 == len(refusal.details)


def test_a_module_that_the_base_lacks_is_refused(good: AdapterFiles) -> None:
    """The manifest's modules are linear layers of the base."""
    files, generation = altered(
        good, manifest=lambda document: document["lora"]["modules"].append("model.layers.7.mlp.up_proj")
    )
    refusal = refusal_of(files, generation)

    assert "config_invalid" == refusal.code
    assert "model.layers.7.mlp.up_proj" in said(refusal)


@pytest.mark.parametrize(("kind", "code"), [("lora", "tensor_unexpected"), ("dora", "tensor_missing")])
def test_a_dora_is_not_taken_for_a_lora(good: AdapterFiles, dora: AdapterFiles, kind: str, code: str) -> None:
    """A70, A90: nor the other way round, whether config and manifest disagree or both call it a *kind* it is not."""
    files = good if kind == "dora" else dora
    config = json.dumps(json.loads(files.config) | {"fine_tune_type": kind}).encode()
    wrong = refusal_of(*altered(files, config=config, manifest=lambda document: document["lora"].update(type=kind)))

    assert "config_disagrees" == refusal_of(*altered(files, config=config)).code
    assert (code, sorted(f"{module}.m" for module in SHAPES)) == (wrong.code, wrong.details)


def test_dropout_is_accepted_and_never_applied(good: AdapterFiles) -> None:
    """A85: a dropout below 1 is a fact of training; nothing that serves knows it."""
    config = json.loads(good.config)
    config["lora_parameters"]["dropout"] = 0.5
    files, generation = altered(good, config=json.dumps(config).encode())

    assert not hasattr(checked_files(files, "jo", generation), "dropout")


# -- manifest.json

RAW_MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "A60 empty": lambda manifest: b"",
    "A60 cut": lambda manifest: manifest[:-10],
    "A60 not JSON": lambda manifest: b"name: jo",
    "A60 a list": lambda manifest: b"[]",
    "A60 null": lambda manifest: b"null",
    "A60 a key twice": lambda manifest: manifest.replace(b"{", b'{"name": "jo",', 1),
    "A60 NaN": lambda manifest: manifest.replace(b'"valid_loss": 1.0', b'"valid_loss": NaN'),
    "A60 BOM": lambda manifest: b"\xef\xbb\xbf" + manifest,
    "A60 deep": lambda manifest: b'{"a":' * 100_000,
    "A60 deep and closed": lambda manifest: b'{"a":' * 40 + b"1" + b"}" * 40,
    "A60 half a surrogate pair": lambda manifest: manifest.replace(b'"id": "toy"', b'"id": "\\ud800"'),
    "A60 half a surrogate pair in a key": lambda manifest: manifest.replace(b"{", b'{"\\ud800": 1,', 1),
    "A60 long integer": lambda manifest: manifest.replace(b'"steps": 1', b'"steps": ' + b"1" * 5000),
}


@pytest.mark.parametrize("case", RAW_MANIFESTS)
def test_a_manifest_that_is_not_strict_json_is_refused(good: AdapterFiles, case: str) -> None:
    """manifest.json is strict JSON, or malformed."""
    files, generation = altered(good)
    assert files.manifest is not None
    changed = RAW_MANIFESTS[case](files.manifest)
    assert changed != files.manifest

    assert "manifest_malformed" == refusal_of(AdapterFiles(files.weights, files.config, changed), generation).code


def changed_text(files: AdapterFiles, change: Callable[[Json], Any]) -> AdapterFiles:
    """The manifest changed in any way, and nothing signed anew."""
    document = json.loads(files.manifest or b"")
    change(document)
    return AdapterFiles(files.weights, files.config, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        (3, "3"),
        (1, "1"),
        (10**19, str(10**19)),
        ("1", "no known kind"),
        (None, "no known kind"),
        (True, "no known kind"),
    ],
    ids=["A61 newer", "A61 older", "A61 huge", "A61 a string", "A61 null", "A61 true"],
)
def test_another_schema_version_is_refused(good: AdapterFiles, version: Any, shown: str) -> None:
    """A manifest of another schema version is refused with both versions."""
    files, generation = altered(good)
    refusal = refusal_of(changed_text(files, lambda document: document.update(schema_version=version)), generation)

    assert "manifest_version" == refusal.code
    assert shown in refusal.message and "reads 2" in refusal.message


MANIFESTS: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "A62 unknown field": ("colour", lambda m: m.update(colour="red")),
    "A62 unknown inner field": ("contract.persona.age", lambda m: m["contract"]["persona"].update(age=4)),
    "A62 field missing": ("gate", lambda m: m.pop("gate")),
    "A62 inner field missing": ("lora.rank", lambda m: m["lora"].pop("rank")),
    "A62 name a number": ("name", lambda m: m.update(name=5)),
    "A62 size a string": (f"files.{WEIGHTS}.size", lambda m: m["files"][WEIGHTS].update(size="8")),
    "A62 rank a string": ("lora.rank", lambda m: m["lora"].update(rank="2")),
    "A62 steps a float": ("training.steps", lambda m: m["training"].update(steps=1.5)),
    "A62 format version a string": ("contract.format_version", lambda m: m["contract"].update(format_version="1")),
    "A62 passed a number": ("gate.passed", lambda m: m["gate"].update(passed=1)),
    "A62 metric a string": ("metrics.valid_loss", lambda m: m["metrics"].update(valid_loss="1")),
    "A62 fingerprint of another kind": ("base.fingerprint", lambda m: m["base"].update(fingerprint="sha1:00")),
    "A62 name that is none": ("name", lambda m: m.update(name="../jo")),
    "A62 size negative": (f"files.{WEIGHTS}.size", lambda m: m["files"][WEIGHTS].update(size=-1)),
    "A62 no golden prompt": ("contract.golden", lambda m: m["contract"].update(golden=[])),
    "A62 endless window": (
        "contract.window.burst_minutes",
        lambda m: m["contract"]["window"].update(burst_minutes=1e300),
    ),
    "A63 of another name": ("manifest.name", lambda m: m.update(name="mo")),
    "A66 a path": ("must list", lambda m: m["files"].update({"../x": m["files"][CONFIG]})),
    "A66 a path from the root": ("must list", lambda m: m["files"].update({"/etc/passwd": m["files"][CONFIG]})),
    "A66 an unknown file": ("must list", lambda m: m["files"].update({"x.bin": m["files"][CONFIG]})),
    "A66 a file left out": ("must list", lambda m: m["files"].pop(CONFIG)),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_does_not_say_what_it_must_is_refused(good: AdapterFiles, case: str) -> None:
    """A field unknown, missing or of the wrong type is refused, and named."""
    named, change = MANIFESTS[case]
    files, generation = altered(good)
    refusal = refusal_of(changed_text(files, change), generation)

    assert "manifest_invalid" == refusal.code
    assert named in said(refusal)


def test_all_faults_of_a_manifest_are_named_at_once(good: AdapterFiles) -> None:
    """A62: every field that is wrong is in the details."""
    files, generation = altered(good)
    changed = changed_text(files, lambda m: (m.update(colour=1), m.pop("gate"), m["lora"].update(rank=0)))

    assert {"colour", "gate", "lora.rank"} == {
        detail.split(":")[0] for detail in refusal_of(changed, generation).details
    }


def test_an_infinite_metric_is_refused(good: AdapterFiles) -> None:
    """A62: 1e999 is infinity, whatever JSON calls it, and no metric."""
    files, generation = altered(good)
    assert files.manifest is not None
    changed = files.manifest.replace(b'"valid_loss": 1.0', b'"valid_loss": 1e999')
    refusal = refusal_of(AdapterFiles(files.weights, files.config, changed), generation)

    assert ("manifest_invalid", ["metrics.valid_loss: finite_number"]) == (refusal.code, refusal.details)


def test_a_long_key_is_not_repeated_whole(good: AdapterFiles) -> None:
    """What a refusal says of a manifest's unknown field is short."""
    files, generation = altered(good)
    refusal = refusal_of(changed_text(files, lambda m: m.update({"x" * 9999: 1})), generation)

    assert "manifest_invalid" == refusal.code
    assert len(said(refusal)) < 200


def test_an_unlabelled_folder_is_refused(good: AdapterFiles) -> None:
    """A12: weights without a manifest are nobody's; both ways to use them are named."""
    refusal = refusal_of(AdapterFiles(good.weights, good.config, None), "0" * 16)

    assert "unlabelled" == refusal.code
    assert "allow_unlabelled" in refusal.message and "training adapters import" in refusal.message


GENERATIONS: dict[str, Callable[[Json], Any]] = {
    "A64 manifest": lambda m: m.update(generation="0" * 16),
}


@pytest.mark.parametrize("case", GENERATIONS)
def test_a_generation_that_poses_as_another_is_refused(good: AdapterFiles, case: str) -> None:
    """Folder, manifest and the digest of weights, config and contract name one generation."""
    files, generation = altered(good)

    assert "generation_mismatch" == refusal_of(changed_text(files, GENERATIONS[case]), generation).code


def test_a_folder_of_another_name_is_refused(good: AdapterFiles) -> None:
    """A64: a generation put into a folder of another number is refused, with all three numbers."""
    files, generation = altered(good)
    refusal = refusal_of(files, "0" * 16)

    assert "generation_mismatch" == refusal.code
    assert "0" * 16 in refusal.message and 2 == refusal.message.count(generation)


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("change", [{"size": 1}, {"sha256": "0" * 64}], ids=["size", "digest"])
def test_a_file_that_is_not_the_signed_one_is_refused(good: AdapterFiles, file: str, change: Json) -> None:
    """A65: a size or digest of one file that differs names the file."""
    files, generation = altered(good)
    refusal = refusal_of(changed_text(files, lambda m: m["files"][file].update(change)), generation)

    assert "digest_mismatch" == refusal.code
    assert [f"files.{file}: size or SHA-256 differs from the manifest's"] == refusal.details


# -- does it fit this base and this version


def test_another_base_is_refused(good: AdapterFiles) -> None:
    """A67: another base is refused with both fingerprints, short."""
    files, generation = altered(good, manifest=lambda m: m["base"].update(fingerprint="sha256:" + "c" * 64))
    refusal = refusal_of(files, generation)

    assert "base_mismatch" == refusal.code
    assert "base.fingerprint is sha256:cccccccccccc…" in said(refusal)
    assert facts().fingerprint[:19] in said(refusal)


def test_an_adapter_of_another_base_is_refused(good: AdapterFiles) -> None:
    """A67: an adapter whose manifest and weights agree on another base is refused with both fingerprints."""
    files, generation = altered(good)
    base = facts()
    with pytest.raises(AdapterRefused) as refusal:
        check_adapter(files, "jo", generation, "sha256:" + "d" * 64, base.template, base.shapes, base.blocks)

    assert "base_mismatch" == refusal.value.code
    assert "the base in memory is sha256:dddddddddddd…" in refusal.value.message


STYLE = {"lower_case": 96, "full_stop": 2, "emoji": 0, "favourite_emoji": [], "words": 4, "bubbles": 14}
CONTRACTS: dict[str, tuple[str, Json]] = {
    "A68 format version": ("format_version", {"format_version": 2}),
    "A68 variant": ("variant", {"variant": "turns"}),
    "A68 window": ("window", {"window": {"turns": 9}}),
    "A68 burst": ("window", {"window": {"burst_minutes": 9}}),
    "A68 persona": ("persona", {"persona": {"name": "Mo"}}),
    "A68 style": ("persona", {"persona": {"style": STYLE}}),
    "A68 template": ("template_sha256", {"template_sha256": "0" * 64}),
    "A68 tokenizer": ("tokenizer_sha256", {"tokenizer_sha256": "0" * 64}),
    "A68 control tokens": ("control_tokens_sha256", {"control_tokens_sha256": "0" * 64}),
    "A68 end of turn": ("end_of_turn", {"end_of_turn": 3}),
    "A68 golden ids": ("golden", {"golden": [{"thread": "direct", "ids": [1]}, {"thread": "group", "ids": [2]}]}),
    "A69 unknown variant": ("variant", {"variant": "raw_stile"}),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_another_contract_is_refused(good: AdapterFiles, case: str) -> None:
    """A contract that differs in one part from the one the weights were trained under is refused by that part."""
    part, change = CONTRACTS[case]

    def altered_contract(document: Json) -> None:
        contract = document["contract"]
        for key, value in change.items():
            contract[key] = {**contract[key], **value} if isinstance(value, dict) else value

    files, generation = altered(good, manifest=altered_contract)
    refusal = refusal_of(files, generation)

    assert "contract_mismatch" == refusal.code
    assert f"contract.{part} is " in said(refusal)


@pytest.mark.parametrize(
    "template", [pytest.param(label, id=label) for label, kind in KINDS.items() if "turns" in kind.refused]
)
def test_a_base_that_cannot_carry_the_variant_has_another_contract(template: str) -> None:
    """A68: an adapter of 'turns' on a template that does not mark speakers was trained on another one."""
    contract = PromptFormat(chat_template("chatml"), "turns", Persona()).contract

    with pytest.raises(AdapterRefused) as refusal:
        fitting_format(chat_template(template), contract)
    assert "contract_mismatch" == refusal.value.code


def test_a_manifest_survives_its_own_reader(good: AdapterFiles) -> None:
    """What the publisher writes is what the service reads."""
    assert good.manifest is not None
    manifest = read_manifest(good.manifest)

    assert check_manifest(good, "jo", manifest.generation) == manifest


# -- strict JSON


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"{} {}", "not JSON"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'[{"a": {"b": 1, "b": 2}}]', "twice"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "NaN"),
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b"1" * 21, "20 digits"),
        (b"[" * 33 + b"]" * 33, "deeply"),
        (b"[" * 200_000, "deeply"),
        (b'{"a":' * 200_000, "deeply"),
    ],
)
def test_strict_json_refuses(raw: bytes, reason: str) -> None:
    """JSON that no careful program writes is refused, and the reason never repeats it."""
    with pytest.raises(ValueError, match=reason) as refusal:
        parse_strict(raw)
    assert len(str(refusal.value)) < 80


@pytest.mark.parametrize("value", [None, 5, "é \U0001f600", [], {}, {"a": [1, 2.5, True, None]}, 10**19], ids=repr)
def test_strict_json_reads_what_json_writes(value: Any) -> None:
    """Ordinary JSON comes back as it was written."""
    assert value == parse_strict(json.dumps(value).encode())


def test_nesting_is_allowed_to_its_limit() -> None:
    """Thirty-two levels are fine."""
    assert parse_strict(b"[" * 32 + b"]" * 32)


def test_files_are_read_from_a_store_in_these_tests(tmp_path: Path) -> None:
    """The two cases of ``altered`` agree: without a change it is the published generation."""
    store = tmp_path / "adapters"
    generation = make_adapter(store)

    assert generation == altered(read_generation(store, "jo", generation))[1]


# -- is every case of the matrix here

NEVER_GIVEN = {"A49", "A59"}
ELSEWHERE = {
    "A04": "which generation CURRENT stands for is the service's question: it says missing_file (test_registry)",
    "A09": "that what is loaded goes on is the service's (test_registry); a store that is not there has no names",
}


def cases_of(test: Any) -> Iterator[str]:
    """What a test says of itself, and the names of its cases."""
    yield test.__doc__ or ""
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            ids = mark.kwargs.get("ids")
            yield from map(str, ids if isinstance(ids, list) else mark.args[1])


def faults_in(text: str) -> Iterator[str]:
    for first, last in re.findall(r"\bA(\d{2,3})(?: to A(\d{2,3}))?\b", text):
        yield from (f"A{number:02}" for number in range(int(first), int(last or first) + 1))


def by_fault() -> dict[str, set[str]]:
    """Fault id -> the tests that name it in their docstring or in a case."""
    found: dict[str, set[str]] = {}
    for name, test in (globals() | vars(test_adapter_store)).items():
        if name.startswith("test_") and callable(test):
            for fault in (fault for text in cases_of(test) for fault in faults_in(text)):
                found.setdefault(fault, set()).add(name)
    return found


def test_every_fault_of_an_adapter_has_a_test() -> None:
    """Cases 1 to 92 of the matrix, but for those that are answered elsewhere."""
    wanted = {f"A{number:02}" for number in range(1, 93)} - NEVER_GIVEN

    assert set() == wanted - by_fault().keys() - ELSEWHERE.keys()
    assert set() == ELSEWHERE.keys() & by_fault().keys()
