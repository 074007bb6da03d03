"""Faults of disks, files and first moments that no other tests meet; see docs/guarantees.md."""

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mlp.errors
from mlp.errors import BusyError, StoreError
from mlp.study import storage
from support import forks
from support.sweeping import (
    SMOKE,
    command,
    environment_of_commands,
    left_in,
    parent,
    start,
    stored,
    sweep,
    table,
    tracked,
    working_in,
)

LONG = ("training.steps=5000000", "study.n_trials=2")


def test_this_table_names_tests_that_exist():
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "guarantees.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", page)
    assert len(named) > 50
    code = {file.name: file.read_text() for file in tests.rglob("test_*.py")}
    for file, name in named:
        assert f"def {name}(" in code[file], f"{file}::{name}"


# The first second


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, signal.SIGINT) for name in ("sweep", "train", "rerun", "doctor")),
        *(("sweep", number) for number in (signal.SIGTERM, signal.SIGHUP)),
    ],
)
def test_signal_while_a_command_is_imported(here, name, number):
    """The signal comes from the first import that follows the package's own."""
    script = (
        "import os, sys, importlib.abc\n"
        "class Signal(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'pydantic': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Signal())\n"
    )
    (here / "sitecustomize.py").write_text(script)
    environment = environment_of_commands()
    environment["PYTHONPATH"] = f"{here}{os.pathsep}{environment['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", f"mlp.{name}"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 128 + number
    assert done.stderr == f"ended by {number.name}\n"
    assert done.stdout == ""


