"""Networks as people write them by hand, correct or with one mistake, and their runs in MLflow.

They share no code with the package: mean cross-entropy of two classes, digits, full batch.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import mlflow
import numpy as np
from mlflow.entities import Metric, Param
from sklearn.datasets import load_digits

Brought = tuple[Mapping[str, object], Sequence[float]]
"""The params of a run, and its loss."""

MISTAKES = {
    "twice": "each step is made twice, once in either of two loops",
    "stale": "the gradient is that of the weights before the last step",
    "late": "the hidden layers are reached through output weights that are updated already",
    "tanh": "the derivative of tanh is taken for 1 - a",
    "open": "the derivative of relu is left out",
    "growing": "the learning rate is multiplied by 1.02 at each step, where 0.98 was meant",
    "velocity": "a velocity is kept, 0.9 of it, which no param says",
    "first": "the first layer's gradient is a sum, the others are means",
}


@np.errstate(over="ignore", invalid="ignore")
def train(
    rate: float,
    seed: int,
    *,
    mistake: str = "",
    widths: Sequence[int] = (3, 3),
    activation: str = "sigmoid",
    normalization: str = "mean",
    scale: float = 1.0,
    steps: int = 120,
) -> list[float]:
    """The loss before each step and after the last."""
    digits = load_digits()
    chosen = np.isin(digits.target, (3, 7))
    X, y = digits.data[chosen] / 16, (digits.target[chosen] == 7).astype(int)
    rng = np.random.RandomState(seed)
    sizes = [X.shape[1], *widths, 2]
    weights = [rng.normal(0, scale * a**-0.5, (a, b)) for a, b in pairwise(sizes)]
    biases = [np.zeros(b) for b in sizes[1:]]
    before = [w.copy() for w in weights]
    velocity = [0.0] * len(weights)
    losses = []
    for step in range(steps + 1):
        used = before if mistake == "stale" else weights
        losses.append(_loss(_forward(X, weights, biases, activation)[-1], y))
        gradient = _gradient(X, y, used, biases, activation, mistake, rate)
        before = [w.copy() for w in weights]
        factor = rate * (1.02**step if mistake == "growing" else 1)
        for layer, (dw, db) in enumerate(gradient):
            is_sum = normalization == "sum" or (mistake == "first" and layer == 0)
            k = factor if is_sum else factor / len(X)
            if mistake == "velocity":
                velocity[layer] = 0.9 * velocity[layer] + dw
                dw = velocity[layer]
            for _ in range(2 if mistake == "twice" else 1):
                weights[layer] = weights[layer] - k * dw
                biases[layer] = biases[layer] - k * db
    return losses


def log_runs(
    experiment: str,
    runs: Sequence[Brought],
    uri: str,
    *,
    metric: str = "loss",
    status: str = "FINISHED",
) -> None:
    """Logs runs as a program of somebody else does: params, and a metric with steps."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    where = found.experiment_id if found else client.create_experiment(experiment)
    for params, losses in runs:
        run = client.create_run(where).info.run_id
        now = int(time.time() * 1000)
        client.log_batch(
            run,
            metrics=[Metric(metric, float(v), now, step) for step, v in enumerate(losses)],
            params=[Param(name, str(value)) for name, value in params.items()],
        )
        client.update_run(run, status=status)


def grid(
    rates: Sequence[float], *, mistake: str = "", n_seeds: int = 3, **settings
) -> list[Brought]:
    """Runs of a program over rates and seeds, with params as this package calls them."""
    own = {"widths": (3, 3), "activation": "sigmoid", "normalization": "mean", **settings}
    return [
        (
            {
                "data.name": "digits",
                "data.validation_fraction": 0.0,
                "optimizer.learning_rate": rate,
                "model.widths": own["widths"],
                "model.activation": own["activation"],
                "gradient.normalization": own["normalization"],
                "initialization.scale": own.get("scale", 1.0),
                "training.seed": seed,
            },
            train(rate, seed, mistake=mistake, **own),
        )
        for rate in rates
        for seed in range(n_seeds)
    ]


def _forward(X, weights, biases, activation):
    layers = [X]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        z = layers[-1] @ w + b
        if activation == "relu":
            layers.append(np.maximum(z, 0))
        else:
            layers.append(
                np.tanh(z) if activation == "tanh" else 1 / (1 + np.exp(-z.clip(-500, 500)))
            )
    return [*layers, layers[-1] @ weights[-1] + biases[-1]]


def _loss(z, y):
    z = z - z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]).mean())


def _gradient(X, y, weights, biases, activation, mistake, rate):
    """Sums over the examples, layer by layer."""
    layers = _forward(X, weights, biases, activation)
    z = layers[-1] - layers[-1].max(1, keepdims=True)
    delta = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    gradient = []
    for layer in reversed(range(len(weights))):
        a = layers[layer]
        dw, db = a.T @ delta, delta.sum(0)
        gradient.append((dw, db))
        w = weights[layer] - rate / len(X) * dw if mistake == "late" else weights[layer]
        if activation == "relu":
            slope = 1.0 if mistake == "open" else a > 0
        elif activation == "tanh":
            slope = 1 - a if mistake == "tanh" else 1 - a**2
        else:
            slope = a * (1 - a)
        delta = (delta @ w.T) * slope
    return gradient[::-1]
