"""The step loop of a packed population, shared by any number of threads.

The work of a step is cut into tasks: the blocks of a batch in at most `CHUNKS` runs, for each
group of trials. Threads take tasks as they come. Every task writes its own sums. The thread that
finishes the last task of a step adds them in the order of the chunks, decides which trials go on,
and updates those. So no bit depends on the number of threads or on which thread did which task.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from mlp import guard
from mlp.engine.handle import (
    Handle,
    claim,
    count_up,
    flush_subnormals,
    inner,
    peek,
    restore,
    version_of,
)
from mlp.engine.layout import Array
from mlp.engine.passes import RUNNING, is_measured, pass_chunk
from mlp.engine.update import copy_first, copy_upper, rest, update_group

CHUNKS = 8  # enough for eight threads on a single network; each costs one more gradient to add
COMPLETED, NON_FINITE, PRUNED = range(1, 4)  # besides RUNNING
BATCH, HELD_OUT, WHOLE = range(3)

_COMPILED = (
    "handle",
    "kernels",
    "passes",
    "simd",
    "sparse",
    "steps",
    "update",
    "../guard",
    "../curve",
)
_IDLE_LOOKS = 4000  # for work, before a thread without any goes back to its caller
CONTROL = 16  # numbers of each group in `control`: two cache lines, so that groups share none

for _function in (
    guard.count_far,
    guard.swings,
    guard.rises,
    guard.count_swings,
    guard.take_swing,
    guard.least_swing,
    guard.noise_of,
    guard.see,
    guard.tells_swings,
    guard.go_back,
    guard.begin_again,
):
    register_jitable(_function)
_watch = inner()(guard.watch)


class Trials(NamedTuple):
    """Settings and state of each trial, `(trials,)` each, in the layout's order.

    Attributes:
        activation: int64, of `mlp.engine.kernels`.
        derivative: int64, of `mlp.engine.kernels`.
        normalization: int64, of `mlp.engine.update`.
        momentum: of the training's dtype.
        clip_norm: float64.
        steps: int64.
        evaluate_every: int64.
        is_guarded: int64; 1 where `mlp.guard` watches.
        ending: int64; RUNNING, or how the trial ended.
        last_step: int64; updates done.
        is_broken: int64; 1 where a first weight is no finite number any more.
    """

    activation: NDArray[np.int64]
    derivative: NDArray[np.int64]
    normalization: NDArray[np.int64]
    momentum: NDArray[np.floating]
    clip_norm: NDArray[np.float64]
    steps: NDArray[np.int64]
    evaluate_every: NDArray[np.int64]
    is_guarded: NDArray[np.int64]
    ending: NDArray[np.int64]
    last_step: NDArray[np.int64]
    is_broken: NDArray[np.int64]


class Record(NamedTuple):
    """What a slice of steps goes by and leaves behind, `(trials, steps)`, else float64.

    Attributes:
        batch_loss: mean loss of each step's batch.
        whole_loss: mean loss over the whole training part, where a step was due.
        accuracy: on the held-out part; NaN where none was taken.
        threshold: accuracy below which a trial is pruned.
        rate: learning rate of each update, of the training's dtype.
        restored: int64, the step whose weights were gone back to; -1 where none were.
        layer_gradient: `(trials, steps, layers)`, as `layer_gradient` of a `Result`; NaN where it
            was not due. The next two likewise.
        layer_update: see there.
        layer_idle: see there.
        due: `(groups, steps, 3)` int64, 1 where a group passes over each of the three sources.
    """

    batch_loss: NDArray[np.float64]
    whole_loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    threshold: NDArray[np.float64]
    rate: NDArray[np.floating]
    restored: NDArray[np.int64]
    layer_gradient: NDArray[np.float64]
    layer_update: NDArray[np.float64]
    layer_idle: NDArray[np.float64]
    due: NDArray[np.int64]


class State(NamedTuple):
    """The weights, and what is written while they are trained; see `mlp.engine.layout.Packed`.

    Attributes:
        weights_first: of the first layers of all trials.
        weights_upper: of the layers above.
        velocity_first: in the same form.
        velocity_upper: in the same form.
        best_first: in the same form, the weights that a guard goes back to; empty without one.
        best_upper: in the same form.
        gradient_first: a copy for each chunk.
        gradient_upper: a copy for each chunk.
        losses: `(3, CHUNKS, trials)` float64, sums of each source and chunk.
        hits: the same for examples that were told right.
        idle: `(CHUNKS, trials, units)` float64, examples in which each hidden unit is idle.
        watched: `(trials, guard.ROW_SIZE)` float64, the rows of `mlp.guard`.
        action: `(trials,)` int64, what the guard said at this step.
        control: `(groups * CONTROL,)` int64, how far each group is.
    """

    weights_first: Array
    weights_upper: Array
    velocity_first: Array
    velocity_upper: Array
    best_first: Array
    best_upper: Array
    gradient_first: Array
    gradient_upper: Array
    losses: NDArray[np.float64]
    hits: NDArray[np.float64]
    idle: NDArray[np.float64]
    watched: NDArray[np.float64]
    action: NDArray[np.int64]
    control: NDArray[np.int64]


class Sources(NamedTuple):
    """What a step may pass over: a `Handle` on `Images` and `Batches` each.

    Attributes:
        batch: one epoch of what is learned from.
        held_out: what accuracies are taken on, as one batch.
        whole: the training part as one batch.
    """

    batch: Handle
    held_out: Handle
    whole: Handle


@inner()
def chunks_of(job, sources, group, step, role):
    """How many chunks of a source a group passes over in a step, and of which batch."""
    if job.due[group, step, role] == 0:
        return 0, 0
    source = sources.batch
    batch = 0
    if role == BATCH:
        batch = (job.first_step + step) % (len(source.batch_block) - 1)
    elif role == HELD_OUT:
        source = sources.held_out
    else:
        source = sources.whole
    blocks = source.batch_block
    return min(CHUNKS, blocks[batch + 1] - blocks[batch]), batch


@inner()
def count_tasks(job, sources, group, step):
    """Tasks of a group in a step."""
    n_tasks = 0
    for role in range(3):
        n_tasks += chunks_of(job, sources, group, step, role)[0]
    return n_tasks


@inner()
def run_task(job, sources, scratch, totals, group, step, task):
    """Passes over one chunk of one of the three sources."""
    for role in range(3):
        n_chunks, batch = chunks_of(job, sources, group, step, role)
        if 0 <= task < n_chunks:
            source = sources.batch
            if role == HELD_OUT:
                source = sources.held_out
            elif role == WHOLE:
                source = sources.whole
            done = job.first_step + step
            pass_chunk(job, source, scratch, totals, group, done, role, batch, task, n_chunks)
        task -= n_chunks


@inner()
def finish_step(job, sources, group, step):
    """Records a group's step, ends the trials that end there, and updates the others."""
    n_chunks, batch = chunks_of(job, sources, group, step, BATCH)
    blocks, positions = sources.batch.batch_block, sources.batch.block_position
    n_examples = positions[blocks[batch + 1]] - positions[blocks[batch]]
    goes_on, is_due = False, False
    for t in range(job.group_trial[group], job.group_trial[group + 1]):
        if job.ending[t] == RUNNING:
            job.batch_loss[t, step] = add(job.losses, BATCH, n_chunks, t) / n_examples
            n = chunks_of(job, sources, group, step, WHOLE)[0]
            if n > 0:
                total = add(job.losses, WHOLE, n, t)
                job.whole_loss[t, step] = total / sources.whole.block_position[-1]
            n = chunks_of(job, sources, group, step, HELD_OUT)[0]
            if n > 0:
                total = add(job.hits, HELD_OUT, n, t)
                job.accuracy[t, step] = total / sources.held_out.block_position[-1]
            if job.is_broken[t]:
                job.batch_loss[t, step] = math.nan
                job.whole_loss[t, step] = math.nan
            if job.is_guarded[t]:
                ask_guard(job, group, t, step, job.first_step + step)
            judge_step(job, t, step, job.first_step + step)
            goes_on |= job.ending[t] == RUNNING
            is_due |= is_measured(job, t, job.first_step + step)
    if goes_on or is_due:
        update_group(job, group, step, n_chunks, n_examples)
    for t in range(job.group_trial[group], job.group_trial[group + 1]):
        if job.is_guarded[t] and job.action[t] == guard.RESTORE:
            restore_trial(job, group, t)


