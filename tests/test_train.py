"""Single runs from end to end."""

import io
import re

import numpy as np
import pytest

from mlp.data.dataset import load_data
from mlp.errors import DataError, SettingError, StoreError, UnavailableError
from mlp.train import say_result, train_network, train_record
from support.sweeping import command, left_in, plain, run_config, tracked
from support.world import said


def test_command_says_what_it_has_tracked(world):
    done, [run] = said(world.trained()), tracked(world.trained())
    assert (done.returncode, done.stderr) == (0, "")
    assert f"run {run.run_id} in sqlite:///{world.trained()}/mlflow.db" in done.stdout.splitlines()
    assert left_in(world.trained()) == {"mlflow.db", "mlruns"}


def test_settings_typed_by_their_paths_are_those_of_the_run(here):
    done = command(
        "train",
        "data=digits",
        "training.steps=60",
        "model.depth=2",
        "model.widths=[3,3]",
        "optimizer.learning_rate=0.6",
    )
    assert (done.returncode, done.stderr) == (0, "")
    [run] = tracked(here)
    assert (run.name, run.status) == ("lr 0.6 mean lecun 2x3", "FINISHED")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("stalled: ")
    # A plot from the highest loss to 0, since what is flat is to look flat, and its steps.
    assert lines[2].startswith("0.8233 █")
    assert lines[9].split() == ["0"]
    assert lines[10].split() == ["step", "0", "60"]
    assert lines[11] == f"run {run.run_id} in sqlite:///{here}/mlflow.db"
    explain, rerun = lines[13:15]
    assert explain == f"  python -m mlp.explain {run.run_id}   # why, and what helps"
    assert rerun == f"  python -m mlp.rerun {run.run_id}"
    assert left_in(here) == {"mlflow.db", "mlruns"}


def test_multirun_tracks_each_value_and_leaves_nothing_behind(here, monkeypatch, tmp_path):
    spare = tmp_path / "spare"
    spare.mkdir()
    done = command(
        "train",
        "--multirun",
        "data=digits",
        "training.steps=30",
        "optimizer.learning_rate=0.1,1",
        TMPDIR=str(spare),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {run.name for run in tracked(here)} == {
        "lr 0.1 mean lecun 2x3",
        "lr 1 mean lecun 2x3",
    }
    assert left_in(here) == {"mlflow.db", "mlruns"}
    assert left_in(spare) == set()


def test_result_is_shown_even_where_the_store_fails(here, monkeypatch):
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.1)
    said = io.StringIO()
    config = run_config("tracking.uri=http://127.0.0.1:1")
    with pytest.raises(UnavailableError):
        train_network(config, console=plain(said))
    assert re.search(
        r"^(learning|stalled|converged): .*\nloss 0\.\d+ after 30 steps", said.getvalue()
    )


def test_impossible_store_is_refused_before_the_training(here):
    (here / "folder").mkdir()
    said = io.StringIO()
    for uri in ("ftp://nowhere", "sqlite:///folder"):
        with pytest.raises((SettingError, StoreError)):
            train_network(run_config(f"tracking.uri={uri}"), console=plain(said))
    assert said.getvalue() == ""


def test_diverged_run_is_a_result_and_what_to_type_next_names_the_places_that_were_given(here):
    said = io.StringIO()
    place = f'tracking.uri="sqlite:///{here}/mlflow.db"'
    config = run_config("optimizer.learning_rate=1e30", "model=relu", place)
    run_id = train_network(config, console=plain(said)).run_id
    assert said.getvalue().startswith("diverged: ")
    assert f"  python -m mlp.rerun {run_id} '{place}'\n" in said.getvalue()
    [run] = tracked(here)
    assert run.status == "FINISHED"
    assert "diverged_at_step" in run.metrics
    assert "final_loss" not in run.metrics


def test_other_data_than_expected_are_refused_with_both_digests():
    with pytest.raises(DataError, match=r"digest 0{64}, here [0-9a-f]{64}"):
        train_record(run_config(), plain(io.StringIO()), expected_digest="0" * 64)


def test_verdict_on_few_losses_says_so():
    said = io.StringIO()
    record = train_record(run_config("training.batch_size=16", "training.steps=60"), plain(said))
    say_result(record, plain(said))
    few = "The verdict rests on only 5 values of the loss; more make it surer."
    assert said.getvalue().splitlines()[0].endswith(few)


def test_a_network_of_scaled_inputs_takes_raw_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"data": "digits", "data.scale": 16.0, "training.steps": 200}
    run = train_network({**settings, "optimizer.learning_rate": 0.2})
    part = load_data(run.config.data, notice=print).validation
    is_right = run.predict(part.pixels)["digit"].to_numpy() == np.where(part.labels, 7, 3)
    assert is_right.mean() == run.result.validation_accuracy[-1] > 0.9
