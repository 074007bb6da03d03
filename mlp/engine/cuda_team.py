"""What the engine knows of vectors, for a team of threads of a GPU: a thread a lane.

The functions here bear the names of those in `mlp.engine.simd` and `mlp.engine.kernels` whose place
they take, so that what calls those can be compiled for a GPU. A team is a warp in float32, half of
one in float64; several teams are a block.

In Numba's simulator the same functions are those of Python, a block is one team, and each of its
threads a thread of Python.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import config as numba_config
from numba import cuda, float64, from_dtype, njit

from mlp.engine.handle import flush_subnormals
from mlp.engine.kernels import ROW
from mlp.engine.simd import CONSTANTS, NARROW, SERIES, WIDE

IS_SIMULATED = bool(numba_config.ENABLE_CUDASIM)

_WARP = 32
THREADS = 128  # of a block, at most


def jit(**how: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compiles for the GPU, and not at link time, when no rounding would be kept as written.

    (`cuda.jit(lto=False)` alone, without a function, forgets that it is False.)
    """
    kept = how if IS_SIMULATED else how | {"lto": False}
    return lambda function: cuda.jit(function, **kept)


def vectors_of(dtype: str) -> dict[str, Any]:
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
        names[function.__name__] = on_device(function)
    for name, values in CONSTANTS.items():
        names[name] = on_device(_constant(real(values[is_double])))
    for name, series in SERIES.items():
        terms = tuple(real(value) for value in series[is_double])
        names[f"{name}_series"] = on_device(_series(terms, fma))
    names["correlate"] = on_device(correlate)
    return names


def on_device(function: Callable[..., Any]) -> Any:
    """A function that kernels call; the simulator runs it as it is."""
    return function if IS_SIMULATED else jit(device=True)(function)


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

    n_teams = THREADS // n_lanes
    n_room, n_totals = n_lanes * n_lanes, 2 * n_lanes
    all_rooms, all_sums, all_totals = n_teams * n_room, n_teams * n_lanes, n_teams * n_totals
    teams_of_warp, everyone = _WARP // n_lanes, 2**n_lanes - 1
    shared, wide = from_dtype(np.dtype(dtype)), float64
    is_single = dtype == "float32"
    fused = libdevice.fmaf_rn if is_single else libdevice.fma_rn
    fused64 = libdevice.fma_rn

    @jit(device=True)
    def team():
        return cuda.threadIdx.x // n_lanes

    @jit(device=True)
    def rank():
        return cuda.threadIdx.x % n_lanes

    @jit(device=True)
    def meet():
        cuda.syncwarp(np.int32(everyone << (team() % teams_of_warp * n_lanes)))

    @jit(device=True)
    def place(axis):
        if axis == 0:
            return cuda.blockIdx.x * (cuda.blockDim.x // n_lanes) + team()
        return cuda.blockIdx.y if axis == 1 else cuda.blockIdx.z

    @jit(device=True)
    def at(array, index):
        return array[index]

    @jit(device=True)
    def fma(a, b, c):
        return fused(a, b, c)

    @jit(device=True)
    def fma64(a, b, c):
        return fused64(a, b, c)

    if is_single:

        @jit(device=True)
        def power_of_two(shifted):
            bits = libdevice.float_as_int(shifted)
            return libdevice.int_as_float(np.int32((bits << 23) + (127 << 23)))

    else:

        @jit(device=True)
        def power_of_two(shifted):
            bits = libdevice.double_as_longlong(shifted)
            return libdevice.longlong_as_double((bits << 52) + (1023 << 52))

    @jit(device=True, inline="always")
    def sums_room():
        first = team() * n_lanes
        return cuda.shared.array(all_sums, shared)[first : first + n_lanes]

    @jit(device=True, inline="always")
    def tile_room():
        first = team() * n_room
        return cuda.shared.array(all_rooms, shared)[first : first + n_room]

    @jit(device=True, inline="always")
    def totals_room():
        first = team() * n_totals
        return cuda.shared.array(all_totals, wide)[first : first + n_totals]

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


def flushing(kernel: FunctionType) -> Callable[..., None]:
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
