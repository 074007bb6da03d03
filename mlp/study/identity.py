"""What a study is before any store is opened: its laws, its identity, its name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlp.config import SweepConfig, Value, canonical_json, digest
from mlp.curve import Verdict
from mlp.errors import SettingError
from mlp.settings import YOUNGER_SETTINGS, leaves, recorded_settings
from mlp.study.points import check_enqueued, check_grid
from mlp.study.space import flat, read_space


@dataclass(frozen=True)
class TrialRow:
    """A trained trial of a study in one row.

    Attributes:
        value: of the objective; None for a run that diverged or was pruned.
        numbers: further numbers by name, such as `validation_accuracy`.
    """

    number: int
    params: Mapping[str, Value]
    verdict: Verdict
    value: float | None
    numbers: Mapping[str, float]


def check_study(config: SweepConfig) -> None:
    """Checks what can be known of a study before anything is opened or loaded.

    Raises:
        SettingError: for a bad space or enqueued point, a grid over floats without a step, or an
            objective that needs examples held out where none are.
    """
    study, base = config.study, config.base
    if base.own is not None:
        _check_own(config)
    elif config.objective == "validation_accuracy" and base.data.validation_fraction == 0:
        raise SettingError(
            "study.objective=validation_accuracy needs data.validation_fraction greater than 0"
        )
    if study.pruner != "none" and (
        config.objective == "oscillation" or base.data.validation_fraction == 0
    ):
        raise SettingError(
            f"study.pruner={study.pruner} goes by validation accuracy and ends curves early, so it "
            "must be none where nothing is held out and where study.objective=oscillation"
        )
    space = read_space(study.space, base)
    n_different = max(1, len(study.enqueue))
    if not space and study.n_trials > n_different:
        raise SettingError(
            f"study.space is empty, so study.n_trials must be at most {n_different}, "
            f"but is {study.n_trials}"
        )
    for point in study.enqueue:
        check_enqueued(flat(point), space, base)
    if study.sampler == "grid":
        check_grid(space, base)


def _check_own(config: SweepConfig) -> None:
    """Refuses what a study of an own function cannot do."""
    study = config.study
    for name, value, none in (
        ("pruner", study.pruner, "none"),
        ("confirm_seeds", study.confirm_seeds, 0),
    ):
        if value != none:
            raise SettingError(
                f"study.{name} must be {none} with own.file: it needs the built-in network, but is "
                f"{value}"
            )
    if config.base.tracking.register is not None:
        raise SettingError(
            "tracking.register must be null with own.file: only a network of this "
            "program becomes a model"
        )


def identity(config: SweepConfig, data_name: str, data_digest: str) -> dict[str, Any]:
    """Everything that determines the results of a study, as plain JSON values.

    How many trials it has and how long it may take are not part of it: a longer study begins with
    the trials of the shorter one.
    """
    study = config.study
    settings = recorded_settings(config.base)
    varied = {entry.path for entry in read_space(study.space, config.base)}
    return {
        "data": {"name": data_name, "digest": data_digest},
        "settings": {
            path: value
            for path, value in settings.items()
            if path not in varied and path != "data.name"
        },
        "space": json.loads(canonical_json(flat(study.space))),
        "enqueue": [json.loads(canonical_json(flat(point))) for point in study.enqueue],
        "study": {
            "objective": config.objective,
            "sampler": study.sampler,
            "seed": study.seed,
            "generation": study.generation,
            "pruner": study.pruner,
            **({"percentile": study.percentile} if study.pruner == "percentile" else {}),
        },
    }


def study_name(config: SweepConfig, what: Mapping[str, Any]) -> str:
    """The name that was given, else the study file's name and 8 hex digits of the identity."""
    return config.study.name or f"{config.study.file}-{digest(what)[:8]}"


def tracking_key(config: SweepConfig, what: Mapping[str, Any]) -> str:
    """What a study's runs are found again by: a name alone may be given to another study later."""
    name = study_name(config, what)
    return name if config.study.name is None else f"{name}-{digest(what)[:8]}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two identities differ, a short text each, such as `training.steps 300 -> 200`."""
    unsaid = {f"settings.{path}": value for path, value in YOUNGER_SETTINGS.items()}
    flat_old, flat_new = ({**unsaid, **leaves(each)} for each in (old, new))
    return [
        f"{path.removeprefix('settings.')} {flat_old.get(path)} -> {flat_new.get(path)}"
        for path in sorted({*flat_old, *flat_new})
        if flat_old.get(path) != flat_new.get(path)
    ]
