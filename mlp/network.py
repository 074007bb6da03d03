"""One network, written to be read: its first weights, its loss and its gradient.

A perceptron with `depth` hidden layers and two outputs under softmax. With `a_0` the features and
`f` the activation,

    a_l = f(a_(l-1) W_l + b_l)        hidden layers, l = 1 .. depth
    z   = a_depth W + b               logits, one for each class
    loss_i = -log softmax(z_i)[label_i]

Arrays in, arrays out; nothing here is changed in place. Every array has the dtype of the weights:
a float32 network computes in float32 throughout, only means over examples are taken in float64.
"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlp.config import Initialization, Model, Scheme

N_CLASSES = 2  # three and seven

Array = NDArray[np.floating]
Labels = NDArray[np.uint8]
Activation = Literal["sigmoid", "tanh", "relu"]
Derivative = Literal["exact", "question"]


class Layer(NamedTuple):
    """Weights `W` of shape `(fan_in, fan_out)` and biases `b` of shape `(fan_out,)`."""

    W: Array
    b: Array


Params = tuple[Layer, ...]  # first layer first; gradients have the same form


class Outputs(NamedTuple):
    """What every layer gives: `hidden[l]` of shape `(n, width_l)`, `logits` of shape `(n, 2)`."""

    hidden: tuple[Array, ...]
    logits: Array


def initialize(
    model: Model, initialization: Initialization, *, n_inputs: int, seed: int, dtype: DTypeLike
) -> Params:
    """Draws the first weights; biases are all `initialization.bias`.

    The numbers come from `np.random.RandomState(seed)`, a stream that never changes (NEP 19), first
    layer first, row by row, in float64, and are then cast: a seed gives the same network in both
    dtypes, up to rounding.

    Args:
        n_inputs: features of an example.
        seed: of the stream, 0 to 2**32 - 1.

    Returns:
        `depth + 1` layers, each `W (fan_in, fan_out)` and `b (fan_out,)`.

    Example:
        >>> params = initialize(Model(), Initialization(), n_inputs=784, seed=0, dtype="float64")
        >>> [layer.W.shape for layer in params]
        [(784, 3), (3, 3), (3, 2)]

    References:
        LeCun et al. 1998, "Efficient BackProp" (lecun_normal); Glorot and Bengio 2010,
        "Understanding the difficulty of training deep feedforward neural networks" (glorot_*);
        He et al. 2015, "Delving deep into rectifiers" (he_normal); Saxe et al. 2014, "Exact
        solutions to the nonlinear dynamics of learning" (orthogonal).
    """
    rng = np.random.RandomState(seed)
    sizes = (n_inputs, *model.layer_widths, N_CLASSES)
    return tuple(
        Layer(
            W=np.ascontiguousarray(
                initialization.scale * _draw(rng, initialization.scheme, fan_in, fan_out),
                dtype=dtype,
            ),
            b=np.full(fan_out, initialization.bias, dtype=dtype),
        )
        for fan_in, fan_out in pairwise(sizes)
    )


def forward(params: Params, features: Array, activation: Activation) -> Outputs:
    """What every layer gives for every example.

    Args:
        params: `depth + 1` layers.
        features: `(n, n_inputs)`, in the dtype of the weights.
    """
    hidden: list[Array] = []
    inputs = features
    for layer in params[:-1]:
        inputs = _activate(inputs @ layer.W + layer.b, activation)
        hidden.append(inputs)
    return Outputs(tuple(hidden), inputs @ params[-1].W + params[-1].b)


def example_losses(logits: Array, labels: Labels) -> Array:
    """Cross-entropy of each example under softmax, `(n,)`.

    With two classes the log-sum-exp is `log(1 + exp(z_wrong - z_right))`, whose larger exponent is
    taken out before anything is exponentiated: finite for all logits whose difference is finite.

    Args:
        logits: `(n, 2)`.
        labels: `(n,)`, 0 or 1.

    Example:
        >>> example_losses(np.array([[0.0, 0.0], [1e4, -1e4]]), np.array([0, 1], np.uint8))
        array([6.93147181e-01, 2.00000000e+04])
    """
    losses: Array = np.logaddexp(0, -_margins(logits, labels))
    return losses


def loss(params: Params, features: Array, labels: Labels, activation: Activation) -> float:
    """Mean cross-entropy over the examples, added up in float64: what a loss curve shows."""
    losses = example_losses(forward(params, features, activation).logits, labels)
    return float(np.mean(losses, dtype=np.float64))


def gradient(
    params: Params,
    features: Array,
    labels: Labels,
    activation: Activation,
    *,
    derivative: Derivative = "exact",
) -> Params:
    """Sum over the examples of `d loss_i / d params`, by backpropagation.

    With `delta` the derivative of the loss by what enters an activation, `(n, fan_out)`,

        delta_output = softmax(z) - onehot(label)
        delta_l      = (delta_(l+1) W_(l+1)^T) * f'_l
        dW_l         = a_(l-1)^T delta_l,    db_l = column sums of delta_l

    Args:
        params: `depth + 1` layers.
        features: `(n, n_inputs)`, in the dtype of the weights.
        labels: `(n,)`, 0 or 1.
        derivative: `exact`, or `question`: `1 - sigmoid(a)` in the place of `a (1 - a)`, although
            `a` has been through the sigmoid already. The latter goes with sigmoid only.

    Raises:
        ValueError: for the question's derivative with another activation than sigmoid.

    References:
        Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors".
    """
    hidden, logits = forward(params, features, activation)
    delta = _output_delta(logits, labels)
    grads: list[Layer] = []
    for index in reversed(range(len(params))):
        inputs = hidden[index - 1] if index > 0 else features
        grads.append(Layer(W=inputs.T @ delta, b=delta.sum(axis=0)))
        if index > 0:
            delta = (delta @ params[index].W.T) * _slope(inputs, activation, derivative)
    return tuple(reversed(grads))


def accuracy(params: Params, features: Array, labels: Labels, activation: Activation) -> float:
    """Share of the examples whose likelier class is the right one, 0 to 1.

    Where both are equally likely, it is class 0.
    """
    logits = forward(params, features, activation).logits
    return float(np.mean((logits[:, 1] > logits[:, 0]) == labels))


def _draw(rng: np.random.RandomState, scheme: Scheme, fan_in: int, fan_out: int) -> Array:
    """Weights of one layer in float64, `(fan_in, fan_out)`, for a scale of 1."""
    shape = (fan_in, fan_out)
    match scheme:
        case "lecun_normal":
            return rng.standard_normal(shape) / math.sqrt(fan_in)
        case "glorot_normal":
            return rng.standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))
        case "he_normal":
            return rng.standard_normal(shape) * math.sqrt(2 / fan_in)
        case "normal":
            return rng.standard_normal(shape)
        case "glorot_uniform":
            return rng.uniform(-1, 1, shape) * math.sqrt(6 / (fan_in + fan_out))
        case "uniform":
            return rng.uniform(-1, 1, shape)
        case "orthogonal":
            return _draw_orthogonal(rng, fan_in, fan_out)
        case "zeros":
            return np.zeros(shape)


def _draw_orthogonal(rng: np.random.RandomState, fan_in: int, fan_out: int) -> Array:
    """Orthonormal columns, or rows where there are fewer rows than columns."""
    shape = (max(fan_in, fan_out), min(fan_in, fan_out))
    Q, R = np.linalg.qr(rng.standard_normal(shape))
    # Without the signs Q would not be uniformly distributed (Mezzadri 2007, arXiv:math-ph/0609050).
    Q = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
    return Q if fan_in >= fan_out else Q.T


def _activate(z: Array, activation: Activation) -> Array:
    match activation:
        case "sigmoid":
            return _sigmoid(z)
        case "tanh":
            return np.tanh(z)
        case "relu":
            return np.maximum(z, 0)


def _slope(a: Array, activation: Activation, derivative: Derivative) -> Array:
    """The derivative of the activation, from its value `a`; that of relu at 0 is 0."""
    match activation, derivative:
        case "sigmoid", "exact":
            return a * (1 - a)
        case "sigmoid", "question":
            return 1 - _sigmoid(a)
        case "tanh", "exact":
            return 1 - a * a
        case "relu", "exact":
            return (a > 0).astype(a.dtype)
    raise ValueError(
        f"derivative={derivative!r} goes with activation='sigmoid' only, but that is {activation!r}"
    )


def _sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), exponentiating nothing above 0, so that nothing overflows."""
    small: Array = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)


def _margins(logits: Array, labels: Labels) -> Array:
    """By how much the right class's logit is above the wrong one's, `(n,)`."""
    difference: Array = logits[:, 1] - logits[:, 0]
    return np.where(labels == 1, difference, -difference)


def _output_delta(logits: Array, labels: Labels) -> Array:
    """softmax(z) - onehot(label), `(n, 2)`: the wrong class's probability, and its negative.

    Written so, a confident network's delta does not vanish in the rounding of p - 1.
    """
    wrong = _sigmoid(-_margins(logits, labels))
    is_right = np.arange(N_CLASSES) == labels[:, None]
    return np.where(is_right, -wrong[:, None], wrong[:, None])
