"""The search space of a study: which settings vary, over what, and how a trial is drawn from it.

A space is written in a study file under the command line's dotted paths. A list is a choice; a
mapping with `low` and `high` is a range (`log`, `step`; integer where the setting is one);
`each_layer` draws one width a hidden layer; `by` names another setting on whose value the domain
depends::

    model.depth: {low: 1, high: 3}
    model.widths: {low: 2, high: 32, log: true, each_layer: true}
    gradient.normalization: [sum, mean]
    optimizer.learning_rate:
      by: gradient.normalization
      sum: {low: 1.0e-6, high: 1.0e-2, log: true}
      mean: {low: 0.01, high: 30.0, log: true}

Everything that draws (Optuna's samplers, a grid, a quasi-random sequence, an enqueued point) goes
through `draw`, which asks for one parameter after the other. A parameter is named after its
setting, with the layer or the branch in brackets: `model.widths[2]`,
`optimizer.learning_rate[sum]`.
"""

import contextlib
import functools
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mlp.config import RESULT_GROUPS, Own, RunConfig, Value
from mlp.errors import SettingError, one_line, shown
from mlp.program import Program
from mlp.settings import (
    SEED,
    default_settings,
    setting_paths,
    settings_of,
    unknown_setting,
    with_settings,
)

_LARGEST = sys.float_info.max
_TIMES, _TIMES_INTEGER = 30.0, 4  # around the value of an argument, where nobody wrote a space
_MOST_STEPS = 1_000_000  # in a range of floats; beyond that they are not told apart for certain
DOMAIN_KEYS = frozenset({"low", "high", "log", "step", "choices", "each_layer", "by"})
_INTEGERS = {"model.depth", "model.widths", "training.steps", "training.batch_size"} | {
    f"training.{name}" for name in ("seed", "order_seed", "evaluate_every", "shift")
}

_MAX_COMBINATIONS = 2048  # tried against the schema before a study starts: a tenth of a second


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


def read_domain(path: str, value: Any, *, base: RunConfig | None = None) -> Domain:
    """Reads a domain as a study file has it.

    Args:
        path: the setting, with the branch behind it where there is one.
        value: a list of choices, one fixed value, or a mapping with `choices` or `low` and `high`.
        base: a run whose setting it is, where it is of an own function.

    Raises:
        SettingError: for unknown or contradicting keys, low above high, log from zero.
    """
    where = f"study.space.{path}"
    setting = ".".join(path.split(".")[:2])
    if isinstance(value, list | tuple):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        value = {"choices": [value]}
    choices = value.get("choices")
    listed = choices if isinstance(choices, list | tuple) else [choices]
    if setting == "optimizer.learning_rate" and "auto" in listed:
        raise SettingError(
            f"{where} must be numbers; optimizer.learning_rate=auto is no value to search, but a "
            "setting of all trials"
        )
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
    return _read_range(where, value, integer=_is_integer(setting, base))


def _is_integer(setting: str, base: RunConfig | None) -> bool:
    if base is None or base.own is None or setting == SEED:
        return setting in _INTEGERS
    argument = base.own.program.argument(setting.removeprefix("own."))
    return argument is not None and argument.kind == "int"


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


def describe_entry(entry: "Entry") -> str:
    """What a setting is drawn from, for a person.

    Example:
        >>> space = {"training.seed": {"by": "model.depth", "1": {"low": 0, "high": 9}, "2": [0]}}
        >>> describe_entry(read_space(space, RunConfig())[0])
        'by model.depth: 1 0 to 9; 2 0'
    """
    each = " in each layer" if entry.each_layer else ""
    drawn = {branch: f"{describe(domain)}{each}" for branch, domain in entry.domains.items()}
    if entry.by is None:
        return drawn[""]
    return f"by {entry.by}: " + "; ".join(f"{branch} {text}" for branch, text in drawn.items())


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


Suggest = Callable[[str, Domain], Value]


