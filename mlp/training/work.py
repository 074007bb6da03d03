"""Work for whoever trains: what is handed over, what comes back, and the training itself.

The seam between the sweep and where it trains is three calls: `submit`, `wait`, `close`. Behind it
is this process (`mlp.training.execution`) or a Ray cluster (`mlp.training.cluster`); on both sides of it is
the one pure function `train_population`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Progress, Result, Snapshots, Thresholds
from mlp.network import Params
from mlp.stability.ratio import sharpness_steps

WorkDone = Callable[[float, NDArray[np.float64]], None]
"""Told how many trials' worth of steps are done, and the latest losses of those in training.

Beyond this process only the former is known; there are no losses then.
"""


@dataclass(frozen=True, eq=False)
class Task:
    """A population to train.

    Attributes:
        numbers: the places of its trials among the configs of the whole, in any order.
        configs: one a trial.
        data: the examples, resolved and parted.
        thresholds: that prune each of them; None prunes nothing.
    """

    numbers: tuple[int, ...]
    configs: tuple[RunConfig, ...]
    data: Dataset
    thresholds: Thresholds | None


@dataclass(frozen=True, eq=False)
class Done:
    """A population that came back.

    Attributes:
        task: as it was submitted.
        results: one a trial, in the task's order; a text where the training of a trial raised
            what no training should raise.
    """

    task: Task
    results: tuple[Result | str, ...]


@dataclass(frozen=True, eq=False)
class Lost:
    """A population that will not come back.

    Attributes:
        task: as it was submitted.
        reason: a part of a sentence, such as `worker 12 on host a died`.
        is_suspect: whether one of its trials may be the reason; not so where a whole machine went.
    """

    task: Task
    reason: str
    is_suspect: bool


class Executor(Protocol):
    """Where populations train.

    Attributes:
        n_threads: that train one population.
        population: trials trained at once at most; None: no limit of its own.
        notice: told in one line what a person should know: a worker that was lost, say.
    """

    n_threads: int
    population: int | None
    notice: Callable[[str], None]

    def slots(self) -> int:
        """How many populations can train side by side just now; 1 or more."""

    def submit(self, task: Task) -> None:
        """Takes a population; returns at once."""

    def wait(self, progress: WorkDone) -> list[Done | Lost]:
        """What has come back; waits for a moment, so that it may be nothing.

        Args:
            progress: called in this thread, with the work done in what has not come back; may
                raise to stop.
        """

    def idle_share(self) -> float | None:
        """Share of the slots' time since the last call that trained nothing, 0 to 1.

        None where that is not known.
        """

    def close(self) -> None:
        """Gives up what has not come back, and lets go of everything."""


def train_population(
    configs: Sequence[RunConfig],
    data: Dataset,
    *,
    threads: int,
    thresholds: Thresholds | None,
    progress: WorkDone | None,
) -> list[Result]:
    """Trains one network for each config, in this process, and measures what is to be measured.

    The sharpness is measured afterwards, at copies of the weights: whether and where it is, is seen
    nowhere else in the results.

    Args:
        configs: one a trial.
        data: the examples, resolved and parted.
        threads: that train; they change nothing but the time.
        thresholds: that prune each of them; None prunes nothing.
        progress: called a few times a second; may raise to stop.

    Returns:
        One result for each config, in the same order.

    Raises:
        SystemLimitError: for what does not fit into memory, before anything is trained.
    """
    from mlp.engine.population import train  # compiled code, whose import takes half a second

    taken: list[dict[int, Params]] = [{} for _ in configs]
    results = train(
        configs,
        data,
        threads=threads,
        thresholds=None if thresholds is None else [thresholds] * len(configs),
        progress=_counted(progress, configs),
        snapshots=_kept_in(taken, configs),
    )
    return _measured(results, configs, taken, data, threads)


def _kept_in(taken: list[dict[int, Params]], configs: Sequence[RunConfig]) -> Snapshots | None:
    """Keeps the weights at which the sharpness is to be measured."""
    steps = [sharpness_steps(config) for config in configs]

    def take(number: int, step: int, weights: Params) -> None:
        taken[number][step] = weights

    return Snapshots(steps, take) if any(steps) else None


def _measured(
    results: list[Result],
    configs: Sequence[RunConfig],
    taken: Sequence[dict[int, Params]],
    data: Dataset,
    threads: int,
) -> list[Result]:
    """The results with the sharpness at the weights that were kept, if any were."""
    if not any(taken):
        return results
    from mlp.stability.sharpness import measure_sharpness_curves  # compiled code, likewise

    curves = measure_sharpness_curves(configs, taken, data, threads=threads)
    return [
        dataclasses.replace(
            result,
            sharpness_step=curve.step,
            sharpness=curve.sharpness,
            sharpness_residual=curve.residual,
            gradient_norm=curve.gradient_norm,
            stability_ratio=curve.ratio,
        )
        for result, curve in zip(results, curves, strict=True)
    ]


def _counted(progress: WorkDone | None, configs: Sequence[RunConfig]) -> Progress | None:
    """Counts updates as trials' worth of work."""
    if progress is None:
        return None
    n_updates = sum(config.training.steps for config in configs)

    def tell(n_done: int, losses: NDArray[np.float64]) -> None:
        progress(len(configs) * n_done / n_updates, losses)

    return tell
