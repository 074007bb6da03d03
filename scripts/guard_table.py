"""How runs end left alone, with the guard, and with the best constant rate: docs/guard.md.

    python scripts/guard_table.py digits 600 600   data set, runs that are drawn, steps

Networks of five shapes, all activations, normalizations and both derivatives, on the full batch
and on minibatches, with rates drawn over three decades, are trained as they are and with the guard.
The best constant rate of each run that oscillates is the best of eight, each a quarter of the last.
"""

import sys
from collections import Counter

import numpy as np

from mlp.config import RunConfig
from mlp.curve import Verdict, judge_run
from mlp.data.dataset import Dataset, load_data
from mlp.engine.population import train
from mlp.engine.result import Result
from mlp.settings import read_run, with_settings

SHAPES = [3], [16], [3, 3], [20, 8], [8, 8, 8]
RATES = {"sum": (0.03, 100), "mean": (0.03, 100), "unit": (0.01, 8), "clip": (0.05, 100)}
WELL = Verdict.LEARNING, Verdict.CONVERGED
SEARCHED = [4.0**-power for power in range(8)]  # of the rate


def drawn(rng: np.random.RandomState, name: str, steps: int, n_examples: int) -> RunConfig:
    """One setting."""
    widths = SHAPES[rng.randint(len(SHAPES))]
    activation = str(rng.choice(["sigmoid", "tanh", "relu"]))
    normalization = str(rng.choice(list(RATES)))
    batch_size = [None, None, 64, 128][rng.randint(4)]
    rate = float(np.exp(rng.uniform(*np.log(RATES[normalization]))))
    if normalization == "sum":
        rate /= batch_size or n_examples
    is_question = activation == "sigmoid" and rng.rand() < 0.5
    return read_run(
        {
            "data": {"name": name},
            "model": {"depth": len(widths), "widths": widths, "activation": activation},
            "gradient": {
                "normalization": normalization,
                "derivative": "question" if is_question else "exact",
            },
            "optimizer": {"learning_rate": rate, "momentum": [0.0, 0.0, 0.9][rng.randint(3)]},
            "training": {
                "steps": steps,
                "batch_size": batch_size,
                "seed": int(rng.randint(1000)),
                "evaluate_every": steps,
            },
        }
    )


def ends(configs: list[RunConfig], results: list[Result]) -> list[Verdict]:
    """The verdict of each."""
    return [
        judge_run(result, config.training.batch_size).verdict
        for config, result in zip(configs, results, strict=True)
    ]


def trained(configs: list[RunConfig], data: Dataset, path: str, value: object) -> list[Result]:
    """Each with one setting changed."""
    return train([with_settings(config, {path: value}) for config in configs], data)


def main(name: str, n: int, steps: int) -> None:
    """Trains and prints."""
    rng = np.random.RandomState(0)
    data = load_data(read_run({"data": {"name": name}}).data, notice=print)
    configs = [drawn(rng, name, steps, data.train.n_examples) for _ in range(n)]
    alone = ends(configs, train(configs, data))
    guarded = trained(configs, data, "optimizer.guard", "rollback")
    after = ends(configs, guarded)
    print(f"{name}: {n} runs of {steps} steps")
    well = [i for i in range(n) if alone[i] in WELL]
    alarms = [i for i in well if guarded[i].restored_step.size]
    print(f"end well alone: {len(well)}; of them gone back in: {len(alarms)}, and then:")
    print("  " + counted([after[i] for i in alarms]))
    swing = [i for i in range(n) if alone[i] is Verdict.OSCILLATING]
    print(f"oscillate alone: {len(swing)}")
    for kind, chosen in (
        ("full batch", [i for i in swing if configs[i].training.batch_size is None]),
        ("minibatch", [i for i in swing if configs[i].training.batch_size is not None]),
    ):
        back = [guarded[i] for i in chosen]
        print(f"  {kind}, {len(chosen)}: with the guard " + counted([after[i] for i in chosen]))
        if chosen:
            times = [result.restored_step.size for result in back]
            last = [result.restored_step[-1] for result in back if result.restored_step.size]
            print(f"    gone back {np.median(times):.0f} times, last at {np.median(last):.0f}")
    own = [configs[i] for i in swing]
    search = [trained_at(own, data, share) for share in SEARCHED]
    best = np.min([[result.loss[-1] for result in row] for row in search], axis=0)
    final = np.array([guarded[i].loss[-1] for i in swing])
    is_well = np.array([after[i] in WELL for i in swing])
    ratio = (final[is_well] + 1e-6) / (best[is_well] + 1e-6)
    shares = ", ".join(f"{value:.3g}" for value in np.quantile(ratio, [0.25, 0.5, 0.75]))
    print(f"loss at the end over that of the best of {len(SEARCHED)} constant rates: {shares}")
    print("best constant rate " + counted([row_end(own, search, i) for i in range(len(own))]))


def trained_at(configs: list[RunConfig], data: Dataset, share: float) -> list[Result]:
    """Each with a share of its rate."""
    return train(
        [
            with_settings(c, {"optimizer.learning_rate": share * c.optimizer.learning_rate})
            for c in configs
        ],
        data,
    )


def row_end(configs: list[RunConfig], search: list[list[Result]], place: int) -> Verdict:
    """How the best constant rate of a run ends."""
    result = min((row[place] for row in search), key=lambda each: float(each.loss[-1]))
    return judge_run(result, configs[place].training.batch_size).verdict


def counted(verdicts: list[Verdict]) -> str:
    """How often each verdict came."""
    return ", ".join(f"{verdict} {n}" for verdict, n in Counter(verdicts).most_common())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