def every_point(
    draw: Callable[[Suggest], object], values: Callable[[str, Domain], Sequence[Value]]
) -> Iterator[dict[str, Value]]:
    """Every point that can be drawn with the listed values of each parameter.

    Args:
        draw: asks for one parameter after the other, each by its name and domain.
        values: name, domain -> the values to go through.

    Yields:
        Parameter name -> value, the last parameter varying fastest.

    Example:
        >>> depths = {"depth": [1, 2], "width": [3, 5]}
        >>> def draw(suggest):
        ...     if suggest("depth", None) == 2:
        ...         suggest("width", None)
        >>> list(every_point(draw, lambda name, _: depths[name]))
        [{'depth': 1}, {'depth': 2, 'width': 3}, {'depth': 2, 'width': 5}]
    """
    indices: list[int] = []  # of the value that each parameter takes; 0 beyond the end
    taken: dict[str, Value] = {}
    sizes: list[int] = []  # how many values each parameter goes through

    def take(name: str, domain: Domain) -> Value:
        listed = values(name, domain)
        taken[name] = listed[indices[len(sizes)] if len(sizes) < len(indices) else 0]
        sizes.append(len(listed))
        return taken[name]

    while True:
        taken, sizes = {}, []
        draw(take)
        yield taken
        # Counts on like an odometer whose number of wheels changes.
        indices += [0] * (len(sizes) - len(indices))
        while indices and indices[-1] + 1 == sizes[len(indices) - 1]:
            indices.pop()
        if not indices:
            return
        indices[-1] += 1


@dataclass(frozen=True)
class Entry:
    """One line of a space: a setting and the domain it is drawn from.

    Attributes:
        domains: branch -> domain; the only branch is "" where nothing is depended on.
        by: the setting whose value chooses the branch, or None.
        each_layer: one value for each hidden layer instead of one for all.
    """

    path: str
    domains: Mapping[str, Domain]
    by: str | None
    each_layer: bool

    @property
    def needs(self) -> set[str]:
        """The settings that decide which parameters it has."""
        by = {self.by} if self.by else set()
        return by | ({"model.depth"} if self.each_layer else set())

    def parameter(self, branch: str, layer: int | None) -> str:
        """The name that Optuna, its plots and MLflow know the parameter by."""
        where = f"[{layer}]" if layer is not None else ""
        return f"{self.path}{where}{f'[{branch}]' if self.by else ''}"


Space = tuple[Entry, ...]


def read_space(values: Mapping[str, Any], base: RunConfig) -> Space:
    """Reads and checks a search space.

    Args:
        values: dotted path -> domain, or nested groups, as a study file has them.
        base: the settings that the space does not vary.

    Returns:
        The entries, ordered so that what a domain depends on is drawn before it.

    Raises:
        SettingError: for an unknown path, low above high, log from zero, an unknown key, a circular
            or missing dependence, or a value that the schema refuses; one sentence.
    """
    entries = [_read_entry(path, value, base) for path, value in _flatten(values, "")]
    space = _ordered(entries)
    _check_dependences(space, base)
    _check_against_schema(space, base)
    return space


def space_around(own: Own) -> dict[str, Any]:
    """The space of an own function where nobody wrote one, as a study file has it.

    Positive numbers vary around their values, a factor of thirty either way; those below 1 that are
    no learning rate (a momentum, a share) stay below it. Integers go from 1 to four times theirs.
    Truth values and the texts of a `Literal` take each value. The seed, the number of steps, and
    what cannot be known of other arguments stay as they are.
    """
    left_out = {own.program.role("seed"), own.program.role("steps")}
    space: dict[str, Any] = {}
    for argument, value in zip(own.program.arguments, own.values, strict=True):
        if argument.name in left_out:
            continue
        path = f"own.{argument.name}"
        if isinstance(value, bool):
            space[path] = [value, not value]
        elif argument.choices:
            space[path] = list(argument.choices)
        elif isinstance(value, int) and value > 0:
            space[path] = {"low": 1, "high": _TIMES_INTEGER * value}
        elif isinstance(value, float) and value > 0:
            low, high = bounds_around(own.program, argument.name, value, _TIMES)
            space[path] = {"low": low, "high": high, "log": True}
    return space


def bounds_around(program: Program, name: str, value: float, times: float) -> tuple[float, float]:
    """The lowest and highest value of a positive number that anybody would try, to three digits.

    Example:
        >>> bounds_around(Program("a.py", "train", "", ()), "momentum", 0.9, 30.0)
        (0.03, 0.997)
    """
    low, high = value / times, value * times
    if value < 1 and program.role("learning_rate") != name:
        high = min(high, 1 - (1 - value) / times)
    return float(f"{low:.3g}"), float(f"{high:.3g}")


