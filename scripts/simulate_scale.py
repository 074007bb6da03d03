"""How many trials a second one driver can take: training that does nothing, everything else real.

    PYTHONPATH=tests python scripts/simulate_scale.py --trials 10000 --sampler random --address auto

The driver, Optuna's store, the spool, MLflow's store and Ray are what a sweep uses. A worker gives
back arrays of the right shapes at once, so what is measured is the cost of a trial around its
training. The stores are made in a new folder under --folder, and stay there to be looked at.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

STEPS = 500
SPACE = {
    "model": {"depth": {"low": 1, "high": 3}, "widths": {"low": 2, "high": 32, "each_layer": True}},
    "gradient": {"normalization": ["sum", "mean", "unit", "clip"]},
    "optimizer": {"learning_rate": {"low": 0.01, "high": 30.0, "log": True}},
    "initialization": {"scheme": ["lecun_normal", "glorot_uniform", "he_normal", "orthogonal"]},
}


def train_nothing(configs, data, *, threads, thresholds, progress):
    """Results of the right shapes, different for each config, without a training."""
    from itertools import pairwise

    from mlp.config import digest
    from mlp.engine.result import Ending, Result
    from mlp.settings import settings_of

    results = []
    for config in configs:
        seed = int(digest(settings_of(config))[:8], 16)
        draw = np.random.RandomState(seed)
        steps = config.training.steps
        sizes = (data.train.pixels.shape[1], *config.model.layer_widths, 2)
        results.append(
            Result(
                loss=0.7 * draw.rand() ** np.linspace(0, 1, steps + 1)
                + 0.01 * draw.rand(steps + 1),
                loss_step=np.arange(steps + 1),
                step_loss=None,
                validation_accuracy=np.clip(draw.rand(steps // 10), 0, 1),
                evaluated_step=np.arange(10, steps + 1, 10),
                weights=tuple(
                    (draw.rand(a, b).astype(np.float32), np.zeros(b, np.float32))
                    for a, b in pairwise(sizes)
                ),
                ending=Ending.COMPLETED,
                last_step=steps,
            )
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--generation", type=int, default=100)
    parser.add_argument("--sampler", choices=("random", "tpe", "qmc"), default="random")
    parser.add_argument("--address", help="of a Ray cluster; none: in this process")
    parser.add_argument("--storage", help="of the study; none: SQLite in the folder")
    parser.add_argument("--tracking", help="MLflow's address; none: SQLite in the folder")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    run(parser.parse_args())


def run(asked: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mlp-simulated-", dir=asked.folder))
    os.chdir(folder)
    from rich.console import Console

    from mlp.settings import read_sweep
    from mlp.sweep.run_study import run_study
    from mlp.training.train_runs import train_runs

    pass_time()
    train_runs.__kwdefaults__["trainer"] = train_nothing
    if asked.address:
        import ray

        ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    study = {
        "sampler": asked.sampler,
        "n_trials": asked.trials,
        "generation": asked.generation,
        "space": SPACE,
        **({"storage": asked.storage} if asked.storage else {}),
    }
    values = {
        "study": study,
        "data": {"name": asked.data},
        "training": {"steps": STEPS},
        "tracking": {"uri": asked.tracking} if asked.tracking else {},
        "execution": {"engine": "ray", "address": asked.address} if asked.address else {},
    }
    started = time.perf_counter()
    run_study(read_sweep(values), console=Console(width=100))
    report(folder, asked.trials, time.perf_counter() - started)


def pass_time() -> None:
    """Notes in a file how long each generation was asked, trained, kept and stored."""
    from mlp.study import search
    from mlp.sweep import generation, run_study
    from mlp.tracking import spool

    seconds, started = defaultdict(float), time.perf_counter()

    def timed(what, function):
        def call(*args, **named):
            begun = time.perf_counter()
            result = function(*args, **named)
            seconds[what] += time.perf_counter() - begun
            return result

        return call

    search.ask = timed("ask", search.ask)
    search.tell = timed("tell", search.tell)
    spool.put = timed("keep", spool.put)
    generation.train_runs = timed("train", generation.train_runs)  # with what it keeps meanwhile
    train_generation = run_study.train_generation

    def noted(opened, trials, data, where, **named):
        records = train_generation(opened, trials, data, where, **named)
        waiting = len(named["keeper"].waiting())
        row = {"at": time.perf_counter() - started, **seconds, "spooled": waiting}
        seconds.clear()
        with Path("seconds.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return records

    run_study.train_generation = noted


def report(folder: Path, n_trials: int, seconds: float) -> None:
    rows = [json.loads(line) for line in (folder / "seconds.jsonl").read_text().splitlines()]
    print(f"\n{n_trials} trials in {seconds:.1f} s: {n_trials / seconds:.2f} trials a second")
    for what in ("ask", "train", "keep", "tell"):
        spent = sum(row.get(what, 0.0) for row in rows)
        print(f"  {what:<8} {1000 * spent / n_trials:8.2f} ms a trial")
    trained = rows[-1]["at"]
    print(f"  all trained after {trained:.1f} s, {rows[-1]['spooled']} runs waited for MLflow then")
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  driver's memory at most {peak_kb / 1e3:.0f} MB")
    for name in ("optuna.db", "mlflow.db"):
        if (folder / name).exists():
            size = (folder / name).stat().st_size
            print(f"  {name} {size / n_trials / 1e3:.1f} kB a trial")
    files = [f for f in (folder / "mlruns").rglob("*") if f.is_file()]
    if files:
        print(f"  files {sum(f.stat().st_size for f in files) / n_trials / 1e3:.1f} kB a trial")
    print(f"  in {folder}")


if __name__ == "__main__":
    main()
