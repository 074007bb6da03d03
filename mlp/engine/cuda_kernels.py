"""The step loop on an NVIDIA GPU, with the bits of the CPU. Experimental: no GPU has run it yet.

A vector of the CPU engine is a team of threads here, one for each lane: what `mlp.engine.simd`
does to a vector, each thread does to its lane. So the functions of `kernels`, `passes`, `update`
and `steps` are compiled here a second time, from the same source, with other vectors. Every sum
keeps its order; what has none is spread over the GPU. A step is a handful of launches:

forward (rows and tiles of columns), upper (chunks and trials), backward (chunks, tiles and pixels),
then sums over chunks, norms, the decision how each trial goes on, and the update.

Which step it is, a clock on the GPU says: so every step launches the same, and a graph of these
launches does for all of them.

Products and sums must be rounded as written: NVVM would fuse them, and keep subnormal numbers in
float32. In float64 a GPU cannot flush these; there the bits are the same as long as no number
falls below 2.2e-308.
"""

import ctypes
import functools
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import config as numba_config
from numba import cuda, float64, from_dtype, njit

from mlp import guard
from mlp.engine import kernels, passes, steps, update
from mlp.engine.handle import flush_subnormals
from mlp.engine.kernels import backward_wide as backward
from mlp.engine.kernels import forward_wide as forward
from mlp.engine.layout import Layout
from mlp.engine.passes import is_measured, pass_upper
from mlp.engine.simd import CONSTANTS, NARROW, SERIES, WIDE, meet, rank, store, zeros
from mlp.engine.sparse import BLOCK, Batches, Images
from mlp.engine.steps import close_step
from mlp.engine.update import (
    add_first,
    add_upper,
    clear_columns,
    doubt_weights,
    is_here,
    keep_weights,
    measure_first,
    measure_trial,
    restore_weights,
    set_rate,
    set_scale,
    set_unit,
    square_first,
    step_first,
    step_upper,
)

IS_SIMULATED = bool(numba_config.ENABLE_CUDASIM)

ROW = kernels.ROW
RUNNING, BATCH = passes.RUNNING, passes.BATCH
# Of the pixels: how many blocks share a backward pass or an update of a tile.
PARTS = 2 if IS_SIMULATED else 16
ADDERS = 2 if IS_SIMULATED else 2048  # blocks that add the chunks' gradients

_JOB = (
    *(name for name in Layout._fields if not name.startswith("group_")),
    *(name for name in steps.State._fields if name != "control"),
    *steps.Record._fields,
    "n_examples",  # (1, steps, 3), of each source
    "clock",  # (2,), the step within the slice; updates done before the slice
    "feature",
    "room_start",  # (trials,), where the room of each trial's teams begins
    "room_size",  # (trials,), of each of them
    *("received", "delta", "room"),  # what a step leaves between its launches
    *("size", "epoch"),
)
_named: Any = namedtuple  # whose fields are those of others
Job = _named("Job", _JOB)
Source = _named("Source", (*Images._fields, *Batches._fields))
Own = namedtuple("Own", "scratch totals")