def draw(space: Space, base: RunConfig, suggest: Suggest) -> dict[str, Value]:
    """Draws one point: asks `suggest` for every parameter that exists there.

    Returns:
        Dotted path -> value, for `door.with_settings`.
    """
    drawn: dict[str, Value] = {}
    for entry in space:
        branch = _branch(entry, _value_at(entry.by, drawn, base)) if entry.by else ""
        domain = entry.domains[branch]
        if entry.each_layer:
            depth = _value_at("model.depth", drawn, base)
            assert isinstance(depth, int)
            layers = range(1, depth + 1)
            drawn[entry.path] = [suggest(entry.parameter(branch, i), domain) for i in layers]
        else:
            drawn[entry.path] = suggest(entry.parameter(branch, None), domain)
    return drawn


def noted(suggest: Suggest, taken: dict[str, Value]) -> Suggest:
    """Suggests the same, and notes each value in `taken` by the name of its parameter."""

    def suggest_and_note(name: str, domain: Domain) -> Value:
        taken[name] = suggest(name, domain)
        return taken[name]

    return suggest_and_note


def _value_at(path: str, drawn: Mapping[str, Value], base: RunConfig) -> Value:
    """What was drawn for a setting, else its value in the base."""
    if path in drawn:
        return drawn[path]
    return settings_of(base)[path]


def parameters(space: Space, base: RunConfig) -> dict[str, Domain]:
    """Every parameter that any point can have, by name, in the order of drawing."""
    depth_entry = next((entry for entry in space if entry.path == "model.depth"), None)
    deepest = base.model.depth
    if depth_entry is not None:
        ends = [value for domain in depth_entry.domains.values() for value in domain.corners()]
        deepest = max(value for value in ends if isinstance(value, int))
    return {
        entry.parameter(branch, layer): domain
        for entry in space
        for layer in (range(1, deepest + 1) if entry.each_layer else [None])
        for branch, domain in entry.domains.items()
    }


