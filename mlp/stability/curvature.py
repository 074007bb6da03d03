"""The leading curvature of one network, by exact products, written to be read.

The curvature of the mean training loss is its Hessian `H`; the sharpness is the largest eigenvalue.
The matrix itself is never built: products `H v` are exact and cost about two gradients (Pearlmutter
1994), and some tens of them give the largest eigenvalue (Lanczos 1950). Negative curvature does not
count, however large: a step along it only leads downhill. No sharpness is below 0: the loss depends
on the difference of the two outputs alone, so there is always a flat direction.

With the question's derivative, the direction `g` is no gradient of any loss. Its Jacobian takes the
Hessian's place: it is not symmetric, and has complex eigenvalues. The spectral radius, the largest
modulus among them, takes the sharpness's place (Arnoldi 1951). The update `w - s g(w)` multiplies
small deviations by `1 - s mu`, and `|1 - s mu| >= s |mu| - 1`: where `s` is above 2 over the
spectral radius, some deviation grows. Below, one may grow as well.

A network here is a list of matrices `M_l (fan_out, fan_in + 1)`, the last column being the biases,
and activations are `A_l (units, rows)` with a last row of ones. The two outputs are one: with `p`
the difference of their weights over sqrt(2), which is as long a step as the two weights take, the
difference of the logits is `sqrt(2) p A`. What is left out, the pixels that are zero everywhere and
the outputs' common part, has no curvature.

References:
    Pearlmutter 1994, "Fast exact multiplication by the Hessian" (the R-operator).
    Lanczos 1950, "An iteration method for the solution of the eigenvalue problem"; Arnoldi 1951,
    "The principle of minimized iterations in the solution of the matrix eigenvalue problem".
    Saad 2011, "Numerical methods for large eigenvalue problems", chapter 6.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp.engine.pixels import Matrix, Pixels
from mlp.network import Activation, Derivative, Params

RESIDUAL = 1e-4  # relative; of a Hessian's eigenvalue the error is at most that, mostly its square
MAX_PRODUCTS = 100  # tens suffice where the largest eigenvalue stands out, as it does here
_LOOK_EVERY = 4  # products from look to look: the small eigenproblem is not free
_NOTHING = 1e-6  # of the largest modulus: a positive curvature below it is told from 0 no closer
_START_SEED = 0  # of the first vector; any will do, but always the same

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Sharpness:
    """The leading curvature at some weights; not finite where the weights or it are not.

    Attributes:
        value: the largest eigenvalue of the Hessian of the mean training loss, 0 or more; with the
            question's derivative the spectral radius of the Jacobian of what stands for its
            gradient.
        gradient_norm: L2 norm of that gradient.
        residual: of the eigenvector, relative to the eigenvalue. A Hessian's eigenvalue errs by no
            more than that.
    """

    value: float
    gradient_norm: float
    residual: float
    n_products: int

    @property
    def converged(self) -> bool:
        """Whether the residual became as small as was asked for."""
        return self.residual <= RESIDUAL


Measurement = Generator[Matrix, Matrix, Sharpness]
"""Yields a matrix and is sent its product with the data, by turns.

First the weights of a first layer, `(units, inputs)`: sent back is what each unit receives from
each example, `(units, rows)`. Then deltas of those units, `(units, rows)`: sent back are their sums
over the examples, `(units, inputs)`. So the products of many networks can be done together.
"""


class _Tangent(NamedTuple):
    """All that a product needs of the weights it is taken at; one entry for each hidden layer."""

    matrices: list[Matrix]  # of the layers above the first, the output's last
    hidden: list[Matrix]  # activations with their row of ones
    slope: list[Matrix]  # of the activation
    factor: list[Matrix]  # what takes the slope's place on the way back; the slope itself if exact
    bend: list[Matrix]  # derivative of the factor by the activation's input, times what comes back
    delta: list[Matrix]  # derivative of the mean loss by each layer's input, the output's last
    kappa: Vector  # (rows,), second derivative of the mean loss by the output


def measure(
    params: Params, activation: Activation, derivative: Derivative, pixels: Pixels
) -> Measurement:
    """Measures one network; see `Measurement` for what is yielded and sent."""
    matrices = _matrices(params, pixels)
    received = yield matrices[0]
    tangent = _tangent(matrices[1:], received, activation, derivative, pixels)
    first = yield tangent.delta[0]
    upper = [d @ a.T for d, a in zip(tangent.delta[1:], tangent.hidden, strict=True)]
    norm = math.sqrt(sum(float(np.vdot(part, part)) for part in (first, *upper)))
    if not math.isfinite(norm):
        return Sharpness(math.nan, norm, math.inf, 0)
    return (yield from _leading(tangent, matrices, norm, derivative == "exact"))


def _matrices(params: Params, pixels: Pixels) -> list[Matrix]:
    (first, *hidden, output) = (
        np.vstack([layer.W, layer.b]).astype(np.float64).T for layer in params
    )
    live = np.append(pixels.live, True)
    return [first[:, live], *hidden, (output[1:] - output[:1]) / math.sqrt(2)]


def _tangent(
    matrices: list[Matrix],
    received: Matrix,
    activation: Activation,
    derivative: Derivative,
    pixels: Pixels,
) -> _Tangent:
    """Forward and backward once, keeping what the products need."""
    hidden, slope, factor, turn = list[Matrix](), list[Matrix](), list[Matrix](), list[Matrix]()
    for matrix in matrices:
        value, own_slope, own_factor, own_turn = _units(received, activation, derivative)
        hidden.append(np.vstack([value, np.ones(pixels.n_rows)]))
        slope.append(own_slope)
        factor.append(own_factor)
        turn.append(own_turn)
        received = matrix @ hidden[-1]
    # As in the engine: the loss is log(1 + exp(u)) with u = side * (logit 1 - logit 0).
    wrong = _logistic(pixels.side * math.sqrt(2) * received[0])
    delta = [(pixels.side * wrong * (math.sqrt(2) / pixels.n_examples))[None]]
    kappa = np.abs(pixels.side) * wrong * (1 - wrong) * (2 / pixels.n_examples)
    bend = []
    for matrix, layer_factor, layer_turn in zip(
        matrices[::-1], factor[::-1], turn[::-1], strict=True
    ):
        back = matrix[:, :-1].T @ delta[-1]
        bend.append(back * layer_turn)
        delta.append(back * layer_factor)
    return _Tangent(matrices, hidden, slope, factor, bend[::-1], delta[::-1], kappa)


def _units(
    received: Matrix, activation: Activation, derivative: Derivative
) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Activations, their slope, the factor in its place, and the factor's derivative."""
    match activation:
        case "sigmoid":
            a = _logistic(received)
            slope = a * _logistic(-received)  # 1 - a would lose it where a is near 1
            if derivative == "question":
                factor = _logistic(-a)
                return a, slope, factor, -factor * (1 - factor) * slope
            return a, slope, slope, slope * (1 - 2 * a)
        case "tanh":
            a = np.tanh(received)
            slope = 1 - a * a
            return a, slope, slope, -2 * a * slope
        case "relu":
            slope = (received > 0).astype(np.float64)
            return received * slope, slope, slope, np.zeros_like(slope)


