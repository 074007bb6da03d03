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
from mlp.engine.kernels import backward_wide, forward_wide
from mlp.engine.layout import Mask
from mlp.engine.simd import NARROW, WIDE, aligned_zeros, lanes, store, transpose, zeros
from mlp.engine.sparse import BLOCK, cut_batches, pack_images, pixel_features

Matrix = NDArray[np.float64]

_TILE = WIDE // np.dtype(np.float64).itemsize
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
    n_units = len(weights)
    tiles = _aligned(_tiles(n_units), pixels.n_inputs, _TILE)
    columns = np.zeros((len(tiles) * _TILE, pixels.n_inputs))
    columns[:n_units] = weights
    tiles[:] = columns.reshape(len(tiles), _TILE, -1).transpose(0, 2, 1)
    received = np.zeros((len(tiles) * _TILE, pixels.n_rows))
    _project(pixels.source, tiles.ravel(), _scratch(), received.ravel())
    return received[:n_units]


def collect(pixels: Pixels, deltas: Matrix) -> Matrix:
    """What each input receives from each unit: the sum over the examples of input times delta.

    Args:
        deltas: `(units, rows)`.

    Returns:
        `(units, inputs)`.
    """
    n_units = len(deltas)
    columns = np.zeros((_tiles(n_units) * _TILE, pixels.n_rows))
    columns[:n_units] = deltas
    tiles = _aligned(_tiles(n_units), pixels.n_inputs, _TILE)
    _collect(pixels.source, columns.ravel(), _scratch(), tiles.ravel())
    return tiles.transpose(0, 2, 1).reshape(-1, pixels.n_inputs)[:n_units]


def _tiles(n_units: int) -> int:
    return -(-n_units // _TILE)


def _scratch() -> Matrix:
    return np.asarray(aligned_zeros(BLOCK * _TILE, "float64"))


def _aligned(*shape: int) -> Matrix:
    return np.asarray(aligned_zeros(int(np.prod(shape)), "float64")).reshape(shape)


def _compile(version: str) -> tuple[Any, Any]:
    """Compiles both products, or takes them from Numba's cache.

    What they close over is part of that cache's key, and so the version is.
    """

    @njit(nogil=True, cache=True)
    def project_all(source, weights, scratch, received):
        """Block by block, so that a block's pixels stay in the cache for all tiles."""
        assert version
        tile, square = lanes(weights, WIDE), lanes(weights, NARROW)
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
                for row in range(0, n_padded, square):
                    for column in range(0, tile, square):
                        place = to + column * stride + row
                        transpose(scratch, row * tile + column, tile, received, place, stride)

    @njit(nogil=True, cache=True)
    def collect_all(source, deltas, scratch, gradient):
        """The same backwards; the first block's sums replace what is there."""
        assert version
        tile, square = lanes(deltas, WIDE), lanes(deltas, NARROW)
        n_inputs, stride = source.n_inputs, source.stride
        size = n_inputs * tile
        for block in range(len(source.block_position) - 1):
            for number in range(len(gradient) // size):
                g0, start = number * size, number * tile * stride + block * BLOCK
                for row in range(0, BLOCK, square):
                    for column in range(0, tile, square):
                        place = start + column * stride + row
                        transpose(deltas, place, stride, scratch, row * tile + column, tile)
                is_first = block == 0
                backward_wide(
                    source, source.feature, block, n_inputs, scratch, gradient, g0, is_first
                )

    return project_all, collect_all


_project, _collect = _compile(version_of(*_COMPILED))
