"""Counts and associations: conditional settings, both kinds of runs, few runs, and the decoy."""

import dataclasses

import numpy as np
import pytest

from mlp.causes.association import associate, count_values, find_interactions, rank_importances
from mlp.causes.observed import StudyRun
from mlp.config import RunConfig
from mlp.curve import Verdict
from support.planted import NOTHING, RATE, study


def run_of(oscillates, **params):
    verdict = Verdict.OSCILLATING if oscillates else Verdict.CONVERGED
    return StudyRun(RunConfig(), params, verdict)


def test_counts_are_by_value_and_by_range():
    runs = [run_of(i >= 20, rate=0.1 * (i + 1), scheme="ab"[i % 2]) for i in range(32)]
    by_rate = count_values(runs, "rate")
    assert [sum(own.counts.values()) for own in by_rate] == [8, 8, 8, 8]
    assert [own.oscillating.value for own in by_rate] == [0, 0, 0.5, 1]
    by_scheme = {own.value: own for own in count_values(runs, "scheme")}
    assert set(by_scheme) == {"a", "b"}
    assert by_scheme["a"].oscillating.low < 12 / 32 < by_scheme["a"].oscillating.high


def test_a_conditional_setting_counts_where_it_exists():
    random = np.random.RandomState(0)
    runs = []
    for _ in range(80):
        params = {"depth": int(random.randint(1, 4))}
        if params["depth"] == 3:
            params["widths[3]"] = int(random.randint(2, 33))
        runs.append(run_of(params.get("widths[3]", 0) > 16, **params))
    found = {own.parameter: own for own in rank_importances(runs, ["depth", "widths[3]"], random)}
    assert found["widths[3]"].n_runs == sum(run.params["depth"] == 3 for run in runs)
    assert found["widths[3]"].is_clear
    assert found["widths[3]"].explained > 0.6 > found["widths[3]"].of_study


@pytest.mark.parametrize("flip", [False, True])
def test_both_tails_give_the_same_importance(flip):
    """A measure of one tail would blame another setting when the verdict is turned round."""
    random = np.random.RandomState(3)
    runs = []
    for _ in range(120):
        rate, depth = random.random_sample(), int(random.randint(1, 4))
        runs.append(run_of((rate > 0.8) != flip, rate=rate, depth=depth))
    ranked = rank_importances(runs, ["rate", "depth"], np.random.RandomState(0))
    assert [own.parameter for own in ranked] == ["rate", "depth"]
    assert ranked[0].explained > 0.6
    assert not ranked[1].is_clear


def test_few_runs_do_not_fool_it():
    """Without a cause, a clear importance or interaction is as rare as the level says."""
    n_clear = 0
    for repetition in range(20):
        runs, _ = study(dataclasses.replace(NOTHING, space=None), repetition, 24)
        found = associate(runs, seed=repetition)
        n_clear += any(own.is_clear for own in found.importances)
    assert n_clear <= 4  # 1 expected; 5 or more have a chance below 1 %


def test_an_interaction_is_beyond_the_single_effects():
    random = np.random.RandomState(0)
    both = [(random.random_sample(), random.random_sample()) for _ in range(120)]
    alternating = [
        run_of((a > 0.5) != (b > 0.5), a=a, b=b, c=c)
        for (a, b), c in zip(both, random.random_sample(120), strict=True)
    ]
    found = find_interactions(alternating, ["a", "b", "c"], np.random.RandomState(0))
    assert [own.parameters for own in found if own.is_clear] == [("a", "b")]
    additive = [run_of(a > 0.5, a=a, b=b) for a, b in both]
    assert not any(own.is_clear for own in find_interactions(additive, ["a", "b"], random))


def test_association_cannot_tell_the_decoy_from_the_cause():
    """Why reruns are needed: what goes along with the cause is as clear as the cause."""
    runs, _ = study(RATE, 0, 64)
    clear = {own.parameter for own in associate(runs).importances if own.is_clear}
    assert {"optimizer.learning_rate", "optimizer.momentum"} <= clear


def test_constant_verdicts_are_associated_with_nothing():
    runs = [run_of(True, rate=float(i)) for i in range(20)]
    found = associate(runs)
    assert found.importances == ()
    assert found.interactions == ()
    assert all(own.oscillating.value == 1 for own in found.counts)
