"""Trains configs into records, here or on a cluster: the one way from settings to what is kept.

Where a run is trained, with which others, and how often it was begun changes no result.
"""

import functools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, Result, Thresholds
from mlp.errors import SettingError
from mlp.stability.ratio import sharpness_steps
from mlp.tracking.record import RunRecord, judge_result
from mlp.training.own_function import Functions, train_functions
from mlp.training.work import (
    Answer,
    Executor,
    Task,
    Trainer,
    WorkDone,
    bare_result,
    train_population,
    trainer_on,
)

# The first populations take half of an equal share of what is left, and so on: early ones are wide,
# which the engine likes, late ones are small, so that all workers end at about the same time.
_SHARE_AHEAD = 2
# A population has its own fixed costs; one this small leaves 1/16 of a worker's time idle at most.
_FINEST = 16
_TICK_S = 0.2  # how long GPUs are waited for at most before it is told how far they are
# A pass over the pixels takes as long for one column of a tile as for all of them, see
# `mlp.engine.layout.tile_columns`; so populations end where a tile does.
_TILE_BYTES, _NARROW_BYTES = 128, 64

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

    Where and how wide it is trained changes no result. A population that is lost twice is trained
    run by run, and a run that is lost alone three times has a result without weights, whose ending
    is `CRASHED`. What `progress` or `finished` raises ends the training and passes through; what
    `finished` was told of by then is complete and can be kept.

    Args:
        data: the examples, resolved and parted; `data.name` of each config is theirs. Or a program
            with examples of its own; all configs are then of its function.
        thresholds: prune each of the runs; None prunes nothing.
        progress: called a few times a second, in this thread, with the runs' worth of steps done.
        trainer: None: the built-in network, or the function of the data's program.
        finished: called in this thread, while others still train, so that records can be made safe.

    Returns:
        One record for each config, in the same order; a learning rate that was `auto` is a number
        in it. All have the same start; each ends when it came back.

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

        n_attempts = Counter[tuple[int, ...]]()

        def submit(numbers: Sequence[int]) -> None:
            n_attempts[tuple(numbers)] += 1
            chosen = tuple(configs[number] for number in numbers)
            executor.submit(Task(tuple(numbers), chosen, data, thresholds, trainer))

        def tell(in_work: float, losses: NDArray[np.float64]) -> None:
            if progress is not None:
                progress(len(records) + in_work, losses)

        for numbers in cut_for(configs, data, executor):
            submit(numbers)
        while len(records) < len(configs):
            for task, results in executor.wait(tell):
                own = task.numbers
                if isinstance(results, str):
                    again, said = _after_loss(own, n_attempts[own])
                    executor.notice(f"{said}: {results}")
                    for numbers in again:
                        submit(numbers)
                    if again:
                        continue
                    results = [_crashed(configs[own[0]])]
                timing = {"ended_ms": _now_ms(), "threads": executor.n_threads}
                made = {
                    number: make_record(
                        configs[number], data, result, started_ms=started_ms, **timing
                    )
                    for number, result in zip(own, results, strict=True)
                }
                records.update(made)
                if finished is not None:
                    finished(made)
    return [records[number] for number in range(len(configs))]


def _after_loss(numbers: tuple[int, ...], n_attempts: int) -> tuple[Sequence[tuple[int, ...]], str]:
    """What of a lost population is trained again, and what is said: nobody knows whose fault it is.

    It has two attempts together, and then each of its runs three of its own.
    """
    n_runs = len(numbers)
    if n_attempts < (2 if n_runs > 1 else 3):
        return [numbers], f"{'a trial is' if n_runs == 1 else f'{n_runs} trials are'} trained again"
    if n_runs > 1:
        return [(number,) for number in numbers], f"{n_runs} trials are trained one by one"
    return [], "a trial is given up and recorded as crashed"


def _crashed(config: RunConfig) -> Result:
    """What is known of a run that never came back: nothing, so its one loss is undefined."""
    step_loss = None if config.training.batch_size is None else np.empty(0)
    return bare_result(np.array([np.nan]), Ending.CRASHED, step_loss=step_loss)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def make_record(
    config: RunConfig,
    data: Dataset,
    result: Result,
    *,
    started_ms: int,
    ended_ms: int,
    threads: int,
) -> RunRecord:
    """Judges a trained run and gathers everything that is kept of it.

    Args:
        started_ms: milliseconds since 1970 in UTC, as `ended_ms`.
    """
    return RunRecord(
        config=config,
        data_digest=data.digest,
        n_train=data.train.n_examples,
        n_validation=data.validation.n_examples,
        n_test=data.test.n_examples,
        result=result,
        judgement=judge_result(config, result),
        started_ms=started_ms,
        ended_ms=ended_ms,
        threads=threads,
    )


