"""Populations packed for the compiled step loop: from configs and arrays to its job and back."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp import guard
from mlp.config import RunConfig
from mlp.curve import CHANCE_LOSS
from mlp.engine import kernels, steps, update
from mlp.engine.course import Course, chunk_count
from mlp.engine.handle import Handle
from mlp.engine.layout import (
    Layout,
    Packed,
    move,
    pack,
    packed_zeros,
    plan_layout,
    unpack,
)
from mlp.engine.passes import RUNNING, scratch_size
from mlp.engine.simd import WIDE, aligned_zeros
from mlp.engine.sparse import Batches, Images
from mlp.gradient import rate_share
from mlp.network import Params, initialize

Array = NDArray[np.floating]
Losses = NDArray[np.float64]

_ACTIVATIONS = {"sigmoid": kernels.SIGMOID, "tanh": kernels.TANH, "relu": kernels.RELU}
_DERIVATIVES = {"exact": kernels.EXACT, "question": kernels.QUESTION}
_NORMALIZATIONS = {
    "sum": update.SUM,
    "mean": update.MEAN,
    "unit": update.UNIT,
    "clip": update.CLIP,
}
_GROUP_COLUMNS = 256  # their sums over a block of rows fit the second-level cache


class LayerPoints(NamedTuple):
    """What was measured of the layers, as a `Result` has it."""

    layer_step: NDArray[np.int64]
    layer_gradient: Losses
    layer_update: Losses
    layer_idle: Losses


@dataclass(eq=False)
class PackedTrial:
    """One network in training.

    Attributes:
        number: its place among the configs.
        thresholds: step -> accuracy below which it is pruned there.
        batch_loss: of each slice done, the mean loss of each step's batch.
        whole_loss: of each slice done, the mean loss over the whole training part where due.
        accuracy: of each slice done, on the held-out part; NaN where none was taken.
        restored: of each slice done, the steps whose weights were gone back to; else -1.
        layers: of each slice done, what was measured of the layers.
        ending: of `mlp.engine.steps`.
        last_step: updates done.
        weights: when it has ended.
    """

    number: int
    config: RunConfig
    first: Params
    thresholds: Mapping[int, float]
    batch_loss: list[Losses] = field(default_factory=list)
    whole_loss: list[Losses] = field(default_factory=list)
    accuracy: list[Losses] = field(default_factory=list)
    restored: list[NDArray[np.int64]] = field(default_factory=list)
    layers: list[LayerPoints] = field(default_factory=list)
    ending: int = RUNNING
    last_step: int = 0
    weights: Params = ()


@dataclass(eq=False)
class Population:
    """Networks side by side, and the data in the form they are trained on.

    Attributes:
        trials: in the layout's order.
        best: the weights that guards go back to; empty where no trial has one.
        watched: the rows of `mlp.guard`, of all trials.
        gradient: of all trials, for each chunk.
        scratch: of each thread.
        totals: of each thread.
    """

    trials: list[PackedTrial]
    layout: Layout
    settings: steps.Trials
    weights: Packed
    velocity: Packed
    best: Packed
    watched: Losses
    gradient: Packed
    scratch: list[Array]
    totals: list[Losses]


@np.errstate(all="ignore")  # first weights may be beyond the dtype
def begin(
    number: int, config: RunConfig, course: Course, thresholds: Mapping[int, float]
) -> PackedTrial:
    """A trial with its first weights."""
    first = initialize(
        config.model,
        config.initialization,
        n_inputs=len(course.examples.live),
        seed=config.training.seed,
        dtype=config.training.dtype,
    )
    return PackedTrial(number, config, first, thresholds)


def assemble(
    course: Course, trials: list[PackedTrial], threads: int, old: Population | None = None
) -> Population:
    """Packs trials side by side.

    Args:
        old: the population they were in; None at the start.
    """
    dtype, n_pixels = course.dtype, course.examples.n_pixels
    widths = [trial.config.model.layer_widths for trial in trials]
    n_examples = len(course.examples.train.label)
    n_chunks = chunk_count(course.batch_size or n_examples, n_examples)
    layout = plan_layout(widths, _groups(widths, n_chunks, threads), n_pixels, dtype)
    weights, velocity = packed_zeros(layout, dtype), packed_zeros(layout, dtype)
    is_guarded = any(trial.config.optimizer.guard != "none" for trial in trials)
    best = packed_zeros(layout, dtype, int(is_guarded))
    watched = np.array([_row(trial.config) for trial in trials])
    for place, trial in enumerate(trials):
        if old is None:
            pack(layout, weights, place, trial.first, course.examples.live)
        else:
            before = old.trials.index(trial)
            move((old.layout, old.weights, before), (layout, weights, place))
            move((old.layout, old.velocity, before), (layout, velocity, place))
            if is_guarded:
                move((old.layout, old.best, before), (layout, best, place))
                watched[place] = old.watched[before]
    threads = min(threads, layout.n_groups * n_chunks)  # more would find nothing to do
    return Population(
        trials,
        layout,
        _settings([trial.config for trial in trials], dtype),
        weights,
        velocity,
        best,
        watched,
        packed_zeros(layout, dtype, n_chunks),
        [aligned_zeros(scratch_size(layout), dtype) for _ in range(threads)],
        [aligned_zeros(2 * WIDE // np.dtype(dtype).itemsize, np.float64) for _ in range(threads)],
    )


def _row(config: RunConfig) -> list[float]:
    """The row that a trial's guard begins with; in a short run there is less to wait for."""
    batch_size = config.training.batch_size
    return guard.row_of(
        CHANCE_LOSS,
        batch_size=batch_size,
        noise=0.0 if batch_size is None else None,
        patience=min(guard.PATIENCE, config.training.steps // 2),
    )


def _groups(widths: Sequence[Sequence[int]], n_chunks: int, threads: int) -> list[int]:
    """How many trials each group takes.

    Groups keep the sums of a block in the cache; where the chunks alone do not give each thread
    something to do, there are as many groups as threads.
    """
    n_columns = sum(shape[0] for shape in widths)
    most = min(_GROUP_COLUMNS, n_columns if n_chunks >= threads else -(-n_columns // threads))
    groups, filled = [0], 0
    for shape in widths:
        if groups[-1] and filled + shape[0] > most:
            groups.append(0)
            filled = 0
        groups[-1] += 1
        filled += shape[0]
    return groups


def _settings(configs: Sequence[RunConfig], dtype: str) -> steps.Trials:
    def integers(values: Sequence[int]) -> NDArray[np.int64]:
        return np.array(values, np.int64)

    return steps.Trials(
        activation=integers([_ACTIVATIONS[c.model.activation] for c in configs]),
        derivative=integers([_DERIVATIVES[c.gradient.derivative] for c in configs]),
        normalization=integers([_NORMALIZATIONS[c.gradient.normalization] for c in configs]),
        momentum=np.array([c.optimizer.momentum for c in configs], dtype),
        clip_norm=np.array([c.gradient.clip_norm for c in configs]),
        steps=integers([c.training.steps for c in configs]),
        evaluate_every=integers([c.training.evaluate_every for c in configs]),
        is_guarded=integers([c.optimizer.guard != "none" for c in configs]),
        ending=integers([RUNNING] * len(configs)),
        last_step=integers([0] * len(configs)),
        is_broken=integers([0] * len(configs)),
    )


def run_slice(
    course: Course,
    population: Population,
    epoch: tuple[Images, Batches],
    first_step: int,
    n_steps: int,
    pool: ThreadPoolExecutor,
) -> None:
    """Advances a population and notes what its trials did.

    Args:
        first_step: updates done before.
        n_steps: steps to do, within the epoch.
        pool: a thread for each scratch but the first, which is this thread's.
    """
    record = _record(course, population, first_step, n_steps)
    job, sources = _job(course, population, record, first_step, n_steps), _sources(course, epoch)
    threads = list(zip(population.scratch, population.totals, strict=True))
    others = [
        pool.submit(_take_part, job, sources, *own, thread)
        for thread, own in enumerate(threads[1:], 1)
    ]
    _take_part(job, sources, *threads[0], 0)
    for other in others:
        other.result()
    for place, trial in enumerate(population.trials):
        trial.batch_loss.append(record.batch_loss[place])
        trial.whole_loss.append(record.whole_loss[place])
        trial.accuracy.append(record.accuracy[place])
        trial.restored.append(record.restored[place])
        trial.layers.append(_layer_points(record, place, trial.config.model.depth, first_step))
        trial.ending = int(population.settings.ending[place])
        trial.last_step = int(population.settings.last_step[place])
        if trial.ending != RUNNING:
            trial.weights = present_weights(course, population, place)


def _layer_points(record: steps.Record, place: int, depth: int, first_step: int) -> LayerPoints:
    """What a slice has measured of one trial's layers."""
    at = np.flatnonzero(~np.isnan(record.layer_gradient[place, :, 0]))
    return LayerPoints(
        first_step + at,
        record.layer_gradient[place, at, : depth + 1],
        record.layer_update[place, at, : depth + 1],
        record.layer_idle[place, at, :depth],
    )


def present_weights(course: Course, population: Population, place: int) -> Params:
    """A copy of the weights that the trial in this place has between two slices."""
    first, live = population.trials[place].first[0], course.examples.live
    return unpack(population.layout, population.weights, place, first, live)


def _job(
    course: Course, population: Population, record: steps.Record, first_step: int, n_steps: int
) -> Handle:
    n, n_groups = len(population.trials), population.layout.n_groups
    state = steps.State(
        *population.weights,
        *population.velocity,
        *population.best,
        *population.gradient,
        losses=np.zeros((3, steps.CHUNKS, n)),
        hits=np.zeros((3, steps.CHUNKS, n)),
        idle=np.zeros((steps.CHUNKS, n, int(population.layout.width.sum(axis=1).max()))),
        watched=population.watched,
        action=np.zeros(n, np.int64),
        control=np.zeros(n_groups * steps.CONTROL, np.int64),
    )
    return Handle(
        population.layout,
        population.settings,
        state,
        record,
        feature=course.feature,
        epoch=course.epoch,
        first_step=first_step,
        n_steps=n_steps,
    )


def _sources(course: Course, epoch: tuple[Images, Batches]) -> steps.Sources:
    train, held_out = course.examples.train, course.examples.held_out
    whole = Handle(train, course.whole)
    return steps.Sources(
        batch=whole if epoch[1] is course.whole else Handle(*epoch),
        held_out=whole if held_out is None else Handle(held_out, course.held_out),
        whole=whole,
    )


def _take_part(
    job: Handle, sources: steps.Sources, scratch: Array, totals: Losses, thread: int
) -> None:
    while not steps.advance(job, sources, scratch, totals, thread):
        time.sleep(0)  # others may need the core more than a thread that waits


@np.errstate(over="ignore")  # a rate may be beyond the dtype
def _rates(configs: Sequence[RunConfig], step: NDArray[np.int64], dtype: str) -> Array:
    """The learning rate of each update, `(trials, steps)`."""
    rates = [c.optimizer.rate * rate_share(c.optimizer, step, c.training.steps) for c in configs]
    return np.array(rates).astype(dtype)


def _record(course: Course, population: Population, first_step: int, n_steps: int) -> steps.Record:
    """Empty rows for the slice, with what is due when."""
    settings, n = population.settings, len(population.trials)
    groups = population.layout.group_trial[:-1]
    step = np.arange(first_step, first_step + n_steps)
    is_last = step == settings.steps[:, None]
    is_evaluated = is_last | ((step > 0) & (step % settings.evaluate_every[:, None] == 0))
    is_whole = is_last | (step % course.epoch == 0) if course.epoch else np.zeros_like(is_last)
    if course.examples.held_out is None:
        is_evaluated[:] = False
    due = np.stack([np.ones_like(is_last), is_evaluated, is_whole], axis=-1)
    threshold = np.full((n, n_steps), -np.inf)
    for place, trial in enumerate(population.trials):
        for at, value in trial.thresholds.items():
            if first_step <= at < first_step + n_steps:
                threshold[place, at - first_step] = value
    layers = (n, n_steps, population.layout.width.shape[1] + 1)
    return steps.Record(
        batch_loss=np.full((n, n_steps), np.nan),
        whole_loss=np.full((n, n_steps), np.nan),
        accuracy=np.full((n, n_steps), np.nan),
        threshold=threshold,
        rate=_rates([trial.config for trial in population.trials], step, course.dtype),
        restored=np.full((n, n_steps), -1),
        layer_gradient=np.full(layers, np.nan),
        layer_update=np.full(layers, np.nan),
        layer_idle=np.full(layers, np.nan),
        due=np.logical_or.reduceat(due, groups, axis=0).astype(np.int64),
    )
