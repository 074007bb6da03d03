"""Verdicts of runs on minibatches, beside what full-batch descent does at their last weights."""

import numpy as np
import pytest

from mlp.config import RunConfig
from mlp.curve import Verdict, judge_run
from mlp.data.dataset import Dataset, features, load_data
from mlp.engine.population import train
from mlp.gradient import descend, normalize
from mlp.network import Layer, gradient, loss
from mlp.settings import with_settings

# Settings of runs on the digits: steps an epoch follow from the batch size, of 290 examples.
HEALTHY = [
    {"training.batch_size": 16, "optimizer.learning_rate": 0.5, "model.widths": 8},
    {"training.batch_size": 8, "optimizer.learning_rate": 0.2, "model.activation": "tanh"},
    {"training.batch_size": 145, "optimizer.learning_rate": 0.5, "model.activation": "tanh"},
    {"training.batch_size": 37, "optimizer.learning_rate": 1.0, "model.activation": "relu"},
    {"training.batch_size": 32, "optimizer.learning_rate": 0.5, "training.shift": 1},
]
SWINGING = [
    [
        {"training.batch_size": size, "optimizer.learning_rate": rate, "model.activation": "tanh"}
        for rate in (25.0, 50.0)
    ]
    for size in (145, 37)  # 2 and 8 steps an epoch
]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(with_settings(RunConfig(), {"data.name": "digits"}).data, notice=print)


def judged(settings: list[dict[str, object]], data: Dataset, *, own_batches: bool = False):
    """Verdicts, three seeds of each, and twelve losses of full-batch descent from the last weights.

    Those that take the same batches are trained together.
    """
    base = {"data.name": "digits", "training.steps": 600, "model.widths": 8, "model.depth": 2}
    configs = [
        with_settings(RunConfig(), {**base, **each, **seeds})
        for each in settings
        for seed in range(3)
        for seeds in [{"training.seed": seed, "training.order_seed": seed * own_batches}]
    ]
    X, labels = features(data.train.pixels, data.scale, np.float64), data.train.labels
    for config, result in zip(configs, train(configs, data), strict=True):
        activation = config.model.activation
        params = tuple(Layer(W.astype(float), b.astype(float)) for W, b in result.weights)
        velocity = tuple(Layer(0 * W, 0 * b) for W, b in params)
        after = []
        for _ in range(12):
            after.append(loss(params, X, labels, activation))
            grads = normalize(gradient(params, X, labels, activation), labels.size, config.gradient)
            params, velocity = descend(params, velocity, grads, config.optimizer)
        yield judge_run(result, config.training.batch_size).verdict, np.array(after)


@pytest.mark.parametrize(
    ("settings", "own_batches"), [*((each, False) for each in HEALTHY), (HEALTHY[1], True)]
)
def test_where_full_batch_descent_never_rises_batches_do_not_oscillate(
    settings, digits, own_batches
):
    for verdict, after in judged([settings], digits, own_batches=own_batches):
        assert (np.diff(after) <= 1e-6).all()
        assert verdict is not Verdict.OSCILLATING


@pytest.mark.parametrize("settings", SWINGING)
def test_swings_between_the_ends_of_epochs_are_seen(settings, digits):
    rises = [
        (verdict, (np.diff(after) > 0.05 * after[:-1]).sum() >= 4)
        for verdict, after in judged(settings, digits)
    ]
    assert all(verdict is Verdict.OSCILLATING for verdict, is_rising in rises if is_rising)
    assert any(is_rising for _, is_rising in rises)