def n_threads(execution: Execution) -> int:
    """How many threads train a population: as set, else one for each core of this process.

    On a cluster that is the number of CPUs that each population asks for, and one if not set.
    """
    if execution.threads is not None:
        return execution.threads
    if execution.engine == "ray":
        return 1
    if hasattr(os, "sched_getaffinity"):  # Linux; fewer than the machine's in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_engine(execution: Execution) -> int:
    """Makes sure that this machine has what an engine needs; a cluster may still be missing.

    Returns:
        How many GPUs of this machine train.

    Raises:
        SettingError: where Ray is not installed.
        UnavailableError: where there is no GPU.
    """
    if execution.engine == "ray":
        try:
            import mlp.training.ray_cluster  # noqa: F401  Ray, an extra
        except ImportError as error:
            raise SettingError(
                f"execution.engine=ray needs Ray: python -m pip install 'mlp-sweep[ray]' ({error})"
            ) from None
    if execution.engine != "cuda":
        return 0
    from mlp.engine.cuda_steps import count_gpus  # an extra

    return count_gpus()


@contextmanager
def open_executor(
    where: Execution | Executor, *, notice: Callable[[str], None] = lambda _: None
) -> Iterator[Executor]:
    """An executor, which is closed at the end of the block; one that is open stays so.

    Raises:
        SettingError: for a cluster where Ray is not installed.
        UnavailableError: for a cluster that does not answer, or where there is no GPU.
        SystemLimitError: for a cluster of other versions than are here.
    """
    if not isinstance(where, Execution):
        yield where
        return
    executor: Executor
    if where.engine == "ray":
        check_engine(where)
        from mlp.training.ray_cluster import RayCluster

        executor = RayCluster(where, n_threads(where), notice)
    else:
        n_gpus = check_engine(where)
        executor = (_Gpus if n_gpus > 1 else _ThisProcess)(where, notice, n_gpus)
    try:
        yield executor
    finally:
        executor.close()


def cut_for(
    configs: Sequence[RunConfig], data: Dataset, where: Executor
) -> Sequence[Sequence[int]]:
    """Numbers of the trials that train together."""
    if any(config.own is not None for config in configs):
        return [[number] for number in range(len(configs))]  # each in a process of its own
    most, n_slots = where.population, where.slots()
    if n_slots == 1:  # nobody else waits, and one wide population is the fastest
        size = most or max(1, len(configs))
        numbers = range(len(configs))
        return [numbers[first : first + size] for first in range(0, len(configs), size)]
    n_examples, n_entries = len(data.train), int(np.count_nonzero(data.train.pixels))
    costs = [cost(config, n_examples=n_examples, n_entries=n_entries) for config in configs]
    if where.is_on_gpu:
        return deal(costs, n_slots=n_slots, most=most)
    return cut(
        costs,
        n_slots=n_slots,
        most=most,
        columns=[config.model.layer_widths[0] for config in configs],
        item_bytes=max(np.dtype(config.training.dtype).itemsize for config in configs),
    )


class _ThisProcess:
    """Trains in this process, one population after the other, each on all threads or on a GPU.

    Own functions train in processes of their own, as many side by side as there are threads.
    """

    def __init__(
        self, execution: Execution, notice: Callable[[str], None], n_gpus: int = 0
    ) -> None:
        self.n_threads = n_threads(execution)
        self.population = execution.population
        self.notice = notice
        self.is_on_gpu = n_gpus > 0
        self._waiting: deque[Task] = deque()
        self._functions: Functions | None = None

    def slots(self) -> int:
        return 1

    def submit(self, task: Task) -> None:
        if task.data.program is None:
            self._waiting.append(task)
            return
        if self._functions is None:
            self._functions = Functions(self.n_threads)
        self._functions.submit(task)

    def wait(self, progress: WorkDone) -> list[Answer]:
        if self._functions is not None and self._functions.is_busy:
            return self._functions.wait(progress)
        task = self._waiting.popleft()
        train = self._training(task, 0 if self.is_on_gpu else None, progress)
        return [(task, train())]

    def _training(
        self, task: Task, gpu: int | None, progress: WorkDone
    ) -> Callable[[], list[Result]]:
        return functools.partial(
            trainer_on(task.trainer, gpu),
            task.configs,
            task.data,
            threads=self.n_threads,
            thresholds=task.thresholds,
            progress=progress,
        )

    def idle_share(self) -> float | None:
        return None

    def close(self) -> None:
        self._waiting.clear()
        if self._functions is not None:
            self._functions.close()


