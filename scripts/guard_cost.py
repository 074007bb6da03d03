"""What the guard costs, in processor time, where it watches and where it is off.

    python scripts/guard_cost.py digits 100 300          data set, steps, turns
    python scripts/guard_cost.py mnist 4 100

One process, one thread, the same networks: in a turn they are trained with the guard, without it,
without it by the step loop compiled once more, and by a step loop compiled from sources in which
nothing asks for a guard, in an order that is drawn. Each time is divided by that without the
guard in the same turn; shown is the median of the turns with its 95 % interval. By what the same
code differs that was compiled once more, any two programs do. The networks learn, so that the
guard copies weights as often as it ever does. In the end, what an observation takes in a loop of
one's own.
"""

import inspect
import math
import os
import re
import sys
import time
from typing import Any

import numpy as np

from mlp import Guard
from mlp.data.dataset import load_data
from mlp.engine import steps, update
from mlp.engine.handle import version_of
from mlp.engine.population import train
from mlp.settings import read_run

N_NETWORKS = 16


def loop_without() -> Any:
    """The step loop as it would be had there never been a guard."""
    source = inspect.getsource(update) + inspect.getsource(steps)
    source = re.sub(r"from mlp\.engine\.update import .*", "", source)
    source, n_changed = re.subn(r"job\.is_guarded\[\w+\]", "False", source)
    assert n_changed == 5, n_changed
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, steps.__file__, "exec"), names)
    return names["_compile"]("without a guard " + version_of(*steps._COMPILED))


def observation() -> float:
    """Processor seconds of one loss shown to `mlp.Guard`, while it swings."""
    guard, losses = Guard(patience=10**9), [1.0, 3.0, 0.9, 2.5] * 25_000
    started = time.process_time()
    for loss in losses:
        guard.observe(loss)
    return (time.process_time() - started) / len(losses)


def main(name: str, n_steps: int, n_turns: int) -> None:
    """Prints the ratios."""
    data = load_data(read_run({"data": {"name": name}}).data, notice=print)

    def networks(guard: str) -> list[Any]:
        return [
            read_run(
                {
                    "data": {"name": name},
                    "model": {"depth": 2, "widths": 8},
                    "optimizer": {"learning_rate": 0.3, "guard": guard},
                    "training": {"steps": n_steps, "seed": seed, "evaluate_every": n_steps},
                }
            )
            for seed in range(N_NETWORKS)
        ]

    off, watched, loop = networks("none"), networks("rollback"), steps.advance
    again = steps._compile("again " + version_of(*steps._COMPILED))
    ways = {
        "off": (off, loop),
        "watching": (watched, loop),
        "off, compiled again": (off, again),
        "no guard in the code": (off, loop_without()),
    }
    rng, seconds = np.random.RandomState(0), np.empty((n_turns, len(ways)))
    for turn in range(-1, n_turns):  # the first compiles
        for place in rng.permutation(len(ways)):
            configs, steps.advance = list(ways.values())[place]
            started = time.process_time()
            train(configs, data)
            seconds[max(turn, 0), place] = time.process_time() - started
    ratios = seconds / seconds[:, :1] - 1
    away = 0.98 / math.sqrt(n_turns)  # in ranks: the median's 95 % interval
    low, middle, high = np.quantile(ratios, [0.5 - away, 0.5, 0.5 + away], axis=0)
    print(f"{name}: {N_NETWORKS} networks, {n_steps} steps, {n_turns} turns, ", end="")
    print(f"{np.median(seconds[:, 0]):.3f} s each, load {os.getloadavg()}")
    for place, way in enumerate(ways):
        print(f"  {way}: {middle[place]:+.2%} ({low[place]:+.2%} to {high[place]:+.2%})")
    print(f"Guard.observe: {1e6 * observation():.1f} microseconds")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
