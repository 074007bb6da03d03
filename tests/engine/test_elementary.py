"""The vector functions against NumPy's in higher precision."""

import numpy as np
import pytest
from numba import njit

from mlp.engine import kernels
from mlp.engine.handle import Handle
from mlp.engine.simd import WIDE, aligned_zeros, lanes, load, store


def over_vectors(function):
    @njit
    def apply(handle):
        x, y = handle.x, handle.y
        for i in range(0, len(x), lanes(x, WIDE)):
            store(y, i, function(load(x, i, WIDE)))

    return lambda x, y: apply(Handle(x=x, y=y))


def wide(values):
    return values.astype(np.longdouble)


RANDOM = np.random.RandomState(0)
SPREAD = 10.0 ** RANDOM.uniform(-8, 1.9, 4096)
CASES = {
    "exp": (-SPREAD, np.exp),
    "log1p": (SPREAD / SPREAD.max(), np.log1p),
    "sigmoid": (np.where(RANDOM.rand(4096) < 0.5, 1, -1) * SPREAD, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (np.where(RANDOM.rand(4096) < 0.5, 1, -1) * SPREAD, np.tanh),
}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_stay_within_four_units_in_the_last_place(name, dtype):
    values, truth = CASES[name]
    x, y = aligned_zeros(4096, dtype), aligned_zeros(4096, dtype)
    x[:] = values
    compiled = over_vectors(getattr(kernels, name))
    compiled(x, y)
    expected = truth(wide(x))
    units = np.abs(wide(y) - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert units.max() < 4
    special = {"exp": [0, -np.inf], "log1p": [0, 1]}.get(name, [-np.inf, np.inf])
    x[:3] = [np.nan, *special]
    compiled(x, y)
    assert np.isnan(y[0])
    np.testing.assert_allclose(y[1:3], truth(x[1:3]), rtol=1e-6, atol=1e-30)
