"""The step loop on an NVIDIA GPU, with the bits of the CPU. Experimental: no GPU has run it yet.

A vector of the CPU engine is a team of threads here, one for each lane: what `mlp.engine.simd`
does to a vector, each thread does to its lane. So the functions of `kernels`, `passes`, `update`
and `steps` are compiled here a second time, from the same source, with other vectors. Every sum
keeps its order; what has none is spread over the GPU. A step is a handful of launches:

forward (rows and tiles of columns), upper (runs of blocks and trials), backward (pixels, chunks and
tiles), then sums over blocks and chunks, norms, the decision how each trial goes on, and the
update.

Which step it is, a clock on the GPU says: so every step launches the same, and a graph of these
launches does for all of them.

Products and sums must be rounded as written, and subnormal numbers be zero, see
`mlp.engine.cuda_steps.rounded_as_written`.
"""

import functools
import sys
import threading
from collections import namedtuple
from collections.abc import Mapping
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from mlp import guard
from mlp.engine import kernels, passes, steps, update
from mlp.engine.cuda_team import IS_SIMULATED, flushing, jit, on_device, vectors_of
from mlp.engine.kernels import backward_wide as backward
from mlp.engine.kernels import forward_wide as forward
from mlp.engine.layout import Layout
from mlp.engine.passes import is_measured, pass_upper
from mlp.engine.simd import WIDE, meet, rank, store, zeros
from mlp.engine.sparse import BLOCK, Batches, Images
from mlp.engine.steps import close_step
from mlp.engine.update import (
    add_upper,
    clear_columns,
    doubt_weights,
    is_here,
    keep_weights,
    measure_trial,
    restore_weights,
    set_rate,
    set_scale,
    set_unit,
    step_first,
    step_upper,
)

ROW = kernels.ROW
RUNNING, BATCH = passes.RUNNING, passes.BATCH
PARTS = 2 if IS_SIMULATED else 32  # of the pixels: how many teams share an update of a tile
ADDERS = 2 if IS_SIMULATED else 2048  # teams that add the gradients of chunks and blocks

JOB = (
    *(name for name in Layout._fields if not name.startswith("group_")),
    *(name for name in steps.State._fields if name != "control"),
    *steps.Record._fields,
    *("n_examples", "n_blocks"),  # (1, steps, 3), of each source
    "clock",  # (2,), the step within the slice; updates done before the slice
    "feature",
    "room_start",  # (trials,), where the room of each trial's teams begins
    "room_size",  # (trials,), of each of them
    *("received", "delta", "room"),  # what a step leaves between its launches
    # Of each block, what State has of each chunk: (3, blocks, trials); (blocks, trials, units);
    # (blocks * upper weights,)
    *("block_losses", "block_hits", "block_idle", "block_gradient"),
    "upper_offset",  # the layout's, from the first upper weight on
    # (PARTS * columns,), the largest entry of a part of the pixels; 1 where one is no number
    *("part_largest", "part_is_lost"),
    *("size", "epoch"),
)
_making = threading.Lock()
SOURCE = (*Images._fields, *Batches._fields)
_named: Any = namedtuple  # whose fields are those of others
Own = namedtuple("Own", "scratch totals")
# What `pass_upper` takes for a job: the upper weights alone, and the sums of blocks for chunks.
Upper = namedtuple(
    "Upper",
    "weights gradient offset size losses hits idle "
    "depth width activation derivative evaluate_every steps",
)


# The functions that are taken over, callees first.
_TAKEN = (
    kernels.scaled_expm1,
    kernels.exp,
    kernels.log1p,
    kernels.sigmoid,
    kernels.tanh,
    kernels.others,
    kernels.mix,
    kernels.activate,
    kernels.differentiate,
    kernels.clear_lanes,
    kernels.add_lanes,
    kernels.count_idle,
    kernels.judge_rows,
    passes.is_measured,
    passes.forward_upper,
    passes.backward_upper,
    passes.add_idle,
    passes.pass_upper,
    guard.is_exact,
    guard.noise_of,
    guard.least_swing,
    guard.take_swing,
    guard.count_swings,
    guard.begin_again,
    guard.go_back,
    guard.tells_swings,
    guard.see,
    guard.swings,
    guard.rises,
    guard.count_far,
    guard.watch,
    steps.ask_guard,
    steps.add,
    steps.judge_step,
    steps.close_step,
    update.is_here,
    update.clear_columns,
    update.first_place,
    update.largest_entry,
    update.set_unit,
    update.relative_norm,
    update.scale_of,
    update.set_scale,
    update.set_rate,
    update.doubt_weights,
    update.measure_upper,
    update.note_norms,
    update.note_idle,
    update.measure_trial,
    update.add_upper,
    update.step_upper,
    update.step_first,
    update.keep_weights,
    update.restore_weights,
)


