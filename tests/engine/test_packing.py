"""The two laws of the engine: a trial alone is the trial among others, and the readable network."""

import os
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.config import Data
from mlp.data.dataset import Dataset, load_data
from mlp.engine.population import train
from mlp.engine.result import Ending
from mlp.gradient import descend, normalize, rate_share
from mlp.network import Layer, accuracy, gradient, initialize, loss
from mlp.settings import read_run, with_settings

LAWFUL = settings(derandomize=True, max_examples=10)

# Rates far beyond the stability threshold: the loss swings, and a wrong last bit grows to another
# curve within some dozen steps.
RATES = {"sum": [0.005, 0.05], "mean": [1.0, 30.0], "unit": [0.5, 5.0], "clip": [5.0, 50.0]}


@cache
def digits():
    return load_data(Data(name="digits"), notice=lambda line: None)


def mnist():
    if "MLP_DATA_ROOT" not in os.environ:
        pytest.skip("MLP_DATA_ROOT names no folder with the MNIST files")
    return load_data(Data(name="mnist"), notice=lambda line: None)


@st.composite
def runs(draw, n_steps, dtype=None):
    activation = draw(st.sampled_from(["sigmoid", "tanh", "relu"]))
    derivatives = ["exact", "question"] if activation == "sigmoid" else ["exact"]
    normalization = draw(st.sampled_from(sorted(RATES)))
    widths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    batch_size = draw(st.sampled_from([None, None, 32, 100]))
    scheme = draw(st.sampled_from(["lecun_normal", "glorot_uniform", "orthogonal", "zeros"]))
    return read_run(
        {
            "model": {"depth": len(widths), "widths": widths, "activation": activation},
            "initialization": {"scheme": scheme, "scale": draw(st.sampled_from([0.3, 1.0, 4.0]))},
            "gradient": {
                "normalization": normalization,
                "clip_norm": draw(st.sampled_from([0.01, 1.0])),
                "derivative": draw(st.sampled_from(derivatives)),
            },
            "optimizer": {
                "learning_rate": draw(st.sampled_from(RATES[normalization])),
                "momentum": draw(st.sampled_from([0.0, 0.9])),
                "decay": draw(st.sampled_from(["none", "cosine"])),
            },
            "training": {
                "steps": draw(st.sampled_from([n_steps // 7, n_steps])),
                "batch_size": batch_size,
                "shift": draw(st.sampled_from([0, 1, 3])) if batch_size else 0,
                "dtype": dtype or draw(st.sampled_from(["float32", "float64"])),
                "seed": draw(st.integers(0, 9)),
                "order_seed": draw(st.integers(0, 1)),
                "evaluate_every": draw(st.sampled_from([1, 7, 50])),
            },
        }
    )


def fingerprint(result):
    curves = (
        result.loss,
        result.loss_step,
        result.step_loss,
        result.validation_accuracy,
        result.evaluated_step,
        result.layer_step,
        result.layer_gradient,
        result.layer_update,
        result.layer_idle,
    )
    weights = [array.tobytes() for layer in result.weights for array in layer]
    return (
        [None if curve is None else curve.tobytes() for curve in curves],
        weights,
        result.ending,
        result.last_step,
    )


def fingerprints(configs, data, **options):
    return [fingerprint(result) for result in train(configs, data, **options)]


@LAWFUL
@given(st.data())
def test_a_trial_is_the_same_alone_and_in_any_population(data):
    mixture = data.draw(st.lists(runs(100), min_size=2, max_size=6))
    bars = st.dictionaries(st.integers(1, 99), st.floats(0, 1), max_size=3)
    thresholds = [data.draw(bars) for _ in mixture]
    together = fingerprints(mixture, digits(), threads=2, thresholds=thresholds)
    order = data.draw(st.permutations(range(len(mixture))))
    turned = fingerprints(
        [mixture[i] for i in order], digits(), threads=1, thresholds=[thresholds[i] for i in order]
    )
    assert turned == [together[i] for i in order]
    for i, run in enumerate(mixture):
        assert fingerprints([run], digits(), threads=1 + i % 3, thresholds=[thresholds[i]]) == [
            together[i]
        ]


def question(**training):
    """The settings of the question that the project answers."""
    return read_run(
        {
            "gradient": {"normalization": "sum", "derivative": "question"},
            "optimizer": {"learning_rate": 0.005},
            "training": {"steps": 500} | training,
        }
    )


@pytest.mark.system
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mnist_deep_in_the_oscillation(dtype):
    data = mnist()
    first = question(dtype=dtype)
    leaver = with_settings(first, {"training.steps": 40, "model.widths": [30, 7]})
    wild = with_settings(
        first,
        {
            "model.activation": "relu",
            "gradient.derivative": "exact",
            "optimizer.learning_rate": 1e300,  # infinite in float32
            "initialization.scheme": "he_normal",
        },
    )
    other = with_settings(first, {"training.seed": 1, "model.depth": 1, "model.widths": 17})
    alone = fingerprints([first], data, threads=1)[0]
    results = train([leaver, wild, first, other], data, threads=2)
    assert [result.ending for result in results] == [
        Ending.COMPLETED,
        Ending.NON_FINITE,
        Ending.COMPLETED,
        Ending.COMPLETED,
    ]
    curve = results[2].loss
    assert (np.diff(np.sign(np.diff(curve[250:]))) != 0).sum() > 20  # it does swing
    assert fingerprint(results[2]) == alone


def test_mnist_minibatches_alone_and_together():
    data = mnist()
    one = question(batch_size=1000, steps=15)
    two = with_settings(one, {"training.seed": 1, "model.depth": 3, "model.widths": [9, 40, 2]})
    together = fingerprints([one, two], data, threads=2)
    assert together == [*fingerprints([one], data), *fingerprints([two], data)]


def reference(run, data: Dataset):
    """Losses before each of the steps and after the last, by the readable network."""
    features = np.divide(data.train.pixels, data.scale, dtype=run.training.dtype)
    params = initialize(
        run.model,
        run.initialization,
        n_inputs=features.shape[1],
        seed=run.training.seed,
        dtype=run.training.dtype,
    )
    velocity = tuple(Layer(np.zeros_like(W), np.zeros_like(b)) for W, b in params)
    losses = []
    for step in range(run.training.steps + 1):
        example = params, features, data.train.labels, run.model.activation
        losses.append(loss(*example))
        if step < run.training.steps:
            grads = gradient(*example, derivative=run.gradient.derivative)
            grads = normalize(grads, len(features), run.gradient)
            share = float(rate_share(run.optimizer, step, run.training.steps))
            params, velocity = descend(params, velocity, grads, run.optimizer, share=share)
    held_out = np.divide(data.validation.pixels, data.scale, dtype=run.training.dtype)
    share = accuracy(params, held_out, data.validation.labels, run.model.activation)
    return np.array(losses), params, share


CALM = {"sum": 1e-5, "mean": 0.003, "unit": 0.003, "clip": 0.003}


def calm(run):
    """The same at a rate that lets no rounding error grow, over 50 steps of the full batch."""
    return with_settings(
        run,
        {
            "optimizer.learning_rate": CALM[run.gradient.normalization],
            "training.steps": 50,
            "training.batch_size": None,
            "training.shift": 0,
            "initialization.scale": 1.0,
        },
    )


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
@LAWFUL
@given(data=st.data())
def test_a_population_equals_the_readable_network(dtype, bound, data):
    mixture = [calm(run) for run in data.draw(st.lists(runs(50, dtype), min_size=1, max_size=3))]
    for run, result in zip(mixture, train(mixture, digits(), threads=2), strict=True):
        losses, params, share = reference(run, digits())
        np.testing.assert_allclose(result.loss, losses, rtol=bound, atol=bound)
        for layer, (W, b) in zip(params, result.weights, strict=True):
            np.testing.assert_allclose(W, layer.W, rtol=bound, atol=bound)
            np.testing.assert_allclose(b, layer.b, rtol=bound, atol=bound)
        assert abs(result.validation_accuracy[-1] - share) < 0.02


@pytest.mark.system
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
def test_mnist_equals_the_readable_network(dtype, bound):
    data = mnist()
    run = read_run(
        {"model": {"widths": [20, 5]}, "training": {"steps": 50, "dtype": dtype, "seed": 3}}
    )
    losses, params, _ = reference(run, data)
    (result,) = train([run], data, threads=2)
    np.testing.assert_allclose(result.loss, losses, rtol=bound, atol=bound)
    for layer, (W, b) in zip(params, result.weights, strict=True):
        np.testing.assert_allclose(W, layer.W, rtol=bound, atol=bound)
        np.testing.assert_allclose(b, layer.b, rtol=bound, atol=bound)
