"""Slices of steps on a GPU: what is copied there and back, and the launches between."""

import functools
import importlib.util
import math
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from mlp.config import RunConfig
from mlp.engine import cuda_kernels, update
from mlp.engine.course import chunk_count
from mlp.engine.cuda_kernels import ADDERS, PARTS, SOURCE, chosen
from mlp.engine.cuda_team import IS_SIMULATED, THREADS
from mlp.engine.handle import Handle
from mlp.engine.kernels import ROW
from mlp.engine.packing import LONGEST_SLICE_OF_GPU, Slice
from mlp.engine.passes import BATCH, HELD_OUT, RUNNING, WHOLE
from mlp.engine.simd import WIDE
from mlp.engine.sparse import BLOCK
from mlp.engine.steps import CHUNKS
from mlp.errors import UnavailableError, one_line
from mlp.network import N_CLASSES

# What comes back: of the record, and of the state after each slice and when it is looked at.
_LEFT = (
    *("batch_loss", "whole_loss", "accuracy", "restored"),
    *("layer_gradient", "layer_update", "layer_idle"),
)
_KEPT = "ending", "last_step", "is_broken", "watched", "action"
_WEIGHTS = "weights", "velocity", "best"
_FEW = 2048  # teams that are too few to share blocks: some for each multiprocessor
_MANY = 16 if IS_SIMULATED else 4096  # teams from which on none is cut further
_FEWEST_ROWS = 2  # of a team, on the way forward
SMALL_ROOM = 2**26  # bytes for passes over blocks that a few networks take beside `trial_bytes`
# LLVM's code for arithmetic in float64, up to the end of the result's name, and from there on.
_DOUBLE = re.compile(
    r"""^( +%"[^"]+)"( = (?:f(?:add|sub|mul|div) double|call double @"__nv_(?:fma_rn|sqrt)").*)$""",
    re.MULTILINE,
)
_FLUSHED = """
define linkonce_odr double @flushed(double %x) alwaysinline {
  %bits = bitcast double %x to i64
  %exponent = and i64 %bits, 9218868437227405312
  %is_small = icmp eq i64 %exponent, 0
  %sign = and i64 %bits, -9223372036854775808
  %kept = select i1 %is_small, i64 %sign, i64 %bits
  %result = bitcast i64 %kept to double
  ret double %result
}
"""
MOST_TILES = 65_535  # and trials: of the second and third axis of a grid
_OLDEST = 7, 0  # compute capability from which on the threads of a warp go their own ways
_compiling = threading.Lock()  # the patch of `rounded_as_written` is of the process


def count_gpus() -> int:
    """How many GPUs there are; CUDA_VISIBLE_DEVICES can hide some.

    Raises:
        UnavailableError: where there is none, no driver, or not the extra.
    """
    if IS_SIMULATED:
        return 1
    if importlib.util.find_spec("numba_cuda") is None:
        raise UnavailableError(
            "a GPU needs numba-cuda to train: python -m pip install 'mlp-sweep[cuda]'"
        )
    if not cuda.is_available():
        why = one_line(cuda.cuda_error() or "none is visible").partition(". ")[0]
        raise UnavailableError(
            f"no NVIDIA GPU is found ({why}); leave execution.engine=cuda, execution.gpu or --gpu "
            "out to train on the CPU"
        )
    for number, gpu in enumerate(cuda.gpus):
        if gpu.compute_capability < _OLDEST:
            raise UnavailableError(
                f"GPU {number} is too old to train: its compute capability is "
                f"{'.'.join(map(str, gpu.compute_capability))}, but must be "
                f"{'.'.join(map(str, _OLDEST))}; CUDA_VISIBLE_DEVICES can leave it out"
            )
    return len(cuda.gpus)


def free_bytes(gpu: int) -> int:
    """Free memory of a GPU for trials; the simulator has as much as one of 8 GB."""
    if IS_SIMULATED:
        return 8 * 10**9
    with on_gpu(gpu):
        return int(cuda.current_context().get_memory_info().free) - SMALL_ROOM


