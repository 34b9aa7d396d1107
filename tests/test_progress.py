"""How far long work has come, as a person sees it."""

import io
from collections.abc import Callable, Iterator

from training.progress import Progress


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so much at each look."""

    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += seconds

    return ticks().__next__


def told(stream: io.StringIO, seconds: float, steps: int) -> str:
    with Progress(stream, ticking(seconds)) as tell:
        for step in range(1, steps + 1):
            tell("rows", step, steps)
    return stream.getvalue()


def test_on_a_terminal_one_line_changes_and_is_cleared_in_the_end() -> None:
    """No more often than eyes can follow."""
    assert "\rrows: 1 of 2 (50 %)\rrows: 2 of 2 (100 %)\r" + " " * len("rows: 2 of 2 (100 %)") + "\r" == told(
        Terminal(), 1, 2
    )
    assert 2 == told(Terminal(), 0.05, 10).count("rows:")


def test_elsewhere_a_plain_line_is_written_now_and_then() -> None:
    """Each half minute: logs stay short."""
    assert "rows: 3 of 9 (33 %)\nrows: 6 of 9 (66 %)\nrows: 9 of 9 (100 %)\n" == told(io.StringIO(), 10, 9)


def test_short_work_tells_nothing() -> None:
    """Nothing is cleared away either."""
    assert "" == told(Terminal(), 0.001, 5) == told(io.StringIO(), 1, 5)


def test_what_has_no_known_end_is_counted() -> None:
    """Without a share."""
    stream = io.StringIO()
    with Progress(stream, ticking(60)) as tell:
        tell("messages", 1200, None)

    assert "messages: 1,200\n" == stream.getvalue()
