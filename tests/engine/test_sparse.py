"""Cut images, put together again."""

import numpy as np
import pytest

from mlp.data.dataset import moved
from mlp.engine.sparse import BLOCK, cut_batches, move_images, pack_images


def images(n, seed=0):
    rng = np.random.RandomState(seed)
    pixels = (rng.randint(1, 17, (n, 12)) * (rng.rand(n, 12) < 0.3)).astype(np.uint8)
    return pixels, rng.randint(2, size=n).astype(np.uint8)


def dense_row(packed, i, n_pixels):
    row = np.zeros(n_pixels, np.uint8)
    entries = slice(packed.start[i], packed.start[i + 1])
    row[packed.pixel[entries]] = packed.value[entries]
    return row


def test_rows_keep_their_pixels_and_end_with_the_constant_one():
    pixels, labels = images(20)
    live = np.arange(12) % 5 != 0
    packed = pack_images(pixels, labels, live)
    for i in range(20):
        assert dense_row(packed, i, live.sum() + 1).tolist() == [*pixels[i, live], 0]
    assert packed.label.tolist() == labels.tolist()


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_moved_rows_are_moved_images(shift):
    pixels, labels = images(50)
    live = np.ones(12, bool)
    live[:2] = pixels[:, :2].any(axis=0)
    ways = np.random.RandomState(2).randint(-shift, shift + 1, (2, 50))
    packed = move_images(pack_images(pixels, labels, live), live, (3, 4), *ways)
    expected = moved(pixels, (3, 4), *ways)
    for i in range(50):
        assert dense_row(packed, i, live.sum() + 1).tolist() == [*expected[i, live], 0]
        assert (np.diff(packed.pixel[packed.start[i] : packed.start[i + 1]].astype(int)) > 0).all()
    assert packed.label.tolist() == labels.tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 300, 600, 1000])
def test_blocks_hold_the_rows_of_their_batch_in_order(batch_size):
    n = 600
    pixels, labels = images(n)
    packed = pack_images(pixels, labels, np.ones(12, bool))
    order = np.random.RandomState(1).permutation(n)
    cut = cut_batches(packed, order, batch_size, 13, "float32")
    seen = []
    for first, end in zip(cut.batch_block[:-1], cut.batch_block[1:], strict=True):
        rows_of_batch = 0
        for block in range(first, end):
            n_rows = int(np.diff(cut.block_position[block : block + 2])[0])
            assert 1 <= n_rows <= BLOCK
            dense = np.zeros((n_rows, 13), np.uint8)
            for pixel in range(13):
                place = slice(*cut.pixel_start[block * 13 + pixel : block * 13 + pixel + 2])
                assert (np.diff(cut.row[place].astype(int)) > 0).all()
                dense[cut.row[place], pixel] = cut.row_value[place]
            rows = cut.order[cut.block_position[block] : cut.block_position[block + 1]]
            assert (dense[:, :-1] == pixels[rows]).all()
            assert (dense[:, -1] == 0).all()
            side = cut.side[block * BLOCK : (block + 1) * BLOCK]
            assert (side[:n_rows] == 1 - 2.0 * labels[rows]).all()
            assert (side[n_rows:] == 0).all()
            seen += rows.tolist()
            rows_of_batch += n_rows
        assert rows_of_batch == min(batch_size, n - len(seen) + rows_of_batch)
    assert seen == order.tolist()
