"""Arrays behind one pointer."""

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from mlp.engine.handle import Handle


class Some(NamedTuple):
    flat: np.ndarray
    deep: np.ndarray


class More(NamedTuple):
    single: np.ndarray


@njit
def read(handle):
    handle.flat[1] = 7
    part = handle.deep[1]
    return part[2, 0] + handle.single[1], len(handle.deep), len(part), len(part[2]), handle.count


def test_compiled_code_reads_and_writes_the_arrays_themselves():
    flat = np.zeros(3, np.int64)
    deep = np.arange(24.0).reshape(2, 3, 4)
    handle = Handle(Some(flat, deep), More(np.ones(2, np.float32)), count=-5)
    assert read(handle) == (deep[1, 2, 0] + 1, 2, 3, 4, -5)
    assert flat.tolist() == [0, 7, 0]


def test_a_view_with_gaps_is_refused():
    with pytest.raises(ValueError, match="deep must be C-contiguous"):
        Handle(Some(np.zeros(3), np.zeros((4, 4)).T[:2]))
