"""How runs end left alone, and in three ways of mending them: docs/guard.md.

    python scripts/guard_table.py digits 700 600 22         data set, runs, steps, seed
    python scripts/guard_table.py mnist 700 600 22 alarms   only left alone and with the guard

Networks of five shapes, all activations, normalizations and both derivatives, on the full batch
and on minibatches, with rates drawn over three decades, are trained as they are, with the rate
halved where the loss stops falling, with the guard, and with `optimizer.learning_rate=auto`. The
best constant rate of each is that of nine, each four times the last, which ends well with the
lowest loss. Runs that neither end well nor oscillate when left alone are left out. The guard sees
nothing but the losses, so how long it should wait is told from those of the runs left alone.
"""

import json
import math
import multiprocessing
import sys
from collections import Counter
from collections.abc import MutableSequence, Sequence
from typing import NamedTuple

import numpy as np

from mlp import guard
from mlp.config import RunConfig
from mlp.curve import CHANCE_LOSS, Verdict, judge_run
from mlp.data.dataset import Dataset, load_data
from mlp.engine import steps
from mlp.engine.handle import inner, version_of
from mlp.engine.population import train
from mlp.engine.result import Result
from mlp.settings import grouped, read_run, settings_of, with_settings
from mlp.stability.sharpness import with_first_rates

SHAPES = [3], [16], [3, 3], [20, 8], [8, 8, 8]
RATES = {"sum": (0.03, 100), "mean": (0.03, 100), "unit": (0.01, 8), "clip": (0.05, 100)}
WELL = Verdict.LEARNING, Verdict.CONVERGED
SEARCHED = [4.0**power for power in range(-6, 3)]  # times the rate
BEST = "best constant rate"
PATIENCES = 64, 150, 300, 400  # and half of the steps, which is what it waits
LEAST_LOSS = 1e-6  # lower ones count as equal
ROLLBACK = {"optimizer.guard": "rollback"}


class End(NamedTuple):
    """How a run ended, and with which loss over all examples; inf: it diverged."""

    verdict: Verdict
    loss: float


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


def halve(row: MutableSequence[float], loss: float) -> int:
    """Halves the rate where the loss has found no new best for ten steps, and goes back nowhere.

    As `torch.optim.lr_scheduler.ReduceLROnPlateau` does with factor 0.5 and its other defaults; the
    loss of batches is the mean of about eight.
    """
    if row[guard.STEP] == 0:
        row[guard.BEST_LOSS] = row[guard.LEVEL] = loss
    is_exact = row[guard.NOISE_PER_LOSS] == 0
    row[guard.LEVEL] += (loss - row[guard.LEVEL]) * (1.0 if is_exact else 0.125)
    row[guard.STEP] += 1
    row[guard.N_FAR] += 1
    if row[guard.LEVEL] < row[guard.BEST_LOSS] * (1 - 1e-4):
        row[guard.BEST_LOSS], row[guard.N_FAR] = row[guard.LEVEL], 0
    if row[guard.N_FAR] > 10:
        row[guard.SHARE], row[guard.N_FAR] = row[guard.SHARE] * 0.5, 0
    return guard.KEEP


def halved(name: str, texts: Sequence[str]) -> list[End]:
    """How runs end, in a process of its own whose engine halves in the place of the guard."""
    steps.watch = inner(halve)
    steps.advance = steps._compile("halved " + version_of(*steps._COMPILED))
    configs = [with_settings(read_run(json.loads(text)), ROLLBACK) for text in texts]
    return ends(configs, train(configs, data_called(name)))


def data_called(name: str) -> Dataset:
    """The data set."""
    return load_data(read_run({"data": {"name": name}}).data, notice=print)


def ends(configs: Sequence[RunConfig], results: Sequence[Result]) -> list[End]:
    """How each ended."""
    return [
        End(
            judge_run(result, config.training.batch_size).verdict,
            float(result.loss[-1]) if math.isfinite(result.loss[-1]) else math.inf,
        )
        for config, result in zip(configs, results, strict=True)
    ]


def main(name: str, n: int, n_steps: int, seed: int, *, only_alarms: bool) -> None:
    """Trains and prints."""
    rng, data = np.random.RandomState(seed), data_called(name)
    drew = [drawn(rng, name, n_steps, data.train.n_examples) for _ in range(n)]
    trained = train(drew, data)
    rows = zip(drew, trained, ends(drew, trained), strict=True)
    configs, results, alone = zip(*(row for row in rows if is_shown(row[2].verdict)), strict=True)
    print(f"{name}: {n} runs of {n_steps} steps, seed {seed}")
    first = show_waiting(configs, results, alone)
    back = [i for i, step in enumerate(first) if step is not None]
    guarded = list(results)  # where it does not go back, they are the same
    for i, result in zip(
        back, train([with_settings(configs[i], ROLLBACK) for i in back], data), strict=True
    ):
        guarded[i] = result
    mended = ends(configs, guarded)
    alarms = [i for i in back if alone[i].verdict in WELL]
    n_lower = sum(mended[i].loss < alone[i].loss for i in alarms)
    n_well = sum(mended[i].verdict in WELL for i in alarms)
    print(
        f"of the {len(alarms)} that it went back in and that end well alone, {n_lower} end", end=""
    )
    print(f" with a lower loss than alone, {n_well} end well")
    ways: dict[str, list[End]] = {"left alone": list(alone), "rollback": mended}
    if not only_alarms:
        ways |= other_ways(name, configs, data)
    show_groups(configs, alone, guarded, ways)


