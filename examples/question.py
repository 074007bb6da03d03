"""The program of the question, written anew: does a 784-3-3-2 network tell threes from sevens?

    python -m mlp.audit examples/question.py
    python -m mlp.explain examples/question.py

It is plain NumPy. What its author might change has become an argument: the rate, the width,
whether the gradient is averaged over the digits, and whether the derivative of the sigmoid is the
right one.
"""

from itertools import pairwise

import numpy as np

from mlp.config import Data
from mlp.data.dataset import load_data

digits = load_data(Data(validation_fraction=0.0), notice=print)
X = (digits.train.pixels / digits.scale).astype(np.float32)
y = digits.train.labels.astype(int)
n = len(X)


def sigmoid(z):
    """The activation of the hidden layers."""
    return 1 / (1 + np.exp(-z))


def softmax(z):
    """Probabilities of the two digits, `(example, 2)`."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss(model):
    """Mean cross-entropy over all digits."""
    a1 = sigmoid(X @ model["W1"] + model["b1"])
    a2 = sigmoid(a1 @ model["W2"] + model["b2"])
    p = softmax(a2 @ model["W3"] + model["b3"])
    return -np.mean(np.log(p[np.arange(n), y] + 1e-30))


def train(learning_rate=0.005, hidden=3, average=False, exact=False, steps=300, seed=0):
    """Yields loss and accuracy before each step; returns the weights."""
    random = np.random.RandomState(seed)
    sizes = (X.shape[1], hidden, hidden, 2)
    W1, W2, W3 = ((random.randn(a, b) / np.sqrt(a)).astype(X.dtype) for a, b in pairwise(sizes))
    b1, b2, b3 = (np.zeros(b, X.dtype) for b in sizes[1:])
    for _ in range(steps):
        a1 = sigmoid(X @ W1 + b1)
        a2 = sigmoid(a1 @ W2 + b2)
        p = softmax(a2 @ W3 + b3)
        yield {
            "loss": -np.mean(np.log(p[np.arange(n), y] + 1e-30)),
            "accuracy": np.mean(p.argmax(axis=1) == y),
        }
        p[np.arange(n), y] -= 1
        d3 = p / n if average else p
        d2 = d3 @ W3.T * (a2 * (1 - a2) if exact else 1 - sigmoid(a2))
        d1 = d2 @ W2.T * (a1 * (1 - a1) if exact else 1 - sigmoid(a1))
        W3, b3 = W3 - learning_rate * a2.T @ d3, b3 - learning_rate * d3.sum(axis=0)
        W2, b2 = W2 - learning_rate * a1.T @ d2, b2 - learning_rate * d2.sum(axis=0)
        W1, b1 = W1 - learning_rate * X.T @ d1, b1 - learning_rate * d1.sum(axis=0)
    return {"W1": W1, "b1": b1, "W2": W2, "b2": b2, "W3": W3, "b3": b3}
