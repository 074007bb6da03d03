"""From the gradients of the chunks to the next weights, for one group of job.

Sums go chunk by chunk, then pixel by pixel, column by column and upper weight by upper weight: an
order in which a trial's neighbours have no part. What `mlp.gradient` does to one network is done
here to columns: the step goes along `gradient / divisor * factor`, where the divisor of a norm is
the largest entry of the trial's gradient, so that no square overflows.
"""

import math

import numpy as np

from mlp import guard
from mlp.engine.handle import inner, woven
from mlp.engine.kernels import RELU
from mlp.engine.passes import RUNNING, is_measured
from mlp.engine.simd import NARROW, lanes, load, magnitude, store, where_less, widen_square, zeros

SUM, MEAN, UNIT, CLIP = range(4)

# Of the examples. A sigmoid or tanh unit that crosses its range passes through the middle of it for
# a few of them and is still a switch that no longer learns; a relu unit that any example reaches
# learns from that one.
_SATURATED_SHARE = 0.95


@inner
def update_group(job, group, step, n_chunks, n_examples):
    """Takes the step of each running trial of a group; measures it first, where that is due.

    Args:
        step: number of the step within the slice.
        n_chunks: copies of the gradient that are in use.
        n_examples: examples of the batch.
    """
    tile = job.tile_shape[1]
    begin, end = job.group_tile[group] * tile, job.group_tile[group + 1] * tile
    trials = range(job.group_trial[group], job.group_trial[group + 1])
    clear_columns(job, begin, end)
    add_first(job, begin, end, n_chunks)
    is_normed, is_due = False, False
    for t in trials:
        add_upper(job, t, n_chunks)
        if is_here(job, t, step):
            is_due |= is_measured(job, t, job.first_step + step)
            if job.normalization[t] >= UNIT:
                is_normed = True
                largest = largest_entry(job, t)
                for column in range(job.column[t], job.column[t] + job.width[t, 0]):
                    job.divisor[column] = largest
    if is_normed:
        square_first(job, begin, end)
    for t in trials:
        if is_here(job, t, step):
            norm = relative_norm(job, t) if job.normalization[t] >= UNIT else 0.0
            largest = job.divisor[job.column[t]]
            divisor, factor = scale_of(
                job.normalization[t], job.clip_norm[t], n_examples, largest, norm
            )
            for column in range(job.column[t], job.column[t] + job.width[t, 0]):
                job.divisor[column], job.factor[column] = divisor, factor
                job.column_momentum[column] = job.momentum[t]
    if is_due:
        measure_group(job, group, begin, end, step, n_chunks, n_examples)
    for t in trials:
        if job.ending[t] == RUNNING:
            for column in range(job.column[t], job.column[t] + job.width[t, 0]):
                job.column_rate[column] = job.rate[t, step]
            step_upper(job, t)
    step_first(job, begin, end)
    for t in trials:
        for column in range(job.column[t], job.column[t] + job.width[t, 0]):
            if job.doubt[column] != 0:
                job.is_broken[t] = 1


@woven
def clear_columns(job, begin, end):
    """Lets the columns of trials that take no step stay as they are."""
    for column in range(begin, end):
        job.divisor[column], job.factor[column] = 1, 0
        job.column_rate[column], job.column_momentum[column] = 0, 0


@woven
def is_here(job, trial, step):
    """Whether a trial takes this step, or has ended at it with a finite loss."""
    is_restored = job.is_guarded[trial] and job.action[trial] == guard.RESTORE
    is_finite = job.ending[trial] == RUNNING or math.isfinite(job.batch_loss[trial, step])
    return not is_restored and is_finite and job.last_step[trial] == job.first_step + step


