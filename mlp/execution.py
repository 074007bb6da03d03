"""Where populations train: in this process, over its cores."""

import os
from collections.abc import Sequence

from mlp.config import Execution, RunConfig
from mlp.data import Dataset
from mlp.population import Progress, Result, train


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

    Args:
        configs: one a trial.
        data: the examples, resolved and parted.
        execution: how wide.
        progress: as in `population.train`.

    Returns:
        One result for each config, in the same order.
    """
    return train(configs, data, threads=n_threads(execution), progress=progress)
