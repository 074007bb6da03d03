"""Where populations train: in this process, or on the workers of a cluster; and what if one dies.

The result is the same wherever and however often a population was begun; see law 1 of the engine: a
trial does not depend on its neighbours. So a lost population is simply trained again, and a trial
that kills its workers is found by training each one alone: three attempts in all.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, Result, Thresholds
from mlp.errors import SettingError, UnavailableError
from mlp.stability.ratio import sharpness_steps
from mlp.training.cut import cost, cut
from mlp.training.work import Done, Executor, Lost, Task, WorkDone, train_population

_MOST_DEATHS = 3  # of workers that trained a trial, before it counts as the reason
# Where workers of other trials die, too, something else is the reason; but it must end some day.
_MOST_LOSSES = 12

Kept = Callable[[Mapping[int, Result]], None]
"""Told of results as soon as they are there: place among the configs -> result."""


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
    execution: Execution, *, notice: Callable[[str], None] = lambda _: None
) -> Iterator[Executor]:
    """Whoever trains, for the length of the block.

    Args:
        execution: where and how wide.
        notice: told in one line what a person should know.

    Raises:
        SettingError: for a cluster where Ray is not installed.
        UnavailableError: for a cluster that does not answer.
        SystemLimitError: for a cluster of other versions than are here.
    """
    executor: Executor
    if execution.engine == "ray":
        try:
            from mlp.training.cluster import Cluster  # Ray, an extra
        except ImportError as error:
            raise SettingError(
                f"execution.engine=ray needs Ray: python -m pip install 'mlp-sweep[ray]' ({error})"
            ) from None
        executor = Cluster(execution, n_threads(execution), notice)
    else:
        executor = _Here(execution, notice)
    try:
        yield executor
    finally:
        executor.close()


def train_trials(
    configs: Sequence[RunConfig],
    data: Dataset,
    where: Execution | Executor,
    *,
    thresholds: Thresholds | None = None,
    progress: WorkDone | None = None,
    kept: Kept | None = None,
) -> list[Result]:
    """Trains one network for each config; where and how wide changes no result.

    Args:
        configs: one a trial.
        data: the examples, resolved and parted.
        where: who trains, or the settings to open one for this call.
        thresholds: that prune each of them; None prunes nothing.
        progress: called a few times a second, in this thread; may raise to stop.
        kept: called in this thread with the results as they come, in any order.

    Returns:
        One result for each config, in the same order. A trial that was the death of its
        workers, one after the other, has a result without weights, whose ending is `CRASHED`.

    Raises:
        SystemLimitError: for a trial that does not fit into memory, before any is trained.
        UnavailableError: for a cluster that is lost.
    """
    if isinstance(where, Execution):
        with open_executor(where) as executor:
            return train_trials(
                configs, data, executor, thresholds=thresholds, progress=progress, kept=kept
            )
    if any(sharpness_steps(config) for config in configs):
        from mlp.stability.sharpness import check_measurable

        check_measurable(configs, data, threads=where.n_threads)
    tally = _Tally(configs, where.notice, kept)
    for numbers in _populations(configs, data, where):
        where.submit(Task(tuple(numbers), tuple(configs[i] for i in numbers), data, thresholds))
    while len(tally.results) < len(configs):
        for answer in where.wait(_added_to(progress, len(tally.results))):
            for task in tally.take(answer):
                where.submit(task)
    return [tally.results[number] for number in range(len(configs))]


def _populations(configs: Sequence[RunConfig], data: Dataset, where: Executor) -> list[list[int]]:
    """Numbers of the trials that train together."""
    most, n_slots = where.population, where.slots()
    if n_slots == 1:  # nobody else waits, and one wide population is the fastest
        size = most or max(1, len(configs))
        numbers = list(range(len(configs)))
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


def _added_to(progress: WorkDone | None, n_done: int) -> WorkDone:
    def tell(in_work: float, losses: NDArray[np.float64]) -> None:
        if progress is not None:
            progress(n_done + in_work, losses)

    return tell


@dataclass(eq=False)
class _Tally:
    """What is there of each trial, and whose populations were lost how often.

    A trial whose worker died three times waits until every other trial is back, and is judged then:
    who came back was not what its worker died of. Nobody is blamed for a neighbour's deed.
    """

    configs: Sequence[RunConfig]
    notice: Callable[[str], None]
    kept: Kept | None

    def __post_init__(self) -> None:
        self.results: dict[int, Result] = {}
        self._n_back = 0
        self._losses: Counter[int] = Counter()
        self._departures: Counter[int] = Counter()  # with others, when their machine went
        self._deaths: list[tuple[int, ...]] = []  # trials that were with a worker when it died
        self._back_before: dict[int, int] = {}  # how many were back when it died the first time
        self._back_at_first: dict[int, int] = {}  # likewise, when it was lost the first time
        self._accused: dict[int, Lost] = {}

    def take(self, answer: Done | Lost) -> list[Task]:
        """Notes an answer; returns what is to be trained again because of it."""
        again: list[Task] = []
        if isinstance(answer, Lost):
            again += self._lost(answer)
        else:
            answers = list(zip(answer.task.numbers, answer.results, strict=True))
            back = {number: result for number, result in answers if not isinstance(result, str)}
            self._n_back += len(back)
            self._keep(back)
            for number, result in answers:
                if not isinstance(result, str):
                    continue
                if len(answer.task.numbers) > 1:  # it raised in company, and again alone
                    self._note_death((number,))
                again += self._lost(Lost(_alone(answer.task, number), result, is_suspect=True))
        return again + self._judged()

    def _lost(self, lost: Lost) -> list[Task]:
        numbers = lost.task.numbers
        if lost.is_suspect:
            self._note_death(numbers)
        for number in numbers:
            self._back_at_first.setdefault(number, self._n_back)
        is_departure = len(numbers) > 1 and not lost.is_suspect
        (self._departures if is_departure else self._losses).update(numbers)
        if len(numbers) > 1:
            self.notice(f"{len(numbers)} trials are trained again: {lost.reason}")
            # One of them may be the reason, and its neighbours are not to go down with it again.
            is_doubtful = lost.is_suspect or self._departures[numbers[0]] >= _MOST_LOSSES
            return [_alone(lost.task, n) for n in numbers] if is_doubtful else [lost.task]
        [number] = numbers
        if self._losses[number] >= _MOST_LOSSES:
            is_innocent = not any(number in death for death in self._deaths)
            if is_innocent and self._n_back == self._back_at_first[number]:
                raise UnavailableError(
                    f"a trial was lost {_MOST_LOSSES} times ({lost.reason}), and no other came "
                    "back meanwhile; when machines stay for as long as a trial takes, the same "
                    "command goes on"
                )
            self._give_up(lost)
            return []
        if lost.is_suspect and sum(number in death for death in self._deaths) >= _MOST_DEATHS:
            self._accused[number] = lost
            return []
        self.notice(f"a trial is trained again: {lost.reason}")
        return [lost.task]

    def _note_death(self, numbers: tuple[int, ...]) -> None:
        self._deaths.append(numbers)
        for number in numbers:
            self._back_before.setdefault(number, self._n_back)

    def _judged(self) -> list[Task]:
        """Judges the accused once nobody else is missing; returns who is tried again."""
        if len(self.results) + len(self._accused) < len(self.configs):
            return []
        accused, self._accused = self._accused, {}
        guilty = {number for number in accused if self._is_guilty(number, {*accused})}
        again: list[Task] = []
        for number, lost in accused.items():
            if number in guilty:
                self._give_up(lost)
            else:
                self.notice(f"a trial is trained again: {lost.reason}")
                again.append(lost.task)
        return again

    def _is_guilty(self, number: int, accused: set[int]) -> bool:
        """Whether a trial must be what its workers died of: it never came back, all others did."""
        if len(accused) > 1 and self._n_back == min(self._back_before[n] for n in accused):
            return False  # whatever trains dies: the reason is outside
        others = accused - {number}
        first = next(i for i, death in enumerate(self._deaths) if number in death)
        certain = [death for death in self._deaths[first:] if not others & {*death}]
        n_own = sum(number in death for death in certain)
        return n_own >= _MOST_DEATHS + len(certain) - n_own

    def _give_up(self, lost: Lost) -> None:
        [number] = lost.task.numbers
        self.notice(f"a trial is given up and recorded as crashed: {lost.reason}")
        self._keep({number: _crashed(self.configs[number])})

    def _keep(self, results: Mapping[int, Result]) -> None:
        # A late duplicate has the same bits.
        new = {number: result for number, result in results.items() if number not in self.results}
        self.results.update(new)
        if new and self.kept is not None:
            self.kept(new)


def _alone(task: Task, number: int) -> Task:
    config = task.configs[task.numbers.index(number)]
    return replace(task, numbers=(number,), configs=(config,))


def _crashed(config: RunConfig) -> Result:
    """What is known of a trial that never came back: nothing, so its one loss is undefined."""
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


class _Here:
    """Trains in this process, one population after the other, each on all threads."""

    def __init__(self, execution: Execution, notice: Callable[[str], None]) -> None:
        self.n_threads = n_threads(execution)
        self.population = execution.population
        self.notice = notice
        self._waiting: deque[Task] = deque()

    def slots(self) -> int:
        return 1

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def wait(self, progress: WorkDone) -> list[Done | Lost]:
        task = self._waiting.popleft()
        results = train_population(
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
