"""Experiments of other programs: what is read, judged and said, and when a cause may be named."""

import io
import time

import mlflow
import pytest
from mlflow.entities import Metric, Param

from mlp.config import Tracking
from mlp.curve import Verdict
from mlp.errors import RecordError, SettingError
from mlp.explain.explain_study import explain_study
from mlp.tracking.read import Meaning, read_study
from mlp.tracking.store import open_store
from support.own_programs import log_runs
from support.sweeping import command, plain

SWING = [0.45 + 4.4 * (i % 2) for i in range(100)]
FALL = [0.7 * 0.97**i + 0.01 for i in range(100)]
PARAMS = {"data.name": "digits", "optimizer.learning_rate": 5.0, "model.widths": (3, 3)}
QUIET = {**PARAMS, "optimizer.learning_rate": 0.001}


@pytest.fixture
def uri(here):
    return f"sqlite:///{here}/mlflow.db"


def explained(name, settings=None):
    """What was found, and what was said."""
    said = io.StringIO()
    found = explain_study(name, settings, console=plain(said))
    return found, said.getvalue()


def test_own_names_of_params_are_proposed_and_the_curves_are_judged(uri, monkeypatch):
    params = {"lr": 5.0, "hidden": "3,3", "reduction": "SUM", "author": "Ann"}
    log_runs("own", [(params, SWING), ({**params, "lr": 0.001}, FALL)], uri)
    found, said = explained("own")
    assert found.answer is None
    assert found.sentences[0].startswith("1 of the 2 runs oscillates, and cannot be trained again")
    assert "own: 2 runs (1 oscillating, 1 learning) of another program" in said
    assert "judged only: 2 of 2 runs, because none of its params is a setting" in said
    assert "ignored: author" in said
    [line] = [line for line in said.splitlines() if "map.lr=" in line]
    assert line == (
        "  python -m mlp.explain own map.lr=optimizer.learning_rate map.hidden=model.widths "
        "map.reduction=gradient.normalization data.name=digits   # or mnist: what they were "
        "trained on"
    )
    words = line.partition("#")[0].split()[3:]
    read = read_study(
        open_store(Tracking()),
        "own",
        Meaning(
            names=dict(w.removeprefix("map.").split("=") for w in words if w.startswith("map.")),
            given={"data.name": "digits"},
        ),
    )
    assert [run.config.gradient.normalization for run in read.runs] == ["sum", "sum"]
    done = command("explain", "own", "map.lr=optimizer.learning_rat")
    assert done.returncode == 2
    assert "did you mean 'optimizer.learning_rate'?" in done.stderr


def test_the_data_that_no_param_names_are_asked_for(uri):
    nameless = {key: value for key, value in PARAMS.items() if key != "data.name"}
    log_runs("nodata", [(nameless, SWING), (nameless, FALL)], uri)
    _, said = explained("nodata")
    assert "because no param says which data it was trained on, data.name" in said
    assert "  python -m mlp.explain nodata data.name=digits   # or mnist" in said
    study = read_study(open_store(Tracking()), "nodata", Meaning(given={"data.name": "digits"}))
    assert len(study.runs) == 2


def test_runs_that_were_stopped_count_as_far_as_they_came(uri):
    long = {**PARAMS, "training.steps": 400}
    for status in ("FAILED", "RUNNING"):
        log_runs("states", [(long, SWING)], uri, status=status)
    log_runs("states", [(QUIET, FALL), (QUIET, [])], uri)
    study = read_study(open_store(Tracking()), "states")
    assert {run.status: run.verdict for run in study.brought} == {
        "FAILED": Verdict.OSCILLATING,
        "RUNNING": Verdict.OSCILLATING,
        "FINISHED": Verdict.LEARNING,
    }
    stopped = [run for run in study.runs if run.judgement.verdict is Verdict.OSCILLATING]
    assert [run.config.training.steps for run in stopped] == [99, 99]
    assert study.why_left_out == "1 FINISHED without a metric loss"


def log_at_one_step(uri, experiment, times):
    client = mlflow.MlflowClient(uri)
    run = client.create_run(client.create_experiment(experiment)).info.run_id
    client.log_batch(
        run,
        metrics=[Metric("loss", v, t, 0) for v, t in zip(SWING, times, strict=True)],
        params=[Param(name, str(value)) for name, value in PARAMS.items()],
    )
    client.set_terminated(run)


def test_points_without_a_step_are_ordered_by_time_or_refused(uri):
    now = int(time.time() * 1000)
    log_at_one_step(uri, "timed", [now + i for i in range(len(SWING))])
    [run] = read_study(open_store(Tracking()), "timed").brought
    assert run.loss.tolist() == SWING
    assert run.verdict is Verdict.OSCILLATING
    log_at_one_step(uri, "untimed", [now + i // 5 for i in range(len(SWING))])
    with pytest.raises(RecordError, match="so that their order is not known"):
        read_study(open_store(Tracking()), "untimed")


def test_another_metric_is_offered_and_taken(uri):
    log_runs("metric", [(PARAMS, SWING), (QUIET, FALL)], uri, metric="train_loss")
    with pytest.raises(RecordError, match="has no run with a metric loss; type metric=train_loss"):
        read_study(open_store(Tracking()), "metric")
    study = read_study(open_store(Tracking()), "metric", Meaning(metric="train_loss"))
    assert [run.judgement.verdict.value for run in study.runs] == ["oscillating", "learning"]


def test_another_optimizer_is_judged_and_not_answered_for(uri):
    log_runs("adam", [({**PARAMS, "optimizer.name": "adam"}, SWING), (QUIET, FALL)], uri)
    found, said = explained("adam")
    assert found.answer is None
    assert "judged only: 1 of 2 runs, because optimizer.name=adam changes the training" in said
    assert "optimizer.name\n adam" in said
    assert "map." not in said
    assert open_store(Tracking()).client.get_experiment_by_name("adam reruns") is None


def test_settings_of_a_study_of_this_program_are_not_typed(empty):
    for typed in ({"data.name": "digits"}, {"map": {"lr": "optimizer.learning_rate"}}):
        with pytest.raises(SettingError, match="is read from the runs that are explained"):
            explain_study(None, typed)
