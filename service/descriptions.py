"""What ``GET /adapters`` says of a name."""

import time
from typing import Any

from prompt_format.adapter_check import CheckedAdapter
from service.catalogue import Known
from service.slot_pool import Serving


def status_of(known: Known, serving: Serving | None) -> str:
    """``serving`` in a slot, ``available`` when asked for, ``unlabelled`` (see reload) or ``refused``."""
    if serving is not None:
        return "serving"
    if known.generation is not None:
        return "available"
    return "unlabelled" if known.refusal and known.refusal["code"] == "unlabelled" else "refused"


def describe(
    name: str,
    known: Known,
    serving: Serving | None,
    checked: CheckedAdapter | None,
    is_default: bool,
    in_flight_on_previous: int,
) -> dict[str, Any]:
    """One row.

    Args:
        checked: What it answers with, once that has been read. What a manifest says is left out without it.
    """
    used = serving.used if serving else 0
    row = {
        "name": name,
        "default": is_default,
        "status": status_of(known, serving),
        "generation": known.generation,
        "pinned": known.pinned,
        "slot": serving.slot if serving else None,
        "in_flight": serving.leases if serving else 0,
        "in_flight_on_previous": in_flight_on_previous,
        "idle_s": round(time.monotonic() - used, 1) if used > 0 else None,
        "last_refusal": known.refusal,
    }
    return row if checked is None else row | _facts(checked)


def _facts(checked: CheckedAdapter) -> dict[str, Any]:
    manifest = checked.manifest
    return {
        "created_at": manifest.created_at,
        "contract": checked.format.digest,
        "variant": manifest.contract.variant,
        "persona": manifest.contract.persona.name,
        "lora": {"type": manifest.lora.type, "rank": manifest.lora.rank, "scale": manifest.lora.scale},
        "metrics": manifest.metrics,
        "gate": manifest.gate.model_dump(),
    }
