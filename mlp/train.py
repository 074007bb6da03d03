"""`python -m mlp.train`: trains and tracks one run."""

import math
import time
from typing import Any

from rich.console import Console

from mlp.config import RunConfig
from mlp.data.dataset import load
from mlp.door import read_run, with_settings
from mlp.errors import DataError
from mlp.flow.execution import n_threads, train_trials
from mlp.flow.outcome import Timing, make_record
from mlp.terminal.compose import run_application
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal, say
from mlp.tracking.display import run_name
from mlp.tracking.note import rerun_command
from mlp.tracking.record import RunRecord
from mlp.tracking.store_uri import resolve

_EXAMPLES = {
    "": "one run with the default settings",
    "model.depth=3 'model.widths=[8,4,4]' optimizer.learning_rate=0.6": "settings by their paths",
    "data=digits gradient=unit training.steps=200": "groups of settings by their files in conf/",
    "--multirun optimizer.learning_rate=0.1,1,10": "one run for each value",
}


def main() -> None:
    """The command."""
    run_command(lambda: run_application("train", read_run, _train, _usage))


def _train(values: Any) -> None:
    run_command(lambda: _train_and_say(read_run(values)))


def _train_and_say(config: RunConfig) -> None:
    run_train(config, Terminal())


def _usage() -> str:
    return usage("train", "Trains one network on threes and sevens and tracks the run.", _EXAMPLES)


def run_train(config: RunConfig, console: Console) -> str:
    """Trains one run and tracks it.

    Args:
        config: checked.
        console: where the result is shown.

    Returns:
        The id of the run in MLflow.
    """
    resolve(config.tracking)  # an address that cannot work is refused before the training
    record = train_record(config, console)
    say_result(record, console)  # before the store can fail

    from mlp.tracking.runs import publish_run
    from mlp.tracking.store import (  # MLflow takes seconds, so not before it is needed
        how_to_look,
        open_store,
    )

    store = open_store(config.tracking)
    run_id = publish_run(store, record, parent=None, name=run_name(record.config), tags={})
    commands = [rerun_command(run_id, config), *how_to_look(store)]
    say(console, f"run {run_id} in {store.uri}", "next:", *(f"  {line}" for line in commands))
    return run_id


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
    data = load(config.data, notice=lambda line: say(console, line))
    if expected_digest not in (None, data.digest):
        raise DataError(
            f"the run was trained on other data than {data.name} is here: "
            f"digest {expected_digest}, here {data.digest}"
        )
    config = with_settings(config, {"data.name": data.name})
    started_ms = time.time_ns() // 1_000_000
    thresholds = None if pruned_at is None else {pruned_at: math.inf}
    [result] = train_trials([config], data, config.execution, thresholds=thresholds)
    ended_ms = time.time_ns() // 1_000_000
    timing = Timing(started_ms, ended_ms, n_threads(config.execution))
    return make_record(config, data, result, timing)


def say_result(record: RunRecord, console: Console) -> None:
    """Shows the verdict and the last numbers of a run."""
    result, judgement = record.result, record.judgement
    line = f"{judgement.verdict.value}: {judgement.verdict.sentence}"
    last = f"loss {result.loss[-1]:.6g} after {result.last_step} steps"
    if result.validation_accuracy.size:
        last += f", validation accuracy {result.validation_accuracy[-1]:.4f}"
    say(console, line, last)


if __name__ == "__main__":
    main()
