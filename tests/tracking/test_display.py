"""What people see of a run: no spike, no oscillation and no step of a divergence is lost."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.settings import read_run
from mlp.tracking.display import (
    CHART_POINTS,
    layer_curves,
    numbers,
    read_numbers,
    run_name,
    shown_numbers,
    study_params,
    tags,
    thin,
)
from mlp.tracking.listing import Label, listing_of
from support.sample_records import make_record


def flips(values):
    return np.mean(np.diff(np.sign(np.diff(values))) != 0)


@pytest.mark.parametrize("entries", [321, 400, 640, 641, 1280, 3200, 3201, 10_000])
def test_oscillation_of_period_two_is_still_seen(entries):
    shown = thin(1 + 0.5 * (-1.0) ** np.arange(entries), np.arange(entries))
    assert shown.value.size <= CHART_POINTS
    assert flips(shown.value) > 0.9


@pytest.mark.parametrize("period", [3, 4, 5, 7, 16])
def test_longer_oscillation_is_still_seen(period):
    curve = 1 + 0.5 * np.sin(2 * np.pi * np.arange(3200) / period)
    shown = thin(curve, np.arange(3200)).value
    assert np.ptp(shown) == np.ptp(curve)
    assert flips(shown) > 0.4


def test_growing_oscillation_keeps_its_envelope():
    entries = np.arange(10_000)
    curve = 1 + entries / 20_000 * (-1.0) ** entries
    shown = thin(curve, entries)
    upper = shown.value[1:-1] > 1
    assert 0.4 < upper.mean() < 0.6
    np.testing.assert_allclose(shown.value, curve[shown.step])


def test_spike_of_one_entry_survives():
    curve = np.exp(-np.arange(10_000) / 1000)
    for place in (1, 4567, 9998):
        spiked = curve.copy()
        spiked[place] = 7
        shown = thin(spiked, np.arange(10_000))
        assert shown.step[shown.value == 7].tolist() == [place]


@settings(max_examples=40)
@given(
    st.lists(st.floats(width=32) | st.just(1.0), min_size=1, max_size=2000),
    st.integers(4, 400),
)
def test_extremes_ends_and_order_are_kept(values, max_points):
    loss = np.array(values)
    steps = 3 * np.arange(loss.size)
    shown = thin(loss, steps, max_points)
    assert shown.value.size <= max_points
    assert (np.diff(shown.step) > 0).all()
    finite = np.isfinite(loss)
    np.testing.assert_array_equal(shown.value, loss[shown.step // 3])
    if finite.any():
        assert shown.value.min() == loss[finite].min()
        assert shown.value.max() == loss[finite].max()
        assert [shown.step[0], shown.step[-1]] == steps[finite][[0, -1]].tolist()
    if finite.sum() <= max_points:
        assert shown.value.size == finite.sum()


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        thin([1.0], [0], 3)


def test_numbers_of_a_finite_run():
    shown = numbers(make_record())
    assert shown["final_loss"] == pytest.approx(0.7 * 0.9**20)
    assert shown["best_validation_accuracy"] == 0.9
    assert shown["duration_s"] == 0.9
    assert not {"diverged_at_step", "test_accuracy", "period_steps"} & shown.keys()


def test_layers_are_curves_of_the_record_and_few_numbers_are_metrics():
    made = make_record()
    curves = layer_curves(made.result)
    assert curves["gradient_norm"].tolist() == [5.0, 5.0, 5.0]
    layers = [f"update_ratio/layer{i}" for i in (1, 2, 3)]
    assert [*curves] == ["gradient_norm", *layers, "idle_units/layer1", "idle_units/layer2"]
    listing = listing_of(made, Label("", {}))
    assert {name for name, *_ in listing.points} == {
        "loss",
        "validation_accuracy",
        "final_loss",
        "final_validation_accuracy",
        "amplitude",
    }
    assert {**read_numbers(listing.tags), **shown_numbers(numbers(made))} == numbers(made)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"ripples": "1"}', '{"ripples": NaN}'])
def test_numbers_that_are_none_are_not_read(text):
    assert read_numbers({"mlp.numbers": text}) == {}


@pytest.mark.parametrize(
    ("loss", "end"),
    [([0.7, 2.861e-7], "2.9e-7"), ([0.7, 10.84], "11"), ([0.7, 3.0, math.nan], "lost at 2")],
)
def test_end_of_the_loss_is_a_short_text(loss, end):
    assert tags(make_record(loss=loss))["loss_at_end"] == end


def test_numbers_of_a_diverged_run_are_finite():
    made = make_record(loss=[0.7, 0.9, 3.0, math.inf, math.nan])
    judgement = dataclasses.replace(made.judgement, amplitude=math.inf)
    shown = numbers(dataclasses.replace(made, judgement=judgement))
    assert shown["diverged_at_step"] == 3
    assert all(math.isfinite(value) for value in shown.values())
    assert not {"final_loss", "amplitude"} & shown.keys()


def test_stability_is_shown_of_runs_that_were_measured():
    measured = make_record({"training.sharpness_points": 9})
    shown = numbers(measured)
    assert (shown["stability_ratio_start"], shown["stability_ratio_max"]) == (2, 2)
    assert shown["stability_ratio_tail"] < 0.2
    assert tags(measured)["mechanism"] == "catapult"
    assert not any(name.startswith("stability") for name in numbers(make_record()))
    assert "mechanism" not in tags(make_record())


def test_same_run_has_the_same_colour_and_verdicts_differ():
    swinging = make_record(loss=[1 + 0.5 * (-1) ** i for i in range(400)])
    settled = make_record(loss=[0.5**i for i in range(60)] + [0.0] * 340)
    colours = [tags(made)["mlflow.runColor"] for made in (swinging, swinging, settled)]
    assert colours[0] == colours[1] != colours[2]


def test_params_of_a_study_say_what_varies_instead_of_a_value_that_no_trial_has():
    settings = {
        "optimizer": {"learning_rate": 0.5, "momentum": 0.9},
        "execution": {"threads": 2},
        "study": {"seed": 0, "space": {"optimizer": {"learning_rate": {"low": 1, "high": 2}}}},
    }
    drawn = {"optimizer.learning_rate": "1 to 2 (log)"}
    assert study_params(settings, drawn) == {
        "optimizer.momentum": 0.9,
        "study.seed": 0,
        "study.space.optimizer.learning_rate": "1 to 2 (log)",
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"depth": 2, "widths": [3, 3]}, "#0 lr 0.5 mean lecun 2x3"),
        ({"depth": 2, "widths": [3, 4]}, "#0 lr 0.5 mean lecun [3,4]"),
        (
            {"depth": 8, "widths": [1, 2, 3, 4, 5, 6, 7, 8]},
            "#0 lr 0.5 mean lecun [1,2,3,4,5,6,...]x8",
        ),
    ],
)
def test_run_name(model, name):
    assert run_name(read_run({"model": model}), 0) == name


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"training": {"batch_size": 64}}, " batch 64"),
        ({"optimizer": {"momentum": 0.9999}}, " momentum 0.9999"),
        (
            {"training": {"batch_size": 8}, "optimizer": {"momentum": 0.85}},
            " batch 8 momentum 0.85",
        ),
    ],
)
def test_run_name_tells_minibatches_and_momentum(settings, end):
    assert run_name(read_run(settings)) == f"lr 0.5 mean lecun 2x3{end}"
