"""What the guard costs, as ratios of processor time.

    python scripts/guard_cost.py digits 200 15           data set, steps, turns
    python scripts/guard_cost.py mnist 10 15 ../before   and where it is off, against a checkout

Each checkout trains in a process of its own, on one thread; in a turn they follow each other, and
the fastest of all turns counts. Since two processes of the same code differ by some per cent, all
are started anew, and the median of the starts is taken. The networks learn, so that the guard
copies weights as often as it ever does. The checkout may be one from before there was a guard. In
the end, what an observation takes in a loop of one's own.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

N_NETWORKS = 16
N_STARTS = 7
CHILD = "child"


def child(name: str, n_steps: int) -> None:
    """Trains as often as it is told to, and says how long that took."""
    from mlp.config import Optimizer
    from mlp.data.dataset import load_data
    from mlp.engine.population import train
    from mlp.settings import read_run

    data = load_data(read_run({"data": {"name": name}}).data, notice=lambda _: None)
    has_guard = any(field.name == "guard" for field in fields(Optimizer))
    configs = {
        word: [
            read_run(
                {
                    "data": {"name": name},
                    "model": {"depth": 2, "widths": 8},
                    "optimizer": {"learning_rate": 0.3, **({"guard": word} if has_guard else {})},
                    "training": {"steps": n_steps, "seed": seed, "evaluate_every": n_steps},
                }
            )
            for seed in range(N_NETWORKS)
        ]
        for word in ("none", "rollback")
    }
    for line in itertools.chain(("none", "rollback"), sys.stdin):
        started = time.process_time()
        train(configs[line.strip()], data)
        print(time.process_time() - started, flush=True)


def start(checkout: Path, name: str, n_steps: int) -> subprocess.Popen[str]:
    """A process that trains with the package of that checkout."""
    process = subprocess.Popen(
        [sys.executable, __file__, CHILD, name, str(n_steps)],
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for _ in range(2):  # compiled, and warm
        process.stdout.readline()
    return process


def timed(process: subprocess.Popen[str], word: str) -> float:
    """Processor seconds of training once with that guard."""
    assert process.stdin
    assert process.stdout
    print(word, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def observation() -> float:
    """Processor seconds of one loss shown to `mlp.Guard`, while it swings."""
    from mlp import Guard

    guard, losses = Guard(patience=10**9), [1.0, 3.0, 0.9, 2.5] * 25_000
    started = time.process_time()
    for loss in losses:
        guard.observe(loss)
    return (time.process_time() - started) / len(losses)


def main(name: str, n_steps: int, n_turns: int, before: Sequence[str]) -> None:
    """Prints the ratios."""
    watching, off = [], []
    for _ in range(N_STARTS):
        here = start(Path(__file__).parents[1], name, n_steps)
        there = [start(Path(checkout), name, n_steps) for checkout in before]
        turns = [
            (timed(here, "none"), timed(here, "rollback"), *(timed(each, "none") for each in there))
            for _ in range(n_turns)
        ]
        own, watched, *others = (min(seconds) for seconds in zip(*turns, strict=True))
        watching.append(watched / own)
        off += [own / other for other in others]
        for process in (here, *there):
            process.communicate()
    print(f"{name}: {N_NETWORKS} networks, {n_steps} steps, load {os.getloadavg()}")
    for said, ratios in (("watching over off", watching), ("off over the checkout", off)):
        if ratios:
            each = ", ".join(f"{ratio - 1:+.1%}" for ratio in sorted(ratios))
            print(f"{said}: {statistics.median(ratios) - 1:+.1%} (of each start {each})")
    print(f"Guard.observe: {1e6 * observation():.1f} microseconds")


if __name__ == "__main__":
    if sys.argv[1] == CHILD:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
