"""Domains and values as Optuna stores them, and back."""

from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mlp.canonical import canonical_json
from mlp.config import Value
from mlp.study.domain import Choice, Domain


def distribution(domain: Domain) -> BaseDistribution:
    """A domain as Optuna knows it."""
    if isinstance(domain, Choice):
        return CategoricalDistribution([encoded(value) for value in domain.values])
    if domain.integer:
        return IntDistribution(
            int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def suggest(asked: optuna.Trial, name: str, domain: Domain) -> Value:
    """A value of a domain by the sampler of an asked trial."""
    if isinstance(domain, Choice):
        choices = [encoded(value) for value in domain.values]
        return plain(domain, asked.suggest_categorical(name, choices))
    if domain.integer:
        step = int(domain.step or 1)
        return asked.suggest_int(name, int(domain.low), int(domain.high), log=domain.log, step=step)
    drawn = asked.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    return domain.own(drawn)


def plain(domain: Domain, stored: Any) -> Value:
    """The value that Optuna stored, as the space has it; its integers may come back as floats."""
    if isinstance(domain, Choice):
        return next(value for value in domain.values if encoded(value) == stored)
    return int(stored) if domain.integer else float(stored)


def encoded(value: Value) -> bool | int | float | str | None:
    """The value as Optuna can store it: a list becomes its JSON text."""
    return canonical_json(value) if isinstance(value, list) else value
