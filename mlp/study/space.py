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
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlp.config import RESULT_GROUPS, RunConfig, Value
from mlp.door import default_settings, setting_paths, unknown_setting, with_settings
from mlp.errors import SettingError, one_line, shown
from mlp.study.domain import DOMAIN_KEYS, Domain, read_domain, typed
from mlp.study.odometer import Suggest, every_point

_MAX_COMBINATIONS = 2048  # tried against the schema before a study starts: a tenth of a second


@dataclass(frozen=True)
class Entry:
    """One line of a space: a setting and the domain it is drawn from.

    Attributes:
        path: the setting.
        domains: branch -> domain; the only branch is "" where nothing is depended on.
        by: the setting whose value chooses the branch, or None.
        each_layer: one value for each hidden layer instead of one for all.
    """

    path: str
    domains: Mapping[str, Domain]
    by: str | None
    each_layer: bool

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
    entries = [_read_entry(path, value) for path, value in _flatten(values, "")]
    space = _ordered(entries)
    _check_dependences(space)
    _check_against_schema(space, base)
    return space


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


def _value_at(path: str, drawn: Mapping[str, Value], base: RunConfig) -> Value:
    """What was drawn for a setting, else its value in the base."""
    if path in drawn:
        return drawn[path]
    group, _, name = path.partition(".")
    value: Value = getattr(getattr(base, group), name)
    return value


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


def look_up(point: Mapping[str, Value], name: str, _domain: Domain) -> Value:
    """What a whole point has for a parameter; with the point given, what `draw` asks."""
    return point[name]


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


def _read_entry(path: str, value: Any) -> Entry:
    known = {name for name in setting_paths() if name.partition(".")[0] in RESULT_GROUPS}
    if path not in known:
        raise SettingError(
            unknown_setting(f"study.space.{path}", [f"study.space.{n}" for n in known])
        )
    if path.startswith("data."):
        raise SettingError(f"study.space cannot vary {path}: a study has one data set")
    by = value.get("by") if isinstance(value, Mapping) else None
    if by is None:
        layered = isinstance(value, Mapping) and value.get("each_layer", False) is True
        return Entry(path, {"": read_domain(path, value)}, None, layered)
    if not isinstance(by, str) or by not in known or by == path:
        raise SettingError(f"study.space.{path}.by must name another setting, but is {shown(by)}")
    if by.startswith("data."):
        raise SettingError(f"study.space.{path}.by cannot be {by}: a study has one data set")
    branches = {typed(key): branch for key, branch in value.items() if key != "by"}
    kinds = {isinstance(b, Mapping) and b.get("each_layer") is True for b in branches.values()}
    if len(kinds) != 1:
        raise SettingError(f"study.space.{path} needs a domain of one kind for each value of {by}")
    domains = {key: read_domain(f"{path}.{key}", branch) for key, branch in branches.items()}
    return Entry(path, domains, by, kinds.pop())


def _ordered(entries: list[Entry]) -> Space:
    """Entries with what they depend on before them, otherwise as written."""
    waiting, done = list(entries), list[Entry]()
    varied = {entry.path for entry in entries}
    if len(varied) < len(entries):
        twice = next(e.path for e in entries if sum(o.path == e.path for o in entries) > 1)
        raise SettingError(f"study.space names {twice} twice")

    def ready(entry: Entry) -> bool:
        needs = {entry.by} if entry.by else set()
        needs |= {"model.depth"} if entry.each_layer else set()
        return not (needs & varied) - {other.path for other in done}

    while waiting:
        entry = next((entry for entry in waiting if ready(entry)), None)
        if entry is None:
            names = " and ".join(entry.path for entry in waiting)
            raise SettingError(f"study.space: {names} depend on each other in a circle")
        waiting.remove(entry)
        done.append(entry)
    return tuple(done)


def _check_dependences(space: Space) -> None:
    """Refuses a branch for a value that does not exist, and a value without a branch."""
    sources = {entry.path: entry for entry in space}
    for entry in space:
        if entry.by is None:
            continue
        for branch in entry.domains:
            _check_branch(entry, branch)
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


def _check_branch(entry: Entry, branch: str) -> None:
    """The key of a branch must be a value of the setting that is depended on."""
    assert entry.by is not None
    values: list[Value] = [branch]
    with contextlib.suppress(ValueError):
        values.append(json.loads(branch))
    refused = ""
    for value in values:
        try:
            with_settings(RunConfig(), {entry.by: value})
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
            f"'{branch}: [{typed(default_settings()[entry.path])}]' keeps the default there"
        )
    return branch


def _check_against_schema(space: Space, base: RunConfig) -> None:
    """Tries every end and choice alone, then their combinations, against the schema."""

    def corners(_name: str, domain: Domain) -> list[Value]:
        return domain.corners()

    for entry in space:
        for branch, domain in entry.domains.items():
            for value in domain.corners():
                force = functools.partial(_force, entry, branch, value)
                _checked(base, draw(space, base, force))
    every = every_point(functools.partial(draw, space, base), corners)
    points = list(itertools.islice(every, _MAX_COMBINATIONS))
    for point in points:
        _checked(base, draw(space, base, functools.partial(look_up, point)))
    if len(points) == _MAX_COMBINATIONS:  # the first ones are much alike, so as many from all over
        stream = random.Random(0)
        for _ in range(_MAX_COMBINATIONS):
            _checked(base, draw(space, base, lambda _name, domain: stream.choice(domain.corners())))


def _force(entry: Entry, branch: str, value: Value, name: str, domain: Domain) -> Value:
    """The value for one branch of a setting, what leads there, else the first of the domain."""
    path = name.partition("[")[0]
    if path == entry.path and domain is entry.domains[branch]:
        return value
    if path == entry.by:
        values = (domain.point(index) for index in range(domain.size() or 0))
        return next((own for own in values if typed(own) == branch), domain.corners()[0])
    return domain.corners()[0]


def _checked(base: RunConfig, drawn: Mapping[str, Value]) -> None:
    try:
        with_settings(base, drawn)
    except SettingError as error:
        point = ", ".join(f"{path}={typed(value)}" for path, value in drawn.items())
        raise SettingError(f"study.space can draw {one_line(point)}: {error}") from None
