"""Domains: the values that a setting of a search space is drawn from."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mlp.config import Value
from mlp.errors import SettingError, one_line, shown

_LARGEST = sys.float_info.max
_MOST_STEPS = 1_000_000  # in a range of floats; beyond that they are not told apart for certain
DOMAIN_KEYS = frozenset({"low", "high", "log", "step", "choices", "each_layer", "by"})
_INTEGERS = {"model.depth", "model.widths", "training.steps", "training.batch_size"} | {
    f"training.{name}" for name in ("seed", "order_seed", "evaluate_every", "shift")
}


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Value, ...]

    def contains(self, value: Value) -> bool:
        """Whether the value is one of them (1 and true are not the same)."""
        return any(_is_same(value, own) for own in self.values)

    def own(self, value: Value) -> Value:
        """A contained value as this domain writes it: 1 may be written 1.0."""
        return next(own for own in self.values if _is_same(value, own))

    def at(self, fraction: float) -> Value:
        """The value at a fraction of the domain, 0 <= fraction < 1."""
        return self.values[int(fraction * len(self.values))]

    def size(self) -> int | None:
        """How many values there are."""
        return len(self.values)

    def point(self, index: int) -> Value:
        """The value with a number, counted from 0."""
        return self.values[index]

    def corners(self) -> list[Value]:
        """Values that stand for all in a check against the schema."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """The numbers from low to high, both included."""

    low: float
    high: float
    log: bool
    step: float | None
    integer: bool

    def contains(self, value: Value) -> bool:
        """Whether the value lies in the range and on its steps."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.integer and not isinstance(value, int):
            return False
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def own(self, value: Value) -> Value:
        """A contained value as this domain writes it: on its step."""
        assert isinstance(value, int | float)
        return self.point(round((value - self.low) / self.step)) if self.step else value

    def at(self, fraction: float) -> Value:
        """The value at a fraction of the domain, 0 <= fraction < 1; log: evenly in the log."""
        if self.log:
            half = 0.5 if self.integer else 0.0  # every integer gets its own share
            low, high = math.log(self.low - half), math.log(self.high + half)
            value = math.exp(low + fraction * (high - low))
            bounded = min(max(value, self.low), self.high)
            return round(bounded) if self.integer else bounded
        size = self.size()
        if size is not None:
            return self.point(int(fraction * size))
        return min(self.low + fraction * (self.high - self.low), self.high)

    def size(self) -> int | None:
        """How many values there are; None for a range of floats without a step."""
        step = self.step or (1 if self.integer else None)
        return None if step is None else _n_steps(self.low, self.high, step) + 1

    def point(self, index: int) -> Value:
        """The value with a number, counted from 0, of those that `size` counts."""
        value = _on_step(self.low, index, self.step or 1)
        return int(value) if self.integer else value

    def corners(self) -> list[Value]:
        """Both ends."""
        return [int(self.low), int(self.high)] if self.integer else [self.low, self.high]


Domain = Choice | Range


def read_domain(path: str, value: Any) -> Domain:
    """Reads a domain as a study file has it.

    Args:
        path: the setting, with the branch behind it where there is one.
        value: a list of choices, one fixed value, or a mapping with `choices` or `low` and `high`.

    Raises:
        SettingError: for unknown or contradicting keys, low above high, log from zero.
    """
    where = f"study.space.{path}"
    setting = ".".join(path.split(".")[:2])
    if isinstance(value, list | tuple):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        value = {"choices": [value]}
    unknown = set(map(str, value)) - DOMAIN_KEYS
    if unknown:
        raise SettingError(
            f"{where} has an unknown key {shown(min(unknown))}; a domain has low, high, "
            "log, step, choices, each_layer or by"
        )
    for flag in ("log", "each_layer"):
        if not isinstance(value.get(flag, False), bool):
            raise SettingError(f"{where}.{flag} must be true or false, but is {shown(value[flag])}")
    if value.get("each_layer") and setting != "model.widths":
        raise SettingError(f"{where}.each_layer goes with model.widths only")
    if "choices" in value:
        if {"low", "high", "log", "step"} & set(value):
            raise SettingError(f"{where} must have choices or a range, but has both")
        return _read_choice(where, value["choices"])
    return _read_range(where, value, integer=setting in _INTEGERS)


def _read_choice(where: str, values: Any) -> Choice:
    if not isinstance(values, list | tuple) or not values:
        raise SettingError(f"{where} must list at least one choice, but is {shown(values)}")
    seen = set()
    for value in values:
        key = isinstance(value, bool), typed(value) if isinstance(value, list | dict) else value
        if key in seen:
            raise SettingError(f"{where} names {shown(value)} twice")
        seen.add(key)
    return Choice(tuple(values))


def _read_range(where: str, value: Mapping[str, Any], *, integer: bool) -> Range:
    log, step = value.get("log", False), value.get("step")
    ends: dict[str, Any] = {"low": value.get("low"), "high": value.get("high")}
    for key, end in {**ends, **({} if step is None else {"step": step})}.items():
        wanted = int if integer else (int, float)
        if isinstance(end, bool) or not isinstance(end, wanted) or not abs(end) <= _LARGEST:
            kind = "an integer" if integer else "a finite number"
            raise SettingError(f"{where}.{key} must be {kind}, but is {shown(end)}")
    low, high = ends["low"], ends["high"]
    if low > high:
        raise SettingError(f"{where}.low must be at most its high, but {low} > {high}")
    if log and low <= 0:
        raise SettingError(f"{where}.low must be greater than 0 for log, but is {low}")
    if step is not None and (log or step <= 0):
        raise SettingError(f"{where}.step must be greater than 0 and without log, but is {step}")
    if step is not None and not integer and not (high - low) / step <= _MOST_STEPS:
        raise SettingError(f"{where}.step must be at most {_MOST_STEPS} times in it, but is {step}")
    last = high if step is None else _on_step(low, _n_steps(low, high, step), step)
    return Range(low, int(last) if integer else last, log, step, integer)


def describe(domain: Domain) -> str:
    """The domain for a person, such as `1e-06 to 0.01 (log)`."""
    if isinstance(domain, Choice):
        return ", ".join(typed(value) for value in domain.values)
    how = " (log)" if domain.log else f" (step {domain.step:g})" if domain.step else ""
    return f"{domain.low:g} to {domain.high:g}{how}"


def typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, str):
        return value
    return one_line(json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr))


def _is_same(one: Value, other: Value) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _n_steps(low: float, high: float, step: float) -> int:
    return math.floor((high - low) / step + 1e-9)


def _on_step(low: float, index: int, step: float) -> float:
    """The number so many steps above another, in decimals: 0.1 and two steps of 0.1 are 0.3."""
    return float(Decimal(repr(low)) + index * Decimal(repr(step)))
