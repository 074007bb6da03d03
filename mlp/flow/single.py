"""One network: trained, judged, shown, tracked."""

import math
import time
from typing import TYPE_CHECKING

from rich.console import Console

from mlp.config import RunConfig
from mlp.curve import Verdict
from mlp.data.dataset import load
from mlp.door import with_settings
from mlp.errors import DataError
from mlp.terminal.screen import counting, say
from mlp.tracking.commands import doctor_command, explain_command, rerun_command
from mlp.tracking.display import run_name
from mlp.tracking.label import Label
from mlp.tracking.publish import publish_single
from mlp.tracking.record import RunRecord
from mlp.tracking.store_uri import resolve
from mlp.training.executor import n_threads, train_trials
from mlp.training.outcome import Timing, example_images, make_record

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlp.tracking.store import Store

_FEW_LOSSES = 40  # the last quarter, which is judged, has ten of them


def run_train(config: RunConfig, console: Console) -> tuple[str, RunRecord]:
    """Trains one run and tracks it.

    Args:
        config: checked.
        console: where the result is shown.

    Returns:
        The id of the run in MLflow, and what was recorded.

    Raises:
        StoreError, UnavailableError, BusyError: where MLflow does not take it; it is kept then.
    """
    resolve(config.tracking)  # an address that cannot work is refused before the training
    record = train_record(config, console)
    say_result(record, console)  # before the store can fail

    from mlp.tracking.store import how_to_look  # MLflow takes seconds, so not before it is needed

    label, remedy = Label(run_name(record.config), {}), doctor_command(config)
    store, run_id = publish_single(config.tracking, record, label, remedy=remedy)
    say(console, f"run {run_id} in {store.uri}")
    commands = [rerun_command(run_id, config), *how_to_look(store, run_id=run_id)]
    if record.judgement.verdict is Verdict.OSCILLATING:
        commands.insert(0, f"{explain_command(run_id, config)}   # what stops it")
    commands += register(store, run_id, record)
    say(console, "next:", *(f"  {line}" for line in commands))
    return run_id, record


def register(store: "Store", run_id: str, record: RunRecord) -> list[str]:
    """Makes a registered model of a single run, where its config asks for that.

    Returns:
        The command that serves the model; empty where there is none.
    """
    tracking = record.config.tracking
    if tracking.register is None:
        return []
    from mlp.tracking.model import log_model, serve_command

    example = example_images(load(record.config.data, notice=lambda _: None))
    made = log_model(
        store, run_id, name=tracking.register, example=example, register=tracking.register
    )
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
    data = load(config.data, notice=lambda line: say(console, line))
    if expected_digest not in (None, data.digest):
        raise DataError(
            f"the run was trained on other data than {data.name} is here: "
            f"digest {expected_digest}, here {data.digest}"
        )
    config = with_settings(config, {"data.name": data.name})
    started_ms = time.time_ns() // 1_000_000
    thresholds = None if pruned_at is None else {pruned_at: math.inf}
    n_steps = config.training.steps
    with counting(console, "steps", n_steps) as told:
        [result] = train_trials(
            [config],
            data,
            config.execution,
            thresholds=thresholds,
            progress=lambda share, _losses: told(0, share * n_steps),
        )
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
    if result.loss.size < _FEW_LOSSES and record.judgement.verdict is not Verdict.DIVERGED:
        seen = f"the verdict rests on {result.loss.size} values of the loss"
        each = "" if record.config.training.batch_size is None else ", one an epoch"
        say(console, f"{seen}{each}; more steps make it surer")