@woven
def measure_group(job, group, begin, end, step, n_chunks, n_examples):
    """Notes the norms in each layer and the share of idle units, where they are due."""
    measure_first(job, begin, end)
    for t in range(job.group_trial[group], job.group_trial[group + 1]):
        if is_here(job, t, step) and is_measured(job, t, job.first_step + step):
            g, v, w = 0.0, 0.0, 0.0
            for column in range(job.column[t], job.column[t] + job.width[t, 0]):
                g += job.gradient_squares[column]
                v += job.velocity_squares[column]
                w += job.weight_squares[column]
            note_norms(job, t, step, 0, n_examples, g, v, w)
            depth = job.depth[t]
            for layer in range(1, depth + 1):
                last = job.upper[t + 1] if layer == depth else job.offset[t, layer + 1]
                g, v, w = measure_upper(job, t, job.offset[t, layer], last)
                note_norms(job, t, step, layer, n_examples, g, v, w)
            note_idle(job, t, step, n_chunks, n_examples)


@inner
def measure_first(job, begin, end):
    """Each column's sums of the squared gradient, next velocity and weights, in float64."""
    weights, velocity, gradient = job.weights, job.velocity, job.gradient
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(begin, end):
        job.gradient_squares[column] = 0
        job.velocity_squares[column] = 0
        job.weight_squares[column] = 0
    for column in range(begin, end, lanes(weights, NARROW)):
        place = first_place(job, column)
        divisor, factor = load(job.divisor, column, NARROW), load(job.factor, column, NARROW)
        momentum = load(job.column_momentum, column, NARROW)
        for _ in range(n_pixels):
            g = load(gradient, place, NARROW)
            v = momentum * load(velocity, place, NARROW) + g / divisor * factor
            widen_square(job.gradient_squares, column, g)
            widen_square(job.velocity_squares, column, v)
            widen_square(job.weight_squares, column, load(weights, place, NARROW))
            place += tile


@inner
def measure_upper(job, trial, first, end):
    """The same sums over a part of the upper weights."""
    weights, velocity, gradient = job.weights, job.velocity, job.gradient
    c = job.column[trial]
    divisor, factor, momentum = job.divisor[c], job.factor[c], job.column_momentum[c]
    squares_g, squares_v, squares_w = 0.0, 0.0, 0.0
    for i in range(first, end):
        v = np.float64(momentum * velocity[i] + gradient[i] / divisor * factor)
        g, w = np.float64(gradient[i]), np.float64(weights[i])
        squares_g += g * g
        squares_v += v * v
        squares_w += w * w
    return squares_g, squares_v, squares_w


@woven
def note_norms(job, trial, step, layer, n_examples, g, v, w):
    """The norms of one layer, from its squares; one of zeros that stays so moved by nothing."""
    job.layer_gradient[trial, step, layer] = math.sqrt(g) / n_examples
    moved = job.rate[trial, step] * math.sqrt(v)
    job.layer_update[trial, step, layer] = moved / math.sqrt(w) if moved != 0 else 0.0


@woven
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


@woven
def scale_of(normalization, clip_norm, n_examples, largest, norm):
    """Divisor and factor of a trial's gradient; `norm` is in units of `largest`."""
    if normalization == SUM or (normalization == UNIT and norm == 0):
        return 1.0, 1.0
    if normalization == UNIT:
        return float(largest), 1.0 / norm
    if normalization == CLIP and largest / n_examples * norm > clip_norm:
        return float(largest), clip_norm / norm
    return float(n_examples), 1.0


@woven
def first_place(job, column):
    """Where a column begins: in the first row of its tile."""
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    return column // tile * n_pixels * tile + column % tile


@inner
def add_first(job, begin, end, n_chunks):
    """Adds the chunks' gradients of the first layers; finds each column's largest entry."""
    gradient, size = job.gradient, job.size
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(begin, end, lanes(gradient, NARROW)):
        place = first_place(job, column)
        most = zeros(gradient, NARROW)
        for _ in range(n_pixels):
            total = load(gradient, place, NARROW)
            for chunk in range(1, n_chunks):
                total = total + load(gradient, chunk * size + place, NARROW)
            store(gradient, place, total)
            entry = magnitude(total)
            most = where_less(entry, most, most, entry)
            place += tile
        store(job.largest, column, most)


