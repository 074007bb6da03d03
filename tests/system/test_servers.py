"""Studies in PostgreSQL, runs behind a tracking server: real servers, stopped in the middle."""

import contextlib
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import optuna
import pytest

from mlp.errors import BusyError, StoreError
from mlp.study.lock import only_driver
from mlp.sweep import generation
from support import forks
from support.servers import Postgres, long, mlflow_server, postgres
from support.sweeping import (
    SMOKE,
    command,
    environment_of_commands,
    start,
    sweep,
    table,
    working_in,
)


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@pytest.fixture
def database(server: Postgres, request) -> str:
    """The address of a new database."""
    return server.create(f"d{abs(hash(request.node.nodeid))}")


@pytest.fixture(scope="module")
def expected(tmp_path_factory, made_store):
    """The trials of the study as SQLite and this process have them."""
    folder = tmp_path_factory.mktemp("expected")
    with working_in(folder, made_store):
        sweep()
    return [trial_key(row) for row in table(folder)], {row.weights_digest for row in table(folder)}


def trial_key(trial):
    """What must be the same of a trial, in whatever store."""
    return trial.number, tuple(sorted(trial.params.items())), trial.value


def trials_in(storage: str) -> list[tuple]:
    opened = optuna.storages.RDBStorage(storage)
    [summary] = optuna.get_all_study_summaries(opened)
    trials = optuna.load_study(study_name=summary.study_name, storage=opened).get_trials()
    opened.engine.dispose()
    assert all(trial.state.is_finished() for trial in trials)
    return [trial_key(trial) for trial in trials]


# The lock


def test_second_driver_is_told_who_holds_it(database):
    with holding(database) as holder:
        says = rf"study study-1 is held by process {holder.pid} on {socket.gethostname()} since 20"
        with pytest.raises(BusyError, match=says), only_driver(Path("x"), "study-1", database):
            pass
        with only_driver(Path("x"), "study-2", database):
            pass
        holder.kill()
        holder.wait()
    take_within(database, patience_s=10)


def test_lock_that_a_restart_has_lost_is_taken_again(database, server):
    with only_driver(Path("x"), "study-1", database) as still_held:
        server.stop_immediately()
        server.start()
        still_held()
        with pytest.raises(BusyError), only_driver(Path("x"), "study-1", database):
            pass


def test_lock_that_somebody_else_was_faster_to_take_is_said(database, server):
    with only_driver(Path("x"), "study-1", database) as still_held:
        server.stop_immediately()
        server.start()
        with holding(database) as holder, pytest.raises(BusyError, match=f"process {holder.pid} "):
            still_held()


def test_server_that_is_not_there_is_one_sentence(database, server):
    nobody = database.replace(str(server.port), "1").replace("study@", "study:secret@")
    with pytest.raises(StoreError, match="cannot lock") as caught, only_driver(Path(), "a", nobody):
        pass
    assert "secret" not in str(caught.value)


@contextlib.contextmanager
def holding(storage):
    """Another process that holds study-1."""
    with forks.Fork(hold, storage, Path.cwd(), environment_of_commands()) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def hold(storage):
    with only_driver(Path("nowhere"), "study-1", storage):
        print("held", flush=True)
        signal.pause()


def take_within(storage: str, patience_s: float) -> None:
    """Takes the lock of study-1: a server needs a moment to see that its client is gone."""
    end = time.monotonic() + patience_s
    while True:
        try:
            with only_driver(Path("x"), "study-1", storage):
                return
        except BusyError:
            assert time.monotonic() < end
            time.sleep(0.1)


# Sweeps


def test_study_in_postgresql_is_that_in_sqlite(here, database, expected):
    sweep(f"study.storage={database}")
    assert trials_in(database) == expected[0]
    assert {row.weights_digest for row in tracked_rows(here)} == expected[1]
    assert "(complete)" in sweep(f"study.storage={database}")
    assert not (here / "optuna.spool").exists()
    assert not (here / "optuna.db").exists()


