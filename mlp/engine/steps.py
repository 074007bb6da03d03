"""The step loop of a packed population, shared by any number of threads.

The work of a step is cut into tasks: the blocks of a batch in at most `CHUNKS` runs, for each
group of trials. Threads take tasks as they come. Every task writes its own sums. The thread that
finishes the last task of a step adds them in the order of the chunks, decides which trials go on,
and updates those. So no bit depends on the number of threads or on which thread did which task.
"""

import math
from typing import Any, NamedTuple

from numba import njit
from numba.extending import register_jitable

from mlp import guard
from mlp.engine.handle import (
    claim,
    count_up,
    flush_subnormals,
    inner,
    peek,
    restore,
    version_of,
    woven,
)
from mlp.engine.layout import Array, Integers, Numbers
from mlp.engine.passes import BATCH, HELD_OUT, RUNNING, WHOLE, is_measured, pass_chunk
from mlp.engine.update import keep_weights, restore_weights, update_group

CHUNKS = 8  # enough for eight threads on a single network; each costs one more gradient to add
COMPLETED, NON_FINITE, PRUNED = range(1, 4)  # besides RUNNING

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
    guard.is_exact,
    guard.noise_of,
    guard.see,
    guard.tells_swings,
    guard.go_back,
    guard.begin_again,
):
    register_jitable(_function)
watch = inner(guard.watch)


class State(NamedTuple):
    """Settings and state of the trials, in the layout's order, and what is written in a step."""

    # Of each trial, `(trials,)`
    activation: Integers  # of mlp.engine.kernels
    derivative: Integers  # likewise
    normalization: Integers  # of mlp.engine.update
    momentum: Array
    clip_norm: Numbers
    steps: Integers
    evaluate_every: Integers
    is_guarded: Integers  # 1 where mlp.guard watches
    watched: Numbers  # (trials, guard.ROW_SIZE), its rows
    action: Integers  # what it said at this step
    ending: Integers  # RUNNING, or how the trial ended
    last_step: Integers  # updates done
    is_broken: Integers  # 1 where a first weight is no finite number any more
    # As in mlp.engine.layout
    weights: Array
    velocity: Array
    best: Array  # the weights that guards go back to; empty without one
    gradient: Array  # a copy for each chunk
    # Sums of each chunk
    losses: Numbers  # (3, CHUNKS, trials), over each source
    hits: Numbers  # the same of examples that were told right
    idle: Numbers  # (CHUNKS, trials, units), examples in which each hidden unit is idle
    # Of each column of the first layers, `(columns,)`
    largest: Array  # absolute entry of the gradient
    divisor: Array  # of the gradient, see mlp.engine.update
    factor: Array  # likewise
    column_rate: Array  # of its trial at this step; 0 where that takes none
    column_momentum: Array
    doubt: Array  # 0 where all its weights are finite
    gradient_squares: Numbers  # sum of the squares; the next two likewise
    velocity_squares: Numbers
    weight_squares: Numbers
    control: Integers  # (groups * CONTROL,), how far each group is


class Record(NamedTuple):
    """What a slice of steps goes by and leaves, `(trials, steps)`; NaN where nothing was due."""

    batch_loss: Numbers  # mean loss of each step's batch
    whole_loss: Numbers  # mean loss over the whole training part
    accuracy: Numbers  # on the held-out part
    threshold: Numbers  # accuracy below which a trial is pruned
    rate: Array  # learning rate of each update
    restored: Integers  # the step whose weights were gone back to; -1 where none were
    layer_gradient: Numbers  # (trials, steps, layers), as in a Result; the next two likewise
    layer_update: Numbers
    layer_idle: Numbers
    n_chunks: Integers  # (groups, steps, 3), chunks of each source that a group passes over


@woven
def run_task(job, sources, own, group, step, task):
    """Passes over one chunk of one of the three sources."""
    for role in range(3):
        n_chunks = job.n_chunks[group, step, role]
        if 0 <= task < n_chunks:
            done = job.first_step + step
            pass_chunk(job, sources[role], own, group, done, role, task, n_chunks)
        task -= n_chunks


