"""Progress on the screen: a living bar in a terminal, plain lines anywhere else."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column


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


@dataclass(frozen=True)
class Standing:
    """How far a study is.

    Attributes:
        n_done: trials that are stored.
        n_planned: trials in the end.
        best: the best value and its trial, as a text; empty before the first.
        oscillating_share: of the trials that are stored, 0 to 1.
    """

    n_done: int
    n_planned: int
    best: str
    oscillating_share: float

    def __str__(self) -> str:
        best = f" · best {self.best}" if self.best else ""
        oscillating = f"{self.oscillating_share:.0%} oscillating"
        return f"{self.n_done}/{self.n_planned} trials{best} · {oscillating}"


@dataclass(eq=False)
class Meter:
    """Shows how a study goes on; made by `meter`."""

    console: Console
    bar: Progress | None
    task: TaskID | None
    started: float
    first_done: int

    def training(self, standing: Standing, trials_in_work: float) -> None:
        """Told often while a generation trains.

        Args:
            standing: at the end of the last generation.
            trials_in_work: trials' worth of steps done in the present generation.
        """
        if self.bar is not None and self.task is not None:
            self.bar.update(
                self.task,
                completed=standing.n_done + trials_in_work,
                total=standing.n_planned,
                description=str(standing),
            )

    def stored(self, standing: Standing) -> None:
        """Told once after each generation."""
        self.training(standing, 0.0)
        if self.bar is None:
            done = standing.n_done - self.first_done
            elapsed = time.monotonic() - self.started
            left = elapsed / max(done, 1) * (standing.n_planned - standing.n_done)
            say(self.console, f"{standing} · {left:.0f} s left")


@contextmanager
def meter(console: Console, n_done: int) -> Iterator[Meter]:
    """Shows progress while the block runs.

    Args:
        console: where to.
        n_done: trials that were there before; the estimate of the time left leaves them out.
    """
    if not console.is_terminal:
        yield Meter(console, None, None, time.monotonic(), n_done)
        return
    # Next to the text a bar of 12 leaves the line whole at 80 columns; a longer text is cut.
    text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
    columns = (BarColumn(bar_width=12), text, TimeRemainingColumn(compact=True), TextColumn("left"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", completed=n_done, total=None)
        yield Meter(console, bar, task, time.monotonic(), n_done)
