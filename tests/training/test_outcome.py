"""What is made of a trained run."""

import math

import numpy as np
import pytest

from mlp.config import Data
from mlp.curve import Verdict
from mlp.data.dataset import load_data
from mlp.settings import with_settings
from mlp.study.search import superlative
from mlp.sweep.generation import is_record_of, objective_value
from mlp.sweep.winner import accuracy_on
from mlp.training.train_runs import make_record as judged_record
from support.sample_records import make_record


def test_objectives_are_of_the_end_of_the_run():
    made = make_record()
    assert objective_value(made, "validation_accuracy") == made.result.validation_accuracy[-1]
    assert objective_value(made, "training_loss") == made.result.loss[-1]


def test_no_run_that_swings_most_is_called_the_best():
    assert superlative("validation_accuracy") == superlative("training_loss") == "best"
    assert superlative("oscillation") == "most unstable"


def test_oscillation_is_the_amplitude():
    swinging = make_record(loss=1 + 0.5 * (-1.0) ** np.arange(201))
    value = objective_value(swinging, "oscillation")
    assert value == swinging.judgement.amplitude
    assert value > 0.5
    assert objective_value(make_record(loss=np.full(201, 0.1)), "oscillation") < 1e-6


@pytest.mark.parametrize("objective", ["validation_accuracy", "training_loss", "oscillation"])
@pytest.mark.parametrize("loss", [[0.7, math.nan], [math.inf], [0.7, 0.6, math.inf]])
def test_run_that_went_non_finite_has_no_value(objective, loss):
    assert objective_value(make_record(loss=loss), objective) is None


@pytest.mark.parametrize("objective", ["training_loss", "oscillation"])
def test_values_are_finite_plain_numbers(objective):
    for loss in ([0.7], [0.7, 1e300], [1e-300] * 9, [0.0] * 9):
        value = objective_value(make_record(loss=loss), objective)
        assert type(value) is float
        assert math.isfinite(value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy_of_a_network_that_looks_at_one_pixel(dtype):
    """Its answer can be worked out by hand: seven where the pixel is brighter than a half."""
    data = load_data(Data(name="digits"), notice=print)
    made = make_record({"model.depth": 1, "model.widths": 1, "training.dtype": dtype})
    (W1, b1), (W2, b2) = made.result.weights
    W1[:], b1[:] = 0, -50
    W1[20] = 100
    W2[:], b2[:] = [[-1, 1]], [0.5, -0.5]
    answers = data.test.pixels[:, 20] / data.scale > 0.5
    expected = np.mean(answers == data.test.labels)
    assert 0 < expected < 1
    assert accuracy_on(data.test, made, data) == pytest.approx(expected)


def test_record_is_judged_and_knows_its_data():
    data = load_data(Data(name="digits"), notice=print)
    config = with_settings(make_record().config, {"data.name": "digits"})
    result = make_record().result
    made = judged_record(config, data, result, started_ms=1, ended_ms=2, threads=3)
    assert (made.n_train, made.n_validation, made.n_test) == (
        len(data.train),
        len(data.validation),
        len(data.test),
    )
    assert made.data_digest == data.digest
    assert made.judgement.verdict is Verdict.LEARNING
    assert (made.started_ms, made.ended_ms, made.threads) == (1, 2, 3)


def test_record_is_of_the_same_settings_and_data_wherever_they_lie():
    made = make_record()
    elsewhere = with_settings(
        made.config, {"data.root": "/else", "execution.threads": 7, "tracking.experiment": "x"}
    )
    assert is_record_of(made, elsewhere, made.data_digest)
    assert not is_record_of(made, elsewhere, "e" * 64)
    assert not is_record_of(made, with_settings(elsewhere, {"training.seed": 1}), made.data_digest)
