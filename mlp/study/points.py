"""Points of a space: those that are enqueued, and searches that are lists of points.

Grid and quasi-random searches are fixed by the space and the seed.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlp.config import RunConfig, Study, Value, canonical_json
from mlp.errors import SettingError
from mlp.settings import settings_of, with_settings
from mlp.study.space import (
    Domain,
    Space,
    describe,
    draw,
    every_point,
    flat,
    noted,
    parameters,
    value_or_first,
)

_MAX_COMBINATIONS = 2048  # of what a point leaves open, tried before a study starts
# Where a law joins two settings and one of them is drawn, this value of it breaks none.
_NEUTRAL = {"model.widths": 3, "model.activation": "sigmoid", "gradient.derivative": "exact"}

_MAX_GRID = 100_000  # points; beyond that a list is no study


def enqueued(point: Mapping[str, Any], space: Space, base: RunConfig) -> dict[str, Value]:
    """The parameters, by name, that an enqueued point fixes; what it leaves open is drawn.

    Args:
        point: dotted path -> value; settings outside the space may be set too.
        base: the settings that the space does not vary.

    Raises:
        SettingError: for a setting or value that the schema or the space refuses, or one whose
            domain depends on a setting that the point leaves open.
    """
    config = enqueued_base(point, space, base)
    given = {path: value for path, value in settings_of(config).items() if path in point}
    fixed: dict[str, Value] = {}

    def take(name: str, domain: Domain) -> Value:
        path, _, rest = name.partition("[")
        if path not in given:
            return domain.corners()[0]
        value = given[path]
        if next(entry for entry in space if entry.path == path).each_layer:
            value = config.model.layer_widths[int(rest.partition("]")[0]) - 1]
        if not domain.contains(value):
            raise SettingError(
                f"study.enqueue sets {name} = {value}, outside {describe(domain)}; "
                "study.enqueue=[] enqueues nothing"
            )
        fixed[name] = domain.own(value)
        return fixed[name]

    draw(space, config, take)
    return fixed


def enqueued_base(point: Mapping[str, Any], space: Space, base: RunConfig) -> RunConfig:
    """The settings of an enqueued trial before anything is drawn."""
    varied = {entry.path for entry in space}
    for entry in space:
        missing = entry.needs & varied - set(point)
        if entry.path in point and missing:
            raise SettingError(
                f"study.enqueue sets {entry.path} and must set {min(missing)} too, "
                "which its domain depends on"
            )
    drawn = {path: value for path, value in _NEUTRAL.items() if path in varied}
    try:
        return with_settings(base, {**drawn, **point})
    except SettingError as error:
        raise SettingError(f"study.enqueue: {error}") from None


def check_enqueued(point: Mapping[str, Any], space: Space, base: RunConfig) -> None:
    """Checks an enqueued point, with whatever may be drawn beside it."""
    fixed, config = enqueued(point, space, base), enqueued_base(point, space, base)

    def values(name: str, domain: Domain) -> list[Value]:
        return [fixed[name]] if name in fixed else domain.corners()

    every = every_point(functools.partial(draw, space, config), values)
    for whole in itertools.islice(every, _MAX_COMBINATIONS):
        drawn = draw(space, config, functools.partial(value_or_first, whole))
        try:
            with_settings(config, drawn)
        except SettingError as error:
            raise SettingError(
                f"study.enqueue leaves open what the schema refuses: {error}"
            ) from None


def list_points(study: Study, space: Space, base: RunConfig) -> list[dict[str, Value]] | None:
    """The points of a grid or quasi-random search, parameter name -> value; None for others.

    The enqueued points come first; a grid point that is one of them counts once. One that also sets
    what the space does not vary is another point. A longer list begins with the shorter one.
    """
    if study.sampler not in ("grid", "qmc"):
        return None
    first = [_whole(flat(point), space, base) for point in study.enqueue]
    if study.sampler == "qmc":
        return [*first, *_quasi_random(study, space, base, study.n_trials - len(first))]
    points = list(_grid(space, base))
    order = np.random.RandomState(study.seed).permutation(len(points))
    taken = {
        canonical_json(whole)
        for point, whole in zip(study.enqueue, first, strict=True)
        if flat(point).keys() <= {entry.path for entry in space}
    }
    return [*first, *(p for i in order if canonical_json(p := points[i]) not in taken)]


def _whole(point: Mapping[str, Any], space: Space, base: RunConfig) -> dict[str, Value]:
    """An enqueued point with the first value of what it leaves open: a list has no sampler."""
    fixed, taken = enqueued(point, space, base), dict[str, Value]()

    find = functools.partial(value_or_first, fixed)
    draw(space, enqueued_base(point, space, base), noted(find, taken))
    return taken


def _quasi_random(
    study: Study, space: Space, base: RunConfig, count: int
) -> list[dict[str, Value]]:
    """Scrambled Sobol points; a parameter takes its own coordinate wherever it exists."""
    names = list(parameters(space, base))
    if not names:
        return [{}]  # as in a grid: without a space there is one point
    if count < 1:
        return []
    from scipy.stats import qmc  # half a second, so not before it is needed

    sobol = qmc.Sobol(d=len(names), scramble=True, rng=np.random.default_rng(study.seed))
    coordinates = sobol.random_base2(max(0, math.ceil(math.log2(count))))[:count]
    points = []
    for row in coordinates:
        taken: dict[str, Value] = {}
        place = dict(zip(names, row.tolist(), strict=True))
        draw(space, base, noted(functools.partial(_at_place, place), taken))
        points.append(taken)
    return points


def _at_place(place: Mapping[str, float], name: str, domain: Domain) -> Value:
    return domain.at(place[name])


def check_grid(space: Space, base: RunConfig) -> None:
    """Checks that a grid can be made of a space.

    Raises:
        SettingError: for a range of floats without a step, or more points than a study can have.
    """
    if sum(1 for _ in itertools.islice(_grid(space, base), _MAX_GRID + 1)) > _MAX_GRID:
        raise _too_many()


def _grid(space: Space, base: RunConfig) -> Iterator[dict[str, Value]]:
    listed = {name: _listed(name, domain) for name, domain in parameters(space, base).items()}
    return every_point(functools.partial(draw, space, base), lambda name, _domain: listed[name])


def _listed(name: str, domain: Domain) -> list[Value]:
    size = domain.size()
    if size is None:
        raise SettingError(f"study.sampler=grid needs choices or a step for {name}, not a range")
    if size > _MAX_GRID:
        raise _too_many()
    return [domain.point(index) for index in range(size)]


def _too_many() -> SettingError:
    return SettingError(f"study.sampler=grid would have more than {_MAX_GRID:,} points")
