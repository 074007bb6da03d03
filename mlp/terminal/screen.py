"""Progress on the screen: a living picture in a terminal, plain lines anywhere else."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from mlp.curve import Verdict

_BLOCKS = "▁▂▃▄▅▆▇█"
_BROKEN, _UNKNOWN = "!", " "

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
        n_done: trials that are stored.
        n_planned: trials in the end.
        best: the best value and its trial, in words; empty before the first.
        verdicts: verdict -> stored trials with it.
    """

    n_done: int
    n_planned: int
    best: str
    verdicts: Mapping[Verdict, int] = field(default_factory=dict)

    def __str__(self) -> str:
        best = f" · {self.best}" if self.best else ""
        share = self.verdicts.get(Verdict.OSCILLATING, 0) / max(1, self.n_done)
        return f"{self.n_done}/{self.n_planned} trials{best} · {share:.0%} oscillating"

    def in_counts(self) -> str:
        """The verdicts so far, such as `3 oscillating · 12 learning`; empty before the first."""
        counts = [(self.verdicts.get(verdict, 0), verdict.value) for verdict in Verdict]
        return " · ".join(f"{n} {verdict}" for n, verdict in counts if n)


@dataclass(eq=False)
class Picture:
    """What moves in a terminal: a bar, the verdicts so far, the losses of those in training."""

    bar: Progress
    task: TaskID
    standing: Standing
    losses: ArrayLike = ()

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.bar
        counts = self.standing.in_counts()
        yield Text(f"verdicts {counts}" if counts else "", no_wrap=True, overflow="ellipsis")
        heading = "loss of those in training "
        room = options.max_width - len(heading) - len("0.0001  0.0001") - 1
        line = sparkline(self.losses, most=max(room, 8))
        yield Text(heading + line if line else "", no_wrap=True, overflow="ellipsis")


@dataclass(eq=False)
class Meter:
    """Shows how a study goes on; made by `meter`."""

    console: Console
    picture: Picture | None
    started: float
    first_done: int
    said: float  # when the last line was

    def training(self, standing: Standing, trials_in_work: float, losses: ArrayLike = ()) -> None:
        """Told often while a generation trains.

        Args:
            standing: at the end of the last generation.
            trials_in_work: trials' worth of steps done in the present generation.
            losses: `(trial,)`, the latest ones of the trials in training.
        """
        if self.picture is not None:
            self.picture.standing, self.picture.losses = standing, losses
            self.picture.bar.update(
                self.picture.task,
                completed=standing.n_done + trials_in_work,
                total=standing.n_planned,
                description=_in_short(standing),
            )
        elif trials_in_work and time.monotonic() - self.said >= _LINE_EVERY_S:
            worth = standing.n_done + trials_in_work
            self._line(f"{worth / standing.n_planned:.0%} of all steps are done")

    def stored(self, standing: Standing) -> None:
        """Told once after each generation."""
        self.training(standing, 0.0)
        if self.picture is None:
            done = standing.n_done - self.first_done
            elapsed = time.monotonic() - self.started
            left = elapsed / max(done, 1) * (standing.n_planned - standing.n_done)
            self._line(f"{standing} · {left:.0f} s left")

    def _line(self, text: str) -> None:
        self.said = time.monotonic()
        say(self.console, text)


@contextmanager
def meter(console: Console, n_done: int) -> Iterator[Meter]:
    """Shows progress while the block runs.

    Args:
        console: where to.
        n_done: trials that were there before; the estimate of the time left leaves them out.
    """
    now = time.monotonic()
    if not console.is_terminal:
        yield Meter(console, None, now, n_done, now)
        return
    # Next to the text a bar of 20 leaves the line whole at 80 columns; a longer text is cut.
    text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
    columns = (BarColumn(bar_width=20), text, TimeRemainingColumn(compact=True), TextColumn("left"))
    bar = Progress(*columns, console=console)
    picture = Picture(bar, bar.add_task("", completed=n_done, total=None), Standing(n_done, 0, ""))
    with Live(picture, console=console, transient=True, refresh_per_second=8):
        yield Meter(console, picture, now, n_done, now)


@contextmanager
def counting(
    console: Console, what: str, n_expected: int
) -> Iterator[Callable[[int, float], None]]:
    """Counts while the block runs: a living bar in a terminal, a line now and then anywhere else.

    Args:
        console: where to.
        what: is counted, such as `reruns`.
        n_expected: how many it will be; more do no harm.

    Yields:
        Told how many are done and how many are in work.
    """
    said = [time.monotonic()]

    def tell_line(done: int, in_work: float) -> None:
        if time.monotonic() - said[0] >= _LINE_EVERY_S:
            said[0] = time.monotonic()
            say(console, f"{done + in_work:.0f} {what}")

    if not console.is_terminal:
        yield tell_line
        return
    text = TextColumn("{task.description},")
    columns = (BarColumn(bar_width=12), text, TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=max(1, n_expected))

        def tell_bar(done: int, in_work: float) -> None:
            now = done + in_work
            total = max(n_expected, math.ceil(now))
            bar.update(task, completed=now, total=total, description=f"{now:.0f} of {total} {what}")

        yield tell_bar


def _in_short(standing: Standing) -> str:
    best = f" · {standing.best}" if standing.best else ""
    return f"{standing.n_done}/{standing.n_planned} trials{best}"
