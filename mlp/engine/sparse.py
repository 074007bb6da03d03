"""Images as lists of their non-zero pixels, cut into batches and blocks.

Four of five pixel values of MNIST are zero and take part in no product. A `Batches` holds the
others twice: row by row for the forward pass, and for the backward pass, within each block of
`BLOCK` rows, pixel by pixel. A last pixel that is one everywhere carries the biases.
"""

from typing import Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mlp.data.dataset import features

BLOCK = 256  # rows: their number fits a byte, and their gradients fit the first-level cache


class Images(NamedTuple):
    """Non-zero pixels row by row."""

    start: NDArray[np.int64]  # (n + 1,), where each row's pixels begin
    pixel: NDArray[np.uint16]  # (non_zero,), place among the live pixels
    value: NDArray[np.uint8]  # (non_zero,), raw value; 0 of the constant pixel
    label: NDArray[np.uint8]  # (n,)


class Batches(NamedTuple):
    """Rows in the order of use, cut into batches of blocks of at most `BLOCK` rows."""

    order: NDArray[np.int64]  # (n,), row of the images at each position
    batch_block: NDArray[np.int64]  # (batches + 1,), first block of each batch
    block_position: NDArray[np.int64]  # (blocks + 1,), first position of each block
    # (blocks * pixels + 1,), where the entries of a pixel in a block begin
    pixel_start: NDArray[np.int64]
    row: NDArray[np.uint8]  # (non_zero,), row within the block
    row_value: NDArray[np.uint8]  # (non_zero,), raw value
    # (blocks * BLOCK,) of the training's dtype: 1 for label 0, -1 for label 1, 0 where the block
    # has no row
    side: NDArray[np.floating]


def pack_images(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], live: NDArray[np.bool_]
) -> Images:
    """Lists the non-zero pixels of each row, and the constant pixel at its end.

    Args:
        pixels: `(n, d)` uint8.
        labels: `(n,)`, 0 or 1.
        live: `(d,)` bool, the pixels to keep.
    """
    kept = np.column_stack([pixels[:, live], np.ones(len(pixels), np.uint8)])
    row, pixel = np.nonzero(kept)
    start = np.searchsorted(row, np.arange(len(kept) + 1))
    value = np.where(pixel < kept.shape[1] - 1, kept[row, pixel], 0).astype(np.uint8)
    return Images(start.astype(np.int64), pixel.astype(np.uint16), value, labels.astype(np.uint8))


def pixel_features(scale: float, dtype: Literal["float32", "float64"]) -> NDArray[np.floating]:
    """The number that each raw value stands for, `(256,)`; that of the constant pixel is 1.

    Args:
        scale: as in `mlp.data.dataset.features`.
    """
    table = features(np.arange(256, dtype=np.uint8), scale, dtype)
    table[0] = 1.0
    return table


def move_images(
    images: Images,
    live: NDArray[np.bool_],
    shape: tuple[int, int],
    down: NDArray[np.int64],
    right: NDArray[np.int64],
) -> Images:
    """Moves each image by its own way, as `mlp.data.dataset.moved` does.

    Args:
        live: `(rows * columns,)`, with every pixel that an image can be moved to.
        shape: rows and columns of an image.
        down: `(n,)`, rows that each goes down.
        right: `(n,)`, columns that each goes right.
    """
    canvas, place = np.flatnonzero(live), np.cumsum(live) - 1
    start, pixel = np.empty_like(images.start), np.empty_like(images.pixel)
    value = np.empty_like(images.value)
    n = _move(images, canvas, place, *shape, down, right, start, pixel, value)
    return Images(start, pixel[:n], value[:n], images.label)


def cut_batches(
    images: Images, order: NDArray[np.int64], batch_size: int, n_pixels: int, dtype: str
) -> Batches:
    """Cuts rows in the given order into batches and sorts each block by pixel.

    Args:
        order: `(n,)` int64, a permutation of the rows.
        batch_size: rows a batch; the last one takes what is left.
        n_pixels: live pixels and the constant one.
        dtype: of `side`.
    """
    n = len(order)
    batches = [range(i, min(i + batch_size, n), BLOCK) for i in range(0, n, batch_size)]
    batch_block = np.cumsum([0, *map(len, batches)], dtype=np.int64)
    block_position = np.array([i for batch in batches for i in batch] + [n], np.int64)
    n_blocks = len(block_position) - 1
    pixel_start = np.empty(n_blocks * n_pixels + 1, np.int64)
    row, value = np.empty_like(images.value), np.empty_like(images.value)
    side = np.zeros(n_blocks * BLOCK, dtype)
    _sort_blocks(images, order, block_position, n_pixels, pixel_start, row, value, side)
    return Batches(order, batch_block, block_position, pixel_start, row, value, side)


@njit(nogil=True, cache=True)
def _move(images, canvas, place, n_rows, n_columns, down, right, start, pixel, value):
    """Writes the pixels that stay inside, in their order; returns how many there are."""
    n = 0
    for i in range(len(images.label)):
        start[i] = n
        for entry in range(images.start[i], images.start[i + 1]):
            to = images.pixel[entry]
            if to < len(canvas):  # the last one is constant and stays
                row = canvas[to] // n_columns + down[i]
                column = canvas[to] % n_columns + right[i]
                if row < 0 or row >= n_rows or column < 0 or column >= n_columns:
                    continue
                to = place[row * n_columns + column]
            pixel[n] = to
            value[n] = images.value[entry]
            n += 1
    start[-1] = n
    return n


@njit(nogil=True, cache=True)
def _sort_blocks(images, order, block_position, n_pixels, pixel_start, row, value, side):
    """Counting sort of each block's entries by pixel; rows stay in order within a pixel."""
    free = np.empty(n_pixels, np.int64)
    place = 0
    for block in range(len(block_position) - 1):
        first, end = block_position[block], block_position[block + 1]
        free[:] = 0
        for position in range(first, end):
            i = order[position]
            side[block * BLOCK + position - first] = 1 - 2 * images.label[i]
            for entry in range(images.start[i], images.start[i + 1]):
                free[images.pixel[entry]] += 1
        for pixel in range(n_pixels):
            pixel_start[block * n_pixels + pixel] = place
            place += free[pixel]
            free[pixel] = place - free[pixel]
        for position in range(first, end):
            i = order[position]
            for entry in range(images.start[i], images.start[i + 1]):
                to = free[images.pixel[entry]]
                row[to] = position - first
                value[to] = images.value[entry]
                free[images.pixel[entry]] = to + 1
    pixel_start[-1] = place