class _Gpus(_ThisProcess):
    """Trains on several GPUs, on each one population at a time, which a thread of its own leads."""

    def __init__(self, execution: Execution, notice: Callable[[str], None], n_gpus: int) -> None:
        super().__init__(execution, notice, n_gpus)
        self._n_gpus = n_gpus
        self._free: SimpleQueue[int] = SimpleQueue()
        for gpu in range(n_gpus):
            self._free.put(gpu)
        self._pool = ThreadPoolExecutor(n_gpus)
        self._running: dict[Future[list[Result]], Task] = {}
        self._n_done: dict[Task, float] = {}
        self._is_closing = False
        # Each thread sets it while it measures; together they would leave another than they found.
        self._blas = threadpool_limits(1, user_api="blas")

    def slots(self) -> int:
        return self._n_gpus

    def submit(self, task: Task) -> None:
        if task.data.program is None:
            self._running[self._pool.submit(self._lead, task)] = task
        else:
            super().submit(task)

    def wait(self, progress: WorkDone) -> list[Answer]:
        if not self._running:
            return super().wait(progress)
        done, _ = futures.wait(self._running, timeout=_TICK_S, return_when=futures.FIRST_COMPLETED)
        progress(sum(self._n_done.get(task, 0.0) for task in self._running.values()), np.empty(0))
        well = [future for future in done if not future.exception()]
        answers: list[Answer] = []
        for future in well or done:  # what has failed is raised when the others are safe
            task = self._running.pop(future)
            self._n_done.pop(task, None)
            answers.append((task, future.result()))
        return answers

    def _lead(self, task: Task) -> list[Result]:
        def tell(n_done: float, _losses: NDArray[np.float64]) -> None:
            if self._is_closing:
                raise futures.CancelledError
            self._n_done[task] = n_done

        gpu = self._free.get()
        try:
            results = self._training(task, gpu, tell)()
        finally:
            self._free.put(gpu)
        self._n_done[task] = len(task.configs)
        return results

    def close(self) -> None:
        self._is_closing = True
        self._pool.shutdown(cancel_futures=True)
        self._blas.restore_original_limits()
        super().close()


def deal(costs: Sequence[float], *, n_slots: int, most: int | None = None) -> list[list[int]]:
    """Deals trials out to workers, one wide population each, by turns in falling order of cost.

    Args:
        costs: one a trial, in any unit, not negative.
        n_slots: populations that train side by side; 1 or more.
        most: trials in one population at most; None: no such limit.

    Returns:
        The numbers of the trials of each population. Each trial is in one of them.

    Example:
        >>> deal([1.0, 3.0, 2.0, 2.0, 1.0], n_slots=2)
        [[1, 3, 4], [2, 0]]
    """
    order = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    hands = [order[slot::n_slots] for slot in range(min(n_slots, len(order)))]
    size = most or len(order)
    return [hand[first : first + size] for hand in hands for first in range(0, len(hand), size)]


def cut(
    costs: Sequence[float],
    *,
    n_slots: int,
    most: int | None = None,
    columns: Sequence[int] | None = None,
    item_bytes: int = 4,
) -> list[list[int]]:
    """Parts trials into populations for workers that each take the next one when they are free.

    Guided self-scheduling (Polychronopoulos and Kuck 1987) over trials in falling order of cost; a
    population that would leave part of a tile empty takes further trials that fit there.

    Args:
        costs: one a trial, in any unit, not negative.
        n_slots: populations that train side by side; 1 or more.
        most: trials in one population at most; None: no such limit.
        columns: units of the first layer, one number a trial; None: tiles are of no interest.

    Returns:
        The numbers of the trials of each population, the population to begin with first. Each trial
        is in one of them.

    Example:
        >>> cut([1.0] * 8, n_slots=2)
        [[0, 1], [2], [3], [4], [5], [6], [7]]
    """
    order = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    left = total = sum(costs)
    finest = total / (_FINEST * n_slots)
    populations: list[list[int]] = []
    while order:
        share = max(left / (_SHARE_AHEAD * n_slots), finest)
        taken = [order.pop(0)]
        filled = costs[taken[0]]
        while order and filled + costs[order[0]] <= share and len(taken) != most:
            taken.append(order.pop(0))
            filled += costs[taken[-1]]
        if columns is not None:
            room = _room(sum(columns[number] for number in taken), item_bytes)
            for number in [*order]:
                if len(taken) != most and columns[number] <= room:
                    order.remove(number)
                    taken.append(number)
                    room -= columns[number]
                    filled += costs[number]
        populations.append(taken)
        left -= filled
    return populations


def _room(n_columns: int, item_bytes: int) -> int:
    """Columns that a population has free in its last tile."""
    narrow, wide = _NARROW_BYTES // item_bytes, _TILE_BYTES // item_bytes
    return narrow - n_columns if n_columns <= narrow else -n_columns % wide


def cost(config: RunConfig, *, n_examples: int, n_entries: int) -> float:
    """Products of a whole training, about: what its time grows with.

    Args:
        n_examples: it is trained on.
        n_entries: non-zero pixels of these examples.
    """
    widths = (*config.model.layer_widths, 2)
    products = n_entries * widths[0]
    products += n_examples * sum(a * b for a, b in pairwise(widths))
    batch = min(config.training.batch_size or n_examples, n_examples)
    return config.training.steps * products * batch / n_examples
