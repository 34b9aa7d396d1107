"""``make prove``: reliability figures, each by a program of its own that writes docs/figures."""

import sys

from benchmarks import kill_publish


def main() -> int:
    """Run them all; 0 when every one held."""
    return kill_publish.main()


if __name__ == "__main__":
    sys.exit(main())
