"""A study's laws, identity and name, before any store is opened."""

import json

import pytest

from mlp.config import digest
from mlp.errors import SettingError
from mlp.settings import read_sweep
from mlp.study.identity import check_study, differences, identity, study_name

RATE = "optimizer.learning_rate"


def sweep(study=None, **groups):
    return read_sweep({"study": {"space": {RATE: [0.1, 0.2]}, **(study or {})}, **groups})


def identity_of(config, name="digits", data_digest="d" * 64):
    return identity(config, name, data_digest)


@pytest.mark.parametrize(
    "other",
    [
        sweep({"n_trials": 7}),
        sweep({"timeout_s": 3.0}),
        sweep({"confirm_seeds": 5}),
        sweep({"storage": "sqlite:///elsewhere.db"}),
        sweep({"name": "mine"}),
        sweep({"file": "other"}),
        sweep({"percentile": 7.0}),  # nobody asks for it without that pruner
        sweep(tracking={"uri": "http://server", "experiment": "other"}),
        sweep(execution={"threads": 2, "population": 3}),
        sweep(data={"root": "/elsewhere"}),
        sweep(data={"name": "mnist"}),  # what it was resolved to counts
        sweep(optimizer={"learning_rate": 7.0}),  # varied, so its fixed value is never used
        sweep({"space": {"optimizer": {"learning_rate": [0.1, 0.2]}}}),
    ],
)
def test_what_is_the_same_study(other):
    assert identity_of(other) == identity_of(sweep())


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (sweep({"seed": 1}), "study.seed 0 -> 1"),
        (sweep({"generation": 3}), "study.generation 16 -> 3"),
        (sweep({"sampler": "qmc"}), "study.sampler tpe -> qmc"),
        (
            sweep({"objective": "training_loss"}),
            "study.objective validation_accuracy -> training_loss",
        ),
        (sweep({"pruner": "median"}), "study.pruner none -> median"),
        (sweep({"space": {RATE: [0.1]}}), f"space.{RATE} [0.1, 0.2] -> [0.1]"),
        (sweep({"space": {}}), f"space.{RATE} [0.1, 0.2] -> None"),
        (sweep({"enqueue": [{RATE: 0.1}]}), "enqueue [] -> "),
        (sweep(training={"steps": 7}), "training.steps 500 -> 7"),
        (sweep(training={"seed": 7}), "training.seed 0 -> 7"),
        (sweep(training={"order_seed": 7}), "training.order_seed 0 -> 7"),
        (sweep(training={"dtype": "float64"}), "training.dtype float32 -> float64"),
        (sweep(model={"widths": [3, 3]}), "model.widths 3 -> [3, 3]"),
        (sweep(optimizer={"decay": "cosine"}), "optimizer.decay none -> cosine"),
        (sweep(training={"shift": 1, "batch_size": 10}), "training.shift 0 -> 1"),
        (sweep(data={"split_seed": 1}), "data.split_seed 0 -> 1"),
        (sweep(data={"validation_fraction": 0.1}), "data.validation_fraction 0.2 -> 0.1"),
    ],
)
def test_what_makes_another_study(other, difference):
    old, new = identity_of(sweep()), identity_of(other)
    assert old != new
    assert any(text.startswith(difference) for text in differences(old, new))
    assert study_name(sweep(), old) != study_name(sweep(), new)


def test_other_data_make_another_study():
    assert identity_of(sweep()) != identity_of(sweep(), name="mnist")
    old, new = identity_of(sweep()), identity_of(sweep(), data_digest="e" * 64)
    assert differences(old, new) == [f"data.digest {'d' * 64} -> {'e' * 64}"]


def test_a_study_from_before_a_setting_came_is_still_the_same():
    assert study_name(sweep({"file": "smoke"}), identity_of(sweep())) == "smoke-6d2fef2a"


def test_a_study_has_no_difference_to_itself():
    assert differences(identity_of(sweep()), identity_of(sweep())) == []


def test_an_identity_survives_its_store():
    what = identity_of(sweep(model={"widths": [3, 3]}))
    assert json.loads(json.dumps(what)) == what


def test_the_name_is_the_file_and_eight_digits():
    what = identity_of(sweep({"file": "smoke"}))
    assert study_name(sweep({"file": "smoke"}), what) == f"smoke-{digest(what)[:8]}"
    assert study_name(sweep({"name": "mine"}), what) == "mine"


def test_validation_accuracy_needs_something_held_out():
    nothing = {"validation_fraction": 0.0}
    with pytest.raises(SettingError) as caught:
        check_study(sweep(data=nothing))
    assert str(caught.value) == (
        "study.objective=validation_accuracy needs data.validation_fraction greater than 0"
    )
    check_study(sweep({"objective": "training_loss"}, data=nothing))


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"space": {"optimizer.learnig_rate": [1.0]}}, "did you mean"),
        ({"enqueue": [{RATE: 0.1}, {RATE: 7.0}]}, "study.enqueue sets .* outside"),
        ({"enqueue": [{"optimizer": {"learning_rate": 7.0}}]}, "study.enqueue sets .* outside"),
        ({"sampler": "grid", "space": {RATE: {"low": 0.1, "high": 1.0}}}, "study.sampler=grid"),
    ],
)
def test_a_bad_study_is_refused(study, message):
    with pytest.raises(SettingError, match=message):
        check_study(sweep(study))
