"""Normalized gradients against central differences, and the step against worked numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.config import Gradient, Initialization, Model, Optimizer
from mlp.gradient import descend, global_norm, normalize, rate_share
from mlp.network import Layer, gradient, initialize, loss

NORMALIZATIONS = ["sum", "mean", "unit", "clip"]
N_EXAMPLES, N_INPUTS = 7, 5
# Of the largest entry: float64 is bounded by the differences (step 1e-5), float32 by its own
# rounding (6e-8 an operation).
TOLERANCE = {"float64": 1e-8, "float32": 2e-5}


def flat(params):
    return np.concatenate([entries.ravel() for layer in params for entries in layer])


def unflat(vector, like):
    ends = np.cumsum([entries.size for layer in like for entries in layer])
    pieces = iter(np.split(vector, ends[:-1]))
    return tuple(Layer(next(pieces).reshape(W.shape), next(pieces)) for W, b in like)


def central_differences(summed_loss, point, step=1e-5):
    shifts = step * np.eye(point.size)
    return np.array(
        [(summed_loss(point + s) - summed_loss(point - s)) / (2 * step) for s in shifts]
    )


def plainly_normalized(g, n, normalization, clip_norm):
    if normalization == "sum":
        return g
    if normalization == "unit":
        return g / np.linalg.norm(g)
    mean = g / n
    return mean * min(1, clip_norm / np.linalg.norm(mean)) if normalization == "clip" else mean


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("depth", "scheme"), [(1, "uniform"), (2, "zeros"), (4, "orthogonal")])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_gradient_equals_central_differences(activation, scheme, depth, dtype):
    model = Model(depth=depth, widths=(4, 3, 4, 2)[:depth], activation=activation)
    rng = np.random.RandomState(11)
    drawn = initialize(model, Initialization(scheme=scheme), n_inputs=N_INPUTS, seed=2, dtype=dtype)
    params = tuple(Layer(W, rng.normal(size=b.size).astype(dtype)) for W, b in drawn)
    features = rng.uniform(size=(N_EXAMPLES, N_INPUTS)).astype(dtype)
    labels = np.array([0, 1, 1, 0, 1, 0, 0], np.uint8)

    def summed_loss(vector):
        at = unflat(vector, params)
        return N_EXAMPLES * loss(at, features.astype(np.float64), labels, activation)

    differences = central_differences(summed_loss, flat(params).astype(np.float64))
    grads_sum = gradient(params, features, labels, activation)
    size = np.linalg.norm(differences / N_EXAMPLES)
    for normalization in NORMALIZATIONS:
        for clip_norm in (0.5 * size, 2 * size):
            settings = Gradient(normalization=normalization, clip_norm=clip_norm)
            grads = flat(normalize(grads_sum, N_EXAMPLES, settings))
            expected = plainly_normalized(differences, N_EXAMPLES, normalization, clip_norm)
            assert grads.dtype == dtype
            assert np.abs(grads - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


def params_of(values, dtype):
    values = np.array(values, dtype)
    return (Layer(W=values[:-1, None], b=values[-1:]),)


# From the smallest to the largest numbers whose squares leave both dtypes.
magnitudes = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.floats(-1e30, -1e-30))
entries = st.lists(magnitudes, min_size=2, max_size=8)


@settings(max_examples=40)
@given(values=entries, dtype=st.sampled_from(["float32", "float64"]))
def test_unit_has_norm_one_or_stays_zero(values, dtype):
    grads = params_of(values, dtype)
    with np.errstate(all="raise", under="ignore"):
        unit = normalize(grads, 9, Gradient(normalization="unit"))
    assert flat(unit).dtype == dtype
    if not any(values):
        assert np.array_equal(flat(unit), flat(grads))
    else:
        assert global_norm(unit) == pytest.approx(1, rel=1e-6)
        largest = np.argmax(np.abs(flat(grads)))
        assert np.sign(flat(unit)[largest]) == np.sign(flat(grads)[largest])


@settings(max_examples=40)
@given(
    values=entries, clip_norm=st.floats(1e-20, 1e20), dtype=st.sampled_from(["float32", "float64"])
)
def test_clip_cuts_the_norm_of_the_mean_and_nothing_else(values, clip_norm, dtype):
    grads = params_of(values, dtype)
    with np.errstate(all="raise", under="ignore"):
        mean = normalize(grads, 4, Gradient(normalization="mean"))
        clipped = normalize(grads, 4, Gradient(normalization="clip", clip_norm=clip_norm))
    assert global_norm(clipped) == pytest.approx(min(clip_norm, global_norm(mean)), rel=1e-6)
    if global_norm(mean) <= clip_norm:
        assert np.array_equal(flat(clipped), flat(mean))


@pytest.mark.parametrize(("dtype", "huge"), [("float32", 1e38), ("float64", 1e308)])
def test_no_norm_overflows_or_vanishes(dtype, huge):
    for size in (huge, 1 / huge):
        with np.errstate(all="raise", under="ignore"):
            unit = normalize(
                params_of([size, -size, size, size], dtype), 1, Gradient(normalization="unit")
            )
        np.testing.assert_allclose(flat(unit), [0.5, -0.5, 0.5, 0.5], rtol=1e-6)


def test_the_norm_is_over_weights_and_biases_of_all_layers():
    grads = (
        Layer(np.array([[1.0, 2.0]]), np.array([4.0, 2.0])),
        Layer(np.array([[2.0], [6.0]]), np.array([4.0])),
    )
    assert global_norm(grads) == 9.0
    unit = normalize(grads, 3, Gradient(normalization="unit"))
    np.testing.assert_allclose(flat(unit), flat(grads) / 9, rtol=1e-15)


def test_the_norm_of_a_float32_gradient_is_taken_in_float64():
    values = np.random.RandomState(0).normal(size=1001).astype(np.float32)
    exact = np.linalg.norm(values.astype(np.float64))
    assert global_norm(params_of(values, "float32")) == pytest.approx(exact, rel=1e-14)


def test_sum_is_left_as_it_is_and_mean_divided():
    grads = params_of([3.0, -6.0], "float32")
    assert np.array_equal(flat(normalize(grads, 3, Gradient(normalization="sum"))), [3, -6])
    assert np.array_equal(flat(normalize(grads, 3, Gradient(normalization="mean"))), [1, -2])


@pytest.mark.parametrize("normalization", ["unit", "clip"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_not_hidden(normalization, bad):
    with np.errstate(all="ignore"):
        grads = normalize(
            params_of([1, bad, 2], "float32"), 1, Gradient(normalization=normalization)
        )
    assert not np.isfinite(flat(grads)).all()


def test_momentum_of_one_weight_and_one_bias_worked_by_hand():
    optimizer = Optimizer(learning_rate=0.125, momentum=0.5)
    params, velocity = params_of([1, -1], "float64"), params_of([0, 0], "float64")
    # v = v / 2 + g: 2, 2, 1; w = w - v / 8: 0.75, 0.5, 0.375; and the bias the other way round
    for g, v, w in [(2, 2, 0.75), (1, 2, 0.5), (0, 1, 0.375)]:
        params, velocity = descend(params, velocity, params_of([g, -g], "float64"), optimizer)
        assert flat(velocity).tolist() == [v, -v]
        assert flat(params).tolist() == [w, -w]


def test_a_step_stays_in_float32_and_leaves_its_arguments_alone():
    params, zero, grads = (params_of([a, b], "float32") for a, b in [(1, 2), (0, 0), (3, 4)])
    after = descend(params, zero, grads, Optimizer(learning_rate=0.1, momentum=0.9))
    assert [flat(part).dtype for part in after] == [np.float32, np.float32]
    assert np.array_equal(flat(params), [1, 2])
    assert np.array_equal(flat(zero), [0, 0])


def test_the_rate_falls_from_all_of_it_to_nothing_along_half_a_cosine():
    step = np.arange(1001)
    share = rate_share(Optimizer(decay="cosine"), step, 1000)
    np.testing.assert_allclose(share, (1 + np.cos(np.pi * step / 1000)) / 2, atol=1e-15)
    assert (np.diff(share) < 0).all()
    assert (rate_share(Optimizer(), step, 1000) == 1).all()


def test_a_share_of_the_rate_makes_a_step_of_that_share():
    params, grads = params_of([1.0, 2.0], "float64"), params_of([0.5, -0.5], "float64")
    zero = params_of([0.0, 0.0], "float64")
    half, _ = descend(params, zero, grads, Optimizer(learning_rate=0.5), share=0.5)
    assert flat(half).tolist() == [0.875, 2.125]
