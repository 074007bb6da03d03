"""Subnormal numbers: taken as zero while a kernel runs, and only then."""

import platform

import numpy as np
import pytest
from numba import njit

from mlp.config import RunConfig
from mlp.data.dataset import load_data
from mlp.engine.handle import flush_subnormals, restore
from mlp.engine.population import train
from mlp.settings import with_settings

IS_X86 = platform.machine() in ("x86_64", "AMD64")
SMALL = {np.float32: (1e-30, 1e-10), np.float64: (1e-300, 1e-20)}


@njit
def products(x, y, tiny):
    """A product and an operand below the smallest normal number: before, while flushed, after."""
    before = x[0] * y[0], tiny[0] * x[1]
    mode = flush_subnormals()
    while_flushed = x[0] * y[0], tiny[0] * x[1]
    restore(mode)
    return before, while_flushed, (x[0] * y[0], tiny[0] * x[1])


@pytest.mark.skipif(not IS_X86, reason="the mode is that of x86")
@pytest.mark.parametrize("dtype", list(SMALL))
def test_subnormal_numbers_are_zero_only_while_they_are_flushed(dtype):
    x, y = (np.array([value, 1e3], dtype) for value in SMALL[dtype])
    tiny = np.array([np.finfo(dtype).smallest_normal / 4], dtype)
    before, while_flushed, after = products(x, y, tiny)
    assert 0 < before[0] < np.finfo(dtype).smallest_normal
    assert before[1] > 0
    assert while_flushed == (0, 0)
    assert after == before


@pytest.mark.skipif(not IS_X86, reason="the mode is that of x86")
def test_training_flushes_them_and_leaves_the_thread_as_it_was():
    """The first layer's biases begin at 0, and every update of them is subnormal."""
    tiny = {
        "data.name": "digits",
        "model.depth": 1,
        "initialization.scale": 1e-20,
        "optimizer.learning_rate": 1e-19,
        "training.steps": 3,
    }
    config = with_settings(RunConfig(), tiny)
    [result] = train([config], load_data(config.data, notice=print))
    assert np.all(result.weights[0][1] == 0)
    assert np.any(result.weights[-1][1] != 0)  # those of the last layer are not
    smallest = np.finfo(np.float32).smallest_normal
    assert 0 < smallest * np.float32(0.25) < smallest
