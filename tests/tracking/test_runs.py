"""Runs and studies in a real MLflow, seen through MLflow's own client."""

import dataclasses
import json
import math
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric
from sqlalchemy.orm import Session

from mlp.config import Tracking
from mlp.errors import (
    MissingInputError,
    RecordError,
    SettingError,
    StoreError,
    UnavailableError,
)
from mlp.study.storage import open_storage
from mlp.tracking import display, record
from mlp.tracking.listing import Label, StudyPage, study_key
from mlp.tracking.read import fetch_run, meant_run, read_past_run
from mlp.tracking.store import (
    Store,
    find_key,
    finish,
    open_store,
    show_view,
    start_study,
    update_run,
)
from support.sample_records import STARTED_MS, make_record, uploaded

pytestmark = pytest.mark.usefixtures("no_address_of_the_user")


@pytest.fixture(scope="session")
def no_address_of_the_user():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory, no_address_of_the_user) -> Store:
    """A store in a folder whose name every layer has to quote right.

    A process was killed there when it first opened the store.
    """
    folder = tmp_path_factory.mktemp("a b#%")
    left = folder / ".mlflow.db.x1.new"
    left.mkdir()
    (left / "mlflow.db").write_bytes(b"half a database")
    (folder / "mlflow.db").touch()
    return open_store(Tracking(uri=f"sqlite:///{folder}/mlflow.db"))


def upload(store, run, trial, *, study="some-study", parent_id=None, **tags):
    tags = {"mlp.study": study, "mlp.trial": str(trial), "mlp.key": f"{study}/{trial}", **tags}
    return uploaded(store, run, Label(display.run_name(run.config, trial), tags), parent_id)


def start(store, name, settings=None, description="") -> str:
    return start_study(store, StudyPage(name, name, settings or {}, description))


def database(store) -> Path:
    return Path(store.uri.removeprefix("sqlite:///"))


def count(store, sql, *values) -> int:
    with sqlite3.connect(database(store)) as file:
        return file.execute(sql, values).fetchone()[0]


def test_mlflow_sees_everything_about_a_run(store, monkeypatch):
    import mlflow

    parent = start(store, "seen-1", {"study": {"seed": 3}}, "**note**")
    made = make_record({"model.widths": [5, 4]})
    run_id = upload(store, made, 7, study="seen-1", parent_id=parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    runs = mlflow.search_runs(
        experiment_names=["three-vs-seven"], filter_string="tags.verdict = 'learning'"
    ).set_index("run_id")
    run = runs.loc[run_id]
    assert run["status"] == "FINISHED"
    assert run["params.model.widths"] == "[5, 4]"
    assert run["params.optimizer.learning_rate"] == "0.5"
    assert run["params.training.seed"] == "0"
    assert run["metrics.final_loss"] == pytest.approx(0.7 * 0.9**20)
    assert run["metrics.validation_accuracy"] == pytest.approx(0.9)
    assert json.loads(run["tags.mlp.numbers"])["duration_s"] == 0.9
    assert "metrics.duration_s" not in run
    assert run["tags.mlflow.runName"] == "#7 lr 0.5 mean lecun [5,4]"
    assert run["tags.mlflow.parentRunId"] == parent
    assert run["tags.mlp.trial"] == "7"
    assert run["tags.mlp.data_digest"] == "d" * 64
    assert run["tags.mlp.curve_digest"] == record.curve_digest(made.result)
    assert "numpy" in run["tags.mlp.packages"]
    assert run["start_time"].timestamp() * 1000 == STARTED_MS
    assert run["end_time"].timestamp() * 1000 == STARTED_MS + 900
    artifacts = {file.path for file in store.client.list_artifacts(run_id)}
    assert artifacts == {"config.json", "curve.npz", "loss.svg", "weights.npz"}
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="weights.npz")
    with np.load(path) as weights:
        np.testing.assert_array_equal(weights["W2"], made.result.weights[1][0])
    upload(store, made, 7, study="seen-1", parent_id=parent)  # an answer was lost, say
    [seen] = store.client.get_run(run_id).inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest) == ("digits 3-vs-7", "d" * 36)
    assert json.loads(seen.dataset.profile) == {"train": 200, "validation": 50, "test": 60}
    settings = store.client.get_run(parent).data
    assert settings.params == {"study.seed": "3"}
    assert settings.tags["mlflow.note.content"] == "**note**"


def test_stability_ratio_is_a_curve_and_the_mechanism_a_tag(store):
    made = make_record({"training.sharpness_points": 9})
    run_id = upload(store, made, 0, study="measured")
    for name in ("sharpness", "stability_ratio"):
        points = store.client.get_metric_history(run_id, name)
        assert [point.step for point in points] == made.result.sharpness_step.tolist()
        assert [point.value for point in points] == getattr(made.result, name).tolist()
    assert store.client.get_run(run_id).data.tags["mechanism"] == "catapult"
    back = fetch_run(store, run_id).result
    np.testing.assert_array_equal(back.stability_ratio, made.result.stability_ratio)


