"""Populations packed for the compiled step loop: from configs and arrays to its job and back."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp import guard
from mlp.config import RunConfig
from mlp.curve import CHANCE_LOSS
from mlp.engine import kernels, steps, update
from mlp.engine.course import Course, chunk_count
from mlp.engine.handle import Handle
from mlp.engine.layout import Array, Integers, Layout, move, pack, plan_layout, unpack
from mlp.engine.passes import RUNNING, scratch_size
from mlp.engine.simd import WIDE, aligned_zeros
from mlp.gradient import rate_share
from mlp.network import Layer, Params, initialize

_ACTIVATIONS = {"sigmoid": kernels.SIGMOID, "tanh": kernels.TANH, "relu": kernels.RELU}
_DERIVATIVES = {"exact": kernels.EXACT, "question": kernels.QUESTION}
_NORMALIZATIONS = {
    "sum": update.SUM,
    "mean": update.MEAN,
    "unit": update.UNIT,
    "clip": update.CLIP,
}
LONGEST_SLICE, LONGEST_SLICE_OF_GPU = 256, 1024  # steps
_GROUP_COLUMNS = 256  # their sums over a block of rows fit the second-level cache


@dataclass(eq=False)
class PackedTrial:
    """One network in training."""

    number: int  # its place among the configs
    config: RunConfig
    first: Params
    thresholds: Mapping[int, float]  # step -> accuracy below which it is pruned there
    snapshots: dict[int, Params]  # step -> weights, to be copied there
    # Name -> what each slice done has left: batch_loss, whole_loss, accuracy and restored of each
    # step, as in a Record, and what was measured of the layers, as in a Result
    curves: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))
    loss: float = np.nan  # the latest
    ending: int = RUNNING  # of mlp.engine.steps
    last_step: int = 0  # updates done
    weights: Params = ()  # when it has ended


@dataclass(eq=False)
class Population:
    """Networks side by side, in the layout's order."""

    trials: list[PackedTrial]
    layout: Layout
    state: steps.State
    threads: list[Handle]  # what each has for itself


class Slice(NamedTuple):
    """Steps of a population that are done without a look at it."""

    course: Course
    population: Population
    sources: tuple[Handle, ...]  # what the steps may pass over, as in `mlp.engine.passes`
    record: steps.Record  # receives what they leave
    first_step: int  # updates done before
    n_steps: int


@np.errstate(all="ignore")  # they may be beyond the dtype
def first_weights(config: RunConfig, n_inputs: int) -> Params:
    """The weights that a run begins with."""
    training = config.training
    return initialize(
        config.model,
        config.initialization,
        n_inputs=n_inputs,
        seed=training.seed,
        dtype=training.dtype,
    )


def assemble(
    course: Course, trials: list[PackedTrial], threads: int, old: Population | None = None
) -> Population:
    """Packs trials side by side.

    Args:
        threads: that train them; 0: a GPU does, for which they are one group of wide tiles.
        old: the population they were in; None at the start.
    """
    dtype = course.dtype
    widths = [trial.config.model.layer_widths for trial in trials]
    n_chunks = chunk_count(course.batch_size, len(course.examples.train.label))
    groups = _groups(widths, n_chunks, threads) if threads else [len(trials)]
    layout = plan_layout(widths, groups, course.examples.n_pixels, dtype, is_wide=threads == 0)
    state = _state(layout, [trial.config for trial in trials], n_chunks, dtype)
    for place, trial in enumerate(trials):
        if old is None:
            pack(layout, state.weights, place, trial.first, course.examples.live)
            continue
        before = old.trials.index(trial)
        for name in ("weights", "velocity", "best"):
            source, target = getattr(old.state, name), getattr(state, name)
            if target.size:
                move((old.layout, source, before), (layout, target, place))
        for name in ("watched", "is_broken"):
            getattr(state, name)[place] = getattr(old.state, name)[before]
    threads = min(threads, layout.n_groups * n_chunks)  # more would find nothing to do
    n_lanes = WIDE // np.dtype(dtype).itemsize
    handles = [
        Handle(
            scratch=aligned_zeros(scratch_size(layout), dtype),
            totals=aligned_zeros(2 * n_lanes, np.float64),
            thread=thread,
        )
        for thread in range(threads)
    ]
    return Population(trials, layout, state, handles)


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


