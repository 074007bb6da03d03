"""The stability ratio: what it is made of, what it means at a minimum, and how runs are judged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from test_curvature import DATA, N, X, flat, mean_gradient, measured_in, network, shaped

from mlp.curve import Verdict
from mlp.gradient import descend, global_norm, normalize
from mlp.network import Layer, gradient, loss
from mlp.settings import read_run
from mlp.stability.ratio import (
    EDGE_HIGH,
    EDGE_LOW,
    GONE,
    Mechanism,
    effective_step,
    judge_stability,
    sharpness_steps,
    stability_ratio,
)
from mlp.stability.sharpness import measure_sharpness_curves


def run(normalization="mean", rate=0.5, *, momentum=0.0, **training):
    return read_run(
        {
            "model": {"activation": "tanh"},
            "gradient": {"normalization": normalization, "clip_norm": 0.02},
            "optimizer": {"learning_rate": rate, "momentum": momentum},
            "training": training,
        }
    )


@pytest.mark.parametrize("normalization", ["sum", "mean", "unit", "clip"])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_effective_step_is_the_step_over_the_mean_gradient(normalization, scale):
    config = run(normalization, 0.3)
    net = network(2, ("tanh", "exact"))
    grads = tuple(
        Layer(scale * W, scale * b)
        for W, b in gradient(net.params, X, DATA.train.labels, net.activation)
    )
    norm = global_norm(grads) / N
    rest = tuple(Layer(0 * W, 0 * b) for W, b in net.params)
    moved, _ = descend(net.params, rest, normalize(grads, N, config.gradient), config.optimizer)
    length = np.linalg.norm(flat(moved) - flat(net.params))
    assert effective_step(config, norm, N) == pytest.approx(length / norm, rel=1e-9)


def test_without_a_gradient_there_is_no_step():
    assert effective_step(run("unit"), [0.0, 2.0], N).tolist() == [0, 0.25]
    assert effective_step(run("clip"), [0.0], N).tolist() == [0.5]


@pytest.fixture(scope="module")
def minimum():
    """A network where the loss is lowest near some start.

    From one start or another the search gets stuck in a ravine, another one on each kind of CPU.
    """
    net = network(1, ("tanh", "exact"))

    def height(weights):
        return loss(shaped(weights, net.params), X, DATA.train.labels, "tanh")

    rng = np.random.RandomState(0)
    for _ in range(20):
        start = flat(net.params) + 0.3 * rng.standard_normal(flat(net.params).size)
        found = minimize(
            height,
            start,
            jac=lambda weights: mean_gradient(weights, net),
            method="BFGS",
            options={"gtol": 1e-9, "maxiter": 2000},
        )
        if np.linalg.norm(found.jac) < 1e-7:
            return net._replace(params=shaped(found.x, net.params))
    pytest.fail("no minimum was found from any start")


@pytest.mark.parametrize("normalization", ["sum", "mean"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_minimum_is_left_above_a_ratio_of_one_and_kept_below(minimum, normalization, momentum):
    [sharp] = measured_in([minimum], DATA)
    unit = stability_ratio(
        run(normalization, 1.0, momentum=momentum), sharp.value, sharp.gradient_norm, N
    )
    rng = np.random.RandomState(0)
    distance = 1e-6 * rng.standard_normal(flat(minimum.params).size)
    for ratio, stays in ((0.95, True), (1.05, False)):
        config = run(normalization, ratio / unit, momentum=momentum)
        params = shaped(flat(minimum.params) + distance, minimum.params)
        velocity = tuple(Layer(0 * W, 0 * b) for W, b in params)
        before = np.linalg.norm(mean_gradient(flat(params), minimum))
        for _ in range(150):
            grads = gradient(params, X, DATA.train.labels, "tanh")
            params, velocity = descend(
                params, velocity, normalize(grads, N, config.gradient), config.optimizer
            )
        after = np.linalg.norm(mean_gradient(flat(params), minimum))
        assert after < before / 10 if stays else after > 10 * before


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_steps_begin_with_the_first_end_with_the_last_and_see_both_phases(steps, points):
    at = sharpness_steps(run(steps=steps, sharpness_points=points))
    assert at[0] == 0
    assert len(at) <= points
    assert sorted({*at}) == list(at)
    assert points == 1 or at[-1] == steps
    if points >= 8 and steps >= 16:
        tail = [step for step in at if step > 0.75 * steps]
        assert len(tail) == 4
        assert sum(step % 2 for step in tail) == 2


def test_nothing_is_measured_unless_asked_for_nor_with_minibatches():
    assert sharpness_steps(run()) == ()
    assert sharpness_steps(run(sharpness_points=9, batch_size=10)) == ()


@pytest.mark.parametrize(
    ("start", "tail", "verdict", "mechanism"),
    [
        (9.0, GONE / 2, Verdict.OSCILLATING, Mechanism.SATURATED),
        (0.5, GONE / 2, Verdict.OSCILLATING, Mechanism.SATURATED),
        (9.0, GONE / 2, Verdict.LEARNING, Mechanism.CATAPULT),
        (9.0, GONE / 2, Verdict.CLIMBING, Mechanism.STARTED_ABOVE),
        (9.0, (GONE + EDGE_LOW) / 2, Verdict.OSCILLATING, Mechanism.STARTED_ABOVE),
        (9.0, 1.0, Verdict.OSCILLATING, Mechanism.EDGE),
        (0.3, EDGE_LOW, Verdict.LEARNING, Mechanism.EDGE),
        (0.3, EDGE_HIGH, Verdict.LEARNING, Mechanism.EDGE),
        (0.3, 1.01 * EDGE_HIGH, Verdict.DIVERGED, Mechanism.ABOVE),
        (1.0, 0.3, Verdict.STALLED, Mechanism.BELOW),
    ],
)
def test_mechanisms(start, tail, verdict, mechanism):
    ratios = [start, 20.0, tail / 2, tail, tail, 1.5 * tail]
    found = judge_stability([0, 60, 80, 90, 95, 100], ratios, verdict, 100)
    assert found.mechanism is mechanism
    assert (found.start, found.highest, found.tail) == (start, 20.0, tail)


def test_two_phases_count_alike():
    found = judge_stability([0, 80, 87, 93, 100], [5, 2, 0, 2, 0], Verdict.OSCILLATING, 100)
    assert found.tail == 1


def test_runs_without_a_first_or_any_point():
    assert judge_stability([], [], Verdict.LEARNING, 10) is None
    found = judge_stability([3], [7.0], Verdict.DIVERGED, 100)
    assert (found.start, found.tail, found.mechanism) == (None, 7.0, Mechanism.ABOVE)


def test_points_beyond_all_numbers_are_left_out():
    net = network(2, ("tanh", "exact"))
    broken = tuple(Layer(W * np.inf, b) for W, b in net.params)
    config = run(dtype="float64")
    [curve] = measure_sharpness_curves([config], [{0: net.params, 5: broken, 7: net.params}], DATA)
    assert curve.step.tolist() == [0, 7]
    assert all(np.isfinite(values).all() and values.size == 2 for values in curve)
    expected = stability_ratio(config, curve.sharpness, curve.gradient_norm, N)
    np.testing.assert_array_equal(curve.ratio, expected)


def test_members_are_words_with_sentences():
    assert {m.value for m in Mechanism} >= {"saturated", "edge", "catapult", "below"}
    assert all(m.sentence.endswith(".") for m in Mechanism)