def test_experiment_opens_as_model_training(store):
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    folder = database(store).parent
    assert experiment.artifact_location == f"{folder.as_uri()}/mlruns/three-vs-seven"
    assert (folder / "mlruns" / "three-vs-seven").is_dir()


def test_uploading_twice_is_uploading_once(store):
    made = make_record({"training.seed": 5})
    first = upload(store, made, 0, study="twice")
    points = count(store, "SELECT count(*) FROM metrics WHERE run_uuid = ?", first)
    assert upload(store, made, 0, study="twice") == first
    assert count(store, "SELECT count(*) FROM metrics WHERE run_uuid = ?", first) == points
    found = store.client.search_runs([store.experiment_id], "tags.mlp.study = 'twice'")
    assert len(found) == 1


def test_uploading_goes_on_where_it_was_cut_off(store):
    made = make_record({"training.seed": 6})
    run_id = upload(store, made, 0, study="cut")
    points = count(store, "SELECT count(*) FROM metrics WHERE run_uuid = ?", run_id)
    for name in ("weights.npz", "config.json"):
        (Path(database(store).parent, "mlruns/three-vs-seven", run_id, "artifacts", name)).unlink()
    store.client.update_run(run_id, status="RUNNING")
    with pytest.raises(RecordError, match="not recorded to its end"):
        fetch_run(store, run_id)
    assert upload(store, made, 0, study="cut") == run_id
    assert count(store, "SELECT count(*) FROM metrics WHERE run_uuid = ?", run_id) == points
    assert fetch_run(store, run_id).recipe.config == made.config


def test_a_run_outside_a_study_is_known_by_itself(store):
    one, other = make_record({"training.seed": 1}), make_record({"training.seed": 2})
    ids = [uploaded(store, run, Label("x", {})) for run in (one, one, other)]
    assert ids[0] == ids[1] != ids[2]


def test_the_chart_of_an_oscillating_run_oscillates(store):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    loss = 1 + 0.5 * (-1.0) ** np.arange(3201)
    run_id = upload(store, make_record({"training.steps": 3200}, loss=loss), 0, study="chart")
    shown = SqlAlchemyStore(store.uri, "unused").get_metric_history_bulk_interval(
        [run_id], "loss", 320, None, None
    )
    values = np.array([metric.value for metric in shown])
    assert values.size <= 320
    assert np.mean(np.diff(np.sign(np.diff(values))) != 0) > 0.9


def test_a_diverged_run_has_finite_metrics_and_is_finished(store):
    loss = [0.7, 0.9, 3.0, math.inf, math.nan]
    run_id = upload(store, make_record(loss=loss), 0, study="diverged")
    data = store.client.get_run(run_id).data
    assert data.tags["verdict"] == "diverged"
    assert data.metrics["diverged_at_step"] == 3
    assert data.tags["loss_at_end"] == "lost at 3"
    odd = "SELECT count(*) FROM metrics WHERE run_uuid = ? AND (is_nan OR abs(value) > 1e300)"
    assert count(store, odd, run_id) == 0
    assert [m.value for m in store.client.get_metric_history(run_id, "loss")] == loss[:3]
    # By the column that the view lists, it stands behind the others, whichever way it is sorted.
    other = upload(store, make_record(), 1, study="diverged")
    for way in ("ASC", "DESC"):
        found = store.client.search_runs(
            [store.experiment_id],
            "tags.`mlp.study` = 'diverged'",
            order_by=[f"metrics.final_loss {way}"],
        )
        assert [run.info.run_id for run in found] == [other, run_id]
    assert store.client.get_run(run_id).info.status == "FINISHED"
    np.testing.assert_array_equal(fetch_run(store, run_id).result.loss, loss)


def test_fetched_run_is_the_uploaded_one(store):
    made = make_record({"training.dtype": "float64", "model.widths": [4, 5]})
    fetched = fetch_run(store, upload(store, made, 0, study="fetched"))
    assert fetched.recipe.config == made.config
    assert record.digests(fetched.result) == record.digests(made.result)
    assert fetched.tags["mlp.threads"] == "2"


