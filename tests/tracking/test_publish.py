"""The background thread that publishes: true statuses, nothing lost, bugs not swallowed."""

import dataclasses
import shutil

import pytest

from mlp.config import Tracking
from mlp.errors import StoreError
from mlp.tracking import publish, runs, spool
from mlp.tracking.publish import Publisher
from mlp.tracking.spool import Label, StudyPage, label_of_trial
from mlp.tracking.store import open_store
from support.sample_records import make_record
from support.sweeping import parent, tracked

PAGE = StudyPage(
    name="a-study", key="a-study", config={"study": {"seed": 3}}, description="**note**"
)


def publisher(**settings) -> Publisher:
    return Publisher(Tracking(**settings), PAGE)


def put(here, number):
    label = label_of_trial(PAGE, number, f"#{number}")
    folder = here / "spool" / "a-study"
    spool.put(folder, {number: spool.Kept(make_record(), label)})
    return spool.place_of(folder, number)


def test_trial_leaves_the_spool_when_it_is_published(here):
    place = put(here, 4)
    with publisher() as published:
        published.publish(4, place)
        published.describe(metrics={"test_accuracy": 0.5}, tags={}, of_trial=4)
        published.finish("FINISHED")
        assert published.problem is None
        assert published.study_run_id == parent(here).run_id
    assert not place.exists()
    [trial] = (run for run in tracked(here) if run.name == "#4")
    assert (trial.run_id, trial.status) == (published.run_ids[4], "FINISHED")
    assert trial.tags["mlflow.parentRunId"] == parent(here).run_id
    assert trial.metrics["test_accuracy"] == 0.5


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_study_ends_with_the_status_it_is_given(here, status):
    with publisher() as published:
        published.finish(status)
    assert parent(here).status == status


def test_trial_of_an_earlier_sweep_is_found_to_be_described(here):
    with publisher() as first:
        first.publish(0, put(here, 0))
        first.finish("KILLED")
    with publisher() as second:
        second.describe(metrics={"test_accuracy": 0.25}, tags={}, of_trial=0)
        second.describe(metrics={"test_accuracy": 0.25}, tags={}, of_trial=1)
        second.finish("FINISHED")
    assert second.run_ids == first.run_ids
    [trial] = (run for run in tracked(here) if run.name == "#0")
    assert trial.metrics["test_accuracy"] == 0.25


def test_fault_is_told_and_the_rest_stays_in_the_spool(here):
    (here / "mlflow.db").write_text("not a database, and longer than its header")
    place = put(here, 0)
    with publisher() as published:
        published.publish(0, place)
        published.finish("FINISHED")
    assert isinstance(published.problem, StoreError)
    assert published.run_ids == {}
    assert place.is_dir()


def test_store_that_comes_back_gets_what_has_waited(here, monkeypatch):
    monkeypatch.setattr(publish, "_FIRST_PAUSE_S", 0.05)
    shutil.move("mlflow.db", "away.db")
    (here / "mlflow.db").write_text("not a database, and longer than its header")
    with publisher() as published:
        for number in range(3):
            published.publish(number, put(here, number))
        while published.problem is None:
            pass
        shutil.move("away.db", "mlflow.db")
        published.finish("FINISHED")
        assert published.problem is None
    assert sorted(published.run_ids) == [0, 1, 2]
    assert list(spool.waiting(here / "spool" / "a-study")) == []


def test_damaged_trial_stays_and_holds_up_no_other(here):
    damaged, whole = put(here, 0), put(here, 1)
    (damaged / "curve.npz").write_bytes(b"")
    with publisher() as published:
        published.publish(0, damaged)
        published.publish(1, whole)
        published.finish("FINISHED")
    assert "curve.npz" in str(published.problem)
    assert damaged.is_dir()
    assert sorted(published.run_ids) == [1]


def test_trials_without_a_finished_run_are_known(here):
    with publisher() as published:
        published.publish(0, put(here, 0))
        published.publish(2, put(here, 2))
        assert published.missing(range(4)) == [1, 3]
        published.finish("FINISHED")
    store = open_store(Tracking())
    store.client.update_run(published.run_ids[2], status="KILLED")
    assert runs.recorded_trials(store, "a-study") == {0}
    assert runs.recorded_trials(store, "a_study") == set()  # _ is any letter to LIKE


def test_run_that_a_person_deleted_is_not_missing(here):
    with publisher() as published:
        published.publish(0, put(here, 0))
        published.finish("FINISHED")
    open_store(Tracking()).client.delete_run(published.run_ids[0])
    with publisher() as published:
        assert published.missing([0]) == []
        published.finish("FINISHED")


@pytest.mark.parametrize("finds", [runs.recorded_trials, lambda s, key: runs.find_trial(s, key, 0)])
def test_second_run_of_a_trial_goes(here, finds):
    """Made by a request whose answer was lost on the way."""
    with publisher() as published:
        published.publish(0, put(here, 0))
        published.finish("FINISHED")
    store = open_store(Tracking())
    key = {"mlp.key": "a-study/0"}
    twins = [store.client.create_run(store.experiment_id, tags=key) for _ in range(3)]
    assert finds(store, "a-study")
    for twin in twins:
        assert store.client.get_run(twin.info.run_id).info.lifecycle_stage == "deleted"
    assert store.client.get_run(published.run_ids[0]).info.lifecycle_stage == "active"


def test_single_run_that_the_store_does_not_take_is_kept(here, monkeypatch):
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.1)
    tracking = Tracking(uri="http://127.0.0.1:1")
    label = Label("a run", {"mlp.rerun_of": "0" * 32})
    made = make_record()
    with pytest.raises(Exception, match=r"does not answer.*is kept in .*runs\.spool.*mlp\.doctor"):
        publish.publish_single(tracking, made, label, remedy="mlp.doctor")
    [(_, place)] = spool.waiting(spool.folder_of_runs())
    kept = spool.take(place)
    assert kept.label == label
    assert kept.record.started_ms == made.started_ms


def test_bug_is_raised_where_somebody_sees_it(here, monkeypatch):
    monkeypatch.setattr("mlp.tracking.spool.take", lambda place: dataclasses.asdict(place))
    published = publisher()
    published.publish(0, here)
    with pytest.raises(TypeError):
        published.finish("FINISHED")
    with pytest.raises(TypeError):
        published.__exit__(None, None, None)


def test_bug_does_not_hide_another_error(here, monkeypatch):
    monkeypatch.setattr("mlp.tracking.spool.take", lambda place: dataclasses.asdict(place))
    with pytest.raises(KeyError, match="ours"):
        fail_beside_a_bug(here)


def fail_beside_a_bug(here):
    with publisher() as published:
        published.publish(0, here)
        raise KeyError("ours")