def _state(layout: Layout, configs: Sequence[RunConfig], n_chunks: int, dtype: str) -> steps.State:
    """The settings of trials that have not begun, and zeros."""
    n, n_columns, n_units = len(configs), layout.n_columns, int(layout.width.sum(axis=1).max())
    is_guarded = [config.optimizer.guard != "none" for config in configs]

    def integers(values: Sequence[int]) -> Integers:
        return np.array(values, np.int64)

    return steps.State(
        activation=integers([_ACTIVATIONS[c.model.activation] for c in configs]),
        derivative=integers([_DERIVATIVES[c.gradient.derivative] for c in configs]),
        normalization=integers([_NORMALIZATIONS[c.gradient.normalization] for c in configs]),
        momentum=np.array([c.optimizer.momentum for c in configs], dtype),
        clip_norm=np.array([c.gradient.clip_norm for c in configs]),
        steps=integers([c.training.steps for c in configs]),
        evaluate_every=integers([c.training.evaluate_every for c in configs]),
        is_guarded=integers(is_guarded),
        watched=np.array([_row(config) for config in configs]),
        action=np.zeros(n, np.int64),
        ending=integers([RUNNING] * n),
        last_step=np.zeros(n, np.int64),
        is_broken=np.zeros(n, np.int64),
        weights=aligned_zeros(layout.size, dtype),
        velocity=aligned_zeros(layout.size, dtype),
        best=aligned_zeros(any(is_guarded) * layout.size, dtype),
        gradient=aligned_zeros(n_chunks * layout.size, dtype),
        losses=np.zeros((3, steps.CHUNKS, n)),
        hits=np.zeros((3, steps.CHUNKS, n)),
        idle=np.zeros((steps.CHUNKS, n, n_units)),
        largest=np.zeros(n_columns, dtype),
        divisor=np.zeros(n_columns, dtype),
        factor=np.zeros(n_columns, dtype),
        column_rate=np.zeros(n_columns, dtype),
        column_momentum=np.zeros(n_columns, dtype),
        doubt=np.zeros(n_columns, dtype),
        gradient_squares=np.zeros(n_columns),
        velocity_squares=np.zeros(n_columns),
        weight_squares=np.zeros(n_columns),
        control=np.zeros(layout.n_groups * steps.CONTROL, np.int64),
    )


def _row(config: RunConfig) -> list[float]:
    """The row that a trial's guard begins with.

    It waits for half of the steps: a longer run has more to lose by a false alarm, and as much left
    to learn in once it went back (docs/guard.md).
    """
    batch_size = config.training.batch_size
    return guard.row_of(
        CHANCE_LOSS,
        batch_size=batch_size,
        noise=0.0 if batch_size is None else None,
        patience=config.training.steps // 2,
    )


def run_slice(
    course: Course,
    population: Population,
    batches: Handle,
    first_step: int,
    n_steps: int,
    advance: Callable[[Slice], None],
) -> None:
    """Advances a population and notes what its trials did.

    Args:
        batches: of the epoch.
        first_step: updates done before.
        n_steps: steps to do, within the epoch.
        advance: does them.
    """
    state, sources = population.state, (batches, course.held_out or course.whole, course.whole)
    record = _record(course, population, sources, first_step, n_steps)
    advance(Slice(course, population, sources, record, first_step, n_steps))
    numbers = "batch_loss", "whole_loss", "layer_gradient", "layer_update"
    record = record._replace(**{name: one_nan(getattr(record, name)) for name in numbers})
    is_measured = ~np.isnan(record.layer_gradient[:, :, 0])
    for place, trial in enumerate(population.trials):
        _note(trial, place, record, first_step, np.flatnonzero(is_measured[place]))
        trial.ending = int(state.ending[place])
        trial.last_step = int(state.last_step[place])
        trial.loss = float(record.batch_loss[place, trial.last_step - first_step])
        if trial.ending != RUNNING:
            trial.weights = present_weights(course, population, place)