def test_importing_the_package_changes_no_signal():
    script = (
        "import signal; before = signal.getsignal(signal.SIGINT); import mlp.settings; "
        "print(signal.getsignal(signal.SIGINT) is before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_nohup_is_respected(here):
    """A terminal that is closed ends a sweep, but not one that was started with nohup."""
    with forks.Fork(under_nohup, ["mlp.sweep", *SMOKE], here, environment_of_commands()) as process:
        assert process.stdout.readline().startswith("study smoke-")
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate()
    assert process.returncode == 0
    assert "best is trial" in said


def in_a_fork(main, what):
    return forks.run_in_fork(main, what, Path.cwd(), environment_of_commands())


def under_nohup(words):
    """As nohup does: it ignores the signal, and becomes the command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    forks.as_main(words)


def test_second_signal_ends_at_once_and_the_sweep_goes_on_later(here):
    with start("sweep", *SMOKE, *LONG) as process:
        while not any("mlp.study" in run.tags for run in tracked(here)):
            assert process.poll() is None
        holder = sqlite3.connect("mlflow.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")  # so that the first signal finds something to wait for
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        holder.close()
    assert process.returncode == 130
    assert "Traceback" not in errors
    # What was interrupted is another study than this one; its lock is free and its store whole.
    assert doctor_is_well(here)
    sweep()
    assert sum(run.tags.get("mlp.trial", "") != "" for run in tracked(here)) == 4


def doctor_is_well(here) -> bool:
    return command("doctor", "fix=true").returncode == 0


# Disks and folders


def on_a_full_disk(what):
    """A sweep of which no file can become larger than so many bytes, but for what it says."""
    words, most = what
    said, (_, limit) = io.StringIO(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limit))
            forks.as_main(["mlp.sweep", *words])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        print(said.getvalue(), end="", file=sys.stderr)


WIDE = "model.widths=64"


def test_full_disk_is_one_sentence_and_the_sweep_goes_on_when_there_is_room(
    here, tmp_path, made_store
):
    """Full at the lock, the tables of the search, a trial in the spool, a trial in the search.

    No file can become larger than so many kilobytes.
    """
    for kilobytes in (0, 20, 100, 130):
        done = in_a_fork(on_a_full_disk, ([*SMOKE, WIDE], kilobytes * 1000))
        assert done.returncode in (74, 75)
        errors = done.stderr.splitlines()
        assert errors[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
        with sqlite3.connect("mlflow.db") as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    sweep(WIDE)
    ours = table(here)
    assert [row.status for row in ours] == ["FINISHED"] * 4
    (whole := tmp_path / "whole").mkdir()
    with working_in(whole, made_store):
        sweep(WIDE)
    assert ours == table(whole)


def test_folder_that_cannot_be_made_is_named(here):
    done = command("sweep", *SMOKE, "study.storage=sqlite:////proc/x/optuna.db")
    assert done.returncode == 74
    assert re.fullmatch(r"error: cannot make /proc/x: .*\n", done.stderr)


def test_tracking_folder_that_cannot_be_written_is_named(here):
    done = command("train", "data=digits", "training.steps=3", "tracking.uri=sqlite:////proc/m.db")
    assert done.returncode == 74
    assert done.stderr.startswith("error: cannot write to /proc: ")
    assert done.stderr.count("\n") == 1
    assert ".new" not in done.stderr


def test_folder_without_permission_is_refused_before_the_data_are_loaded(here, monkeypatch):
    monkeypatch.setattr("mlp.sweep.run_study.examples_for", None)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    before = left_in(here)
    with pytest.raises(StoreError, match="cannot be written; change its permissions"):
        sweep()
    assert left_in(here) == before


# Stores


@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
def test_file_of_another_kind_is_refused_and_kept(here, name):
    (here / name).write_text("no database, and longer than its header")
    with pytest.raises(StoreError, match=rf"{name} is not an SQLite database; choose another"):
        sweep()
    assert (here / name).read_text().startswith("no database")


def test_damaged_study_store_is_refused_and_kept(swept):
    content = bytearray((swept / "optuna.db").read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    (swept / "optuna.db").write_bytes(content)
    done = command("sweep", *SMOKE)
    assert done.returncode == 74
    assert re.match(
        r"error: .*optuna\.db.*: (database disk image is malformed|file is not)", done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert (swept / "optuna.db").read_bytes() == bytes(content)


def test_study_store_that_is_locked_is_said_after_a_while(swept, monkeypatch):
    monkeypatch.setattr(storage, "_PATIENCE_S", 0.2)
    with sqlite3.connect("optuna.db", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match=r"another program holds the study store sqlite:///opt"):
            sweep("study.n_trials=6")
        holder.execute("ROLLBACK")
    sweep("study.n_trials=6")
    assert len(table(swept)) == 6


def test_study_store_of_another_version_is_refused_before_anything_is_written(swept):
    with sqlite3.connect("optuna.db") as file:
        file.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'")
    shutil.rmtree("mlruns")
    before = {file: (swept / file).read_bytes() for file in ("optuna.db", "mlflow.db")}
    done = command("sweep", *SMOKE, "study.n_trials=6")
    assert done.returncode == 74
    assert re.match(r"error: cannot use sqlite:///optuna\.db: ", done.stderr)
    assert {file: (swept / file).read_bytes() for file in before} == before
    assert left_in(swept) == {"optuna.db", "mlflow.db"}


def test_tracking_store_of_another_version_is_left_alone_and_the_sweep_kept(here):
    with sqlite3.connect("mlflow.db") as file:
        file.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    before = (here / "mlflow.db").read_bytes()
    done = command("sweep", *SMOKE)
    assert done.returncode == 74
    assert "mlflow db upgrade" in done.stderr
    assert (here / "mlflow.db").read_bytes() == before
    assert len(stored(here)) == 4
    assert "not yet in MLflow: 4 runs" in done.stdout


def test_two_studies_that_make_the_stores_at_once_both_succeed(tmp_path, monkeypatch):
    """Not even the folder's stores are there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweeps = [start("sweep", *SMOKE, f"study.seed={seed}", cwd=tmp_path) for seed in (1, 2)]
    errors = [process.communicate()[1] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], errors
    runs = tracked(tmp_path)
    assert [run.status for run in runs] == ["FINISHED"] * 10
    assert len({run.tags["mlp.key"] for run in runs}) == 10


# Another tracking store than before


def test_study_whose_tracking_store_is_gone_is_recorded_again(swept, made_store):
    before = table(swept)
    shutil.rmtree("mlruns")
    shutil.copy(made_store, "mlflow.db")
    said = sweep()
    assert "4 earlier trials of this study have no run in the tracking store; they are" in said
    assert table(swept) == before
    assert parent(swept).status == "FINISHED"
    assert "have no run" not in sweep()


def test_study_that_goes_on_in_another_store_is_whole_there(swept, made_store):
    before = table(swept)
    (swept / "other").mkdir()
    shutil.copy(made_store, "other/mlflow.db")
    said = sweep("tracking.uri=sqlite:///other/mlflow.db", "study.n_trials=6")
    assert "4 earlier trials" in said
    shutil.copy("optuna.db", "other")
    assert table(swept / "other")[:4] == before
    assert len(table(swept / "other")) == 6
    assert [run.status for run in tracked(swept / "other")] == ["FINISHED"] * 7


def test_pruned_trial_is_recorded_again_as_it_was(here, made_store):
    pruning = (
        *("study.pruner=percentile", "study.percentile=80", "study.n_trials=11"),
        *("study.generation=3", "training.evaluate_every=2"),
    )
    sweep(*pruning)
    before = table(here)
    assert {row.state for row in before} == {"PRUNED", "COMPLETE"}
    shutil.copy(made_store, "mlflow.db")
    said = sweep(*pruning)
    assert "came out differently" not in said
    assert table(here) == before


# What is not shown


def test_closed_output_of_the_other_commands(here):
    """Both start cold, as their users start them."""
    for name, arguments in {"train": ("data=digits", "training.steps=30"), "doctor": ()}.items():
        with subprocess.Popen(
            [sys.executable, "-m", f"mlp.{name}", *arguments],
            env=environment_of_commands(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == ""
            assert process.wait(120) in (0, 1, 141)


def hastily(words):
    """A sweep that gives up a server at once."""
    mlp.errors.PATIENCE_S = 0.1
    forks.as_main(["mlp.sweep", *words])


def test_passwords_are_in_no_file_and_on_no_screen(here):
    secret = "hush-9213"
    where = f"tracking.uri=http://ann:{secret}@127.0.0.1:1"
    done = in_a_fork(hastily, [*SMOKE, where])
    assert done.returncode == 69
    assert secret not in done.stdout + done.stderr
    for file in here.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file
    done = command("doctor", where)
    assert secret not in done.stdout + done.stderr
