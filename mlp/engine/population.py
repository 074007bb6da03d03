"""Trains many networks on the same examples; the only step loop.

Configs in, results out: whoever calls `train` does not see how the trials share the work, and a
trial's result does not depend on its neighbours, their order or the number of threads.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp import guard
from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine import steps
from mlp.engine.course import Course, Examples, chunk_count, next_epoch, plan_course, read_examples
from mlp.engine.kernels import ROW
from mlp.engine.packing import (
    LONGEST_SLICE,
    LONGEST_SLICE_OF_GPU,
    PackedTrial,
    Population,
    Slice,
    assemble,
    first_weights,
    on_threads,
    present_weights,
    run_slice,
)
from mlp.engine.passes import RUNNING
from mlp.engine.result import Ending, Progress, Result, Thresholds
from mlp.engine.simd import WIDE
from mlp.errors import SystemLimitError
from mlp.network import N_CLASSES, Params

_MEMORY_SHARE = 0.8  # of what is free: results, the search and the tracking need some, too
_SLICE_WORK = 2e8  # products of a slice: a fraction of a second
_SLICE_S, _FIRST_SLICE_OF_GPU = 0.5, 64  # seconds; steps
_NEVER = 2**62  # steps

_ENDINGS = {
    steps.COMPLETED: Ending.COMPLETED,
    steps.NON_FINITE: Ending.NON_FINITE,
    steps.PRUNED: Ending.PRUNED,
}

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # of the second and the first version of cgroups
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
)
_UNLIMITED = 2**63
_MEMINFO = Path("/proc/meminfo")
_COPIES_OF_FIRST = 3  # the first weights, those in float64 while they are drawn, the result's


def train(
    configs: Sequence[RunConfig],
    data: Dataset,
    *,
    threads: int = 1,
    thresholds: Sequence[Thresholds] | None = None,
    progress: Progress | None = None,
    snapshots: Sequence[dict[int, Params]] | None = None,
    memory_bytes: int | None = None,
    gpu: int | None = None,
) -> list[Result]:
    """Trains one network for each config.

    Trials that agree in dtype, batch size, batch order, shift and scale of the inputs are trained
    together in one pass over the data, as many at once as fit into memory. A trial whose loss
    becomes infinite or undefined ends there, and that is its result; no floating-point warning
    escapes.

    Args:
        configs: one a trial; `tracking`, `execution` and, but for `data.scale`, `data` in them are
            not read.
        threads: that train; they change nothing but the time.
        thresholds: one a trial; None prunes nothing.
        progress: called in this thread.
        snapshots: one a trial, number of updates -> weights: a copy takes the place of each value,
            if the trial gets so far. No result depends on them.
        memory_bytes: to be used at most; None: most of what is free.
        gpu: its number; None: the CPU trains. It changes nothing but the time.

    Returns:
        One result for each config, in the same order.

    Raises:
        SystemLimitError: for a network that does not fit into memory, before any is trained.
        UnavailableError: for a GPU where there is none.
    """
    n_examples, n_inputs = data.train.pixels.shape
    sizes = {"n_inputs": n_inputs, "n_examples": n_examples}
    limit = int(_MEMORY_SHARE * available_bytes()) if memory_bytes is None else memory_bytes
    budgets = [_Budget(limit, functools.partial(trial_bytes, threads=threads, **sizes))]
    if gpu is not None:
        from mlp.engine import cuda_steps  # of an extra

        there = sizes | {"n_held_out": data.validation.n_examples}
        free = int(_MEMORY_SHARE * cuda_steps.free_bytes(gpu))
        bytes_here = functools.partial(trial_bytes, threads=threads, is_on_gpu=True, **sizes)
        budgets = [
            _Budget(limit // cuda_steps.count_gpus(), bytes_here),
            _Budget(free, functools.partial(cuda_steps.trial_bytes, **there)),
            _Budget(cuda_steps.MOST_TILES, cuda_steps.tiles_of),
        ]
    populations = _populations(configs, budgets)
    bounds: Sequence[Thresholds] = [{}] * len(configs) if thresholds is None else thresholds
    copies: Sequence[dict[int, Params]] = snapshots or [{}] * len(configs)
    losses = np.full(len(configs), np.nan)
    results: dict[int, Result] = {}
    n_before = 0
    with ThreadPoolExecutor(max(threads - 1, 1)) as pool, _advancing(pool, gpu) as advance:
        for numbers in populations:
            first = configs[numbers[0]]
            course = plan_course(read_examples(data, first.training.shift), first)
            trials = [
                PackedTrial(
                    i, configs[i], first_weights(configs[i], n_inputs), bounds[i], copies[i]
                )
                for i in numbers
            ]
            for step in _slices(course, trials, threads if gpu is None else 0, advance):
                losses[numbers] = [trial.loss for trial in trials]
                if progress is not None:
                    n_own = sum(_updates(trial, step) for trial in trials)
                    progress(n_before + n_own, losses.copy())
            n_before += sum(trial.config.training.steps for trial in trials)
            results.update((trial.number, _result(trial, course.epoch)) for trial in trials)
    return [results[number] for number in range(len(configs))]


@contextmanager
def _advancing(pool: ThreadPoolExecutor, gpu: int | None) -> Iterator[Callable[[Slice], None]]:
    """What does a slice, on threads or on a GPU."""
    if gpu is None:
        yield on_threads(pool)
        return
    from mlp.engine import cuda_steps

    with cuda_steps.opened(gpu) as device:
        yield device.advance


def shared_settings(config: RunConfig) -> tuple[object, ...]:
    """What trials must agree in to be trained in one pass over the data."""
    training = config.training
    order_seed = None if training.batch_size is None else training.order_seed
    scale = config.data.scale
    return training.dtype, training.batch_size, order_seed, training.shift, scale


class _Budget(NamedTuple):
    """Memory, and what a trial takes of it, in bytes."""

    limit: int
    bytes_of: Callable[[RunConfig], int]


def _populations(configs: Sequence[RunConfig], budgets: Sequence[_Budget]) -> list[list[int]]:
    """Numbers of the configs that are trained together: they agree in what they share, and fit."""
    populations: list[list[int]] = []
    limits = np.array([budget.limit for budget in budgets])
    filling: dict[tuple[object, ...], tuple[list[int], NDArray[np.int64]]] = {}
    for number, config in enumerate(configs):
        key = shared_settings(config)
        needed = np.array([budget.bytes_of(config) for budget in budgets])
        for limit, own in zip(limits, needed, strict=True):
            if own > limit:
                raise SystemLimitError(
                    f"model.widths={list(config.model.layer_widths)} must fit into "
                    f"{limit / 1e9:.3g} GB of memory, but needs {own / 1e9:.3g} GB to be trained"
                )
        members, used = filling.get(key, ([], np.zeros_like(limits)))
        if not members or (used + needed > limits).any():
            members, used = [], np.zeros_like(limits)
            populations.append(members)
        members.append(number)
        filling[key] = members, used + needed
    return populations


def _slices(
    course: Course,
    trials: list[PackedTrial],
    threads: int,
    advance: Callable[[Slice], None],
) -> Iterator[int]:
    """Trains a population to the last trial's end; yields the last step of each slice.

    Args:
        threads: that train it; 0: a GPU does.
    """
    population: Population | None = None
    step, last = 0, 0
    longest = _FIRST_SLICE_OF_GPU  # on threads it follows from the work
    batches = next_epoch(course)
    while running := [trial for trial in trials if trial.ending == RUNNING]:
        if population is None or len(running) < len(population.trials):
            population = assemble(course, running, threads, population)
            last = max(trial.config.training.steps for trial in running)
            if threads:
                longest = _slice_steps(course.examples, running)
        if course.epoch and step and step % course.epoch == 0:
            batches = next_epoch(course)
        n_steps = min(longest, last - step + 1)
        if course.epoch:
            n_steps = min(n_steps, course.epoch - step % course.epoch)
        n_steps = min(n_steps, _take_snapshots(course, population, step))
        begun = time.monotonic()
        run_slice(course, population, batches, step, n_steps, advance)
        if not threads:  # nobody knows how fast a GPU is
            took_s = time.monotonic() - begun
            if took_s > 2 * _SLICE_S:
                longest = max(longest // 2, 1)
            elif took_s < _SLICE_S / 2 and n_steps == longest:
                longest = min(2 * longest, LONGEST_SLICE_OF_GPU)
        step += n_steps
        yield step - 1


def _take_snapshots(course: Course, population: Population, step: int) -> int:
    """Copies the weights that are due now; returns in how many steps the next ones are."""
    following = [_NEVER]
    for place, trial in enumerate(population.trials):
        if step in trial.snapshots:
            trial.snapshots[step] = present_weights(course, population, place)
        following += [other - step for other in trial.snapshots if other > step]
    return min(following)


def _updates(trial: PackedTrial, step: int) -> int:
    """How many updates of a trial count as done at a step: all, where it has ended."""
    most = trial.config.training.steps
    return min(step, most) if trial.ending == RUNNING else most


def _slice_steps(examples: Examples, trials: Sequence[PackedTrial]) -> int:
    """Steps that take a fraction of a second, so that progress is seen and an interrupt heard."""
    n_rows, n_entries = len(examples.train.label), len(examples.train.value)
    work = sum(
        n_entries * trial.config.model.layer_widths[0]
        + n_rows * sum(layer.W.size for layer in trial.first[1:])
        for trial in trials
    )
    return int(np.clip(_SLICE_WORK / work, 1, LONGEST_SLICE))


def _result(trial: PackedTrial, epoch: int) -> Result:
    curves: dict[str, Any] = {name: np.concatenate(c) for name, c in trial.curves.items()}
    config, last = trial.config, trial.last_step
    batch_loss, whole_loss, accuracy, restored = (
        curves.pop(name)[: last + 1]
        for name in ("batch_loss", "whole_loss", "accuracy", "restored")
    )
    loss, loss_step, step_loss = batch_loss, np.arange(last + 1), None
    if epoch:
        is_taken = loss_step % epoch == 0
        is_taken[-1] |= trial.ending == steps.COMPLETED
        if config.optimizer.guard != "none":  # a loss that was lost was gone back from
            is_taken &= np.isfinite(whole_loss) | (loss_step == last)
        loss, loss_step = whole_loss[is_taken], loss_step[is_taken]
        step_loss = batch_loss[:last]
        if trial.ending == steps.NON_FINITE and np.isfinite(loss[-1]):
            step_loss = batch_loss
            loss, loss_step = np.append(loss, batch_loss[last]), np.append(loss_step, last)
    evaluated, went_back = np.flatnonzero(~np.isnan(accuracy)), np.flatnonzero(restored >= 0)
    return Result(
        loss=loss,
        loss_step=loss_step,
        step_loss=step_loss,
        validation_accuracy=accuracy[evaluated],
        evaluated_step=evaluated,
        weights=tuple((layer.W, layer.b) for layer in trial.weights),
        ending=_ENDINGS[trial.ending],
        last_step=last,
        restored_step=went_back,
        restored_to=restored[went_back],
        restored_share=guard.FACTOR ** np.arange(1.0, went_back.size + 1),
        **curves,
    )


def available_bytes() -> int:
    """Memory that can still be used, by the machine's account and the container's."""
    return min(_machine_bytes(), _container_bytes())


def trial_bytes(
    config: RunConfig, *, n_inputs: int, n_examples: int, threads: int, is_on_gpu: bool = False
) -> int:
    """Memory that a trial takes in a population, at most.

    Weights, velocity and each chunk's gradient, twice while trials that go on are packed anew; the
    scratch of each thread, as if no other trial shared it; the curves; the copies of the weights
    at which the sharpness will be measured. Where a GPU trains, what a slice leaves, three times:
    as it is made, as it is handed over, and as it is noted.
    """
    n_chunks = chunk_count(config.training.batch_size, n_examples)
    item = np.dtype(config.training.dtype).itemsize
    lanes = WIDE // item
    widths = config.model.layer_widths
    sizes = (n_inputs, *widths, N_CLASSES)
    n_weights = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    n_packed = n_weights + lanes * (n_inputs + 1)  # a group may leave part of a tile empty
    n_units = widths[0] + lanes + 2 * sum(widths) + len(widths) + 2
    n_steps, n_layers = config.training.steps + 1, len(sizes) - 1
    measured = 3 * n_layers * (n_steps // config.training.evaluate_every + 2 + LONGEST_SLICE)
    curves = 2 * 8 * (5 * n_steps + measured)
    n_best = int(config.optimizer.guard != "none")
    return (
        2 * (2 + n_best + n_chunks) * n_packed * item
        + _COPIES_OF_FIRST * n_weights * 8
        + threads * (n_units + max(widths) // ROW + 1) * ROW * item
        + curves
        + is_on_gpu * 3 * 8 * LONGEST_SLICE_OF_GPU * (8 + 3 * n_layers)
        + config.training.sharpness_points * n_weights * item
    )


def _machine_bytes() -> int:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(fields["MemAvailable"]) * 1024


def _container_bytes() -> int:
    """What is left of a container's limit; no limit is a huge number."""
    for limit_file, used_file in _LIMITS:
        try:
            limit, used = limit_file.read_text().strip(), int(used_file.read_text())
        except OSError:
            continue
        return _UNLIMITED if limit == "max" else max(int(limit) - used, 0)
    return _UNLIMITED
