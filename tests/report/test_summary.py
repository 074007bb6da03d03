"""What the page of a study shows, before anything is drawn."""

import dataclasses
from types import SimpleNamespace

from mlp.causes.answer import answer, investigate
from mlp.causes.observed import StudyRun
from mlp.causes.plan import Side, plan_reruns
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.report.summary import (
    combinations_of,
    find_cures,
    quality_of,
    spread_out,
)
from mlp.settings import with_settings
from mlp.tracking.read import PastRun
from support.planted import N_EXAMPLES, RATE, gradient_norms, study, training


def past(verdict=Verdict.OSCILLATING, amplitude=1.0, period=None, metrics=(), **settings):
    config = with_settings(
        RunConfig(), {name.replace("__", "."): v for name, v in settings.items()}
    )
    judged = Judgement(verdict, amplitude, 0.0, 0.5, 0.5, period, 0.1, None, False)
    return PastRun("0" * 32, "a run", 0, config, judged, None, dict(metrics), 0, 0)


def seen(run, **params):
    named = {name.replace("__", "."): value for name, value in params.items()}
    return StudyRun(run.config, named, run.judgement.verdict)


def test_runs_that_differ_in_their_seeds_are_one_combination():
    runs = [
        past(Verdict.OSCILLATING, 0.2, 2, {"final_loss": 1.0}),
        past(Verdict.OSCILLATING, 0.6, 4, {"final_loss": 3.0}),
        past(Verdict.LEARNING, 0.0, 2, {"final_loss": 0.1}),  # too small to be a swing
        past(Verdict.DIVERGED, 0.0),
    ]
    params = [(0.5, 0), (0.5, 1), (0.1, 0), (0.1, 1)]
    observed = [
        seen(run, optimizer__learning_rate=rate, training__seed=seed)
        for run, (rate, seed) in zip(runs, params, strict=True)
    ]
    first, second = combinations_of(runs, observed)
    assert first.settings == {"optimizer.learning_rate": "0.5"}
    assert first.counts == {Verdict.OSCILLATING: 2}
    assert (first.amplitude, first.final_loss, first.periods) == (0.4, 2.0, {2: 1, 4: 1})
    assert second.counts == {Verdict.LEARNING: 1, Verdict.DIVERGED: 1}
    assert (second.final_loss, second.periods) == (0.1, {})
    assert combinations_of(runs[:1], observed[:1]) == (), "a table of single runs says nothing"


def test_a_setting_is_one_column_whatever_it_is_drawn_by():
    runs = [past(), past()]
    params = {"optimizer.learning_rate[sum]": 0.5, "model.widths[1]": 3, "model.widths[2]": 4}
    observed = [StudyRun(run.config, params, run.judgement.verdict) for run in runs]
    [found] = combinations_of(runs, observed)
    assert found.settings == {"optimizer.learning_rate": "0.5", "model.widths": "3,4"}


def test_a_pair_of_curves_shows_no_run_that_ends_higher():
    runs, space = study(RATE, 0, 24)
    plan = plan_reruns(
        runs,
        space,
        interventions=2,
        seeds=1,
        n_examples=N_EXAMPLES,
        gradient_norm=gradient_norms,
    )
    results = investigate(plan, training(RATE, 0))
    found = answer(plan, results, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)
    swings = past().judgement  # at a loss of 0.5; the quiet reruns end at 0.1
    picked = [pick.run for pick in plan.on(Side.STOPS)]
    assert [pick.run for pick, _ in find_cures(plan, results, found, [swings] * 24)] == picked
    low = [
        dataclasses.replace(swings, tail_loss=0.09 if i == picked[0] else 0.5) for i in range(24)
    ]
    assert [pick.run for pick, _ in find_cures(plan, results, found, low)] == picked[1:]


def test_cures_of_different_kinds_are_drawn_before_more_of_one_kind():
    cures = [(place, SimpleNamespace(text=text)) for place, text in enumerate("aaab")]
    assert [(place, change.text) for place, change in spread_out(cures)] == [
        (0, "a"),
        (3, "b"),
        (1, "a"),
        (2, "a"),
    ]


def test_the_forecast_is_judged_where_it_was_made():
    runs = [
        past(Verdict.OSCILLATING, metrics={"stability_ratio_start": 3.0}),
        past(Verdict.LEARNING, metrics={"stability_ratio_start": 0.3}),
        past(Verdict.LEARNING),  # nobody measured
        past(Verdict.LEARNING, metrics={"stability_ratio_start": 9.0}, training__batch_size=8),
    ]
    found = quality_of(runs)
    assert set(found) == {"mean", "all"}
    assert (found["all"].n_runs, found["all"].hits.value) == (2, 1.0)
