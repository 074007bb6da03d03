"""Slices of steps on a GPU: what is copied there and back, and the launches between."""

import importlib.util
from collections.abc import Iterator, Sequence
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
from mlp.engine.cuda_kernels import ADDERS, IS_SIMULATED, PARTS, Job, Source
from mlp.engine.handle import Handle
from mlp.engine.kernels import ROW
from mlp.engine.packing import LONGEST_SLICE, Population, Slice
from mlp.engine.passes import BATCH, HELD_OUT, WHOLE
from mlp.engine.simd import WIDE
from mlp.engine.sparse import BLOCK
from mlp.engine.steps import CHUNKS
from mlp.errors import UnavailableError, one_line
from mlp.network import N_CLASSES

_KEPT = "weights", "velocity", "best", "ending", "last_step", "is_broken", "watched", "action"


def check_gpu() -> None:
    """Makes sure that there is a GPU.

    Raises:
        UnavailableError: where there is none, no driver, or not the extra.
    """
    if IS_SIMULATED:
        return
    if importlib.util.find_spec("numba_cuda") is None:
        raise UnavailableError(
            "execution.engine=cuda needs numba-cuda: python -m pip install 'mlp-sweep[cuda]'"
        )
    if not cuda.is_available():
        why = one_line(cuda.cuda_error() or "none is visible")
        raise UnavailableError(
            f"execution.engine=cuda found no NVIDIA GPU ({why}); leave it out to train on the CPU"
        )


def free_bytes() -> int:
    """Free memory of the GPU; the simulator has as much as one of 8 GB."""
    return 8 * 10**9 if IS_SIMULATED else int(cuda.current_context().get_memory_info().free)


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
    n_curves = LONGEST_SLICE * (8 + 3 * (len(widths) + 1))
    return (
        n_copies * n_packed * item
        + 2 * n_columns * n_blocks * BLOCK * item
        + min(n_blocks, CHUNKS) * team_units(widths) * ROW * item
        + n_curves * 8
    )


def team_units(widths: Sequence[int]) -> int:
    """Units of `ROW` numbers that a network's pass over a block needs, at most.

    What its first layer receives; of each layer its activations, a unit of ones and the
    derivatives; the logit and the weights on it.
    """
    return widths[0] + 2 * sum(widths) + len(widths) + 2 + (max(widths) + ROW) // ROW


class Device:
    """A GPU and what lies on it."""

    def __init__(self) -> None:
        self._sources: WeakKeyDictionary[Handle, Any] = WeakKeyDictionary()
        self._states: WeakKeyDictionary[Population, dict[str, Any]] = WeakKeyDictionary()

    def advance(self, part: Slice) -> None:
        """Does the steps of a slice; leaves the record and the state where the CPU leaves them."""
        course, population, record = part.course, part.population, part.record
        with rounded_as_written():
            if population not in self._states:
                self._states = WeakKeyDictionary()  # of the trials that go on, as packed before
                arrays, rooms = arrays_of(part), rooms_of(part)
                on_device = {name: cuda.to_device(array) for name, array in arrays.items()}
                # Whatever stands there for rows without an example and columns without a trial, no
                # number of a trial comes of it.
                on_device |= {
                    name: cuda.device_array(size, course.dtype) for name, size in rooms.items()
                }
                self._states[population] = on_device
            state = self._states[population]
            taken = {name: cuda.to_device(array) for name, array in record._asdict().items()}
            job = Job(
                **{name: state[name] for name in Job._fields if name in state},
                **taken,
                size=population.layout.size,
                epoch=course.epoch,
                first_step=part.first_step,
            )
            sources = [self._source(source) for source in part.sources]
            launch = _Launches(part, job, sources, state)
            for step in range(part.n_steps):
                launch.step(step)
        for name, array in taken.items():
            array.copy_to_host(getattr(record, name))
        for name in _KEPT:
            host = getattr(population.state, name)
            if host.size:
                state[name].copy_to_host(host)

    def _source(self, source: Handle) -> Any:
        if source not in self._sources:
            self._sources[source] = Source(
                *(cuda.to_device(source.arrays[name]) for name in Source._fields)
            )
        return self._sources[source]


def arrays_of(part: Slice) -> dict[str, NDArray[Any]]:
    """Layout and state of a population."""
    layout, dtype = part.population.layout, part.course.dtype
    arrays = layout._asdict() | part.population.state._asdict() | {"feature": part.course.feature}
    del arrays["control"], arrays["group_tile"], arrays["group_trial"]
    arrays["doubt"] = np.zeros(PARTS * layout.n_columns, dtype)
    sizes = ROW * np.array(
        [team_units(t.config.model.layer_widths) for t in part.population.trials]
    )
    n_teams = min(_most_blocks(part), CHUNKS)
    arrays["room_size"] = sizes
    arrays["room_start"] = (np.cumsum(sizes) - sizes) * n_teams
    return arrays | {name: np.zeros(1, own.dtype) for name, own in arrays.items() if own.size == 0}


