"""Sweeps from end to end: a real MLflow, a real Optuna store, and every way to be stopped."""

import json
import re
import shutil
import signal
import socket
import sqlite3
import time
from pathlib import Path

import optuna
import pytest

from mlp.errors import SettingError, StoreError
from mlp.study.storage import open_storage
from mlp.sweep import generation
from mlp.tracking.display import read_numbers
from mlp.training.train_runs import train_runs
from support.sweeping import (
    DIVERGING,
    SMOKE,
    command,
    failing_table,
    left_in,
    parent,
    run_script,
    start,
    stored,
    sweep,
    table,
    tracked,
    unpublished_sweep,
)
from support.world import said

LONG = ("training.steps=5000000", "study.n_trials=2")  # minutes, but for who interrupts it


@pytest.fixture
def finished(world) -> Path:
    """A folder in which the study of four trials was run, once and without a stop."""
    return world.swept()


@pytest.fixture
def again(swept) -> Path:
    """The finished study, to be gone on with."""
    return swept


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """How many trials each call has trained."""
    sizes = []
    original = generation.train_runs

    def counting(configs, *args, **kwargs):
        sizes.append(len(configs))
        return original(configs, *args, **kwargs)

    monkeypatch.setattr(generation, "train_runs", counting)
    return sizes


# What a sweep leaves


