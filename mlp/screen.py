"""Progress on the screen: a living bar in a terminal, plain lines anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


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
            self.console.print(f"{standing} · {left:.0f} s left", highlight=False)


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
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", completed=n_done, total=None)
        yield Meter(console, bar, task, time.monotonic(), n_done)