def _logistic(z: Matrix) -> Matrix:
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, small) / (1 + small))


def _product(tangent: _Tangent, parts: list[Matrix]) -> Generator[Matrix, Matrix, list[Matrix]]:
    """The derivative of the gradient along a direction `V`, exactly.

    With `R` the derivative along `V` (`R A_0 = 0`), `z_l = M_l A_(l-1)` and `f_l` the factor,

        R z_l     = (R A_(l-1)) M_l + V_l A_(l-1),    R A_l = slope_l * R z_l
        R delta_l = (M^T R delta_(l+1) + V^T delta_(l+1)) * f_l + bend_l * R z_l
        R G_l     = R delta_l A_(l-1)^T + delta_l (R A_(l-1))^T

    Args:
        parts: `V`, a matrix for each layer.
    """
    first, *upper = parts
    received = [(yield first)]
    moved = []
    for matrix, direction, hidden, slope in zip(
        tangent.matrices, upper, tangent.hidden, tangent.slope, strict=True
    ):
        moved.append(slope * received[-1])
        received.append(matrix[:, :-1] @ moved[-1] + direction @ hidden)
    back = received.pop() * tangent.kappa
    products: list[Matrix] = []
    for layer in reversed(range(len(upper))):
        matrix, delta = tangent.matrices[layer], tangent.delta[layer + 1]
        product = back @ tangent.hidden[layer].T
        product[:, :-1] += delta @ moved[layer].T
        products.append(product)
        back = matrix[:, :-1].T @ back + upper[layer][:, :-1].T @ delta
        back *= tangent.factor[layer]
        back += tangent.bend[layer] * received[layer]
    products.append((yield back))
    return products[::-1]


def _leading(
    tangent: _Tangent, matrices: list[Matrix], gradient_norm: float, is_symmetric: bool
) -> Measurement:
    """Arnoldi's iteration, which on a symmetric matrix is Lanczos', reorthogonalized in full."""
    shapes = [matrix.shape for matrix in matrices]
    ends = np.cumsum([matrix.size for matrix in matrices])
    most = min(MAX_PRODUCTS, int(ends[-1]))
    basis = np.empty((most + 1, int(ends[-1])))
    start = np.random.RandomState(_START_SEED).standard_normal(int(ends[-1]))
    basis[0] = start / np.linalg.norm(start)
    small = np.zeros((most + 1, most))
    for k in range(1, most + 1):
        split = np.split(basis[k - 1], ends[:-1])
        parts = [part.reshape(shape) for part, shape in zip(split, shapes, strict=True)]
        products = yield from _product(tangent, parts)
        vector = np.concatenate([product.ravel() for product in products])
        length = float(np.linalg.norm(vector))
        if not math.isfinite(length):
            return Sharpness(math.nan, gradient_norm, math.inf, k)
        for _ in range(2):  # once leaves rounding errors that grow from step to step
            along = basis[:k] @ vector
            small[:k, k - 1] += along
            vector -= along @ basis[:k]
        rest = float(np.linalg.norm(vector))
        is_closed = rest <= 1e-13 * length or k == ends[-1]  # the products lead nowhere new
        small[k, k - 1] = 0.0 if is_closed else rest
        if is_closed or k == most or k % _LOOK_EVERY == 0:
            value, residual = _ritz(small[: k + 1, :k], is_symmetric)
            if is_closed or k == most or (residual <= RESIDUAL and k > _LOOK_EVERY):
                return Sharpness(value, gradient_norm, residual, k)
        basis[k] = vector / rest
    raise AssertionError("the last product ends the loop")


def _ritz(small: Matrix, is_symmetric: bool) -> tuple[float, float]:
    """Leading eigenvalue of the projected matrix, and its residual relative to it."""
    square, rest = small[:-1], small[-1, -1]
    if is_symmetric:
        values, vectors = np.linalg.eigh((square + square.T) / 2)
        leading = int(values.argmax())
        value = max(float(values[leading]), 0.0)
    else:
        values, vectors = np.linalg.eig(square)
        leading = int(np.abs(values).argmax())
        value = float(np.abs(values[leading]))
    residual = float(rest * np.abs(vectors[-1, leading]))
    unit = max(value, _NOTHING * float(np.abs(values).max()))
    return value, residual / unit if residual else 0.0
