"""How a study grows with its trials: training them, asking for them, holding them in memory."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlp.config import Data, RunConfig
from mlp.data.dataset import load_data
from mlp.engine.population import train
from mlp.settings import read_run, read_sweep
from mlp.study import search
from mlp.study.identity import identity
from mlp.study.storage import storage_in_memory

_TRIALS = (8, 64, 512)
_GENERATION = 16
STUDY_STEPS = 100
_SPACE = {  # as in the default study, with one learning rate
    "model.depth": {"low": 1, "high": 3},
    "model.widths": {"low": 2, "high": 32, "log": True, "each_layer": True},
    "gradient.normalization": ["sum", "mean", "unit", "clip"],
    "optimizer.learning_rate": {"low": 0.001, "high": 30.0, "log": True},
    "initialization.scheme": ["lecun_normal", "glorot_uniform", "he_normal", "orthogonal"],
}
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True)
class Growth:
    """How a study of small networks grows.

    Attributes:
        n_trials: trials, trained in generations of 16.
        trials_per_s: trained.
        ask_ms: that TPE takes to ask for the last of them, with the others in memory.
        peak_bytes: the process's largest memory so far.
    """

    n_trials: int
    trials_per_s: float
    ask_ms: float
    peak_bytes: int


def measure_growth(threads: int) -> list[Growth]:
    """Trains 8, 64 and 512 trials on the digits, 16 at a time; asks for as many, untrained."""
    data = load_data(Data(name="digits"), notice=print)
    rng = np.random.RandomState(0)
    configs = [
        _config([rng.randint(2, 33) for _ in range(rng.randint(1, 4))], seed)
        for seed in range(max(_TRIALS))
    ]
    train(configs[:2], data, threads=threads)
    grown = []
    for n in _TRIALS:
        begin = time.perf_counter()
        for first in range(0, n, _GENERATION):
            train(configs[first : min(first + _GENERATION, n)], data, threads=threads)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        grown.append(Growth(n, n / seconds, _ask_ms(n), peak))
    return grown


def _ask_ms(n_trials: int) -> float:
    """Milliseconds that TPE takes for a trial of the generation after so many, values made up."""
    study = {"n_trials": n_trials + _GENERATION, "generation": _GENERATION, "space": _SPACE}
    config = read_sweep({"study": study})
    what = identity(config, "digits", "")
    asked = search.open_search(storage_in_memory(), config, what)
    rng = np.random.RandomState(0)
    while True:
        begin = time.perf_counter()
        trials = search.ask(asked)
        seconds = time.perf_counter() - begin
        if trials[0].number >= n_trials:
            return seconds / len(trials) * 1e3
        for trial in trials:
            search.tell(asked, trial, value=float(rng.random_sample()), facts={})


def _config(widths: Sequence[int], seed: int) -> RunConfig:
    return read_run(
        {
            "model": {"depth": len(widths), "widths": list(widths)},
            "optimizer": {"learning_rate": 0.1},
            "training": {"seed": seed, "steps": STUDY_STEPS},
        }
    )
