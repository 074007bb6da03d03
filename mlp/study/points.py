"""Searches that are lists of points, fixed by the space and the seed: grid and quasi-random."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlp.canonical import canonical_json
from mlp.config import RunConfig, Study, Value
from mlp.errors import SettingError
from mlp.study.domain import Domain
from mlp.study.enqueue import enqueued, enqueued_base
from mlp.study.odometer import every_point
from mlp.study.space import Space, draw, flat, parameters

_MAX_GRID = 100_000  # points; beyond that a list is no study


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

    def take(name: str, domain: Domain) -> Value:
        taken[name] = fixed[name] if name in fixed else domain.corners()[0]
        return taken[name]

    draw(space, enqueued_base(point, space, base), take)
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

        def take(
            name: str,
            domain: Domain,
            taken: dict[str, Value] = taken,
            place: dict[str, float] = place,
        ) -> Value:
            taken[name] = domain.at(place[name])
            return taken[name]

        draw(space, base, take)
        points.append(taken)
    return points


def check_grid(space: Space, base: RunConfig) -> None:
    """Checks that a grid can be made of a space.

    Raises:
        SettingError: for a range of floats without a step, or more points than a study can have.
    """
    size = 0
    for size, _ in enumerate(_grid(space, base), 1):
        if size > _MAX_GRID:
            raise SettingError(_too_many())


def _grid(space: Space, base: RunConfig) -> Iterator[dict[str, Value]]:
    listed = {name: _listed(name, domain) for name, domain in parameters(space, base).items()}
    return every_point(functools.partial(draw, space, base), lambda name, _domain: listed[name])


def _listed(name: str, domain: Domain) -> list[Value]:
    size = domain.size()
    if size is None:
        raise SettingError(f"study.sampler=grid needs choices or a step for {name}, not a range")
    if size > _MAX_GRID:
        raise SettingError(_too_many())
    return [domain.point(index) for index in range(size)]


def _too_many() -> str:
    return f"study.sampler=grid would have more than {_MAX_GRID:,} points"
