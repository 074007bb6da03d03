"""What is done to a gradient before the step, and the step itself."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.config import Gradient, Optimizer
from mlp.network import Array, Layer, Params


def normalize(grads_sum: Params, n_examples: int, gradient: Gradient) -> Params:
    """The gradient that the step is taken along.

    - sum: `g`, the sum over the examples, as it is
    - mean: `g / n`
    - unit: `g / |g|` with the L2 norm over all weights and biases together; zero stays zero
    - clip: the mean `m`, cut to `m c / |m|` where its norm is above `c = gradient.clip_norm`

    Args:
        grads_sum: the gradient of the summed loss, as `network.gradient` gives it.
        n_examples: how many examples were summed over, 1 or more.
        gradient: which of the four, and the norm that `clip` cuts to.

    Returns:
        As `grads_sum`, in the same dtype. Norms, and divisions by them, are computed in float64
        relative to the largest entry, so that none overflows or vanishes in either dtype.

    Example:
        >>> grads = (Layer(W=np.array([[3.0]]), b=np.array([4.0])),)
        >>> normalize(grads, 10, Gradient(normalization="unit"))[0].b
        array([0.8])

    References:
        Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks"
        (clip).
    """
    match gradient.normalization:
        case "sum":
            return grads_sum
        case "mean":
            return _mean(grads_sum, n_examples)
        case "unit":
            return _with_norm(grads_sum, 1.0)
        case "clip":
            mean = _mean(grads_sum, n_examples)
            is_long = global_norm(mean) > gradient.clip_norm
            return _with_norm(mean, gradient.clip_norm) if is_long else mean


def global_norm(grads: Params) -> float:
    """L2 norm over all weights and biases together; 0 or more.

    Example:
        >>> global_norm((Layer(W=np.array([[3.0]]), b=np.array([4.0])),))
        5.0
    """
    largest, root = _largest_and_root(grads)
    return largest * root


def rate_share(optimizer: Optimizer, step: ArrayLike, steps: int) -> NDArray[np.float64]:
    """The share of the learning rate that an update is made with, 0 to 1.

    - none: 1 always
    - cosine: `(1 + cos(pi step / steps)) / 2`, which falls from 1 to 0

    Args:
        step: any shape, the number of updates done before, 0 to `steps`.
        steps: of the training, 1 or more.

    Example:
        >>> rate_share(Optimizer(decay="cosine"), [0, 50, 75], 100).round(3).tolist()
        [1.0, 0.5, 0.146]

    References:
        Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts" (cosine;
        here there is no restart).
    """
    done = np.asarray(step, np.float64) / steps
    if optimizer.decay == "none":
        return np.ones_like(done)
    return np.square(np.cos(np.pi / 2 * done))  # the same, without a difference that rounds to 0


def descend(
    params: Params, velocity: Params, grads: Params, optimizer: Optimizer, *, share: float = 1.0
) -> tuple[Params, Params]:
    """One update: `v = momentum v + g`, `w = w - share learning_rate v`.

    Args:
        params: the weights `w`.
        velocity: `v`; zeros before the first update.
        grads: the normalized gradient `g`, as `normalize` gives it.
        share: of the learning rate at this step, as `rate_share` gives it.

    Returns:
        The weights and the velocity after it.

    Example:
        >>> one = (Layer(W=np.array([[1.0]]), b=np.array([0.0])),)
        >>> zero = (Layer(W=np.array([[0.0]]), b=np.array([0.0])),)
        >>> params, velocity = descend(one, zero, one, Optimizer(learning_rate=0.25))
        >>> params[0].W
        array([[0.75]])

    References:
        Polyak 1964, "Some methods of speeding up the convergence of iteration methods".
    """
    momentum, learning_rate = optimizer.momentum, share * optimizer.rate
    velocity = tuple(
        Layer(momentum * v.W + g.W, momentum * v.b + g.b)
        for v, g in zip(velocity, grads, strict=True)
    )
    params = tuple(
        Layer(w.W - learning_rate * v.W, w.b - learning_rate * v.b)
        for w, v in zip(params, velocity, strict=True)
    )
    return params, velocity


def _mean(grads_sum: Params, n_examples: int) -> Params:
    return tuple(Layer(layer.W / n_examples, layer.b / n_examples) for layer in grads_sum)


def _with_norm(grads: Params, norm: float) -> Params:
    """The gradient stretched to this norm; a zero gradient has no direction and stays zero."""
    largest, root = _largest_and_root(grads)
    if largest == 0:
        return grads

    def stretched(entries: Array) -> Array:
        in_units = entries.astype(np.float64) / largest
        return (in_units * (norm / root)).astype(entries.dtype)

    return tuple(Layer(stretched(layer.W), stretched(layer.b)) for layer in grads)


def _largest_and_root(grads: Params) -> tuple[float, float]:
    """The largest absolute entry, and the norm in units of it (0 for a zero gradient)."""
    arrays = [entries.astype(np.float64) for layer in grads for entries in layer]
    largest = max(float(np.max(np.abs(entries))) for entries in arrays)
    if largest == 0:
        return 0.0, 0.0
    squares = [float(np.sum(np.square(entries / largest))) for entries in arrays]
    return largest, math.sqrt(sum(squares))
