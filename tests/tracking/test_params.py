"""Params of other programs, read as settings."""

import pytest

from mlp.tracking.params import read_params, value_of

DIGITS = {"data.name": "digits"}


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("model.widths", "(3, 3)", [3, 3]),
        ("model.widths", "[3, 3]", [3, 3]),
        ("model.widths", "3,3", [3, 3]),
        ("model.widths", "16x8", [16, 8]),
        ("model.widths", "16", 16),
        ("gradient.normalization", "SUM", "sum"),
        ("model.activation", "ReLU", "relu"),
        ("model.activation", "leaky_relu", "leaky_relu"),
        ("training.steps", "200.0", 200),
        ("training.batch_size", "None", None),
        ("training.batch_size", "32.0", 32),
        ("optimizer.learning_rate", "np.float64(0.1)", 0.1),
        ("optimizer.learning_rate", "1e-3", 1e-3),
    ],
)
def test_values_are_read_as_people_write_them(path, text, value):
    assert value_of(path, text) == value


def test_a_path_may_have_slashes_and_widths_say_the_depth():
    read = read_params({**DIGITS, "optimizer/learning_rate": "5", "model/widths": "(4, 3, 2)"})
    assert read.problem == ""
    assert read.config.optimizer.learning_rate == 5
    assert (read.config.model.depth, read.config.model.widths) == (3, (4, 3, 2))
    assert read.used["model.widths"] == "model/widths"
    assert "model.activation" in read.defaults
    assert "model.widths" not in read.defaults


def test_clear_names_are_proposed_and_not_used():
    params = {"lr": "0.1", "hidden": "3,3", "reduction": "sum", "seed": "4", "author": "Ann"}
    read = read_params(params)
    assert read.config is None
    assert read.problem == "none of its params is a setting"
    assert read.proposed == {
        "lr": "optimizer.learning_rate",
        "hidden": "model.widths",
        "reduction": "gradient.normalization",
        "seed": "training.seed",
    }
    assert read.ignored == ("author",)
    told = read_params(params, names=read.proposed, given=DIGITS)
    assert told.problem == ""
    assert told.config.gradient.normalization == "sum"


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"optimizer.name": "adam"}, "optimizer.name=adam changes the training"),
        ({"optimizer": "adam", "beta1": "0.9"}, "optimizer=adam, beta1=0.9 change it"),
        ({"weight_decay": "1e-4"}, "weight_decay=1e-4 changes the training"),
        ({"dropout": "0.5"}, "dropout=0.5 changes the training"),
        ({"model.activation": "leaky_relu"}, "but is 'leaky_relu'"),
        ({"model.depth": "3", "model.widths": "[3, 3]"}, "must have model.depth = 3 entries"),
        ({"data.name": "iris"}, "but is 'iris'"),
        ({"momentum": "0.9"}, "momentum=0.9 may be optimizer.momentum, which would be 0.0"),
        ({"batch_size": "16"}, "may be training.batch_size, which would be null without it"),
    ],
)
def test_what_is_not_known_of_the_training_is_named(further, said):
    read = read_params({**DIGITS, "optimizer.learning_rate": "0.1", **further})
    assert read.config is None
    assert said in read.problem


@pytest.mark.parametrize(
    "further",
    [
        {"optimizer": "SGD"},
        {"weight_decay": "0.0"},
        {"dropout": "0"},
        {"momentum": "0"},
        {"loss": "cross-entropy"},
        {"seed": "7"},
        {"git": "a1b2c3"},
    ],
)
def test_what_changes_nothing_is_no_reason_to_stop(further):
    assert read_params({**DIGITS, "optimizer.learning_rate": "0.1", **further}).problem == ""


def test_the_data_must_be_said():
    params = {"optimizer.learning_rate": "0.1"}
    assert read_params(params).problem == "no param says which data it was trained on, data.name"
    assert read_params(params, given=DIGITS).problem == ""
