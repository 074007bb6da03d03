"""One network trained, or trained again, from Python; the commands train and rerun call this."""

from dataclasses import dataclass

from rich.console import Console

from mlp.api.run import Run
from mlp.config import RunConfig
from mlp.flow.again import run_rerun
from mlp.flow.single import run_train
from mlp.terminal.compose import Settings, run_config, typed_changes
from mlp.terminal.screen import silent


@dataclass(frozen=True, eq=False)
class Rerun:
    """A run that was trained again.

    Attributes:
        run: the new one, tracked too.
        difference: the first loss or weight that differs, as a sentence; None: bit for bit the
            same.
        is_plain: whether no setting was changed.
    """

    run: Run
    difference: str | None
    is_plain: bool

    @property
    def is_as_expected(self) -> bool:
        """False for a plain rerun that came out differently."""
        return not self.is_plain or self.difference is None


def train_network(
    settings: Settings | RunConfig | None = None, *, console: Console | None = None
) -> Run:
    """Trains one network on threes and sevens and tracks the run, as `python -m mlp.train` does.

    Args:
        settings: what differs from the defaults; or a config.
        console: where the result is shown; None: nowhere.

    Returns:
        The run; one that diverged is a result, too.

    Raises:
        SettingError: for a setting that breaks a law.
        MlpError: for data or a store that cannot be used.

    Example:
        >>> import mlp
        >>> run = mlp.train_network({"data": "digits", "gradient": "unit", "training.steps": 40})
        >>> run.verdict.value
        'learning'
        >>> bool(run.curve["loss"].iloc[-1] < run.curve["loss"].iloc[0])
        True
    """
    config = settings if isinstance(settings, RunConfig) else run_config(settings)
    run_id, record = run_train(config, console or silent())
    return Run(run_id, record.config, record.result)


def rerun_network(
    run_id: str,
    changes: Settings | None = None,
    *,
    local: RunConfig | None = None,
    console: Console | None = None,
) -> Rerun:
    """Trains a tracked run again from its record, as `python -m mlp.rerun` does.

    Args:
        run_id: of the original.
        changes: settings to change, by their paths; None: a plain rerun.
        local: where the runs are tracked, where the data lie and how many threads train, from
            `run_config`; None: the defaults. Nothing else in it is read.
        console: where the answer is shown; None: nowhere.

    Raises:
        MissingInputError: for a run or store that is not there.
        RecordError: for a record that cannot be used.
        DataError: for other data than the run was trained on.

    Example:
        >>> import mlp
        >>> run_id = mlp.train_network({"data": "digits", "training.steps": 40}).run_id
        >>> mlp.rerun_network(run_id).difference is None
        True
        >>> mlp.rerun_network(run_id, {"optimizer.learning_rate": 30.0}).run.verdict.value
        'oscillating'
    """
    made = run_rerun(run_id, local or run_config(), typed_changes(changes), console or silent())
    run = Run(made.run_id, made.record.config, made.record.result)
    return Rerun(run, made.comparison.difference, made.is_plain)
