"""What people who know Hydra and Optuna type out of habit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from mlp.config import RESULT_GROUPS
from mlp.settings import YOUNGER_SETTINGS
from support.sweeping import (
    command,
    environment_of_commands,
    left_in,
    parent,
    run_script,
    stored,
    tracked,
)

FEW = ("data=digits", "training.steps=20")


def shown(name, *arguments) -> dict:
    """What `--cfg job` shows."""
    done = command(name, *arguments, "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    return yaml.safe_load(done.stdout)


def artifact(run_id, name) -> dict:
    [file] = Path.cwd().glob(f"mlruns/*/{run_id}/artifacts/{name}")
    return json.loads(file.read_text())


# Hydra


def test_shown_config_is_what_a_study_records(here):
    overrides = ("sweeps=accuracy", "data=digits", "training.steps=5", "study.n_trials=2")
    overrides += ("model.activation=sigmoid", "study.generation=2", "execution.threads=1")
    before = shown("sweep", *overrides)
    assert command("sweep", *overrides).returncode == 0
    del before["own"]  # no file is named, so that there is none
    assert artifact(parent(here).run_id, "study.json") == before


def test_data_are_recorded_as_what_auto_became(here):
    overrides = ("sweeps=smoke", "data=auto", "study.n_trials=1")
    before = shown("sweep", *overrides)
    assert before["data"]["name"] == "auto"
    done = command("sweep", *overrides, MLP_DATA_ROOT=str(here / "none"))
    assert done.returncode == 0
    before["data"]["name"] = "digits"
    del before["own"]  # no file is named, so that there is none
    assert artifact(parent(here).run_id, "study.json") == before


def test_group_that_the_study_file_overrules_is_refused_instead_of_doing_nothing(here):
    (here / "sweeps").mkdir()
    (here / "sweeps" / "mine.yaml").write_text(
        "study: {n_trials: 1, space: {optimizer.learning_rate: [0.1, 1.0]}}\ndata: {name: digits}\n"
    )
    done = command("sweep", "sweeps=mine", "data=mnist", "--cfg", "job")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: data=mnist has data.name='mnist', but the study file sets it to 'digits'; "
        "type the one that is meant, data.name=...\n"
    )
    assert shown("sweep", "sweeps=mine", "data=mnist", "data.name=mnist")["data"]["name"] == "mnist"
    assert shown("sweep", "sweeps=mine", "data=digits")["data"]["name"] == "digits"
    assert shown("sweep", "sweeps=smoke", "data=mnist")["data"]["name"] == "mnist"
    assert shown("train", "data=digits", "data=mnist")["data"]["name"] == "mnist"


def test_shown_config_is_what_a_run_records(here):
    overrides = (*FEW, "model=relu", "gradient=clip", "model.widths=[5,4]")
    before = shown("train", *overrides)
    assert command("train", *overrides).returncode == 0
    [run] = tracked(here)
    settings = artifact(run.run_id, "config.json")["settings"]
    del before["data"]["root"]  # where, not what
    for path, default in YOUNGER_SETTINGS.items():  # left out where they ask for what always was
        group, _, name = path.partition(".")
        assert settings[group].setdefault(name, default) == default
    assert settings == {group: before[group] for group in RESULT_GROUPS}


def test_own_config_in_an_own_folder(here):
    (here / "own" / "model").mkdir(parents=True)
    (here / "own" / "model" / "tall.yaml").write_text("depth: 4\nwidths: 2\n")
    (here / "own" / "mine.yaml").write_text(
        "defaults: [train, _self_]\ntraining: {steps: 20}\ndata: {name: digits}\n"
    )
    (here / "own" / "search.yaml").write_text(
        "defaults: [sweep, override sweeps: smoke, _self_]\ntraining: {steps: 20}\n"
    )
    own = ("--config-dir", "own")
    done = command("train", *own, "-cn", "mine", "-m", "model=tall,question")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(r.name for r in tracked(here)) == [
        "lr 0.5 mean lecun 2x3",
        "lr 0.5 mean lecun 4x2",
    ]
    config = shown("sweep", *own, "-cn", "search", "study.n_trials=2", "model=tall")
    assert config["study"]["file"] == "smoke"
    assert (config["training"]["steps"], config["model"]["depth"]) == (20, 4)
    assert left_in(here) == {"mlflow.db", "mlruns", "own"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--info",), "Config search path"),
        (("--info", "defaults"), "gradient/mean"),
        (("--cfg", "hydra"), "output_subdir: null"),
        (("--cfg", "job", "--package", "optimizer"), "learning_rate: 0.5"),
        (("--cfg", "job", "--resolve", "training.order_seed=${training.seed}"), "order_seed: 0"),
        (("--hydra-help",), "--shell-completion"),
        (("--help",), "gradient.normalization"),
    ],
)
def test_looking_leaves_nothing(here, arguments, expected):
    done = command("train", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout
    assert left_in(here) == {"mlflow.db"}


def test_verbose_run_leaves_nothing_more(here):
    done = command("train", *FEW, "hydra.verbose=true")
    assert done.returncode == 0
    assert left_in(here) == {"mlflow.db", "mlruns"}


def test_multirun_trains_a_plain_grid(here):
    done = command("train", "-m", *FEW, "gradient=mean,unit", "training.seed=range(0,2)")
    assert (done.returncode, done.stderr) == (0, "")
    runs = {(a["gradient"]["normalization"], a["training"]["seed"]) for a in recorded(here)}
    assert runs == {("mean", 0), ("mean", 1), ("unit", 0), ("unit", 1)}
    assert left_in(here) == {"mlflow.db", "mlruns"}


def recorded(folder):
    return [artifact(run.run_id, "config.json")["settings"] for run in tracked(folder)]


# Shell completion

COMPLETED = {
    "python -m mlp.train model=": "model=question model=relu",
    "python -m mlp.train data=digits optimizer.le": "optimizer.learning_rate=",
    "python -m mlp.train --multirun gradient=u": "gradient=unit",
    "python -m mlp.train sw": "",
    "python -m mlp.sweep sweeps=s": "sweeps=seed sweeps=smoke",
    "python -m mlp.sweep sweeps=smoke study.space.o": "study.space.optimizer.",
    "python other.py model=": "",
}
if Path(sys.executable).with_name("mlp-sweep").exists():  # where the package is installed
    COMPLETED["mlp-sweep train model="] = "model=question model=relu"
COMPLETE = """
eval "$(python -m mlp.train --shell-completion install=bash)"
for line in "$@"; do
    COMP_LINE=$line; COMP_POINT=${#line}; COMP_WORDS=($line)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    _mlp_complete
    echo "$line -> ${COMPREPLY[*]}"
done
eval "$(python -m mlp.train --shell-completion uninstall=bash)"
complete -p python 2> /dev/null || echo uninstalled
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.system
def test_shell_completes_what_is_typed_until_that_is_undone(here):
    """In one shell: each of its words starts a Python of its own."""
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *COMPLETED],
        env=environment_of_commands() | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    *completed, last = done.stdout.splitlines()
    found = dict(line.split(" -> ", 1) for line in completed)
    assert {line: sorted(words.split()) for line, words in found.items()} == {
        line: sorted(words.split()) for line, words in COMPLETED.items()
    }
    assert last == "uninstalled"
    assert left_in(here) == {"mlflow.db"}


