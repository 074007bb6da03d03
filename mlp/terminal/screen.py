"""Lines on the screen, a table, and progress: a bar in a terminal, else a line now and then."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from mlp.curve import Verdict

if TYPE_CHECKING:  # pandas
    from mlp.causes.observed import ValueCount

_BLOCKS = "▁▂▃▄▅▆▇█"
_BROKEN, _UNKNOWN = "!", " "

_COLUMNS = 80
_LINE_EVERY_S = 20.0  # often enough to know that it goes on, seldom enough for a log


class Terminal(Console):
    """A console that leaves a closed pipe (`| head`) to the command; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        """Raises what the system said, and prints no more."""
        self.quiet = True
        raise BrokenPipeError


def silent() -> Console:
    """A console that shows nothing, for who calls from Python and reads the results."""
    return Console(quiet=True)


def say(console: Console, *lines: str) -> None:
    """Prints lines as they are: brackets are no markup, and a long line stays one line."""
    for line in lines:
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def waiting(console: Console, text: str) -> AbstractContextManager[object]:
    """Shows in a terminal that the block may take a while."""
    return console.status(text) if console.is_terminal else nullcontext()


def sparkline(losses: ArrayLike, *, most: int = 80) -> str:
    """One character a trial, as high as its loss on a logarithmic scale, with the ends in numbers.

    Of more than `most` trials evenly spread ones are shown. A loss that is not finite is `!`, one
    that is not known yet is blank.

    Example:
        >>> sparkline([0.001, 0.01, 0.1, 1.0])
        '0.001 ▁▃▆█ 1'
    """
    values = np.asarray(losses, dtype=np.float64)
    if values.size > most:
        values = values[np.linspace(0, values.size - 1, most).round().astype(int)]
    is_seen = np.isfinite(values) & (values > 0)
    if not is_seen.any():
        return ""
    low, high = float(values[is_seen].min()), float(values[is_seen].max())
    span = math.log(high / low) or 1.0
    marks = [
        _BROKEN
        if math.isinf(value)
        else _UNKNOWN
        if math.isnan(value)
        else _BLOCKS[round(max(0.0, math.log(max(value, low) / low)) / span * (len(_BLOCKS) - 1))]
        for value in values.tolist()
    ]
    return f"{low:.2g} {''.join(marks)} {high:.2g}"


@dataclass(frozen=True)
class Standing:
    """How far a study is.

    Attributes:
        best: the best value and its trial, in words; empty before the first.
        verdicts: verdict -> stored trials with it.
    """

    n_done: int
    n_planned: int
    best: str
    verdicts: Mapping[Verdict, int] = field(default_factory=dict)

    @property
    def progress(self) -> str:
        """How many trials are done, and the best."""
        best = f" · {self.best}" if self.best else ""
        return f"{self.n_done}/{self.n_planned} trials{best}"

    def __str__(self) -> str:
        share = self.verdicts.get(Verdict.OSCILLATING, 0) / max(1, self.n_done)
        return f"{self.progress} · {share:.0%} oscillating"

    def in_counts(self) -> str:
        """The verdicts so far, such as `3 oscillating · 12 learning`; empty before the first."""
        counts = [(self.verdicts.get(verdict, 0), verdict.value) for verdict in Verdict]
        return " · ".join(f"{n} {verdict}" for n, verdict in counts if n)


