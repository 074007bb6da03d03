"""Trains on an emulated GPU and on the CPU: `python -m engine.emulated NAME ... [--order N]`.

What runs is NVVM's code, not Python (`engine.emulator`), so networks may be of any size. It prints
what differs in any bit, and how long each took.
"""

import argparse
import os
import random

from engine import emulator

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--order", type=int, default=0, help="of blocks and threads: 0 up, 1 down, else a seed"
    )
    parser.add_argument("--early", action="store_true", help="a stream's work is done at once")
    OPTIONS = parser.parse_args()
    DRIVER = emulator.start(OPTIONS.order, not OPTIONS.early, n_gpus=2)

import time

from engine import simulated
from engine.simulated import BATCHES, GUARD, RELU, SIGMOID, TANH, config_of, data_of

from mlp.config import Execution
from mlp.training.train_runs import train_runs

STEPS = {"training.steps": 20, "training.evaluate_every": 5}
KINDS = ("sigmoid", "tanh", "relu")
RULES = ("sum", "mean", "unit", "clip")


def mixed(n, widest, *, seed, steps=12, **shared):
    """Settings of n networks of all kinds."""
    draw = random.Random(seed)

    def one():
        kind = draw.choice(KINDS)
        return shared | {
            "model.widths": [draw.randint(1, widest) for _ in range(draw.randint(1, 4))],
            "model.activation": kind,
            "gradient.normalization": draw.choice(RULES),
            "gradient.derivative": draw.choice(["exact", "question"])
            if kind == "sigmoid"
            else "exact",
            "optimizer.learning_rate": draw.choice([1e-3, 0.5, 60.0, 1e30]),
            "optimizer.momentum": draw.choice([0.0, 0.9]),
            "optimizer.guard": draw.choice(["none", "rollback"]),
            "training.steps": draw.randint(1, steps),
            "training.evaluate_every": draw.choice([1, 7]),
            "training.seed": draw.randint(0, 9),
        }

    return [one() for _ in range(n)]


# Name -> data, examples to train on and held out, and the settings of each network.
LARGE = {
    "small_ones": (
        *("digits", 1200, 400),
        [
            kind | STEPS | {"model.widths": [3, 3], "training.seed": seed}
            for seed in range(16)
            for kind in (SIGMOID, TANH)
        ],
    ),
    "wide_ones": ("digits", 1200, 400, [TANH | STEPS | {"model.widths": [100, 40]}, RELU | STEPS]),
    "mixed": ("digits", 1300, 600, mixed(20, 40, seed=1, steps=8)),
    "many_mixed": ("digits", 2600, 600, mixed(40, 40, seed=1)),
    "mixed_double": (
        *("digits", 1200, 300),
        mixed(20, 40, seed=2, **{"training.dtype": "float64"}),
    ),
    "mixed_batches": (
        *("digits", 1300, 600),
        mixed(15, 40, seed=3, steps=30, **{"training.batch_size": 50}),
    ),
    "mixed_moved": (
        *("digits", 100, 50),
        mixed(30, 40, seed=4, steps=60, **{"training.batch_size": 8, "training.shift": 1}),
    ),
    "mixed_double_batches": (
        *("digits", 600, 100),
        mixed(20, 20, seed=5, steps=60, **{"training.batch_size": 50, "training.dtype": "float64"}),
    ),
    "guarded": (
        *("digits", 300, 100),
        [
            kind
            | GUARD
            | {
                "optimizer.learning_rate": rate,
                "training.steps": 300,
                "gradient.normalization": rule,
            }
            for kind in (SIGMOID, TANH, RELU)
            for rate in (0.5, 5.0, 60.0, 1e30)
            for rule in ("mean", "unit")
        ],
    ),
    "guarded_batches": (
        *("digits", 300, 100),
        [
            kind
            | GUARD
            | BATCHES
            | {"optimizer.learning_rate": rate, "training.steps": 300, "training.batch_size": 60}
            for kind in (SIGMOID, TANH, RELU)
            for rate in (0.5, 5.0, 60.0, 1e30)
        ],
    ),
}
MNIST = {
    "mnist": (
        *("mnist", 60000, 10000),
        [
            kind | {"model.widths": [3, 3], "training.steps": 2, "training.seed": seed}
            for seed in range(4)
            for kind in (SIGMOID, TANH)
        ],
    ),
    "mnist_batches": (
        *("mnist", 6000, 1000),
        mixed(16, 30, seed=6, steps=100, **{"training.batch_size": 100}),
    ),
}
if "MLP_DATA_ROOT" in os.environ:
    LARGE |= MNIST
CASES = (*simulated.CASES, *LARGE, "two_gpus", "products")


def compare_two_gpus():
    """A generation of networks that train and are measured on two GPUs at once."""
    data = data_of(1200, 400)
    settings = mixed(24, 12, seed=7) + mixed(24, 12, seed=8, **{"training.batch_size": 50})
    configs = [config_of(each | {"training.sharpness_points": 2}) for each in settings]
    here, there = (
        train_runs(configs, data, Execution(engine=engine, threads=1))
        for engine in ("local", "cuda")
    )
    differ = [
        place
        for place, (ours, theirs) in enumerate(zip(here, there, strict=True))
        if simulated.differences(ours.result, theirs.result)
    ]
    print(f"two_gpus: {differ or 'same'} ({sum(r.result.sharpness.size for r in there)} measured)")


def compare(name):
    begun = time.perf_counter()
    if name == "two_gpus":
        compare_two_gpus()
    elif name == "products":
        simulated.compare_products(1200, 40)
    elif name in simulated.CASES:
        simulated.compare(name)
    else:
        kind, n, n_held_out, settings = LARGE[name]
        data = data_of(n, n_held_out, kind)
        simulated.print_differences(name, [config_of(each) for each in settings], data)
    print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    for each in OPTIONS.names or CASES:
        compare(each)
    launches, graphs, blocks, arrays, gpus = (DRIVER.count_of(i) for i in range(5))
    print(
        f"{launches} launches, {graphs} of them graphs; {blocks} blocks; "
        f"{gpus.bit_count()} GPUs, {arrays} arrays left"
    )
