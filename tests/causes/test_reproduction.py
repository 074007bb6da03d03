"""Whether runs are alike their reruns: on courses whose likeness is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlp.causes.reproduction import (
    JudgedCurve,
    Reproduction,
    SeedComparison,
    compare_curves,
    compare_ends,
    unlike_sentences,
)
from mlp.curve import Verdict, judge_curve

STEPS = np.arange(150)


def falling(rng, rate=0.97):
    return JudgedCurve(Verdict.LEARNING, 0.7 * (rate + 0.005 * rng.uniform(-1, 1)) ** STEPS, STEPS)


def swinging(rng, height=2.0):
    loss = 0.5 + height * rng.uniform(0.7, 1) * ((STEPS + rng.randint(2)) % 2)
    return JudgedCurve(Verdict.OSCILLATING, loss, STEPS)


def lost(rng):
    loss = 0.7 * 1.1**STEPS
    loss[rng.randint(60, 90) :] = np.nan
    return JudgedCurve(Verdict.DIVERGED, loss, STEPS)


def together(comparisons):
    return Reproduction(tuple(comparisons))


def many(draw, n, seed, **settings):
    rng = np.random.RandomState(seed)
    return [draw(rng, **settings) for _ in range(n)]


@given(*[st.integers(0, 40)] * 3, st.integers(1, 40))
def test_counts_of_one_end_are_compared_by_fishers_exact_test(
    n_other, n_rerun, n_rerun_other, n_swung
):
    comparison = SeedComparison(
        "",
        own={Verdict.OSCILLATING: n_swung, Verdict.LEARNING: n_other},
        reruns={Verdict.OSCILLATING: n_rerun, Verdict.LEARNING: n_rerun_other},
        n_unlike=0,
        chance=0.1,
        levels=(0.0, 0.0, 0.0, 0.0),
    )
    tables = (
        [[n_swung, n_other], [n_rerun, n_rerun_other]],
        [[n_other, n_swung], [n_rerun_other, n_rerun]],
    )
    each = [stats.fisher_exact(table, alternative="greater").pvalue for table in tables]
    assert comparison.p_value == pytest.approx(min(1.0, 4 * min(each)))


@pytest.mark.parametrize("draw", [falling, swinging, lost])
def test_what_is_drawn_alike_comes_out_alike(draw):
    """At the level of 1 %: of 12 programs that do the same, hardly any are called another one."""
    n_other = sum(
        not together(
            [
                compare_curves(f"{i}", many(draw, 3, 9 * k + i), many(draw, 24, 1000 + 9 * k + i))
                for i in range(3)
            ]
        ).is_alike
        for k in range(12)
    )
    assert n_other <= 1


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (many(swinging, 3, 1), "do not oscillate in a correct network of this kind, in 24 of 24"),
        (many(lost, 3, 1), "The losses of 3 of 6 runs do not go as in 48 reruns"),
        (many(falling, 3, 1, rate=0.93), "The losses of 3 of 6 runs do not go as in 48 reruns"),
    ],
)
def test_what_goes_otherwise_is_another_program(runs, said):
    same = compare_curves("lr=0.1", many(falling, 3, 2), many(falling, 24, 3))
    other = compare_curves("lr=3", runs, many(falling, 24, 4))
    found = together([same, other])
    assert not found.is_alike
    assert found.p_value < 0.001
    first, example = unlike_sentences(found, ["initialization.scheme"])
    assert said in first
    assert "the runs' own code differs" in first
    assert "or a setting that no param names (initialization.scheme)" in first
    assert first.endswith("So no cause is named.")
    assert example.startswith("With lr=3: ")


def test_reruns_that_swing_where_no_run_did_are_another_program_too():
    found = together([compare_curves("", many(falling, 4, 1), many(swinging, 24, 2))])
    [first, _] = unlike_sentences(found, [])
    assert first.startswith("These settings oscillate in a correct network of this kind, in 24 of")


def test_one_difference_among_many_comparisons_is_paid_for():
    swings, learns = {Verdict.OSCILLATING: 3}, {Verdict.LEARNING: 3}
    odd, *alike = (
        SeedComparison("", own, {Verdict.LEARNING: 24}, 0, 0.1, (0.0, 0.0, 0.0, 0.0))
        for own in (swings, *[learns] * 6)
    )
    assert together([odd, *alike]).p_value == pytest.approx(7 * together([odd]).p_value)


def test_one_run_that_swings_alone_is_no_ground_for_a_cause():
    """One of many may be chance; of the one that swings, reruns would say nothing."""
    quiet = [
        compare_curves(f"{i}", many(falling, 3, i), many(falling, 24, 50 + i)) for i in range(8)
    ]
    alone = compare_curves("lr=3", many(swinging, 1, 1), many(falling, 24, 4))
    assert not together([*quiet, alone]).is_alike


def test_a_rounding_and_some_examples_more_are_no_difference():
    """Another program rounds otherwise, and may hold out other examples."""
    reruns = many(falling, 24, 1)
    shifted = [
        JudgedCurve(run.verdict, np.interp(STEPS * 1.15, STEPS, run.loss) * (1 + 1e-6), STEPS)
        for run in many(falling, 4, 2)
    ]
    assert together([compare_curves("", shifted, reruns)]).is_alike


def test_ends_of_changed_reruns_contradict_runs_that_all_swing():
    """All runs at 3 swing, and no rerun that was changed to 3: the change stopped nothing."""
    swings = judge_curve(many(swinging, 1, 1)[0].loss)
    falls = judge_curve(many(falling, 1, 1)[0].loss)
    assert not together([compare_ends("", [swings] * 3, [falls] * 14)]).is_alike
    assert together([compare_ends("", [falls] * 3, [falls] * 14)]).is_alike
    assert Reproduction(()).is_alike
