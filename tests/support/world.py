"""Folders in which a command was run, made once for all tests that only look at what it left.

Each is the work of a real process. Every command starts cold once, as its users start it (`train`
and `doctor` in tests/system); else it is a fork, since a cold one imports for longer than it works.
"""

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mlp.curve import Verdict
from support.forks import Done
from support.sweeping import SMOKE, cold_command, command, tracked

RUN = ("data=digits", "training.steps=30", "execution.threads=1")
# A study of which some runs swing, some rest, and one setting is the cause.
SWINGING = (
    *SMOKE,
    "study.name=small",
    "study.n_trials=16",
    "study.generation=16",
    "study.sampler=qmc",
    "study.space.optimizer.learning_rate.low=0.3",
    "study.space.optimizer.learning_rate.high=300",
    "study.space.gradient.normalization=[mean]",
    "training.steps=120",
)
REASONS = ("explain.interventions=3", "explain.seeds=5", "explain.timeout_s=240")

# Where MLflow keeps the address of files.
_ADDRESSES = (
    ("runs", "artifact_uri"),
    ("experiments", "artifact_location"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


class World:
    """The folders of a session, each made when it is first asked for, by whoever asks first.

    Attributes:
        root: where they lie, the same for all workers of the session.
        store: an MLflow store without a run.
    """

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root, store

    def swept(self) -> Path:
        """A sweep of four trials, `SMOKE`, begun in an empty folder."""
        return self._part("swept", lambda here: cold("sweep", *SMOKE, cwd=here))

    def trained(self) -> Path:
        """A single run, `RUN`."""

        def make(here: Path) -> Done:
            shutil.copy(self.store, here / "mlflow.db")
            return command("train", *RUN, cwd=here, MLFLOW_TRACKING_URI="")

        return self._part("trained", make)

    def rerun(self) -> Path:
        """That run and its rerun."""

        def make(here: Path) -> Done:
            copy(self.trained(), here)
            [run] = tracked(here)
            return cold("rerun", run.run_id, "execution.threads=2", cwd=here)

        return self._part("rerun", make)

    def explained(self) -> Path:
        """The study `SWINGING`, and why its runs swing."""

        def make(here: Path) -> Done:
            shutil.copy(self.store, here / "mlflow.db")
            done = command("sweep", *SWINGING, cwd=here, MLFLOW_TRACKING_URI="")
            assert done.returncode == 0, done.stderr
            return cold("explain", "small", *REASONS, cwd=here)

        return self._part("explained", make)

    def mended(self) -> Path:
        """One of these runs, and what makes it rest."""

        def make(here: Path) -> Done:
            copy(self.explained(), here)
            run_id = swinging(here)
            words = ("explain.seeds=2", "explain.apply=true")
            return command("explain", run_id, *words, cwd=here, MLFLOW_TRACKING_URI="")

        return self._part("mended", make)

    def _part(self, name: str, make: Callable[[Path], Done]) -> Path:
        """A folder in which a command was run, and ended well."""

        def made(here: Path) -> None:
            here.with_suffix(".said").write_text(json.dumps(vars(make(here))))

        folder = once(self.root, name, made)
        done = said(folder)
        assert done.returncode == 0, f"the command for {name} failed: {done.stdout}{done.stderr}"
        return folder


def cold(name: str, *arguments: str, cwd: Path) -> Done:
    done = cold_command(name, *arguments, cwd=cwd, MLFLOW_TRACKING_URI="")
    return Done(done.returncode, done.stdout, done.stderr)


def swinging(folder: Path) -> str:
    """The first trial of a study that oscillates."""
    runs = [run for run in tracked(folder) if "mlp.trial" in run.tags]
    runs = [run for run in runs if run.tags["verdict"] == Verdict.OSCILLATING]
    return min(runs, key=lambda run: int(run.tags["mlp.trial"])).run_id


def said(folder: Path) -> Done:
    """What the command said that a folder was made by."""
    return Done(**json.loads(folder.with_suffix(".said").read_text()))


def once(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made by the first of all workers who wants it; the others wait for it."""
    folder = root / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.with_suffix(".made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


def root_of(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of a session share."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "world"
    root.mkdir(exist_ok=True)
    return root


def copy(folder: Path, to: Path) -> Path:
    """Copies a folder with its stores, so that its runs have their files in the copy."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    with sqlite3.connect(to / "mlflow.db") as file:
        for table, column in _ADDRESSES:
            file.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                (folder.as_uri(), to.as_uri()),
            )
    file.close()
    return to
