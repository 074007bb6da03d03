"""Where populations train: in this process, over its cores."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Progress, Result, Snapshots, Thresholds
from mlp.network import Params
from mlp.stability.ratio import sharpness_steps

WorkDone = Callable[[float, NDArray[np.float64]], None]
"""Told how many trials' worth of steps are done, and the latest losses of those in training."""


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
    thresholds: Thresholds | None = None,
    progress: WorkDone | None = None,
) -> list[Result]:
    """Trains one network for each config; where and how wide changes no result.

    The sharpness is measured afterwards, at copies of the weights: whether and where it is, is seen
    nowhere else in the results.

    Args:
        configs: one a trial.
        data: the examples, resolved and parted.
        execution: how wide.
        thresholds: that prune each of them; None prunes nothing.
        progress: called a few times a second, in this thread; may raise to stop.

    Returns:
        One result for each config, in the same order.
    """
    from mlp.engine.population import train  # compiled code, whose import takes half a second

    if any(sharpness_steps(config) for config in configs):
        from mlp.stability.sharpness import check_measurable

        check_measurable(configs, data, threads=n_threads(execution))
    size = execution.population or max(1, len(configs))
    results: list[Result] = []
    for first in range(0, len(configs), size):
        part = configs[first : first + size]
        taken: list[dict[int, Params]] = [{} for _ in part]
        trained = train(
            part,
            data,
            threads=n_threads(execution),
            thresholds=None if thresholds is None else [thresholds] * len(part),
            progress=_counted(progress, first, part),
            snapshots=_kept_in(taken, part),
        )
        results += _measured(trained, part, taken, data, n_threads(execution))
    return results


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


def _counted(
    progress: WorkDone | None, n_before: int, configs: Sequence[RunConfig]
) -> Progress | None:
    """Counts steps as trials' worth of work."""
    if progress is None:
        return None
    steps = max(config.training.steps for config in configs)

    def tell(step: int, losses: NDArray[np.float64]) -> None:
        progress(n_before + len(configs) * min(1.0, step / steps), losses)

    return tell
