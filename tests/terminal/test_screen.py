"""What is seen of a sweep while it goes on, in a terminal and outside of one."""

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import numpy as np
import pytest
from rich.console import Console

from mlp.curve import Verdict
from mlp.terminal.screen import Standing, Terminal, counting, meter, say, sparkline
from support.sweeping import SMOKE, environment_of_commands, plain

_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def test_standing_says_it_in_one_line():
    assert str(Standing(0, 4, "")) == "0/4 trials · 0% oscillating"
    standing = Standing(
        2, 4, "best 0.9828 (trial 1)", {Verdict.OSCILLATING: 1, Verdict.LEARNING: 1}
    )
    assert str(standing) == "2/4 trials · best 0.9828 (trial 1) · 50% oscillating"
    assert standing.in_counts() == "1 oscillating · 1 learning"
    assert Standing(0, 4, "").in_counts() == ""


def test_sparkline_has_a_mark_for_each_trial():
    assert sparkline([1.0, 10.0, 100.0]) == "1 ▁▅█ 1e+02"
    assert sparkline([0.5, np.inf, np.nan, 0.0]) == "0.5 ▁! ▁ 0.5"
    assert sparkline([]) == sparkline([np.nan]) == sparkline([np.inf]) == ""
    marks = sparkline(np.geomspace(0.1, 10, 500), most=12).split()[1]
    assert len(marks) == 12
    assert (marks[0], marks[-1]) == ("▁", "█")


def test_outside_of_a_terminal_there_is_one_line_a_generation():
    said = io.StringIO()
    with meter(plain(said), 0) as shown:
        for _ in range(100):
            shown.training(Standing(0, 4, ""), 1.0)
        shown.stored(Standing(2, 4, "best 0.98 (trial 1)"))
        shown.stored(Standing(4, 4, "best 0.98 (trial 1)"))
    first, second = said.getvalue().splitlines()
    assert first.startswith("2/4 trials · best 0.98 (trial 1) · 0% oscillating · ")
    assert second.endswith(" · 0 s left")


def test_long_generation_says_now_and_then_how_far_it_is():
    said = io.StringIO()
    with meter(plain(said), 0) as shown:
        for in_work in (0.5, 1.6, 1.7):
            shown.said -= 25  # seconds ago
            shown.training(Standing(4, 8, "", {}), in_work)
            shown.training(Standing(4, 8, "", {}), in_work)
    first, second, third = said.getvalue().splitlines()
    assert [first, second, third] == [f"{n}% of all steps are done" for n in (56, 70, 71)]


def test_time_left_counts_only_what_was_trained_now():
    said = io.StringIO()
    with meter(plain(said), 1000) as shown:
        shown.started -= 10
        shown.stored(Standing(1002, 1004, ""))
    assert said.getvalue().endswith(" · 10 s left\n")


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_picture_is_three_lines_of_the_terminal(width):
    said = io.StringIO()
    console = Console(file=said, width=width, force_terminal=True, color_system=None)
    standing = Standing(32, 128, "best 0.9828 (trial 131)", dict.fromkeys(Verdict, 1000))
    with meter(console, 0) as shown:
        shown.training(standing, 16.0, np.geomspace(1e-4, 1e4, 200))
        console.print(shown.picture())
    lines = [_CODES.sub("", line).rstrip() for line in re.split(r"[\r\n]+", said.getvalue())]
    first = next(i for i, line in enumerate(lines) if "32/128 trials" in line)
    _, verdicts, losses = lines[first : first + 3]
    assert max(map(len, lines)) <= width
    assert verdicts.startswith("verdicts 1000 diverged · ")
    assert losses.startswith("each network's loss (log) 0.0001 ▁")
    if width >= 60:
        assert losses.endswith("█ 1e+04")


def test_counting_says_how_many_of_how_many_in_a_terminal():
    said = io.StringIO()
    console = Console(file=said, width=80, force_terminal=True, color_system=None)
    with counting(console, "reruns", 8) as told:
        told(2, 0.6)
    assert "3 of 8 reruns" in _CODES.sub("", said.getvalue())


def test_counting_of_more_than_expected_goes_on():
    said = io.StringIO()
    console = Console(file=said, width=80, force_terminal=True, color_system=None)
    with counting(console, "reruns", 0) as told:
        told(0, 0.0)
        told(3, 0.2)
    assert "3 of 4 reruns" in _CODES.sub("", said.getvalue())


def test_counting_outside_of_a_terminal_is_a_line_now_and_then(monkeypatch):
    said, clock = io.StringIO(), iter((0.0, 1.0, 21.0, 21.0, 22.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with counting(plain(said), "reruns", 8) as told:
        for done in (1, 2, 3):
            told(done, 0.4)
    assert said.getvalue() == "2 of 8 reruns\n"


def test_lines_are_said_as_they_are():
    said = io.StringIO()
    say(plain(said), "[bold]a[/bold] " + "long " * 40 + ":smile:", "[/]")
    assert said.getvalue() == "[bold]a[/bold] " + "long " * 40 + ":smile:\n[/]\n"


def test_closed_pipe_is_for_the_command_to_end():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as raw:  # noqa: PTH123  a descriptor
        file = io.TextIOWrapper(raw, write_through=True)
        with pytest.raises(BrokenPipeError):
            Terminal(file=file).print("nobody reads this")
        file.detach()


@pytest.mark.system
def test_sweep_in_a_terminal_ends_with_a_clean_screen(here):
    text, code = in_terminal("sweep", *SMOKE, "training.steps=300")
    assert code == 0
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is back
    plain_lines = [_CODES.sub("", line) for line in re.split(r"[\r\n]+", text)]
    bars = [line for line in plain_lines if "━" in line]
    assert bars
    assert max(map(len, bars)) <= 80
    # Wiped before the results, which are whole lines.
    after = text[text.rindex("\x1b[2K") :]
    assert "━" not in after
    assert "  mlflow ui\r\n" in after


def in_terminal(name, *arguments) -> tuple[str, int]:
    """Runs a command in a terminal of 80 x 24; returns all that it wrote there."""
    mine, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = environment_of_commands() | {"TERM": "xterm"}
    for name_of_size in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name_of_size, None)
    with subprocess.Popen(
        [sys.executable, "-m", f"mlp.{name}", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not piece:
                break
            written += piece
        os.close(mine)
        return written.decode(), process.wait(60)
