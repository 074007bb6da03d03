"""The winner's settings with further seeds: trained once each, looked at once each, tracked."""

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from mlp.config import Execution, Tracking
from mlp.data.dataset import load_data
from mlp.doctor import run_doctor
from mlp.errors import SystemLimitError
from mlp.settings import read_sweep
from mlp.study.lock import only_driver
from mlp.sweep import winner
from mlp.sweep.winner import accuracy_on
from mlp.tracking.drain import Drain
from mlp.tracking.read import read_study
from mlp.tracking.record import read_recipe, weights_digest
from mlp.tracking.store import open_store
from mlp.training.train_runs import make_record
from support.losing import Losing, deadly
from support.sweeping import (
    SMOKE,
    composed,
    left_in,
    parent,
    plain,
    sweep,
    table,
    tracked,
    unpublished_sweep,
    working_in,
)
from support.training import results_of

THREE = "study.confirm_seeds=3"


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """How many networks each call has trained with further seeds."""
    sizes = []
    original = winner.train_runs

    def counting(configs, *args, **kwargs):
        sizes.append(len(configs))
        return original(configs, *args, **kwargs)

    monkeypatch.setattr(winner, "train_runs", counting)
    return sizes


def confirming(folder):
    return sorted(
        (run for run in tracked(folder) if "mlp.confirms" in run.tags), key=lambda run: run.name
    )


def artifact(folder: Path, run, name):
    [file] = folder.glob(f"mlruns/*/{run.run_id}/artifacts/{name}")
    return file.read_text()


