"""The products of `mlp.engine.pixels` on a GPU, with the bits of the CPU."""

import math
from typing import Any

import numpy as np
from numba import cuda

from mlp.engine import cuda_kernels
from mlp.engine.cuda_kernels import PARTS, chosen
from mlp.engine.cuda_steps import on_gpu, rounded_as_written, source_on_gpu, teams_of_block
from mlp.engine.pixels import TILE, Matrix, Pixels, from_tiles, padded, to_tiles
from mlp.engine.sparse import BLOCK


class PixelsOnGpu:
    """The training part on a GPU; any thread may multiply with it.

    Args:
        gpu: its number.
    """

    def __init__(self, pixels: Pixels, gpu: int) -> None:
        self._pixels, self._gpu = pixels, gpu
        with on_gpu(gpu):
            self._source = source_on_gpu(pixels.source)
            self._feature: Any = cuda.to_device(pixels.source.arrays["feature"])
        self._n_blocks = len(pixels.source.arrays["block_position"]) - 1

    def close(self) -> None:
        """Lets go of what lies on the GPU."""
        with on_gpu(self._gpu):
            self._source.clear()
            self._feature = None

    def project(self, weights: Matrix) -> Matrix:
        """As `mlp.engine.pixels.project`."""
        columns, n_rows = padded(weights), self._pixels.n_rows
        received, n_groups = np.zeros((len(columns), n_rows)), BLOCK // TILE
        grid = self._n_blocks * n_groups, len(columns) // TILE
        sizes = columns.shape[1], n_rows, n_groups
        self._run("project_rows", grid, to_tiles(columns), received.ravel(), *sizes)
        return received[: len(weights)]

    def collect(self, deltas: Matrix) -> Matrix:
        """As `mlp.engine.pixels.collect`."""
        columns, n_inputs = padded(deltas), self._pixels.n_inputs
        tiles = np.empty(len(columns) * n_inputs)
        delta = to_tiles(columns[:, : self._n_blocks * BLOCK])
        self._run("collect_pixels", (PARTS, len(columns) // TILE), delta, tiles, n_inputs)
        return from_tiles(tiles, n_inputs)[: len(deltas)]

    def _run(
        self, name: str, grid: tuple[int, int], given: Matrix, wanted: Matrix, *sizes: int
    ) -> None:
        with on_gpu(self._gpu):
            self._multiply(name, grid, given, wanted, *sizes)  # whose arrays are let go by now

    def _multiply(
        self, name: str, grid: tuple[int, int], given: Matrix, wanted: Matrix, *sizes: int
    ) -> None:
        kernel = cuda_kernels.kernels_of("float64")[name]
        arrays = chosen(kernel.source, self._source), self._feature, cuda.to_device(given)
        there = cuda.to_device(wanted)
        n_teams = teams_of_block(math.prod(grid), TILE)
        launch = kernel.run[(-(-grid[0] // n_teams), grid[1]), n_teams * TILE]
        with rounded_as_written(is_flushed=False):  # as on the CPU
            launch(*arrays, there, *sizes)
        there.copy_to_host(wanted)
