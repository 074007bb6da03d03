"""From the gradients of the chunks to the next weights, for one group of job.

Sums go chunk by chunk, then pixel by pixel, column by column and upper weight by upper weight: an
order in which a trial's neighbours have no part. What `mlp.gradient` does to one network is done
here to columns: with `largest` the largest entry of a trial's gradient and `root` its norm in units
of that, the step goes along `gradient / divisor * factor`.
"""

import math

import numpy as np

from mlp import guard
from mlp.engine.handle import inner
from mlp.engine.kernels import RELU
from mlp.engine.passes import RUNNING, is_measured
from mlp.engine.simd import NARROW, lanes, load, magnitude, store, where_less, widen_square, zeros

SUM, MEAN, UNIT, CLIP = range(4)

# Of the examples. A sigmoid or tanh unit that crosses its range passes through the middle of it for
# a few of them and is still a switch that no longer learns; a relu unit that any example reaches
# learns from that one.
_SATURATED_SHARE = 0.95


@inner(error_model="numpy")
def update_group(job, group, step, n_chunks, n_examples):
    """Takes the step of each running trial of a group; measures it first, where that is due.

    Args:
        step: number of the step within the slice.
        n_chunks: copies of the gradient that are in use.
        n_examples: examples of the batch.
    """
    n_columns = (job.group_tile[group + 1] - job.group_tile[group]) * job.tile_shape[1]
    start = job.group_tile[group] * job.tile_shape[1]
    first, end = job.group_trial[group], job.group_trial[group + 1]
    settings = np.zeros((5, n_columns), job.weights_first.dtype)
    largest, divisor, factor, rate, momentum = settings
    squares = np.zeros(n_columns, np.float64)
    add_first(job, job.gradient_first, group, n_chunks, largest)
    divisor[:] = 1
    is_normed = False
    for t in range(first, end):
        add_upper(job, job.gradient_upper, t, n_chunks)
        if job.normalization[t] >= UNIT and is_here(job, t, step):
            is_normed = True
            columns = slice(job.column[t] - start, job.column[t] - start + job.width[t, 0])
            divisor[columns] = largest_entry(job, job.gradient_upper, t, largest[columns])
    if is_normed:
        square_first(job, job.gradient_first, group, divisor, squares)
    is_due = False
    for t in range(first, end):
        if is_here(job, t, step):
            c = job.column[t] - start
            columns = slice(c, c + job.width[t, 0])
            norm = 0.0
            if job.normalization[t] >= UNIT:
                norm = relative_norm(job, job.gradient_upper, t, divisor[c], squares[columns])
            scale = scale_of(job.normalization[t], job.clip_norm[t], n_examples, divisor[c], norm)
            divisor[columns], factor[columns] = scale
            momentum[columns] = job.momentum[t]
            is_due |= is_measured(job, t, job.first_step + step)
    if is_due:
        measure_group(job, group, step, n_chunks, n_examples, settings)
    for t in range(first, end):
        if job.ending[t] == RUNNING:
            c = job.column[t] - start
            rate[c : c + job.width[t, 0]] = job.rate[t, step]
            step_upper(
                job, job.weights_upper, job.velocity_upper, job.gradient_upper, t, settings[1:, c]
            )
    step_first(job, job.weights_first, job.velocity_first, job.gradient_first, group, settings)
    for t in range(first, end):
        for c in range(job.column[t] - start, job.column[t] - start + job.width[t, 0]):
            if settings[0, c] != 0:
                job.is_broken[t] = 1


@inner()
def is_here(job, trial, step):
    """Whether a trial takes this step, or has ended at it with a finite loss."""
    if job.is_guarded[trial] and job.action[trial] == guard.RESTORE:
        return False
    is_finite = job.ending[trial] == RUNNING or math.isfinite(job.batch_loss[trial, step])
    return is_finite and job.last_step[trial] == job.first_step + step


