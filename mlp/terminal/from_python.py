"""Settings as a mapping, the way a notebook writes them, through the same doors as typed ones."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlp.config import RESULT_GROUPS, RunConfig, SweepConfig
from mlp.errors import SettingError
from mlp.settings import read_explain, read_run, read_sweep, setting_paths, unknown_setting
from mlp.study.identity import check_study
from mlp.terminal.compose import compose

if TYPE_CHECKING:  # importing these takes seconds
    from mlp.config import ExplainConfig


Settings = Mapping[str, Any]
"""Setting or config group -> value or option.

`{"optimizer.learning_rate": 0.6, "model.widths": [3, 4]}` sets settings by their paths, and
`{"gradient": "clip", "data": "digits"}` chooses options of config groups, as on the command line.
"""


def run_config(settings: Settings | None = None) -> RunConfig:
    """The config of a run: the defaults, with some settings changed.

    Raises:
        SettingError: for an unknown setting or option, or a value that breaks a law.

    Example:
        >>> import mlp
        >>> mlp.run_config({"gradient": "clip", "model.widths": [5, 4]}).model.widths
        (5, 4)
    """
    return read_run(_composed("train", [], settings or {}))


def study_config(study: str = "accuracy", settings: Settings | None = None) -> SweepConfig:
    """The config of a study: a study file, with some settings changed.

    Args:
        study: name of a shipped study file or of one in `./sweeps`.
        settings: of the runs and of the study; `study.space` is replaced as a whole.

    Raises:
        SettingError: as `run_config`, and for a space that breaks a law.

    Example:
        >>> import mlp
        >>> config = mlp.study_config("smoke", {"study.n_trials": 8, "training.steps": 30})
        >>> config.study.n_trials, config.base.data.name
        (8, 'digits')
    """
    config = read_sweep(_composed("sweep", [f"sweeps={study}"], settings or {}))
    check_study(config)
    return config


def typed_changes(settings: Settings | None) -> dict[str, Any]:
    """Settings of a network that a rerun may change, by their paths.

    Raises:
        SettingError: for anything else.
    """
    known = [path for path in setting_paths() if path.partition(".")[0] in RESULT_GROUPS]
    for path in settings or {}:
        if path not in known:
            raise SettingError(unknown_setting(path, known))
    return dict(settings or {})


def _composed(command: str, overrides: list[str], settings: Settings) -> Any:
    """Groups are composed by Hydra; single settings replace what came of that."""
    options = [f"{key}={option}" for key, option in settings.items() if "." not in key]
    values = compose(command, [*overrides, *options])
    for path, value in settings.items():
        group, _, name = path.partition(".")
        if name:
            values.setdefault(group, {})[name] = value
    return values


def explain_config(
    settings: "dict[str, Any] | ExplainConfig | None", uri: str | None, experiment: str
) -> "ExplainConfig":
    """The config of an explanation, from settings of the group `explain` and of others."""
    if settings is not None and not isinstance(settings, dict):
        return settings
    values: dict[str, dict[str, Any]] = {"tracking": {"uri": uri, "experiment": experiment}}
    given: set[str] = set()
    for key, value in (settings or {}).items():
        path = key if "." in key else f"explain.{key}"
        if path in given:
            raise SettingError(f"{path} is set twice")
        given.add(path)
        group, _, name = path.partition(".")
        values.setdefault(group, {})[name] = value
    return read_explain(values)
