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
from mlp.engine.simd import (
    NARROW,
    lanes,
    load,
    magnitude,
    meet,
    rank,
    store,
    team_size,
    where_less,
    widen_square,
    zeros,
)

SUM, MEAN, UNIT, CLIP = range(4)

# Of the examples. A sigmoid or tanh unit that crosses its range passes through the middle of it for
# a few of them and is still a switch that no longer learns; a relu unit that any example reaches
# learns from that one.
_SATURATED_SHARE = 0.95
_NONE, _ONE = np.int64(0), np.int64(1)  # a plain number would be a type of its own


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
    done = job.first_step + step
    clear_columns(job, begin, end)
    add_first(job, begin, end, n_chunks)
    is_normed, is_due = False, False
    for t in trials:
        add_upper(job, t, n_chunks)
        if is_here(job, t, step, done):
            is_due |= is_measured(job, t, done)
            if job.normalization[t] >= UNIT:
                is_normed = True
                set_unit(job, t)
    if is_normed:
        square_first(job, begin, end)
    for t in trials:
        if is_here(job, t, step, done):
            set_scale(job, t, n_examples)
    if is_due:
        measure_first(job, begin, end)
        for t in trials:
            if is_here(job, t, step, done) and is_measured(job, t, done):
                measure_trial(job, t, step, n_chunks, n_examples)
    for t in trials:
        if job.ending[t] == RUNNING:
            set_rate(job, t, step)
            step_upper(job, t)
    step_first(job, begin, end, _NONE, _ONE)
    for t in trials:
        doubt_weights(job, t, _ONE)


@woven
def clear_columns(job, begin, end):
    """Lets the columns of trials that take no step stay as they are."""
    for column in range(begin + rank(), end, team_size()):
        job.divisor[column], job.factor[column] = 1, 0
        job.column_rate[column], job.column_momentum[column] = 0, 0


@woven
def set_unit(job, trial):
    """Makes the largest entry of a trial's gradient its unit, for the norm."""
    largest = largest_entry(job, trial)
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        job.divisor[column] = largest


@woven
def set_scale(job, trial, n_examples):
    """Sets by what a trial's gradient is divided and multiplied, and its momentum."""
    norm = relative_norm(job, trial) if job.normalization[trial] >= UNIT else 0.0
    largest = job.divisor[job.column[trial]]
    divisor, factor = scale_of(
        job.normalization[trial], job.clip_norm[trial], n_examples, largest, norm
    )
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        job.divisor[column], job.factor[column] = divisor, factor
        job.column_momentum[column] = job.momentum[trial]


@woven
def set_rate(job, trial, step):
    """Sets the learning rate of a trial's columns."""
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        job.column_rate[column] = job.rate[trial, step]


@woven
def doubt_weights(job, trial, n_parts):
    """Notes whether a trial's first weights are finite still, from what `step_first` left."""
    n_columns = len(job.largest)
    for part in range(n_parts):
        first = job.column[trial]
        for column in range(first + rank(), first + job.width[trial, 0], team_size()):
            if job.doubt[part * n_columns + column] != 0:
                job.is_broken[trial] = 1


@woven
def is_here(job, trial, step, done):
    """Whether a trial takes the step after `done` updates, or ended at it with a finite loss."""
    is_restored = job.is_guarded[trial] and job.action[trial] == guard.RESTORE
    is_finite = job.ending[trial] == RUNNING or math.isfinite(job.batch_loss[trial, step])
    return not is_restored and is_finite and job.last_step[trial] == done


@woven
def measure_trial(job, t, step, n_chunks, n_examples):
    """Notes the norms in each layer of a trial and the shares of its idle units."""
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
    for column in range(begin + rank(), end, team_size()):
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
    moved = np.float64(job.rate[trial, step]) * math.sqrt(v)
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
    unit = np.float64(largest)
    if normalization == UNIT:
        return unit, 1.0 / norm
    if normalization == CLIP and unit / n_examples * norm > clip_norm:
        return unit, clip_norm / norm
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
    for i in range(job.upper[trial] + rank(), mirror, team_size()):
        total = gradient[i]
        for chunk in range(1, n_chunks):
            total += gradient[chunk * size + i]
        gradient[i] = total
    n = job.upper[trial + 1] - mirror
    meet()
    for i in range(mirror + rank(), mirror + n, team_size()):
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
    for column in range(begin + rank(), end, team_size()):
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
    for i in range(job.upper[trial] + rank(), job.upper[trial + 1], team_size()):
        velocity[i] = momentum * velocity[i] + gradient[i] / divisor * factor
        weights[i] -= rate * velocity[i]


@inner
def step_first(job, begin, end, part, n_parts):
    """The same for the first layers; columns without a rate stay as they are.

    The pass over the examples leaves zero pixels out, but zero times a weight that is no finite
    number is none either. So `doubt` receives what tells such columns apart: zero where all weights
    are finite. (The last row, the biases, meets no zero.)

    Args:
        part: of the pixels, in which each has a row of `doubt` of its own; there are `n_parts`.
    """
    weights, velocity, gradient = job.weights, job.velocity, job.gradient
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    first_pixel, end_pixel = n_pixels * part // n_parts, n_pixels * (part + 1) // n_parts
    for column in range(begin, end, lanes(weights, NARROW)):
        place = first_place(job, column) + first_pixel * tile
        divisor, factor = load(job.divisor, column, NARROW), load(job.factor, column, NARROW)
        rate = load(job.column_rate, column, NARROW)
        momentum = load(job.column_momentum, column, NARROW)
        none = zeros(weights, NARROW)
        doubt = none
        for pixel in range(first_pixel, end_pixel):
            g = load(gradient, place, NARROW) / divisor * factor
            v = momentum * load(velocity, place, NARROW) + g
            w = load(weights, place, NARROW)
            new = where_less(none, rate, w - rate * v, w)
            store(velocity, place, v)
            store(weights, place, new)
            if pixel < n_pixels - 1:
                doubt = doubt + (new - new)
            place += tile
        store(job.doubt, part * len(job.largest) + column, doubt)


@inner
def keep_weights(job, trial):
    """Copies a trial's weights to those that its guard goes back to."""
    weights, best = job.weights, job.best
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        start = first_place(job, column)
        for place in range(start + rank() * tile, start + n_pixels * tile, team_size() * tile):
            best[place] = weights[place]
    for place in range(job.upper[trial] + rank(), job.upper[trial + 1], team_size()):
        best[place] = weights[place]


@inner
def restore_weights(job, trial):
    """Takes a trial back to its best weights, at rest."""
    weights, velocity, best = job.weights, job.velocity, job.best
    n_pixels, tile = job.tile_shape[0], job.tile_shape[1]
    for column in range(job.column[trial], job.column[trial] + job.width[trial, 0]):
        start = first_place(job, column)
        for place in range(start + rank() * tile, start + n_pixels * tile, team_size() * tile):
            weights[place], velocity[place] = best[place], 0
    for place in range(job.upper[trial] + rank(), job.upper[trial + 1], team_size()):
        weights[place], velocity[place] = best[place], 0
