"""Networks packed and unpacked again."""

import numpy as np
import pytest

from mlp.config import Initialization, Model
from mlp.engine.layout import move, pack, plan_layout, unpack
from mlp.engine.simd import aligned_zeros
from mlp.network import Layer, initialize

SHAPES = [(3,), (40, 2), (1, 5, 7, 2), (20, 20)]
LIVE = np.arange(30) % 4 != 1


def network(shape, seed, dtype):
    model = Model(depth=len(shape), widths=shape)
    params = initialize(model, Initialization(), n_inputs=30, seed=seed, dtype=dtype)
    rng = np.random.RandomState(seed)
    return tuple(Layer(W, rng.rand(len(b)).astype(dtype)) for W, b in params)


def assert_same(one, other):
    for (W, b), (V, c) in zip(one, other, strict=True):
        assert W.dtype == V.dtype
        assert W.tobytes() == V.tobytes()
        assert b.tobytes() == c.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", [[4], [1, 3], [1, 1, 1, 1]])
def test_networks_survive_packing_and_moving(groups, dtype):
    networks = [network(shape, seed, dtype) for seed, shape in enumerate(SHAPES)]
    layout = plan_layout(SHAPES, groups, LIVE.sum() + 1, dtype)
    packed = aligned_zeros(layout.size, dtype)
    for place, params in enumerate(networks):
        pack(layout, packed, place, params, LIVE)
    assert np.count_nonzero(packed[: layout.upper[0]]) == sum(
        np.count_nonzero(p[0].W[LIVE]) + len(p[0].b) for p in networks
    )
    for place, params in enumerate(networks):
        assert_same(unpack(layout, packed, place, params[0], LIVE), params)
    fewer = plan_layout([SHAPES[2]], [1], LIVE.sum() + 1, dtype)
    target = aligned_zeros(fewer.size, dtype)
    move((layout, packed, 2), (fewer, target, 0))
    assert_same(unpack(fewer, target, 0, networks[2][0], LIVE), networks[2])


def test_few_columns_take_a_narrow_tile():
    assert plan_layout([(16,)], [1], 5, "float32").tile_shape.tolist() == [5, 16]
    assert plan_layout([(17,)], [1], 5, "float32").tile_shape.tolist() == [5, 32]
    assert plan_layout([(8,), (9,)], [1, 1], 5, "float64").tile_shape.tolist() == [5, 16]
