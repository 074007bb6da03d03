"""Sweeps for the tests of the commands, and what is left of them in Optuna's and MLflow's store."""

import contextlib
import copy
import functools
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from mlp.errors import MlpError, StoreError, UnavailableError
from mlp.settings import read_run, read_sweep
from mlp.sweep.run_study import run_study
from mlp.terminal.compose import compose
from support import forks

SMOKE = ("sweeps=smoke", "training.steps=30", "study.explain=false")
DIVERGING = (
    "sweeps=smoke",
    "model=relu",
    "study.space.optimizer.learning_rate.low=1e29",
    "study.space.optimizer.learning_rate.high=1e30",
    "study.space.gradient.normalization=[mean]",
)


def sweep(*overrides: str) -> str:
    """Runs a sweep in this process; returns what it said."""
    said = io.StringIO()
    run_study(read_sweep(composed("sweep", *SMOKE, *overrides)), console=plain(said))
    return said.getvalue()


@contextlib.contextmanager
def working_in(folder: Path, made_store: Path) -> Iterator[None]:
    """The working directory of a fixture of many tests, with a store that is already made."""
    shutil.copy(made_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


def unpublished_sweep(*overrides: str, patience_s: float = 0.1) -> tuple[str, MlpError]:
    """Runs a sweep whose tracking fails; returns what it said, and how it ended.

    Args:
        overrides: as they are typed.
        patience_s: with the store, which does not come back by itself.
    """
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlp.errors.PATIENCE_S", patience_s)
        with pytest.raises((StoreError, UnavailableError)) as caught:
            run_study(read_sweep(composed("sweep", *SMOKE, *overrides)), console=plain(said))
    return said.getvalue(), caught.value


def run_config(*overrides: str) -> Any:
    return read_run(composed("train", "data=digits", "training.steps=30", *overrides))


def composed(name: str, *overrides: str) -> Any:
    """The values of a command line, composed once: a small study is trained in less time."""
    has_own_studies = Path("sweeps").exists()
    return compose(name, overrides) if has_own_studies else copy.deepcopy(_once(name, overrides))


@functools.cache
def _once(name: str, overrides: tuple[str, ...]) -> Any:
    return compose(name, overrides)


def plain(file: io.StringIO) -> Console:
    return Console(file=file, width=80)


def command(
    name: str,
    *arguments: str,
    cwd: Path | None = None,
    patience_s: float = 300,
    **environment: str,
) -> forks.Done:
    """Runs a command as its users do, but for the seconds in which it imports its libraries."""
    return forks.run_module(
        [f"mlp.{name}", *arguments],
        cwd or Path.cwd(),
        environment_of_commands() | environment,
        patience_s=patience_s,
    )


def run_script(script: str, cwd: Path | None = None) -> forks.Done:
    """Runs Python code in a process of its own, whose libraries are imported."""
    return forks.run_in_fork(_execute, script, cwd or Path.cwd(), environment_of_commands())


def _execute(script: str) -> None:
    exec(script, {"__name__": "__main__"})


def cold_command(
    name: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command as its users do."""
    return subprocess.run(
        [sys.executable, "-m", f"mlp.{name}", *arguments],
        cwd=cwd or Path.cwd(),
        env=environment_of_commands() | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def start(
    name: str, *arguments: str, cwd: Path | None = None, stdout: int = subprocess.PIPE
) -> forks.Fork:
    """Starts a command that is to be looked at, signalled or killed while it runs."""
    return forks.start_module(
        [f"mlp.{name}", *arguments],
        cwd or Path.cwd(),
        environment_of_commands(),
        is_heard=stdout == subprocess.PIPE,
    )


def environment_of_commands() -> dict[str, str]:
    """That of the tests, with the package where it was imported from."""
    import mlp

    return {**os.environ, "PYTHONPATH": str(Path(mlp.__file__).parents[1])}


@dataclass(frozen=True)
class Row:
    """All of a trial that must not depend on how often the sweep was stopped."""

    number: int
    params: dict[str, Any]
    state: str
    value: float | None
    verdict: str
    name: str
    status: str
    curve_digest: str
    weights_digest: str


def table(folder: Path) -> list[Row]:
    """The trials of the only study in a folder, each with its one run.

    Raises:
        AssertionError: if a trial has no run, or more than one.
    """
    runs = {}
    for run in tracked(folder):
        if "mlp.trial" in run.tags:
            number = int(run.tags["mlp.trial"])
            assert number not in runs, f"trial {number} has two runs"
            runs[number] = run
    trials = stored(folder)
    assert sorted(runs) == [trial.number for trial in trials]
    return [
        Row(
            number=trial.number,
            params=trial.params,
            state=trial.state.name,
            value=None if trial.value is None else float(trial.value),
            verdict=trial.user_attrs["verdict"],
            name=runs[trial.number].name,
            status=runs[trial.number].status,
            curve_digest=runs[trial.number].tags["mlp.curve_digest"],
            weights_digest=runs[trial.number].tags["mlp.weights_digest"],
        )
        for trial in trials
    ]


def stored(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
    [summary] = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow's tables have it."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]


def tracked(folder: Path, experiment: str | None = None) -> list[TrackedRun]:
    """Every run of the store in a folder, without the seconds that MLflow takes to say so.

    Args:
        folder: of the store.
        experiment: None: all.
    """
    with sqlite3.connect(folder / "mlflow.db") as file:
        runs = file.execute(
            "SELECT r.run_uuid, r.name, r.status FROM runs r JOIN experiments e "
            "ON e.experiment_id = r.experiment_id WHERE r.lifecycle_stage = 'active' "
            "AND (e.name = ?1 OR ?1 IS NULL)",
            (experiment,),
        ).fetchall()
        tags, metrics = (
            {(run, key): value for run, key, value in file.execute(sql)}
            for sql in (
                "SELECT run_uuid, key, value FROM tags",
                "SELECT run_uuid, key, value FROM latest_metrics",
            )
        )
    return [
        TrackedRun(
            run_id,
            name,
            status,
            {key: value for (run, key), value in tags.items() if run == run_id},
            {key: value for (run, key), value in metrics.items() if run == run_id},
        )
        for run_id, name, status in runs
    ]


def parent(folder: Path) -> TrackedRun:
    """The only study's run."""
    [found] = (run for run in tracked(folder) if run.tags.get("mlp.key", "").endswith("/study"))
    return found


class failing_table:  # noqa: N801  a context manager
    """A store that fails at each write to a table, from the given number of rows on."""

    def __init__(self, folder: Path, name: str, after: int = 0, *, file: str = "mlflow.db") -> None:
        self.file = sqlite3.connect(folder / file, isolation_level=None)
        self.file.execute(
            f"CREATE TRIGGER fault BEFORE INSERT ON {name} "
            f"WHEN (SELECT count(*) FROM {name}) >= {after} "
            "BEGIN SELECT RAISE(ABORT, 'the disk has had enough'); END"
        )

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.file.execute("DROP TRIGGER fault")
        self.file.close()


def left_in(folder: Path) -> set[str]:
    """What lies in a folder, but for spools in which nothing waits: they keep the lock files."""
    return {file.name for file in folder.iterdir() if not _is_empty_spool(file)}


def _is_empty_spool(folder: Path) -> bool:
    return folder.suffix == ".spool" and all(file.suffix == ".lock" for file in folder.iterdir())
