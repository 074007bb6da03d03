"""A study in this process, then on two machines of one CPU whose workers are killed at random.

    MLP_DATA_ROOT=... PYTHONPATH=tests python scripts/kill_workers.py --kills 20 data=mnist

Both must end with the same table. Takes minutes; the tests have a short one.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.clusters import two_nodes, workers
from support.sweeping import command, environment_of_commands, parent, table, tracked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every-s", type=float, default=6.0, help="on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="of the sweep")
    asked = parser.parse_args()
    here = Path(tempfile.mkdtemp(prefix="mlp-alone-"))
    there = Path(tempfile.mkdtemp(prefix="mlp-killed-"))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    started = time.monotonic()
    done = command("sweep", *asked.overrides, cwd=here, patience_s=3000)
    assert done.returncode == 0, done.stderr
    print(f"in this process: {time.monotonic() - started:.0f} s", flush=True)
    with two_nodes() as cluster:
        started = time.monotonic()
        n_killed = harm(there, cluster, asked)
        print(f"on the cluster: {time.monotonic() - started:.0f} s, {n_killed} workers killed")
    same = table(here) == table(there)
    statuses = {run.status for run in tracked(there)}
    print(f"{len(table(there))} trials, the same table: {same}, runs {statuses}")
    print(f"workers idle for {parent(there).metrics['idle_share']:.0%} of the last generation")
    for folder in (here, there):
        shutil.rmtree(folder)
    sys.exit(not same)


def harm(folder: Path, cluster: object, asked: argparse.Namespace) -> int:
    """Runs the sweep in a folder; returns how many workers were killed meanwhile."""
    draw, n_killed = random.Random(asked.seed), 0
    words = (*asked.overrides, "execution=ray", f"execution.address={cluster.address}")
    os.chdir(folder)
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(
            [sys.executable, "-m", "mlp.sweep", *words],
            env=environment_of_commands(),
            stdout=said,
            stderr=said,
        ) as process,
    ):
        while process.poll() is None:
            time.sleep(draw.uniform(0.5, 1.5) * asked.every_s)
            at_work = workers(cluster)
            if n_killed < asked.kills and at_work:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(at_work), signal.SIGKILL)
                    n_killed += 1
    print((folder / "said").read_text())
    assert process.returncode == 0
    return n_killed


if __name__ == "__main__":
    main()