@inner(error_model="numpy")
def measure_group(job, group, step, n_chunks, n_examples, settings):
    """Notes the norms in each layer and the share of idle units, where they are due.

    Args:
        settings: see `update_group`; its second row on are divisor, factor, rate and momentum.
    """
    squares = np.zeros((3, settings.shape[1]), np.float64)
    measure_first(
        job,
        job.weights_first,
        job.velocity_first,
        job.gradient_first,
        group,
        settings.ravel(),
        squares.ravel(),
    )
    start = job.group_tile[group] * job.tile_shape[1]
    for t in range(job.group_trial[group], job.group_trial[group + 1]):
        if is_here(job, t, step) and is_measured(job, t, job.first_step + step):
            c, depth = job.column[t] - start, job.depth[t]
            sums = np.zeros(3)
            for column in range(c, c + job.width[t, 0]):
                sums += squares[:, column]
            note_norms(job, t, step, 0, n_examples, sums)
            for layer in range(1, depth + 1):
                first = job.offset[t, layer]
                end = job.upper[t + 1] if layer == depth else job.offset[t, layer + 1]
                sums[:] = 0
                measure_upper(
                    job.weights_upper,
                    job.velocity_upper,
                    job.gradient_upper,
                    first,
                    end,
                    settings[:, c],
                    sums,
                )
                note_norms(job, t, step, layer, n_examples, sums)
            note_idle(job, t, step, n_chunks, n_examples)


@inner()
def measure_first(job, weights, velocity, gradient, group, settings, squares):
    """Each column's sums of the squared gradient, next velocity and weights, in float64."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    n = len(squares) // 3
    for column in range(0, n, lanes(weights, NARROW)):
        place = first_place(job, group, column)
        divisor, factor = load(settings, n + column, NARROW), load(settings, 2 * n + column, NARROW)
        momentum = load(settings, 4 * n + column, NARROW)
        for _ in range(n_pixels):
            g = load(gradient, place, NARROW)
            v = momentum * load(velocity, place, NARROW) + g / divisor * factor
            widen_square(squares, column, g)
            widen_square(squares, n + column, v)
            widen_square(squares, 2 * n + column, load(weights, place, NARROW))
            place += tile


@inner(error_model="numpy")
def measure_upper(weights, velocity, gradient, first, end, settings, sums):
    """The same sums over a part of the upper weights."""
    divisor, factor, momentum = settings[1], settings[2], settings[4]
    for i in range(first, end):
        v = np.float64(momentum * velocity[i] + gradient[i] / divisor * factor)
        g, w = np.float64(gradient[i]), np.float64(weights[i])
        sums[0] += g * g
        sums[1] += v * v
        sums[2] += w * w


@inner(error_model="numpy")
def note_norms(job, trial, step, layer, n_examples, sums):
    """The norms of one layer; a layer of zeros that stays so has moved by nothing."""
    job.layer_gradient[trial, step, layer] = math.sqrt(sums[0]) / n_examples
    moved = job.rate[trial, step] * math.sqrt(sums[1])
    job.layer_update[trial, step, layer] = moved / math.sqrt(sums[2]) if moved != 0 else 0.0


@inner()
def note_idle(job, trial, step, n_chunks, n_examples):
    """The share of each hidden layer's units that are idle in all, or nearly all, examples."""
    is_relu = job.activation[trial] == RELU
    needed = n_examples if is_relu else math.ceil(_SATURATED_SHARE * n_examples)
    unit = 0
    for layer in range(job.depth[trial]):
        n_idle = 0
        for _ in range(job.width[trial, layer]):
            n_rows = 0.0
            for chunk in range(n_chunks):
                n_rows += job.idle[chunk, trial, unit]
            n_idle += n_rows >= needed
            unit += 1
        job.layer_idle[trial, step, layer] = n_idle / job.width[trial, layer]


@inner(error_model="numpy")
def scale_of(normalization, clip_norm, n_examples, largest, norm):
    """Divisor and factor of a trial's gradient; `norm` is in units of `largest`."""
    if normalization == SUM or (normalization == UNIT and norm == 0):
        return 1.0, 1.0
    if normalization == UNIT:
        return float(largest), 1.0 / norm
    if normalization == CLIP and largest / n_examples * norm > clip_norm:
        return float(largest), clip_norm / norm
    return float(n_examples), 1.0


@inner()
def first_place(job, group, column):
    """Where a group's columns from `column` on begin in the first row of their tile."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    return (job.group_tile[group] + column // tile) * n_pixels * tile + column % tile


@inner()
def add_first(job, gradient, group, n_chunks, largest):
    """Adds the chunks' gradients of the first layers; finds each column's largest entry."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    copy = job.group_tile[-1] * n_pixels * tile
    for column in range(0, len(largest), lanes(gradient, NARROW)):
        place = first_place(job, group, column)
        most = zeros(gradient, NARROW)
        for _ in range(n_pixels):
            total = load(gradient, place, NARROW)
            for chunk in range(1, n_chunks):
                total = total + load(gradient, chunk * copy + place, NARROW)
            store(gradient, place, total)
            size = magnitude(total)
            most = where_less(size, most, most, size)
            place += tile
        store(largest, column, most)