def _jit(**how: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compiles for the GPU, and not at link time, when no rounding would be kept as written.

    (`cuda.jit(lto=False)` alone, without a function, forgets that it is False.)
    """
    kept = how if IS_SIMULATED else how | {"lto": False}
    return lambda function: cuda.jit(function, **kept)


def _vectors(dtype: str) -> dict[str, Any]:
    """What `mlp.engine.simd` and `mlp.engine.handle` offer, for a team of threads."""
    real, is_double = np.dtype(dtype).type, int(dtype == "float64")
    n_lanes = WIDE // np.dtype(dtype).itemsize
    n_narrow = NARROW // np.dtype(dtype).itemsize
    wide = np.float64
    names = _simulated(dtype, n_lanes) if IS_SIMULATED else _compiled(dtype, n_lanes)
    rank, meet, fma, fma64 = (names[name] for name in ("rank", "meet", "fma", "fma64"))
    sums_room = names["sums_room"]

    def team_size():
        return n_lanes

    def lanes(_array, _span):
        return n_lanes

    def load(array, index, _span):
        return array[index + rank()]

    def spread(array, index, _span):
        return array[index]

    def store(array, index, value):
        array[index + rank()] = value

    def zeros(_array, _span):
        return real(0)

    def like(_x, value):
        return real(value)

    def magnitude(x):
        return abs(x)

    def where_less(a, b, yes, no):
        return yes if a < b else no

    def widen_sum(totals, index, x):
        totals[index + rank()] += wide(x)

    def widen_square(totals, index, x):
        totals[index + rank()] = fma64(wide(x), wide(x), totals[index + rank()])

    def correlate(a, a0, n_a, d, d0, n_d, n_rows, gradient, g0):
        """As in `mlp.engine.kernels`: half of the team takes a pair of units at a time."""
        sums, lane = sums_room(), rank() % n_narrow
        n_pairs = n_a * n_d
        meet()
        for first in range(0, n_pairs, n_lanes // n_narrow):
            pair = first + rank() // n_narrow
            unit = min(pair, n_pairs - 1)
            x0, y0 = a0 + unit // n_d * ROW, d0 + unit % n_d * ROW
            total = real(0)
            for row in range(lane, n_rows, n_narrow):
                total = fma(a[x0 + row], d[y0 + row], total)
            sums[rank()] = total
            meet()
            half = n_narrow // 2
            while half > 0:
                if lane < half:
                    sums[rank()] += sums[rank() + half]
                half //= 2
                meet()
            if lane == 0 and pair < n_pairs:
                gradient[g0 + pair] += sums[rank()]
            meet()

    own = (team_size, lanes, load, spread, store, zeros, like, magnitude, where_less)
    for function in (*own, widen_sum, widen_square):
        names[function.__name__] = _device(function)
    for name, values in CONSTANTS.items():
        names[name] = _device(_constant(real(values[is_double])))
    for name, series in SERIES.items():
        terms = tuple(real(value) for value in series[is_double])
        names[f"{name}_series"] = _device(_series(terms, fma))
    names["correlate"] = _device(correlate)
    return names


def _device(function: Callable[..., Any]) -> Any:
    """A function that kernels call; the simulator runs it as it is."""
    return function if IS_SIMULATED else _jit(device=True)(function)


def _constant(value: Any) -> Any:
    return lambda _x: value


def _series(terms: tuple[Any, ...], fma: Any) -> Any:
    last = len(terms) - 1

    def evaluate(x):
        total = terms[last]
        for i in range(last):
            total = fma(total, x, terms[last - 1 - i])
        return total

    return evaluate


def _compiled(dtype: str, n_lanes: int) -> dict[str, Any]:
    """What depends on the machine, for a GPU."""
    from numba.cuda import libdevice

    n_room, n_totals = n_lanes * n_lanes, 2 * n_lanes
    shared, wide = from_dtype(np.dtype(dtype)), float64
    is_single = dtype == "float32"
    fused = libdevice.fmaf_rn if is_single else libdevice.fma_rn
    fused64 = libdevice.fma_rn

    @_jit(device=True)
    def rank():
        return cuda.threadIdx.x

    @_jit(device=True)
    def meet():
        cuda.syncthreads()

    @_jit(device=True)
    def place(axis):
        if axis == 0:
            return cuda.blockIdx.x
        return cuda.blockIdx.y if axis == 1 else cuda.blockIdx.z

    @_jit(device=True)
    def at(array, index):
        return array[index]

    @_jit(device=True)
    def fma(a, b, c):
        return fused(a, b, c)

    @_jit(device=True)
    def fma64(a, b, c):
        return fused64(a, b, c)

    if is_single:

        @_jit(device=True)
        def power_of_two(shifted):
            bits = libdevice.float_as_int(shifted)
            return libdevice.int_as_float(np.int32((bits << 23) + (127 << 23)))

    else:

        @_jit(device=True)
        def power_of_two(shifted):
            bits = libdevice.double_as_longlong(shifted)
            return libdevice.longlong_as_double((bits << 52) + (1023 << 52))

    @_jit(device=True, inline="always")
    def sums_room():
        return cuda.shared.array(n_lanes, shared)

    @_jit(device=True, inline="always")
    def tile_room():
        return cuda.shared.array(n_room, shared)

    @_jit(device=True, inline="always")
    def totals_room():
        return cuda.shared.array(n_totals, wide)

    functions = (rank, meet, place, at, fma, fma64, power_of_two, sums_room, tile_room, totals_room)
    return {function.py_func.__name__: function for function in functions}


def _simulated(dtype: str, n_lanes: int) -> dict[str, Any]:
    """The same in Numba's simulator, which runs each thread of a GPU as a thread of Python.

    Its multiply-add is rounded twice, so the C library's takes that place.
    """
    from numba.cuda.simulator.kernel import _get_kernel_context

    real, n_room = np.dtype(dtype).type, n_lanes * n_lanes
    library = ctypes.CDLL(None)
    once, once64 = library.fmaf, library.fma
    for function, kind in ((once, ctypes.c_float), (once64, ctypes.c_double)):
        function.argtypes, function.restype = [kind] * 3, kind
    fused = once if dtype == "float32" else once64
    whole, bits, bias = (np.int32, 23, 127) if dtype == "float32" else (np.int64, 52, 1023)

    def thread() -> Any:
        return threading.current_thread()

    def rank():
        return thread().threadIdx.x

    def meet():
        thread().syncthreads()

    def place(axis):
        block = thread().blockIdx
        return (block.x, block.y, block.z)[axis]

    def at(array, index):
        return int(array[index])  # a uint8 of NumPy would overflow in a product

    def fma(a, b, c):
        return real(fused(a, b, c))

    def fma64(a, b, c):
        return np.float64(once64(a, b, c))

    def power_of_two(shifted):
        number = int(np.asarray(shifted).view(whole))
        return whole(((number << bits) + (bias << bits)) & (2**bits * (2 * bias + 1))).view(real)

    def sums_room():
        return _get_kernel_context().shared.array(n_lanes, real)

    def tile_room():
        return _get_kernel_context().shared.array(n_room, real)

    def totals_room():
        return _get_kernel_context().shared.array(2 * n_lanes, np.float64)

    functions = (rank, meet, place, at, fma, fma64, power_of_two, sums_room, tile_room, totals_room)
    return {function.__name__: function for function in functions}


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
    update.measure_first,
    update.measure_upper,
    update.note_norms,
    update.note_idle,
    update.measure_trial,
    update.add_first,
    update.add_upper,
    update.square_first,
    update.step_upper,
    update.step_first,
    update.keep_weights,
    update.restore_weights,
)


@functools.cache
def kernels_of(dtype: str) -> dict[str, Any]:
    """The kernels for one dtype, each a function of a grid; compiled when they are first called."""
    names = _vectors(dtype)
    for function in _TAKEN:
        plain = getattr(function, "py_func", function)
        names[plain.__name__] = _device(_taken(plain, names))
    weave = _taken(kernels._pixel_passes, names | {"woven": _device, "inner": _device})
    names["forward"], names["backward"] = weave(WIDE)
    names["LANES"] = WIDE // np.dtype(dtype).itemsize
    names["blocks_of"] = _device(_taken(blocks_of, names))
    return {function.__name__: _jit()(_flushing(_taken(function, names))) for function in _KERNELS}


def _flushing(kernel: FunctionType) -> Callable[..., None]:
    """In the simulator, a kernel whose threads take subnormal numbers as zero, as a GPU does."""
    if not IS_SIMULATED:
        return kernel

    @functools.wraps(kernel)
    def run(*arguments: Any) -> None:
        _flush()  # for this thread, which ends with the kernel
        kernel(*arguments)

    return run


@njit
def _flush() -> None:
    flush_subnormals()


def _taken(function: Any, names: dict[str, Any]) -> FunctionType:
    """A function that calls those given where it called others of the same names."""
    known = vars(sys.modules[function.__module__]) | names
    return FunctionType(function.__code__, known, function.__name__, function.__defaults__)


# What follows is taken over as well: the names of the CPU's functions stand for those of the GPU.
LANES = WIDE // 4  # of float32


def place(_axis):
    """A block's place in the grid along an axis."""
    raise NotImplementedError


def at(_array, _index):
    """An element that is an integer."""
    raise NotImplementedError


def tile_room():
    """Memory of a block for a square of lanes."""
    raise NotImplementedError


def totals_room():
    """Memory of a block for two sums in float64 of each lane."""
    raise NotImplementedError


def blocks_of(job, source):
    """First block of the batch that is due, and the end of its blocks."""
    batch = (at(job.clock, 0) + at(job.clock, 1)) % (len(source.batch_block) - 1)
    return source.batch_block[batch], source.batch_block[batch + 1]


def forward_rows(job, source, n_groups):
    """What each column receives from each row: `(block, column, BLOCK)`. Grid: rows, tiles.

    Args:
        n_groups: of rows of a block, at most; each has as many as there are lanes.
    """
    b, group, tile = place(0) // n_groups, place(0) % n_groups, place(1)
    first_row = group * LANES
    first_block, end_block = blocks_of(job, source)
    first, n_rows = 0, 0
    if first_block + b < end_block:
        first = source.block_position[first_block + b]
        n_rows = source.block_position[first_block + b + 1] - first
    if first_row < n_rows:
        room = tile_room()
        n_own = min(LANES, n_rows - first_row)
        w0 = tile * job.tile_shape[0] * LANES
        forward(source, job.feature, job.weights, w0, first + first_row, n_own, room)
        for row in range(n_own, LANES):
            store(room, row * LANES, zeros(room, WIDE))
        meet()
        n_columns = len(job.largest)
        for c in range(LANES):
            to = (b * n_columns + tile * LANES + c) * BLOCK + first_row
            job.received[to + rank()] = room[rank() * LANES + c]


def upper_layers(job, source, role):
    """From what the first layers receive to the sums of a chunk. Grid: chunks, trials."""
    chunk, t, step = place(0), place(1), at(job.clock, 0)
    n_chunks, n_columns = job.n_chunks[0, step, role], len(job.largest)
    if chunk >= n_chunks:
        return
    if rank() == 0:
        job.losses[role, chunk, t] = 0
        job.hits[role, chunk, t] = 0
    if role == BATCH:
        for unit in range(rank(), job.idle.shape[2], LANES):
            job.idle[chunk, t, unit] = 0
        for i in range(job.upper[t] + rank(), job.upper[t + 1], LANES):
            job.gradient[chunk * job.size + i] = 0
    meet()
    if job.ending[t] != RUNNING:
        return
    start = job.room_start[t] + chunk * job.room_size[t]
    own = Own(job.room[start : start + job.room_size[t]], totals_room())
    scratch = own.scratch
    z0, width = 0, job.width[t, 0]
    arena = width * ROW
    first_block, end_block = blocks_of(job, source)
    n_blocks = end_block - first_block
    for b in range(n_blocks * chunk // n_chunks, n_blocks * (chunk + 1) // n_chunks):
        block = first_block + b
        n_rows = source.block_position[block + 1] - source.block_position[block]
        n_rows = (n_rows + LANES - 1) // LANES * LANES
        for unit in range(width):
            place0 = (b * n_columns + job.column[t] + unit) * BLOCK
            for row in range(rank(), n_rows, LANES):
                scratch[z0 + unit * ROW + row] = job.received[place0 + row]
        meet()
        done = at(job.clock, 1) + step
        pass_upper(job, own, source.side, z0, arena, t, done, role, chunk, block, n_rows)
        meet()
        if role == BATCH:
            for unit in range(width):
                column = job.column[t] + unit
                place0 = (b * n_columns // LANES + column // LANES) * BLOCK * LANES
                for row in range(rank(), n_rows, LANES):
                    to = place0 + row * LANES + column % LANES
                    job.delta[to] = scratch[z0 + unit * ROW + row]
        meet()


def backward_pixels(job, source):
    """The chunks' gradients of the first layers. Grid: chunks, tiles, parts of the pixels."""
    chunk, tile, part = place(0), place(1), place(2)
    n_pixels, n_chunks = job.tile_shape[0], job.n_chunks[0, at(job.clock, 0), BATCH]
    if chunk >= n_chunks:
        return
    n_tiles = len(job.largest) // LANES
    pixels = n_pixels * part // PARTS, n_pixels * (part + 1) // PARTS
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
    """Adds the chunks' gradients. Grid: `ADDERS`."""
    n_chunks = job.n_chunks[0, at(job.clock, 0), BATCH]
    for i in range(place(0) * LANES + rank(), job.size, ADDERS * LANES):
        total = job.gradient[i]
        for chunk in range(1, n_chunks):
            total = total + job.gradient[chunk * job.size + i]
        job.gradient[i] = total


def largest_entries(job):
    """The largest entry of each column. Grid: tiles."""
    begin = place(0) * LANES
    clear_columns(job, begin, begin + LANES)
    add_first(job, begin, begin + LANES, 1)


def close_trials(job):
    """Records each trial's step and decides how it goes on. Grid: trials."""
    t, step = place(0), at(job.clock, 0)
    done = at(job.clock, 1) + step
    if job.ending[t] == RUNNING:
        meet()
        if rank() == 0:
            close_step(job, t, step, done, job.n_chunks[0, step], job.n_examples[0, step])
        meet()
        if job.is_guarded[t] and job.action[t] == guard.BEST:
            keep_weights(job, t)
    add_upper(job, t, 1)
    meet()
    if rank() == 0 and job.normalization[t] >= update.UNIT and is_here(job, t, step, done):
        set_unit(job, t)


def square_columns(job):
    """Each column's sum of squares. Grid: tiles."""
    square_first(job, place(0) * LANES, (place(0) + 1) * LANES)


def scale_trials(job):
    """By what each gradient is divided and multiplied. Grid: trials."""
    t, step = place(0), at(job.clock, 0)
    if rank() == 0 and is_here(job, t, step, at(job.clock, 1) + step):
        set_scale(job, t, job.n_examples[0, step, BATCH])


def measure_columns(job):
    """Each column's norms. Grid: tiles."""
    measure_first(job, place(0) * LANES, (place(0) + 1) * LANES)


def step_trials(job):
    """Notes the norms that are due, and takes the step of the upper layers. Grid: trials."""
    t, step = place(0), at(job.clock, 0)
    done = at(job.clock, 1) + step
    if rank() == 0 and is_here(job, t, step, done) and is_measured(job, t, done):
        n_chunks, n_examples = job.n_chunks[0, step, BATCH], job.n_examples[0, step, BATCH]
        measure_trial(job, t, step, n_chunks, n_examples)
    meet()
    if job.ending[t] == RUNNING:
        if rank() == 0:
            set_rate(job, t, step)
        meet()
        step_upper(job, t)


def step_columns(job):
    """Takes the step of the first layers. Grid: tiles, parts of the pixels."""
    step_first(job, place(0) * LANES, (place(0) + 1) * LANES, place(1), PARTS)


def end_step(job):
    """Looks for weights that are not finite, takes trials back, sets the clock. Grid: trials."""
    t = place(0)
    if t == 0 and rank() == 0:
        job.clock[0] += 1  # no other block of this launch reads it
    is_back = job.is_guarded[t] and job.action[t] == guard.RESTORE
    if rank() == 0:
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
    """What each input receives from each column. Grid: tiles, parts of the inputs.

    Args:
        delta: `(tile, block, BLOCK, lane)`.
    """
    tile, part, n_blocks = place(0), place(1), len(source.block_position) - 1
    inputs = n_inputs * part // PARTS, n_inputs * (part + 1) // PARTS
    for block in range(n_blocks):
        own = delta[(tile * n_blocks + block) * BLOCK * LANES :]
        g0 = tile * n_inputs * LANES
        backward(source, feature, block, n_inputs, inputs, own, gradient, g0, block == 0)


_KERNELS = (
    project_rows,
    collect_pixels,
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
