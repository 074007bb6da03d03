"""Networks and losses that are known by their formulas, and which of them a loss is.

A loss is known when its values at random weights are those of a formula. Then all that stands
between the examples and the loss can be written down: `z` (what goes into an activation), `a`
(what comes out), `p` (the outputs) and the delta of each layer (the derivative of the loss by `z`).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layers = list[tuple[Array, Array]]  # W (inputs, outputs) and b (outputs,), first layer first


def logistic(z: Array) -> Array:
    """1 / (1 + exp(-z))."""
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


@dataclass(frozen=True)
class Activation:
    """A function of each unit.

    Attributes:
        apply: z to a.
        derivative: of z and a.
        text: the derivative as one would write it; `{a}` and `{z}` stand for the layer's own names.
    """

    apply: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]
    text: str


def _leaky(slope: float) -> Activation:
    return Activation(
        lambda z: np.where(z > 0, z, slope * z),
        lambda z, _: np.where(z > 0, 1.0, slope),
        f"where({{z}} > 0, 1, {slope:g})",
    )


ACTIVATIONS = {
    "sigmoid": Activation(logistic, lambda _, a: a * (1 - a), "{a} * (1 - {a})"),
    "tanh": Activation(np.tanh, lambda _, a: 1 - a**2, "1 - {a}**2"),
    "relu": Activation(
        lambda z: np.maximum(z, 0), lambda z, _: (z > 0).astype(np.float64), "({z} > 0)"
    ),
    "leaky relu": _leaky(0.01),
    "leaky relu 0.1": _leaky(0.1),
    "leaky relu 0.2": _leaky(0.2),
    "leaky relu 0.3": _leaky(0.3),
    "linear": Activation(lambda z: z, lambda z, _: np.ones_like(z), "1"),
    "softplus": Activation(lambda z: np.logaddexp(0, z), lambda z, _: logistic(z), "sigmoid({z})"),
    "elu": Activation(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        lambda z, _: np.where(z > 0, 1.0, np.exp(np.minimum(z, 0))),
        "where({z} > 0, 1, exp({z}))",
    ),
}
_OFTEN = ("sigmoid", "tanh", "relu", "leaky relu", "linear")  # mixed freely within a network


def softmax(z: Array, axis: int | None = 1) -> Array:
    """Exponentials over their sum: of each example, of each output (axis 0), or of all (None)."""
    powers = np.exp(z - z.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


# Name -> outputs p of z.
OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "softmax": softmax,
    "sigmoid": logistic,
    "linear": lambda z: z,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "softmax over the batch": lambda z: softmax(z, 0),
    "softmax over everything": lambda z: softmax(z, None),
}
# Name -> costs of p and y, an entry an output; and their derivatives by p.
COSTS: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]] = {
    "cross-entropy": (lambda p, y: -y * np.log(p), lambda p, y: -y / p),
    "binary cross-entropy": (
        lambda p, y: -y * np.log(p) - (1 - y) * np.log(1 - p),
        lambda p, y: (1 - y) / (1 - p) - y / p,
    ),
    "squared error": (lambda p, y: (p - y) ** 2, lambda p, y: 2 * (p - y)),
    "absolute error": (lambda p, y: np.abs(p - y), lambda p, y: np.sign(p - y)),
}


def output_delta(output: str, cost: str, z: Array, p: Array, y: Array) -> Array:
    """Derivative by z of the costs summed over outputs and examples, (example, output).

    Example:
        >>> z, y = np.array([[0.0, 0.0]]), np.array([[1.0, 0.0]])
        >>> output_delta("softmax", "cross-entropy", z, np.array([[0.5, 0.5]]), y)
        array([[-0.5,  0.5]])
    """
    by_p = COSTS[cost][1](p, y)
    if output.startswith("softmax"):
        axis = {"softmax": 1, "softmax over the batch": 0}.get(output)
        return np.asarray(p * (by_p - (by_p * p).sum(axis=axis, keepdims=True)))
    factor = {
        "sigmoid": p * (1 - p),
        "tanh": 1 - p**2,
        "relu": (z > 0).astype(np.float64),
        "linear": np.ones_like(z),
    }
    return np.asarray(by_p * factor[output])


@dataclass(frozen=True)
class KnownNetwork:
    """The formula of a loss.

    Attributes:
        activations: of the hidden layers, first first.
        factor: what the costs summed over outputs are multiplied with, beside the mean.
        is_mean: whether the loss is the mean over the examples; else their sum.
        decay: what the sum of squared weights is multiplied with.
    """

    activations: tuple[str, ...]
    output: str
    cost: str
    factor: float = 1.0
    is_mean: bool = True
    decay: float = 0.0

    @property
    def text(self) -> str:
        """Such as `sigmoid, sigmoid, then softmax with cross-entropy, mean over the examples`."""
        hidden = f"{', '.join(self.activations)}, then " if self.activations else ""
        reduced = "mean over" if self.is_mean else "sum over"
        decay = ", with weight decay" if self.decay else ""
        return f"{hidden}{self.output} with {self.cost}, {reduced} the examples{decay}"


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """Examples on their way through a network.

    Attributes:
        inputs: of each layer, (example, unit): the examples, then the activations `a`.
        p: the outputs.
        y: the targets, (example, output).
    """

    network: KnownNetwork
    layers: Layers
    inputs: list[Array]
    z: list[Array]
    p: Array
    y: Array

    def output_delta(self) -> Array:
        """Of each example, as if it were alone, with the factor of the loss."""
        network = self.network
        return network.factor * output_delta(
            network.output, network.cost, self.z[-1], self.p, self.y
        )

    def derivative(self, layer: int) -> Array:
        """Of the activation of a hidden layer (0 is the first), (example, unit)."""
        activation = ACTIVATIONS[self.network.activations[layer]]
        return activation.derivative(self.z[layer], self.inputs[layer + 1])


def forward_pass(network: KnownNetwork, layers: Layers, X: Array, y: Array) -> ForwardPass:
    """All that stands between examples and loss; X is (example, input), y (example, output)."""
    inputs, z = [X], []
    for (W, b), name in zip(layers, (*network.activations, ""), strict=True):
        z.append(inputs[-1] @ W + b)
        if name:
            inputs.append(ACTIVATIONS[name].apply(z[-1]))
    return ForwardPass(network, layers, inputs, z, OUTPUTS[network.output](z[-1]), y)


def right_gradient(at: ForwardPass) -> Layers:
    """Gradient of the loss, in the shape of the layers."""
    n = len(at.y)
    delta = at.output_delta() / (n if at.network.is_mean else 1)
    gradient = []
    for layer in reversed(range(len(at.layers))):
        W = at.layers[layer][0]
        dW = at.inputs[layer].T @ delta + 2 * at.network.decay * W
        gradient.append((dW, delta.sum(axis=0)))
        if layer:
            delta = (delta @ W.T) * at.derivative(layer - 1)
    return gradient[::-1]


def recognise(
    loss: Callable[[Layers, Array, Array], float],
    points: Sequence[Layers],
    X: Array,
    y: Array,
    *,
    tolerance: float,
) -> KnownNetwork | None:
    """The network whose formula gives these losses, or None.

    Args:
        loss: of layers, X (example, input) and y (example, output).
        points: at least five random weights.
        tolerance: relative, of the losses.
    """
    values = np.array([loss(layers, X, y) for layers in points])
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    squares = np.array([sum(float((W**2).sum()) for W, _ in layers) for layers in points])
    n_hidden = len(points[0]) - 1
    with np.errstate(all="ignore"):
        for names in _activation_names(n_hidden):
            ends = [_hidden(names, layers, X) for layers in points]
            for output, cost in itertools.product(OUTPUTS, COSTS):
                costs = _sums(output, cost, ends, y)
                fitted = _fit(values, costs, squares, tolerance)
                if fitted is None:
                    continue
                part = X[:-1], y[:-1]
                fewer = _sums(output, cost, [_hidden(names, points[0], part[0])], part[1])[0]
                less = loss(points[0], *part) - fitted[1] * squares[0]
                is_mean = bool(abs(less / fewer - fitted[0]) > 1e-3 * abs(fitted[0]))
                factor = fitted[0] * len(X) if is_mean else fitted[0]
                return KnownNetwork(names, output, cost, _rounded(factor), is_mean, fitted[1])
    return None


def _activation_names(n_hidden: int) -> Iterator[tuple[str, ...]]:
    """The same in all layers first."""
    if not n_hidden:
        yield ()
        return
    for name in ACTIVATIONS:
        yield (name,) * n_hidden
    if n_hidden <= 4:
        for names in itertools.product(_OFTEN, repeat=n_hidden):
            if len(set(names)) > 1:
                yield names


def _hidden(names: tuple[str, ...], layers: Layers, X: Array) -> Array:
    for (W, b), name in zip(layers[:-1], names, strict=True):
        X = ACTIVATIONS[name].apply(X @ W + b)
    W, b = layers[-1]
    return X @ W + b


def _sums(output: str, cost: str, ends: Sequence[Array], y: Array) -> Array:
    return np.array([COSTS[cost][0](OUTPUTS[output](z), y).sum() for z in ends])


def _fit(
    values: Array, costs: Array, squares: Array, tolerance: float
) -> tuple[float, float] | None:
    """Factor of the costs and of the squared weights, where they give the values."""
    if not np.isfinite(costs).all():
        return None
    for columns in (costs[:, None], np.stack([costs, squares], axis=1)):
        fitted = np.linalg.lstsq(columns, values, rcond=None)[0]
        misfit = np.abs(columns @ fitted - values).max()
        if misfit <= tolerance * np.abs(values).max() and fitted[0] > 0:
            return float(fitted[0]), float(fitted[1]) if fitted.size > 1 else 0.0
    return None


def _rounded(factor: float) -> float:
    """Without the error of the fit: formulas have factors such as 1/2."""
    for nice in (1.0, 0.5, 2.0, 0.25, 1 / 3, 0.2, 0.1):
        if abs(factor - nice) < 1e-5 * nice:
            return nice
    return factor