def test_study_is_found_again_and_continued(store):
    settings = {"study": {"seed": 1, "n_trials": 4}}
    run_id = start(store, "again", settings, "a")
    finish(store, run_id, "KILLED")
    assert store.client.get_run(run_id).info.status == "KILLED"
    settings = {"study": {"seed": 1, "n_trials": 8, "name": "x" * 7000}}
    assert run_id == start(store, "again", settings, "b")
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.note.content"] == "b"
    assert run.data.params["study.n_trials"] == "4"  # MLflow's params never change
    assert len(run.data.params["study.name"]) == 6000
    path = store.client.download_artifacts(run_id, "study.json")
    assert json.loads(Path(path).read_text()) == settings
    assert find_key(store, study_key("again")) == run_id
    assert find_key(store, study_key("other")) is None


def test_a_hundred_long_settings(store):
    settings = {f"group{i}": {"name": [i] * 2500} for i in range(150)}
    run_id = start(store, "long", settings)
    params = store.client.get_run(run_id).data.params
    assert len(params) == 150
    assert all(len(value) <= 6000 for value in params.values())


def test_branch_whose_name_no_param_can_have(store):
    branches = {"[3,3]": {"low": 0.1}, "[4,4]": {"low": 0.2}, f"[{'3,' * 200}3]": {"low": 0.3}}
    settings = {"study": {"space": {"optimizer.learning_rate": {"by": "model.widths", **branches}}}}
    run_id = start(store, "branches", settings)
    params = store.client.get_run(run_id).data.params
    assert params["study.space.optimizer.learning_rate._3_3_.low"] == "0.1"
    assert len(params) == 4


def test_update_leaves_out_what_is_not_finite(store):
    run_id = start(store, "updated")
    metrics = {"best": 0.9, "worst": math.nan, "largest": math.inf}
    update_run(store, run_id, metrics=metrics, tags={"mlp.best_trial": "3"})
    data = store.client.get_run(run_id).data
    assert data.metrics == {"best": 0.9}
    assert data.tags["mlp.best_trial"] == "3"


def test_one_background_thread_may_upload(store):
    ids: list[str] = []
    thread = threading.Thread(
        target=lambda: ids.append(upload(store, make_record(), 1, study="thread"))
    )
    thread.start()
    upload(store, make_record(), 2, study="thread")
    thread.join()
    assert fetch_run(store, ids[0]).tags["mlp.trial"] == "1"


def test_threads_make_the_tables_of_their_stores_one_after_the_other(tmp_path):
    """As where a sweep ends early, whose own thread is still opening its store."""
    tables = [
        lambda: open_store(Tracking(uri=f"sqlite:///{tmp_path}/a/mlflow.db")),
        lambda: open_store(Tracking(uri=f"sqlite:///{tmp_path}/b/mlflow.db")),
        lambda: open_storage(f"sqlite:///{tmp_path}/c/study.db"),
    ]
    with ThreadPoolExecutor(3) as threads:
        for made in [threads.submit(make) for make in tables]:
            made.result()


@pytest.mark.parametrize("run_id", ["", "x", "../../../etc/passwd", "A" * 32, "a" * 33, "a\n" * 16])
def test_what_is_no_run_id_is_refused(store, run_id):
    with pytest.raises(SettingError, match="32 hex digits"):
        fetch_run(store, run_id)


def test_unknown_run(store):
    with pytest.raises(MissingInputError, match=f"there is no run {'0' * 32} in sqlite:///"):
        fetch_run(store, "0" * 32)


def test_a_study_and_a_foreign_run_are_no_runs_to_rerun(store):
    study = start(store, "parent")
    with pytest.raises(RecordError, match="it is the parent of a study"):
        fetch_run(store, study)
    foreign = store.client.create_run(store.experiment_id).info.run_id
    with pytest.raises(RecordError, match="it is not one of this program"):
        fetch_run(store, foreign)


def replace_curve(folder):
    other = make_record(loss=np.linspace(1, 0, 21))
    record.write_artifacts(folder, other)


TAMPERING = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json .* is missing"),
    "huge config": (lambda folder: (folder / "config.json").write_bytes(b" " * 300_000), "300000"),
    "empty weights": (lambda folder: (folder / "weights.npz").write_bytes(b""), "it has 0 bytes"),
    "huge weights": (lambda folder: (folder / "weights.npz").write_bytes(b"\0" * 10**6), "1000000"),
    "other curve": (replace_curve, "was changed: .* mlp.curve_digest"),
}


def test_a_run_that_was_changed_is_refused(store, tmp_path):
    run_id = upload(store, make_record(), 0, study="tampered")
    files = Path(database(store).parent, "mlruns/three-vs-seven", run_id, "artifacts")
    whole = shutil.copytree(files, tmp_path / "whole")
    for change, reason in TAMPERING.values():
        change(files)
        with pytest.raises(RecordError, match=reason):
            fetch_run(store, run_id)
        shutil.copytree(whole, files, dirs_exist_ok=True)
    fetch_run(store, run_id)


