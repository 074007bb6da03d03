"""From Python what the commands do, and back what they tracked, as frames."""

import io
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import mlp
from mlp.config import Data
from mlp.data.dataset import load_data
from mlp.errors import MissingInputError, RecordError, SettingError
from mlp.network import accuracy, forward
from support.sweeping import (
    command,
    environment_of_commands,
    left_in,
    parent,
    plain,
    run_script,
    table,
)

FEW = {"data": "digits", "training.steps": 40, "gradient": "unit"}


@pytest.fixture(scope="module")
def digits():
    return load_data(Data(name="digits"), notice=print)


def test_everything_promised_is_there_and_hides_no_command():
    commands = {"sweep", "train", "rerun", "explain", "doctor", "audit"}
    assert not commands & set(mlp.__all__)
    for name in mlp.__all__:
        assert getattr(mlp, name).__doc__
    assert set(mlp.__all__) <= set(dir(mlp))
    with pytest.raises(AttributeError, match="module 'mlp' has no attribute 'nope'"):
        _ = mlp.nope


def test_importing_it_costs_nothing():
    code = (
        "import sys, mlp\n"
        "slow = {'mlflow', 'optuna', 'numba', 'numpy', 'pandas', 'hydra', 'pydantic', 'sklearn'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
        "mlp.train_network, mlp.load_run\n"
        "print(sorted({'mlflow', 'optuna', 'numba', 'pandas', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment_of_commands(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n[]\n"


# Settings


def test_settings_of_a_mapping_are_those_of_the_command_line():
    config = mlp.run_config({"gradient": "clip", "model.depth": 3, "model.widths": [5, 4, 3]})
    assert config.gradient.normalization == "clip"
    assert config.model.layer_widths == (5, 4, 3)


def test_whole_space_is_replaced():
    config = mlp.study_config("smoke", {"study.space": {"optimizer.momentum": [0.0, 0.5]}})
    assert config.study.space == {"optimizer.momentum": [0.0, 0.5]}
    assert config.base.training.steps == 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.learnig_rate": 1.0}, "did you mean 'optimizer.learning_rate'"),
        ({"optimizer.learning_rate": "1"}, "optimizer.learning_rate must be a number"),
        ({"gradient": "clp"}, "gradient must be one of .*; did you mean 'clip'"),
        ({"nope.x": 1}, "unknown setting 'nope'"),
        ({"study.n_trials": 1}, "unknown setting 'study'"),
    ],
)
def test_slips_are_one_sentence(here, settings, message):
    with pytest.raises(SettingError, match=message):
        mlp.train_network(settings)
    assert left_in(here) == {"mlflow.db"}


def test_slip_in_a_study_is_found_before_anything_is_made(here):
    with pytest.raises(SettingError, match=r"study.space"):
        mlp.run_study("smoke", {"study.space": {"model.depth": {"low": 3, "high": 1}}})
    assert left_in(here) == {"mlflow.db"}


# Single networks


def test_trained_network_and_its_record_are_the_same(here, digits):
    run = mlp.train_network(FEW)
    back = mlp.load_run(run.run_id)
    assert repr(back) == str(back)  # one line that says how it ended
    pd.testing.assert_frame_equal(run.curve, back.curve)
    for mine, theirs in zip(run.weights, back.weights, strict=True):
        assert (mine.W.tobytes(), mine.b.tobytes()) == (theirs.W.tobytes(), theirs.b.tobytes())
    assert run.verdict is back.verdict
    assert back.config.gradient.normalization == "unit"
    assert list(back.curve.index) == list(range(41))
    assert back.curve["validation_accuracy"].notna().sum() == 4
    assert back.curve["validation_accuracy"].iloc[-1] == accuracy(
        back.weights, digits.validation.pixels / np.float32(16), digits.validation.labels, "sigmoid"
    )


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_prediction_is_the_networks_own(here, digits, activation):
    run = mlp.train_network({**FEW, "model.activation": activation})
    images = digits.test.pixels
    found = run.predict(images)
    logits = forward(run.weights, images / np.float32(16), activation).logits.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[["probability_of_3", "probability_of_7"]], expected, rtol=1e-6)
    assert (found["digit"] == np.where(logits[:, 1] > logits[:, 0], 7, 3)).all()
    for same in (pd.DataFrame(images), images.reshape(-1, 8, 8), images.tolist()):
        pd.testing.assert_frame_equal(run.predict(same), found)
    with pytest.raises(ValueError, match="an image must have 64 pixels, but has 63"):
        run.predict(images[:, 1:])


def test_curve_of_minibatches_and_sharpness(here):
    run = mlp.train_network({**FEW, "training.batch_size": 60})
    assert list(run.curve)[:3] == ["loss", "validation_accuracy", "step_loss"]
    assert run.curve["loss"].notna().sum() < len(run.curve) == 41
    run = mlp.train_network({**FEW, "training.sharpness_points": 4})
    assert list(run.curve)[2:4] == ["sharpness", "stability_ratio"]
    assert run.curve["sharpness"].notna().sum() == 4


def test_rerun_says_whether_it_came_out_the_same(here):
    run = mlp.train_network(FEW)
    plain_rerun = mlp.rerun_network(run.run_id)
    assert (plain_rerun.difference, plain_rerun.is_plain) == (None, True)
    changed = mlp.rerun_network(run.run_id, {"training.seed": 1})
    assert changed.difference
    assert changed.is_as_expected
    assert mlp.load_run(changed.run.run_id).config.training.seed == 1
    for slip in ({"gradient": "sum"}, {"tracking.experiment": "x"}, {"training.sed": 1}):
        with pytest.raises(SettingError, match="unknown setting"):
            mlp.rerun_network(run.run_id, slip)


