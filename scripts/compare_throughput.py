"""Machines of one CPU against as many threads of this process, in turns, as a ratio.

MLP_DATA_ROOT=... PYTHONPATH=tests python scripts/compare_throughput.py --turns 5 --workers 2

With more workers than the machine has cores, only the idle share says something.
"""

import argparse
import os
import statistics
import time

from mlp.config import Execution
from mlp.data.dataset import load_data
from mlp.settings import read_sweep
from mlp.study import search
from mlp.study.identity import identity
from mlp.study.storage import storage_in_memory
from mlp.terminal.compose import compose
from mlp.training.train_runs import open_executor, train_runs
from support.clusters import two_nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    words = ["data=mnist", f"training.steps={asked.steps}", f"study.generation={asked.trials}"]
    config = read_sweep(compose("sweep", [*words, f"study.n_trials={asked.trials}"]))
    data = load_data(config.base.data, notice=print)
    opened = search.open_search(
        storage_in_memory(), config, identity(config, data.name, data.digest)
    )
    configs = [trial.config for trial in search.ask(opened)]
    here, ratios = Execution(threads=asked.workers), []
    with two_nodes(others=asked.workers - 1) as cluster:
        there = Execution(engine="ray", address=cluster.address)
        with open_executor(there, notice=print) as workers:
            for where in (here, workers):  # compiled code is loaded, the data have arrived
                train_runs(configs[:4], data, where)
            workers.idle_share()
            for turn in range(asked.turns):
                pair = (here, workers) if turn % 2 else (workers, here)
                seconds = {where is here: timed(configs, data, where) for where in pair}
                ratios.append(seconds[True] / seconds[False])
                print(
                    f"here {seconds[True]:.1f} s, cluster {seconds[False]:.1f} s, "
                    f"ratio {ratios[-1]:.2f}, idle {workers.idle_share():.0%}, "
                    f"load {os.getloadavg()[0]:.0f}",
                    flush=True,
                )
    print(f"median ratio {statistics.median(ratios):.2f} of {len(ratios)}")


def timed(configs, data, where) -> float:
    started = time.perf_counter()
    train_runs(configs, data, where)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
