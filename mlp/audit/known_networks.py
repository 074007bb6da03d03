"""Networks and losses that are known by their formulas, and which of them a loss is.

A loss is known when its values at random weights are those of a formula. Then all that stands
between the examples and the loss can be written down: `z` (what goes into an activation), `a`
(what comes out), `p` (the outputs) and the delta of each layer (the derivative of the loss by `z`).

A formula is a text, as one would write it in the code: what is computed is what is shown.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layers = list[tuple[Array, Array]]  # W (inputs, outputs) and b (outputs,), first layer first


def vector(layers: Layers) -> Array:
    """All numbers of some layers, one after the other."""
    return np.concatenate([part.ravel() for pair in layers for part in pair])


def logistic(z: Array) -> Array:
    """1 / (1 + exp(-z))."""
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def softmax(z: Array, axis: int | None = 1) -> Array:
    """Exponentials over their sum: of each example, of each output (axis 0), or of all (None)."""
    powers = np.exp(z - z.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


_FUNCTIONS = vars(np) | {"sigmoid": logistic, "softmax": softmax}


@functools.cache
def _compiled(text: str) -> CodeType:
    return compile(text, "formula", "eval")


def value_of(text: str, **arrays: Array) -> Array:
    """What one of this package's formulas gives.

    Example:
        >>> value_of("where(z > 0, 1, 0.01)", z=np.array([-1.0, 1.0]))
        array([0.01, 1.  ])
    """
    return np.asarray(eval(_compiled(text), _FUNCTIONS, arrays), dtype=np.float64)


def written(text: str, *, a: str, z: str) -> str:
    """A formula with other names for `a` and `z`.

    Example:
        >>> written("1 - tanh(a)**2 * z", a="a1", z="z1")
        '1 - tanh(a1)**2 * z1'
    """
    return re.sub(r"\b[az]\b", lambda name: a if name[0] == "a" else z, text)


# Name -> `a` of z, and its derivative of z and a.
ACTIVATIONS = {
    "sigmoid": ("sigmoid(z)", "a * (1 - a)"),
    "tanh": ("tanh(z)", "1 - a**2"),
    "relu": ("maximum(z, 0)", "(z > 0)"),
    "leaky relu": ("where(z > 0, z, 0.01 * z)", "where(z > 0, 1, 0.01)"),
    "leaky relu 0.1": ("where(z > 0, z, 0.1 * z)", "where(z > 0, 1, 0.1)"),
    "leaky relu 0.2": ("where(z > 0, z, 0.2 * z)", "where(z > 0, 1, 0.2)"),
    "leaky relu 0.3": ("where(z > 0, z, 0.3 * z)", "where(z > 0, 1, 0.3)"),
    "linear": ("z", "1"),
    "softplus": ("logaddexp(0, z)", "sigmoid(z)"),
    "elu": ("where(z > 0, z, expm1(minimum(z, 0)))", "where(z > 0, 1, exp(z))"),
}
_OFTEN = ("sigmoid", "tanh", "relu", "leaky relu", "linear")  # mixed freely within a network
# Name -> outputs `p` of z.
OUTPUTS = {
    "softmax": "softmax(z)",
    **{name: ACTIVATIONS[name][0] for name in ("sigmoid", "linear", "tanh", "relu")},
    "softmax over the batch": "softmax(z, 0)",
    "softmax over everything": "softmax(z, None)",
}
# Name -> costs of p and y, an entry an output; and their derivative by p.
COSTS = {
    "cross-entropy": ("-y * log(p)", "-y / p"),
    "binary cross-entropy": (
        "-y * log(p) - (1 - y) * log(1 - p)",
        "(1 - y) / (1 - p) - y / p",
    ),
    "squared error": ("(p - y)**2", "2 * (p - y)"),
    "absolute error": ("abs(p - y)", "sign(p - y)"),
}


def output_delta(output: str, cost: str, z: Array, p: Array, y: Array) -> Array:
    """Derivative by z of the costs summed over outputs and examples, (example, output).

    Example:
        >>> z, y = np.array([[0.0, 0.0]]), np.array([[1.0, 0.0]])
        >>> output_delta("softmax", "cross-entropy", z, np.array([[0.5, 0.5]]), y)
        array([[-0.5,  0.5]])
    """
    by_p = value_of(COSTS[cost][1], p=p, y=y)
    if output.startswith("softmax"):
        axis = {"softmax": 1, "softmax over the batch": 0}.get(output)
        return np.asarray(p * (by_p - (by_p * p).sum(axis=axis, keepdims=True)))
    return by_p * value_of(ACTIVATIONS[output][1], z=z, a=p)


@dataclass(frozen=True)
class KnownNetwork:
    """The formula of a loss.

    Attributes:
        activations: of the hidden layers, first first.
        factor: what the costs summed over outputs are multiplied with, beside the mean.
        is_mean: whether the loss is the mean over the examples; else their sum.
        decay: what the sum of squared weights is multiplied with.
        is_biased: whether the biases are added.
    """

    activations: tuple[str, ...]
    output: str
    cost: str
    factor: float = 1.0
    is_mean: bool = True
    decay: float = 0.0
    is_biased: bool = True

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
        gradient: what the audited program gives for these examples; empty: it was not asked.
    """

    network: KnownNetwork
    layers: Layers
    inputs: list[Array]
    z: list[Array]
    p: Array
    y: Array
    gradient: Layers

    def output_delta(self) -> Array:
        """Of each example, as if it were alone, with the factor of the loss."""
        network = self.network
        return network.factor * output_delta(
            network.output, network.cost, self.z[-1], self.p, self.y
        )

    def of_units(self, text: str, layer: int) -> Array:
        """A formula of the `a` and `z` of a hidden layer (0 is the first), (example, unit)."""
        z = self.z[layer]
        return np.broadcast_to(value_of(text, z=z, a=self.inputs[layer + 1]), z.shape)

    def derivative(self, layer: int) -> Array:
        """Of the activation of a hidden layer, (example, unit)."""
        return self.of_units(ACTIVATIONS[self.network.activations[layer]][1], layer)


