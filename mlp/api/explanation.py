"""A study or a run explained from Python; the command explain calls this."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from mlp.api.run import DEFAULT_EXPERIMENT
from mlp.door import read_explain
from mlp.errors import SettingError
from mlp.terminal.screen import silent

if TYPE_CHECKING:  # importing these takes seconds
    from mlp.causes.repaired import Repair
    from mlp.config import ExplainConfig
    from mlp.flow.explaining import Explanation


def explain_study(
    name: str | None = None,
    settings: "dict[str, Any] | ExplainConfig | None" = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    console: Console | None = None,
) -> "Explanation":
    """Finds out which settings make the loss of a study's runs oscillate, by reruns.

    Args:
        name: of a study, the id of its parent run, or of an experiment; None: the last study.
        settings: of the group `explain`, such as `{"seeds": 8, "timeout_s": 600.0}`, with their
            group or without it, and with it of others, such as `{"execution.threads": 1}`; or a
            whole config.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        experiment: name of the MLflow experiment.
        console: where progress and the answer are shown; None: nowhere.

    Returns:
        The answer, its sentences, the page, and `figures()`, which a notebook shows.

    Raises:
        SettingError: for a setting that breaks a law.
        MissingInputError: where there is no such study.
        RecordError: for one whose runs cannot be read.
        DataError: where the data here are not those of the study.

    Example:
        >>> import mlp
        >>> end = mlp.run_study("smoke", {"training.steps": 30})
        >>> found = mlp.explain_study(end.name, {"interventions": 1, "seeds": 1})
        >>> found.answer.n_runs, {"causes", "map"} <= found.figures().keys()
        (4, True)
    """
    from mlp.flow.explaining import explain_study as explain

    config = _config(settings, tracking_uri, experiment)
    return explain(name, config, console or silent())


def repair_run(
    run_id: str,
    settings: "dict[str, Any] | ExplainConfig | None" = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    console: Console | None = None,
) -> "Repair | None":
    """Finds out why one run oscillates, and the smallest change that stops it.

    Args:
        run_id: of a tracked run.
        settings: as of `explain_study`; `{"apply": True}` tracks the repaired run beside it.
        tracking_uri: likewise.
        experiment: likewise.
        console: likewise.

    Returns:
        None for a run that does not oscillate.

    Raises:
        MlpError: as `explain_study`.
    """
    from mlp.flow.repairing import explain_run

    return explain_run(run_id, _config(settings, tracking_uri, experiment), console or silent())


def _config(
    settings: "dict[str, Any] | ExplainConfig | None", uri: str | None, experiment: str
) -> "ExplainConfig":
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
