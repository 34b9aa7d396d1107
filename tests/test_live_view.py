"""A run as a person sees it: on terminals of several widths, and where there is none."""

import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest
from rich.console import Console

from training.live_view import LiveView, Told, clock_time, figures, picture, sparkline, watching
from training.watch import Lines, Step

HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
FAKE_RUN = """
import sys
from training.live_view import watching
from training.watch import Step
with watching(sys.stdout) as watch:
    watch.say("begins")
    for number in range(1, 6):
        watch.stepped(Step(number, 5, 5.0 - number / 2, 1e-3, 4, 40, 1200, 0.5, 2 * 10**9))
        watch.validated(number, 5.5 - number / 2, True)
        {then}
    watch.say("ends")
"""


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def a_step(number: int, total: int = 10, loss: float = 2.0, seconds: float = 0.5) -> Step:
    return Step(number, total, loss, 2e-3, 4, 40, 1200, seconds, 2_500_000_000)


def told(steps: int, *, total: int = 10, first: int = 1) -> Told:
    """A run of which *steps* were seen, each of half a second, with a pause of half a second after each."""
    taken = [a_step(number, total) for number in range(first, first + steps)]
    return Told(taken, [(first, 3.0)], began=100.0, last=100.0 + steps)


def drawn(what: Told, now: float, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(picture(what, now, width))
    return console.export_text().splitlines()


def in_a_terminal(then: str, columns: int, **environment: str) -> str:
    """What a process writes to a real terminal of so many columns; *then* is what happens after each step."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE_RUN.replace("{then}", then)],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**inherited, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # Linux ends so when the other side is closed
        pass
    os.close(ours)
    process.wait()
    return written.decode()


# -- which view


def test_a_terminal_gets_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can move its cursor and knows the characters."""
    monkeypatch.setenv("TERM", "xterm-256color")

    assert isinstance(watching(Terminal()), LiveView)


@pytest.mark.parametrize("kind", ["dumb", "unknown", None])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    """As TERM says."""
    monkeypatch.delenv("TERM") if kind is None else monkeypatch.setenv("TERM", kind)
    with watching(Terminal()) as watch:
        assert isinstance(watch, Lines)


def test_a_terminal_without_the_characters_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are no ASCII."""
    monkeypatch.setenv("TERM", "xterm")
    terminal = type("Ascii", (Terminal,), {"encoding": "ascii"})()
    with watching(terminal) as watch:
        assert isinstance(watch, Lines)


def test_a_file_gets_plain_lines_with_speed_and_memory() -> None:
    """ASCII, one a validation, each over the steps since the one before."""
    stream = io.StringIO()
    with watching(stream) as watch:
        watch.say("begins")
        for number in (1, 2):
            watch.stepped(a_step(number, loss=4.0 - number))
        watch.validated(2, 2.25, True)
        watch.stepped(a_step(3, seconds=1.0))
        watch.validated(3, 2.5, False)

    assert [
        "begins",
        "step 2/10  training loss 2.5000  validation loss 2.2500  (best)  2,400 tokens/s  peak 2.50 GB",
        "step 3/10  training loss 2.0000  validation loss 2.5000  1,200 tokens/s  peak 2.50 GB",
    ] == stream.getvalue().splitlines()


def test_a_validation_without_a_step_has_no_speed() -> None:
    """There is nothing to divide by."""
    lines: list[str] = []
    Lines(lines.append).validated(0, 2.5, False)

    assert ["step 0/0  training loss 0.0000  validation loss 2.5000"] == lines


# -- what is shown


def test_the_figures_have_their_units() -> None:
    """Speed is that of the steps alone; time counts what lies between them too."""
    assert {
        "training loss": "2.0000",
        "learning rate": "2.00e-03",
        "validation": "3.0000 (best)",
        "best": "3.0000 at 1",
        "speed": "2,400 tokens/s",
        "examples": "8.0/s",
        "time": "0:04",
        "left": "0:06",
        "peak memory": "2.50 GB",
    } == dict(figures(told(4), now=104.0))


def test_the_best_validation_is_marked_only_while_it_is_the_last() -> None:
    """And kept beside a worse one."""
    run = told(4)
    run.validation += [(2, 2.5), (4, 2.75)]
    shown = dict(figures(run, now=104.0))

    assert ("2.7500", "2.5000 at 2") == (shown["validation"], shown["best"])


def test_before_the_first_validation_there_is_none() -> None:
    """Not a zero."""
    shown = dict(figures(Told([a_step(1)], [], 0.0, 0.5), now=0.5))

    assert ("-", "-") == (shown["validation"], shown["best"])


def test_speed_forgets_what_was_long_ago() -> None:
    """The last twenty steps count."""
    run = Told([a_step(number, 60, seconds=9.0 if number <= 10 else 0.5) for number in range(1, 31)], [], 0.0, 100.0)

    assert "2,400 tokens/s" == dict(figures(run, now=100.0))["speed"]


def test_the_time_left_counts_down_between_steps_and_not_below_zero() -> None:
    """A step may take long."""
    assert ["0:06", "0:04", "0:00"] == [dict(figures(told(4), now))["left"] for now in (104.0, 106.0, 190.0)]


def test_a_run_that_goes_on_judges_by_the_steps_it_saw() -> None:
    """It began at step 5 of 10: four steps took four seconds, two are left."""
    assert "0:02" == dict(figures(told(4, first=5), now=104.0))["left"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_times_are_minutes_and_from_an_hour_on_hours(seconds: float, text: str) -> None:
    """Rounded to seconds."""
    assert text == clock_time(seconds)


@pytest.mark.parametrize("width", [20, 40, 57, 58, 78])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    """Nor is a figure lost."""
    lines = drawn(told(4), 104.0, width)

    assert width >= max(len(line) for line in lines)
    if width >= 40:
        assert all(value in "\n".join(lines) for _, value in figures(told(4), 104.0))


def test_a_wide_terminal_has_two_figures_in_a_row() -> None:
    """A narrow one has one."""
    assert (2 + 5, 2 + 9) == (len(drawn(told(4), 104.0, 78)), len(drawn(told(4), 104.0, 40)))


def test_the_bar_says_how_far_the_run_is() -> None:
    """Its end is the number of steps."""
    assert drawn(told(4), 104.0, 40)[0].endswith(" 4/10")


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 5, ""),
        ([3.0], 5, "▁"),
        ([2.0, 2.0], 5, "▁▁"),
        ([8.0, 4.5, 1.0], 5, "█▅▁"),
        ([8.0, 6.0, 1.0, 1.0], 2, "█▁"),
    ],
)
def test_a_curve_of_bars(values: list[float], width: int, bars: str) -> None:
    """The lowest value is the lowest bar, the highest the highest; more values than columns are means."""
    assert bars == sparkline(values, width)


# -- on a terminal


def test_lines_are_said_as_they_are() -> None:
    """No markup, no folding: what stands between brackets, and what is long, is a person's text."""
    terminal = Terminal()
    line = "[bold]not bold[/bold] :smile: 1,234 " + "x" * 200
    with LiveView(terminal) as view:
        view.say(line)
        view.stepped(a_step(1))
        view.say(line)

    assert 2 == terminal.getvalue().count(line + "\n")


def test_nothing_is_drawn_before_the_first_step() -> None:
    """Only what was said."""
    terminal = Terminal()
    with LiveView(terminal) as view:
        view.say("begins")

    assert "begins\n" == terminal.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_cursor_is_back_however_the_run_ends(error: type[BaseException]) -> None:
    """And the last picture stays."""
    terminal = Terminal()
    with pytest.raises(error), LiveView(terminal, ticking()) as view:
        view.stepped(a_step(1))
        raise error
    written = terminal.getvalue()

    assert written.rindex(SHOWN) > written.rindex(HIDDEN)
    assert "2.50 GB" in written[written.rindex("1/10") :]


def ticking() -> Callable[[], float]:
    seconds = iter(range(10**6))
    return lambda: float(next(seconds))


@pytest.mark.parametrize("columns", [40, 120])
def test_a_whole_run_in_a_real_terminal(columns: int) -> None:
    """The last picture says how it ended, and stands under what was said last; the cursor is back."""
    written = in_a_terminal("pass", columns)
    last = written[written.rindex("ends") :]

    assert "begins" in written and "5/5" in last and "3.0000 (best)" in last
    assert written.rindex(SHOWN) > written.rindex(HIDDEN)


def test_ctrl_c_leaves_the_terminal_clean() -> None:
    """The cursor is back before anything else is written."""
    written = in_a_terminal("import os, signal; number == 3 and os.kill(os.getpid(), signal.SIGINT)", 80)

    assert written.index(SHOWN) < written.index("KeyboardInterrupt")
    assert HIDDEN not in written[written.index(SHOWN) :]


def test_without_colours_there_are_none() -> None:
    """NO_COLOR is obeyed; bold and dim are no colours."""
    coloured, plain = in_a_terminal("pass", 80), in_a_terminal("pass", 80, NO_COLOR="1")

    assert "\x1b[36m" in coloured
    assert "\x1b[3" not in plain


def test_a_dumb_terminal_gets_no_control_codes() -> None:
    """In a real one too."""
    assert "\x1b" not in in_a_terminal("pass", 80, TERM="dumb")


def test_rich_waits_for_a_live_view() -> None:
    """Plain lines do without it."""
    code = "import sys, training.live_view as v; v.watching(sys.stdout).__enter__(); assert 'rich' not in sys.modules"

    assert 0 == subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).returncode
