"""A study run, rehearsed or read from Python; the command sweep calls this."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mlp.api.run import DEFAULT_EXPERIMENT, existing_store
from mlp.config import RunConfig, SweepConfig, Tracking
from mlp.errors import one_line
from mlp.settings import settings_of
from mlp.study.domain import typed
from mlp.terminal.compose import Settings, study_config
from mlp.terminal.screen import silent

if TYPE_CHECKING:  # importing these takes seconds
    import pandas as pd

    from mlp.flow.rehearsal import Rehearsal
    from mlp.flow.winner import StudyEnd

# Of curves, which MLflow lists as well; `final_loss` and the like say the same.
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
        >>> mlp.load_study(end.name)["trial"].tolist()
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
    name: str | None = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
) -> "pd.DataFrame":
    """The tracked runs of a study as one frame, ready for CSV or Parquet.

    Args:
        name: of the study, such as `smoke-1a2b3c4d`; or the id of its parent run, or the name of an
            experiment; None: the study that was started last.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        experiment: name of the MLflow experiment.

    Returns:
        A row a finished run, in the order of the trials: `trial`, `run_id`, `name`, `verdict` and
        `mechanism`; each setting of the run by its path, widths as they are typed; then the numbers
        of its curve, such as `final_loss`, `amplitude` and `final_validation_accuracy`. What a run
        does not have is missing.

    Raises:
        MissingInputError: for a study or store that is not there.
        RecordError: for one without any run that can be read.

    Example:
        >>> import mlp
        >>> frame = mlp.load_study(mlp.run_study("smoke", {"training.steps": 30}).name)
        >>> frame[["training.steps", "optimizer.learning_rate"]].dtypes.to_dict()
        {'training.steps': Int64Dtype(), 'optimizer.learning_rate': dtype('float64')}
    """
    import pandas as pd

    wanted = f"study {one_line(name)}" if name else "study"
    store = existing_store(Tracking(uri=tracking_uri, experiment=experiment), wanted)

    from mlp.tracking.history import read_study

    runs = read_study(store, name).runs
    facts = {
        "trial": pd.Series([run.trial for run in runs], dtype="Int64"),
        "run_id": _texts([run.run_id for run in runs]),
        "name": _texts([run.name for run in runs]),
        "verdict": _texts([run.judgement.verdict.value for run in runs]),
        "mechanism": _texts([run.mechanism for run in runs]),
    }
    settings = [settings_of(run.config) for run in runs]
    columns = {
        path: _column([values[path] for values in settings], default)
        for path, default in {**settings_of(RunConfig()), "model.widths": ""}.items()
    }
    numbers = pd.DataFrame([dict(run.metrics) for run in runs])
    numbers = numbers.drop(columns=list(_LAST_POINTS), errors="ignore")
    return pd.concat([pd.DataFrame({**facts, **columns}), numbers], axis=1)


def _config(study: str | SweepConfig, settings: Settings | None) -> SweepConfig:
    if isinstance(study, SweepConfig):
        return study
    return study_config(study, settings)


def _texts(values: Sequence[object]) -> "pd.Series[Any]":
    import pandas as pd

    return pd.Series([None if value is None else typed(value) for value in values], dtype="string")


def _column(values: Sequence[object], default: object) -> "pd.Series[Any]":
    """A setting as a column of one kind, by what it is where nobody says otherwise."""
    import pandas as pd

    if isinstance(default, str):
        return _texts(values)
    return pd.Series(values, dtype="float64" if isinstance(default, float) else "Int64")