def forward_pass(
    network: KnownNetwork, layers: Layers, X: Array, y: Array, gradient: Layers | None = None
) -> ForwardPass:
    """All that stands between examples and loss; X is (example, input), y (example, output)."""
    if not network.is_biased:
        layers = [(W, np.zeros_like(b)) for W, b in layers]
    inputs, z = _through(network.activations, layers, X)
    p = value_of(OUTPUTS[network.output], z=z[-1])
    return ForwardPass(network, layers, inputs, z, p, y, gradient or [])


def _through(
    activations: Sequence[str], layers: Layers, X: Array
) -> tuple[list[Array], list[Array]]:
    """The inputs and the z of each layer."""
    inputs, z = [X], []
    for (W, b), name in itertools.zip_longest(layers, activations):
        z.append(inputs[-1] @ W + b)
        if name:
            inputs.append(value_of(ACTIVATIONS[name][0], z=z[-1]))
    return inputs, z


def right_gradient(at: ForwardPass) -> Layers:
    """Gradient of the loss, in the shape of the layers."""
    delta = at.output_delta() / (len(at.y) if at.network.is_mean else 1)
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
    with np.errstate(all="ignore"):
        for names in _activation_names(len(points[0]) - 1):
            ends = [_through(names, layers, X)[1][-1] for layers in points]
            for output, cost in itertools.product(OUTPUTS, COSTS):
                costs = np.array([_total(output, cost, z, y) for z in ends])
                fitted = _fit(values, costs, squares, tolerance)
                if fitted is None:
                    continue
                factor, decay = fitted
                fewer = _through(names, points[0], X[:-1])[1][-1]
                less = loss(points[0], X[:-1], y[:-1]) - decay * squares[0]
                ratio = less / _total(output, cost, fewer, y[:-1])
                is_mean = bool(abs(ratio - factor) > 1e-3 * abs(factor))
                factor = rounded(factor * len(X) if is_mean else factor)
                return KnownNetwork(names, output, cost, factor, is_mean, decay)
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


def _total(output: str, cost: str, z: Array, y: Array) -> float:
    return float(value_of(COSTS[cost][0], p=value_of(OUTPUTS[output], z=z), y=y).sum())


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


def rounded(factor: float) -> float:
    """Without the error of a fit, where it is a number that one would type."""
    for nice in (1.0, 2.0, 0.5, 0.25, 1 / 3, 0.2, 0.1):
        if abs(abs(factor) - nice) < 1e-4 * nice:
            return nice if factor > 0 else -nice
    return factor