@inner
def finish_step(job, sources, group, step):
    """Records a group's step, ends the trials that end there, and updates the others."""
    done = job.first_step + step
    blocks, positions = sources[BATCH].batch_block, sources[BATCH].block_position
    batch = done % (len(blocks) - 1)
    n_examples = positions[blocks[batch + 1]] - positions[blocks[batch]]
    n_chunks, n_held_out = job.n_chunks[group, step, BATCH], job.n_chunks[group, step, HELD_OUT]
    n_whole = job.n_chunks[group, step, WHOLE]
    goes_on, is_due = False, False
    n_each = n_examples, len(sources[HELD_OUT].order), len(sources[WHOLE].order)
    for t in range(job.group_trial[group], job.group_trial[group + 1]):
        if job.ending[t] == RUNNING:
            close_step(job, t, step, done, (n_chunks, n_held_out, n_whole), n_each)
            if job.is_guarded[t] and job.action[t] == guard.BEST:
                keep_weights(job, t)
            goes_on |= job.ending[t] == RUNNING
            is_due |= is_measured(job, t, done)
    if goes_on or is_due:
        update_group(job, group, step, n_chunks, n_examples)
    for t in range(job.group_trial[group], job.group_trial[group + 1]):
        if job.is_guarded[t] and job.action[t] == guard.RESTORE:
            restore_weights(job, t)
            job.is_broken[t] = 0
            job.action[t] = guard.KEEP


@woven
def close_step(job, t, step, done, n_chunks, n_examples):
    """Records what a trial's networks came to at a step, and decides how it goes on.

    Args:
        step: number of the step within the slice.
        done: updates done.
        n_chunks: of each source, that were passed over; 0 of one that is not due.
        n_examples: of each source.
    """
    job.batch_loss[t, step] = add(job.losses, BATCH, n_chunks[BATCH], t) / n_examples[BATCH]
    if n_chunks[WHOLE] > 0:
        total = add(job.losses, WHOLE, n_chunks[WHOLE], t)
        job.whole_loss[t, step] = total / n_examples[WHOLE]
    if n_chunks[HELD_OUT] > 0:
        total = add(job.hits, HELD_OUT, n_chunks[HELD_OUT], t)
        job.accuracy[t, step] = total / n_examples[HELD_OUT]
    if job.is_broken[t]:
        job.batch_loss[t, step] = math.nan
        job.whole_loss[t, step] = math.nan
    if job.is_guarded[t]:
        ask_guard(job, t, step, done)
    judge_step(job, t, step, done)


@woven
def ask_guard(job, t, column, step):
    """Shows the guard a trial's loss, and sets the step's rate.

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
    if not (is_last and math.isfinite(loss)):
        job.action[t] = watch(job.watched[t], loss)
        job.rate[t, column] *= job.watched[t, guard.SHARE]
    if job.action[t] == guard.RESTORE:
        job.rate[t, column] = 0
        job.restored[t, column] = int(job.watched[t, guard.BEST_STEP])
        job.is_broken[t] = 0
        if not math.isfinite(job.batch_loss[t, column]):
            job.batch_loss[t, column] = job.watched[t, guard.BEST_LOSS]


@woven
def add(sums, role, n_chunks, trial):
    """The chunks' sums, added in their order."""
    total = 0.0
    for chunk in range(n_chunks):
        total += sums[role, chunk, trial]
    return total


@woven
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

    @njit(nogil=True, cache=True, error_model="numpy")
    def advance(job, sources, own):
        """Takes tasks until all groups have done a slice of steps, or none is free for a while.

        Every thread calls this, again and again until it returns True.

        Args:
            job: a `Handle` on `Layout`, `State` and `Record`, and on `feature`, the number that
                each raw pixel value stands for; with `size`, of a copy of all weights, `epoch`, the
                batches of an epoch (0 for the full batch), `first_step`, the updates done before,
                and `n_steps`, the steps of the slice, which lie within one epoch.
            sources: what a step may pass over, a `Handle` on `Images` and `Batches` each: one epoch
                of what is learned from, what accuracies are taken on, and the training part; the
                last two as one batch.
            own: a `Handle` on this thread's `scratch`, see `mlp.engine.passes.scratch_size`, and
                `totals`, float64, two for each lane; with its number, `thread`.
        """
        assert version
        before = flush_subnormals()
        control, n_groups = job.control, len(job.group_trial) - 1
        idle = 0
        while True:
            is_done = True
            for i in range(n_groups):
                group = (i + own.thread) % n_groups
                ticket = peek(control, group * CONTROL)
                while (ticket >> 8) < job.n_steps:
                    step, task = ticket >> 8, ticket & 255
                    n_tasks = 0
                    for role in range(3):
                        n_tasks += job.n_chunks[group, step, role]
                    if task >= n_tasks:
                        is_done = False
                        break
                    if claim(control, group * CONTROL, ticket, ticket + 1):
                        idle = 0
                        run_task(job, sources, own, group, step, task)
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
