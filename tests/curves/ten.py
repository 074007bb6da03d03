"""Curves of another program: ten digits in plain NumPy, with the losses that such programs have.

They are judged by what is known of them: the kind of loss, the classes, the size of a batch.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Curve = NDArray[np.float64]
N_EXAMPLES = 1200
N_CLASSES = 10


@dataclass(frozen=True)
class TenDigits:
    """A network of one hidden layer and what is logged of its training.

    Attributes:
        loss: softmax (cross-entropy), squares (of sigmoid outputs, the mean over outputs), half
            (of their sum), sum (cross-entropy over all examples), or one (a single sigmoid with the
            labels 0 to 9 in a binary cross-entropy, which has no lower bound).
        batch_size: 0: all examples.
        log: steps (each step's batch), epochs (the mean over an epoch's batches), exact (all
            examples, once an epoch).
        scale: factor on the pixels, which are 0 to 1.
    """

    loss: str = "softmax"
    batch_size: int = 0
    log: str = "steps"
    learning_rate: float = 0.5
    n_steps: int = 400
    width: int = 20
    scale: float = 1.0
    seed: int = 0


def train_ten(it: TenDigits) -> Curve:
    """The logged losses; training ends with the first that is not finite."""
    random = np.random.RandomState(it.seed)
    pixels, labels = load_digits(return_X_y=True)
    chosen = random.permutation(labels.size)[:N_EXAMPLES]
    X, y = pixels[chosen] / 16 * it.scale, labels[chosen]
    n_out = 1 if it.loss == "one" else N_CLASSES
    Y = y[:, None].astype(float) if it.loss == "one" else np.eye(N_CLASSES)[y]
    sizes = (X.shape[1], it.width, n_out)
    params = [(random.randn(a, b) / np.sqrt(a), np.zeros(b)) for a, b in pairwise(sizes)]
    size = it.batch_size or N_EXAMPLES
    logged: list[float] = []
    epoch: list[float] = []
    order = np.arange(N_EXAMPLES)
    for step in range(it.n_steps):
        place = step * size % N_EXAMPLES
        if place + size > N_EXAMPLES or place == 0:
            place = 0
            if it.batch_size:
                order = random.permutation(N_EXAMPLES)
        rows = order[place : place + size]
        with np.errstate(all="ignore"):
            value, grads = _step(params, X[rows], Y[rows], it.loss)
        epoch.append(value)
        if it.log == "steps":
            logged.append(value)
        elif len(epoch) == N_EXAMPLES // size:
            with np.errstate(all="ignore"):
                whole = _step(params, X, Y, it.loss)[0]
            logged.append(whole if it.log == "exact" else float(np.mean(epoch)))
            epoch = []
        if not np.isfinite(value):
            logged += [] if it.log == "steps" else [value]
            break
        params = [
            (W - it.learning_rate * dW, b - it.learning_rate * db)
            for (W, b), (dW, db) in zip(params, grads, strict=True)
        ]
    return np.array(logged)


Params = list[tuple[Curve, Curve]]


def _step(params: Params, X: Curve, Y: Curve, loss: str) -> tuple[float, Params]:
    (W1, b1), (W2, b2) = params
    A = np.tanh(X @ W1 + b1)
    Z = A @ W2 + b2
    n = len(X)
    if loss in ("softmax", "sum"):
        shifted = Z - Z.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        value, D = -(Y * logs).sum() / n, (np.exp(logs) - Y) / n
        if loss == "sum":
            value, D = value * n, D * n
    elif loss == "one":
        value, D = float(np.mean(np.logaddexp(0, Z) - Y * Z)), (1 / (1 + np.exp(-Z)) - Y) / n
    else:
        P = 1 / (1 + np.exp(-Z))
        share = 0.5 if loss == "half" else 1 / N_CLASSES
        value, D = share * ((P - Y) ** 2).sum() / n, 2 * share * (P - Y) * P * (1 - P) / n
    H = (D @ W2.T) * (1 - A**2)
    return float(value), [(X.T @ H, H.sum(0)), (A.T @ D, D.sum(0))]
