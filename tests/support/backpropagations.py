"""Small networks written by hand, right or with one planted mistake."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


APPLY = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda z: np.where(z > 0, z, 0.0),
    "leaky relu": lambda z: np.where(z > 0, z, 0.01 * z),
}
DERIVE = {
    "sigmoid": lambda z: sigmoid(z) * (1 - sigmoid(z)),
    "tanh": lambda z: 1 / np.cosh(z) ** 2,
    "relu": lambda z: np.where(z > 0, 1.0, 0.0),
    "leaky relu": lambda z: np.where(z > 0, 1.0, 0.01),
}
ENDS = ("softmax", "binary", "squared")


@dataclass
class Net:
    activation: str
    end: str
    sizes: tuple[int, ...]  # inputs, hidden layers, outputs
    decay: float = 0.0

    @property
    def n_layers(self):
        return len(self.sizes) - 1


def outputs(net, z, bug=""):
    if net.end == "softmax":
        axis = {"softmax over the batch": 0, "softmax over everything": None}.get(bug, 1)
        e = np.exp(z)
        return e / e.sum(axis=axis, keepdims=True)
    return sigmoid(z) if net.end == "binary" else z


def labels(net, y):
    return np.eye(net.sizes[-1])[y] if net.end == "softmax" else y


def make_loss(net):
    def loss(params, X, y):
        a = X
        for W, b in params[:-1]:
            a = APPLY[net.activation](a @ W + b)
        p, t = outputs(net, a @ params[-1][0] + params[-1][1]), labels(net, y)
        if net.end == "softmax":
            total = -np.log((p * t).sum(axis=1)).mean()
        elif net.end == "binary":
            total = -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum() / len(X)
        else:
            total = ((p - t) ** 2).sum() / len(X)
        return total + net.decay * sum((W**2).sum() for W, _ in params)

    return loss


@dataclass
class Planted:
    """Where and how: `layers` are hidden layers (0 is the first) that have the mistake."""

    bug: str
    layers: tuple[int, ...]
    memory: list


def make_gradient(net, bug="", layers=()):
    memory = []

    def gradient(params, X, y):
        found = _gradient(net, Planted(bug, tuple(layers), memory), params, X, y)
        if bug == "accumulates":
            memory[:] = (
                [(a + c, b + d) for (a, b), (c, d) in zip(found, memory, strict=True)]
                if memory
                else found
            )
            return list(memory)
        return found

    return gradient


def _gradient(net, planted, params, X, y):
    bug, L, n = planted.bug, net.n_layers, len(X)
    name = "tanh" if net.activation == "sigmoid" else "sigmoid"
    name = name if bug == "another forward pass" else net.activation
    A, Z = [X], []
    for k, (W, b) in enumerate(params):
        Z.append(A[-1] @ W + (0 if bug == "no bias in the forward pass" else b))
        if k < L - 1:
            A.append(APPLY[name](Z[-1]))
    p, t = outputs(net, Z[-1], bug), labels(net, y)
    delta = _output_delta(net, bug, Z[-1], p, t) / n
    if bug in ("only the first example", "only the last example"):
        delta[1 if bug == "only the first example" else 0 :][: n - 1] = 0
    dW, db, deltas, passed = [None] * L, [None] * L, [None] * L, None
    for k in reversed(range(L)):
        deltas[k] = delta
        here = k in planted.layers
        dW[k], db[k] = _arrays(net, bug if here else "", k, A, Z, delta, passed, deltas, params)
        if k:
            back = _way_back(
                bug if k - 1 in planted.layers else "", k, delta, params, deltas, passed
            )
            passed = back
            delta = back * _factor(
                net, name, bug if k - 1 in planted.layers else "", k - 1, Z, A, back
            )
            if bug == "divided in each layer":
                delta = delta / n
            if bug == "delta before its derivative" and k - 1 in planted.layers:
                # right in the arrays of this layer, but handed down without it
                deltas[k - 1] = delta
                dW[k - 1], db[k - 1] = A[k - 1].T @ delta, delta.sum(axis=0)
                rest = _below(net, name, k - 1, back, params, A, Z)
                for j, (w, v) in rest.items():
                    dW[j], db[j] = w, v
                break
    scale = {
        "summed": n,
        "divided twice": 1 / n,
        "sign": -1,
        "twice": 2,
        "half": 0.5,
        "factor": 3.0,
    }
    for k in range(L):
        dW[k], db[k] = dW[k] * scale.get(bug, 1), db[k] * scale.get(bug, 1)
        decay = {"weight decay left out": 0, "weight decay of another size": net.decay}
        W = params[k][0]
        dW[k] = dW[k] + decay.get(bug, 2 * net.decay) * W
        if bug == "weight decay in the gradient alone":
            dW[k] = dW[k] + 0.03 * W
        if bug == "bias summed":
            db[k] = db[k] * n
        if bug == "weights summed":
            dW[k] = dW[k] * n
        if bug == "changes params":
            params[k][0][...] -= 0.1 * dW[k]
        if bug == "shape" and k in planted.layers:
            db[k] = np.repeat(db[k][None], n, axis=0)
    return list(zip(dW, db, strict=True))


def _below(net, name, k, back, params, A, Z):
    found, delta = {}, back
    while k:
        delta = (delta @ params[k][0].T) * DERIVE[name](Z[k - 1])
        k -= 1
        found[k] = A[k].T @ delta, delta.sum(axis=0)
    return found


def _output_delta(net, bug, z, p, t):
    size = 2.0 if net.end == "squared" else 1.0
    e = p - t
    if net.end == "softmax" and bug == "softmax twice":
        q = np.exp(p)
        e = q / q.sum(axis=1, keepdims=True) - t
    made = {
        "labels left out": p,
        "outputs left out": -t,
        "labels swapped": p - (t[:, ::-1] if net.end == "softmax" else 1 - t),
        "labels added": p + t,
        "derivative of the outputs once more": e * p * (1 - p),
        "before the outputs": z - t,
        "decisions for outputs": (
            np.eye(p.shape[1])[p.argmax(axis=1)] if net.end == "softmax" else (p > 0.5)
        )
        - t,
        "derivative of the outputs left out": -t / p
        if net.end == "softmax"
        else (1 - t) / (1 - p) - t / p,
        "only the labelled output": e * t,
        "absolute difference": np.abs(e),
        "sign of the difference": np.sign(e),
        "squared difference": e**2,
        "gradient of another loss": 2 * e * p * (1 - p),
        "outputs of another kind": sigmoid(z) - t if net.end != "binary" else np.tanh(z) - t,
        "labels in reverse order": p - t[::-1],
        "labels of the next example": p - np.roll(t, -1, axis=0),
    }
    return size * made.get(bug, e)


def _way_back(bug, k, delta, params, deltas, passed):
    W = params[k][0]
    if bug == "weights not transposed":
        return delta @ W
    if bug == "weights left out":
        return delta.copy()
    if bug == "weights of another layer":
        other = next(j for j, (V, _) in enumerate(params) if j != k and V.shape == W.shape)
        return delta @ params[other][0].T
    if bug == "delta of another layer":
        return deltas[k + 1] @ W.T
    if bug == "sign of the weights lost":
        return delta @ np.abs(W).T
    return delta @ W.T


def _factor(net, name, bug, k, Z, A, back):
    z, a = Z[k], A[k + 1]
    due = DERIVE[name](z)
    other = k
    if bug == "derivative at another layer":
        other = next(j for j in range(len(Z) - 1) if j != k and Z[j].shape == z.shape)
    another = {"sigmoid": "tanh", "tanh": "sigmoid", "relu": "tanh", "leaky relu": "relu"}[name]
    made = {
        "no derivative": lambda: np.ones_like(z),
        "sigmoid of the activation": lambda: 1 - sigmoid(a),
        "factor lost: a": lambda: a,
        "factor lost: 1 - a": lambda: 1 - a,
        "derivative of the activation's own value": lambda: DERIVE[name](a),
        "input for activation": lambda: z * (1 - z) if name == "sigmoid" else 1 - z**2,
        "derivative of another activation": lambda: DERIVE[another](z),
        "mask reversed": lambda: (z <= 0) * 1.0,
        "slopes swapped": lambda: np.where(z > 0, 0.01, 1.0),
        "derivative twice": lambda: due**2,
        "divided by the derivative": lambda: 1 / due,
        "square wrong": lambda: (1 - a) ** 2,
        "sign inside": lambda: a * (1 + a) if name == "sigmoid" else 1 + a**2,
        "second derivative": lambda: (
            a * (1 - a) * (1 - 2 * a) if name == "sigmoid" else a * (1 - a**2)
        ),
        "derivative at another layer": lambda: DERIVE[name](Z[other]),
        "activation once more": lambda: a * due,
        "mask of the delta": lambda: (back > 0) * 1.0,
        "hidden sign": lambda: -due,
        "hidden factor": lambda: 3 * due,
    }
    return made[bug]() if bug in made else due


def _arrays(net, bug, k, A, Z, delta, passed, deltas, params):
    inputs, own = A[k], delta
    if bug == "examples for activations":
        inputs = A[0]
    if bug == "before the activation":
        inputs = Z[k - 1]
    if bug == "activations of another layer":
        inputs = A[next(j for j in range(1, len(A)) if j != k and A[j].shape == A[k].shape)]
    if bug == "inputs left out":
        inputs = np.ones_like(A[k])
    if bug == "delta before its derivative in the weights":
        own = passed
    dW, db = inputs.T @ own, delta.sum(axis=0)
    if bug == "gradient transposed":
        dW = dW.T
    if bug == "weights never trained":
        dW = 0 * dW
    if bug == "bias never trained":
        db = 0 * db
    if bug == "bias summed over the units":
        db = np.full_like(db, delta.sum())
    if bug == "delta before its derivative in the bias":
        db = passed.sum(axis=0)
    if bug == "sign of the bias":
        db = -db
    if bug == "bias summed from the weights":
        db = dW.sum(axis=0)
    if bug == "bias twice":
        db = 2 * db
    if bug == "weights halved":
        dW = dW / 2
    return dW, db


@dataclass
class Kind:
    """A mistake, what the audit may call it, and the networks in which it can be made.

    `place`: output, hidden (one or all hidden layers), array (one layer) or whole.
    """

    names: tuple[str, ...]
    place: str
    fits: Callable = lambda net, k: True
    decay: float = 0.0


def _ends(*ends):
    return lambda net, k: net.end in ends


def _is(*activations):
    return lambda net, k: net.activation in activations


def _same(net, k):
    """Another hidden layer of the same size; all layers of the small square networks have it."""
    return net.sizes[1:-1].count(net.sizes[k + 1]) > 1


def _is_square(net, k):
    return k + 2 < len(net.sizes) and net.sizes[k + 1] == net.sizes[k + 2]


S, B, Q = "softmax", "binary", "squared"
_SMOOTH = ("sigmoid", "tanh")
KINDS = {
    "sign": Kind(("sign",), "whole"),
    "twice": Kind(("twice",), "whole"),
    "half": Kind(("half", "outputs minus labels alone"), "whole"),
    "factor": Kind(("factor",), "whole"),
    "summed": Kind(("summed",), "whole"),
    "divided twice": Kind(("divided twice",), "whole"),
    "divided in each layer": Kind(
        ("divided in each layer",), "whole", lambda net, k: net.n_layers > 1
    ),
    "bias summed": Kind(("summed in part",), "whole"),
    "weights summed": Kind(("summed in part",), "whole"),
    "only the first example": Kind(("only the first example",), "whole"),
    "only the last example": Kind(("only the last example",), "whole"),
    "accumulates": Kind(("accumulates",), "whole"),
    "changes params": Kind(("changes params",), "whole"),
    "another forward pass": Kind(
        ("another forward pass",), "whole", lambda net, k: net.n_layers > 1
    ),
    "no bias in the forward pass": Kind(("another forward pass",), "whole"),
    "weight decay left out": Kind(("weight decay left out",), "whole", decay=0.02),
    "weight decay of another size": Kind(("weight decay of another size",), "whole", decay=0.02),
    "weight decay in the gradient alone": Kind(("weight decay in the gradient alone",), "whole"),
    "labels left out": Kind(("labels left out",), "output"),
    "outputs left out": Kind(("outputs left out",), "output"),
    "labels swapped": Kind(("labels swapped",), "output", _ends(S, B)),
    "labels added": Kind(("labels added",), "output"),
    "labels in reverse order": Kind(("labels in reverse order",), "output"),
    "labels of the next example": Kind(("labels of the next example",), "output"),
    "derivative of the outputs once more": Kind(
        ("derivative of the outputs once more", "gradient of another loss"), "output", _ends(S, B)
    ),
    "derivative of the outputs left out": Kind(
        ("derivative of the outputs left out",), "output", _ends(S, B)
    ),
    "before the outputs": Kind(
        ("before the outputs", "gradient of another loss"), "output", _ends(S, B)
    ),
    "decisions for outputs": Kind(("decisions for outputs",), "output", _ends(S, B)),
    "gradient of another loss": Kind(
        ("gradient of another loss", "derivative of the outputs once more"), "output", _ends(B)
    ),
    "outputs of another kind": Kind(
        ("outputs of another kind", "gradient of another loss"), "output"
    ),
    "softmax over the batch": Kind(("softmax over the batch",), "output", _ends(S)),
    "softmax over everything": Kind(("softmax over everything",), "output", _ends(S)),
    "softmax twice": Kind(("softmax twice",), "output", _ends(S)),
    "only the labelled output": Kind(("only the labelled output",), "output", _ends(S)),
    "absolute difference": Kind(("absolute difference",), "output"),
    "sign of the difference": Kind(
        ("sign of the difference", "gradient of another loss"), "output"
    ),
    "squared difference": Kind(("squared difference",), "output"),
    "no derivative": Kind(("no derivative",), "hidden"),
    "sigmoid of the activation": Kind(("sigmoid of the activation",), "hidden"),
    "factor lost: a": Kind(("factor lost",), "hidden", _is(*_SMOOTH)),
    "factor lost: 1 - a": Kind(("factor lost", "square wrong"), "hidden", _is(*_SMOOTH)),
    "derivative of the activation's own value": Kind(
        ("derivative of the activation's own value",), "hidden", _is(*_SMOOTH)
    ),
    "input for activation": Kind(("input for activation",), "hidden", _is(*_SMOOTH)),
    "derivative of another activation": Kind(("derivative of another activation",), "hidden"),
    "mask reversed": Kind(("mask reversed",), "hidden", _is("relu")),
    "slopes swapped": Kind(("slopes swapped",), "hidden", _is("leaky relu")),
    "derivative twice": Kind(("derivative twice",), "hidden", _is(*_SMOOTH, "leaky relu")),
    "divided by the derivative": Kind(
        ("divided by the derivative", "slopes swapped"), "hidden", _is(*_SMOOTH, "leaky relu")
    ),
    "square wrong": Kind(("square wrong",), "hidden", _is(*_SMOOTH)),
    "sign inside": Kind(("sign inside",), "hidden", _is(*_SMOOTH)),
    "second derivative": Kind(("second derivative",), "hidden", _is(*_SMOOTH)),
    "activation once more": Kind(
        ("activation once more", "second derivative"), "hidden", _is(*_SMOOTH)
    ),
    "mask of the delta": Kind(("mask of the delta",), "hidden", _is("relu")),
    "derivative at another layer": Kind(("derivative at another layer",), "hidden", _same),
    "hidden sign": Kind(("sign", "factor", "sign and factor"), "hidden"),
    "hidden factor": Kind(("factor",), "hidden"),
    "weights not transposed": Kind(("weights not transposed",), "hidden", _is_square),
    "weights left out": Kind(("weights left out",), "hidden", _is_square),
    "weights of another layer": Kind(
        ("weights of another layer",),
        "hidden",
        lambda net, k: [*pairwise(net.sizes)].count(net.sizes[k + 1 : k + 3]) > 1,
    ),
    "sign of the weights lost": Kind(("sign of the weights lost",), "hidden"),
    "delta of another layer": Kind(
        ("delta of another layer",),
        "hidden",
        lambda net, k: k + 3 < len(net.sizes) and net.sizes[k + 3] == net.sizes[k + 2],
    ),
    "delta before its derivative": Kind(
        ("delta before its derivative",), "hidden", lambda net, k: k > 0
    ),
    "examples for activations": Kind(
        ("examples for activations",), "array", lambda net, k: k and net.sizes[0] == net.sizes[k]
    ),
    "before the activation": Kind(("before the activation",), "array", lambda net, k: k > 0),
    "activations of another layer": Kind(
        ("activations of another layer",),
        "array",
        lambda net, k: k and net.sizes[1:-1].count(net.sizes[k]) > 1,
    ),
    "inputs left out": Kind(("inputs left out",), "array"),
    "gradient transposed": Kind(
        ("gradient transposed",), "array", lambda net, k: net.sizes[k] == net.sizes[k + 1]
    ),
    "weights never trained": Kind(("zero",), "array"),
    "bias never trained": Kind(("zero",), "array"),
    "bias summed over the units": Kind(
        ("summed over the units",),
        "array",
        lambda net, k: net.sizes[k + 1] > 1 and (net.end != "softmax" or k < net.n_layers - 1),
    ),
    "delta before its derivative in the bias": Kind(
        ("delta before its derivative",), "array", lambda net, k: k < net.n_layers - 1
    ),
    "delta before its derivative in the weights": Kind(
        ("delta before its derivative",), "array", lambda net, k: k < net.n_layers - 1
    ),
    "bias summed from the weights": Kind(("summed from the weights",), "array"),
    "sign of the bias": Kind(("sign",), "array"),
    "bias twice": Kind(("twice",), "array"),
    "weights halved": Kind(("half",), "array"),
    "shape": Kind(("shape",), "array"),
}


def random_net(random, *, squarish=False, depth=None, decay=0.0):
    depth = depth if depth is not None else random.randint(1, 5)
    width = random.randint(2, 6)
    hidden = (width,) * depth if squarish else tuple(random.randint(2, 7, size=depth))
    end = ENDS[random.randint(3)]
    n_in = width if squarish and random.rand() < 0.7 else random.randint(2, 8)
    n_out = width if squarish else random.randint(1, 5)
    activation = list(APPLY)[random.randint(4)]
    n_out = max(n_out, 2) if end == "softmax" else n_out
    return Net(activation, end, (n_in, *map(int, hidden), int(n_out)), decay)


def plant(name, random):
    """A random network with the mistake: net, and the layers that have it."""
    kind = KINDS[name]
    while True:
        net = random_net(random, squarish=random.rand() < 0.5, decay=kind.decay)
        hidden = range(net.n_layers - 1)
        places = {
            "whole": [-1],
            "output": [-1],
            "hidden": [k for k in hidden if kind.fits(net, k)],
            "array": [k for k in range(net.n_layers) if kind.fits(net, k)],
        }[kind.place]
        if kind.place in ("whole", "output") and not kind.fits(net, 0):
            continue
        if places:
            is_all = kind.place == "hidden" and random.rand() < 0.5 and "before" not in name
            return net, places if is_all else [places[random.randint(len(places))]]


def draw(net, random, n=6):
    params = [(random.randn(a, b) / np.sqrt(a), np.zeros(b)) for a, b in pairwise(net.sizes)]
    X = random.randn(n, net.sizes[0])
    if net.end == "softmax":
        return params, X, np.arange(n) % net.sizes[-1]
    shape = (n, net.sizes[-1])
    y = (random.rand(*shape) < 0.5) * 1.0 if net.end == "binary" else random.randn(*shape)
    if net.end == "binary":
        y[0], y[1] = 0.0, 1.0
    return params, X, y