@inner()
def ask_guard(job, group, t, column, step):
    """Shows the guard a trial's loss, keeps the weights that are best, and sets the step's rate.

    The last loss is of weights that will not be updated, so only one that is lost matters. A
    restored step makes no update; where its loss is no finite number, that of the best weights is
    noted.
    """
    is_last = step == job.steps[t]
    loss = job.batch_loss[t, column]
    if job.epoch > 0 and (is_last or step % job.epoch == 0):
        whole = job.whole_loss[t, column]
        if is_last or not math.isfinite(whole):
            loss = whole
    job.action[t] = guard.KEEP
    if is_last and math.isfinite(loss):
        return
    job.action[t] = _watch(job.watched[t], loss)
    if job.action[t] == guard.BEST:
        copy_first(job, group, t, job.weights_first, job.best_first)
        copy_upper(job, t, job.weights_upper, job.best_upper)
    job.rate[t, column] *= job.watched[t, guard.SHARE]
    if job.action[t] == guard.RESTORE:
        job.rate[t, column] = 0
        job.restored[t, column] = int(job.watched[t, guard.BEST_STEP])
        job.is_broken[t] = 0
        if not math.isfinite(job.batch_loss[t, column]):
            job.batch_loss[t, column] = job.watched[t, guard.BEST_LOSS]


