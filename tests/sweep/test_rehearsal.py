"""What a study would be, before it starts."""

import dataclasses
import re

import pytest

import mlp
from mlp.config import Data
from mlp.data.dataset import load_data
from mlp.errors import SettingError
from mlp.sweep import rehearsal
from mlp.sweep.rehearsal import rehearse, render_rehearsal
from support.sweeping import command, left_in, table

SPACE = {
    "model.depth": {"low": 1, "high": 3},
    "model.widths": {"low": 2, "high": 32, "log": True, "each_layer": True},
    "gradient.normalization": ["mean", "unit"],
    "optimizer.learning_rate": {
        "by": "gradient.normalization",
        "mean": {"low": 0.01, "high": 30.0, "log": True},
        "unit": {"low": 0.001, "high": 1.0, "log": True},
    },
}


@pytest.fixture(scope="module")
def digits():
    return load_data(Data(name="digits"), notice=print)


@pytest.fixture(scope="module")
def rehearsed(digits):
    config = study()
    return config, rehearse(config, digits)


def study(**settings):
    paths = {name.replace("__", "."): value for name, value in settings.items()}
    return mlp.study_config("smoke", {"study.space": SPACE, **paths})


def test_dry_run_shows_the_study_and_leaves_nothing(tmp_path):
    done = command("sweep", "sweeps=smoke", "study.n_trials=12", "study.dry_run=true", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert left_in(tmp_path) == set()
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"study smoke-[0-9a-f]{8}: 12 trials of 60 steps, random for validation_accuracy", lines[0]
    )
    assert "  optimizer.learning_rate  0.1 to 10 (log)" in lines
    assert "  gradient.normalization   mean, unit" in lines
    first = lines.index("the first 5 trials:")
    assert [line.split(":")[0] for line in lines[first + 1 : first + 6]] == [
        f"  {number}" for number in range(5)
    ]
    assert re.search(r"training: about 1 s on \d+ threads?, by a trial of 0\.\d s", done.stdout)
    assert re.search(
        r"memory: at most 1 MB for 2 trials at once, [\d.]+ [MG]B are free", done.stdout
    )
    assert lines[-1] == "a dry run: nothing was stored"


def test_dry_run_beside_a_study_touches_neither_it_nor_its_runs(swept):
    before = {file: (swept / file).read_bytes() for file in ("optuna.db", "mlflow.db")}
    done = command("sweep", "sweeps=smoke", "training.steps=30", "study.dry_run=true")
    assert done.returncode == 0
    assert {file: (swept / file).read_bytes() for file in before} == before


def test_first_trials_and_the_name_are_those_of_the_study(here):
    settings = {"training.steps": 30, "study.n_trials": 6, "study.generation": 6}
    plan = mlp.rehearse_study("smoke", settings)
    end = mlp.run_study("smoke", settings)
    assert plan.name == end.name
    assert [dict(trial.params) for trial in plan.first] == [row.params for row in table(here)[:5]]


def test_short_generation_shows_five_trials_all_the_same(digits):
    plan = rehearse(study(study__n_trials=9, study__generation=2), digits)
    assert [trial.number for trial in plan.first] == [0, 1, 2, 3, 4]
    assert (plan.n_trials, plan.n_together) == (9, 2)


def test_every_parameter_that_a_trial_can_have_is_named(rehearsed):
    _, plan = rehearsed
    assert list(plan.domains) == [
        "model.depth",
        "model.widths[1]",
        "model.widths[2]",
        "model.widths[3]",
        "gradient.normalization",
        "optimizer.learning_rate[mean]",
        "optimizer.learning_rate[unit]",
    ]


def test_long_training_is_cut_and_its_rest_counted(digits):
    plan = rehearse(study(training__steps=5_000_000), digits)
    assert plan.training_s > plan.measured_s > 2


def test_time_is_by_the_share_that_was_done(digits, monkeypatch):
    """A training that gets one hundredth of its steps done in half a second."""
    now = [0.0]

    def training(configs, _data, _execution, *, progress=None):
        for hundredth in range(1, 101) if progress else ():
            now[0] += 0.5
            progress(len(configs) * hundredth / 100, None)

    monkeypatch.setattr(rehearsal, "train_runs", training)
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: now[0])
    plan = rehearse(study(study__n_trials=200), digits)
    assert plan.measured_s == 2.5
    assert plan.training_s == pytest.approx(100 * 50)  # a hundred generations of two trials


def test_steps_that_have_not_moved_yet_are_waited_for(digits, monkeypatch):
    """As on a busy machine: nothing is done in the first five seconds."""
    now = [0.0]

    def training(configs, _data, _execution, *, progress=None):
        for tick in range(1, 101) if progress else ():
            now[0] += 0.5
            progress(len(configs) * max(0, tick - 10) / 100, None)

    monkeypatch.setattr(rehearsal, "train_runs", training)
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: now[0])
    plan = rehearse(study(study__n_trials=2), digits)
    assert plan.measured_s == 5.5
    assert plan.training_s == pytest.approx(5.5 + 99 * 5.0)


def test_sharpness_takes_its_time(digits, monkeypatch):
    seen = []
    original = rehearsal.train_runs

    def counting(configs, *arguments, **keywords):
        seen.append([config.training.sharpness_points for config in configs])
        return original(configs, *arguments, **keywords)

    monkeypatch.setattr(rehearsal, "train_runs", counting)
    rehearse(study(training__sharpness_points=12), digits)
    assert [2] in seen
    assert sum(points == [2, 2] for points in seen) == 1


def test_memory_is_that_of_the_largest_trials(digits, rehearsed):
    _, small = rehearsed
    large = {**SPACE, "model.widths": {"low": 2, "high": 256, "each_layer": True}}
    wide = rehearse(study(study__space=large), digits)
    choices = {**SPACE, "model.widths": [2, 256]}
    chosen = rehearse(study(study__space=choices), digits)
    assert wide.needed_bytes == chosen.needed_bytes > 10 * small.needed_bytes
    one = rehearse(study(study__space=large, execution__population=1), digits)
    assert one.needed_bytes * 2 == wide.needed_bytes


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "1 s"), (119.0, "119 s"), (600.0, "10 min"), (9000.0, "2.5 h")]
)
def test_time_is_shown_in_its_unit(rehearsed, digits, seconds, shown):
    config, plan = rehearsed
    plan = dataclasses.replace(plan, training_s=seconds)
    assert f"training: about {shown} on " in "\n".join(render_rehearsal(plan, config, digits))


def test_slip_is_found_before_the_calibration():
    with pytest.raises(SettingError, match=r"study\.dry_run must be true or false, but is 1"):
        mlp.study_config("smoke", {"study.dry_run": 1})
