"""What published rules say of a loss curve, written from their descriptions and sources.

Only the part of each that is about oscillation. A rule sees what it was made for: the losses of
epochs (here: of full-batch steps, or of minibatch entries) or the training accuracy.
"""

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


def autotrainer(accuracy: Curve) -> bool:
    """Oscillating loss (OL) of AUTOTRAINER, which is read off the training ACCURACY.

    Local maxima and minima of the accuracy are paired in order; OL if at least 0.2 of the epochs
    have a pair that is 0.03 or more apart.

    References:
        Zhang et al. 2021, "AUTOTRAINER: an automatic DNN training problem detection and repair
        system" (ICSE), and `AutoTrainer/utils/monitor.py` of its repository: zeta, eta.
    """
    before, here, after = accuracy[:-2], accuracy[1:-1], accuracy[2:]
    maxima = here[(here >= before) & (here >= after)]
    minima = here[(here <= before) & (here <= after)]
    n_pairs = min(maxima.size, minima.size)
    n_apart = np.count_nonzero(maxima[:n_pairs] - minima[:n_pairs] >= 0.03)
    return bool(n_apart >= 0.2 * accuracy.size)


def deep_checker(loss: Curve) -> bool:
    """Fluctuating loss of TheDeepChecker: of the last 50 losses, over half turn round.

    smoothness = 1 - (changes between up and down) / n, fluctuating below 0.5.

    References:
        Ben Braiek and Khomh 2023, "Testing feedforward neural networks training programs"
        (TOSEM), doi 10.1145/3529318.
    """
    window = loss[-50:]
    if not np.isfinite(window).all():
        return False
    turns = np.count_nonzero(np.diff(np.diff(window) > 0))
    return bool(1 - turns / window.size < 0.5)


def bttackler(loss: Curve) -> bool:
    """Heavy oscillation (HO) of BTTackler, at any epoch of the second half.

    Of the last 6 epoch losses: standard deviation over mean above 0.2, and a fitted slope of at
    least 0.01.

    References:
        Pei et al. 2024, "BTTackler: a diagnosis-based framework for efficient deep learning
        hyperparameter optimization" (KDD), and `btassessor.py` of its repository.
    """
    width = 6
    first = max(loss.size // 2, width - 1)
    if first >= loss.size:
        return False
    windows = np.lib.stride_tricks.sliding_window_view(loss, width)[first - width + 1 :]
    windows = windows[np.isfinite(windows).all(axis=1)]
    entries = np.arange(width) - (width - 1) / 2
    slope = windows @ entries / np.sum(entries**2)
    mean = windows.mean(axis=1)
    varies = windows.std(axis=1) > 0.2 * mean
    return bool(np.any(varies & (slope >= 0.01)))
