"""`python -m mlp.train`: trains and tracks one run."""

import functools
import math
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from mlp.addresses import resolve
from mlp.config import RunConfig
from mlp.curve import Verdict
from mlp.data.dataset import Dataset, example_images, examples_for, load_data
from mlp.errors import DataError, counted
from mlp.run import Run
from mlp.settings import read_run
from mlp.terminal.compose import Settings, run_config, typed_configs
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal, counting, say, silent, waiting
from mlp.tracking.display import doctor_command, explain_command, rerun_command, run_name
from mlp.tracking.drain import record_run
from mlp.tracking.listing import Label
from mlp.tracking.picture import plot_curve
from mlp.tracking.record import RunRecord
from mlp.training.train_runs import open_executor, train_runs

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlp.tracking.store import Store


_EXAMPLES = {
    "": "one run with the default settings",
    "model.depth=3 'model.widths=[8,4,4]' optimizer.learning_rate=0.6": "settings by their paths",
    "data=digits gradient=unit training.steps=200": "groups of settings by their files in conf/",
    "--multirun optimizer.learning_rate=0.1,1,10": "one run for each value",
}


def _train() -> None:
    for config in typed_configs("train", read_run, _usage):
        train_network(config, console=Terminal())


def _usage() -> str:
    return usage("train", "Trains one network on threes and sevens and tracks the run.", _EXAMPLES)


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
        MlpError: for data or a store that cannot be used; a trained run that MLflow does not take
            is kept.

    Example:
        >>> import mlp
        >>> run = mlp.train_network({"data": "digits", "gradient": "unit", "training.steps": 40})
        >>> run.verdict.value
        'learning'
        >>> bool(run.curve["loss"].iloc[-1] < run.curve["loss"].iloc[0])
        True
    """
    config = settings if isinstance(settings, RunConfig) else run_config(settings)
    console = console or silent()
    resolve(config.tracking)  # an address that cannot work is refused before the training
    record = train_record(config, console)
    say_result(record, console)  # before the store can fail

    with waiting(console, "the run is being recorded"):
        from mlp.tracking.store import how_to_look, open_store  # MLflow takes seconds to import

        label, remedy = Label(run_name(record.config), {}), doctor_command(config)
        store, run_id = record_run(
            lambda: open_store(config.tracking), record, label, remedy=remedy
        )
    say(console, f"run {run_id} in {store.uri}")
    commands = [rerun_command(run_id, config), *how_to_look(store, run_id=run_id)]
    if record.judgement.verdict not in (Verdict.LEARNING, Verdict.CONVERGED, Verdict.FAILED):
        commands.insert(0, f"{explain_command(run_id, config)}   # why, and what helps")
    commands += register_model(store, run_id, record)
    say(console, "next:", *(f"  {line}" for line in commands))
    return Run(run_id, record.config, record.result)


def register_model(store: "Store", run_id: str, record: RunRecord) -> list[str]:
    """Makes a registered model of a single run, where its config asks for that.

    Returns:
        The command that serves the model; empty where there is none.
    """
    tracking = record.config.tracking
    if tracking.register is None:
        return []
    from mlp.tracking.model import log_model, serve_command

    name = tracking.register
    example = example_images(load_data(record.config.data, notice=lambda _: None))
    made = log_model(store, run_id, name=name, example=example, register=name)
    return [serve_command(store, made)]


def train_record(
    config: RunConfig,
    console: Console,
    *,
    expected_digest: str | None = None,
    pruned_at: int | None = None,
) -> RunRecord:
    """Loads the data, trains one run and judges it.

    Args:
        config: checked; `data.name` may be `auto`.
        console: for what there is to say of the data.
        expected_digest: of the data; None where any will do.
        pruned_at: step at which it was given up and is so again; None: it goes on to its end.

    Returns:
        The record, its data resolved.

    Raises:
        DataError: for data with another digest than expected.
    """
    config, data = load_examples(config, console, {expected_digest}, "run")
    thresholds = None if pruned_at is None else {pruned_at: math.inf}
    n_steps = _n_steps(config)
    with (
        open_executor(config.execution, notice=functools.partial(say, console)) as where,
        counting(console, "steps", n_steps) as told,
    ):
        [record] = train_runs(
            [config],
            data,
            where,
            thresholds=thresholds,
            progress=lambda share, _losses: told(0, share * n_steps),
        )
    if config.optimizer.learning_rate == "auto":
        rate = record.config.optimizer.rate
        say(
            console, f"optimizer.learning_rate=auto: {rate:.6g}, 1 / sharpness of the first weights"
        )
    return record


def load_examples(
    config: RunConfig, console: Console, digests: Set[str | None], what: str
) -> tuple[RunConfig, Dataset]:
    """Loads the data that something was trained on; gives the config with their name, too.

    Args:
        digests: that were recorded, None where none was.
        what: was trained, `run` or `study`.

    Raises:
        DataError: for data with another digest.
    """
    with waiting(console, "loading the data"):
        config, data = examples_for(config, notice=lambda line: say(console, line))
    if others := digests - {None, data.digest}:
        raise DataError(
            f"the {what} was trained on other data than {data.name} is here: digest "
            f"{min(map(str, others))}, here {data.digest}"
        )
    return config, data


def _n_steps(config: RunConfig) -> int:
    """How many steps the bar shows; of an own function 1 where no argument says it."""
    if config.own is None:
        return config.training.steps
    steps = config.own.arguments.get(config.own.program.role("steps") or "")
    return steps if isinstance(steps, int) and steps > 0 else 1


def say_result(record: RunRecord, console: Console) -> None:
    """Shows the verdict, the last numbers and the loss curve of a run."""
    result, judgement, own = record.result, record.judgement, record.result.own
    line = f"{judgement.words}: {judgement.sentence}"
    if own is not None and own.fault is not None:
        line = f"{judgement.verdict.value}: {own.fault}"
    last = f"loss {result.loss[-1]:.6g} after {counted(result.last_step, 'step')}"
    if judgement.verdict is Verdict.FAILED and not np.isfinite(result.loss).any():
        last = "it gave no loss"
    if result.validation_accuracy.size:
        last += f", validation accuracy {result.validation_accuracy[-1]:.4f}"
    for name, values in (own.series if own is not None else {}).items():
        last += f", {name} {values[-1]:.6g}"
    losses, at, marks = result.loss, result.loss_step, result.restored_step
    if judgement.verdict is Verdict.OSCILLATING and result.step_loss is not None:
        losses = result.step_loss  # what swings, which the ends of few epochs do not show
        at, last = np.arange(losses.size), f"{last}; the loss of each step's batch:"
    say(console, line, last, *plot_curve(losses, at, judgement.verdict, marks=marks))


main = functools.partial(run_command, _train)

if __name__ == "__main__":
    main()
