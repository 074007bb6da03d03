"""Trains configs into records: the one way from settings to what is kept of a run."""

import time
from collections.abc import Callable, Mapping, Sequence

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Result, Thresholds
from mlp.tracking.record import RunRecord
from mlp.training.executor import open_executor, train_trials
from mlp.training.outcome import make_record
from mlp.training.work import Executor, WorkDone

Finished = Callable[[Mapping[int, RunRecord]], None]
"""Told of runs as soon as they are trained: place among the configs -> record."""


def train_runs(
    configs: Sequence[RunConfig],
    data: Dataset,
    where: Execution | Executor,
    *,
    thresholds: Thresholds | None = None,
    progress: WorkDone | None = None,
    finished: Finished | None = None,
) -> list[RunRecord]:
    """Trains one network for each config, times it and judges its loss curve.

    Where it is trained changes no result. What `progress` or `finished` raises ends the training
    and passes through; what `finished` was told of by then is complete and can be kept.

    Args:
        data: the examples, resolved and parted; `data.name` of each config is theirs.
        thresholds: prune each of the runs; None prunes nothing.
        progress: called a few times a second, in this thread, with the runs' worth of steps done.
        finished: called in this thread, while others still train, so that records can be made safe.

    Returns:
        One record for each config, in the same order. All that were trained by this call have the
        same start; each ends when it came back. A run that killed its workers has the ending
        `CRASHED`.

    Raises:
        SystemLimitError: for a run that does not fit into memory, before any is trained.
        UnavailableError: for a cluster that is lost.
    """
    records: dict[int, RunRecord] = {}
    started_ms = _now_ms()
    with open_executor(where) as executor:

        def judge(results: Mapping[int, Result]) -> None:
            timing = {"ended_ms": _now_ms(), "threads": executor.n_threads}
            made = {
                place: make_record(configs[place], data, result, started_ms=started_ms, **timing)
                for place, result in results.items()
            }
            records.update(made)
            if finished is not None:
                finished(made)

        train_trials(configs, data, executor, thresholds=thresholds, progress=progress, kept=judge)
    return [records[place] for place in range(len(configs))]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
