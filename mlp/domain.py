"""Domains: the values that a setting of a search space is drawn from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlp.config import Value, canonical_json
from mlp.errors import SettingError

DOMAIN_KEYS = frozenset({"low", "high", "log", "step", "choices", "each_layer", "by"})
_INTEGERS = {"model.depth", "model.widths", "training.steps", "training.batch_size"} | {
    f"training.{name}" for name in ("seed", "order_seed", "evaluate_every")
}


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Value, ...]

    def contains(self, value: Value) -> bool:
        """Whether the value is one of them (1 and true are not the same)."""
        return any(
            value == own and isinstance(value, bool) == isinstance(own, bool) for own in self.values
        )

    def at(self, fraction: float) -> Value:
        """The value at a fraction of the domain, 0 <= fraction < 1."""
        return self.values[int(fraction * len(self.values))]

    def grid(self) -> list[Value] | None:
        """All values."""
        return list(self.values)

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
        on_step = self.step is None or math.isclose(
            (value - self.low) / self.step, round((value - self.low) / self.step), abs_tol=1e-8
        )
        return self.low <= value <= self.high and on_step

    def at(self, fraction: float) -> Value:
        """The value at a fraction of the domain, 0 <= fraction < 1; log: evenly in the log."""
        if self.log:
            half = 0.5 if self.integer else 0.0  # every integer gets its own share
            low, high = math.log(self.low - half), math.log(self.high + half)
            value = math.exp(low + fraction * (high - low))
            bounded = min(max(value, self.low), self.high)
            return round(bounded) if self.integer else bounded
        points = self.grid()
        if points is not None:
            return points[int(fraction * len(points))]
        return self.low + fraction * (self.high - self.low)

    def grid(self) -> list[Value] | None:
        """All values, or None where they cannot be listed (a range of floats without a step)."""
        step = self.step or (1 if self.integer else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + index * step for index in range(count)]
        return [int(value) for value in values] if self.integer else list(values)

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
            f"{where} has an unknown key {min(unknown)!r}; a domain has low, high, "
            "log, step, choices, each_layer or by"
        )
    if value.get("each_layer", False) not in (True, False):
        raise SettingError(
            f"{where}.each_layer must be true or false, but is {value['each_layer']!r}"
        )
    if value.get("each_layer") and setting != "model.widths":
        raise SettingError(f"{where}.each_layer goes with model.widths only")
    if "choices" in value:
        if not isinstance(value["choices"], list | tuple) or not value["choices"]:
            raise SettingError(
                f"{where} must list at least one choice, but is {value['choices']!r}"
            )
        if {"low", "high", "log", "step"} & set(value):
            raise SettingError(f"{where} must have choices or a range, but has both")
        return Choice(tuple(value["choices"]))
    return _read_range(where, value, integer=setting in _INTEGERS)


def _read_range(where: str, value: Mapping[str, Any], *, integer: bool) -> Range:
    log, step = value.get("log", False), value.get("step")
    if log not in (True, False):
        raise SettingError(f"{where}.log must be true or false, but is {log!r}")
    ends = {"low": value.get("low"), "high": value.get("high"), **({"step": step} if step else {})}
    for key, end in ends.items():
        wanted = int if integer else (int, float)
        if isinstance(end, bool) or not isinstance(end, wanted) or not math.isfinite(end):
            kind = "an integer" if integer else "a finite number"
            raise SettingError(f"{where}.{key} must be {kind}, but is {end!r}")
    low, high = ends["low"], ends["high"]
    if low > high:
        raise SettingError(f"{where}.low must be at most its high, but {low} > {high}")
    if log and low <= 0:
        raise SettingError(f"{where}.low must be greater than 0 for log, but is {low}")
    if step is not None and (log or step <= 0):
        raise SettingError(f"{where}.step must be greater than 0 and without log, but is {step}")
    last = high if step is None else low + math.floor((high - low) / step + 1e-9) * step
    return Range(low, last, log, step, integer)


def describe(domain: Domain) -> str:
    """The domain for a person, such as `1e-06 to 0.01 (log)`."""
    if isinstance(domain, Choice):
        return ", ".join(typed(value) for value in domain.values)
    how = " (log)" if domain.log else f" (step {domain.step:g})" if domain.step else ""
    return f"{domain.low:g} to {domain.high:g}{how}"


def typed(value: Value) -> str:
    """A value as it is typed on the command line."""
    return value if isinstance(value, str) else canonical_json(value)
