"""Measures how near the edge that `explain RUN` names is to a bisection of its own.

    python scripts/edges.py 20

Runs of digits that oscillate, of varied shape, normalization, rate and seed. For each, the edge of
the learning rate by `mlp.causes.repair`; and beside it, halving the logarithm ten times for each of
five seeds, the lowest rate from which one ends badly: with the seeds of the search, and with the
run's own and four others.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np

from mlp.causes.changes import LEARNING_RATE, Train, plain, standard_space, with_further_seeds
from mlp.causes.observed import HEALTHY
from mlp.causes.repair import Repair, repair
from mlp.config import Data, RunConfig
from mlp.curve import CHANCE_LOSS, Judgement, Verdict, judge_run
from mlp.data.dataset import Dataset, load_data
from mlp.engine.population import train
from mlp.settings import read_run, with_settings
from mlp.stability.sharpness import forecast, gradient_norms

_RATES = {"sum": (1e-3, 0.1), "mean": (3, 100), "unit": (0.3, 10), "clip": (3, 100)}
_NEAR = 1.25


def main(n: str) -> None:
    """Prints a line a run, and how many edges lie within a quarter."""
    data = load_data(Data(name="digits"), notice=print)

    def judged(configs: Sequence[RunConfig]) -> list[Judgement]:
        made = zip(configs, train(configs, data), strict=True)
        return [judge_run(result, config.training.batch_size) for config, result in made]

    rows = []
    for run in _oscillating(int(n), judged):
        found = _explained(run, data, judged)
        edge = next((edge for edge in found.edges if edge.setting == LEARNING_RATE), None)
        named = math.sqrt(edge.good * edge.bad) if edge else math.nan
        own = run.training.seed
        searched = _halved(
            run, [c.training.seed for c in with_further_seeds(found.config, 4)], judged
        )
        others = _halved(run, [own, *(1_000_003 * (own + 1) + k for k in range(4))], judged)
        rows.append((named / searched, named / others))
        best = found.cures[0] if found.cures else None
        print(
            f"{run.gradient.normalization:5} rate {run.optimizer.learning_rate:<9.3g} "
            f"{list(run.model.layer_widths)!s:15} {run.model.activation:8} edge {named:<9.3g} "
            f"same seeds x{rows[-1][0]:<6.3f} others x{rows[-1][1]:<6.3f} "
            f"{found.n_trained} reruns; {best and best.text} "
            f"{best and f'{best.n_cured} of {best.n_seeds}'}",
            flush=True,
        )
    for name, ratios in zip(("the same seeds", "others"), zip(*rows, strict=True), strict=True):
        n_near = sum(1 / _NEAR <= ratio <= _NEAR for ratio in ratios)
        print(f"within 25 % of the bisection with {name}: {n_near} of {len(rows)}")


def _oscillating(n: int, judged: Train) -> list[RunConfig]:
    random, found = np.random.RandomState(0), []
    while len(found) < n:
        drawn = [_draw(random) for _ in range(16)]
        verdicts = judged(drawn)
        found += [
            c for c, own in zip(drawn, verdicts, strict=True) if own.verdict is Verdict.OSCILLATING
        ]
    return found[:n]


def _draw(random: np.random.RandomState) -> RunConfig:
    normalization = str(random.choice(sorted(_RATES)))
    low, high = _RATES[normalization]
    depth = int(random.randint(1, 4))
    return read_run(
        {
            "data": {"name": "digits"},
            "model": {
                "depth": depth,
                "widths": [int(w) for w in np.round(2 * 16 ** random.random_sample(depth))],
                "activation": str(random.choice(["sigmoid", "tanh", "relu"])),
            },
            "gradient": {"normalization": normalization},
            "optimizer": {"learning_rate": float(low * (high / low) ** random.random_sample())},
            "training": {"seed": int(random.randint(1000))},
        }
    )


def _explained(run: RunConfig, data: Dataset, judged: Train) -> Repair:
    [before] = judged([run])
    return repair(
        run,
        standard_space(run),
        judged,
        before=before,
        n_examples=data.train.n_examples,
        gradient_norm=lambda configs: gradient_norms(configs, data),
        ratio=forecast([run], data)[0],
    )


def _halved(run: RunConfig, seeds: Sequence[int], judged: Train) -> float:
    """The lowest rate from which a seed ends badly, below the run's own."""
    rate = run.optimizer.learning_rate
    ways = dict.fromkeys(seeds, (rate / 100, rate))
    for _ in range(10):
        middles = {seed: math.sqrt(low * high) for seed, (low, high) in ways.items()}
        configs = [
            with_settings(plain(run), {LEARNING_RATE: middle, "training.seed": seed})
            for seed, middle in middles.items()
        ]
        for (seed, middle), own in zip(middles.items(), judged(configs), strict=True):
            is_well = own.verdict in HEALTHY and own.tail_loss < CHANCE_LOSS
            low, high = ways[seed]
            ways[seed] = (middle, high) if is_well else (low, middle)
    return min(math.sqrt(low * high) for low, high in ways.values())


if __name__ == "__main__":
    main(*sys.argv[1:])