class Kernel(NamedTuple):
    """A function of a grid, and which fields of a job and a source it looks at, if any.

    A launch hands over seven numbers and more for each array, so each kernel gets its own alone.
    """

    run: Any  # compiled when it is first called
    job: Any  # named tuple
    source: Any  # likewise


def kernels_of(dtype: str) -> dict[str, Kernel]:
    """The kernels for one dtype; the same for all threads, so that none compiles them again."""
    with _making:
        return _make_kernels(dtype)


@functools.cache
def _make_kernels(dtype: str) -> dict[str, Kernel]:
    names = vectors_of(dtype)
    for function in _TAKEN:
        plain = getattr(function, "py_func", function)
        names[plain.__name__] = on_device(_taken(plain, names))
    weave = _taken(kernels._pixel_passes, names | {"woven": on_device, "inner": on_device})
    names["forward"], names["backward"] = weave(WIDE)
    names["LANES"] = WIDE // np.dtype(dtype).itemsize
    names["blocks_of"] = on_device(_taken(blocks_of, names))
    by_name = {}
    for function in _KERNELS:
        looked_up = _looked_up(function, names)
        kinds = (
            _named(kind, [field for field in fields if field in looked_up])
            for kind, fields in (("Job", JOB), ("Source", SOURCE))
        )
        taken: Any = _taken(function, names)
        taken = taken if function in _PRODUCTS else flushing(taken)
        by_name[function.__name__] = Kernel(jit()(taken), *kinds)
    return by_name


def _looked_up(function: Any, names: dict[str, Any]) -> set[str]:
    """Names of what a function, and those that it calls, look up: arrays of a job among them."""
    found: set[str] = set()
    todo = [function]
    while todo:
        plain = getattr(each := todo.pop(), "py_func", each)
        if not isinstance(plain, FunctionType):
            continue
        new = set(plain.__code__.co_names) - found
        found |= new
        todo += [names[name] for name in new if name in names]
        todo += [cell.cell_contents for cell in plain.__closure__ or ()]
    return found


def chosen(kind: Any, values: Mapping[str, Any]) -> Any:
    """Those of the values that a named tuple has fields for."""
    return kind(*(values[field] for field in kind._fields))


def _taken(function: Any, names: dict[str, Any]) -> FunctionType:
    """A function that calls those given where it called others of the same names."""
    known = vars(sys.modules[function.__module__]) | names
    return FunctionType(function.__code__, known, function.__name__, function.__defaults__)


# What follows is taken over as well: the names of the CPU's functions stand for those of the GPU.
LANES = WIDE // 4  # of float32


def place(_axis):
    """A team's place in the grid along an axis."""
    raise NotImplementedError


def at(_array, _index):
    """An element that is an integer."""
    raise NotImplementedError


def fma64(_a, _b, _c):
    """A multiply-add in float64, rounded once."""
    raise NotImplementedError


def tile_room():
    """Memory of a team for a square of lanes."""
    raise NotImplementedError


def totals_room():
    """Memory of a team for two sums in float64 of each lane."""
    raise NotImplementedError


def blocks_of(job, source):
    """First block of the batch that is due, and the end of its blocks."""
    batch = (at(job.clock, 0) + at(job.clock, 1)) % (len(source.batch_block) - 1)
    return source.batch_block[batch], source.batch_block[batch + 1]


# A grid's first axis may have a few teams more than asked for, which leave at once.


def forward_rows(job, source, n_groups, n_rows_of_group):
    """What each column receives from each row: `(block, column, BLOCK)`. Grid: rows, tiles.

    Args:
        n_groups: of rows of a block, at most.
        n_rows_of_group: at most as many as there are lanes.
    """
    b, group, tile = place(0) // n_groups, place(0) % n_groups, place(1)
    first_row = group * n_rows_of_group
    first_block, end_block = blocks_of(job, source)
    first, n_rows = 0, 0
    if first_block + b < end_block:
        first = source.block_position[first_block + b]
        n_rows = source.block_position[first_block + b + 1] - first
    if first_row >= (n_rows + LANES - 1) // LANES * LANES:
        return
    room = tile_room()
    n_own = max(0, min(n_rows_of_group, n_rows - first_row))
    w0 = tile * job.tile_shape[0] * LANES
    forward(source, job.feature, job.weights, w0, first + first_row, n_own, room)
    for row in range(n_own, n_rows_of_group):  # without an example, in the last vector
        store(room, row * LANES, zeros(room, WIDE))
    meet()
    n_columns = len(job.largest)
    if rank() < n_rows_of_group:
        for c in range(LANES):
            to = (b * n_columns + tile * LANES + c) * BLOCK + first_row
            job.received[to + rank()] = room[rank() * LANES + c]


