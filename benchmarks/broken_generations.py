"""Generations that must never be loaded, one of each kind, each with the code it has to be refused by.

Each begins as a good generation and is wrong in one thing. Where digests would show that first, the kind is there
twice: with the manifest as it was, and signed anew, as a hostile or careless publisher would do it.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from prompt_format.adapter_store import MAX_CONFIG, MAX_WEIGHTS, AdapterFiles
from prompt_format.contract import Contract
from prompt_format.manifest import CONFIG, MANIFEST, WEIGHTS, file_entry, generation_of

Json = dict[str, Any]
Arrays = dict[str, np.ndarray]
OTHER_BASE = "sha256:" + "0" * 64
NO_GENERATION = "0" * 16


@dataclass(frozen=True)
class Fault:
    """One kind of wrong.

    Attributes:
        code: It has to be refused by.
        weights, config: What becomes of the file's bytes.
        manifest: Changes the document, which tells the truth about the files and is signed afterwards.
        text: What becomes of the manifest's bytes after that.
        folder: Is done to the folder in the end.
        signed: False: the manifest and the folder's number stay as they were.
        by_name_only: Whoever asks for the generation by its number does get it.
    """

    code: str
    weights: Callable[[bytes], bytes] | None = None
    config: Callable[[bytes], bytes] | None = None
    manifest: Callable[[Json], Any] | None = None
    text: Callable[[bytes], bytes] | None = None
    folder: Callable[[Path], Any] | None = None
    signed: bool = True
    by_name_only: bool = False


def write_broken(fault: Fault, good: AdapterFiles, parent: Path) -> str:
    """A folder in *parent* with *good* made wrong by *fault*: its name, a generation's."""
    assert good.manifest is not None
    weights = fault.weights(good.weights) if fault.weights else good.weights
    config = fault.config(good.config) if fault.config else good.config
    document: Json = json.loads(good.manifest)
    if fault.signed:
        _sign(document, weights, config, fault.manifest)
    text = json.dumps(document).encode()
    folder = parent / document["generation"]
    folder.mkdir(parents=True, mode=0o700)
    for name, data in ((WEIGHTS, weights), (CONFIG, config), (MANIFEST, fault.text(text) if fault.text else text)):
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    if fault.folder:
        fault.folder(folder)
    return folder.name


def _sign(document: Json, weights: bytes, config: bytes, change: Callable[[Json], Any] | None) -> None:
    entries = {WEIGHTS: file_entry(weights), CONFIG: file_entry(config)}
    document["files"] = {name: entry.model_dump() for name, entry in entries.items()}
    if change:
        change(document)
    contract = Contract.model_validate(document["contract"])
    document["generation"] = generation_of(entries[WEIGHTS].sha256, entries[CONFIG].sha256, contract)


# -- changes of weights


def _parts(weights: bytes) -> tuple[Json, bytes]:
    (size,) = struct.unpack_from("<Q", weights)
    return json.loads(weights[8 : 8 + size]), weights[8 + size :]