@pytest.mark.system
def test_two_first_openings_at_once_both_succeed(tmp_path):
    program = (
        "from mlp.config import Tracking; from mlp.tracking.store import open_store; "
        "print(open_store(Tracking()).experiment_id)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said == [("1\n", ""), ("1\n", "")]
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_what_a_killed_first_opening_left_is_cleared(store):
    assert {path.name for path in database(store).parent.iterdir()} <= {"mlflow.db", "mlruns"}


def test_deleted_experiment_is_named(store):
    gone = store.client.create_experiment("gone")
    store.client.delete_experiment(gone)
    with pytest.raises(StoreError, match="was deleted; choose another"):
        open_store(Tracking(uri=store.uri, experiment="gone"))


def test_store_of_another_version_is_left_alone(store, tmp_path):
    copy = tmp_path / "old.db"
    shutil.copy(database(store), copy)
    with sqlite3.connect(copy) as file:
        file.execute("DROP TABLE spans")
    before = copy.read_bytes()
    with pytest.raises(StoreError, match="another version of MLflow"):
        open_store(Tracking(uri=f"sqlite:///{copy}"))
    assert copy.read_bytes() == before


def test_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="a database of another program"):
        open_store(Tracking(uri=f"sqlite:///{path}"))
    assert path.read_bytes() == before


def test_server_that_is_down(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UnavailableError) as caught:
        open_store(Tracking(uri="http://ann:secret@127.0.0.1:9"))
    assert str(caught.value) == (
        "the tracking store http://ann:***@127.0.0.1:9 does not answer: Connection refused"
    )


def test_records_with_another_key_are_other_runs(store):
    made = make_record()
    rerun = upload(store, made, 0, study="keys", **{"mlp.key": "keys/0/rerun-1"})
    assert rerun != upload(store, made, 0, study="keys")
    with pytest.raises(ValueError, match="a key must be"):
        upload(store, made, 0, **{"mlp.key": "x' OR 1"})


def test_test_accuracy_is_uploaded(store):
    made = dataclasses.replace(make_record(), test_accuracy=0.97)
    run_id = upload(store, made, 0, study="tested")
    assert store.client.get_run(run_id).data.metrics["test_accuracy"] == 0.97


@pytest.mark.parametrize(
    ("noted", "read"),
    [("diverged", "diverged"), ("oscillating", "learning"), ("stalled", "stalled")],
)
def test_of_verdicts_of_before_only_oscillation_is_judged_anew(store, noted, read):
    """The rule of then called ripples oscillation; where a run diverged, its points do not say."""
    client = store.client
    run = client.create_run(store.experiment_id, tags={"verdict": noted}, run_name=f"old {noted}")
    client.log_param(run.info.run_id, "optimizer.learning_rate", 0.5)
    client.log_metric(run.info.run_id, "amplitude", 0.3)
    rippled = [0.9**step * (1 + 0.2 * (-1) ** step) for step in range(60)]
    points = [Metric("loss", value, STARTED_MS, step) for step, value in enumerate(rippled)]
    client.log_batch(run.info.run_id, metrics=points)
    past = read_past_run(store, client.get_run(run.info.run_id))
    assert past.judgement.verdict.value == read


def test_first_digits_of_a_run_id_are_enough(store):
    run_id = upload(store, make_record({"training.seed": 77}), 0, study="short")
    assert fetch_run(store, run_id[:12]).run_id == run_id
    assert meant_run(store, run_id[:12]) == run_id
    assert meant_run(store, "short") == "short"
    typo = run_id[:11] + ("0" if run_id[11] != "0" else "1")
    with pytest.raises(
        MissingInputError, match=rf"no run {typo} in .*; did you mean '{run_id[:12]}'"
    ):
        fetch_run(store, typo)
    with pytest.raises(SettingError, match="or the first of them, but is 'ab'"):
        fetch_run(store, "ab")


def test_two_that_show_their_studies_at_once_both_succeed(here, monkeypatch):
    """Between the look for a tag and the new row another process has added it."""
    store = open_store(Tracking())
    merge, added = Session.merge, []

    def late(session, row):
        merged = merge(session, row)
        if not added:
            added.append(row.key)
            values = (store.experiment_id, row.key, "of the other")
            with sqlite3.connect("mlflow.db") as file:
                file.execute(
                    "INSERT INTO experiment_tags (experiment_id, key, value) VALUES (?, ?, ?)",
                    values,
                )
        return merged

    monkeypatch.setattr(Session, "merge", late)
    show_view(store, StudyPage("mine", "mine", {}, ""))
    tags = store.client.get_experiment(store.experiment_id).tags
    assert len(added) == 1
    assert tags[added[0]] != "of the other"
    assert "mine" in tags["mlflow.note.content"]