def test_separate_python_finds_the_parent_and_its_children(finished):
    """A fresh folder, as after the installation: not even the store was there."""
    done = said(finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert left_in(finished) == {"mlflow.db", "mlruns", "optuna.db"}
    script = """
import json, mlflow
runs = mlflow.search_runs(experiment_names=["three-vs-seven"])
files = {
    run: sorted(f.path for f in mlflow.artifacts.list_artifacts(run_id=run)) for run in runs.run_id
}
print(json.dumps([json.loads(runs.to_json(orient="records")), files]))
"""
    seen = run_script(script, cwd=finished)
    assert seen.returncode == 0, seen.stderr
    runs, files = json.loads(seen.stdout.splitlines()[-1])
    assert [run["status"] for run in runs] == ["FINISHED"] * 5
    [top] = [run for run in runs if run["tags.mlflow.parentRunId"] is None]
    children = [run for run in runs if run is not top]
    assert {run["tags.mlflow.parentRunId"] for run in children} == {top["run_id"]}
    for run in children:
        assert files[run["run_id"]] == ["config.json", "curve.npz", "loss.svg", "weights.npz"]
        assert run["params.data.name"] == "digits"
        assert float(run["params.optimizer.learning_rate"]) > 0
        assert all(run[f"params.{name}"] for name in ("model.depth", "training.seed"))
        assert run["metrics.loss"] > 0
        number = run["tags.mlp.trial"]
        assert re.fullmatch(rf"#{number} lr \S+ (mean|unit) lecun 2x3", run["tags.mlflow.runName"])
    best = next(run for run in children if run["tags.mlp.trial"] == top["tags.mlp.best_trial"])
    accuracies = [run["metrics.final_validation_accuracy"] for run in children]
    assert best["metrics.final_validation_accuracy"] == max(accuracies)
    assert top["metrics.best_validation_accuracy"] == max(accuracies)
    assert top["metrics.test_accuracy"] == best["metrics.test_accuracy"] > 0.5
    assert [run["metrics.test_accuracy"] is not None for run in children].count(True) == 1
    assert f"python -m mlp.rerun {best['run_id']}" in done.stdout


def test_settings_of_every_group_are_params_of_a_run(finished):
    with sqlite3.connect(finished / "mlflow.db") as file:
        rows = file.execute("SELECT run_uuid, key FROM params").fetchall()
    of_runs = {}
    for run, key in rows:
        of_runs.setdefault(run, set()).add(key.partition(".")[0])
    groups = {"data", "model", "initialization", "gradient", "optimizer", "training"}
    top = parent(finished).run_id
    assert all(of_runs[run] == groups for run in of_runs if run != top)
    assert of_runs[top] == groups | {"study"}


# The same command again


def test_same_command_again_trains_nothing_and_looks_once(finished, again, trained):
    said = sweep()
    assert trained == []
    assert "(complete): 4 trials of 30 steps" in said
    assert "nothing to train; study.n_trials=8 would extend it" in said
    assert "look" not in said
    assert table(again) == table(finished)
    before, after = parent(finished), parent(again)
    assert after.status == "FINISHED"
    assert after.metrics["test_looks"] == 1
    assert after.tags["mlflow.note.content"] == before.tags["mlflow.note.content"]
    [best] = (r for r in tracked(again) if r.tags.get("mlp.trial") == after.tags["mlp.best_trial"])
    assert f"python -m mlp.rerun {best.run_id}" in said


def test_longer_study_begins_with_the_trials_of_the_shorter_one(finished, again, trained):
    said = sweep("study.n_trials=7")
    assert "(continued): 7 trials" in said
    assert sum(trained) == 3
    assert table(again)[:4] == table(finished)
    assert [row.number for row in table(again)] == list(range(7))


def test_second_look_at_the_test_part_only_for_another_winner(again):
    first = parent(again).tags["mlp.best_trial"]
    looks = []
    for n_trials in (6, 8, 12, 16):
        said = sweep(f"study.n_trials={n_trials}")
        winner = parent(again).tags["mlp.best_trial"]
        looks.append((winner, parent(again).metrics["test_looks"]))
        assert ("(look 2 at the test part of this study)" in said) == (looks[-1][1] == 2)
        if winner != first:
            break
    assert all(n_looks == (1 if winner == first else 2) for winner, n_looks in looks)
    assert looks[-1][1] == 2, "no other winner came up, choose another study for this test"
    looked_at = [run for run in tracked(again) if "test_accuracy" in run.metrics]
    assert len(looked_at) == 3  # the parent and both winners


def test_finished_grid_of_an_own_study_cannot_be_extended(here):
    (here / "sweeps").mkdir()
    (here / "sweeps" / "smoke.yaml").write_text(
        "study: {sampler: grid, space: {optimizer.learning_rate: [0.1, 1.0]}}\n"
        "data: {name: digits}\n"
    )
    said = sweep()
    assert "\n./sweeps/smoke.yaml is used in place of the shipped one\n" in said
    assert "the grid has 2 trials in all, fewer than study.n_trials=32" in said
    assert len(table(here)) == 2
    assert "nothing to train; the list is done" in sweep()


def test_changed_setting_is_another_study_and_says_so(again):
    said = sweep("optimizer.momentum=0.5", "study.n_trials=1")
    assert re.search(r"study smoke-[0-9a-f]{8} \(new\)", said)
    assert re.search(r"not the same study as smoke-\w{8}: optimizer.momentum 0.0 -> 0.5", said)


def test_named_study_with_other_settings_is_refused(here):
    sweep("study.name=mine", "study.n_trials=1")
    with pytest.raises(SettingError, match=r"study mine exists .*momentum 0.0 -> 0.5.*study.name"):
        sweep("study.name=mine", "study.n_trials=1", "optimizer.momentum=0.5")


@pytest.mark.system
def test_name_of_a_study_that_is_gone_is_free_for_another(here):
    sweep("study.name=mine")
    (here / "optuna.db").unlink()
    sweep("study.name=mine", "optimizer.momentum=0.5")
    trials = [run for run in tracked(here) if "mlp.trial" in run.tags]
    assert sorted(run.tags["mlp.trial"] for run in trials) == sorted("00112233")
    assert len({run.tags["mlp.weights_digest"] for run in trials}) == 8


def test_time_limit_is_no_divergence(here):
    said = sweep("study.timeout_s=1e-9")
    assert "study.timeout_s is over: 2 of 4 trials are kept" in said
    assert len(table(here)) == 2
    sweep("study.timeout_s=1e-9")
    assert len(table(here)) == 4


# Stopped in the middle


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.system), 1])
def test_interrupted_sweep_goes_on_to_the_same_end(here, finished, monkeypatch, at):
    """Ctrl-C while a generation trains; the exception is raised where Python would raise it."""
    original = generation.train_runs
    calls = []

    def interrupted(*args, progress, **kwargs):
        calls.append(args)

        def press(trials_done, losses):
            if len(calls) - 1 == at:
                raise KeyboardInterrupt
            progress(trials_done, losses)

        return original(*args, progress=press, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "train_runs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep()
    assert parent(here).status == "KILLED"
    assert {run.status for run in tracked(here)} <= {"KILLED", "FINISHED"}
    assert len(stored(here)) == 2 * at
    sweep()
    assert_same_end(here, finished)


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_with_one_sentence_and_its_code(here, number):
    with start("sweep", *SMOKE, *LONG) as process:
        wait_for(lambda: parent_exists(here), process)
        time.sleep(1)
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == f"ended by {number.name}\n"
    assert said.endswith("0 of 2 trials are kept, and the same command goes on from there\n")
    assert parent(here).status == "KILLED"
    assert left_in(here) == {"mlflow.db", "mlruns", "optuna.db"}


@pytest.mark.system
def test_second_sweep_of_a_study_is_sent_away(here, finished):
    sweeps = [start("sweep", *SMOKE) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in sweeps]
    assert sorted(process.returncode for process in sweeps) == [0, 75]
    [errors] = [words[1] for words in said if words[1]]
    assert re.fullmatch(r"error: study smoke-\w+ is held by process \d+ on .*\n", errors)
    assert_same_end(here, finished)


def assert_same_end(folder, expected):
    """The same trials, one finished run each, nothing running, an empty spool."""
    assert table(folder) == table(expected)
    assert [run.status for run in tracked(folder)] == ["FINISHED"] * 5
    assert "optuna.db.spool" not in left_in(folder)
    ours, theirs = parent(folder), parent(expected)
    assert ours.tags["mlp.best_trial"] == theirs.tags["mlp.best_trial"]
    for name in ("test_accuracy", "best_validation_accuracy", "oscillating_share", "test_looks"):
        assert ours.metrics[name] == theirs.metrics[name], name


def test_study_shows_the_losses_of_all_its_runs_also_of_those_before(here):
    """Of the first two it is known from MLflow alone."""
    sweep("study.objective=oscillation", "study.n_trials=2")
    [picture] = here.glob("mlruns/*/*/artifacts/losses.svg")
    said_now = sweep("study.objective=oscillation", "study.n_trials=4")
    assert "mlflow models serve" not in said_now  # the most unstable network is not offered
    [picture] = here.glob("mlruns/*/*/artifacts/losses.svg")
    shown = re.findall(r">#(\d)</text>", picture.read_text())
    assert sorted(shown) == ["0", "1", "2", "3"]
    own = parent(here)
    note = own.tags["mlflow.note.content"]
    assert f"![the losses of all runs](get-artifact?path=losses.svg&run_uuid={own.run_id})" in note
    assert re.search(rf"then open \S+/runs/{own.run_id}[?]", said_now)
    for run in tracked(here):
        assert "mlp.trial" not in run.tags or "path=loss.svg" in run.tags["mlflow.note.content"]


# What is in the spool


def test_trial_in_the_spool_is_not_trained_again(here, finished, trained, monkeypatch):
    """Killed when the first generation was safe in the spool and nothing of it in the study."""
    said = []
    with monkeypatch.context() as patch:
        patch.setattr("mlp.sweep.run_study.say", lambda _, *lines: said.extend(lines))
        patch.setattr("mlp.study.search.tell", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep()
    assert "2 of 4 trials are kept, and the same command goes on from there" in said
    assert spooled(here) == ["000000", "000001"]
    assert stored(here) == []
    sweep()
    assert trained == [2, 2]
    assert_same_end(here, finished)


@pytest.mark.parametrize(
    "damage", ["weights.npz", pytest.param("record.json", marks=pytest.mark.system)]
)
def test_damaged_trial_in_the_spool_is_trained_again(here, finished, trained, monkeypatch, damage):
    with monkeypatch.context() as patch:
        patch.setattr("mlp.study.search.tell", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep()
    [file] = here.glob(f"optuna.db.spool/*/000001/{damage}")
    file.write_bytes(file.read_bytes()[:-30])
    said = sweep()
    assert f"trial 1 is trained again: {damage}" in said
    assert trained == [2, 1, 2]
    assert_same_end(here, finished)


def test_damaged_trial_that_the_study_has_is_trained_again(here, finished, trained):
    with failing_table(here, "params"):
        unpublished_sweep()
    [file] = here.glob("optuna.db.spool/*/000003/curve.npz")
    file.write_bytes(b"")
    said = sweep()
    assert "trial 3 is trained again: curve.npz" in said
    assert trained == [2, 2, 1]
    assert_same_end(here, finished)


def stop(*_, **__):
    raise KeyboardInterrupt


def spooled(folder) -> list[str]:
    return sorted(place.name for place in folder.glob("optuna.db.spool/*/[0-9]*"))


# A tracking store that fails


@pytest.mark.system
def test_server_that_does_not_answer_holds_up_nothing(here, finished):
    started = time.monotonic()
    said, error = unpublished_sweep(f"tracking.uri=http://127.0.0.1:{closed_port()}")
    assert error.exit_code == 69
    assert time.monotonic() - started < 20  # the client's few retries; they wait in the background
    assert "4/4 trials" in said
    assert re.search(r"not yet in MLflow: 4 runs, because the tracking store http://\S+ does", said)
    assert re.search(
        r"they are kept; .* and so does\n  python -m mlp.doctor fix=true tracking.uri=http://", said
    )
    assert "mlp.rerun" not in said
    assert spooled(here) == ["000000", "000001", "000002", "000003"]
    sweep()
    assert_same_end(here, finished)


def test_store_that_fails_in_the_middle_gets_the_rest_later(here, finished, trained):
    with failing_table(here, "runs", after=3):
        said, error = unpublished_sweep()
    assert error.exit_code == 74
    assert "4/4 trials" in said
    assert re.search(r"not yet in MLflow: 2 runs, because .* the disk has had enough", said)
    assert spooled(here) == ["000002", "000003"]
    n_trained = sum(trained)
    sweep()
    assert sum(trained) == n_trained
    assert_same_end(here, finished)


def test_interrupted_sweep_says_what_is_unpublished(here, monkeypatch):
    def late(*args, **kwargs):
        if len(stored(here)) == 2:
            wait_for(lambda: spooled(here) == ["000000", "000001"])
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = generation.train_runs
    monkeypatch.setattr(generation, "train_runs", late)
    said = []
    monkeypatch.setattr("mlp.sweep.run_study.say", lambda _, *lines: said.extend(lines))
    with failing_table(here, "params"), pytest.raises(KeyboardInterrupt):
        sweep()
    at = said.index("2 of 4 trials are kept, and the same command goes on from there")
    assert said[at + 1].startswith("not yet in MLflow: 2 runs")


@pytest.mark.parametrize("uri", ["ftp://nowhere", "sqlite:///folder"])
def test_impossible_address_is_refused_before_anything_is_made(here, uri):
    (here / "folder").mkdir()
    before = left_in(here)
    with pytest.raises((SettingError, StoreError)):
        sweep(f"tracking.uri={uri}")
    assert left_in(here) == before


def test_study_store_that_fails_is_one_sentence_and_nothing_is_lost(here, finished, trained):
    open_storage("sqlite:///optuna.db")  # makes the tables
    with (
        failing_table(here, "trials", after=3, file="optuna.db"),
        pytest.raises(StoreError, match=r"study store sqlite:///optuna.db failed: the disk has"),
    ):
        sweep()
    assert parent(here).status == "FAILED"
    assert spooled(here) == ["000003"]
    sweep()
    assert trained[:2] == [2, 2]
    assert sum(trained[2:]) <= 1  # the winner, to look at the test part
    assert_same_end(here, finished)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# Runs that diverge


def test_all_diverged_is_exit_code_1_and_one_sentence(here):
    done = command("sweep", *SMOKE, *DIVERGING)
    assert done.returncode == 1
    assert done.stderr == (
        "error: all runs went non-finite; lower the learning rates of the space\n"
    )
    rows = table(here)
    assert {(row.state, row.verdict, row.status) for row in rows} == {
        ("PRUNED", "diverged", "FINISHED")
    }
    assert parent(here).status == "FINISHED"
    assert "best_trial" not in parent(here).metrics
    with sqlite3.connect("mlflow.db") as file:
        assert file.execute("SELECT count(*) FROM logged_models").fetchone() == (0,)


# What is on the screen


@pytest.mark.system
def test_closed_pipe_is_no_failure(here):
    with start("sweep", *SMOKE) as process:
        assert process.stdout.readline().startswith("study smoke-")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141
    assert {run.status for run in tracked(here)} <= {"FINISHED", "KILLED"}
    sweep()
    assert [run.status for run in tracked(here)] == ["FINISHED"] * 5


def test_command_line_errors_come_before_everything(here):
    before = left_in(here)
    done = command("sweep", "sweeps=smoke", "study.space.optimizer.learning_rat.low=1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert left_in(here) == before


def wait_for(condition, process=None, patience_s=300.0):
    end = time.monotonic() + patience_s
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def parent_exists(folder) -> bool:
    return any("mlp.study" in run.tags for run in tracked(folder))


def test_the_forecast_is_stored_before_the_first_step(here, made_store, monkeypatch):
    shutil.copy(made_store, here / "mlflow.db")
    noted: list[dict[str, float]] = []
    really_train = generation.train_runs

    def train(configs, *args, **kwargs):
        if len(configs) > 0:
            [study] = optuna.get_all_study_summaries("sqlite:///optuna.db")
            parts = [v for k, v in study.user_attrs.items() if k.startswith("mlp.forecasts/")]
            noted.append({number: ratio for part in parts for number, ratio in part.items()})
        return really_train(configs, *args, **kwargs)

    monkeypatch.setattr(generation, "train_runs", train)
    sweep("training.sharpness_points=3", "study.generation=2")
    assert [len(known) for known in noted] == [2, 4]
    starts = {
        run.tags["mlp.trial"]: read_numbers(run.tags)["stability_ratio_start"]
        for run in tracked(here)
        if "mlp.trial" in run.tags
    }
    assert len(starts) == 4
    assert noted[-1] == starts  # of the weights that were trained, bit for bit


def test_same_settings_are_trained_once_also_over_a_continuation(here, monkeypatch):
    n_trained = []

    def counted(configs, *arguments, **options):
        n_trained.append(len(configs))
        return train_runs(configs, *arguments, **options)

    monkeypatch.setattr("mlp.sweep.generation.train_runs", counted)
    words = (
        "study.name=four",
        "study.sampler=random",
        "optimizer.learning_rate=auto",
        "sweeps=four",
        "data=digits",
    )
    Path("sweeps").mkdir()
    Path("sweeps/four.yaml").write_text(
        "study: {space: {model.depth: [1, 2], gradient.normalization: [mean, unit]}}"
    )
    sweep(*words, "study.n_trials=6", "study.generation=6")
    sweep(*words, "study.n_trials=12", "study.generation=6")
    assert sum(n_trained) <= 4  # there are four points
    runs = {int(run.tags["mlp.trial"]): run for run in tracked(here) if "mlp.trial" in run.tags}
    assert len(runs) == 12
    copied = {
        n: int(run.tags["mlp.same_as"]) for n, run in runs.items() if "mlp.same_as" in run.tags
    }
    assert len(copied) == 12 - sum(n_trained)
    for number, of in copied.items():
        assert of < number
        assert runs[number].tags["mlp.curve_digest"] == runs[of].tags["mlp.curve_digest"]
    sweep(*words[1:], "study.name=forced", "study.n_trials=6", "study.force=true")
    assert not any(
        "mlp.same_as" in r.tags for r in tracked(here) if r.tags["mlp.study"] == "forced"
    )
