"""A share of cases and how exactly it is known."""

import math
from typing import NamedTuple

DEVIATIONS_95 = 1.959963984540054  # deviations that hold 95 % of a normal distribution


class Share(NamedTuple):
    """A share with its 95 % interval, all 0 to 1 (a difference of shares: -1 to 1)."""

    value: float
    low: float
    high: float


def wilson(n_hits: int, n: int) -> Share:
    """A share of independent cases, with Wilson's score interval.

    Args:
        n: all cases; without any, the interval is everything.

    Example:
        >>> [round(number, 3) for number in wilson(9, 10)]
        [0.9, 0.596, 0.982]

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference"; Brown,
        Cai and DasGupta 2001, "Interval estimation for a binomial proportion".
    """
    if n == 0:
        return Share(0.0, 0.0, 1.0)
    share, weight = n_hits / n, DEVIATIONS_95**2 / n
    middle = share + weight / 2
    half = DEVIATIONS_95 * math.sqrt((share * (1 - share) + weight / 4) / n)
    low, high = ((middle + side) / (1 + weight) for side in (-half, half))
    # Rounding must not keep the ends from being 0 and 1.
    return Share(share, low if n_hits else 0.0, high if n_hits < n else 1.0)
