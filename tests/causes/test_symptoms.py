"""What a run shows of why it ended badly, of records made by hand and of real trainings."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from mlp.causes.symptoms import symptoms_of
from mlp.config import Data
from mlp.curve import judge_run
from mlp.data.dataset import load_data
from mlp.engine.population import train
from mlp.settings import with_settings
from support.sample_records import make_record

FLAT = np.full(21, 0.693)


def seen(settings, loss, **layers):
    made = make_record(settings, loss=loss)
    result = dataclasses.replace(made.result, **layers)
    return symptoms_of(made.config, result, judge_run(result, made.config.training.batch_size))


def idle(*of_layers):
    """A look after every step, at which the shares of each hidden layer are these."""
    n = len(of_layers[0])
    return {
        "layer_step": np.arange(n),
        "layer_gradient": np.ones((n, len(of_layers) + 1)),
        "layer_update": np.full((n, len(of_layers) + 1), 0.54),
        "layer_idle": np.array(of_layers).T,
    }


def test_units_that_one_overshoot_killed_are_told_with_the_step():
    loss = np.concatenate([[0.7, 0.6, 2.5], np.full(18, 0.693)])
    layers = idle([0, 0, 0.4, *[0.4] * 18], [0, 0.2, *[1] * 19])
    settings = {"model.activation": "relu", "model.widths": [5, 4]}
    dead, overshoot, chance = seen(settings, loss, **layers)
    assert dead.startswith("All 4 units of hidden layer 2 are dead since step 2: 0 for ")
    assert overshoot == (
        "One overshoot made them dead: an update of 54% of a layer's weights, at which the loss "
        "leapt from 0.6 to 2.5 at step 2."
    )
    assert "that of guessing" in chance
    coarse = {name: array[::10] for name, array in layers.items()}
    dead, *_ = seen(settings, loss, **coarse)
    assert "are dead since step 10, or up to 9 steps before: " in dead


def test_units_that_are_saturated_from_the_start_are_told():
    found, *_ = seen({}, FLAT, **idle([1.0] * 21, [0.0] * 21))
    assert "All 3 units of hidden layer 1 are saturated from the start" in found
    some, *_ = seen({}, FLAT, **idle([0.0] * 21, [0.0] + [2 / 3] * 20))
    assert some == (
        "67% of the units of hidden layer 2 are saturated at the end (0% with its first weights)."
    )


def test_units_that_came_back_are_not_called_dead():
    layers = idle([0.0] * 21, [0.0, *[1.0] * 19, 0.0])
    assert "dead" not in " ".join(seen({"model.activation": "relu"}, FLAT, **layers))


def test_a_run_that_learned_or_was_not_measured_shows_nothing():
    none = {"layer_step": np.empty(0, np.int64)}
    assert seen({}, None) == ()
    [chance] = seen({}, FLAT, **none)
    assert "that of guessing" in chance


def test_a_loss_that_explodes_is_told_with_its_steps():
    [found] = seen({}, [0.7, 0.9, 50.0, 1e30, np.inf], layer_step=np.empty(0, np.int64))
    assert found == "Its loss grew from 0.7 to 1e+30 at step 3; at 4 it was lost."
    [nothing] = seen({}, [np.inf], layer_step=np.empty(0, np.int64))
    assert nothing.startswith("No loss was finite")


@cache
def digits():
    return load_data(Data(name="digits"), notice=lambda line: None)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model.depth": 4, "model.widths": 20, "training.steps": 100}, "Gradients vanish"),
        ({"initialization.scheme": "zeros"}, "stay alike"),
        ({"initialization.scale": 300.0, "optimizer.learning_rate": 1e-4}, "are saturated"),
        ({"optimizer.learning_rate": 1e-6}, "An update moves no layer"),
    ],
)
def test_trainings_show_what_was_done_to_them(settings, expected):
    run = with_settings(make_record().config, {"training.steps": 60, **settings})
    [result] = train([run], digits())
    found = symptoms_of(run, result, judge_run(result, run.training.batch_size))
    assert expected in " ".join(found)