def outcome(folder):
    """All that must not depend on how often the sweep was stopped."""
    runs = [(r.name, r.status, r.tags["mlp.weights_digest"]) for r in confirming(folder)]
    metrics = {k: v for k, v in parent(folder).metrics.items() if k.startswith("test_")}
    picture = artifact(folder, parent(folder), "wrong_digits.svg")
    return table(folder), runs, metrics, picture


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, made_store):
    """The outcome of the sweep that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with working_in(folder, made_store):
        sweep(THREE)
    return outcome(folder)


def test_winner_is_tested_with_further_seeds_on_all_training_examples(here, trained):
    said = sweep(THREE)
    assert trained == [3]
    assert "as the mean of 3 further seeds on all 289 training examples" in " ".join(said.split())
    study, runs = parent(here), confirming(here)
    winner = study.tags["mlp.best_trial"]
    assert [run.tags["mlp.confirms"] for run in runs] == [winner] * 3
    accuracies = [run.metrics["test_accuracy"] for run in runs]
    assert len({run.tags["mlp.weights_digest"] for run in runs}) == 3
    assert study.metrics["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert study.metrics["test_accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert study.metrics["test_accuracy_lowest"] == min(accuracies)
    assert study.metrics["test_accuracy_highest"] == max(accuracies)
    assert study.metrics["test_looks"] == 1
    past = read_study(open_store(Tracking()), study.run_id)
    assert [run.trial for run in past.runs] == [0, 1, 2, 3]  # they are no trials
    [best] = (run for run in tracked(here) if run.tags.get("mlp.trial") == winner)
    assert "test_accuracy" not in best.metrics
    settings = json.loads(artifact(here, best, "config.json"))["settings"]
    for i, run in enumerate(runs, start=1):
        text = artifact(here, run, "config.json")
        expected = {**settings, "training": {**settings["training"], "seed": i, "order_seed": i}}
        expected["data"] = {**settings["data"], "validation_fraction": 0.0}
        assert json.loads(text)["settings"] == expected
        config = read_recipe(text).config
        data = load_data(config.data, notice=print)
        [result] = results_of([config], data, Execution(threads=1))
        assert weights_digest(result) == run.tags["mlp.weights_digest"]
        record = make_record(config, data, result, started_ms=0, ended_ms=1, threads=1)
        assert accuracy_on(data.test, record, data) == run.metrics["test_accuracy"]
    picture = ET.fromstring(artifact(here, study, "wrong_digits.svg"))
    [title] = picture.findall("{*}title")
    n_mistakes = int(title.text.split()[0])
    assert len(picture.findall("{*}g")) == min(n_mistakes, 60) > 0

    # The same command again trains and looks no more.
    before = outcome(here)
    said = sweep(THREE)
    assert trained == [3]
    assert outcome(here) == before
    assert f"python -m mlp.rerun {best.run_id}" in said
    assert best.metrics["confirmed_test_accuracy"] == parent(here).metrics["test_accuracy"]


def test_more_seeds_are_those_and_further_ones(here, trained):
    sweep("study.confirm_seeds=1")
    [first] = confirming(here)
    assert parent(here).metrics["test_accuracy_deviation"] == 0
    said = sweep(THREE)
    assert trained == [1, 2]
    assert "(look" not in said
    assert confirming(here)[0] == first
    assert len(confirming(here)) == 3


def stop_at(monkeypatch, name, n_calls):
    """Lets a function of the confirmation be called so often, and then presses Ctrl-C.

    `add` is the drain's; it has been given four trials by then.
    """
    owner = Drain if name == "add" else winner
    original = getattr(owner, name)
    calls = []

    def stopping(*args, **kwargs):
        if len(calls) == n_calls:
            raise KeyboardInterrupt
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize(
    ("name", "n_calls", "n_trained"),
    [
        pytest.param("train_runs", 0, [3], marks=pytest.mark.system),
        pytest.param("accuracy_on", 1, [3, 3], marks=pytest.mark.system),
        pytest.param("_look", 2, [3], marks=pytest.mark.system),
        pytest.param("add", 5, [3], marks=pytest.mark.system),
        pytest.param("summarise_mistakes", 0, [3], marks=pytest.mark.system),
    ],
)
def test_stopped_anywhere_it_ends_as_if_nothing_had_been(
    here, undisturbed, trained, monkeypatch, name, n_calls, n_trained
):
    with monkeypatch.context() as patch:
        stop_at(patch, name, n_calls)
        with pytest.raises(KeyboardInterrupt):
            sweep(THREE)
    assert parent(here).status == "KILLED"
    sweep(THREE)
    assert trained == n_trained
    assert outcome(here) == undisturbed
    assert "optuna.db.spool" not in left_in(here)


def test_network_that_kills_its_workers_is_one_sentence_and_the_others_are_kept(
    here, trained, monkeypatch
):
    original = winner.train_runs
    with monkeypatch.context() as patch:
        patch.setattr(
            winner,
            "train_runs",
            lambda configs, data, where, **told: original(configs, data, Losing(deadly(1)), **told),
        )
        with pytest.raises(SystemLimitError, match=r"^seed \+2 of trial \d kills the worker"):
            sweep(THREE)
    assert "test_accuracy" not in parent(here).metrics
    assert confirming(here) == []
    sweep(THREE)
    assert trained == [3, 1]
    assert len(confirming(here)) == 3


def test_damaged_network_in_the_spool_is_trained_again(here, undisturbed, trained, monkeypatch):
    """Stopped after the first look; it ends as if nothing had been."""
    with monkeypatch.context() as patch:
        stop_at(patch, "_look", 1)
        with pytest.raises(KeyboardInterrupt):
            sweep(THREE)
    [file] = here.glob("optuna.db.spool/*/*.seed2/weights.npz")
    file.write_bytes(b"")
    said = sweep(THREE)
    assert "seed +2 of trial" in said
    assert trained == [3, 1]
    assert outcome(here) == undisturbed
    assert "optuna.db.spool" not in left_in(here)


@pytest.mark.system
def test_store_that_was_down_gets_the_networks_later(here, trained, monkeypatch):
    said, _ = unpublished_sweep(THREE, "tracking.uri=http://127.0.0.1:9")
    assert "not yet in MLflow: 7 runs" in said
    sweep(THREE)
    assert trained == [3]
    assert len(confirming(here)) == 3
    assert "optuna.db.spool" not in left_in(here)


@pytest.mark.system
def test_doctor_uploads_the_networks_whose_test_is_noted(here, trained, monkeypatch):
    """The other one stays for the sweep: its look at the test part is yet to be noted."""
    with monkeypatch.context() as patch:
        stop_at(patch, "_look", 2)
        with pytest.raises(KeyboardInterrupt):
            sweep(THREE, "tracking.uri=http://127.0.0.1:9")
    is_well, said = doctor()
    assert not is_well
    assert "7 runs of smoke-" in said
    is_well, said = doctor(fix=True)
    assert "6 runs published; 1 is not in the study yet" in " ".join(said.split())
    assert len(confirming(here)) == 2
    assert {run.tags["mlflow.parentRunId"] for run in confirming(here)} == {parent(here).run_id}
    assert len(table(here)) == 4
    sweep(THREE)
    assert trained == [3]
    assert len(confirming(here)) == 3
    assert doctor()[0]
    assert "optuna.db.spool" not in left_in(here)


def test_doctor_leaves_networks_of_a_study_that_is_being_worked_on(here, monkeypatch):
    unpublished_sweep(THREE, "tracking.uri=http://127.0.0.1:9")
    [folder] = here.glob("optuna.db.spool/smoke-????????")
    with only_driver(folder.parent, folder.name):
        assert "being worked on" in doctor(fix=True)[1]
        assert len(list(folder.glob("*.seed?"))) == 3


def doctor(*, fix=False) -> tuple[bool, str]:
    said = io.StringIO()
    is_well = run_doctor(read_sweep(composed("sweep", *SMOKE, THREE)), plain(said), fix=fix)
    return is_well, said.getvalue()