@inner()
def add_upper(job, gradient, trial, n_chunks):
    """Adds the chunks' gradients of a trial's upper layers; output 0 mirrors output 1."""
    copy = job.upper[-1]
    depth = job.depth[trial]
    mirror = job.offset[trial, depth + 1]
    for i in range(job.upper[trial], mirror):
        total = gradient[i]
        for chunk in range(1, n_chunks):
            total += gradient[chunk * copy + i]
        gradient[i] = total
    n = job.upper[trial + 1] - mirror
    for i in range(n):
        gradient[mirror + i] = -gradient[mirror - n + i]


@inner(error_model="numpy")
def largest_entry(job, gradient, trial, columns):
    """The largest absolute entry of a trial's gradient; 1 where all are zero."""
    most = columns[0]
    for size in columns:
        most = most if size < most else size
    for i in range(job.upper[trial], job.upper[trial + 1]):
        size = abs(gradient[i])
        most = most if size < most else size
    return most if most != 0 else most + 1


@inner()
def square_first(job, gradient, group, divisor, squares):
    """Each column's sum of the squared entries, in float64 and in units of the divisor."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(0, len(squares), lanes(gradient, NARROW)):
        place = first_place(job, group, column)
        unit = load(divisor, column, NARROW)
        for _ in range(n_pixels):
            widen_square(squares, column, load(gradient, place, NARROW) / unit)
            place += tile


@inner(error_model="numpy")
def relative_norm(job, gradient, trial, unit, squares):
    """A trial's L2 norm over all weights and biases, in the given unit."""
    total = 0.0
    for square in squares:
        total += square
    for i in range(job.upper[trial], job.upper[trial + 1]):
        entry = np.float64(gradient[i]) / np.float64(unit)
        total += entry * entry
    return math.sqrt(total)


@inner(error_model="numpy")
def step_upper(job, weights, velocity, gradient, trial, settings):
    """The step v = momentum v + g, w = w - rate v, for the layers above the first."""
    divisor, factor, rate, momentum = settings[0], settings[1], settings[2], settings[3]
    for i in range(job.upper[trial], job.upper[trial + 1]):
        velocity[i] = momentum * velocity[i] + gradient[i] / divisor * factor
        weights[i] -= rate * velocity[i]


@inner()
def step_first(job, weights, velocity, gradient, group, settings):
    """The same for the first layers; columns without a rate stay as they are.

    The pass over the examples leaves zero pixels out, but zero times a weight that is no finite
    number is none either. So the first row of the settings receives what tells such columns apart:
    zero where all weights are finite. (The last row, the biases, meets no zero.)
    """
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    flat, row = settings.ravel(), settings.shape[1]
    for column in range(0, row, lanes(weights, NARROW)):
        place = first_place(job, group, column)
        divisor, factor = load(flat, row + column, NARROW), load(flat, 2 * row + column, NARROW)
        rate, momentum = load(flat, 3 * row + column, NARROW), load(flat, 4 * row + column, NARROW)
        none = zeros(flat, NARROW)
        doubt = none
        for pixel in range(n_pixels):
            g = load(gradient, place, NARROW) / divisor * factor
            v = momentum * load(velocity, place, NARROW) + g
            w = load(weights, place, NARROW)
            new = where_less(none, rate, w - rate * v, w)
            store(velocity, place, v)
            store(weights, place, new)
            if pixel < n_pixels - 1:
                doubt = doubt + (new - new)
            place += tile
        store(flat, column, doubt)


@inner()
def copy_first(job, group, trial, source, target):
    """Copies a trial's numbers of the first layer."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    start = job.column[trial] - job.group_tile[group] * tile
    for column in range(start, start + job.width[trial, 0]):
        place = first_place(job, group, column)
        for _ in range(n_pixels):
            target[place] = source[place]
            place += tile


@inner()
def copy_upper(job, trial, source, target):
    """Copies a trial's numbers above the first layer."""
    for i in range(job.upper[trial], job.upper[trial + 1]):
        target[i] = source[i]


@inner()
def rest(job, group, trial, first, upper):
    """Sets a trial's numbers to zero."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    start = job.column[trial] - job.group_tile[group] * tile
    for column in range(start, start + job.width[trial, 0]):
        place = first_place(job, group, column)
        for _ in range(n_pixels):
            first[place] = 0
            place += tile
    for i in range(job.upper[trial], job.upper[trial + 1]):
        upper[i] = 0
