"""Verdicts counted by values: conditional settings, both kinds of runs, and the decoy."""

import itertools

import numpy as np
import pytest

from mlp.causes.observed import StudyRun, count_values, explained_shares
from mlp.config import RunConfig
from mlp.curve import Verdict
from support.planted import RATE, study


def run_of(verdict, **params):
    return StudyRun(RunConfig(), params, verdict)


def either(oscillates, **params):
    return run_of(Verdict.OSCILLATING if oscillates else Verdict.CONVERGED, **params)


def shown(runs):
    return [(own.parameter, own.value, own.n_runs) for own in count_values(runs)]


def values(*given):
    return [own.value for own in count_values([run_of(Verdict.LEARNING, a=v) for v in given])]


def test_verdicts_are_counted_by_value():
    runs = [
        run_of(Verdict.OSCILLATING, a="x"),
        run_of(Verdict.OSCILLATING, a="x"),
        run_of(Verdict.STALLED, a="x"),
        run_of(Verdict.LEARNING, a="y"),
    ]
    x, y = count_values(runs)
    assert (x.parameter, x.value, x.n_runs, x.n_oscillating) == ("a", "x", 3, 2)
    assert x.counts == {Verdict.OSCILLATING: 2, Verdict.STALLED: 1}
    assert x.share_of(Verdict.OSCILLATING).value == pytest.approx(2 / 3)
    assert (y.value, y.n_runs, y.n_oscillating) == ("y", 1, 0)


def test_a_share_has_wilsons_interval():
    [a] = count_values([either(i < 4, a=1) for i in range(10)])
    share = a.share_of(Verdict.OSCILLATING)
    assert (share.low, share.high) == pytest.approx((0.1682, 0.6873), abs=1e-4)


def test_parameters_come_in_order_and_only_where_a_run_has_them():
    runs = [run_of(Verdict.LEARNING, **own) for own in ({"b": 1}, {"a": 1, "b": 1}, {"b": 2})]
    assert shown(runs) == [("a", "1", 1), ("b", "1", 2), ("b", "2", 1)]


def test_numbers_come_by_size():
    assert values(10, 9, 2) == ["2", "9", "10"]


def test_many_numbers_are_put_into_three_ranges_of_equal_size():
    runs = [either(i >= 5, a=0.1 * (i + 1)) for i in reversed(range(9))]
    assert [(c.value, c.n_runs, c.n_oscillating) for c in count_values(runs)] == [
        ("0.1 to 0.3", 3, 0),
        ("0.4 to 0.6", 3, 1),
        ("0.7 to 0.9", 3, 3),
    ]


def test_every_run_is_in_one_range():
    """Also where the shortest texts of two ranges are the same."""
    runs = [run_of(Verdict.LEARNING, a=1 + i * 1e-6) for i in range(20)]
    assert sum(own.n_runs for own in count_values(runs)) == 20


def test_no_value_is_in_two_ranges():
    found = values(1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7)
    ends = [tuple(float(end) for end in value.split(" to ")) for value in found]
    assert all(low[-1] < high[0] for low, high in itertools.pairwise(ends))


def test_lists_and_words_are_never_put_into_ranges():
    assert values(*([i, i] for i in range(9))) == [f"[{i},{i}]" for i in range(9)]
    assert values(True, False) == ["true", "false"]


def test_equal_values_of_two_types_are_two_values():
    runs = [run_of(Verdict.LEARNING, a=v) for v in (1, True, "1")]
    assert sum(own.n_runs for own in count_values(runs)) == 3


@pytest.mark.parametrize("n_runs", [2, 20])
def test_values_are_shown_in_the_digits_that_tell_them_apart(n_runs):
    found = values(*(0.12345 + i * 1e-7 for i in range(n_runs)))
    assert len(set(found)) == len(found) == min(3, n_runs)


def test_an_explained_share_is_the_one_of_an_analysis_of_variance():
    """Four of four against one of four, worked out by hand: 4 x (3/8)^2 x 2 / (8 x 5/8 x 3/8)."""
    runs = [either(i < 5, a="xy"[i >= 4]) for i in range(8)]
    assert explained_shares(runs)["a"] == pytest.approx(4 * (3 / 8) ** 2 * 2 / (8 * 5 / 8 * 3 / 8))
    assert explained_shares([]) == {}
    assert explained_shares([either(True, a=i) for i in range(20)]) == {"a": 0.0}


@pytest.mark.parametrize("flip", [False, True])
def test_both_kinds_of_runs_give_the_same_share(flip):
    """A measure of one kind would blame another setting when the verdict is turned round."""
    random = np.random.RandomState(3)
    drawn = [(random.random_sample(), int(random.randint(1, 4))) for _ in range(120)]
    found = explained_shares([either((rate > 0.66) != flip, a=rate, b=b) for rate, b in drawn])
    assert found["a"] > 0.6 > 0.1 > found["b"]


def test_a_conditional_setting_is_compared_where_it_exists():
    runs = [either(False, depth=1)] * 20
    runs += [either(i % 2 == 0, depth=1, **{"widths[2]": i % 2}) for i in range(20)]
    whole = 10 * (1 - 10 / 40)  # of y around its mean, all runs
    assert explained_shares(runs)["widths[2]"] == pytest.approx(20 * 0.25 / whole)


def test_counts_cannot_tell_the_decoy_from_the_cause():
    """Why reruns are needed: what goes along with the cause explains nearly as much."""
    runs, _ = study(RATE, 1, 64)
    found = explained_shares(runs)
    assert found["optimizer.momentum"] > 0.9 * found["optimizer.learning_rate"] > 0.5
