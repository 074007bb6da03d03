"""Where the time of a trial of an own function goes, beside the function: behind docs/own.md.

    python scripts/profile_trials.py [TRIALS]

A function of about a millisecond that yields 20 losses, searched by TPE with one worker. Twice:
without and with MLflow, which takes the runs in a thread of its own meanwhile. The process that
imports the function's file starts once a sweep; that time is told apart.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlp.sweep.run_study as sweep
from mlp.sweep import generation
from mlp.terminal.compose import study_config
from mlp.terminal.screen import silent
from mlp.tracking import spool
from mlp.tracking.drain import Drain
from mlp.training import own_function, train_runs

FILE = """
import time

def train(learning_rate=0.5, hidden=3, seed=0):
    began = time.process_time()
    for step in range(20):
        yield (1 - learning_rate / 100) ** step
    while time.process_time() - began < 0.001:
        pass
"""
ALL, FLUSHED = "all, but for MLflow", "of it, files flushed to the disk, in threads"
MLFLOW, OPENED = "handed to MLflow, in a thread of its own", "MLflow's store opened, once"
PARTS = (  # of the sweep's own thread
    ("asked, by Optuna's sampler", generation.search, "ask"),
    ("waited for, with all that a process tells", own_function.Functions, "wait"),
    ("judged", train_runs, "make_record"),
    ("written into the spool, on the disk", generation.Keeper, "keep"),
    ("stored in the study, on the disk", generation, "_tell"),
)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    os.environ["MLFLOW_TRACKING_URI"] = ""
    for is_tracked in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            Path("mine.py").write_text(FILE)
            measure(n, is_tracked=is_tracked)
            os.chdir("/")


def measure(n: int, *, is_tracked: bool) -> None:
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    undo = [wrap(place, name, label, wall, cpu) for label, place, name in PARTS]
    undo.append(wrap(sweep, "_train_all", ALL, wall, cpu))
    undo.append(wrap(spool, "_flush", FLUSHED, wall, cpu))
    undo.append(wrap(Drain, "_attempt", MLFLOW, wall, cpu, first=OPENED))
    if not is_tracked:
        undo.append(put(Drain, "add", lambda *_: None))
    before = children_s()
    config = study_config(
        "own",
        {
            "own.file": "mine.py",
            "study.n_trials": n,
            "study.explain": False,
            "execution.threads": 1,
        },
    )
    sweep.run_study(config, console=silent())
    for step in undo:
        step()
    cpu[ALL] += cpu[FLUSHED]
    print(f"{n} trials, {'with' if is_tracked else 'without'} MLflow; milliseconds a trial:")
    print(f"{'':46}{'elapsed':>10}{'processor':>10}")
    parts = (label for label, _, _ in PARTS)
    shown = [ALL, *parts, FLUSHED, *([MLFLOW] if is_tracked else [])]
    for label in shown:
        print(f"  {label:44}{1000 * wall[label] / n:10.1f}{1000 * cpu[label] / n:10.1f}")
    trained_s = children_s() - before
    subprocess.run([sys.executable, "-c", "import mlp.training.own_worker"], check=True)
    once_s = children_s() - before - trained_s
    print(f"  {'processes that trained':44}{'':10}{1000 * (trained_s - once_s) / n:10.1f}")
    print(f"and once, the start of the process that they are copies of: {1000 * once_s:.0f}")


def wrap(
    place: Any,
    name: str,
    label: str,
    wall: dict[str, float],
    cpu: dict[str, float],
    *,
    first: str | None = None,
) -> Callable[[], None]:
    """Counts the time in a function; what it gives undoes that.

    Args:
        first: another label for the first call; None: the same.
    """
    inner = getattr(place, name)
    labels = iter([label if first is None else first])

    def timed(*arguments: Any, **options: Any) -> Any:
        own, began = next(labels, label), (time.monotonic(), time.thread_time())
        try:
            return inner(*arguments, **options)
        finally:
            wall[own] += time.monotonic() - began[0]
            cpu[own] += time.thread_time() - began[1]

    return put(place, name, timed)


def put(place: Any, name: str, new: Any) -> Callable[[], None]:
    before = getattr(place, name)
    setattr(place, name, new)
    return lambda: setattr(place, name, before)


def children_s() -> float:
    """Processor time of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    assert threading.active_count() == 1
    main()