def trial_bytes(config: RunConfig, *, n_inputs: int, n_examples: int, n_held_out: int) -> int:
    """Memory of the GPU that a trial takes in a population, at most.

    Weights, velocity, best weights and each chunk's gradient; what its first layer receives from
    each example, and the derivatives by that; the activations of a block for each chunk; the
    curves of a slice.
    """
    training, widths = config.training, config.model.layer_widths
    item, n_chunks = np.dtype(training.dtype).itemsize, chunk_count(training.batch_size, n_examples)
    sizes = (n_inputs, *widths, N_CLASSES)
    n_columns = widths[0] + WIDE // item  # the last tile may be empty but for one
    n_packed = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    n_packed += (n_columns - widths[0]) * (n_inputs + 1)
    n_copies = 2 + int(config.optimizer.guard != "none") + n_chunks
    n_blocks = -(-max(n_examples, n_held_out) // BLOCK)
    n_upper = n_packed - n_columns * (n_inputs + 1)
    of_block = (6 + sum(widths)) * 8 + (n_upper + WIDE) * item
    n_curves = LONGEST_SLICE_OF_GPU * (8 + 3 * (len(widths) + 1))
    return (
        n_copies * n_packed * item
        + 2 * n_columns * n_blocks * BLOCK * item
        + min(n_blocks, CHUNKS) * team_units(widths) * ROW * item
        + n_blocks * of_block
        + PARTS * n_columns * (2 * item + 8)
        + n_curves * 8
    )


def tiles_of(config: RunConfig) -> int:
    """Tiles that a trial takes, and thereby places of a grid, at most."""
    return -(-config.model.layer_widths[0] // (WIDE // 8)) + 1


def team_units(widths: Sequence[int]) -> int:
    """Units of `ROW` numbers that a network's pass over a block needs, at most.

    What its first layer receives; of each layer its activations, a unit of ones and the
    derivatives; the logit and the weights on it.
    """
    return widths[0] + 2 * sum(widths) + len(widths) + 2 + (max(widths) + ROW) // ROW


@contextmanager
def on_gpu(number: int) -> Iterator[None]:
    """This thread's work on a GPU. Whatever is let go within is free again at the end.

    Outside of it Numba could free nothing: the driver asks whose memory it is.
    """
    with cuda.gpus[number]:
        try:
            yield
        finally:
            if not IS_SIMULATED:
                cuda.current_context().memory_manager.deallocations.clear()


@contextmanager
def opened(number: int) -> Iterator["Device"]:
    """A GPU to train on, within this thread; nothing is left on it at the end."""
    with on_gpu(number):
        device = Device(number)
        try:
            yield device
        finally:
            device.close()


class Device:
    """A GPU, for the thread that uses it; see `opened`.

    Args:
        number: of the GPU, among those that are visible.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._sources: WeakKeyDictionary[Handle, Any] = WeakKeyDictionary()
        self._resident: _Resident | None = None

    def advance(self, part: Slice) -> None:
        """Does the steps of a slice; leaves the record and the state where the CPU leaves them.

        Weights are copied back only where somebody looks at them: where a trial ended, and with it
        the population, and where its weights are to be kept.
        """
        if self._resident is None or self._resident.population is not part.population:
            # One population at a time: that of before has given what its trials go on with.
            self._resident = None
            self._resident = _Resident(part, self._number, self._source)
        self._resident.advance(part)

    def close(self) -> None:
        """Lets go of everything, though an exception may still know of it."""
        if self._resident is not None:
            self._resident.close()
        self._resident = None
        self._sources.clear()

    def _source(self, source: Handle) -> Any:
        if source not in self._sources:
            self._sources[source] = source_on_gpu(source)
        return self._sources[source]


class _Resident:
    """A population on a GPU, with the room that its steps need, and their launches."""

    def __init__(self, part: Slice, number: int, source_of: Callable[[Handle], Any]) -> None:
        course, self.population = part.course, part.population
        layout, state = self.population.layout, self.population.state
        self._stream = _Stream(number)
        self._kernels = cuda_kernels.kernels_of(course.dtype)
        self._n_lanes = WIDE // np.dtype(course.dtype).itemsize
        self._n_trials, self._n_tiles = len(layout.depth), int(layout.group_tile[-1])
        self._is_normed = bool((state.normalization >= update.UNIT).any())
        self._state = {name: cuda.to_device(array) for name, array in arrays_of(part).items()}
        # Whatever stands there for rows without an example and columns without a trial, no number
        # of a trial comes of it.
        rooms = {
            name: cuda.device_array(size, course.dtype) for name, size in rooms_of(part).items()
        }
        # A slice may have less steps than there is room for.
        longest = min(course.epoch or LONGEST_SLICE_OF_GPU, LONGEST_SLICE_OF_GPU)
        self._staged = {
            name: np.zeros((array.shape[0], longest, *array.shape[2:]), array.dtype)
            for name, array in _record_of(part).items()
        }
        self._record = {name: cuda.to_device(array) for name, array in self._staged.items()}
        numbers = {"size": layout.size, "epoch": course.epoch}
        job = self._state | self._record | rooms | numbers
        self._jobs = {name: chosen(kernel.job, job) for name, kernel in self._kernels.items()}
        batches, *others = part.sources
        self._epoch: Handle | None = None
        if course.epoch:  # each epoch lies where the first one does, and none is larger
            batch = {name: cuda.to_device(array) for name, array in _room_of_epoch(part)}
        else:
            batch, self._epoch = source_of(batches), batches
        self._sources = [batch, *map(source_of, others)]
        self._shapes = [_shape_of(source) for source in part.sources]
        self._n_slots = slots_of(part)

    def close(self) -> None:
        """Lets go of what lies on the GPU."""
        for kept in (self._state, self._record, self._jobs, self._sources):
            kept.clear()
        self._stream.close()

    def advance(self, part: Slice) -> None:
        """Does the steps of a slice."""
        batches, record, n_steps = part.sources[BATCH], _record_of(part), part.n_steps
        if batches is not self._epoch:
            for name, room in self._sources[BATCH].items():
                array = batches.arrays[name]
                room[: array.size].copy_to_device(array)
            self._epoch = batches
        for name, array in record.items():
            self._staged[name][:, :n_steps] = array
            self._record[name].copy_to_device(self._staged[name])
        self._state["clock"].copy_to_device(np.array([0, part.first_step]))
        cuda.synchronize()  # a copy may return before it has arrived
        for due in zip(*self._due(part), strict=True):
            self._stream.run(due, functools.partial(self._launch, due))
        self._stream.wait()
        for name in _LEFT:
            self._record[name].copy_to_host(self._staged[name])
            record[name][:] = self._staged[name][:, :n_steps]
        state, end = self.population.state, part.first_step + n_steps
        for name in _KEPT:
            self._state[name].copy_to_host(getattr(state, name))
        has_ended = bool((state.ending != RUNNING).any())
        if has_ended or any(end in trial.snapshots for trial in self.population.trials):
            for name in _WEIGHTS:
                host = getattr(state, name)
                if host.size:
                    self._state[name].copy_to_host(host)

    def _due(self, part: Slice) -> tuple[list[bool], ...]:
        """At each step, whether accuracies, the loss over the whole and norms are due."""
        state, n_chunks = self.population.state, part.record.n_chunks[0]
        at = np.arange(part.first_step, part.first_step + part.n_steps)[:, None]
        is_measured = ((at % state.evaluate_every == 0) | (at == state.steps)).any(axis=1)
        held_out, whole = n_chunks[:, HELD_OUT] > 0, n_chunks[:, WHOLE] > 0
        return held_out.tolist(), whole.tolist(), is_measured.tolist()

    def _launch(self, due: tuple[bool, bool, bool], stream: Any) -> None:
        """All of one step."""
        is_held_out, is_whole, is_measured = due

        def run(name: str, *grid: int, source: Any = None, others: Sequence[int] = ()) -> None:
            kernel, n_teams = self._kernels[name], teams_of_block(math.prod(grid), self._n_lanes)
            blocks = -(-grid[0] // n_teams), *grid[1:]
            sources = () if source is None else (chosen(kernel.source, source),)
            launch = kernel.run[blocks, n_teams * self._n_lanes, stream]
            launch(self._jobs[name], *sources, *others)

        n_trials, n_tiles, n_lanes = self._n_trials, self._n_tiles, self._n_lanes
        for role, is_due in ((BATCH, True), (HELD_OUT, is_held_out), (WHOLE, is_whole)):
            if is_due:
                source, (n_blocks, n_rows) = self._sources[role], self._shapes[role]
                n_of_group = n_lanes
                while (
                    n_of_group > _FEWEST_ROWS and n_blocks * n_rows * n_tiles < n_of_group * _MANY
                ):
                    n_of_group //= 2
                n_groups = -(-n_rows // n_lanes) * n_lanes // n_of_group
                rows = n_groups, n_of_group
                run("forward_rows", n_blocks * n_groups, n_tiles, source=source, others=rows)
                slots = min(self._n_slots, n_blocks)
                run("upper_layers", slots, n_trials, source=source, others=(role, slots))
                if role == BATCH:
                    n_chunks = min(n_blocks, CHUNKS)
                    n_pixels = int(self.population.layout.tile_shape[0])
                    n_parts = min(max(_MANY // (n_chunks * n_tiles), PARTS), -(-n_pixels // 2))
                    parts = n_parts, n_chunks, n_tiles
                    run("backward_pixels", *parts, source=source, others=(n_parts,))
        run("add_chunks", ADDERS)
        if self._is_normed:
            run("largest_entries", PARTS, n_tiles)
        run("close_trials", n_trials)
        if self._is_normed:
            run("square_columns", n_tiles)
        run("scale_trials", n_trials)
        if is_measured:
            run("measure_columns", n_tiles)
        run("step_trials", n_trials)
        run("step_columns", PARTS, n_tiles)
        run("end_step", n_trials)


class _Stream:
    """Where a GPU is told what to do; what it is told again is recorded, and then said at once.

    A launch by itself takes the host longer than a small one takes the GPU.
    """

    def __init__(self, number: int) -> None:
        self._graphs: dict[Hashable, Any] = {}
        self._stream: Any = 0
        if not IS_SIMULATED:
            from cuda.core import Device as Card  # with the extra

            card = Card(number)
            card.set_current()
            self._stream = card.create_stream()

    def run(self, key: Hashable, launch: Callable[[Any], None]) -> None:
        """Does what `launch` launches on a stream; for the same key, that is always the same."""
        if key in self._graphs:
            self._graphs[key].launch(self._stream)
            return
        with rounded_as_written():
            launch(self._stream)  # and compile, which must not be recorded
        if not IS_SIMULATED:
            builder = self._stream.create_graph_builder().begin_building()
            launch(builder)
            self._graphs[key] = builder.end_building().complete()

    def close(self) -> None:
        """Forgets what was recorded."""
        self._graphs.clear()

    def wait(self) -> None:
        """Until all is done."""
        if not IS_SIMULATED:
            self._stream.sync()


def teams_of_block(n_teams: int, n_lanes: int) -> int:
    """How many teams make a block: as many as leave each multiprocessor some blocks."""
    n_of_block = 1
    if not IS_SIMULATED:
        while n_of_block * n_lanes < THREADS and n_teams > n_of_block * _FEW:
            n_of_block *= 2
    return n_of_block


def slots_of(part: Slice) -> int:
    """Into how many runs the blocks of a batch are cut for the upper layers.

    As many as chunks at least, and of a few networks as many as there are blocks.
    """
    n_blocks, widths = _most_blocks(part), _widths(part)
    number = ROW * np.dtype(part.course.dtype).itemsize * sum(map(team_units, widths))
    return min(n_blocks, max(min(_MANY // len(widths), SMALL_ROOM // number), CHUNKS))


def _record_of(part: Slice) -> dict[str, NDArray[Any]]:
    """What a slice goes by and leaves, `(trials, steps)` or `(1, steps)`."""
    at, counts = np.arange(part.first_step, part.first_step + part.n_steps), []
    for source in part.sources:
        blocks, position = source.arrays["batch_block"], source.arrays["block_position"]
        batch = at % (len(blocks) - 1)
        counts.append((np.diff(position[blocks])[batch], np.diff(blocks)[batch]))
    n_examples, n_blocks = np.moveaxis(np.array(counts), 0, -1)[:, None]
    return part.record._asdict() | {"n_examples": n_examples, "n_blocks": n_blocks}


def _room_of_epoch(part: Slice) -> Iterator[tuple[str, NDArray[Any]]]:
    """An array for each part of a source, long enough for any epoch: moving loses pixels only."""
    first, whole = part.sources[BATCH].arrays, part.course.whole.arrays
    for name in SOURCE:
        size = max(first[name].size, whole[name].size)
        yield name, np.zeros(size, first[name].dtype)


def _shape_of(source: Handle) -> tuple[int, int]:
    """Blocks of a batch and rows of a block, at most."""
    arrays = source.arrays
    return int(np.diff(arrays["batch_block"]).max()), int(np.diff(arrays["block_position"]).max())


def source_on_gpu(source: Handle) -> dict[str, Any]:
    """A copy of what is passed over, a `Handle` on `Images` and `Batches`."""
    return {name: cuda.to_device(source.arrays[name]) for name in SOURCE}


def arrays_of(part: Slice) -> dict[str, NDArray[Any]]:
    """Layout and state of a population, and what a step leaves of each block."""
    layout, dtype = part.population.layout, part.course.dtype
    arrays = layout._asdict() | part.population.state._asdict() | {"feature": part.course.feature}
    del arrays["control"], arrays["group_tile"], arrays["group_trial"]
    n_blocks, n, first_upper = _most_blocks(part), len(layout.depth), layout.upper[0]
    arrays["clock"] = np.zeros(2, np.int64)
    arrays["doubt"] = np.zeros(PARTS * layout.n_columns, dtype)
    arrays["part_largest"] = np.zeros(PARTS * layout.n_columns, dtype)
    arrays["part_is_lost"] = np.zeros(PARTS * layout.n_columns, np.int64)
    for name in "losses", "hits":
        arrays[f"block_{name}"] = np.zeros((3, n_blocks, n))
    arrays["block_idle"] = np.zeros((n_blocks, *arrays["idle"].shape[1:]))
    arrays["block_gradient"] = np.zeros(n_blocks * (layout.size - first_upper), dtype)
    arrays["upper_offset"] = layout.offset - first_upper
    sizes = ROW * np.array([team_units(widths) for widths in _widths(part)])
    arrays["room_size"] = sizes
    arrays["room_start"] = (np.cumsum(sizes) - sizes) * slots_of(part)
    return arrays | {name: np.zeros(1, own.dtype) for name, own in arrays.items() if own.size == 0}


def rooms_of(part: Slice) -> dict[str, int]:
    """How many numbers a step leaves: from the first layers to the others, back, and between."""
    n_blocks, n_columns = _most_blocks(part), part.population.layout.n_columns
    return {
        "received": n_blocks * n_columns * BLOCK,
        "delta": n_blocks * n_columns * BLOCK,
        "room": slots_of(part) * sum(map(team_units, _widths(part))) * ROW,
    }


def _widths(part: Slice) -> list[tuple[int, ...]]:
    return [trial.config.model.layer_widths for trial in part.population.trials]


def _most_blocks(part: Slice) -> int:
    """Of a batch of any source."""
    sources = *part.sources, part.course.whole
    return max(int(np.diff(source.arrays["batch_block"]).max()) for source in sources)


def _with_flushed(module: str) -> str:
    """LLVM's code, in which each sum, product, quotient and root in float64 that is subnormal is 0.

    Example:
        >>> print(_with_flushed('  %"a" = fadd double %"b", %"c"').partition("define")[0], end="")
          %"a.kept" = fadd double %"b", %"c"
          %"a" = call double @flushed(double %"a.kept")
    """
    code, n = _DOUBLE.subn(r"""\1.kept"\2\n\1" = call double @flushed(double\1.kept")""", module)
    return f"{code}\n{_FLUSHED}" if n else module


@contextmanager
def rounded_as_written(*, is_flushed: bool = True) -> Iterator[None]:
    """While kernels are compiled: no product and sum become one, no subnormal number stays.

    Args:
        is_flushed: in float64; in float32 all are.

    Numba passes neither option on to NVVM; and in float64, where a GPU has no such mode, a function
    in LLVM's language looks at each result.
    """
    if IS_SIMULATED:
        yield
        return
    from numba.cuda.core import config
    from numba.cuda.cudadrv import nvvm

    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small studies are welcome

    def exact(code: str | list[str], **options: Any) -> Any:
        modules = [code] if isinstance(code, str) else code
        flushed = [*map(_with_flushed, modules)] if is_flushed else modules
        return plain(flushed, **options, fma=False, ftz=True)

    with _compiling:
        plain = nvvm.compile_ir
        nvvm.compile_ir = exact
        try:
            yield
        finally:
            nvvm.compile_ir = plain
