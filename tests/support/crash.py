"""Sweeps that die before one of their writes, are gone on with, and must end as if nothing was.

A write is an SQL statement or commit of Optuna's or MLflow's store, a rename or removal of files or
folders, or a call of MLflow's client, before and after it.

scripts/crash_at_random.py draws the moments, or kills real processes.
"""

import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from mlp.config import SweepConfig
from mlp.settings import read_sweep
from mlp.sweep.run_study import run_study
from mlp.terminal.compose import compose
from support.forks import forks
from support.sweeping import SMOKE, left_in, parent, plain, table, tracked

KILLED = 137
CALLS = (
    "create_run",
    "log_batch",
    "log_inputs",
    "log_artifact",
    "log_artifacts",
    "set_terminated",
    "update_run",
)
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
QUICK = ("training.steps=10", "training.evaluate_every=2", "study.generation=3")
GRID = (
    "study.sampler=grid",
    "~study.space.optimizer.learning_rate",
    "+study.space.optimizer.learning_rate=[0.1,1.0,9.0]",
)

# What is typed one after the other; the last of equal commands ends a study that has a time limit.
STUDIES: dict[str, list[tuple[str, ...]]] = {
    "random": [("study.n_trials=5",)],
    "tpe": [("study.sampler=tpe", "study.n_trials=13", "study.generation=4")],
    "qmc": [("study.sampler=qmc", "study.n_trials=5")],
    "grid": [(*GRID, "study.n_trials=6")],
    "pruned": [
        ("study.pruner=percentile", "study.percentile=80", "study.n_trials=11", "training.steps=40")
    ],
    "timed": [("study.timeout_s=1e-9", "study.n_trials=5")] * 2,
    "raised": [("study.n_trials=2",), ("study.n_trials=5",)],
    "long": [("study.sampler=tpe", "study.n_trials=36", "study.generation=4")],
}


@functools.cache
def commands(name: str) -> list[SweepConfig]:
    """The commands of a study, composed once: that takes longer than the study."""
    typed = STUDIES[name]
    return [read_sweep(compose("sweep", [*SMOKE, *QUICK, *overrides])) for overrides in typed]


def study_in(folder: Path, configs: list[SweepConfig]) -> None:
    """Goes through the commands of a study, as far as they are not done."""
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    for config in configs:
        run_study(config, console=plain(io.StringIO()))


def study_until(folder: Path, configs: list[SweepConfig], last: int) -> None:
    """As `study_in`, but dies before write number `last`; notes how many there are."""
    count = counting(last)
    study_in(folder, configs)
    (folder / "n_writes").write_text(str(count()))


def counting(last: int) -> Callable[[], int]:
    """Ends the process before write number `last`; returns what tells how many there were."""
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    n_writes = 0

    def count(*_: object) -> None:
        nonlocal n_writes
        n_writes += 1
        if n_writes == last:
            os._exit(KILLED)

    def counted(original):
        def call(*args, **kwargs):
            count()
            result = original(*args, **kwargs)
            count()
            return result

        return call

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    for call in CALLS:
        setattr(MlflowClient, call, counted(getattr(MlflowClient, call)))
    sys.addaudithook(lambda name, _: count() if name in EVENTS else None)
    return lambda: n_writes


def run_fork(target: Callable[..., None], *args: object) -> int:
    """Runs a function in a fork; returns its exit code."""
    process = forks().Process(target=target, args=args)
    process.start()
    process.join(240)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def reference(folder: Path, store: Path, name: str) -> None:
    """Runs a study without a stop; a file of its folder, `n_writes`, says how many it has."""
    shutil.copy(store, folder / "mlflow.db")
    assert run_fork(study_until, folder, commands(name), 10**9) == 0


def die_and_go_on(folder: Path, store: Path, name: str, last: int) -> None:
    """Dies before a write, and types the same again."""
    shutil.copy(store, folder / "mlflow.db")
    configs = commands(name)
    # 0: the threads took turns otherwise this time, and there were fewer writes.
    assert run_fork(study_until, folder, configs, last) in (KILLED, 0), "it failed by itself"
    assert run_fork(study_in, folder, configs) == 0, "it could not be gone on with"


def assert_same_end(folder: Path, expected: Path) -> None:
    """The same trials, one finished run each, nothing running, nothing left in the spool."""
    assert table(folder) == table(expected)
    assert {run.status for run in tracked(folder)} == {"FINISHED"}
    assert len(tracked(folder)) == len(table(expected)) + 1
    assert "optuna.db.spool" not in left_in(folder)
    ours, theirs = parent(folder), parent(expected)
    assert ours.tags["mlp.best_trial"] == theirs.tags["mlp.best_trial"]
    for metric in ("test_accuracy", "best_validation_accuracy", "oscillating_share", "test_looks"):
        assert ours.metrics[metric] == theirs.metrics[metric], metric
