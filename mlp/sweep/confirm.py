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
from mlp.sweep.generation import Session, kept
from mlp.terminal.screen import waiting
from mlp.tracking import spool
from mlp.tracking.display import run_name
from mlp.tracking.listing import label_of_seed
from mlp.tracking.record import RunRecord
from mlp.training.outcome import accuracy_on, wrong_on
from mlp.training.train_runs import train_runs

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


def confirm(session: Session, best: TrialRow) -> Confirmation:
    """Trains and tests what is missing, and hands over to MLflow what is not there yet.

    Args:
        session: of a complete study.
        best: its winner.
    """
    with waiting(session.console, "the winner's settings are trained with further seeds"):
        base = dataclasses.replace(session.config.base.data, validation_fraction=0.0)
        data = load(base, notice=lambda _line: None)
        wanted = [_Seed(best.number, i + 1) for i in range(session.config.study.confirm_seeds)]
        for seed, record in _records(session, data, wanted).items():
            _look(session, seed, record, data)
            session.drain.add(spool.place_of(session.spool, *seed))
        looks = [_looks(session)[seed] for seed in wanted]
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


def _records(session: Session, data: Dataset, wanted: Sequence[_Seed]) -> dict[_Seed, RunRecord]:
    """The networks not tested or not uploaded yet: those kept, and the others trained."""
    lying = spool.waiting(session.spool)
    kept_at = {_Seed(number, seed): place for number, seed, place in lying if seed}
    looked_at = _looks(session)
    configs = {
        seed: _config(session, seed)
        for seed in sorted({*wanted, *kept_at})
        if seed in kept_at or seed not in looked_at
    }
    records = {}
    for seed, config in configs.items():
        if seed in kept_at:
            record = kept(session, str(seed), kept_at[seed], config)
            if record is not None:
                records[seed] = record
    missing = [seed for seed in configs if seed not in records]

    def finished(made: Mapping[int, RunRecord]) -> None:
        """Makes networks safe while others still train."""
        runs = {}
        for place, record in made.items():
            seed = missing[place]
            if record.result.ending is Ending.CRASHED:
                raise SystemLimitError(
                    f"{seed} kills the worker that trains it; the test part waits"
                )
            accuracy = accuracy_on(data.test, record, data)
            records[seed] = dataclasses.replace(record, test_accuracy=accuracy)
            name = f"{run_name(record.config, trial=seed.trial)} seed +{seed.seed}"
            label = label_of_seed(session.page, seed.trial, seed.seed, name)
            runs[spool.place_of(session.spool, *seed)] = spool.Kept(records[seed], label)
        spool.put(runs)

    if missing:
        train_runs([configs[seed] for seed in missing], data, session.where, finished=finished)
    return records


def _config(session: Session, seed: _Seed) -> RunConfig:
    """A trial's settings with another seed, nothing held out."""
    row = search.rows(session.search)[seed.trial]
    config = search.trial_of(session.search, row).config
    training = config.training
    return with_settings(
        config,
        {
            "training.seed": (training.seed + seed.seed) % _SEED_END,
            "training.order_seed": (training.order_seed + seed.seed) % _SEED_END,
            "data.validation_fraction": 0.0,
        },
    )


def _looks(session: Session) -> dict[_Seed, dict[str, Any]]:
    """Every look at such a network."""
    return {
        _Seed(look["trial"], look["seed"]): look
        for look in search.test_looks(session.search)
        if "seed" in look
    }


def _look(session: Session, seed: _Seed, record: RunRecord, data: Dataset) -> None:
    if seed not in _looks(session):
        assert record.test_accuracy is not None
        further = {"seed": seed.seed, "wrong": wrong_on(data.test, record, data)}
        search.add_test_look(session.search, seed.trial, record.test_accuracy, further)