def test_names_of_studies_and_runs_are_completed(swept):
    def completed(line, **environment):
        words = line.split()
        name = words[2].removeprefix("mlp.") if words[1] == "-m" else words[1]
        done = command(name, "-sc", "query=bash", COMP_LINE=line, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    MlflowClient("sqlite:///mlflow.db").create_experiment("$(touch executed) x")
    ids = [run.run_id[:8] for run in tracked(swept)]
    study = next(run.tags["mlp.study"] for run in tracked(swept) if "mlp.study" in run.tags)
    assert {study, "three-vs-seven"} == set(completed("python -m mlp.explain ")) - {"Default"}
    assert completed("mlp-sweep explain smo") == [study]
    assert completed(f"python -m mlp.explain {ids[0][:5]}") == [ids[0]]
    assert sorted(completed("python -m mlp.rerun ")) == sorted(ids)
    assert completed(f"python -m mlp.rerun {ids[0]} optimizer.le") == ["optimizer.learning_rate="]
    assert completed("python -m mlp.explain explain.time") == ["explain.timeout_s="]
    assert completed("python -m mlp.rerun ", MLFLOW_TRACKING_URI="sqlite:///none.db") == []
    assert not Path("none.db").exists()


def test_other_shells_are_told_which_one(here):
    done = command("train", "--shell-completion", "install=fish")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: --shell-completion must be install=bash or uninstall=bash"
    )


# Optuna


def test_optunas_own_command_shows_names_a_person_understands(swept):
    [summary] = optuna.get_all_study_summaries("sqlite:///optuna.db")
    words = ["optuna", "trials", "-f", "json", "--study-name", summary.study_name]
    words += ["--storage", "sqlite:///optuna.db"]
    done = run_script(
        f"import sys; sys.argv = {words}; from optuna.cli import main; sys.exit(main())"
    )
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    for trial, row in zip(trials, stored(swept), strict=True):
        assert set(trial["params"]) == {"optimizer.learning_rate", "gradient.normalization"}
        assert {"verdict", "final_loss", "amplitude"} <= set(trial["user_attrs"])
        assert trial["value"] == {"validation_accuracy": row.value}
    # What optuna-dashboard calls the axis of its charts, instead of "Objective 0".
    study = optuna.load_study(study_name=summary.study_name, storage="sqlite:///optuna.db")
    assert study.metric_names == ["validation_accuracy"]
