"""Enqueued points: the settings of the first trials, which are given instead of drawn."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

from mlp.config import RunConfig, Value
from mlp.door import with_settings
from mlp.errors import SettingError
from mlp.settings import settings_of
from mlp.study.domain import Domain, describe
from mlp.study.odometer import every_point
from mlp.study.space import Entry, Space, draw, look_up

_MAX_COMBINATIONS = 2048  # of what a point leaves open, tried before a study starts
# Where a law joins two settings and one of them is drawn, this value of it breaks none.
_NEUTRAL = {"model.widths": 3, "model.activation": "sigmoid", "gradient.derivative": "exact"}


def enqueued(point: Mapping[str, Any], space: Space, base: RunConfig) -> dict[str, Value]:
    """The parameters, by name, that an enqueued point fixes; what it leaves open is drawn.

    Args:
        point: dotted path -> value; settings outside the space may be set too.
        space: the space of the study.
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
    """The settings of an enqueued trial before anything is drawn.

    Raises:
        SettingError: as `enqueued`.
    """
    varied = {entry.path for entry in space}
    for entry in space:
        missing = _needs(entry) & varied - set(point)
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
    """Checks an enqueued point, with whatever may be drawn beside it.

    Raises:
        SettingError: as `enqueued`.
    """
    fixed, config = enqueued(point, space, base), enqueued_base(point, space, base)

    def values(name: str, domain: Domain) -> list[Value]:
        return [fixed[name]] if name in fixed else domain.corners()

    every = every_point(functools.partial(draw, space, config), values)
    for whole in itertools.islice(every, _MAX_COMBINATIONS):
        drawn = draw(space, config, functools.partial(look_up, whole))
        try:
            with_settings(config, drawn)
        except SettingError as error:
            raise SettingError(
                f"study.enqueue leaves open what the schema refuses: {error}"
            ) from None


def _needs(entry: Entry) -> set[str]:
    """The settings that decide which parameters an entry has."""
    return {entry.by or ""} | ({"model.depth"} if entry.each_layer else set())
