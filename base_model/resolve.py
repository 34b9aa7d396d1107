"""From what a person typed to a local folder with a model that is safe to read: safetensors only, no code."""

import json
import re
from pathlib import Path

from errors import BaseRefused

STARTER = Path(__file__).parent / "starter"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a model folder may bring. Anything else of a hub repository is never downloaded.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_CODE_KEYS = ("auto_map", "model_file")


def is_hub_id(model: str) -> bool:
    """Whether *model* names a hub repository: ``owner/name``, and no local folder begins like that."""
    return bool(_HUB_ID.fullmatch(model)) and not Path(model).exists() and not Path(model.split("/")[0]).exists()


def resolve(model: str) -> Path:
    """The local folder of *model*, a path or a hub id; a hub model is downloaded once.

    Raises:
        BaseRefused: If there is none, or it is not a model we can read safely; all reasons in ``details``.
    """
    folder = _download(model) if is_hub_id(model) else Path(model)
    if not folder.is_dir():
        raise BaseRefused(
            f"no model at '{model}': give the path of a folder with config.json and *.safetensors, "
            "or a hub id like LiquidAI/LFM2-700M",
            code="no_such_model",
        )
    faults = _faults(folder)
    if faults:
        raise BaseRefused(f"the model in '{model}' cannot be used", code="unsafe_model", details=faults)
    return folder


def _faults(folder: Path) -> list[str]:
    faults = [f"{name} is missing" for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not list(folder.glob("model*.safetensors")):
        faults.append("there is no model*.safetensors: only safetensors weights are read, never pickled ones")
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            faults.append(f"{name} is not JSON")
            continue
        if not isinstance(config, dict):
            faults.append(f"{name} is not a JSON object")
            continue
        faults += [f"{name} asks to run code of its own ('{key}')" for key in _CODE_KEYS if config.get(key)]
    return faults


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(model, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BaseRefused(
            f"'{model}' is no local folder and could not be fetched from the hub ({type(error).__name__}): "
            "check the name and the network, or give the path of a downloaded folder",
            code="download_failed",
        ) from error