def _together(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _header(change: Callable[[Json], Any]) -> Callable[[bytes], bytes]:
    def changed(weights: bytes) -> bytes:
        header, body = _parts(weights)
        change(header)
        return _together(json.dumps(header).encode(), body)

    return changed


def _entry(**values: Any) -> Callable[[bytes], bytes]:
    """Of the first tensor's entry."""
    return _header(lambda header: header[_first(header)].update(values))


def _first(names: Any) -> str:
    return min(name for name in names if name.endswith("lora_a"))


def _share_bytes(header: Json) -> None:
    first, *_, last = sorted(name for name in header if name.endswith("lora_a"))
    header[last]["data_offsets"] = header[first]["data_offsets"]


def _name_twice(weights: bytes) -> bytes:
    header, body = _parts(weights)
    text, first = json.dumps(header), _first(header)
    return _together(text.replace(first.replace("lora_a", "lora_b"), first, 1).encode(), body)


def _arrays(change: Callable[[Arrays], Arrays]) -> Callable[[bytes], bytes]:
    """Of the tensors; what else the file says stays."""

    def changed(weights: bytes) -> bytes:
        changed = {name: np.ascontiguousarray(value) for name, value in change(load(weights)).items()}
        return save(changed, _parts(weights)[0].get("__metadata__"))

    return changed


def _each(change: Callable[[np.ndarray], Any], suffix: str = "") -> Callable[[bytes], bytes]:
    return _arrays(lambda a: {name: change(value) if name.endswith(suffix) else value for name, value in a.items()})


def _one_value(value: float) -> Callable[[bytes], bytes]:
    def changed(arrays: Arrays) -> Arrays:
        one = arrays[max(arrays)].copy()
        one[0, 3] = value
        return {**arrays, max(arrays): one}

    return _arrays(changed)


def _of_rank_one(arrays: Arrays) -> Arrays:
    return {name: value[:, :1] if name.endswith("lora_a") else value[:1] for name, value in arrays.items()}


def _exchange(arrays: Arrays) -> Arrays:
    """Each factor A of one shape gets the values of the next one."""
    found = dict(arrays)
    for shape in {value.shape for value in arrays.values()}:
        names = sorted(name for name, value in arrays.items() if value.shape == shape and name.endswith("lora_a"))
        found |= {name: arrays[other] for name, other in zip(names, names[1:] + names[:1], strict=True)}
    return found


WEIGHT_FAULTS: dict[str, Fault] = {
    name: Fault(code, weights=change)
    for code, each in {
        "weights_malformed": {
            "weights empty": lambda weights: b"",
            "weights cut in the header": lambda weights: weights[:60],
            "weights without the last byte": lambda weights: weights[:-1],
            "weights half": lambda weights: weights[: len(weights) // 2],
            "weights with bytes after the end": lambda weights: weights + bytes(100),
            "weights all zero bytes": lambda weights: bytes(len(weights)),
            "header without end": lambda weights: struct.pack("<Q", 2**63) + weights[8:],
            "header not JSON": lambda weights: _together(b"{" * 40, _parts(weights)[1]),
            "header deep": lambda weights: _together(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
            "a tensor's name twice": _name_twice,
            "a hole": _header(lambda header: header.pop(_first(header))),
            "two tensors of the same bytes": _header(_share_bytes),
            "an unknown dtype": _entry(dtype="F99"),
            "a dtype of another size": _entry(dtype="F16"),
            "dimensions below zero": _entry(shape=[-6, -2]),
        },
        "adapter_is_zero": {
            "body zeroed": lambda weights: weights[: -len(_parts(weights)[1])] + bytes(len(_parts(weights)[1])),
            "every lora_b zero": _each(np.zeros_like, "lora_b"),
        },
        "tensor_missing": {
            "a tensor missing": _arrays(lambda a: {name: value for name, value in a.items() if name != max(a)}),
            "every lora_b missing": _arrays(lambda a: {name: v for name, v in a.items() if name.endswith("lora_a")}),
            "no tensor": _arrays(lambda a: {}),
        },
        "tensor_unexpected": {
            "a tensor too many": _arrays(lambda a: {**a, "evil": np.ones((6, 2), np.float32)}),
            "a weight of the base": _arrays(
                lambda a: {**a, _first(a).replace("lora_a", "weight"): np.ones((6, 2), np.float32)}
            ),
        },
        "tensor_shape": {
            "a lower rank": _arrays(_of_rank_one),
            "factors transposed": _each(np.transpose),
        },
        "tensor_dtype": {
            "whole numbers": _each(lambda value: value.astype(np.int8)),
            "double precision": _each(lambda value: value.astype(np.float64)),
        },
        "tensor_not_finite": {"a NaN": _one_value(math.nan), "an infinity": _one_value(-math.inf)},
        "tensor_too_large": {"a million times": _each(lambda value: value * np.float32(1e6))},
        "probe_is_base": {"too small to matter": _each(lambda value: value * np.float32(1e-12))},
        "probe_disagrees": {
            "tensors exchanged": _arrays(_exchange),
            "the sign of every lora_b": _each(np.negative, "lora_b"),
        },
    }.items()
    for name, change in each.items()
}  # fmt: skip


# -- of adapter_config.json


def _config(change: Callable[[Json], Any]) -> Callable[[bytes], bytes]:
    def changed(config: bytes) -> bytes:
        document = json.loads(config)
        change(document)
        return json.dumps(document).encode()

    return changed


def _parameters(**values: Any) -> Callable[[bytes], bytes]:
    return _config(lambda config: config["lora_parameters"].update(values))


CONFIG_FAULTS: dict[str, Fault] = {
    name: Fault(code, config=change)
    for code, each in {
        "config_malformed": {
            "config empty": lambda config: b"",
            "config cut": lambda config: config[:-10],
            "config a list": lambda config: b"[]",
            "config with NaN": _parameters(scale=math.nan),
            "config with a key twice": lambda config: config.replace(b"{", b'{"model": "x",', 1),
            "config deep": lambda config: b"[" * 10_000,
            "config in UTF-16": lambda config: config.decode().encode("utf-16"),
        },
        "config_invalid": {
            "rank 0": _parameters(rank=0),
            "scale 0": _parameters(scale=0.0),
            "scale beyond bounds": _parameters(scale=1e30),
            "dropout 2": _parameters(dropout=2.0),
            "more layers than there are": _config(lambda config: config.update(num_layers=10**9)),
            "keys of no layer": _parameters(keys=["mlp.side_proj"]),
            "another method": _config(lambda config: config.update(fine_tune_type="full")),
            "an unknown key in the config": _config(lambda config: config.update(seed=1)),
        },
        "config_disagrees": {"another rank": _parameters(rank=4), "another scale": _parameters(scale=4.0)},
        "file_too_large": {"config too large": lambda config: config + b" " * MAX_CONFIG},
    }.items()
    for name, change in each.items()
}


# -- of manifest.json


def _said_by_the_weights(key: str, value: str) -> Callable[[bytes], bytes]:
    return _header(lambda header: header["__metadata__"].update({key: value}))


def _says_nothing(weights: bytes) -> bytes:
    return save(load(weights))


def _persona(document: Json) -> None:
    document["contract"]["persona"]["name"] = "Mo"


def _template(document: Json) -> None:
    document["contract"]["template_sha256"] = "0" * 64


def _text(change: Callable[[Json], Any]) -> Callable[[bytes], bytes]:
    """Of the manifest, and nothing signed anew."""
    return _config(change)


MANIFEST_FAULTS: dict[str, Fault] = {
    "manifest missing": Fault("unlabelled", folder=lambda folder: (folder / MANIFEST).unlink()),
    **{
        name: Fault(code, text=change)
        for code, each in {
            "manifest_malformed": {
                "manifest empty": lambda text: b"",
                "manifest cut": lambda text: text[:-10],
                "manifest a list": lambda text: b"[]",
                "manifest with NaN": lambda text: text.replace(b'"metrics": {', b'"metrics": {"loss": NaN', 1),
                "manifest with a key twice": lambda text: text.replace(b"{", b'{"name": "a",', 1),
                "manifest deep": lambda text: b'{"a":' * 100_000,
            },
            "manifest_version": {"a newer schema": _text(lambda m: m.update(schema_version=99))},
            "manifest_invalid": {
                "manifest of another name": _text(lambda m: m.update(name="z")),
                "an unknown field": _text(lambda m: m.update(colour="red")),
                "a field missing": _text(lambda m: m.pop("gate")),
                "a file elsewhere": _text(lambda m: m["files"].update({"../x": m["files"][CONFIG]})),
            },
            "generation_mismatch": {"another generation": _text(lambda m: m.update(generation=NO_GENERATION))},
            "digest_mismatch": {"another size": _text(lambda m: m["files"][CONFIG].update(size=1))},
        }.items()
        for name, change in each.items()
    },
    "another base, in the manifest": Fault(
        "base_mismatch", manifest=lambda document: document["base"].update(fingerprint=OTHER_BASE)
    ),
    "another base": Fault(
        "base_mismatch",
        weights=_said_by_the_weights("base", OTHER_BASE),
        manifest=lambda document: document["base"].update(fingerprint=OTHER_BASE),
    ),
    "another persona, in the manifest": Fault("contract_mismatch", manifest=_persona),
    "another template": Fault("contract_mismatch", weights=_says_nothing, manifest=_template),
    "gate not passed": Fault(
        "gate_not_passed", manifest=lambda document: document["gate"].update(passed=False), by_name_only=True
    ),
}


# -- of the folder


def _as_fifo(name: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name, 0o600)

    return changed


def _as_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def _as_link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "elsewhere")
    (folder / WEIGHTS).symlink_to("elsewhere")


def _as_loop(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(WEIGHTS)


def _behind_a_link(folder: Path) -> None:
    """The generation's folder is a link to one that is good."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.symlink_to(aside.resolve())


def _endless(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, MAX_WEIGHTS + 1)  # a hole: it takes no place on the disk


def _as_peft(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")


FOLDER_FAULTS: dict[str, Fault] = {
    name: Fault(code, folder=change)
    for code, each in {
        "missing_file": {
            "config missing": lambda folder: (folder / CONFIG).unlink(),
            "weights missing": lambda folder: (folder / WEIGHTS).unlink(),
            "a PEFT folder": _as_peft,
        },
        "not_a_regular_file": {
            "weights a FIFO": _as_fifo(WEIGHTS),
            "config a FIFO": _as_fifo(CONFIG),
            "manifest a FIFO": _as_fifo(MANIFEST),
            "weights a folder": _as_folder,
            "weights a link": _as_link,
            "weights a link to themselves": _as_loop,
            "generation a link": _behind_a_link,
        },
        "unsafe_file": {
            "weights of mode 0666": lambda folder: (folder / WEIGHTS).chmod(0o666),
            "manifest of mode 0620": lambda folder: (folder / MANIFEST).chmod(0o620),
            "generation of mode 0777": lambda folder: folder.chmod(0o777),
            "weights with a second link": lambda folder: os.link(folder / WEIGHTS, folder / "second"),
        },
        "file_too_large": {"weights without end": _endless},
    }.items()
    for name, change in each.items()
}  # fmt: skip


# What CURRENT says -> the code.
CURRENT_FAULTS: dict[str, tuple[str, bytes]] = {
    "CURRENT empty": ("current_invalid", b""),
    "CURRENT a path": ("current_invalid", b"../a\n"),
    "CURRENT of two lines": ("current_invalid", b"0" * 16 + b"\n" + b"0" * 16 + b"\n"),
    "CURRENT not text": ("current_invalid", bytes(range(128, 256))),
    "CURRENT of a generation that is gone": ("missing_file", NO_GENERATION.encode() + b"\n"),
}


def faults() -> Iterator[tuple[str, Fault]]:
    """(kind, fault) of every generation that must not be loaded."""
    for kind, fault in {**WEIGHT_FAULTS, **CONFIG_FAULTS}.items():
        yield kind, fault
        code = fault.code if fault.code == "file_too_large" else "digest_mismatch"  # it is not read at all
        yield f"{kind}, manifest as it was", replace(fault, code=code, signed=False)
    yield from MANIFEST_FAULTS.items()
    yield from FOLDER_FAULTS.items()
