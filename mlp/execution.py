"""Where populations train: in this process, over its cores."""

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlp.config import Execution, RunConfig
from mlp.data import Dataset
from mlp.result import Progress, Result, Thresholds

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

    Args:
        configs: one a trial.
        data: the examples, resolved and parted.
        execution: how wide.
        thresholds: that prune each of them; None prunes nothing.
        progress: called a few times a second, in this thread; may raise to stop.

    Returns:
        One result for each config, in the same order.
    """
    from mlp.population import train  # compiled code, whose import takes half a second

    size = execution.population or max(1, len(configs))
    results: list[Result] = []
    for first in range(0, len(configs), size):
        part = configs[first : first + size]
        results += train(
            part,
            data,
            threads=n_threads(execution),
            thresholds=None if thresholds is None else [thresholds] * len(part),
            progress=_counted(progress, first, part),
        )
    return results


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
