"""Confirms a study's winner: its settings with further seeds, on all examples but the test part.

A network is kept in a spool of its own until MLflow has it, and its look at the test part is stored
with the search: a sweep that was killed looks at no network twice and loses none.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mlp.config import RunConfig
from mlp.data.dataset import Dataset, load
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError
from mlp.report.mistakes import Mistake, summarise_mistakes
from mlp.settings import with_settings
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.study.search import Search
from mlp.sweep.generation import Keeper
from mlp.tracking.display import run_name
from mlp.tracking.listing import label_of_seed
from mlp.tracking.record import RunRecord
from mlp.training.outcome import accuracy_on, wrong_on
from mlp.training.train_runs import train_runs
from mlp.training.work import Executor

_SEED_END = 2**32


@dataclass(frozen=True)
class Confirmation:
    """What networks with the winner's settings and further seeds made of the test part.

    Attributes:
        accuracies: of each network.
        mistakes: what they get wrong.
        n_train: examples each was trained on.
    """

    accuracies: tuple[float, ...]
    mistakes: list[Mistake]
    n_train: int

    @property
    def mean(self) -> float:
        """Of the accuracies."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Of the accuracies, with one seed less in the denominator; 0 of a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


def confirm(opened: Search, best: TrialRow, where: Executor, keeper: Keeper) -> Confirmation:
    """Trains and tests what is missing, and hands over to MLflow what is not there yet.

    Args:
        opened: a complete study.
        best: its winner.
        where: who trains.
        keeper: of the study's runs.
    """
    base = dataclasses.replace(opened.base.data, validation_fraction=0.0)
    data = load(base, notice=lambda _line: None)
    wanted = [_Seed(best.number, i + 1) for i in range(opened.config.confirm_seeds)]
    for seed, record in _records(opened, data, where, keeper, wanted=wanted).items():
        _look(opened, seed, record, data)
        keeper.upload(*seed)
    looks = [_looks(opened)[seed] for seed in wanted]
    wrong = [[(int(place), float(p)) for place, p in look["wrong"]] for look in looks]
    accuracies = tuple(float(look["test_accuracy"]) for look in looks)
    mistakes = summarise_mistakes(wrong, data.test.labels)
    return Confirmation(accuracies, mistakes, data.train.n_examples)


class _Seed(NamedTuple):
    """A network with the settings of a trial and its so many-th further seed."""

    trial: int
    seed: int

    def __str__(self) -> str:
        return f"seed +{self.seed} of trial {self.trial}"


def _records(
    opened: Search,
    data: Dataset,
    where: Executor,
    keeper: Keeper,
    *,
    wanted: Sequence[_Seed],
) -> dict[_Seed, RunRecord]:
    """The networks not tested or not uploaded yet: those kept, and the others trained."""
    kept_at = {_Seed(*which): place for which, place in keeper.waiting().items() if which[1]}
    looked_at = _looks(opened)
    configs = {
        seed: _config(opened, seed)
        for seed in sorted({*wanted, *kept_at})
        if seed in kept_at or seed not in looked_at
    }
    records = {}
    for seed, place in kept_at.items():
        record = keeper.read(place, str(seed), configs[seed], data.digest)
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
            name = f"{run_name(record.config, trial=seed.trial)} seed +{seed.seed}"
            label = label_of_seed(keeper.page, seed.trial, seed.seed, name)
            runs[seed.trial, seed.seed] = records[seed], label
        keeper.keep(runs)

    if missing:
        train_runs([configs[seed] for seed in missing], data, where, finished=finished)
    if crashed:  # the others are kept by now
        raise SystemLimitError(f"{crashed[0]} kills the worker that trains it; the test part waits")
    return records


def _config(opened: Search, seed: _Seed) -> RunConfig:
    """A trial's settings with another seed, nothing held out."""
    config = search.trial_of(opened, search.rows(opened)[seed.trial]).config
    training = config.training
    return with_settings(
        config,
        {
            "training.seed": (training.seed + seed.seed) % _SEED_END,
            "training.order_seed": (training.order_seed + seed.seed) % _SEED_END,
            "data.validation_fraction": 0.0,
        },
    )


def _looks(opened: Search) -> dict[_Seed, dict[str, Any]]:
    """Every look at such a network."""
    return {
        _Seed(look["trial"], look["seed"]): look
        for look in search.test_looks(opened)
        if "seed" in look
    }


def _look(opened: Search, seed: _Seed, record: RunRecord, data: Dataset) -> None:
    if seed not in _looks(opened):
        assert record.test_accuracy is not None
        further = {"seed": seed.seed, "wrong": wrong_on(data.test, record, data)}
        search.add_test_look(opened, seed.trial, record.test_accuracy, further)
