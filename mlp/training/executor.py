"""Where populations train: in this process, or on the workers of a Ray cluster.

Where and how often a population is begun changes no result: a trial does not depend on the others.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.errors import SettingError
from mlp.training.own_function import Functions
from mlp.training.work import Done, Executor, Lost, Task, WorkDone

# The first populations take half of an equal share of what is left, and so on: early ones are wide,
# which the engine likes, late ones are small, so that all workers end at about the same time.
_SHARE_AHEAD = 2
# A population has its own fixed costs; one this small leaves 1/16 of a worker's time idle at most.
_FINEST = 16
# A pass over the pixels takes as long for one column of a tile as for all of them, see
# `mlp.engine.layout.tile_columns`; so populations end where a tile does.
_TILE_BYTES, _NARROW_BYTES = 128, 64


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


@contextmanager
def open_executor(
    where: Execution | Executor, *, notice: Callable[[str], None] = lambda _: None
) -> Iterator[Executor]:
    """An executor, which is closed at the end of the block; one that is open stays so.

    Raises:
        SettingError: for a cluster where Ray is not installed.
        UnavailableError: for a cluster that does not answer.
        SystemLimitError: for a cluster of other versions than are here.
    """
    if not isinstance(where, Execution):
        yield where
        return
    executor: Executor
    if where.engine == "ray":
        try:
            from mlp.training.ray_cluster import RayCluster  # Ray, an extra
        except ImportError as error:
            raise SettingError(
                f"execution.engine=ray needs Ray: python -m pip install 'mlp-sweep[ray]' ({error})"
            ) from None
        executor = RayCluster(where, n_threads(where), notice)
    else:
        executor = _ThisProcess(where, notice)
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
    return cut(
        costs,
        n_slots=n_slots,
        most=most,
        columns=[config.model.layer_widths[0] for config in configs],
        item_bytes=max(np.dtype(config.training.dtype).itemsize for config in configs),
    )


class _ThisProcess:
    """Trains in this process, one population after the other, each on all threads.

    Own functions train in processes of their own, as many side by side as there are threads.
    """

    def __init__(self, execution: Execution, notice: Callable[[str], None]) -> None:
        self.n_threads = n_threads(execution)
        self.population = execution.population
        self.notice = notice
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

    def wait(self, progress: WorkDone) -> list[Done | Lost]:
        if self._functions is not None and self._functions.is_busy:
            return [*self._functions.wait(progress)]
        task = self._waiting.popleft()
        results = task.trainer(
            task.configs,
            task.data,
            threads=self.n_threads,
            thresholds=task.thresholds,
            progress=progress,
        )
        return [Done(task, tuple(results))]

    def idle_share(self) -> float | None:
        return None

    def close(self) -> None:
        self._waiting.clear()
        if self._functions is not None:
            self._functions.close()


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
