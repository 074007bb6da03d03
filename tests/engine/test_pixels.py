"""Products with the data against the dense ones."""

import numpy as np
import pytest

from mlp.data.dataset import Part
from mlp.engine.pixels import collect, project, read_pixels


@pytest.fixture(scope="module", params=[1, 255, 256, 257, 700])
def data(request):
    rng = np.random.RandomState(request.param)
    pixels = rng.randint(256, size=(request.param, 9)) * (rng.rand(request.param, 9) < 0.3)
    pixels[:, 2] = 0
    pixels[0, 3] = 1
    part = Part(pixels.astype(np.uint8), rng.randint(2, size=request.param).astype(np.uint8))
    found = read_pixels(part, 255)
    X = np.column_stack([part.pixels[:, found.live] / 255, np.ones(request.param)])
    return found, part, X


@pytest.mark.parametrize("n_units", [1, 3, 16, 17, 40])
def test_products_are_those_with_the_dense_matrix(data, n_units):
    pixels, part, X = data
    rng = np.random.RandomState(n_units)
    weights = rng.standard_normal((n_units, X.shape[1]))
    received = project(pixels, weights)
    np.testing.assert_allclose(received[:, : len(part)], weights @ X.T, atol=1e-13)
    assert not received[:, len(part) :].any()
    deltas = rng.standard_normal((n_units, pixels.n_rows)) * np.abs(pixels.side)
    np.testing.assert_allclose(collect(pixels, deltas), deltas[:, : len(part)] @ X, atol=1e-12)


def test_side_tells_label_and_room(data):
    pixels, part, _ = data
    np.testing.assert_array_equal(pixels.side[: len(part)], 1.0 - 2.0 * part.labels)
    assert not pixels.side[len(part) :].any()
    assert pixels.n_examples == len(part)
