"""One pass of a group's networks over a run of blocks: losses, hits and, to learn, gradients."""

import numpy as np

from mlp.engine.handle import inner, woven
from mlp.engine.kernels import (
    ROW,
    activate,
    backward_narrow,
    backward_wide,
    correlate,
    count_idle,
    differentiate,
    forward_narrow,
    forward_wide,
    judge_rows,
    mix,
    transpose_all,
)
from mlp.engine.layout import Layout
from mlp.engine.simd import NARROW, WIDE, lanes, rank, store, zeros
from mlp.engine.sparse import BLOCK

RUNNING = 0
# In a call, Numba takes a plain number for a type of its own, and compiles the kernel for it again.
_ZERO, _ONE, _ROW = np.int64(0), np.int64(1), np.int64(ROW)
BATCH, HELD_OUT, WHOLE = range(3)  # what is passed over; learned from is the batch alone


def scratch_size(layout: Layout) -> int:
    """Numbers that one thread needs to pass any group of a layout.

    A tile of rows; all first layers of a group; and for one network its activations, with a unit
    for the biases in each layer, the derivatives by them, the logit and the weights on it.
    """
    lanes = int(layout.tile_shape[1])
    n_units = int(np.diff(layout.group_tile).max()) * lanes
    widest = int(layout.width.max())
    n_own = int((2 * layout.width + 1).sum(axis=1).max()) + 1 + -(-(widest + 1) // ROW)
    return BLOCK * lanes + (n_units + n_own) * ROW


@inner
def pass_chunk(job, source, own, group, step, role, chunk, n_chunks):
    """Passes a group's networks over one chunk of a batch.

    Args:
        own: of this thread, see `mlp.engine.steps.advance`.
        step: updates done.
        role: which of the sums receives losses and hits.
    """
    scratch = own.scratch
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    first_tile, end_tile = job.group_tile[group], job.group_tile[group + 1]
    units = BLOCK * tile
    arena = units + (end_tile - first_tile) * tile * ROW
    if not start_chunk(job, group, role, chunk):
        return
    batch = step % (len(source.batch_block) - 1)
    blocks = source.batch_block[batch]
    n_blocks = source.batch_block[batch + 1] - blocks
    begin, end = blocks + n_blocks * chunk // n_chunks, blocks + n_blocks * (chunk + 1) // n_chunks
    for block in range(begin, end):
        n_rows = forward_tiles(job, source, scratch, first_tile, end_tile, block)
        for trial in range(job.group_trial[group], job.group_trial[group + 1]):
            if job.ending[trial] == RUNNING:
                z0 = units + (job.column[trial] - first_tile * tile) * ROW
                pass_upper(
                    job, own, source.side, z0, arena, trial, step, role, chunk, block, n_rows
                )
        if role == BATCH:
            for number in range(first_tile, end_tile):
                z0 = units + (number - first_tile) * tile * ROW
                transpose_all(scratch, z0, _ROW, tile, n_rows, scratch, _ZERO, tile)
                g0, is_first = chunk * job.size + number * n_pixels * tile, block == begin
                gradient, feature, pixels = job.gradient, job.feature, (_ZERO, n_pixels)
                if tile == lanes(scratch, WIDE):
                    backward_wide(
                        source, feature, block, n_pixels, pixels, scratch, gradient, g0, is_first
                    )
                else:
                    backward_narrow(
                        source, feature, block, n_pixels, pixels, scratch, gradient, g0, is_first
                    )


@woven
def pass_upper(job, own, side, z0, arena, trial, step, role, chunk, block, n_rows):
    """Adds what one network makes of a block to its sums: from its first layer's sums on.

    Where it is learned from, the derivatives by those sums take their place.
    """
    scratch, totals = own.scratch, own.totals
    logit = forward_upper(job, scratch, z0, arena, trial, n_rows)
    loss, hits = judge_rows(side, block * BLOCK, n_rows, scratch, logit, totals)
    if rank() == 0:
        job.losses[role, chunk, trial] += loss
        job.hits[role, chunk, trial] += hits
    if role == BATCH:
        if is_measured(job, trial, step):
            add_idle(job, side, block, scratch, arena, totals, trial, chunk, n_rows)
        backward_upper(job, scratch, z0, logit, trial, chunk, n_rows)


@woven
def start_chunk(job, group, role, chunk):
    """Sets the sums of a chunk to zero; returns whether any trial of the group is running."""
    is_running = False
    for trial in range(job.group_trial[group], job.group_trial[group + 1]):
        job.losses[role, chunk, trial] = 0
        job.hits[role, chunk, trial] = 0
        if role == BATCH:
            for unit in range(len(job.idle[chunk, trial])):
                job.idle[chunk, trial, unit] = 0
            for i in range(job.upper[trial], job.upper[trial + 1]):
                job.gradient[chunk * job.size + i] = 0
        is_running |= job.ending[trial] == RUNNING
    return is_running


@woven
def is_measured(job, trial, step):
    """Whether norms and idle units are due after so many updates."""
    return step % job.evaluate_every[trial] == 0 or step == job.steps[trial]


@woven
def add_idle(job, side, block, scratch, arena, totals, trial, chunk, n_rows):
    """Adds to each hidden unit's count the rows of a block in which it is idle."""
    unit, place = 0, arena
    for layer in range(job.depth[trial]):
        for _ in range(job.width[trial, layer]):
            n_idle = count_idle(
                job.activation[trial], side, block * BLOCK, n_rows, scratch, place, totals
            )
            if rank() == 0:
                job.idle[chunk, trial, unit] += n_idle
            unit += 1
            place += ROW
        place += ROW  # the unit of ones


@woven
def forward_tiles(job, source, scratch, first_tile, end_tile, block):
    """The first layers' sums over one block, units of rows; returns the rows, padded to vectors."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    first = source.block_position[block]
    n_rows = source.block_position[block + 1] - first
    multiple = lanes(scratch, WIDE)
    n_padded = (n_rows + multiple - 1) // multiple * multiple
    for place in range(n_rows * tile, n_padded * tile, lanes(scratch, NARROW)):
        store(scratch, place, zeros(scratch, NARROW))
    for number in range(first_tile, end_tile):
        w0 = number * n_pixels * tile
        if tile == multiple:
            forward_wide(source, job.feature, job.weights, w0, first, n_rows, scratch)
        else:
            forward_narrow(source, job.feature, job.weights, w0, first, n_rows, scratch)
        to = BLOCK * tile + (number - first_tile) * tile * ROW
        transpose_all(scratch, _ZERO, tile, n_padded, tile, scratch, to, _ROW)
    return n_padded


@woven
def forward_upper(job, scratch, z0, arena, trial, n_rows):
    """One network from its first layer's sums to the difference of its two logits.

    Leaves in the scratch, from the arena on: the activations of each hidden layer and a unit of
    ones; the difference; what each unit of the last hidden layer adds to it.

    Returns:
        Where the difference stands.
    """
    weights, activation, depth = job.weights, job.activation[trial], job.depth[trial]
    activate(activation, job.width[trial, 0], n_rows, scratch, z0, scratch, arena)
    a0 = arena
    for layer in range(1, depth):
        n_in, n_out = job.width[trial, layer - 1] + 1, job.width[trial, layer]
        w0, to = job.offset[trial, layer], a0 + n_in * ROW
        mix(weights, w0, _ONE, n_out, n_in, scratch, a0, n_out, scratch, to, n_rows)
        activate(activation, n_out, n_rows, scratch, to, scratch, to)
        a0 = to
    n_in = job.width[trial, depth - 1] + 1
    logit = a0 + n_in * ROW
    direction = logit + ROW
    one, zero = job.offset[trial, depth], job.offset[trial, depth + 1]
    for i in range(n_in):
        scratch[direction + i] = weights[one + i] - weights[zero + i]
    mix(scratch, direction, _ZERO, _ONE, n_in, scratch, a0, _ONE, scratch, logit, n_rows)
    return logit


@woven
def backward_upper(job, scratch, z0, logit, trial, chunk, n_rows):
    """From the loss's derivatives by the difference of the logits to those by the first sums.

    The latter take the place from z0 on; the upper layers' gradients are added to the chunk's.
    """
    activation, derivative = job.activation[trial], job.derivative[trial]
    depth, copy = job.depth[trial], chunk * job.size
    n_above = job.width[trial, depth - 1]
    direction, a0 = logit + ROW, logit - (n_above + 1) * ROW
    g0 = copy + job.offset[trial, depth]
    correlate(scratch, a0, n_above + 1, scratch, logit, _ONE, n_rows, job.gradient, g0)
    delta = z0 if depth == 1 else direction + (n_above + ROW) // ROW * ROW
    mix(scratch, direction, _ONE, _ZERO, _ONE, scratch, logit, n_above, scratch, delta, n_rows)
    differentiate(activation, derivative, n_above, n_rows, scratch, a0, scratch, delta)
    for layer in range(depth - 1, 0, -1):
        n_below = job.width[trial, layer - 1]
        a0 -= (n_below + 1) * ROW
        w0 = job.offset[trial, layer]
        g0 = copy + w0
        correlate(scratch, a0, n_below + 1, scratch, delta, n_above, n_rows, job.gradient, g0)
        to = z0 if layer == 1 else delta + n_above * ROW
        mix(job.weights, w0, n_above, _ONE, n_above, scratch, delta, n_below, scratch, to, n_rows)
        differentiate(activation, derivative, n_below, n_rows, scratch, a0, scratch, to)
        delta, n_above = to, n_below
