"""``make prove``: reliability figures, each by a program of its own that writes docs/figures.

kill_publish       publishers and trainings killed at any moment: is the store whole?
reload_under_load  good and bad reloads all the time while clients talk: is every reply right?
swaps              a thousand swaps of one adapter: is anything left behind?
many_adapters      two hundred adapters in eight slots
"""

import subprocess
import sys

PROGRAMS = ("kill_publish", "reload_under_load", "swaps", "many_adapters")


def main() -> int:
    """Run them all; 0 when every one held."""
    return max(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in PROGRAMS)


if __name__ == "__main__":
    sys.exit(main())