@inner()
def restore_trial(job, group, t):
    """Takes a trial back to its best weights, at rest."""
    copy_first(job, group, t, job.best_first, job.weights_first)
    copy_upper(job, t, job.best_upper, job.weights_upper)
    rest(job, group, t, job.velocity_first, job.velocity_upper)
    job.is_broken[t] = 0
    job.action[t] = guard.KEEP


@inner()
def add(sums, role, n_chunks, trial):
    """The chunks' sums, added in their order."""
    total = 0.0
    for chunk in range(n_chunks):
        total += sums[role, chunk, trial]
    return total


@inner()
def judge_step(job, t, column, step):
    """Decides whether a trial ends at this step, before its update.

    A step that was due for a neighbour alone leaves no accuracy and no loss over the whole.
    """
    is_last = step == job.steps[t]
    is_finite = job.is_broken[t] == 0
    is_restored = job.is_guarded[t] and job.action[t] == guard.RESTORE
    if job.epoch == 0 or not is_last:
        is_finite &= math.isfinite(job.batch_loss[t, column])
    if job.epoch > 0 and (is_last or step % job.epoch == 0):
        is_finite &= math.isfinite(job.whole_loss[t, column])
    is_due = is_last or (step > 0 and step % job.evaluate_every[t] == 0)
    if not (is_due and is_finite) or is_restored:
        job.accuracy[t, column] = math.nan
    is_finite |= is_restored
    if not is_finite:
        job.ending[t] = NON_FINITE
    elif is_last:
        job.ending[t] = COMPLETED
    elif job.accuracy[t, column] < job.threshold[t, column]:
        job.ending[t] = PRUNED
    job.last_step[t] = step


def _compile(version: str) -> Any:
    """Compiles the loop, or takes it from Numba's cache.

    What a function closes over is part of that cache's key, and so the version is.
    """

    @njit(nogil=True, cache=True)
    def advance(job, sources, scratch, totals, thread):
        """Takes tasks until all groups have done a slice of steps, or none is free for a while.

        Every thread calls this, again and again until it returns True.

        Args:
            job: a `Handle` on `Layout`, `Trials`, `State` and `Record`, and on `feature`, the
                number that each raw pixel value stands for; with `epoch`, the batches of an epoch
                (0 for the full batch), `first_step`, the updates done before, and `n_steps`, the
                steps of the slice, which lie within one epoch.
            scratch: of this thread, see `mlp.engine.passes.scratch_size`.
            totals: of this thread, float64, two for each lane.
        """
        assert version
        before = flush_subnormals()
        control, n_groups = job.control, len(job.group_trial) - 1
        idle = 0
        while True:
            is_done = True
            for i in range(n_groups):
                group = (i + thread) % n_groups
                ticket = peek(control, group * CONTROL)
                while (ticket >> 8) < job.n_steps:
                    step, task = ticket >> 8, ticket & 255
                    n_tasks = count_tasks(job, sources, group, step)
                    if task >= n_tasks:
                        is_done = False
                        break
                    if claim(control, group * CONTROL, ticket, ticket + 1):
                        idle = 0
                        run_task(job, sources, scratch, totals, group, step, task)
                        if count_up(control, group * CONTROL + 8) == n_tasks - 1:
                            finish_step(job, sources, group, step)
                            control[group * CONTROL + 8] = 0
                            claim(control, group * CONTROL, (step << 8) + n_tasks, (step + 1) << 8)
                    ticket = peek(control, group * CONTROL)
            idle += 1
            if is_done or idle > _IDLE_LOOKS:
                restore(before)
                return is_done

    return advance


advance = _compile(version_of(*_COMPILED))
