"""A study of a user's own function from end to end: searched, read back, rerun, explained."""

import io
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlp.errors import AllDivergedError, DataError, SettingError
from mlp.explain.explain_study import explain_study
from mlp.rerun import rerun_network
from mlp.run import load_run, load_study
from mlp.settings import read_named_file, read_run
from mlp.sweep.run_study import run_study
from mlp.terminal.compose import compose, settings_for, study_config
from support import own_descent
from support.sweeping import parent, plain, table, tracked
from support.world import copy

SPACE = {"own.rate": [0.1, 0.5, 4.0, 8.0], "own.label": ["a", "b"]}
SETTINGS = {
    "own.file": "mine.py",
    "study.space": SPACE,
    "study.sampler": "grid",
    "study.n_trials": 8,
    "study.generation": 4,
    "study.explain": False,
    "study.name": "mine",
    "execution.threads": 2,
}


def sweep(**changes) -> str:
    said = io.StringIO()
    names = {name.replace("__", "."): value for name, value in changes.items()}
    run_study(study_config("own", {**SETTINGS, **names}), console=plain(said))
    return said.getvalue()


def rerun(run_id, *, own=None, **changed) -> tuple[bool, str]:
    said = io.StringIO()
    local = read_run({"own": read_named_file(own)} if own else {})
    paths = {name.replace("__", "."): value for name, value in changed.items()}
    made = rerun_network(run_id, paths, local=local, console=plain(said))
    return made.is_as_expected, said.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory, made_store):
    """A folder with a file, and a study of it."""
    folder = tmp_path_factory.mktemp("study") / "made"
    folder.mkdir()
    shutil.copy(made_store, folder / "mlflow.db")
    shutil.copy(own_descent.__file__, folder / "mine.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        said = sweep()
    return folder, said


@pytest.fixture
def mine(made, empty):
    """A working directory with all of that, which may be changed."""
    return copy(made[0], empty)


def trial(folder, number) -> str:
    return next(run.run_id for run in tracked(folder) if run.tags.get("mlp.trial") == str(number))


def test_study_of_a_function_finds_the_best_and_records_each_trial(made):
    folder, said = made
    rows = table(folder)
    assert [row.state for row in rows] == ["COMPLETE"] * 8
    drawn = {tuple(sorted(row.params.items())) for row in rows}
    assert drawn == {
        (("own.label", label), ("own.rate", rate))
        for rate in SPACE["own.rate"]
        for label in SPACE["own.label"]
    }
    best = min(rows, key=lambda row: (row.value, row.number))
    assert f"best is trial {best.number}: training_loss {best.value:.4f}\n" in said
    swing = {row.params["own.rate"] for row in rows if row.verdict == "oscillating"}
    assert swing == {4.0, 8.0}
    assert parent(folder).metrics["best_training_loss"] == best.value


def test_a_study_goes_on_where_it_ended_and_ends_as_if_it_had_not(made, empty, made_store):
    folder, _ = made
    shutil.copy(folder / "mine.py", empty)
    shutil.copy(made_store, empty / "mlflow.db")
    assert "(new)" in sweep(study__n_trials=3)
    assert "(continued)" in sweep()
    assert table(empty) == table(folder)
    assert "(complete)" in sweep()


def test_a_changed_file_is_another_study(mine):
    with Path("mine.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(SettingError, match="mine"):
        sweep()
    said = sweep(study__name=None, study__n_trials=1)
    assert "(new)" in said


def test_runs_and_study_are_read_in_python(mine):
    frame = load_study("mine")
    assert set(SPACE) < set(frame.columns)
    assert frame["own.rate"].dtype == float
    assert "optimizer.learning_rate" not in frame.columns
    run = load_run(trial(mine, 0))
    assert run.arrays["x"].shape == (1,)
    assert list(run.curve.columns)[:2] == ["loss", "score"]
    assert (run.curve.score[199], run.config.own.path) == (frame["final_score"][0], None)


def test_run_is_rerun_bit_for_bit_by_the_file_that_is_named(mine):
    same, said = rerun(trial(mine, 1), own={"file": "mine.py"})
    assert same
    assert "identical: 200 losses, 1 weights, bit for bit" in said


def test_no_file_is_executed_that_nobody_named(mine):
    run_id = trial(mine, 1)
    Path("mine.py").write_text("open('was executed', 'w')\n" + Path("mine.py").read_text())
    said = r"what a record says is not executed; name the file: own\.file=mine\.py"
    with pytest.raises(SettingError, match=said):
        rerun(run_id)
    with pytest.raises(SettingError, match=said):
        explain_study("mine", {})
    with pytest.raises(
        DataError, match=r"not what the run was trained by: \+ open\('was executed'"
    ):
        rerun(run_id, own={"file": "mine.py"})
    with pytest.raises(DataError, match="is not what"):
        explain_study("mine", {"own.file": "mine.py"})
    assert not Path("was executed").exists()
    same, said = rerun(run_id, own={"file": "mine.py", "changed": True})
    assert same
    assert Path("was executed").exists()


def test_no_file_is_executed_that_a_record_names(mine):
    evil = mine / "evil.py"
    evil.write_text(f"open({str(mine / 'was executed')!r}, 'w')\ndef train(): yield 0.0\n")
    [file] = mine.glob("mlruns/*/*/artifacts/study.json")
    values = json.loads(file.read_text())
    del values["own"]["program"]
    values["own"]["file"] = str(evil)
    values["study"]["file"] = "../evil"
    file.write_text(json.dumps(values))
    with sqlite3.connect("mlflow.db") as store:
        runs = {run.run_id for run in tracked(mine) if "mlp.trial" in run.tags}
        for run_id in runs:
            store.execute("INSERT INTO params VALUES ('own.file', ?, ?)", (str(evil), run_id))
    with pytest.raises(SettingError, match="what a record says is not executed"):
        explain_study("mine", {})
    with sqlite3.connect("mlflow.db") as store:  # as if they were runs of the built-in network
        store.execute("DELETE FROM tags WHERE key = 'mlp.own.program'")
        for run_id in runs:
            for name, value in {"data.name": "digits", "training.steps": "200"}.items():
                store.execute("INSERT INTO params VALUES (?, ?, ?)", (name, value, run_id))
    with pytest.raises(DataError, match="other data"):
        explain_study("mine", {})
    assert not (mine / "was executed").exists()


def test_study_file_of_this_folder_names_the_file(mine):
    Path("sweeps").mkdir()
    Path("sweeps/ours.yaml").write_text(
        "own: {file: mine.py}\n"
        "study:\n  n_trials: 4\n  sampler: grid\n  explain: false\n"
        "  space:\n    own.rate: [0.1, 0.5, 4.0, 8.0]\n"
    )
    said = io.StringIO()
    end = run_study("ours", console=plain(said))
    found = explain_study(end.name, {"explain.interventions": 2})
    assert found.answer.n_trained > 0
    Path("sweeps/ours.yaml").unlink()
    with pytest.raises(SettingError, match="name the file"):
        explain_study(end.name, {"explain.interventions": 1})


def test_study_is_explained_by_reruns_of_the_function(mine):
    config = {"own.file": "mine.py", "explain.interventions": 3, "explain.seeds": 3}
    found = explain_study("mine", config)
    assert any("own.rate" in line for line in found.sentences)
    assert not any("own.label" in line and "cause" in line for line in found.sentences)


def test_function_that_is_random_is_said_to_be(mine):
    Path("random_one.py").write_text(
        "import os\ndef train(n=3):\n    for _ in range(n):\n        yield os.urandom(1)[0] / 7\n"
    )
    said = sweep(
        own__file="random_one.py",
        study__space={"own.n": [30]},
        study__n_trials=1,
        study__generation=1,
        study__name="random",
    )
    assert "(new)" in said
    [run] = (
        run
        for run in tracked(mine)
        if run.tags.get("mlp.trial") and run.tags["mlp.study"] == "random"
    )
    same, said = rerun(run.run_id, own={"file": "random_one.py"})
    assert not same
    assert "different: loss" in said
    assert "your function is not deterministic" in said
    assert "the global streams of NumPy, random and PyTorch had the same seed" in said


def test_study_whose_runs_all_fail_says_why(here):
    Path("mine.py").write_text("def train(rate=0.5):\n    yield 1.0\n    raise ValueError('so')\n")
    with pytest.raises(AllDivergedError, match="no run came to its end"):
        sweep(study__space={"own.rate": [1.0, 2.0]}, study__n_trials=2)
    assert {row.verdict for row in table(here)} == {"failed"}
    notes = {run.tags["mlp.own.fault"] for run in tracked(here) if "mlp.trial" in run.tags}
    assert notes == {"ValueError: so (mine.py, line 3: raise ValueError('so'))"}


def test_objective_that_the_function_does_not_give_is_refused_after_one_generation(here):
    shutil.copy(own_descent.__file__, "mine.py")
    with pytest.raises(SettingError) as caught:
        sweep(study__objective="scores")
    assert str(caught.value) == (
        "study.objective must be what the function gives (loss, score), but is 'scores'"
    )
    assert len([run for run in tracked(here) if "mlp.trial" in run.tags]) <= 4


def test_what_the_built_in_network_needs_is_refused(mine):
    for name, value, said in (
        ("study.pruner", "median", "study.pruner must be none with own.file"),
        ("study.confirm_seeds", 2, "study.confirm_seeds must be 0 with own.file"),
        ("tracking.register", "x", "tracking.register must be null with own.file"),
    ):
        with pytest.raises(SettingError, match=said):
            study_config("own", {**SETTINGS, name: value})


def test_own_file_alone_is_a_study_of_it_and_its_seed_goes_by_its_own_name(mine):
    assert compose("sweep", ["own.file=mine.py"])["study"]["file"] == "own"
    assert compose("sweep", ["own.file=mine.py", "sweeps=smoke"])["study"]["file"] == "smoke"
    said = "training.seed is of the built-in network .* in mine.py; own.seed may be meant"
    with pytest.raises(SettingError, match=said):
        compose("train", ["own.file=mine.py", "training.seed=3"])
    Path("seedless.py").write_text("def train(rate=0.5):\n    yield 1.0\n")
    compose("train", ["own.file=seedless.py", "training.seed=3"])


def test_function_object_is_named_by_its_file():
    def inner():
        yield 0.0

    assert settings_for(own_descent.train) == {"own.file": f"{own_descent.__file__}:train"}
    for function in (inner, len, lambda: 0):
        with pytest.raises(SettingError, match="at the top level of a file"):
            settings_for(function)