def value_or_first(point: Mapping[str, Value], name: str, domain: Domain) -> Value:
    """What a point has for a parameter, else its first value; with the point given, a `Suggest`."""
    return point[name] if name in point else domain.corners()[0]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, from dotted paths or groups nested one deep.

    Example:
        >>> flat({"model": {"depth": 2}, "optimizer.learning_rate": 0.1})
        {'model.depth': 2, 'optimizer.learning_rate': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and "." not in key:
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted path -> domain, from dotted paths, nested groups or both."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and not DOMAIN_KEYS & set(value) and "." not in path:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _searchable(base: RunConfig) -> set[str]:
    """The settings that a study may vary."""
    if base.own is not None:
        return set(settings_of(base))
    return {name for name in setting_paths() if name.partition(".")[0] in RESULT_GROUPS}


def _read_entry(path: str, value: Any, base: RunConfig) -> Entry:
    known = _searchable(base)
    if path not in known and base.own is not None and path in setting_paths():
        raise SettingError(
            f"study.space varies {path}, which does nothing in {base.own.program.file}; sweeps=own "
            "varies the arguments of your function"
        )
    if path not in known:
        raise SettingError(
            unknown_setting(f"study.space.{path}", [f"study.space.{n}" for n in known])
        )
    if path.startswith("data.") and path != "data.scale":
        raise SettingError(f"study.space cannot vary {path}: a study has one data set")
    by = value.get("by") if isinstance(value, Mapping) else None
    branches = {"": value}
    if by is not None:
        if not isinstance(by, str) or by not in known or by == path:
            raise SettingError(
                f"study.space.{path}.by must name another setting, but is {shown(by)}"
            )
        if by.startswith("data."):
            raise SettingError(f"study.space.{path}.by cannot be {by}: a study has one data set")
        branches = {typed(key): branch for key, branch in value.items() if key != "by"}
    kinds = {isinstance(b, Mapping) and b.get("each_layer") is True for b in branches.values()}
    if len(kinds) != 1:
        raise SettingError(f"study.space.{path} needs a domain of one kind for each value of {by}")
    domains = {
        key: read_domain(path if by is None else f"{path}.{key}", branch, base=base)
        for key, branch in branches.items()
    }
    return Entry(path, domains, by, kinds.pop())


def _ordered(entries: list[Entry]) -> Space:
    """Entries with what they depend on before them, otherwise as written."""
    waiting, done = list(entries), list[Entry]()
    varied = {entry.path for entry in entries}
    if len(varied) < len(entries):
        twice = next(e.path for e in entries if sum(o.path == e.path for o in entries) > 1)
        raise SettingError(f"study.space names {twice} twice")

    while waiting:
        undrawn = varied - {entry.path for entry in done}
        entry = next((entry for entry in waiting if not entry.needs & undrawn), None)
        if entry is None:
            names = " and ".join(entry.path for entry in waiting)
            raise SettingError(f"study.space: {names} depend on each other in a circle")
        waiting.remove(entry)
        done.append(entry)
    return tuple(done)


def _check_dependences(space: Space, base: RunConfig) -> None:
    """Refuses a branch for a value that does not exist, and a value without a branch."""
    sources = {entry.path: entry for entry in space}
    for entry in space:
        if entry.by is None:
            continue
        for branch in entry.domains:
            _check_branch(entry, branch, base)
        source = sources.get(entry.by)
        if source is not None and source.each_layer:
            raise SettingError(
                f"study.space.{entry.path} cannot go by {entry.by}, which has a value in each layer"
            )
        for domain in source.domains.values() if source else ():
            size = domain.size()
            if size is None:
                raise SettingError(
                    f"study.space.{entry.path} cannot go by {entry.by}, which is drawn from a range"
                )
            for index in range(min(size, len(entry.domains) + 1)):
                _branch(entry, domain.point(index))


def _check_branch(entry: Entry, branch: str, base: RunConfig) -> None:
    """The key of a branch must be a value of the setting that is depended on."""
    assert entry.by is not None
    values: list[Value] = [branch]
    with contextlib.suppress(ValueError):
        values.append(json.loads(branch))
    refused = ""
    for value in values:
        try:
            with_settings(base if base.own is not None else RunConfig(), {entry.by: value})
        except SettingError as error:
            refused = refused or str(error)
        else:
            return
    raise SettingError(f"study.space.{entry.path} has a domain for {branch}: {refused}")


def _branch(entry: Entry, value: Value) -> str:
    """The branch that a value of the setting depended on leads to."""
    branch = typed(value)
    if branch not in entry.domains:
        raise SettingError(
            f"study.space.{entry.path} has no domain for {entry.by}={branch}; "
            f"it has {', '.join(entry.domains)}; "
            f"'{branch}: [{typed(default_settings().get(entry.path))}]' keeps the default there"
        )
    return branch


def _check_against_schema(space: Space, base: RunConfig) -> None:
    """Refuses a space from which the schema's laws can be broken."""
    for suggest in _probes(space, base):
        drawn = draw(space, base, suggest)
        try:
            with_settings(base, drawn)
        except SettingError as error:
            point = ", ".join(f"{path}={typed(value)}" for path, value in drawn.items())
            raise SettingError(f"study.space can draw {one_line(point)}: {error}") from None


def _probes(space: Space, base: RunConfig) -> Iterator[Suggest]:
    """Every end and choice alone, then their combinations, of very many some."""
    for entry in space:
        for branch, domain in entry.domains.items():
            for value in domain.corners():
                yield functools.partial(_force, entry, branch, value)
    every = every_point(functools.partial(draw, space, base), lambda _, domain: domain.corners())
    points = list(itertools.islice(every, _MAX_COMBINATIONS))
    yield from (functools.partial(value_or_first, point) for point in points)
    if len(points) == _MAX_COMBINATIONS:  # the first ones are much alike, so as many from all over
        stream = random.Random(0)
        for _ in range(_MAX_COMBINATIONS):
            yield lambda _, domain: stream.choice(domain.corners())


def _force(entry: Entry, branch: str, value: Value, name: str, domain: Domain) -> Value:
    """The value for one branch of a setting, what leads there, else the first of the domain."""
    path = name.partition("[")[0]
    if path == entry.path and domain is entry.domains[branch]:
        return value
    if path == entry.by:
        values = (domain.point(index) for index in range(domain.size() or 0))
        return next((own for own in values if typed(own) == branch), domain.corners()[0])
    return domain.corners()[0]
