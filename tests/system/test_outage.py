"""A real tracking server behind a way that fails: training goes on, nothing is lost or there twice.

What is asserted is read from the server's own database, not asked from it.
"""

import io
import re
import time
from pathlib import Path

import pytest

from mlp.doctor import run_doctor
from mlp.settings import read_sweep
from mlp.sweep import generation
from mlp.terminal.compose import compose
from mlp.tracking import drain, spool
from mlp.tracking.drain import Drain
from support.faulty_way import Server
from support.sweeping import (
    SMOKE,
    command,
    left_in,
    plain,
    stored,
    sweep,
    tracked,
    unpublished_sweep,
    working_in,
)

OUTAGES = ["refuse", "reset", "black hole", "500", "lost answer"]


@pytest.fixture
def hasty(here, monkeypatch):
    """A client that gives up early and is back soon, so that these tests take seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(drain, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(drain, "_LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 1.0)
    return here


@pytest.fixture(scope="module")
def digests(tmp_path_factory, made_store) -> dict[str, str]:
    """Trial -> digest of its curve, of the study without any outage."""
    folder = tmp_path_factory.mktemp("whole")
    with working_in(folder, made_store):
        sweep()
    return digests_of(tracked(folder))


def digests_of(runs) -> dict[str, str]:
    trials = [run for run in runs if "mlp.trial" in run.tags]
    assert len({run.tags["mlp.trial"] for run in trials}) == len(trials), "a trial is there twice"
    return {run.tags["mlp.trial"]: run.tags["mlp.curve_digest"] for run in trials}


def where(server: Server, experiment: str) -> tuple[str, str]:
    return f"tracking.uri=http://127.0.0.1:{server.way.port}", f"tracking.experiment={experiment}"


def assert_whole(
    server: Server, experiment: str, digests: dict[str, str], *, by_doctor: bool = False
) -> None:
    """Every trial once, with its bits and its files, and nothing running.

    The picture of all losses is drawn by a sweep, and not by the doctor.
    """
    runs = tracked(server.folder, experiment)
    assert digests_of(runs) == digests
    assert [run.status for run in runs] == ["FINISHED"] * (len(digests) + 1)
    for run in runs:
        files = {path.name for path in server.folder.glob(f"artifacts/*/{run.run_id}/artifacts/*")}
        expected = {"config.json", "curve.npz", "weights.npz", "loss.svg"}
        of_study = {"study.json"} if by_doctor else {"study.json", "losses.svg"}
        assert files == (expected if "mlp.trial" in run.tags else of_study)


def test_sweep_under_an_outage_and_the_next_one_without(server, hasty, digests):
    """One study under one outage after the other: trained under the first, whole after the last."""
    for mode in OUTAGES:
        server.way.set(mode)
        before = server.way.n_connections
        said, error = unpublished_sweep(*where(server, "outages"))
        assert error.exit_code == 69
        assert bool(re.search(r"^4/4 trials", said, re.MULTILINE)) == (mode == OUTAGES[0])
        assert re.search(r"the tracking store http://\S+ does not answer", str(error))
        *_, unpublished, kept, fix = said.splitlines()
        assert unpublished.startswith("not yet in MLflow: 4 runs, because the tracking store http:")
        assert kept == "they are kept; the same command publishes them, and so does"
        assert fix.startswith("  python -m mlp.doctor fix=true tracking.uri=http://127.0.0.1:")
        assert (server.way.n_connections > before) == (mode != "refuse")
        assert len(stored(hasty)) == 4
    server.way.set("pass")
    sweep(*where(server, "outages"))
    assert_whole(server, "outages", digests)
    assert "optuna.db.spool" not in left_in(Path.cwd())


def test_server_that_fails_and_comes_back_during_the_sweep(server, hasty, digests, monkeypatch):
    """Its answers are lost from the first trial in MLflow on, until the training is over."""
    n_generations = iter(range(9))
    original = generation.train_runs

    def training(*args, **kwargs):
        if next(n_generations) == 1:
            wait_for(lambda: any(r.status == "FINISHED" for r in tracked(server.folder, "during")))
            server.way.set("lost answer")
        return original(*args, **kwargs)

    waits = Drain.finish

    def end_of_outage(uploads, status):
        wait_for(lambda: uploads.problem is not None)
        server.way.set("pass")
        waits(uploads, status)

    monkeypatch.setattr(generation, "train_runs", training)
    monkeypatch.setattr(Drain, "finish", end_of_outage)
    try:
        said = sweep(*where(server, "during"))
    finally:
        server.way.set("pass")
    assert "not yet in MLflow" not in said
    assert_whole(server, "during", digests)


def test_server_that_is_killed_and_started_again_during_the_sweep(
    server, hasty, digests, monkeypatch
):
    original = generation.train_runs
    n_generations = iter(range(9))

    def training(*args, **kwargs):
        if next(n_generations) == 1:
            wait_for(lambda: any(r.status == "FINISHED" for r in tracked(server.folder, "killed")))
            server.kill()
        return original(*args, **kwargs)

    waits = Drain.finish

    def start_again(uploads, status):
        wait_for(lambda: uploads.problem is not None)
        server.start()
        waits(uploads, status)

    monkeypatch.setattr(generation, "train_runs", training)
    monkeypatch.setattr(Drain, "finish", start_again)
    said = sweep(*where(server, "killed"))
    assert "not yet in MLflow" not in said
    assert_whole(server, "killed", digests)


def test_slow_server_holds_up_no_training(server, hasty, digests, monkeypatch):
    """All is trained before the first trial is published; then what waits is waited for."""
    server.way.pause_s = 0.05  # of each request; a model alone takes dozens
    server.way.set("slow")
    uploaded_meanwhile = []
    original = Drain.finish

    def finish(uploads, status):
        uploaded_meanwhile.append(len(uploads.run_ids))
        original(uploads, status)

    monkeypatch.setattr(Drain, "finish", finish)
    try:
        sweep(*where(server, "slow"))
    finally:
        server.way.set("pass")
    assert uploaded_meanwhile[0] < 4
    assert_whole(server, "slow", digests)


def test_doctor_publishes_what_an_outage_left(server, hasty, digests):
    server.way.set("refuse")
    unpublished_sweep(*where(server, "doctored"))
    server.way.set("pass")
    config = read_sweep(compose("sweep", [*SMOKE, *where(server, "doctored")]))
    said = io.StringIO()
    assert not run_doctor(config, plain(said), fix=False)
    assert "4 runs of smoke-" in said.getvalue()
    assert digests_of(tracked(server.folder, "doctored")) == {}
    for _ in range(2):  # the second time there is nothing to do
        said = io.StringIO()
        assert run_doctor(config, plain(said), fix=True), said.getvalue()
    assert "no run waits for MLflow" in said.getvalue()
    assert digests_of(tracked(server.folder, "doctored")) == digests
    sweep(*where(server, "doctored"))
    assert_whole(server, "doctored", digests, by_doctor=True)


def test_run_of_train_is_kept_and_published_later(server, hasty):
    server.way.set("refuse")
    arguments = ("data=digits", "training.steps=30", *where(server, "single"))
    done = command("train", *arguments)
    assert done.returncode == 69
    assert re.fullmatch(
        r"error: the tracking store http://\S+ does not answer: .*; the run is kept in \S+/a \[b\] "
        r"c/runs\.spool, and this publishes it: python -m mlp\.doctor fix=true tracking\.uri=\S+ "
        r"tracking\.experiment=single\n",
        done.stderr,
    )
    server.way.set("pass")
    fixed = command("doctor", "fix=true", *where(server, "single"))
    assert (fixed.returncode, fixed.stderr) == (0, "")
    assert "fixed spool: 1 run published" in fixed.stdout
    [run] = tracked(server.folder, "single")
    assert run.status == "FINISHED"
    assert not spool.folder_of_runs().exists()


def wait_for(condition, patience_s=300.0):
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
