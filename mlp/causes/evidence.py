"""How sure a count makes us: intervals for shares, exact bets on reruns, one error rate for all.

The chance of naming any false cause is `ERROR_RATE` over all settings together, however often
somebody looks at the answer while it grows. Intervals hold 95 %.
"""

import functools
import math
from enum import StrEnum

from scipy import special

from mlp.causes.observed import DEEDS
from mlp.curve import Verdict
from mlp.shares import DEVIATIONS_95, Share

ERROR_RATE = 0.01  # chance of naming any false cause, over all settings and all looks
CLEARING_ERROR_RATE = 0.05  # chance of clearing a setting that is worth a change, over all looks
NEGLIGIBLE = 0.2  # nobody would act on an effect on fewer than one run in five

# See `capital`: a cause decides most pairs. Any number from 3 to 9 changes the pairs needed by at
# most one, where nine in ten agree.
_EXPECTED_AGREEMENT = 5.0
# See `idle_capital`: a setting that does nothing still turns a run near the threshold now and then.
_EXPECTED_REST = 40.0
_LARGEST_LOG = 300.0  # so that the product of two capitals is finite
_SMALLEST_SHARE = 1e-300  # of the upper half, where nearly all pairs are against


class Conclusion(StrEnum):
    """What the reruns say about a setting: changing it alone ..."""

    CAUSE = "decides it"
    NO_EFFECT = "neither stops nor starts it"
    NO_STOP = "does not stop it"  # whether it starts it is not known
    ONLY_FAILS = "ends it and learning"  # or in another bad way
    TOO_LITTLE = "too little evidence"

    def words(self, asked: Verdict) -> str:
        """In the words of screen and page, as short as a table of 80 columns needs it.

        Example:
            >>> Conclusion.CAUSE.words(Verdict.OSCILLATING)
            'makes the loss oscillate'
        """
        if self is Conclusion.CAUSE:
            return f"makes the loss {DEEDS[asked].do}"
        if self is Conclusion.ONLY_FAILS:
            swings = asked is Verdict.OSCILLATING
            return "ends swings and learning" if swings else "ends it badly otherwise"
        return self.value


def paired_difference(n_with: int, n_against: int, n_pairs: int) -> Share:
    """By how much a change shifts the share of runs, from pairs (rerun changed, rerun unchanged).

    Half a pair is added to each of the four cells of the table before Wald's formula: with
    d = with - against and m = n + 2, the interval is (d +- z sqrt(with + against + 1 - d^2 / m)) /
    m, which covers close to what it promises from ten pairs on. All pairs count, also those without
    a difference.

    Example:
        >>> difference = paired_difference(0, 0, 32)
        >>> difference.value, round(difference.high, 3)
        (0.0, 0.058)

    References:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
        proportions".
    """
    if n_pairs == 0:
        return Share(0.0, -1.0, 1.0)
    d, m = n_with - n_against, n_pairs + 2
    reach = DEVIATIONS_95 * math.sqrt(max(0.0, n_with + n_against + 1 - d * d / m)) / m
    return Share(d / n_pairs, max(-1.0, d / m - reach), min(1.0, d / m + reach))


@functools.cache  # the same counts come again and again
def capital(n_with: int, n_against: int) -> float:
    """Exact, one-sided evidence that a change matters, valid whenever one stops or looks.

    If a change has no effect, its rerun and the unchanged one are two draws of the same thing: a
    pair that differs is as likely to differ one way as the other (the sign test on McNemar's
    table). The alternative is a share p of pairs that go the expected way, with a density that
    grows as p^4 between 1/2 and 1. The ratio of the two probabilities,

        E = 2^n int p^(4 + with) (1 - p)^against dp / int p^4 dp,   n = with + against,

    is the capital of somebody who starts with 1 and bets on the expected way at fair odds. Without
    an effect, the probability that it ever exceeds 1 / alpha is at most alpha (Ville's inequality).
    So 1 / E is a p-value, and stays one when pairs are added because the first were too few.
    Capitals of bets on different pairs may be multiplied, and averaged. Twelve pairs that all agree
    give 1244, where a test that may be done only once would give 4096.

    Example:
        >>> round(capital(12, 0)), capital(5, 5) < 1
        (1244, True)

    References:
        Ville 1939, "Etude critique de la notion de collectif"; Ramdas, Gruenwald, Vovk and Shafer
        2023, "Game-theoretic statistics and safe anytime-valid inference"; McNemar 1947, "Note on
        the sampling error of the difference between correlated proportions".
    """
    seen = _log_upper_half(_EXPECTED_AGREEMENT + n_with, 1 + n_against)
    log = (n_with + n_against) * math.log(2) + seen - _log_upper_half(_EXPECTED_AGREEMENT, 1)
    return math.exp(min(log, _LARGEST_LOG))


