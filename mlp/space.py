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

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlp.config import RESULT_GROUPS, RunConfig, Value, settings_of
from mlp.domain import DOMAIN_KEYS, Domain, describe, read_domain, typed
from mlp.door import setting_paths, unknown_setting, with_settings
from mlp.errors import SettingError

_MAX_COMBINATIONS = 2048  # tried against the schema before a study starts: a tenth of a second


Suggest = Callable[[str, Domain], Value]


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
    _check_against_schema(space, base)
    return space


def draw(space: Space, base: RunConfig, suggest: Suggest) -> dict[str, Value]:
    """Draws one point: asks `suggest` for every parameter that exists there.

    Returns:
        Dotted path -> value, for `config.with_settings`.
    """
    known = settings_of(base)
    drawn: dict[str, Value] = {}
    for entry in space:
        branch = typed(drawn.get(entry.by, known[entry.by])) if entry.by else ""
        if branch not in entry.domains:
            raise SettingError(
                f"study.space.{entry.path} has no domain for {entry.by}={branch}; "
                f"it has {', '.join(entry.domains)}"
            )
        domain = entry.domains[branch]
        if entry.each_layer:
            depth = drawn.get("model.depth", known["model.depth"])
            assert isinstance(depth, int)
            layers = range(1, depth + 1)
            drawn[entry.path] = [suggest(entry.parameter(branch, i), domain) for i in layers]
        else:
            drawn[entry.path] = suggest(entry.parameter(branch, None), domain)
    return drawn


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


def enqueued(point: Mapping[str, Any], space: Space, base: RunConfig) -> dict[str, Value]:
    """The parameters, by name, that an enqueued point fixes; what it leaves open is drawn.

    Args:
        point: dotted path -> value; settings outside the space may be set too.
        space: the space of the study.
        base: the settings that the space does not vary.

    Raises:
        SettingError: for a setting or value that the schema or the space refuses.
    """
    config = with_settings(base, point)
    given = {path: value for path, value in settings_of(config).items() if path in point}
    fixed: dict[str, Value] = {}

    def take(name: str, domain: Domain) -> Value:
        path, _, rest = name.partition("[")
        if path not in given:
            return domain.corners()[0]
        value = given[path]
        entry = next(entry for entry in space if entry.path == path)
        if entry.each_layer:
            value = config.model.layer_widths[int(rest.partition("]")[0]) - 1]
        if not domain.contains(value):
            raise SettingError(f"study.enqueue sets {name} = {value}, outside {describe(domain)}")
        fixed[name] = value
        return value

    draw(space, config, take)
    return fixed


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
    if by not in known or by == path:
        raise SettingError(f"study.space.{path}.by must name another setting, but is {by!r}")
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


def _check_against_schema(space: Space, base: RunConfig) -> None:
    """Tries every end and choice alone, then their combinations, against the schema."""

    def corners(_name: str, domain: Domain) -> list[Value]:
        return domain.corners()

    for entry in space:
        for value in (value for domain in entry.domains.values() for value in domain.corners()):
            _checked(base, draw(space, base, functools.partial(_force, entry.path, value)))
    for _ in itertools.islice(enumerate_points(space, base, corners), _MAX_COMBINATIONS):
        pass


def _force(path: str, value: Value, name: str, domain: Domain) -> Value:
    """The value for one setting, the first of its domain for every other."""
    return value if name.partition("[")[0] == path else domain.corners()[0]


def _checked(base: RunConfig, drawn: Mapping[str, Value]) -> None:
    try:
        with_settings(base, drawn)
    except SettingError as error:
        point = ", ".join(f"{path}={typed(value)}" for path, value in drawn.items())
        raise SettingError(f"study.space can draw {point}: {error}") from None


def enumerate_points(
    space: Space, base: RunConfig, values: Callable[[str, Domain], list[Value]]
) -> Iterator[dict[str, Value]]:
    """Every point that can be drawn with the listed values of each parameter.

    Args:
        space: the space.
        base: the settings that it does not vary.
        values: parameter name, domain -> the values to go through.

    Yields:
        Parameter name -> value, the last parameter varying fastest.

    Raises:
        SettingError: for a point that the schema refuses.
    """
    indices: list[int] | None = []  # of the value that each parameter takes; 0 beyond the end
    while indices is not None:
        taken: dict[str, Value] = {}
        sizes: list[int] = []
        drawn = draw(space, base, functools.partial(_take, values, indices, taken, sizes))
        _checked(base, drawn)
        yield taken
        indices = _next_indices(indices, sizes)


def _take(
    values: Callable[[str, Domain], list[Value]],
    indices: list[int],
    taken: dict[str, Value],
    sizes: list[int],
    name: str,
    domain: Domain,
) -> Value:
    """Takes the value that the next index says and notes how many there were."""
    listed = values(name, domain)
    taken[name] = listed[indices[len(sizes)] if len(sizes) < len(indices) else 0]
    sizes.append(len(listed))
    return taken[name]


def _next_indices(indices: list[int], sizes: list[int]) -> list[int] | None:
    """Counts on like an odometer whose number of wheels changes; None after the last."""
    wheels = indices + [0] * (len(sizes) - len(indices))
    while wheels and wheels[-1] + 1 == sizes[len(wheels) - 1]:
        wheels.pop()
    return [*wheels[:-1], wheels[-1] + 1] if wheels else None
