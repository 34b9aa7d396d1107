"""How far long work has come: on a terminal one line that changes, elsewhere a plain line now and then."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

Tell = Callable[[str, int, int | None], None]
"""(what is counted, how many so far, of how many; None: nobody knows)."""

_TERMINAL_S, _ELSEWHERE_S = 0.2, 30.0  # seconds between two lines


def silent(what: str, done: int, total: int | None) -> None:
    """Tells nobody."""


class Progress:
    """Tells *stream*. Used in a ``with``, so that the last line is cleared away."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._stream = stream or sys.stderr
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._every = _TERMINAL_S if self._is_terminal else _ELSEWHERE_S
        self._next = clock() + self._every
        self._width = 0

    def __enter__(self) -> Tell:
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def _tell(self, what: str, done: int, total: int | None) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._every
        line = f"{what}: {done:,}" + (f" of {total:,} ({100 * done // max(total, 1)} %)" if total is not None else "")
        if self._is_terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
