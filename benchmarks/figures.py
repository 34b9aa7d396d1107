"""Figures as files: each says on what machine, with what versions and when it was measured."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path("docs/figures")


def write_figures(name: str, figures: dict[str, Any]) -> Path:
    """``docs/figures/<name>.json`` with *figures* and where they come from."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    where = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("mlx", "mlx-lm", "transformers")},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({**figures, "measured": where}, indent=1) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
