"""Keep libraries quiet and off the network. Call it before they are imported: afterwards they do not look."""

import os


def stay_offline(hub_allowed: bool) -> None:
    """Switch off telemetry and, unless a model has to come from the hub, every hub access."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not hub_allowed:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["TRANSFORMERS_OFFLINE"] = "1"