@pytest.mark.parametrize("moment", [pytest.param("ask", marks=long), "tell"])
def test_server_that_crashes_and_comes_back_is_waited_for(
    here, database, server, expected, monkeypatch, moment
):
    """Stopped at once when the first generation is to be stored, or the second to be asked."""
    restarts = []

    def crash():
        server.stop_immediately()
        back = threading.Timer(1.0, server.start)
        back.start()
        restarts.append(back)

    original = getattr(generation.search, moment)
    calls = []

    def crashing(*args, **told):
        calls.append(args)
        if len(calls) == 2:
            crash()
        return original(*args, **told)

    with monkeypatch.context() as patch:
        patch.setattr(generation.search, moment, crashing)
        sweep(f"study.storage={database}")
    assert restarts
    restarts[0].join()
    assert trials_in(database) == expected[0]
    assert {row.weights_digest for row in tracked_rows(here)} == expected[1]


def test_commit_that_arrived_without_an_answer_is_not_repeated(
    here, database, server, expected, monkeypatch
):
    """The server stores a trial, and crashes before it can say so."""
    original = optuna.Study.add_trial
    calls = []

    def answerless(self, trial):
        original(self, trial)
        calls.append(trial)
        if len(calls) == 2:
            server.stop_immediately()
            server.start()
            raise optuna.exceptions.StorageInternalError from lost_connection()

    monkeypatch.setattr(optuna.Study, "add_trial", answerless)
    sweep(f"study.storage={database}")
    assert trials_in(database) == expected[0]


def lost_connection():
    from sqlalchemy.exc import OperationalError

    return OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))


def test_driver_that_is_killed_leaves_a_study_to_go_on_with(here, database, expected):
    words = [*SMOKE, f"study.storage={database}", "study.n_trials=4"]
    with start("sweep", *words) as process:
        while not (here / "optuna.spool").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    end = time.monotonic() + 20
    while True:
        try:
            sweep(f"study.storage={database}")
            break
        except BusyError:  # the server has not yet seen that the driver is gone
            assert time.monotonic() < end
            time.sleep(0.2)
    assert trials_in(database) == expected[0]
    assert sorted(row.status for row in tracked_rows(here)) == ["FINISHED"] * 4


def test_runs_go_to_a_tracking_server_and_come_back(
    here, tmp_path, database, expected, monkeypatch
):
    """MLflow's server over PostgreSQL, its files served by it: the sweep sees only its address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "100")  # its first answer, on busy cores
    folder = tmp_path / "server"
    folder.mkdir()
    with mlflow_server(folder, database) as url:
        said = sweep(f"tracking.uri={url}")
        assert f"{url}/#/experiments/" in said
        [rerun] = (line.split() for line in said.splitlines() if "mlp.rerun" in line)
        done = command("rerun", rerun[3], f"tracking.uri={url}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "identical" in done.stdout
        assert not (here / "mlruns").exists()
        files = list((folder / "artifacts").rglob("weights.npz"))
        assert sum("models" in file.parts for file in files) == 1
        assert len(files) == 5 + 1  # four trials, a rerun, and the best as a model
        from mlflow import MlflowClient

        client = MlflowClient(url)
        experiment = client.get_experiment_by_name("three-vs-seven")
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        trials = [
            run for run in runs if "mlp.trial" in run.data.tags and "mlp.key" in run.data.tags
        ]
        assert {run.data.tags["mlp.weights_digest"] for run in trials} >= expected[1]


@long
def test_runs_go_to_postgresql_itself(here, database, expected):
    done = command("sweep", *SMOKE, f"tracking.uri={database}")
    assert (done.returncode, done.stderr) == (0, "")
    [rerun] = (line.split() for line in done.stdout.splitlines() if "mlp.rerun" in line)
    done = command("rerun", rerun[3], f"tracking.uri={database}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "identical" in done.stdout


def tracked_rows(folder):
    """The runs of trials in MLflow's file, the study being elsewhere."""
    with sqlite3.connect(folder / "mlflow.db") as file:
        runs = file.execute("SELECT run_uuid, status FROM runs").fetchall()
        tags = file.execute("SELECT run_uuid, key, value FROM tags").fetchall()
    by_run = {run: {k: v for r, k, v in tags if r == run} for run, _ in runs}
    return [
        Tracked(status, by_run[run]["mlp.weights_digest"])
        for run, status in runs
        if "mlp.trial" in by_run[run]
    ]


class Tracked:
    def __init__(self, status: str, weights_digest: str) -> None:
        self.status, self.weights_digest = status, weights_digest
