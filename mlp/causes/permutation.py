"""How much of a yes-or-no the groups of runs explain, and how often chance alone explains as much.

Sums of squares as in an analysis of variance, and p-values by permutation. Which runs, and grouped
by what, is for `mlp.causes.association` to say, and how exact each p-value is.
"""

import numpy as np
from numpy.typing import NDArray

_PERMUTATIONS = 4999

Codes = NDArray[np.intp]
"""The group of each run, from 0, `(run,)`."""

Floats = NDArray[np.float64]


def permuted_share(y: Floats, codes: Codes, random: np.random.RandomState) -> tuple[float, float]:
    """The share of y's variance that the groups explain, and the p-value of it under permutation.

    Args:
        y: 0 or 1 for each run, not all the same, `(run,)`.
        codes: the group of each run.
        random: for the permutations.
    """
    shuffled = _shuffled(y, random)
    values = between_groups(np.vstack([y, shuffled]), codes) / np.sum(np.square(y - y.mean()))
    hits = int(np.count_nonzero(values[1:] >= values[0] - 1e-12))
    return float(values[0]), (1 + hits) / (1 + _PERMUTATIONS)


def permuted_interaction(
    y: Floats, one: Codes, other: Codes, random: np.random.RandomState
) -> tuple[float, float] | None:
    """Share explained by the cells beyond the additive model, and its p-value; None: no room.

    Args:
        y: 0 or 1 for each run, `(run,)`.
        one: the group of each run by one parameter.
        other: likewise by another one; the two together are the cell.
        random: for the permutations.
    """
    within = float(np.sum(np.square(y - y.mean())))
    dummies = [np.eye(int(codes.max()) + 1)[codes] for codes in (one, other)]
    cells = np.unique(one * (int(other.max()) + 1) + other, return_inverse=True)[1]
    additive = _basis(np.hstack(dummies))
    full = _basis(np.eye(int(cells.max()) + 1)[cells])
    if within == 0 or full.shape[1] <= additive.shape[1] or y.size <= full.shape[1]:
        return None
    fitted = additive @ (additive.T @ y)
    residuals = y - fitted

    def beyond(rows: Floats) -> Floats:
        """What the cells explain of each row, less what the additive model does, over the rest."""
        by_cells = np.sum((rows @ full) ** 2, axis=1)
        gain = by_cells - np.sum((rows @ additive) ** 2, axis=1)
        rest = np.sum(rows**2, axis=1) - by_cells
        shares: Floats = gain / np.maximum(rest, 1e-9)
        return shares

    shuffled = _shuffled(residuals, random)
    values = beyond(np.vstack([y, fitted + shuffled]))
    hits = int(np.count_nonzero(values[1:] >= values[0] - 1e-12))
    gain = float(np.sum((y @ full) ** 2) - np.sum((y @ additive) ** 2)) / within
    return max(0.0, gain), (1 + hits) / (1 + _PERMUTATIONS)


def between_groups(ys: Floats, codes: Codes) -> Floats:
    """Sum of squares between the groups for each row of `ys`, `(row, run)` to `(row,)`."""
    members = np.eye(int(codes.max()) + 1)[codes]
    sums = ys @ members
    total: Floats = np.sum(sums**2 / members.sum(axis=0), axis=1)
    overall: Floats = np.sum(ys, axis=1) ** 2 / ys.shape[1]
    return total - overall


def _shuffled(values: Floats, random: np.random.RandomState) -> Floats:
    """The values in as many random orders as there are permutations, `(permutation, run)`."""
    rows: Floats = values[np.argsort(random.random_sample((_PERMUTATIONS, values.size)), axis=1)]
    return rows


def _basis(columns: Floats) -> Floats:
    """Orthonormal columns that span the same space."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    kept: Floats = u[:, s > 1e-9 * s.max()]
    return kept