def on_threads(pool: ThreadPoolExecutor) -> Callable[[Slice], None]:
    """Does slices on this thread and others of a pool."""

    def advance(part: Slice) -> None:
        course, population, sources, record, first_step, n_steps = part
        job = Handle(
            population.layout,
            population.state,
            record,
            feature=course.feature,
            size=population.layout.size,
            epoch=course.epoch,
            first_step=first_step,
            n_steps=n_steps,
        )
        population.state.control[:] = 0
        own, *others_own = population.threads
        others = [pool.submit(_take_part, job, sources, other) for other in others_own]
        _take_part(job, sources, own)
        for other in others:
            other.result()

    return advance


def _take_part(job: Handle, sources: tuple[Handle, ...], own: Handle) -> None:
    while not steps.advance(job, sources, own):
        time.sleep(0)  # others may need the core more than a thread that waits


def _note(
    trial: PackedTrial, place: int, record: steps.Record, first_step: int, at: Integers
) -> None:
    """Adds what a slice has left of a trial to its curves; its layers were measured `at` steps."""
    depth = trial.config.model.depth
    parts = {
        "batch_loss": record.batch_loss[place],
        "whole_loss": record.whole_loss[place],
        "accuracy": record.accuracy[place],
        "restored": record.restored[place],
        "layer_step": first_step + at,
        "layer_gradient": record.layer_gradient[place, at, : depth + 1],
        "layer_update": record.layer_update[place, at, : depth + 1],
        "layer_idle": record.layer_idle[place, at, :depth],
    }
    for name, part in parts.items():
        trial.curves[name].append(part)


def present_weights(course: Course, population: Population, place: int) -> Params:
    """A copy of the weights that the trial in this place has between two slices."""
    first, live = population.trials[place].first[0], course.examples.live
    weights = unpack(population.layout, population.state.weights, place, first, live)
    return tuple(Layer(one_nan(layer.W), one_nan(layer.b)) for layer in weights)


def one_nan(numbers: NDArray[Any]) -> NDArray[Any]:
    """The numbers, with the same bits in each that is none: processors differ in these."""
    return np.where(np.isnan(numbers), numbers.dtype.type(np.nan), numbers)


@np.errstate(over="ignore")  # a rate may be beyond the dtype
def _rates(configs: Sequence[RunConfig], step: Integers, dtype: str) -> Array:
    """The learning rate of each update, `(trials, steps)`."""
    rates = [c.optimizer.rate * rate_share(c.optimizer, step, c.training.steps) for c in configs]
    return np.array(rates).astype(dtype)


def _record(
    course: Course,
    population: Population,
    sources: tuple[Handle, ...],
    first_step: int,
    n_steps: int,
) -> steps.Record:
    """Empty rows for the slice, with what is passed over when."""
    state, n = population.state, len(population.trials)
    step = np.arange(first_step, first_step + n_steps)
    is_last = step == state.steps[:, None]
    is_evaluated = is_last | ((step > 0) & (step % state.evaluate_every[:, None] == 0))
    is_evaluated &= course.held_out is not None
    is_whole = is_last | (step % course.epoch == 0) if course.epoch else np.zeros_like(is_last)
    is_due = np.stack([np.ones_like(is_last), is_evaluated, is_whole], axis=-1)
    is_due = np.logical_or.reduceat(is_due, population.layout.group_trial[:-1], axis=0)
    n_blocks = [np.diff(source.arrays["batch_block"]) for source in sources]
    n_chunks = np.stack([blocks[step % len(blocks)] for blocks in n_blocks], axis=-1)
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
        n_chunks=is_due * np.minimum(n_chunks, steps.CHUNKS),
    )
