"""Sweeps that die before one of their writes, are gone on with, and must end as if nothing was.

A write is an SQL statement or commit of Optuna's or MLflow's store, a rename or removal of files or
folders, or a call of MLflow's client, before and after it. Run as a script, this goes through
points at random, or kills real sweeps:

    cd tests && python -m support.crash points 200 [SEED [STUDY ...]]
    cd tests && python -m support.crash kills 30 [SEED]
"""

import functools
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mlp.config import SweepConfig
from mlp.settings import read_sweep
from mlp.sweep.run_study import run_study
from mlp.terminal.compose import compose
from support.forks import forks
from support.sweeping import SMOKE, left_in, parent, plain, start, table, tracked

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


def reference(folder: Path, store: Path, name: str) -> int:
    """Runs a study without a stop; returns how many writes it has."""
    shutil.copy(store, folder / "mlflow.db")
    assert run_fork(study_until, folder, commands(name), 10**9) == 0
    return int((folder / "n_writes").read_text())


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


def made_store(folder: Path) -> Path:
    """An MLflow store without a run, to be copied."""
    from mlp.config import Tracking
    from mlp.tracking.store import open_store

    file = folder / "made" / "mlflow.db"
    open_store(Tracking(uri=f"sqlite:///{file}", experiment="none of the tests'"))
    return file


def try_points(n_points: int, seed: int, names: list[str]) -> int:
    """Dies at points drawn at random; returns at how many of them something was different."""
    chance = random.Random(seed)
    n_different = 0
    with tempfile.TemporaryDirectory() as top:
        store = made_store(Path(top))
        expected = {}
        for name in names:
            expected[name] = Path(top) / name
            expected[name].mkdir()
            n = reference(expected[name], store, name)
            print(f"{name}: {n} writes, {len(table(expected[name]))} trials", flush=True)
        for i in range(n_points):
            name = names[i % len(names)]
            last = chance.randint(1, int((expected[name] / "n_writes").read_text()))
            n_different += not _holds(Path(top), store, name, last, expected[name])
            if (i + 1) % 10 == 0:
                print(f"{i + 1} points, {n_different} different", flush=True)
    return n_different


def _holds(top: Path, store: Path, name: str, last: int, expected: Path) -> bool:
    folder = top / "trial"
    folder.mkdir()
    try:
        die_and_go_on(folder, store, name, last)
        assert_same_end(folder, expected)
    except AssertionError as error:
        kept = Path(tempfile.mkdtemp(prefix=f"crash-{name}-{last}-"))
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        print(f"different: {name} at write {last}: {error} (kept in {kept})", flush=True)
        return False
    finally:
        shutil.rmtree(folder)
    return True


def kill_processes(n_kills: int, seed: int) -> int:
    """Kills the real command with SIGKILL at random moments, until it has died so often.

    A study that comes to its end meanwhile is compared, and another one begun.

    Returns:
        How many studies ended otherwise than one that nothing stopped.
    """
    chance = random.Random(seed)
    words = [*SMOKE, *QUICK, *STUDIES["long"][0]]
    n_done = n_different = n_studies = 0
    with tempfile.TemporaryDirectory() as top:
        store, whole = made_store(Path(top)), Path(top) / "whole"
        whole.mkdir()
        reference(whole, store, "long")
        while n_done < n_kills:
            n_studies += 1
            folder = Path(top) / f"killed-{n_studies}"
            folder.mkdir()
            shutil.copy(store, folder / "mlflow.db")
            started = time.monotonic()
            n_here = 0
            while True:
                process = start("sweep", *words, cwd=folder, stdout=subprocess.DEVNULL)
                try:
                    # The last kill of all is followed by a run to the end.
                    process.wait(chance.uniform(0.5, 8) if n_done < n_kills else None)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    n_done, n_here = n_done + 1, n_here + 1
                    print(f"kill {n_done}: {_standing(folder)}", flush=True)
            assert process.returncode == 0, "the command fails by itself"
            is_same = _is_same_end(folder, whole)
            n_different += not is_same
            print(
                f"study {n_studies} after {n_here} kills and {time.monotonic() - started:.0f} s: "
                f"{'the same end' if is_same else 'DIFFERENT'}",
                flush=True,
            )
    return n_different


def _is_same_end(folder: Path, expected: Path) -> bool:
    try:
        assert_same_end(folder, expected)
    except AssertionError as error:
        print(error)
        return False
    return True


def _standing(folder: Path) -> str:
    statuses = [run.status for run in tracked(folder)]
    waiting = len(list(folder.glob("optuna.db.spool/*/[0-9]*")))
    return f"{len(statuses)} runs, {statuses.count('RUNNING')} RUNNING, {waiting} in the spool"


if __name__ == "__main__":
    what, number = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(10**6)
    print(f"seed {seed}")
    if what == "points":
        n_different = try_points(number, seed, sys.argv[4:] or list(STUDIES)[:-1])
    else:
        n_different = kill_processes(number, seed)
    print(f"{number} {what}, {n_different} different")
    sys.exit(n_different > 0)
