"""Where populations train: in this process, over its cores."""

import dataclasses
import os
from collections.abc import Sequence

from mlp.config import Execution, RunConfig
from mlp.data import Dataset
from mlp.network import Params
from mlp.population import Progress, Result, Snapshots, train
from mlp.stability import measure_sharpness_curves, sharpness_steps


def n_threads(execution: Execution) -> int:
    """How many threads train: as set, else one for each core that this process may use."""
    if execution.threads is not None:
        return execution.threads
    if hasattr(os, "sched_getaffinity"):  # Linux; fewer than the machine's in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def train_trials(
    configs: Sequence[RunConfig],
    data: Dataset,
    execution: Execution,
    *,
    progress: Progress | None = None,
) -> list[Result]:
    """Trains one network for each config; where and how wide changes no result.

    The sharpness is measured afterwards, at copies of the weights: whether and where it is, is seen
    nowhere else in the results.

    Args:
        configs: one a trial.
        data: the examples, resolved and parted.
        execution: how wide.
        progress: as in `population.train`.

    Returns:
        One result for each config, in the same order.
    """
    threads = n_threads(execution)
    steps = [sharpness_steps(config) for config in configs]
    if not any(steps):
        return train(configs, data, threads=threads, progress=progress)
    taken: list[dict[int, Params]] = [{} for _ in configs]

    def take(number: int, step: int, weights: Params) -> None:
        taken[number][step] = weights

    snapshots = Snapshots(steps, take)
    results = train(configs, data, threads=threads, progress=progress, snapshots=snapshots)
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
