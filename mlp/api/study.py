"""A study run, rehearsed or read from Python; the command sweep calls this."""

import re
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mlp.api.run import DEFAULT_EXPERIMENT, existing_store
from mlp.api.settings import Settings, study_config
from mlp.config import RunConfig, SweepConfig, Tracking, settings_of
from mlp.errors import MissingInputError, SettingError, one_line
from mlp.terminal.screen import silent

if TYPE_CHECKING:  # importing these takes seconds
    import pandas as pd

    from mlp.flow.conduct import StudyEnd
    from mlp.flow.rehearsal import Rehearsal

_NAME = re.compile(r"\w[\w.-]*")
_TEXTS = ("run_id", "name", "verdict", "mechanism", "ending")
_LAST_POINTS = ("loss", "validation_accuracy", "sharpness", "stability_ratio")


def run_study(
    study: str | SweepConfig = "accuracy",
    settings: Settings | None = None,
    *,
    console: Console | None = None,
) -> "StudyEnd":
    """Runs a study to its end, or goes on with it, as `python -m mlp.sweep` does.

    Args:
        study: name of a study file, shipped or in `./sweeps`; or a config.
        settings: what differs from the file; `study.space` replaces the whole space.
        console: where progress and results are shown, such as `rich.get_console()`; None: nowhere.

    Raises:
        SettingError: for a setting or space that breaks a law.
        AllDivergedError: if no run stayed finite; they are tracked all the same.
        MlpError: for data or stores that cannot be used, or a tracking store that did not take all
            runs; what was trained is kept, and the same call goes on.

    Example:
        >>> import mlp
        >>> end = mlp.run_study("smoke", {"training.steps": 30})
        >>> end.n_trials, end.best_trial in range(4)
        (4, True)
        >>> list(mlp.load_study(end.name)["trial"])
        [0, 1, 2, 3]
    """
    from mlp.flow.conduct import run_sweep  # Optuna and more, which a slip need not wait for

    return run_sweep(_config(study, settings), console or silent())


def rehearse_study(
    study: str | SweepConfig = "accuracy",
    settings: Settings | None = None,
    *,
    console: Console | None = None,
) -> "Rehearsal":
    """Finds out what a study would be, as `study.dry_run=true` shows it; leaves nothing behind.

    Args:
        study: as of `run_study`.
        settings: likewise.
        console: where it is shown; None: nowhere.

    Raises:
        SettingError: as `run_study`.

    Example:
        >>> import mlp
        >>> plan = mlp.rehearse_study("smoke", {"training.steps": 30})
        >>> plan.n_trials, sorted(plan.domains)
        (4, ['gradient.normalization', 'optimizer.learning_rate'])
    """
    from mlp.flow.conduct import run_rehearsal

    return run_rehearsal(_config(study, settings), console or silent())


def load_study(
    name: str, *, tracking_uri: str | None = None, experiment: str = DEFAULT_EXPERIMENT
) -> "pd.DataFrame":
    """The tracked runs of a study as one frame, ready for CSV or Parquet.

    Args:
        name: of the study, such as `smoke-1a2b3c4d`; or of its file, which means the newest study
            of that file.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        experiment: name of the MLflow experiment.

    Returns:
        A row a trial, in their order: `trial`, `run_id`, `name`, `verdict`, `mechanism`, `ending`;
        each setting of the run by its path, widths as they are typed; then the numbers of its
        curve, such as `final_loss`, `amplitude` and `final_validation_accuracy`, NaN where a run
        has none.

    Raises:
        MissingInputError: for a study or store that is not there.

    Example:
        >>> import mlp
        >>> frame = mlp.load_study(mlp.run_study("smoke", {"training.steps": 30}).name)
        >>> frame[["training.steps", "optimizer.learning_rate"]].dtypes.to_dict()
        {'training.steps': Int64Dtype(), 'optimizer.learning_rate': dtype('float64')}
    """
    import pandas as pd

    from mlp.tracking.listing import study_runs

    if not _NAME.fullmatch(name):
        raise SettingError(
            f"the name of a study must be like smoke-1a2b3c4d, but is {one_line(name)}"
        )
    store = existing_store(Tracking(uri=tracking_uri, experiment=experiment), f"study {name}")
    runs = study_runs(store, name)
    if not runs:
        raise MissingInputError(f"there is no study {name} in {store.uri}")
    facts = pd.DataFrame(
        {
            "trial": [run.trial for run in runs],
            "run_id": [run.run_id for run in runs],
            "name": [run.name for run in runs],
            "verdict": [run.tags.get("verdict") for run in runs],
            "mechanism": [run.tags.get("mechanism") for run in runs],
            "ending": [run.tags.get("mlp.ending") for run in runs],
        }
    )
    facts[list(_TEXTS)] = facts[list(_TEXTS)].astype("string")
    settings = {
        path: _column([run.params.get(path) for run in runs], default)
        for path, default in _defaults().items()
    }
    numbers = pd.DataFrame([run.metrics for run in runs]).drop(
        columns=list(_LAST_POINTS), errors="ignore"
    )
    return pd.concat([facts, pd.DataFrame(settings), numbers], axis=1)


def _config(study: str | SweepConfig, settings: Settings | None) -> SweepConfig:
    if isinstance(study, SweepConfig):
        return study
    return study_config(study, settings)


def _defaults() -> dict[str, object]:
    """Setting -> a value of its kind; of the widths, which may be a list, a text."""
    return {**settings_of(RunConfig()), "model.widths": "3"}


def _column(texts: list[str | None], default: object) -> "pd.Series[Any]":
    """A setting's params as a column of its own kind; what is not there is missing."""
    import pandas as pd

    known = pd.Series([None if text == "None" else text for text in texts], dtype="string")
    if isinstance(default, str):
        return known.str.replace(" ", "")  # of a list of widths
    numbers = pd.to_numeric(known, errors="coerce")
    return numbers.astype("float64" if isinstance(default, float) else "Int64")
