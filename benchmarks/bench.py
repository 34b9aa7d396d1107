"""``make bench``: speed and quality, each benchmark in a process of its own that writes docs/figures.

train_speed    examples a second and memory of training, beside mlx-lm's own trainer
train_quality  held-out loss after training, beside mlx-lm's own trainer
memorisation   what an adapter gives back of its training rows: planted canaries
serve_speed    reload, many clients and growing threads, beside mlx_lm.server; rows of many adapters
scale          a history of a million messages: import and build
"""

import subprocess
import sys

BENCHMARKS = ("train_speed", "train_quality", "memorisation", "serve_speed", "scale")


def main() -> int:
    """Run them all; 0 when every one ended well."""
    return max(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in BENCHMARKS)


if __name__ == "__main__":
    sys.exit(main())
