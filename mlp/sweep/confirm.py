"""Confirms a study's winner: its settings with further seeds, on all examples but the test part.

A network is kept in a spool of its own until MLflow has it, and its look at the test part is stored
with the search: a sweep that was killed looks at no network twice and loses none.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlp.config import RunConfig
from mlp.data.dataset import Dataset, Part, features, load_data
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError
from mlp.network import Array, Layer, Params, accuracy, forward
from mlp.report.mistakes import render_mistakes, summarise_mistakes
from mlp.settings import with_settings
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.study.search import Search
from mlp.sweep.generation import Keeper
from mlp.tracking.display import run_name
from mlp.tracking.listing import label_of_seed
from mlp.tracking.record import RunRecord
from mlp.training.train_runs import train_runs
from mlp.training.work import Executor

WRONG_DIGITS = "wrong_digits.svg"  # artifact of the study's run
MOST_WRONG = 100  # that are kept of a network
_SEED_END = 2**32


class Tested(NamedTuple):
    """What a person, the metrics and the files of the study's run say of the test part."""

    said: str
    metrics: dict[str, float]
    files: dict[str, str]


_Seed = tuple[int, int]
"""A network with the settings of a trial, and which further seed of that it has."""


def confirm(opened: Search, best: TrialRow, where: Executor, keeper: Keeper) -> Tested:
    """Trains and tests what is missing, and hands over to MLflow what is not there yet.

    Args:
        opened: a complete study.
    """
    base = dataclasses.replace(opened.base.data, validation_fraction=0.0)
    data = load_data(base, notice=lambda _line: None)
    n = opened.config.confirm_seeds
    wanted = [(best.number, i + 1) for i in range(n)]
    for seed, record in _records(opened, data, where, keeper, wanted=wanted).items():
        _look(opened, seed, record, data)
        keeper.upload(*seed)
    looks = [_looks(opened)[seed] for seed in wanted]
    wrong = [[(int(place), float(p)) for place, p in look["wrong"]] for look in looks]
    accuracies = [float(look["test_accuracy"]) for look in looks]
    mistakes = summarise_mistakes(wrong, data.test.labels)
    mean, low, high = float(np.mean(accuracies)), min(accuracies), max(accuracies)
    deviation = float(np.std(accuracies, ddof=1)) if n > 1 else 0.0
    n_always = sum(mistake.n_wrong == n for mistake in mistakes)
    said = (
        f"test accuracy {mean:.4f} as the mean of {n} further seeds on all "
        f"{data.train.n_examples} training examples\n  (lowest {low:.4f}, highest {high:.4f}, "
        f"deviation {deviation:.4f}); all get {n_always} digits wrong, some {len(mistakes)}: "
        f"{WRONG_DIGITS} of the study's run shows them"
    )
    metrics = {
        "test_accuracy": mean,
        "test_accuracy_deviation": deviation,
        "test_accuracy_lowest": low,
        "test_accuracy_highest": high,
    }
    return Tested(said, metrics, {WRONG_DIGITS: render_mistakes(mistakes, n, data)})


def _records(
    opened: Search,
    data: Dataset,
    where: Executor,
    keeper: Keeper,
    *,
    wanted: Sequence[_Seed],
) -> dict[_Seed, RunRecord]:
    """The networks not tested or not uploaded yet: those kept, and the others trained."""
    kept_at = {seed: place for seed, place in keeper.waiting().items() if seed[1]}
    looked_at = _looks(opened)
    configs = {
        seed: _config(opened, seed)
        for seed in sorted({*wanted, *kept_at})
        if seed in kept_at or seed not in looked_at
    }
    records = {}
    for seed, place in kept_at.items():
        record = keeper.read(place, _name(seed), configs[seed], data.digest)
        if record is not None:
            records[seed] = record
    missing = [seed for seed in configs if seed not in records]
    crashed = list[_Seed]()

    def finished(made: Mapping[int, RunRecord]) -> None:
        runs = {}
        for place, record in made.items():
            seed = missing[place]
            if record.result.ending is Ending.CRASHED:
                crashed.append(seed)
                continue
            accuracy = accuracy_on(data.test, record, data)
            records[seed] = dataclasses.replace(record, test_accuracy=accuracy)
            name = f"{run_name(record.config, trial=seed[0])} seed +{seed[1]}"
            runs[seed] = records[seed], label_of_seed(keeper.page, *seed, name)
        keeper.keep(runs)

    if missing:
        train_runs([configs[seed] for seed in missing], data, where, finished=finished)
    if crashed:  # the others are kept by now
        raise SystemLimitError(
            f"{_name(crashed[0])} kills the worker that trains it; the test part waits"
        )
    return records


def _name(seed: _Seed) -> str:
    return f"seed +{seed[1]} of trial {seed[0]}"


def _config(opened: Search, seed: _Seed) -> RunConfig:
    """A trial's settings with another seed, nothing held out."""
    config = search.trial_of(opened, search.rows(opened)[seed[0]]).config
    training = config.training
    return with_settings(
        config,
        {
            "training.seed": (training.seed + seed[1]) % _SEED_END,
            "training.order_seed": (training.order_seed + seed[1]) % _SEED_END,
            "data.validation_fraction": 0.0,
        },
    )


def _looks(opened: Search) -> dict[_Seed, dict[str, Any]]:
    """Every look at such a network."""
    return {
        (look["trial"], look["seed"]): look for look in search.test_looks(opened) if "seed" in look
    }


def _look(opened: Search, seed: _Seed, record: RunRecord, data: Dataset) -> None:
    if seed not in _looks(opened):
        assert record.test_accuracy is not None
        further = {"seed": seed[1], "wrong": wrong_on(data.test, record, data)}
        search.add_test_look(opened, seed[0], record.test_accuracy, further)


def accuracy_on(part: Part, record: RunRecord, data: Dataset) -> float:
    """Share of a part of the data that the run's final weights get right, 0 to 1."""
    X = _inputs(part, record, data)
    return accuracy(_params(record), X, part.labels, record.config.model.activation)


def wrong_on(part: Part, record: RunRecord, data: Dataset) -> list[tuple[int, float]]:
    """What the run's final weights get wrong of a part, and how sure they are of it.

    Returns:
        Place in the part, and the probability of the wrong class, 0.5 to 1; the surest first, and
        of more than `MOST_WRONG` those only.
    """
    X = _inputs(part, record, data)
    logits: Array = forward(_params(record), X, record.config.model.activation).logits
    is_wrong = (logits[:, 1] > logits[:, 0]) != part.labels.astype(bool)
    margin = np.abs(np.nan_to_num(logits[:, 1] - logits[:, 0])).astype(np.float64)
    probability = 1 / (1 + np.exp(-margin))
    places = np.flatnonzero(is_wrong)
    surest = places[np.argsort(-probability[places], kind="stable")][:MOST_WRONG]
    return [(int(place), float(probability[place])) for place in surest]


def _inputs(part: Part, record: RunRecord, data: Dataset) -> Array:
    config = record.config
    return features(part.pixels, data.scale / config.data.scale, config.training.dtype)


def _params(record: RunRecord) -> Params:
    return tuple(Layer(W, b) for W, b in record.result.weights)
