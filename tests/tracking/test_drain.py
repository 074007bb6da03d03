"""The background thread that uploads: true statuses, nothing lost, bugs not swallowed."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from mlp.config import Tracking
from mlp.errors import StoreError
from mlp.tracking import drain, record, spool
from mlp.tracking.drain import Drain, study_below
from mlp.tracking.listing import Label, StudyPage, label_of_trial, read_listing
from mlp.tracking.store import find_key, open_store, recorded_trials
from support.sample_records import make_record
from support.sweeping import parent, tracked

PAGE = StudyPage(
    name="a-study",
    key="a-study",
    config={"study": {"seed": 3, "objective": "oscillation"}},
    description="**note**",
)


def draining() -> Drain:
    return Drain(PAGE.key, lambda: study_below(Tracking(), PAGE))


def put(here, number):
    place = spool.place_of(here / "spool" / "a-study", number)
    spool.put({place: (make_record(), label_of_trial(PAGE, number, f"#{number}"))})
    return place


def test_trial_leaves_the_spool_when_it_is_uploaded(here):
    place = put(here, 4)
    with draining() as uploads:
        uploads.add(place)
        uploads.describe(metrics={"test_accuracy": 0.5}, tags={}, of_trial=4)
        uploads.finish("FINISHED")
        assert uploads.problem is None
        assert uploads.parent_id == parent(here).run_id
    assert not place.exists()
    [trial] = (run for run in tracked(here) if run.name == "#4")
    assert (trial.run_id, trial.status) == (uploads.run_ids[4], "FINISHED")
    assert trial.tags["mlflow.parentRunId"] == parent(here).run_id
    assert trial.metrics["test_accuracy"] == 0.5


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_study_ends_with_the_status_it_is_given(here, status):
    with draining() as uploads:
        uploads.finish(status)
    assert parent(here).status == status


def test_trial_of_an_earlier_sweep_is_found_to_be_described(here):
    with draining() as first:
        first.add(put(here, 0))
        first.finish("KILLED")
    with draining() as second:
        second.describe(metrics={"test_accuracy": 0.25}, tags={}, of_trial=0)
        second.describe(metrics={"test_accuracy": 0.25}, tags={}, of_trial=1)
        second.finish("FINISHED")
    assert second.run_ids == first.run_ids
    [trial] = (run for run in tracked(here) if run.name == "#0")
    assert trial.metrics["test_accuracy"] == 0.25


def test_fault_is_told_and_the_rest_stays_in_the_spool(here):
    (here / "mlflow.db").write_text("not a database, and longer than its header")
    place = put(here, 0)
    with draining() as uploads:
        uploads.add(place)
        uploads.finish("FINISHED")
    assert isinstance(uploads.problem, StoreError)
    assert uploads.run_ids == {}
    assert place.is_dir()


def test_store_that_comes_back_gets_what_has_waited(here, monkeypatch):
    monkeypatch.setattr(drain, "_FIRST_PAUSE_S", 0.05)
    shutil.move("mlflow.db", "away.db")
    (here / "mlflow.db").write_text("not a database, and longer than its header")
    with draining() as uploads:
        for number in range(3):
            uploads.add(put(here, number))
        while uploads.problem is None:
            pass
        shutil.move("away.db", "mlflow.db")
        uploads.finish("FINISHED")
        assert uploads.problem is None
    assert sorted(uploads.run_ids) == [0, 1, 2]
    assert spool.waiting_in(here / "spool" / "a-study") == {}


def test_folder_is_uploaded_byte_for_byte(here):
    place = put(here, 0)
    lay = {name: (place / name).read_bytes() for name in record.ARTIFACTS}
    with draining() as uploads:
        uploads.add(place)
        uploads.finish("FINISHED")
    client = open_store(Tracking()).client
    for name, content in lay.items():
        file = client.download_artifacts(uploads.run_ids[0], name, str(here))
        assert Path(file).read_bytes() == content, name


@pytest.mark.parametrize("file", ["weights.npz", "listing.json"])
def test_damaged_one_of_those_that_lay_there_is_named_and_the_others_go(here, file):
    places = [put(here, number) for number in range(3)]
    content = (places[1] / file).read_bytes()
    (places[1] / file).write_bytes(content[: len(content) // 2])
    n_uploaded, [said] = drain.drain(open_store(Tracking()), places)
    assert n_uploaded == 2
    assert said.startswith(f"000001 ({file}")
    assert sorted(run.name for run in tracked(here)) == ["#0", "#2"]
    assert [*spool.waiting_in(here / "spool" / "a-study")] == [(1, 0)]


def test_damaged_trial_stays_and_holds_up_no_other(here):
    damaged, whole = put(here, 0), put(here, 1)
    (damaged / "listing.json").write_bytes(b"")
    with draining() as uploads:
        uploads.add(damaged)
        uploads.add(whole)
        uploads.finish("FINISHED")
    assert "listing.json" in str(uploads.problem)
    assert damaged.is_dir()
    assert sorted(uploads.run_ids) == [1]


def test_trials_without_a_finished_run_are_known(here):
    with draining() as uploads:
        uploads.add(put(here, 0))
        uploads.add(put(here, 2))
        assert uploads.missing(range(4)) == [1, 3]
        uploads.finish("FINISHED")
    store = open_store(Tracking())
    store.client.update_run(uploads.run_ids[2], status="KILLED")
    assert recorded_trials(store, "a-study") == {0: None}
    assert recorded_trials(store, "a_study") == {}  # _ is any letter to LIKE


def test_run_that_a_person_deleted_is_not_missing(here):
    with draining() as uploads:
        uploads.add(put(here, 0))
        uploads.finish("FINISHED")
    open_store(Tracking()).client.delete_run(uploads.run_ids[0])
    with draining() as uploads:
        assert uploads.missing([0]) == []
        uploads.finish("FINISHED")


@pytest.mark.parametrize("finds", [recorded_trials, lambda s, key: find_key(s, f"{key}/0")])
def test_second_run_of_a_trial_goes(here, finds):
    """Made by a request whose answer was lost on the way."""
    with draining() as uploads:
        uploads.add(put(here, 0))
        uploads.finish("FINISHED")
    store = open_store(Tracking())
    key = {"mlp.key": "a-study/0"}
    twins = [store.client.create_run(store.experiment_id, tags=key) for _ in range(3)]
    assert finds(store, "a-study")
    for twin in twins:
        assert store.client.get_run(twin.info.run_id).info.lifecycle_stage == "deleted"
    assert store.client.get_run(uploads.run_ids[0]).info.lifecycle_stage == "active"


def test_single_run_that_the_store_does_not_take_is_kept(here, monkeypatch):
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.1)
    tracking = Tracking(uri="http://127.0.0.1:1")
    label = Label("a run", {"mlp.rerun_of": "0" * 32})
    made = make_record()
    with pytest.raises(Exception, match=r"does not answer.*is kept in .*runs\.spool.*mlp\.doctor"):
        drain.record_run(lambda: open_store(tracking), made, label, remedy="mlp.doctor")
    [place] = spool.waiting_in(spool.folder_of_runs()).values()
    assert read_listing(place).tags.items() >= label.tags.items()
    assert read_listing(place).name == label.name
    assert record.read_record(place).started_ms == made.started_ms


def test_single_run_whose_recording_is_stopped_is_kept_and_says_so(here):
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as end:
        drain.record_run(stopped, make_record(), Label("a run", {}), remedy="mlp.doctor")
    assert "the run is kept in" in end.value.__notes__[0]
    assert len(spool.waiting_in(spool.folder_of_runs())) == 1


def test_bug_is_raised_where_somebody_sees_it(here, monkeypatch):
    monkeypatch.setattr("mlp.tracking.drain.read_listing", lambda place: dataclasses.asdict(place))
    uploads = draining()
    uploads.add(here)
    with pytest.raises(TypeError):
        uploads.finish("FINISHED")
    with pytest.raises(TypeError):
        uploads.__exit__(None, None, None)


def test_bug_does_not_hide_another_error(here, monkeypatch):
    monkeypatch.setattr("mlp.tracking.drain.read_listing", lambda place: dataclasses.asdict(place))
    with pytest.raises(KeyError, match="ours"):
        fail_beside_a_bug(here)


def fail_beside_a_bug(here):
    with draining() as uploads:
        uploads.add(here)
        raise KeyError("ours")
