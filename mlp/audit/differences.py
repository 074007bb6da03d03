"""Derivatives of a loss by differences alone, with the error that they leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlp.audit.known_networks import Array

_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives of some entries.

    Attributes:
        values: central differences, (entry,).
        errors: estimates of what they are off, (entry,).
        is_kink: where the slopes left and right differ, however small the step, (entry,).
        left: slopes below, (entry,).
        right: slopes above, (entry,).
    """

    values: Array
    errors: Array
    is_kink: NDArray[np.bool_]
    left: Array
    right: Array


def slopes(loss: Callable[[Array], float], at: Array, entries: Sequence[int]) -> Slopes:
    """Derivatives by some entries of a vector.

    Of four steps the one is taken whose difference agrees best with that of the next smaller step:
    a large step errs by the curve, a small one by rounding.

    Args:
        loss: of a vector as long as `at`.

    Example:
        >>> found = slopes(lambda w: abs(w[0]) + w[1] ** 3, np.array([0.0, 2.0]), [0, 1])
        >>> found.values.round(6).tolist(), found.is_kink.tolist()
        ([0.0, 12.0], [True, False])
    """
    middle = loss(at)
    rows = [_at_entry(loss, at, entry, middle) for entry in entries]
    columns = list(zip(*rows, strict=True)) or [()] * 5
    values, errors, kinks, left, right = (np.array(column, dtype=np.float64) for column in columns)
    return Slopes(values, errors, kinks.astype(bool), left, right)


def _at_entry(
    loss: Callable[[Array], float], at: Array, entry: int, middle: float
) -> tuple[float, float, bool, float, float]:
    size = max(1.0, abs(float(at[entry])))
    sides = []
    for step in _STEPS:
        ends = []
        for sign in (1, -1):
            moved = at.copy()
            moved[entry] += sign * step * size
            ends.append((loss(moved) - middle) / (moved[entry] - at[entry]))
        sides.append(ends)
    right, left = np.array(sides).T
    central = (right + left) / 2
    off = np.abs(np.diff(central))
    best = int(np.argmin(off + 1e-16))
    gap = np.abs(right - left)
    # A smooth loss closes the gap with the step; at a kink it stays.
    is_kink = bool(gap[1] > 1e-6 + 0.02 * abs(central[1]) and gap[2] > 0.5 * gap[1])
    return float(central[best + 1]), float(off[best]), is_kink, float(left[2]), float(right[2])