def test_what_a_console_is_given_is_what_the_command_shows(here):
    said = io.StringIO()
    run = mlp.train_network(FEW, console=plain(said))
    done = command("train", "data=digits", "training.steps=40", "gradient=unit")
    mine, theirs = said.getvalue().splitlines(), done.stdout.splitlines()
    assert mine[:2] == theirs[:2]
    assert f"  python -m mlp.rerun {run.run_id}" in mine


# Two lines of NumPy


def test_weights_load_with_two_lines_of_numpy(here, digits):
    run_id = mlp.train_network(FEW).run_id
    script = f"""
import mlflow, numpy as np
w = np.load(mlflow.artifacts.download_artifacts(run_id="{run_id}", artifact_path="weights.npz"))
W1, b1, W2, b2, W3, b3 = (w[name] for name in ("W1", "b1", "W2", "b2", "W3", "b3"))
print(W1.shape, b1.shape, W2.shape, b2.shape, W3.shape, b3.shape)
def sigmoid(z): return 1 / (1 + np.exp(-z))
X = np.load("X.npy") / 16
z = sigmoid(sigmoid(X @ W1 + b1) @ W2 + b2) @ W3 + b3
print(3 + 4 * (z[:, 1] > z[:, 0]))
"""
    np.save("X.npy", digits.test.pixels)
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    shapes, *found = done.stdout.splitlines()
    assert shapes == "(64, 3) (3,) (3, 3) (3,) (3, 2) (2,)"
    answer = [int(word) for word in " ".join(found).strip("[]").split()]
    assert answer == mlp.load_run(run_id).predict(digits.test.pixels)["digit"].tolist()


# Studies


def test_study_as_one_frame(here, tmp_path, capfd):
    end = mlp.run_study(
        "smoke", {"training.steps": 30, "study.n_trials": 5, "model.widths": [3, 4]}
    )
    assert capfd.readouterr() == ("", "")  # nothing is shown unasked
    frame = mlp.load_study(end.name)
    end_names_the_best(end, frame)
    rows = table(here)
    assert frame["trial"].tolist() == [row.number for row in rows]
    assert frame["verdict"].tolist() == [row.verdict for row in rows]
    assert frame["name"].tolist() == [row.name for row in rows]
    assert frame["final_validation_accuracy"].tolist() == [row.value for row in rows]
    rates = [row.params["optimizer.learning_rate"] for row in rows]
    assert frame["optimizer.learning_rate"].tolist() == rates
    assert set(frame["model.widths"]) == {"[3,4]"}
    assert frame["training.batch_size"].isna().all()
    assert frame["training.steps"].dtype == "Int64"
    assert {"run_id", "amplitude", "final_loss", "gradient.normalization"} <= set(frame)
    pd.testing.assert_frame_equal(mlp.load_study(), frame)
    pd.testing.assert_frame_equal(mlp.load_study(parent(here).run_id), frame)

    frame.to_csv(tmp_path / "study.csv", index=False)
    back = pd.read_csv(tmp_path / "study.csv")
    assert list(back) == list(frame)
    assert back["final_loss"].tolist() == frame["final_loss"].tolist()
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "study.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "study.parquet"), frame)


def end_names_the_best(end, frame):
    best = frame.loc[frame["trial"] == end.best_trial].iloc[0]
    assert best["run_id"] == end.best_run_id
    assert best["final_validation_accuracy"] == end.best_value
    assert best["test_accuracy"] == end.test_accuracy
    # What a notebook shows of both.
    assert len(re.findall(r">#\d</text>", mlp.draw_study(end.name)._repr_html_())) == 5
    run = mlp.load_run(end.best_run_id[:10])
    assert repr(run).startswith(f"run {end.best_run_id}: {run.verdict}, loss ")
    shown = run._repr_html_()
    assert f">{run.verdict}</text>" in shown
    assert "data.name=digits" in shown
    assert "training.dtype" not in shown  # it is as usual
    assert (end.n_trials, end.n_finite) == (5, 5)


def test_last_study_is_read_where_none_is_named(swept):
    first = mlp.load_study()
    second = mlp.run_study("smoke", {"training.steps": 31, "training.sharpness_points": 4}).name
    assert set(mlp.load_study()["training.steps"]) == {31}
    assert set(first["training.steps"]) == {30}
    frame = mlp.load_study(second)
    assert set(frame["training.steps"]) == {31}
    assert frame["mechanism"].notna().all()
    assert {"stability_ratio_max", "stability_ratio_tail"} <= set(frame)


@pytest.mark.parametrize("name", ["smoke", "a' OR '1' = '1"])
def test_study_that_is_not_there(here, name):
    with pytest.raises(MissingInputError, match="there is no study and no experiment"):
        mlp.load_study(name)


def test_reading_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(MissingInputError, match="there is no study smoke, because there is no"):
        mlp.load_study("smoke")
    with pytest.raises(MissingInputError, match=r"there is no run 0{32}, because there is no"):
        mlp.load_run("0" * 32)
    assert left_in(tmp_path) == set()


def test_parent_of_a_study_is_no_run_to_load(swept):
    with pytest.raises(RecordError, match="it is the parent of a study"):
        mlp.load_run(parent(swept).run_id)
