"""Forecasts counted by hand, and intervals that keep what they promise."""

import itertools
import math

import numpy as np
import pytest

from mlp.curve import Verdict
from mlp.shares import wilson
from mlp.stability.ratio import Forecast, forecast_quality

OSCILLATING, LEARNING, DIVERGED = Verdict.OSCILLATING, Verdict.LEARNING, Verdict.DIVERGED
RUNS = [
    Forecast("mean", 0.2, LEARNING),
    Forecast("mean", 1.5, LEARNING),
    Forecast("mean", 1.2, OSCILLATING),
    Forecast("mean", 9.0, OSCILLATING),
    Forecast("mean", 50.0, DIVERGED),
    Forecast("unit", 0.9, OSCILLATING),
    Forecast("unit", 1.0, LEARNING),
]


def test_forecasts_are_counted_by_normalization_and_over_all():
    found = forecast_quality(RUNS)
    assert list(found) == ["mean", "unit", "all"]
    mean = found["mean"]
    assert (mean.n_runs, mean.n_oscillating, mean.missed) == (5, 2, 0)
    assert mean.false_alarms == {DIVERGED: 1, LEARNING: 1}
    assert mean.hits.value == 3 / 5
    assert (found["unit"].missed, found["unit"].false_alarms) == (1, {})
    assert found["unit"].hits.value == 1 / 2  # 1.0 is not above 1
    assert found["all"].n_runs == 7


def test_auc_is_the_share_of_pairs_in_order():
    for group in (RUNS, RUNS[:5], [*RUNS, Forecast("mean", 1.5, OSCILLATING)]):
        pairs = [
            1.0 if a.ratio > b.ratio else 0.5 if a.ratio == b.ratio else 0.0
            for a, b in itertools.product(group, group)
            if a.verdict is OSCILLATING and b.verdict is not OSCILLATING
        ]
        assert forecast_quality(group)["all"].auc.value == pytest.approx(np.mean(pairs))


def test_without_both_kinds_there_is_no_auc_and_without_runs_nothing():
    assert forecast_quality(RUNS[:2])["all"].auc is None
    assert forecast_quality([]) == {}


def test_perfect_order_of_few_runs_is_not_certain():
    runs = [Forecast("sum", i, OSCILLATING if i > 1 else LEARNING) for i in range(4)]
    auc = forecast_quality(runs)["sum"].auc
    assert (auc.value, auc.high) == (1, 1)
    assert 0.2 < auc.low < 0.7


@pytest.mark.parametrize("better", [0.0, 2.0])
def test_intervals_of_the_auc_hold_the_truth_about_95_times_in_100(better):
    rng = np.random.RandomState(5)
    truth = 0.5 * (1 + math.erf(better / 2))
    held = 0
    for _ in range(200):
        runs = [Forecast("sum", ratio, LEARNING) for ratio in rng.standard_normal(20)]
        runs += [Forecast("sum", better + x, OSCILLATING) for x in rng.standard_normal(8)]
        auc = forecast_quality(runs)["sum"].auc
        held += auc.low <= truth <= auc.high
    assert 0.91 < held / 200 < 0.995


def test_wilson_at_the_ends():
    assert wilson(0, 8).low == 0
    assert wilson(8, 8).high == 1
    assert wilson(8, 8).low == pytest.approx(8 / (8 + 1.96**2), rel=1e-3)