def upper_layers(job, source, role, n_slots):
    """From what the first layers receive to the sums of each block. Grid: slots, trials.

    Args:
        n_slots: of blocks; those of each are passed one after the other.
    """
    slot, t, step = place(0), place(1), at(job.clock, 0)
    if slot >= n_slots or job.ending[t] != RUNNING:
        return
    first_upper, n_columns = job.upper[0], len(job.largest)
    n_upper = job.size - first_upper
    upper = Upper(
        job.weights[first_upper:],
        job.block_gradient,
        job.upper_offset,
        n_upper,
        job.block_losses,
        job.block_hits,
        job.block_idle,
        job.depth,
        job.width,
        job.activation,
        job.derivative,
        job.evaluate_every,
        job.steps,
    )
    start = job.room_start[t] + slot * job.room_size[t]
    own = Own(job.room[start : start + job.room_size[t]], totals_room())
    scratch, done = own.scratch, at(job.clock, 1) + step
    z0, width = 0, job.width[t, 0]
    arena = width * ROW
    first_block, end_block = blocks_of(job, source)
    n_blocks = end_block - first_block
    for b in range(n_blocks * slot // n_slots, n_blocks * (slot + 1) // n_slots):
        if rank() == 0:
            job.block_losses[role, b, t] = 0
            job.block_hits[role, b, t] = 0
        if role == BATCH:
            for unit in range(rank(), job.block_idle.shape[2], LANES):
                job.block_idle[b, t, unit] = 0
            for i in range(job.upper[t] + rank(), job.upper[t + 1], LANES):
                job.block_gradient[b * n_upper + i - first_upper] = 0
        block = first_block + b
        n_rows = source.block_position[block + 1] - source.block_position[block]
        n_rows = (n_rows + LANES - 1) // LANES * LANES
        for unit in range(width):
            place0 = (b * n_columns + job.column[t] + unit) * BLOCK
            for row in range(rank(), n_rows, LANES):
                scratch[z0 + unit * ROW + row] = job.received[place0 + row]
        meet()
        pass_upper(upper, own, source.side, z0, arena, t, done, role, b, block, n_rows)
        meet()
        if role == BATCH:
            for unit in range(width):
                column = job.column[t] + unit
                place0 = (b * n_columns // LANES + column // LANES) * BLOCK * LANES
                for row in range(rank(), n_rows, LANES):
                    to = place0 + row * LANES + column % LANES
                    job.delta[to] = scratch[z0 + unit * ROW + row]
        meet()


def backward_pixels(job, source, n_parts):
    """The chunks' gradients of the first layers. Grid: parts of the pixels, chunks, tiles."""
    part, chunk, tile = place(0), place(1), place(2)
    n_pixels, n_chunks = job.tile_shape[0], job.n_chunks[0, at(job.clock, 0), BATCH]
    if part >= n_parts or chunk >= n_chunks:
        return
    n_tiles = len(job.largest) // LANES
    pixels = n_pixels * part // n_parts, n_pixels * (part + 1) // n_parts
    g0 = chunk * job.size + tile * n_pixels * LANES
    first_block, end_block = blocks_of(job, source)
    n_blocks = end_block - first_block
    begin, end = n_blocks * chunk // n_chunks, n_blocks * (chunk + 1) // n_chunks
    for b in range(begin, end):
        own = job.delta[(b * n_tiles + tile) * BLOCK * LANES :]
        backward(
            source, job.feature, first_block + b, n_pixels, pixels, own, job.gradient, g0,
            b == begin,
        )  # fmt: skip


def add_chunks(job):
    """Adds the gradients of chunks, and those of blocks to them. Grid: `ADDERS`."""
    step, first_upper = at(job.clock, 0), job.upper[0]
    if place(0) >= ADDERS:
        return
    n_chunks, n_blocks = job.n_chunks[0, step, BATCH], job.n_blocks[0, step, BATCH]
    for i in range(place(0) * LANES + rank(), job.size, ADDERS * LANES):
        if i < first_upper:
            total = job.gradient[i]
            for chunk in range(1, n_chunks):
                total = total + job.gradient[chunk * job.size + i]
        else:
            total = zeros(job.gradient, WIDE)
            for chunk in range(n_chunks):
                own = zeros(job.gradient, WIDE)
                for b in range(n_blocks * chunk // n_chunks, n_blocks * (chunk + 1) // n_chunks):
                    own = own + job.block_gradient[b * (job.size - first_upper) + i - first_upper]
                total = own if chunk == 0 else total + own
        job.gradient[i] = total
    n_columns = len(job.largest)
    for begin in range(place(0) * LANES, n_columns, ADDERS * LANES):
        clear_columns(job, begin, begin + LANES)


def largest_entries(job):
    """The largest entry of each part of a column. Grid: `PARTS`, tiles.

    An entry that is no number hides those before it, as in `mlp.engine.update.add_first`.
    """
    part, tile, n_pixels = place(0), place(1), job.tile_shape[0]
    if part >= PARTS:
        return
    most, is_lost = zeros(job.gradient, WIDE), 0
    first, end = n_pixels * part // PARTS, n_pixels * (part + 1) // PARTS
    for pixel in range(first, end):
        entry = abs(job.gradient[(tile * n_pixels + pixel) * LANES + rank()])
        if entry != entry:
            is_lost = 1
        most = most if entry < most else entry
    place0 = part * len(job.largest) + tile * LANES + rank()
    job.part_largest[place0] = most
    job.part_is_lost[place0] = is_lost


def close_trials(job):
    """Records each trial's step and decides how it goes on. Grid: trials."""
    t, step = place(0), at(job.clock, 0)
    if t >= len(job.depth):
        return
    done = at(job.clock, 1) + step
    if job.ending[t] == RUNNING:
        for role in range(3):
            n_chunks, n_blocks = job.n_chunks[0, step, role], job.n_blocks[0, step, role]
            for chunk in range(rank(), n_chunks, LANES):
                loss, hits = 0.0, 0.0
                for b in range(n_blocks * chunk // n_chunks, n_blocks * (chunk + 1) // n_chunks):
                    loss += job.block_losses[role, b, t]
                    hits += job.block_hits[role, b, t]
                job.losses[role, chunk, t] = loss
                job.hits[role, chunk, t] = hits
        meet()
        if rank() == 0:
            close_step(job, t, step, done, job.n_chunks[0, step], job.n_examples[0, step])
        meet()
        if job.is_guarded[t] and job.action[t] == guard.BEST:
            keep_weights(job, t)
    add_upper(job, t, 1)
    if job.normalization[t] >= update.UNIT:
        n_columns = len(job.largest)
        for column in range(job.column[t] + rank(), job.column[t] + job.width[t, 0], LANES):
            most = zeros(job.gradient, WIDE)
            for part in range(PARTS):
                entry = job.part_largest[part * n_columns + column]
                if job.part_is_lost[part * n_columns + column] != 0 or not entry < most:
                    most = entry
            job.largest[column] = most
    meet()
    if rank() == 0 and job.normalization[t] >= update.UNIT and is_here(job, t, step, done):
        set_unit(job, t)


def square_columns(job):
    """Each column's sum of squares, as `mlp.engine.update.square_first` has it. Grid: tiles."""
    tile, n_pixels = place(0), job.tile_shape[0]
    if tile * LANES >= len(job.largest):
        return
    column = tile * LANES + rank()
    unit, total, entry0 = job.divisor[column], 0.0, tile * n_pixels * LANES + rank()
    for pixel in range(n_pixels):
        entry = np.float64(job.gradient[entry0 + pixel * LANES] / unit)
        total = fma64(entry, entry, total)
    job.gradient_squares[column] = total


def scale_trials(job):
    """By what each gradient is divided and multiplied. Grid: trials."""
    t, step = place(0), at(job.clock, 0)
    if t >= len(job.depth):
        return
    if rank() == 0 and is_here(job, t, step, at(job.clock, 1) + step):
        set_scale(job, t, job.n_examples[0, step, BATCH])


def measure_columns(job):
    """Each column's norms, as `mlp.engine.update.measure_first` has them. Grid: tiles."""
    tile, n_pixels = place(0), job.tile_shape[0]
    if tile * LANES >= len(job.largest):
        return
    column, entry0 = tile * LANES + rank(), tile * n_pixels * LANES + rank()
    divisor, factor, momentum = job.divisor[column], job.factor[column], job.column_momentum[column]
    squares_g, squares_v, squares_w = 0.0, 0.0, 0.0
    for pixel in range(n_pixels):
        i = entry0 + pixel * LANES
        v = np.float64(momentum * job.velocity[i] + job.gradient[i] / divisor * factor)
        g, w = np.float64(job.gradient[i]), np.float64(job.weights[i])
        squares_g = fma64(g, g, squares_g)
        squares_v = fma64(v, v, squares_v)
        squares_w = fma64(w, w, squares_w)
    job.gradient_squares[column] = squares_g
    job.velocity_squares[column] = squares_v
    job.weight_squares[column] = squares_w


def step_trials(job):
    """Notes the norms that are due, and takes the step of the upper layers. Grid: trials."""
    t, step = place(0), at(job.clock, 0)
    if t >= len(job.depth):
        return
    done = at(job.clock, 1) + step
    if is_here(job, t, step, done) and is_measured(job, t, done):
        n_chunks, n_blocks = job.n_chunks[0, step, BATCH], job.n_blocks[0, step, BATCH]
        for unit in range(rank(), job.idle.shape[2], LANES):
            for chunk in range(n_chunks):
                job.idle[chunk, t, unit] = 0
                for b in range(n_blocks * chunk // n_chunks, n_blocks * (chunk + 1) // n_chunks):
                    job.idle[chunk, t, unit] += job.block_idle[b, t, unit]
        meet()
        if rank() == 0:
            measure_trial(job, t, step, n_chunks, job.n_examples[0, step, BATCH])
    meet()
    if job.ending[t] == RUNNING:
        if rank() == 0:
            set_rate(job, t, step)
        meet()
        step_upper(job, t)


def step_columns(job):
    """Takes the step of the first layers. Grid: `PARTS` of the pixels, tiles."""
    part, tile = place(0), place(1)
    if part < PARTS:
        step_first(job, tile * LANES, (tile + 1) * LANES, part, PARTS)


def end_step(job):
    """Looks for weights that are not finite, takes trials back, sets the clock. Grid: trials."""
    t = place(0)
    if t >= len(job.depth):
        return
    if t == 0 and rank() == 0:
        job.clock[0] += 1  # no other team of this launch reads it
    is_back = job.is_guarded[t] and job.action[t] == guard.RESTORE
    doubt_weights(job, t, PARTS)
    meet()
    if is_back:
        restore_weights(job, t)
        if rank() == 0:
            job.is_broken[t] = 0
            job.action[t] = guard.KEEP


# The products of mlp.engine.pixels, in float64


def project_rows(source, feature, weights, received, n_inputs, stride, n_groups):
    """What each column receives from each row: `(column, stride)`. Grid: rows, tiles."""
    block, group, tile = place(0) // n_groups, place(0) % n_groups, place(1)
    if block >= len(source.block_position) - 1:
        return
    first_row, first = group * LANES, source.block_position[block]
    n_rows = source.block_position[block + 1] - first
    if first_row < n_rows:
        room = tile_room()
        n_own = min(LANES, n_rows - first_row)
        w0 = tile * n_inputs * LANES
        forward(source, feature, weights, w0, first + first_row, n_own, room)
        meet()
        if rank() < n_own:
            for c in range(LANES):
                to = (tile * LANES + c) * stride + block * BLOCK + first_row
                received[to + rank()] = room[rank() * LANES + c]


def collect_pixels(source, feature, delta, gradient, n_inputs):
    """What each input receives from each column. Grid: `PARTS` of the inputs, tiles.

    Args:
        delta: `(tile, block, BLOCK, lane)`.
    """
    part, tile, n_blocks = place(0), place(1), len(source.block_position) - 1
    if part >= PARTS:
        return
    inputs = n_inputs * part // PARTS, n_inputs * (part + 1) // PARTS
    for block in range(n_blocks):
        own = delta[(tile * n_blocks + block) * BLOCK * LANES :]
        g0 = tile * n_inputs * LANES
        backward(source, feature, block, n_inputs, inputs, own, gradient, g0, block == 0)


_PRODUCTS = project_rows, collect_pixels  # of which the CPU flushes nothing
_KERNELS = (
    *_PRODUCTS,
    forward_rows,
    upper_layers,
    backward_pixels,
    add_chunks,
    largest_entries,
    close_trials,
    square_columns,
    scale_trials,
    measure_columns,
    step_trials,
    step_columns,
    end_step,
)
