"""The settings of a run by dotted path: those that determine its result, and what is recorded."""

import dataclasses

from mlp.config import RESULT_GROUPS, RunConfig, Value

_LOCAL_SETTINGS = frozenset({"data.root"})
# Settings that are younger than the first records, and what was done before there were any: no
# defaults, which may change one day.
YOUNGER_SETTINGS: dict[str, Value] = {"optimizer.decay": "none", "training.shift": 0}


def settings_of(config: RunConfig) -> dict[str, Value]:
    """Every setting that determines the result, by dotted path, in the schema's order.

    Example:
        >>> settings_of(RunConfig())["gradient.normalization"]
        'mean'
    """
    flat: dict[str, Value] = {}
    for group in RESULT_GROUPS:
        for name, value in dataclasses.asdict(getattr(config, group)).items():
            if f"{group}.{name}" not in _LOCAL_SETTINGS:
                flat[f"{group}.{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def recorded_settings(config: RunConfig) -> dict[str, Value]:
    """As `settings_of`, without younger settings where they ask for what was always done.

    So records, studies and digests of before such a setting came stay what they are.

    Example:
        >>> "training.shift" in recorded_settings(RunConfig())
        False
    """
    return {
        path: value
        for path, value in settings_of(config).items()
        if path not in YOUNGER_SETTINGS or value != YOUNGER_SETTINGS[path]
    }
