"""What the page of a study shows, before anything is drawn."""

import dataclasses

import numpy as np
import pytest

from mlp.causes.observed import StudyRun
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.engine.result import Ending, Result
from mlp.report.figures import map_figure, stability_figure
from mlp.report.optuna_plots import search_figure
from mlp.report.parallel import parallel_figure
from mlp.report.question import PRINTED_LOSSES, is_question, summarise_question
from mlp.report.summary import Cure, combinations_of, quality_of, repaired_ratio, spread_out
from mlp.settings import with_settings
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun

QUESTION = {
    "model.depth": 2,
    "gradient.normalization": "sum",
    "gradient.derivative": "question",
    "optimizer.learning_rate": 0.005,
    "training.steps": 10_000,
    "data.name": "mnist",
    "data.validation_fraction": 0.0,
}


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
        past(Verdict.LEARNING, 0.0, None, {"final_loss": 0.1}),
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
    assert second.final_loss == 0.1
    assert combinations_of(runs[:1], observed[:1]) == (), "a table of single runs says nothing"


def test_cures_of_different_kinds_are_drawn_before_more_of_one_kind():
    cures = [Cure(i, text, RunConfig(), Verdict.LEARNING) for i, text in enumerate("aaab")]
    assert [(cure.run, cure.text) for cure in spread_out(cures)] == [
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


def test_the_ratio_along_the_repaired_run_is_that_of_the_runs_own_step():
    run = past(
        metrics={"stability_ratio_tail": 0.1},
        gradient__normalization="sum",
        optimizer__learning_rate=0.01,
    )
    nothing = np.zeros(0)
    result = Result(
        loss=np.ones(5),
        loss_step=np.arange(5),
        step_loss=None,
        validation_accuracy=nothing,
        evaluated_step=nothing.astype(int),
        weights=(),
        ending=Ending.COMPLETED,
        last_step=4,
        sharpness_step=np.array([0, 2, 4]),
        sharpness=np.array([1.0, 4.0, 2.0]),
        sharpness_residual=np.zeros(3),
        gradient_norm=np.ones(3),
        stability_ratio=np.zeros(3),
    )
    cure = Cure(0, "optimizer.learning_rate=1e-4", RunConfig(), Verdict.LEARNING)
    found = repaired_ratio(run, cure, result, n_examples=100)
    assert (found.highest, found.tail, found.own_tail) == (2.0, 1.0, 0.1)  # 0.01 x 100 x 4 / 2
    bare = dataclasses.replace(
        result, sharpness_step=np.zeros(0, int), sharpness=nothing, gradient_norm=nothing
    )
    assert repaired_ratio(run, cure, bare, n_examples=100) is None


def test_the_question_printed_its_loss_after_the_update():
    own = past(**{k.replace(".", "__"): v for k, v in QUESTION.items()}, training__dtype="float64")
    assert is_question(own.config)
    loss = np.arange(10_001, dtype=float)
    corners = [
        past(verdict, **{k.replace(".", "__"): v for k, v in {**QUESTION, **more}.items()})
        for verdict, more in (
            (Verdict.OSCILLATING, {}),
            (Verdict.OSCILLATING, {"gradient.derivative": "exact"}),
            (Verdict.LEARNING, {"gradient.normalization": "mean"}),
        )
    ]
    found = summarise_question([*corners, own], own, loss, "Nothing helps.")
    assert found.table[0] == (500, PRINTED_LOSSES[500], 501.0)
    assert len(found.table) == len(PRINTED_LOSSES) == 19
    assert [(corner.what, dict(corner.counts)) for corner in found.corners] == [
        ("as in the question", {Verdict.OSCILLATING: 1}),
        ("derivative corrected alone", {Verdict.OSCILLATING: 1}),
        ("divided by N alone", {Verdict.LEARNING: 1}),
    ]
    assert not any(is_question(corner.config) for corner in corners)
    for other in ({"data.name": "digits"}, {"model.widths": 4}, {"optimizer.momentum": 0.5}):
        assert not is_question(with_settings(own.config, other))


def test_each_run_is_drawn_once_in_the_colour_of_its_verdict():
    runs = [
        past(Verdict.OSCILLATING, optimizer__learning_rate=3.0),
        past(Verdict.LEARNING, gradient__normalization="sum"),
    ]
    observed = [seen(run, optimizer__learning_rate=1.0) for run in runs]
    figure = map_figure(runs)
    drawn = {trace.name: list(trace.x) for trace in figure.data if len(trace.x)}
    assert drawn == {"oscillating": [3.0], "learning": [0.5]}
    lines = parallel_figure(runs, observed).data[0]
    assert [dimension.label for dimension in lines.dimensions] == [
        "optimizer.learning_rate",
        "verdict",
    ]
    assert list(lines.dimensions[0]["values"]) == [3.0, 0.5]
    curve = ThinCurve(np.array([2.0, 0.5]), np.array([0, 9]))
    ratio = stability_figure(runs, {1: curve}).data[0]
    assert (list(ratio.x), list(ratio.y), ratio.name) == ([1, 10], [2.0, 0.5], "learning")


def test_the_search_is_drawn_with_the_best_so_far():
    accuracies = [0.5, 0.9, 0.7, 0.95, 0.6, 0.8, 0.97, 0.9]
    runs = [
        dataclasses.replace(
            past(metrics={"final_validation_accuracy": value}), trial=number * 10**8
        )
        for number, value in enumerate(accuracies)
    ]
    drawn = search_figure(runs, "validation_accuracy").data
    points, best = (t for t in drawn if t.name in ("validation_accuracy", "Best Value"))
    assert list(points.y) == accuracies
    assert list(best.y)[-1] == 0.97
    diverged = past(Verdict.DIVERGED, metrics={"final_validation_accuracy": 0.99})
    assert 0.99 not in [*search_figure([*runs, diverged], "validation_accuracy").data[0].y]
    assert search_figure(runs, "oscillation") is None
    assert search_figure(runs[:3], "validation_accuracy") is None


@pytest.mark.parametrize("rates", [(1e-5, 1.0), (0.001, 0.1)])
def test_wide_ranges_are_drawn_by_their_logarithm(rates):
    runs = [past(optimizer__learning_rate=rate) for rate in rates]
    observed = [seen(run, optimizer__learning_rate=1.0) for run in runs]
    axis = parallel_figure(runs, observed).data[0].dimensions[0]
    assert list(axis["values"]) == pytest.approx(np.log10(rates).tolist())
    assert all(text == f"1e{tick}" for text, tick in zip(axis.ticktext, axis.tickvals, strict=True))
