"""Subnormal numbers: taken as zero while a kernel runs, and only then."""

import platform

import numpy as np
import pytest
from numba import njit

from mlp.engine.subnormal import flush_subnormals, restore

SMALL = {np.float32: (1e-30, 1e-10), np.float64: (1e-300, 1e-20)}


@njit
def products(x, y, tiny):
    """A product and an operand below the smallest normal number: before, while flushed, after."""
    before = x[0] * y[0], tiny[0] * x[1]
    mode = flush_subnormals()
    while_flushed = x[0] * y[0], tiny[0] * x[1]
    restore(mode)
    return before, while_flushed, (x[0] * y[0], tiny[0] * x[1])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="others do it as fast")
@pytest.mark.parametrize("dtype", list(SMALL))
def test_subnormal_numbers_are_zero_only_while_they_are_flushed(dtype):
    x, y = (np.array([value, 1e3], dtype) for value in SMALL[dtype])
    tiny = np.array([np.finfo(dtype).smallest_normal / 4], dtype)
    before, while_flushed, after = products(x, y, tiny)
    assert 0 < before[0] < np.finfo(dtype).smallest_normal
    assert before[1] > 0
    assert while_flushed == (0, 0)
    assert after == before