def p_value_of(capital_reached: float) -> float:
    """The p-value that a capital is worth, 0 to 1."""
    return min(1.0, 1 / capital_reached) if capital_reached > 0 else 1.0


@functools.cache
def idle_capital(n_turned: int, n_stayed: int) -> float:
    """Exact evidence that a change does not turn as many as `NEGLIGIBLE` of the runs.

    As `capital`, against the claim that each rerun is turned with a chance of `NEGLIGIBLE` or more:
    the alternative is a chance p below it, with a density that falls as (1 - p)^39. The ratio of
    the two probabilities exceeds 1 / alpha with a probability of at most alpha if the claim is
    true, however often one looks.

    Example:
        >>> idle_capital(0, 14) < 20 < idle_capital(0, 15)
        True
    """
    claimed = n_turned * math.log(NEGLIGIBLE) + n_stayed * math.log(1 - NEGLIGIBLE)
    seen = _log_below_negligible(1 + n_turned, _EXPECTED_REST + n_stayed)
    log = seen - _log_below_negligible(1, _EXPECTED_REST) - claimed
    return math.exp(min(log, _LARGEST_LOG))


@functools.cache
def stays_needed(n_turned: int, n_stayed: int) -> int | None:
    """How many further reruns that stay would clear a setting; None where most are turned.

    Example:
        >>> stays_needed(0, 0)
        15
    """
    enough = (
        n for n in range(200) if idle_capital(n_turned, n_stayed + n) * CLEARING_ERROR_RATE >= 1
    )
    return next(enough, None)


@functools.cache
def chance_of_clearing(n_turned: int, n_stayed: int, n_more: int) -> float:
    """How likely a setting is cleared when so many further reruns are known: a guess.

    Before anything is known, it is taken to turn one rerun in twenty, as sure as after ten (a beta
    distribution of 1/2 and 19/2).

    Example:
        >>> [round(chance_of_clearing(n, 9, 50), 1) for n in (0, 1, 2, 4)]
        [0.9, 0.4, 0.2, 0.0]
    """
    allowed = [
        k
        for k in range(n_more + 1)
        if idle_capital(n_turned + k, n_stayed + n_more - k) * CLEARING_ERROR_RATE >= 1
    ]
    a, b = 0.5 + n_turned, 9.5 + n_stayed
    return sum(
        math.comb(n_more, k)
        * math.exp(special.betaln(a + k, b + n_more - k) - special.betaln(a, b))
        for k in allowed
    )


@functools.cache
def pairs_needed(n_with: int, n_against: int, level: float) -> int | None:
    """How many differing pairs, with those so far, would bring the p-value down to a level.

    The share that agrees is taken to stay what it is; without any pair, all are taken to agree.
    None where the pairs so far speak against an effect.

    Example:
        >>> pairs_needed(0, 0, 0.001)
        12
    """
    n_pairs = n_with + n_against
    share = n_with / n_pairs if n_pairs else 1.0
    if share <= 0.5:
        return None
    for n in range(max(1, n_pairs), 10_000):
        agreeing = math.floor(share * n + 1e-9)
        if p_value_of(capital(agreeing, n - agreeing)) <= level:
            return n
    return None


def _log_upper_half(a: float, b: float) -> float:
    """Logarithm of the integral of p^(a - 1) (1 - p)^(b - 1) from 1/2 to 1."""
    share = float(special.betaincc(a, b, 0.5))
    return float(special.betaln(a, b)) + math.log(max(share, _SMALLEST_SHARE))


def _log_below_negligible(a: float, b: float) -> float:
    """Logarithm of the integral of p^(a - 1) (1 - p)^(b - 1) from 0 to `NEGLIGIBLE`."""
    share = float(special.betainc(a, b, NEGLIGIBLE))
    return float(special.betaln(a, b)) + math.log(max(share, _SMALLEST_SHARE))
