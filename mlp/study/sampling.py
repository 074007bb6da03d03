"""How the trials of a generation are drawn: by Optuna's samplers, or from a list of points."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from mlp.config import RunConfig, Study, Value
from mlp.door import with_settings
from mlp.study import encoding
from mlp.study.domain import Domain
from mlp.study.enqueue import enqueued, enqueued_base
from mlp.study.space import Space, draw, flat


@dataclass(frozen=True)
class Trial:
    """One point of the search.

    Attributes:
        number: its place in the search, from 0.
        config: what to train.
        params: parameter name -> value, as Optuna knows them.
    """

    number: int
    config: RunConfig
    params: Mapping[str, Value]


def sample(
    study: Study,
    base: RunConfig,
    space: Space,
    *,
    direction: Literal["maximize", "minimize"],
    earlier: Sequence[FrozenTrial],
    numbers: range,
) -> list[Trial]:
    """Asks Optuna's sampler, in a copy of the study as it was before this generation.

    Args:
        study: the settings of the search.
        base: the settings that every trial shares.
        space: what varies.
        direction: of the objective.
        earlier: the stored trials of earlier generations.
        numbers: of the trials to ask.
    """
    copy = optuna.create_study(direction=direction)
    copy.add_trials(earlier)
    trials = []
    for number in numbers:
        copy.sampler = _sampler(study, number)
        own_base, fixed = base, dict[str, Value]()
        if number < len(study.enqueue):
            own_base, fixed = _enqueued_at(study, base, space, number)
            copy.enqueue_trial({name: encoding.encoded(v) for name, v in fixed.items()})
        asked = copy.ask()
        taken: dict[str, Value] = {}

        def suggest(
            name: str,
            domain: Domain,
            asked: optuna.Trial = asked,
            taken: dict[str, Value] = taken,
        ) -> Value:
            taken[name] = encoding.suggest(asked, name, domain)
            return taken[name]

        drawn = draw(space, own_base, suggest)
        trials.append(Trial(number, with_settings(own_base, drawn), taken))
    return trials


def take(
    study: Study, base: RunConfig, space: Space, *, number: int, point: Mapping[str, Value]
) -> Trial:
    """The trial at one point of a list.

    Args:
        study: the settings of the search.
        base: the settings that every trial shares.
        space: what varies.
        number: of the trial.
        point: parameter name -> value, of the parameters that exist there at least.
    """
    if number < len(study.enqueue):
        base = _enqueued_at(study, base, space, number)[0]
    taken: dict[str, Value] = {}

    def find(name: str, domain: Domain) -> Value:
        taken[name] = point[name] if name in point else domain.corners()[0]
        return taken[name]

    drawn = draw(space, base, find)
    return Trial(number, with_settings(base, drawn), taken)


def _sampler(study: Study, number: int) -> BaseSampler:
    """A sampler whose stream depends on the study's seed and the trial's number alone."""
    seed = int.from_bytes(hashlib.sha256(f"{study.seed}/{number}".encode()).digest()[:4], "big")
    return RandomSampler(seed=seed) if study.sampler == "random" else TPESampler(seed=seed)


def _enqueued_at(
    study: Study, base: RunConfig, space: Space, number: int
) -> tuple[RunConfig, dict[str, Value]]:
    point = flat(study.enqueue[number])
    fixed = enqueued(point, space, base)
    return enqueued_base(point, space, base), fixed
