"""Lets sweeps die at random, has them gone on with, and looks whether they end the same.

    PYTHONPATH=tests python scripts/crash_at_random.py points 200 [SEED [STUDY ...]]
    PYTHONPATH=tests python scripts/crash_at_random.py kills 30 [SEED]

The first dies before one of the writes that `support.crash` counts, the second kills processes.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.crash import QUICK, STUDIES, assert_same_end, die_and_go_on, reference
from support.sweeping import SMOKE, environment_of_commands, table, tracked


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
            reference(expected[name], store, name)
            n = (expected[name] / "n_writes").read_text()
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
    words = [sys.executable, "-m", "mlp.sweep", *SMOKE, *QUICK, *STUDIES["long"][0]]
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
                process = subprocess.Popen(
                    words,
                    cwd=folder,
                    env=environment_of_commands(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
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
