"""Trains configs into records: the one way from settings to what is kept of a run."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, Result, Thresholds
from mlp.stability.ratio import sharpness_steps
from mlp.tracking.record import RunRecord
from mlp.training.executor import cut_for, open_executor
from mlp.training.outcome import make_record
from mlp.training.own_function import train_functions
from mlp.training.work import Done, Executor, Lost, Task, Trainer, WorkDone, train_population

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
    trainer: Trainer | None = None,
) -> list[RunRecord]:
    """Trains one network for each config, times it and judges its loss curve.

    Where and how wide it is trained changes no result. A population that is lost is trained once
    more run by run, and a run that is lost alone has a result without weights, whose ending is
    `CRASHED`. What `progress` or `finished` raises ends the training
    and passes through; what `finished` was told of by then is complete and can be kept.

    Args:
        data: the examples, resolved and parted; `data.name` of each config is theirs. Or a program
            with examples of its own; all configs are then of its function.
        thresholds: prune each of the runs; None prunes nothing.
        progress: called a few times a second, in this thread, with the runs' worth of steps done.
        trainer: None: the built-in network, or the function of the data's program.
        finished: called in this thread, while others still train, so that records can be made safe.

    Returns:
        One record for each config, in the same order; a learning rate that was `auto` is a number
        in it. All that were trained by this call have the
        same start; each ends when it came back.

    Raises:
        SystemLimitError: for a run that does not fit into memory, before any is trained.
        UnavailableError: for a cluster that is lost.
    """
    if trainer is None:
        trainer = train_population if data.program is None else train_functions
    records: dict[int, RunRecord] = {}
    started_ms = _now_ms()
    with open_executor(where) as executor:
        if any(config.optimizer.learning_rate == "auto" for config in configs):
            from mlp.stability.sharpness import with_first_rates

            configs = with_first_rates(configs, data, threads=executor.n_threads)
        if data.program is None and any(sharpness_steps(config) for config in configs):
            from mlp.stability.sharpness import check_measurable  # compiled code

            check_measurable(configs, data, threads=executor.n_threads)

        def submit(numbers: Sequence[int]) -> None:
            chosen = tuple(configs[number] for number in numbers)
            executor.submit(Task(tuple(numbers), chosen, data, thresholds, trainer))

        for numbers in cut_for(configs, data, executor):
            submit(numbers)
        while len(records) < len(configs):
            for answer in executor.wait(_added_to(progress, len(records))):
                results = _results_of(answer, executor.notice)
                if results is None:
                    for number in answer.task.numbers:
                        submit([number])
                    continue
                timing = {"ended_ms": _now_ms(), "threads": executor.n_threads}
                made = {
                    number: make_record(
                        configs[number], data, result, started_ms=started_ms, **timing
                    )
                    for number, result in zip(answer.task.numbers, results, strict=True)
                }
                records.update(made)
                if finished is not None:
                    finished(made)
    return [records[number] for number in range(len(configs))]


def _results_of(answer: Done | Lost, notice: Callable[[str], None]) -> Sequence[Result] | None:
    """What is known of each run of a population; None where each is to be trained alone."""
    if isinstance(answer, Done):
        return answer.results
    n_runs = len(answer.task.numbers)
    if n_runs > 1:
        notice(f"{n_runs} trials are trained one by one: {answer.reason}")
        return None
    notice(f"a trial is given up and recorded as crashed: {answer.reason}")
    return [_crashed(answer.task.configs[0])]


def _crashed(config: RunConfig) -> Result:
    """What is known of a run that never came back: nothing, so its one loss is undefined."""
    return Result(
        loss=np.array([np.nan]),
        loss_step=np.zeros(1, np.int64),
        step_loss=None if config.training.batch_size is None else np.empty(0),
        validation_accuracy=np.empty(0),
        evaluated_step=np.empty(0, np.int64),
        weights=(),
        ending=Ending.CRASHED,
        last_step=0,
    )


def _added_to(progress: WorkDone | None, n_done: int) -> WorkDone:
    def tell(in_work: float, losses: NDArray[np.float64]) -> None:
        if progress is not None:
            progress(n_done + in_work, losses)

    return tell


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
