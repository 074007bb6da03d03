"""How many networks of different shapes lie side by side in one flat array.

The first layers stand next to each other as columns of one matrix, cut into tiles of as many
columns as a vector has lanes; a row more than there are live pixels holds the biases. What is
above the first layer follows trial by trial: each hidden layer `(fan_in + 1, fan_out)` with its
biases as the last row, then the weights of output 1 and those of output 0, `fan_in + 1` each.
Velocities, gradients and kept weights lie as the weights do.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlp.engine.simd import NARROW, WIDE
from mlp.network import N_CLASSES, Layer, Params

Array = NDArray[np.floating]
Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Layout(NamedTuple):
    """Where everything lies."""

    tile_shape: Integers  # (2,), rows of a tile, the live pixels and the biases, and columns
    group_tile: Integers  # (groups + 1,), first tile of each group of trials
    group_trial: Integers  # (groups + 1,), first trial of each group
    column: Integers  # (trials,), first column of each trial
    depth: Integers  # (trials,), hidden layers
    width: Integers  # (trials, deepest), units of each hidden layer
    # (trials, deepest + 2): entry l is where hidden layer l + 1 begins (from l = 1 on), entry
    # `depth` output 1, entry `depth + 1` output 0
    offset: Integers
    upper: Integers  # (trials + 1,), where the upper weights of each trial begin

    @property
    def n_groups(self) -> int:
        """How many groups the trials are in."""
        return len(self.group_trial) - 1

    @property
    def n_columns(self) -> int:
        """Columns of all tiles."""
        return int(self.group_tile[-1] * self.tile_shape[1])

    @property
    def size(self) -> int:
        """Numbers of a copy of all weights; another behind it begins with a whole vector."""
        return -(-int(self.upper[-1]) // WIDE) * WIDE


def tile_columns(most: int, dtype: DTypeLike) -> int:
    """Columns of a tile: as many numbers as a vector holds, a narrow one if that suffices.

    Args:
        most: columns of the largest group.
    """
    item = np.dtype(dtype).itemsize
    return NARROW // item if most <= NARROW // item else WIDE // item


def plan_layout(
    widths: Sequence[Sequence[int]],
    groups: Sequence[int],
    n_pixels: int,
    dtype: str,
    *,
    is_wide: bool = False,
) -> Layout:
    """Lays networks out in the order given.

    Args:
        widths: units of each hidden layer, for each trial.
        groups: how many trials each group takes; they begin at a tile of their own.
        n_pixels: live pixels and the one for the biases.
        is_wide: whether tiles are wide where narrow ones would do.
    """
    n, deepest = len(widths), max(map(len, widths))
    trial = np.cumsum([0, *groups], dtype=np.int64)
    most = max(sum(shape[0] for shape in widths[i:j]) for i, j in pairwise(trial))
    lanes = WIDE // np.dtype(dtype).itemsize if is_wide else tile_columns(most, dtype)
    tile, column = [0], []
    for first, end in pairwise(trial):
        free = tile[-1] * lanes
        for shape in widths[first:end]:
            column.append(free)
            free += shape[0]
        tile.append(-(-free // lanes))
    width = np.zeros((n, deepest), np.int64)
    offset = np.zeros((n, deepest + 2), np.int64)
    upper = [tile[-1] * n_pixels * lanes]
    for t, shape in enumerate(widths):
        width[t, : len(shape)] = shape
        place = upper[-1]
        for layer in range(1, len(shape)):
            offset[t, layer] = place
            place += (shape[layer - 1] + 1) * shape[layer]
        offset[t, len(shape)] = place
        offset[t, len(shape) + 1] = place + shape[-1] + 1
        upper.append(place + 2 * (shape[-1] + 1))
    return Layout(
        tile_shape=np.array([n_pixels, lanes], np.int64),
        group_tile=np.array(tile, np.int64),
        group_trial=trial,
        column=np.array(column, np.int64),
        depth=np.array([len(shape) for shape in widths], np.int64),
        width=width,
        offset=offset,
        upper=np.array(upper, np.int64),
    )


def pack(layout: Layout, packed: Array, trial: int, params: Params, live: Mask) -> None:
    """Writes one network's weights into its place.

    Args:
        params: its layers; the first has a row for every pixel.
        live: `(pixels,)`, the pixels that have a row in the tiles.
    """
    tile, lane = _columns(layout, trial)
    tiles = _tiles(layout, packed)
    tiles[tile, :, lane] = np.vstack([params[0].W[live], params[0].b]).T
    for layer, (W, b) in enumerate(params[1:-1], 1):
        _hidden(layout, packed, trial, layer)[:] = np.vstack([W, b])
    _outputs(layout, packed, trial)[:] = np.vstack([params[-1].W, params[-1].b]).T[::-1]


def unpack(layout: Layout, packed: Array, trial: int, first: Layer, live: Mask) -> Params:
    """One network's weights, copied out of their place.

    Args:
        first: a first layer, of which the weights of the pixels without a row are taken.
        live: `(pixels,)`, the pixels that have a row in the tiles.
    """
    tile, lane = _columns(layout, trial)
    rows = _tiles(layout, packed)[tile, :, lane].T
    W = first.W.copy()
    W[live] = rows[:-1]
    above = [_hidden(layout, packed, trial, i) for i in range(1, int(layout.depth[trial]))]
    above.append(np.ascontiguousarray(_outputs(layout, packed, trial)[::-1].T))
    return Layer(W, rows[-1].copy()), *(Layer(m[:-1].copy(), m[-1].copy()) for m in above)


def move(source: tuple[Layout, Array, int], target: tuple[Layout, Array, int]) -> None:
    """Copies one network's numbers from one layout to another.

    Args:
        source: layout, numbers, and which trial.
        target: layout, numbers, and which trial; of the same shape.
    """
    tile, lane = _columns(target[0], target[2])
    from_tile, from_lane = _columns(source[0], source[2])
    _tiles(*target[:2])[tile, :, lane] = _tiles(*source[:2])[from_tile, :, from_lane]
    (first, end), (from_first, from_end) = (
        layout.upper[trial : trial + 2] for layout, _, trial in (target, source)
    )
    target[1][first:end] = source[1][from_first:from_end]


def _tiles(layout: Layout, packed: Array) -> Array:
    """View `(tile, pixel, lane)`."""
    return packed[: layout.upper[0]].reshape(-1, *(int(n) for n in layout.tile_shape))


def _columns(layout: Layout, trial: int) -> tuple[Integers, Integers]:
    """Tile and lane of each column of a trial."""
    column = int(layout.column[trial]) + np.arange(int(layout.width[trial, 0]))
    lanes = int(layout.tile_shape[1])
    return column // lanes, column % lanes


def _hidden(layout: Layout, packed: Array, trial: int, layer: int) -> Array:
    """View `(fan_in + 1, fan_out)`."""
    fan_in, fan_out = (int(width) for width in layout.width[trial, layer - 1 : layer + 1])
    start = int(layout.offset[trial, layer])
    return packed[start : start + (fan_in + 1) * fan_out].reshape(fan_in + 1, fan_out)


def _outputs(layout: Layout, packed: Array, trial: int) -> Array:
    """View `(class, fan_in + 1)`, class 1 first."""
    start = layout.offset[trial, layout.depth[trial]]
    return packed[start : layout.upper[trial + 1]].reshape(N_CLASSES, -1)
