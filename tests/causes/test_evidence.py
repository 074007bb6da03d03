"""Intervals cover, bets are fair, and looking often does not make a false cause likelier."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlp.causes.evidence import (
    CLEARING_ERROR_RATE,
    NEGLIGIBLE,
    capital,
    idle_capital,
    p_value_of,
    paired_difference,
    pairs_needed,
    stays_needed,
)
from mlp.shares import wilson


@pytest.mark.parametrize(
    ("n_hits", "n_misses"), [(0, 0), (0, 1), (1, 0), (9, 1), (50, 50), (3, 200), (200, 0)]
)
def test_wilson_agrees_with_scipy(n_hits, n_misses):
    n = n_hits + n_misses
    share = wilson(n_hits, n)
    if n == 0:
        assert (share.low, share.high) == (0.0, 1.0)
        return
    expected = stats.binomtest(n_hits, n).proportion_ci(method="wilson")
    assert share.low == pytest.approx(expected.low, abs=1e-9)
    assert share.high == pytest.approx(expected.high, abs=1e-9)


@pytest.mark.parametrize("n", [12, 32])
@pytest.mark.parametrize(("p_with", "p_against"), [(0.0, 0.0), (0.2, 0.2), (0.7, 0.05), (0.4, 0.1)])
def test_interval_of_a_paired_difference_covers(n, p_with, p_against):
    random = np.random.RandomState(0)
    draws = random.multinomial(n, [p_with, p_against, 1 - p_with - p_against], size=4000)
    intervals = [paired_difference(int(a), int(b), n) for a, b, _ in draws]
    covers = np.mean([own.low <= p_with - p_against <= own.high for own in intervals])
    assert covers >= 0.93


@pytest.mark.parametrize("n", [1, 5, 20])
def test_the_bet_is_fair(n):
    """Without an effect the expected capital is exactly what one started with."""
    expected = sum(stats.binom.pmf(k, n, 0.5) * capital(k, n - k) for k in range(n + 1))
    assert expected == pytest.approx(1.0)


def test_looking_after_every_pair_keeps_the_error_rate():
    random = np.random.RandomState(1)
    level, n_pairs, n_studies = 0.05, 100, 2000
    agrees = random.random_sample((n_studies, n_pairs)) < 0.5
    n_with = np.cumsum(agrees, axis=1)
    n_looked = np.arange(1, n_pairs + 1)
    p_values = np.ones((n_pairs + 1, n_pairs + 1))
    for n in n_looked:
        p_values[n, : n + 1] = [p_value_of(capital(a, int(n) - a)) for a in range(n + 1)]
    assert np.mean((p_values[n_looked, n_with] <= level).any(axis=1)) <= level
    binomial = stats.binom.sf(n_with[:300] - 1, n_looked, 0.5)
    assert np.mean((binomial <= level).any(axis=1)) > 2 * level  # the usual test fails


@given(st.integers(0, 500), st.integers(0, 500))
def test_more_agreement_is_never_weaker(n_with, n_against):
    assert capital(n_with + 1, n_against) >= capital(n_with, n_against + 1)
    assert 0 < p_value_of(capital(n_with, n_against)) <= 1
    assert math.isfinite(capital(n_with, n_against))


@pytest.mark.parametrize("n", [1, 5, 20])
def test_the_bet_that_a_setting_does_nothing_is_fair(n):
    """Of reruns that are turned as often as is worth a change, it wins nothing on average."""
    turned = stats.binom.pmf(range(n + 1), n, NEGLIGIBLE)
    expected = sum(p * idle_capital(k, n - k) for k, p in enumerate(turned))
    assert expected == pytest.approx(1.0)
    more = stats.binom.pmf(range(n + 1), n, 2 * NEGLIGIBLE)
    assert sum(p * idle_capital(k, n - k) for k, p in enumerate(more)) < 1


def test_so_many_reruns_that_stay_clear_a_setting_and_no_fewer():
    n = stays_needed(1, 4)
    assert idle_capital(1, 4 + n) * CLEARING_ERROR_RATE >= 1
    assert idle_capital(1, 4 + n - 1) * CLEARING_ERROR_RATE < 1
    assert stays_needed(100, 0) is None


def test_pairs_needed_are_enough_and_no_more():
    n = pairs_needed(0, 0, 0.001)
    assert p_value_of(capital(n, 0)) <= 0.001 < p_value_of(capital(n - 1, 0))
    assert pairs_needed(3, 3, 0.001) is None
    assert pairs_needed(9, 1, 0.001) > pairs_needed(10, 0, 0.001)