def rooms_of(part: Slice) -> dict[str, int]:
    """How many numbers a step leaves: from the first layers to the others, back, and between."""
    n_blocks, n_columns = _most_blocks(part), part.population.layout.n_columns
    widths = [trial.config.model.layer_widths for trial in part.population.trials]
    return {
        "received": n_blocks * n_columns * BLOCK,
        "delta": n_blocks * n_columns * BLOCK,
        "room": min(n_blocks, CHUNKS) * sum(map(team_units, widths)) * ROW,
    }


def _most_blocks(part: Slice) -> int:
    """Of a batch of any source."""
    sources = *part.sources, part.course.whole
    return max(int(np.diff(source.arrays["batch_block"]).max()) for source in sources)


class _Launches:
    """The launches of each step of a slice."""

    def __init__(self, part: Slice, job: Any, sources: list[Any], state: dict[str, Any]) -> None:
        self._part, self._job, self._sources, self._state = part, job, sources, state
        self._kernels = cuda_kernels.kernels_of(part.course.dtype)
        self._n_lanes = WIDE // np.dtype(part.course.dtype).itemsize
        layout = part.population.layout
        self._n_trials, self._n_tiles = len(layout.depth), int(layout.group_tile[-1])
        own = part.population.state
        self._is_normed = bool((own.normalization >= update.UNIT).any())
        at = np.arange(part.first_step, part.first_step + part.n_steps)[:, None]
        self._is_due = ((at % own.evaluate_every == 0) | (at == own.steps)).any(axis=1)

    def _run(self, name: str, grid: tuple[int, ...], *arguments: Any) -> None:
        self._kernels[name][grid, self._n_lanes](*arguments)

    def step(self, step: int) -> None:
        """All of one step; its number within the slice."""
        n_chunks = tuple(int(n) for n in self._part.record.n_chunks[0, step])
        trials, tiles, job = (self._n_trials,), (self._n_tiles,), self._job
        n_examples = []
        for role in (BATCH, HELD_OUT, WHOLE):
            arrays = self._part.sources[role].arrays
            blocks, position = arrays["batch_block"], arrays["block_position"]
            batch = (self._part.first_step + step) % (len(blocks) - 1) if role == BATCH else 0
            first, end = int(blocks[batch]), int(blocks[batch + 1])
            n_examples.append(int(position[end] - position[first]))
            if n_chunks[role]:
                rows = int(np.diff(position[first : end + 1]).max())
                self._pass_over(role, step, batch, first, end - first, rows, n_chunks[role])
        counts = n_chunks, tuple(n_examples)
        self._run("add_chunks", (ADDERS,), job, step)
        self._run("largest_entries", tiles, job)
        self._run("close_trials", trials, job, step, *counts)
        if self._is_normed:
            self._run("square_columns", tiles, job)
        self._run("scale_trials", trials, job, step, n_examples[BATCH])
        if self._is_due[step]:
            self._run("measure_columns", tiles, job)
        self._run("step_trials", trials, job, step, n_chunks[BATCH], n_examples[BATCH])
        self._run("step_columns", (self._n_tiles, PARTS), job)
        self._run("end_step", trials, job)

    def _pass_over(
        self, role: int, step: int, batch: int, first: int, n_blocks: int, rows: int, n_chunks: int
    ) -> None:
        """What a source gives: losses, hits and, of the batch, gradients.

        Args:
            rows: of a block, at most.
        """
        job, source, state = self._job, self._sources[role], self._state
        n_groups = -(-rows // self._n_lanes)
        grid = n_blocks * n_groups, self._n_tiles
        self._run("forward_rows", grid, job, source, first, n_groups, state["received"])
        self._run(
            "upper_layers",
            (n_chunks, self._n_trials),
            *(job, source, batch, state["received"], state["delta"], state["room"], role, step),
        )
        if role == BATCH:
            parts = n_chunks, self._n_tiles, PARTS
            self._run("backward_pixels", parts, job, source, batch, state["delta"], step)


@contextmanager
def rounded_as_written() -> Iterator[None]:
    """While kernels are compiled: no product and sum become one, no subnormal number stays.

    Numba passes neither option on to NVVM.
    """
    if IS_SIMULATED:
        yield
        return
    from numba.cuda.core import config
    from numba.cuda.cudadrv import nvvm

    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small studies are welcome
    plain = nvvm.compile_ir

    def exact(code: Any, **options: Any) -> Any:
        return plain(code, **options, fma=False, ftz=True)

    nvvm.compile_ir = exact
    try:
        yield
    finally:
        nvvm.compile_ir = plain
