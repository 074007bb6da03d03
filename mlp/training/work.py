"""What is handed to a trainer, what comes back, and the built-in trainer.

Two seams meet here. A *trainer* turns settings and examples into results: `train_population` is the
one that is built in. An *executor* decides where a trainer runs: in this process
(`mlp.training.train_runs`) or on the workers of a Ray cluster (`mlp.training.ray_cluster`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, OwnTrace, Result, Thresholds
from mlp.network import Params
from mlp.stability.ratio import sharpness_steps

WorkDone = Callable[[float, NDArray[np.float64]], None]
"""Told how many trials' worth of steps are done, and the latest losses of those in training.

Beyond this process only the former is known; there are no losses then.
"""


Trainer = Callable[..., list[Result]]
"""Trains one network for each config; called as `train_population`, one result each, in order.

A result depends on its own config and the data alone: not on the other configs, the number of
threads or the machine. So a population that was lost is simply trained again, anywhere.
"""


def train_population(
    configs: Sequence[RunConfig],
    data: Dataset,
    *,
    threads: int,
    thresholds: Thresholds | None,
    progress: WorkDone | None,
    gpu: int | None = None,
) -> list[Result]:
    """The built-in trainer: all networks in one pass over the data, in this process.

    The sharpness is measured afterwards, at copies of the weights: whether and where it is, is seen
    nowhere else in the results.

    Args:
        progress: called a few times a second; may raise to stop.
        gpu: number of the GPU that trains and measures them; None: the CPU does.

    Raises:
        SystemLimitError: for what does not fit into memory, before anything is trained.
    """
    from mlp.engine.population import train  # compiled code, whose import takes half a second

    taken: list[dict[int, Params]] = [dict.fromkeys(sharpness_steps(c), ()) for c in configs]
    n_updates = sum(config.training.steps for config in configs)

    def tell(n_done: int, losses: NDArray[np.float64]) -> None:
        if progress is not None:
            progress(len(configs) * n_done / n_updates, losses)

    results = train(
        configs,
        data,
        threads=threads,
        thresholds=None if thresholds is None else [thresholds] * len(configs),
        progress=tell,
        snapshots=taken,
        gpu=gpu,
    )
    return _measured(results, configs, taken, data, threads, gpu)


def trainer_on(trainer: Trainer, gpu: int | None) -> Trainer:
    """The trainer, on a GPU if it is the built-in one; None: on the CPU, as any other is."""
    if gpu is None or trainer is not train_population:
        return trainer
    return functools.partial(train_population, gpu=gpu)


@dataclass(frozen=True, eq=False)
class Task:
    """A population to train.

    Attributes:
        numbers: the places of its trials among all configs, in any order.
        thresholds: prune each of the trials; None prunes nothing.
        trainer: a function that a worker can import, or one that can be sent to it.
    """

    numbers: tuple[int, ...]
    configs: tuple[RunConfig, ...]
    data: Dataset
    thresholds: Thresholds | None
    trainer: Trainer = train_population


Answer = tuple[Task, Sequence[Result] | str]
"""A population that came back: its results in the task's order, or why there are none.

It is lost where its worker died or overran its deadline; that is a part of a sentence then, such as
`worker 12 on host a was lost`.
"""


class Executor(Protocol):
    """Where populations train.

    Attributes:
        n_threads: that train one population.
        population: trials trained at once at most; None: no limit of its own.
        is_on_gpu: whether GPUs train: a narrow population takes one nearly as long as a wide one.
        notice: told in one line what a person should know: a worker that died, say.
    """

    n_threads: int
    population: int | None
    is_on_gpu: bool
    notice: Callable[[str], None]

    def slots(self) -> int:
        """How many populations can train side by side just now; 1 or more."""

    def submit(self, task: Task) -> None:
        """Takes a population; returns at once."""

    def wait(self, progress: WorkDone) -> list[Answer]:
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


def bare_result(
    loss: NDArray[np.float64],
    ending: Ending,
    *,
    step_loss: NDArray[np.float64] | None = None,
    own: OwnTrace | None = None,
) -> Result:
    """The result of a run of which no more is known than the loss at each step."""
    return Result(
        loss=loss,
        loss_step=np.arange(loss.size, dtype=np.int64),
        step_loss=step_loss,
        validation_accuracy=np.empty(0),
        evaluated_step=np.empty(0, np.int64),
        weights=(),
        ending=ending,
        last_step=loss.size - 1,
        own=own,
    )


def _measured(
    results: list[Result],
    configs: Sequence[RunConfig],
    taken: Sequence[dict[int, Params]],
    data: Dataset,
    threads: int,
    gpu: int | None,
) -> list[Result]:
    """The results with the sharpness at the weights that were kept, if any were."""
    if not any(taken):
        return results
    from mlp.stability.sharpness import measure_sharpness_curves  # compiled code, likewise

    reached = [{step: weights for step, weights in each.items() if weights} for each in taken]
    curves = measure_sharpness_curves(configs, reached, data, threads=threads, gpu=gpu)
    return [
        dataclasses.replace(
            result,
            sharpness_step=curve.step,
            sharpness=curve.sharpness,
            sharpness_residual=curve.residual,
            gradient_norm=curve.gradient_norm,
            stability_ratio=curve.ratio * result.rate_share(curve.step),
        )
        for result, curve in zip(results, curves, strict=True)
    ]