@dataclass(eq=False)
class Meter:
    """Shows how far something is; made by `meter` and `counting`.

    Attributes:
        bar: of one task; None outside of a terminal.
        first_done: what was done before; the estimate of the time left leaves it out.
        said: when the last line was said.
    """

    console: Console
    bar: Progress | None
    first_done: int
    started: float
    said: float
    below: Sequence[str] = ()

    def move(
        self, done: float, total: int, text: str, *, line: str, below: Sequence[str] = ()
    ) -> None:
        """Shows how far it is: the bar with its text, or the line where it is time for one.

        An empty line is not said.
        """
        if self.bar is not None:
            self.below = below
            self.bar.update(self.bar.task_ids[0], completed=done, total=total, description=text)
        elif line and time.monotonic() - self.said >= _LINE_EVERY_S:
            self._line(line)

    def training(self, standing: Standing, trials_in_work: float, losses: ArrayLike = ()) -> None:
        """Told often while a generation trains.

        Args:
            trials_in_work: trials' worth of steps done in the present generation.
            losses: `(trial,)`, the latest ones of the trials in training.
        """
        if self.bar is None and time.monotonic() - self.said < _LINE_EVERY_S:
            return  # nothing is shown
        worth, counts = standing.n_done + trials_in_work, standing.in_counts()
        heading = "each network's loss (log) "
        room = self.console.width - len(heading) - len("0.0001  0.0001") - 1
        curve = sparkline(losses, most=max(room, 8))
        below = (f"verdicts {counts}" if counts else "", heading + curve if curve else "")
        text = standing.progress
        if standing.n_done < standing.n_planned <= worth:
            text += " · being stored"
        line = f"{worth / standing.n_planned:.0%} of all steps are done" if trials_in_work else ""
        self.move(worth, standing.n_planned, text, line=line, below=below)

    def stored(self, standing: Standing) -> None:
        """Told once after each generation."""
        self.training(standing, 0.0)
        if self.bar is None:
            done = standing.n_done - self.first_done
            elapsed = time.monotonic() - self.started
            left = elapsed / max(done, 1) * (standing.n_planned - standing.n_done)
            self._line(f"{standing} · {left:.0f} s left")

    def picture(self) -> Group:
        """What moves in a terminal: the bar, with the lines below it."""
        assert self.bar is not None
        return Group(self.bar, *map(_row, self.below))

    def _line(self, text: str) -> None:
        self.said = time.monotonic()
        say(self.console, text)


@contextmanager
def meter(console: Console, n_done: int) -> Iterator[Meter]:
    """Shows progress while the block runs.

    Args:
        n_done: what was done before; the estimate of the time left leaves it out.
    """
    now = time.monotonic()
    if not console.is_terminal:
        yield Meter(console, None, n_done, now, now)
        return
    # Next to the text a bar of 20 leaves the line whole at 80 columns; a longer text is cut.
    text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
    columns = (BarColumn(bar_width=20), text, TimeRemainingColumn(compact=True), TextColumn("left"))
    bar = Progress(*columns, console=console)
    bar.add_task("", completed=n_done, total=None)
    shown = Meter(console, bar, n_done, now, now)
    with Live(get_renderable=shown.picture, console=console, transient=True, refresh_per_second=8):
        yield shown


@contextmanager
def counting(
    console: Console, what: str, n_expected: int
) -> Iterator[Callable[[int, float], None]]:
    """Counts while the block runs.

    Args:
        what: is counted, such as `reruns`.
        n_expected: how many it will be; more do no harm.

    Yields:
        Told how many are done and how many are in work.
    """
    with meter(console, 0) as shown:

        def told(done: int, in_work: float) -> None:
            now = done + in_work
            total = max(1, n_expected, math.ceil(now))
            line = f"{now:.0f} of {total} {what}"
            shown.move(now, total, line, line=line)

        yield told


def render_verdicts(counts: Sequence["ValueCount"]) -> Group:
    """The counts as a table for the terminal; verdicts that never came out have no column.

    A parameter has a line of its own, so that the table of the longest name fits 80 columns.
    """
    seen = [v for v in Verdict if any(own.counts.get(v) for own in counts)]
    headings = [*(verdict.value for verdict in seen), "share"]
    width = max(len("setting"), *(len(own.value) + 1 for own in counts), 0)
    gap = " " if width + sum(len(name) + 2 for name in headings) > _COLUMNS else "  "
    lines = [_row("verdicts by setting (share: of runs that oscillate)", style="italic")]
    lines += [_row(gap.join([f"{'setting':<{width}}", *headings]), style="bold")]
    previous = ""
    for own in counts:
        if own.parameter != previous:
            lines.append(_row(own.parameter, style="bold"))
            previous = own.parameter
        share = f"{own.n_oscillating / own.n_runs:.0%}"
        cells = [str(own.counts.get(verdict, 0) or "·") for verdict in seen]
        cells.append(share if share != "0%" else "·")
        aligned = [f"{cell:>{len(name)}}" for cell, name in zip(cells, headings, strict=True)]
        lines.append(_row(gap.join([f" {own.value:<{width - 1}}", *aligned])))
    return Group(*lines)


def _row(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
