"""A share of cases and how exactly it is known."""

import functools
from typing import NamedTuple


class Share(NamedTuple):
    """A share with its 95 % interval, all 0 to 1 (a difference of shares: -1 to 1)."""

    value: float
    low: float
    high: float


@functools.cache  # it takes milliseconds, and the same counts come again and again
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
    from scipy.stats import binomtest  # takes a while, and few commands count shares

    interval = binomtest(n_hits, n).proportion_ci(0.95, method="wilson")
    return Share(n_hits / n, float(interval.low), float(interval.high))
