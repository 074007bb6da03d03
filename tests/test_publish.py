"""The background thread that publishes: true statuses, nothing lost, bugs not swallowed."""

import pytest
from sample_records import make_record
from sweeping import parent, tracked

from mlp.config import Tracking
from mlp.errors import StoreError
from mlp.tracking import spool
from mlp.tracking.publish import Publisher, StudyPage

PAGE = StudyPage(
    name="a-study", key="a-study", config={"study": {"seed": 3}}, description="**note**"
)


def publisher(**settings) -> Publisher:
    return Publisher(Tracking(**settings), PAGE)


def test_trial_leaves_the_spool_when_it_is_published(here):
    place = spool.put(here / "spool" / "a-study", 4, make_record())
    with publisher() as published:
        published.publish(4, place, make_record(), "#4")
        published.describe(metrics={"test_accuracy": 0.5}, tags={}, of_trial=4)
        published.finish("FINISHED")
        assert published.problem is None
        assert published.study_run_id == parent(here).run_id
    assert not (here / "spool").exists()
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
        first.publish(0, here / "nowhere", make_record(), "#0")
        first.finish("KILLED")
    with publisher() as second:
        second.describe(metrics={"test_accuracy": 0.25}, tags={}, of_trial=0)
        second.describe(metrics={"test_accuracy": 0.25}, tags={}, of_trial=1)
        second.finish("FINISHED")
    assert second.run_ids == first.run_ids
    [trial] = (run for run in tracked(here) if run.name == "#0")
    assert trial.metrics["test_accuracy"] == 0.25


def test_first_fault_is_kept_and_the_rest_stays_in_the_spool(here):
    (here / "mlflow.db").write_text("not a database, and longer than its header")
    place = spool.put(here / "spool" / "a-study", 0, make_record())
    with publisher() as published:
        published.publish(0, place, make_record(), "#0")
        published.finish("FINISHED")
    assert isinstance(published.problem, StoreError)
    assert published.run_ids == {}
    assert place.is_dir()


def test_bug_is_raised_where_somebody_sees_it(here):
    published = publisher()
    published.publish(0, here, None, "#0")
    with pytest.raises(AttributeError):
        published.finish("FINISHED")
    with pytest.raises(AttributeError):
        published.__exit__(None, None, None)


def test_bug_does_not_hide_another_error(here):
    with pytest.raises(KeyError, match="ours"):
        fail_beside_a_bug(here)


def fail_beside_a_bug(here):
    with publisher() as published:
        published.publish(0, here, None, "#0")
        raise KeyError("ours")