@woven
def add_upper(job, trial, n_chunks):
    """Adds the chunks' gradients of a trial's upper layers; output 0 mirrors output 1."""
    gradient, size = job.gradient, job.size
    mirror = job.offset[trial, job.depth[trial] + 1]
    for i in range(job.upper[trial], mirror):
        total = gradient[i]
        for chunk in range(1, n_chunks):
            total += gradient[chunk * size + i]
        gradient[i] = total
    n = job.upper[trial + 1] - mirror
    for i in range(mirror, mirror + n):
        gradient[i] = -gradient[i - n]


@inner
def largest_entry(job, trial):
    """The largest absolute entry of a trial's gradient; 1 where all are zero."""
    gradient, largest = job.gradient, job.largest
    c = job.column[trial]
    most = largest[c]
    for column in range(c, c + job.width[trial, 0]):
        most = most if largest[column] < most else largest[column]
    for i in range(job.upper[trial], job.upper[trial + 1]):
        entry = abs(gradient[i])
        most = most if entry < most else entry
    return most if most != 0 else most + 1


@inner
def square_first(job, begin, end):
    """Each column's sum of the squared entries, in float64 and in units of the divisor."""
    gradient = job.gradient
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(begin, end):
        job.gradient_squares[column] = 0
    for column in range(begin, end, lanes(gradient, NARROW)):
        place = first_place(job, column)
        unit = load(job.divisor, column, NARROW)
        for _ in range(n_pixels):
            widen_square(job.gradient_squares, column, load(gradient, place, NARROW) / unit)
            place += tile


@inner
def relative_norm(job, trial):
    """A trial's L2 norm over all weights and biases, in units of its divisor."""
    gradient = job.gradient
    c = job.column[trial]
    unit, total = np.float64(job.divisor[c]), 0.0
    for column in range(c, c + job.width[trial, 0]):
        total += job.gradient_squares[column]
    for i in range(job.upper[trial], job.upper[trial + 1]):
        entry = np.float64(gradient[i]) / unit
        total += entry * entry
    return math.sqrt(total)


@inner
def step_upper(job, trial):
    """The step v = momentum v + g, w = w - rate v, for the layers above the first."""
    weights, velocity, gradient = job.weights, job.velocity, job.gradient
    c = job.column[trial]
    divisor, factor = job.divisor[c], job.factor[c]
    rate, momentum = job.column_rate[c], job.column_momentum[c]
    for i in range(job.upper[trial], job.upper[trial + 1]):
        velocity[i] = momentum * velocity[i] + gradient[i] / divisor * factor
        weights[i] -= rate * velocity[i]


@inner
def step_first(job, begin, end):
    """The same for the first layers; columns without a rate stay as they are.

    The pass over the examples leaves zero pixels out, but zero times a weight that is no finite
    number is none either. So `doubt` receives what tells such columns apart: zero where all weights
    are finite. (The last row, the biases, meets no zero.)
    """
    weights, velocity, gradient = job.weights, job.velocity, job.gradient
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(begin, end, lanes(weights, NARROW)):
        place = first_place(job, column)
        divisor, factor = load(job.divisor, column, NARROW), load(job.factor, column, NARROW)
        rate = load(job.column_rate, column, NARROW)
        momentum = load(job.column_momentum, column, NARROW)
        none = zeros(weights, NARROW)
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
        store(job.doubt, column, doubt)


@inner
def keep_weights(job, trial):
    """Copies a trial's weights to those that its guard goes back to."""
    weights, best = job.weights, job.best
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        start = first_place(job, column)
        for place in range(start, start + n_pixels * tile, tile):
            best[place] = weights[place]
    for place in range(job.upper[trial], job.upper[trial + 1]):
        best[place] = weights[place]


@inner
def restore_weights(job, trial):
    """Takes a trial back to its best weights, at rest."""
    weights, velocity, best = job.weights, job.velocity, job.best
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        start = first_place(job, column)
        for place in range(start, start + n_pixels * tile, tile):
            weights[place], velocity[place] = best[place], 0
    for place in range(job.upper[trial], job.upper[trial + 1]):
        weights[place], velocity[place] = best[place], 0
