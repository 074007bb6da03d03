"""Trains on a simulated GPU and on the CPU: `python -m engine.simulated NAME ...`.

Numba's simulator has to be asked for before Numba is imported, so this is a program of its own. It
prints what differs in any bit.
"""

import contextlib
import dataclasses
import os
import sys

if __name__ == "__main__":
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

import numpy as np

from mlp.data.dataset import load_data
from mlp.engine import course, steps
from mlp.engine.cuda_pixels import PixelsOnGpu
from mlp.engine.pixels import collect, project, read_pixels
from mlp.engine.population import train
from mlp.settings import read_run

SIGMOID = {"model.widths": [3, 2]}
TANH = {"model.widths": [3], "model.activation": "tanh"}
RELU = {"model.widths": [2, 3, 2], "model.activation": "relu"}
BATCHES = {"training.batch_size": 8, "training.steps": 3}
GUARD = {"optimizer.guard": "rollback", "training.steps": 8, "training.evaluate_every": 4}

# Name -> examples, and the settings of each network.
CASES = {
    "depth": (12, [SIGMOID, TANH | {"optimizer.momentum": 0.9}, RELU]),
    "normalization": (
        12,
        [
            SIGMOID | {"gradient.normalization": "unit", "gradient.derivative": "question"},
            TANH | {"gradient.normalization": "clip", "gradient.clip_norm": 0.1},
            RELU | {"gradient.normalization": "sum", "optimizer.decay": "cosine"},
        ],
    ),
    "wide": (12, [TANH | {"model.widths": [33, 2]}]),
    "float64": (12, [TANH | {"training.dtype": "float64", "gradient.normalization": "unit"}]),
    "batches": (20, [TANH | BATCHES, RELU | BATCHES | {"gradient.normalization": "unit"}]),
    "moved": (12, [TANH | BATCHES | {"training.shift": 1}]),
    "non_finite": (
        12,
        [
            {"model.widths": [2], "model.activation": "relu", "optimizer.learning_rate": 1e30},
            SIGMOID,
        ],
    ),
    "not_a_number": (
        12,
        [
            TANH
            | {
                "model.widths": [2],
                "gradient.normalization": "unit",
                "optimizer.learning_rate": 1e308,
                "training.dtype": "float64",
                "training.steps": 5,
            }
        ],
    ),
    "guard": (
        8,
        [
            TANH | GUARD | {"model.widths": [2], "optimizer.learning_rate": 30.0},
            RELU | GUARD | {"optimizer.learning_rate": 1e30},
        ],
    ),
    "subnormal": (
        12,
        [
            {
                "model.widths": [1, 1],
                "model.activation": "tanh",
                "gradient.normalization": "sum",
                "optimizer.learning_rate": 1e30,
                "training.batch_size": 8,
                "training.seed": 4,
            }
        ],
    ),
    "pruned": (12, [TANH | {"training.steps": 4}]),
    "blocks": (530, [TANH | {"model.widths": [2], "training.steps": 1}]),
    "one_chunk": (530, [TANH | {"model.widths": [2], "training.steps": 1}]),
    "blocks_beside_batches": (530, [TANH | BATCHES | {"model.widths": [2], "training.steps": 1}]),
    "held_out": (12, [TANH | {"model.widths": [2], "training.steps": 1}]),
    "left_alone": (12, [TANH, SIGMOID | GUARD | {"training.steps": 5}]),
}


def data_of(n, n_held_out=8, name="digits"):
    data = load_data(read_run({"data": {"name": name}}).data, notice=lambda _: None)

    def first(part, n):
        take = np.arange(n) % part.n_examples  # again and again where there are too few
        return dataclasses.replace(part, pixels=part.pixels[take], labels=part.labels[take])

    held_out = first(data.validation, n_held_out)
    return dataclasses.replace(data, train=first(data.train, n), validation=held_out)


def config_of(settings):
    grouped = {
        "data": {"name": "digits"},
        "model": {},
        "gradient": {},
        "optimizer": {"learning_rate": 0.5},
        "training": {"steps": 2, "evaluate_every": 2},
    }
    for name, value in settings.items():
        group, key = name.split(".")
        grouped[group][key] = value
    grouped["model"]["depth"] = len(grouped["model"]["widths"])
    return read_run(grouped)


def differences(ours, theirs):
    """Names of the fields of two results that differ in any bit."""

    def bits(value):
        if isinstance(value, tuple):
            return [bits(each) for each in value]
        return (
            (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        )

    return [
        field.name
        for field in dataclasses.fields(ours)
        if bits(getattr(ours, field.name)) != bits(getattr(theirs, field.name))
    ]


def compare(name):
    n, settings = CASES[name]
    data = data_of(n, 600 if name == "held_out" else 8)
    configs = [config_of(each) for each in settings]
    thresholds = [{2: 1.1}] * len(configs) if name == "pruned" else None
    chunks = course.CHUNKS
    if name == "one_chunk":
        course.CHUNKS = steps.CHUNKS = 1
    print_differences(name, configs, data, thresholds)
    course.CHUNKS = steps.CHUNKS = chunks


def print_differences(name, configs, data, thresholds=None):
    here, there = (
        # Copies of the weights end a slice, after which those that go on are packed anew.
        train(configs, data, thresholds=thresholds, gpu=gpu, snapshots=[{3: ()}] * len(configs))
        for gpu in (None, 0)
    )
    for place, (ours, theirs) in enumerate(zip(here, there, strict=True)):
        found = differences(ours, theirs)
        ending = f"{ours.ending.value}, {ours.restored_step.size} rollbacks"
        print(f"{name} {place}: {', '.join(found) or 'same'} ({ending})", flush=True)


def compare_products(n=270, n_units=3):
    """Of the first layers with the data, on which the sharpness stands."""
    pixels = read_pixels(data_of(n).train, 1.0)
    draw = np.random.RandomState(0)
    weights = draw.standard_normal((n_units, pixels.n_inputs))
    weights[0, 0], weights[1] = np.inf, 1e-307 * weights[1]  # products that are subnormal
    received = project(pixels, weights)
    with contextlib.closing(PixelsOnGpu(pixels, 0)) as there:
        pairs = {
            "project": (received, there.project(weights)),
            "collect": (collect(pixels, received), there.collect(received)),
        }
    for name, (ours, theirs) in pairs.items():
        print(f"{name}: {'same' if ours.tobytes() == theirs.tobytes() else 'different'}")


if __name__ == "__main__":
    for each in sys.argv[1:] or [*CASES, "products"]:
        compare_products() if each == "products" else compare(each)