def show_waiting(
    configs: Sequence[RunConfig], results: Sequence[Result], alone: Sequence[End]
) -> list[int | None]:
    """In how many runs it goes back if it waits longer or shorter; at which steps as it is."""
    found: dict[int, list[int | None]] = {}
    own = configs[0].training.steps // 2
    for patience in sorted({*PATIENCES, own}):
        found[patience] = [
            first_back(config, result, patience)
            for config, result in zip(configs, results, strict=True)
        ]
        for is_full in (True, False):
            chosen = [
                i for i, c in enumerate(configs) if (c.training.batch_size is None) == is_full
            ]
            print(f"waits {patience} steps, {'full batch' if is_full else 'minibatches'}:", end="")
            for word, is_well in (("ends well", True), ("oscillates", False)):
                these = [i for i in chosen if is_well == (alone[i].verdict in WELL)]
                n_back = sum(found[patience][i] is not None for i in these)
                print(f" {word}, goes back in {n_back} of {len(these)};", end="")
            print()
    return found[own]


def first_back(config: RunConfig, result: Result, patience: int) -> int | None:
    """The step at which the guard would first go back; until then it changes nothing."""
    batch_size = config.training.batch_size
    watching = guard.Guard(
        reference=CHANCE_LOSS,
        batch_size=batch_size,
        noise=0.0 if batch_size is None else None,
        patience=patience,
    )
    losses = result.loss if result.step_loss is None else result.step_loss
    names = (watching.observe(loss).name for loss in losses[: config.training.steps])
    return next((step for step, name in enumerate(names) if name != "keep"), None)


def other_ways(name: str, configs: Sequence[RunConfig], data: Dataset) -> dict[str, list[End]]:
    """How they end by what the guard is compared with."""
    auto = with_first_rates(
        [with_settings(c, {"optimizer.learning_rate": "auto"}) for c in configs], data
    )
    texts = [json.dumps(grouped(settings_of(config))) for config in configs]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        by_halving = pool.apply(halved, (name, texts))
    return {
        "halving": by_halving,
        "auto": ends(auto, train(auto, data)),
        BEST: searched(configs, data),
    }


def is_shown(verdict: Verdict) -> bool:
    return verdict in WELL or verdict is Verdict.OSCILLATING


def searched(configs: Sequence[RunConfig], data: Dataset) -> list[End]:
    """How each ends with the best constant rate of those that are tried."""
    tried = []
    for times in SEARCHED:
        others = [
            with_settings(c, {"optimizer.learning_rate": times * c.optimizer.rate}) for c in configs
        ]
        tried.append(ends(others, train(others, data)))
    return [
        min(row, key=lambda end: (end.verdict not in WELL, end.loss))
        for row in zip(*tried, strict=True)
    ]


def show_groups(
    configs: Sequence[RunConfig],
    alone: Sequence[End],
    guarded: Sequence[Result],
    ways: dict[str, list[End]],
) -> None:
    """How they end each way, by how they end left alone and by their batches."""
    for is_well in (True, False):
        for is_full in (True, False):
            chosen = [
                i
                for i, (config, end) in enumerate(zip(configs, alone, strict=True))
                if (end.verdict in WELL) == is_well
                and (config.training.batch_size is None) == is_full
            ]
            title = "end well" if is_well else "oscillate"
            print(f"\n{title}, {'full batch' if is_full else 'minibatches'}: {len(chosen)}")
            for way, found in ways.items():
                counts = Counter(found[i].verdict for i in chosen)
                said = ", ".join(f"{verdict} {n}" for verdict, n in counts.most_common())
                n_well = sum(counts[verdict] for verdict in WELL)
                print(f"  {way}: well {n_well} ({said})", end="")
                if BEST in ways:
                    times = [over(found[i].loss, ways[BEST][i].loss) for i in chosen]
                    print(f"; loss over that of the best: {quartiles(times)}", end="")
                print()
            back = [guarded[i] for i in chosen if guarded[i].restored_step.size]
            if back:
                print(f"  gone back in {len(back)}", end="; ")
                print(f"times: {quartiles([each.restored_step.size for each in back])}", end="; ")
                print(f"first at: {quartiles([each.restored_step[0] for each in back])}", end="; ")
                print(f"steps lost: {quartiles([steps_lost(each) for each in back])}")


def over(loss: float, best: float) -> float:
    """How many times the other it is."""
    return (loss + LEAST_LOSS) / (best + LEAST_LOSS)


def steps_lost(result: Result) -> int:
    """The steps that the last weights did not come by: those gone back from, and the going back."""
    lost, place = 0, result.last_step + 1
    for at, to in zip(result.restored_step[::-1], result.restored_to[::-1], strict=True):
        if at < place:
            lost, place = lost + int(at - to) + 1, int(to)
    return lost


def quartiles(values: Sequence[float]) -> str:
    """The median between the quartiles; a rank each, so that values may be infinite."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), only_alarms=sys.argv[5:] == ["alarms"])
