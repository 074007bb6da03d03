"""Products of the training part with many first layers at once, in float64.

Both products of a first layer with the data, for all networks that are measured together: forward,
what each unit receives from each example; backward, what each pixel receives from each unit. They
run over the non-zero pixels by the kernels that train, column by column in an order that depends
on the data alone: a network's numbers do not depend on which others stand beside it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mlp.data.dataset import Part
from mlp.engine.handle import Handle, version_of
from mlp.engine.kernels import backward_wide, forward_wide, transpose_all
from mlp.engine.layout import Mask
from mlp.engine.simd import WIDE, aligned_zeros, lanes, store, zeros
from mlp.engine.sparse import BLOCK, cut_batches, pack_images, pixel_features

Matrix = NDArray[np.float64]

TILE = WIDE // np.dtype(np.float64).itemsize
# Whole cache lines more than the rows, so that the same row of neighbouring units does not fall
# into the same set of the cache.
_ROOM = 8
_COMPILED = "handle", "kernels", "pixels", "simd", "sparse"


class Pixels(NamedTuple):
    """The training part, ready to be multiplied with.

    Attributes:
        source: its non-zero pixels, row by row and pixel by pixel.
        live: `(pixels,)`, pixels that are non-zero in some example.
        side: `(n_rows,)`, 1 for label 0, -1 for label 1, 0 where a row has no example.
    """

    source: Handle
    live: Mask
    side: Matrix
    n_examples: int

    @property
    def n_inputs(self) -> int:
        """Live pixels and the constant one that carries the biases."""
        return int(self.live.sum()) + 1

    @property
    def n_rows(self) -> int:
        """Examples and the room beside them."""
        return len(self.side)


def read_pixels(part: Part, scale: float) -> Pixels:
    """Lists the non-zero pixels of a part.

    Args:
        scale: as in `mlp.data.dataset.features`.
    """
    n = part.n_examples
    live = np.asarray(part.pixels.any(axis=0))
    images = pack_images(part.pixels, part.labels, live)
    n_inputs = int(live.sum()) + 1
    batches = cut_batches(images, np.arange(n), n, n_inputs, "float64")
    feature = pixel_features(scale, "float64")
    side = np.concatenate([batches.side, np.zeros(_ROOM)])
    source = Handle(images, batches, feature=feature, n_inputs=n_inputs, stride=len(side))
    return Pixels(source, live, side, n)


def project(pixels: Pixels, weights: Matrix) -> Matrix:
    """What each unit receives from each example.

    Args:
        weights: `(units, inputs)`, the last input being the constant one.

    Returns:
        `(units, rows)`; 0 in rows without an example.
    """
    columns = padded(weights)
    tiles = _aligned(columns.size)
    tiles[:] = to_tiles(columns)
    received = np.zeros((len(columns), pixels.n_rows))
    _project(pixels.source, _work(tiles, received.ravel()))
    return received[: len(weights)]


def collect(pixels: Pixels, deltas: Matrix) -> Matrix:
    """What each input receives from each unit: the sum over the examples of input times delta.

    Args:
        deltas: `(units, rows)`.

    Returns:
        `(units, inputs)`.
    """
    columns = padded(deltas)
    tiles = _aligned(len(columns) * pixels.n_inputs)
    _collect(pixels.source, _work(columns.ravel(), tiles))
    return from_tiles(tiles, pixels.n_inputs)[: len(deltas)]


def padded(rows: Matrix) -> Matrix:
    """The rows, and such of zeros up to a whole tile."""
    return np.pad(rows, ((0, -len(rows) % TILE), (0, 0)))


def to_tiles(columns: Matrix) -> Matrix:
    """Numbers of whole tiles of columns, `(columns, n)`, as `(tile, n, lane)`, in one line."""
    return columns.reshape(-1, TILE, columns.shape[1]).transpose(0, 2, 1).ravel()


def from_tiles(tiles: Matrix, n: int) -> Matrix:
    """The other way round: `(columns, n)`."""
    return tiles.reshape(-1, n, TILE).transpose(0, 2, 1).reshape(-1, n)


def _work(given: Matrix, wanted: Matrix) -> Handle:
    return Handle(given=given, scratch=_aligned(BLOCK * TILE), wanted=wanted)


def _aligned(size: int) -> Matrix:
    return np.asarray(aligned_zeros(size, "float64"))


def _compile(version: str) -> tuple[Any, Any]:
    """Compiles both products, or takes them from Numba's cache.

    What they close over is part of that cache's key, and so the version is.
    """

    @njit(nogil=True, cache=True)
    def project_all(source, work):
        """Block by block, so that a block's pixels stay in the cache for all tiles."""
        assert version
        weights, scratch, received = work.given, work.scratch, work.wanted
        tile = lanes(weights, WIDE)
        size, stride = source.n_inputs * tile, source.stride
        for block in range(len(source.block_position) - 1):
            first = source.block_position[block]
            n_rows = source.block_position[block + 1] - first
            n_padded = (n_rows + tile - 1) // tile * tile
            for row in range(n_rows, n_padded):
                store(scratch, row * tile, zeros(scratch, WIDE))
            for number in range(len(weights) // size):
                w0, to = number * size, number * tile * stride + block * BLOCK
                forward_wide(source, source.feature, weights, w0, first, n_rows, scratch)
                transpose_all(scratch, 0, tile, n_padded, tile, received, to, stride)

    @njit(nogil=True, cache=True)
    def collect_all(source, work):
        """The same backwards; the first block's sums replace what is there."""
        assert version
        deltas, scratch, gradient = work.given, work.scratch, work.wanted
        feature, n_inputs, tile = source.feature, source.n_inputs, lanes(deltas, WIDE)
        size, stride = n_inputs * tile, source.stride
        for block in range(len(source.block_position) - 1):
            for number in range(len(gradient) // size):
                g0, start = number * size, number * tile * stride + block * BLOCK
                transpose_all(deltas, start, stride, tile, BLOCK, scratch, 0, tile)
                pixels = 0, n_inputs
                backward_wide(
                    source, feature, block, n_inputs, pixels, scratch, gradient, g0, block == 0
                )

    return project_all, collect_all


_project, _collect = _compile(version_of(*_COMPILED))
