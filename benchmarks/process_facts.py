"""What Linux tells of a running process."""

import os
from pathlib import Path


def process_facts(process: int) -> dict[str, int]:
    """Resident bytes, open file descriptors and threads of *process*; empty where there is no /proc."""
    folder = Path(f"/proc/{process}")
    if not folder.is_dir():
        return {}
    return {
        "resident_bytes": int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(list((folder / "fd").iterdir())),
        "threads": len(list((folder / "task").iterdir())),
    }
