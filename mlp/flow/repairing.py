"""Explains one run: why it oscillates, and the smallest change that stops it, trained to see."""

import dataclasses
import time
from collections.abc import Sequence

from rich.console import Console

from mlp.causes.first_step import gradient_norms
from mlp.causes.repair import Repair, repair
from mlp.causes.repair_sentences import describe_repair
from mlp.causes.standard_space import standard_space
from mlp.config import Execution, ExplainConfig, RunConfig
from mlp.curve import Judgement, Verdict, judge
from mlp.data.dataset import Dataset, load
from mlp.door import with_settings
from mlp.errors import DataError
from mlp.flow.execution import n_threads, open_executor, train_trials
from mlp.flow.outcome import Timing, make_record
from mlp.terminal.screen import counting, say
from mlp.tracking.commands import explain_command, rerun_command
from mlp.tracking.display import run_name
from mlp.tracking.record import RunRecord
from mlp.tracking.retry import patiently
from mlp.tracking.runs import publish_run
from mlp.tracking.store import Store, open_store
from mlp.tracking.tracked_run import TrackedRun, fetch_run

REPAIR_OF = "mlp.repair_of"
_LEAST_LIMIT_S = 60.0  # one run's own time is too short to search in
_RUNS_WORTH = 40.0  # trainings that a repair most often takes, in populations


def explain_run(run_id: str, config: ExplainConfig, console: Console) -> Repair | None:
    """Finds out why a run oscillates and what the smallest change is that stops it.

    Args:
        run_id: of a tracked run.
        config: how much may be trained, and where; `explain.apply` tracks the repaired run.
        console: where the answer is shown.

    Returns:
        None for a run that does not oscillate.

    Raises:
        MissingInputError, RecordError: for a run that cannot be read.
        DataError: where the data here are not those of the run.
    """
    store = patiently(lambda: open_store(config.local.tracking))
    original = patiently(lambda: fetch_run(store, run_id))
    judged = judge(original.result.loss)
    say(console, f"{judged.verdict.value}: {judged.verdict.sentence}")
    if judged.verdict is not Verdict.OSCILLATING:
        say(console, "there is no oscillation to stop in this run")
        return None
    data = _its_data(original, config, console)
    base = with_settings(original.recipe.config, {"training.sharpness_points": 0})
    found = _searched(base, data, config, console, original)
    say(console, "", describe_repair(found), "")
    if found.cures and config.explain.apply:
        _apply(store, original, found, data, config, console)
    elif found.cures:
        command = explain_command(run_id, config.local)
        say(console, "next:", f"  {command} explain.apply=true   # tracks the repaired run")
    return found


def _its_data(original: TrackedRun, config: ExplainConfig, console: Console) -> Dataset:
    where = dataclasses.replace(original.recipe.config.data, root=config.local.data.root)
    data = load(where, notice=lambda line: say(console, line))
    if data.digest != original.recipe.data_digest:
        raise DataError(
            f"the run was trained on other data than {data.name} is here: "
            f"digest {original.recipe.data_digest}, here {data.digest}"
        )
    return data


def _searched(
    base: RunConfig,
    data: Dataset,
    config: ExplainConfig,
    console: Console,
    original: TrackedRun,
) -> Repair:
    limit_s = config.explain.timeout_s or max(_LEAST_LIMIT_S, _RUNS_WORTH * _seconds(original))
    end = time.monotonic() + limit_s
    n_trained, own = 0, n_threads(Execution())  # of the driver, on a cluster too
    say(console, f"trying changes one at a time, for {limit_s:.0f} s at most (explain.timeout_s)")
    with (
        open_executor(config.local.execution, notice=lambda line: say(console, line)) as where,
        counting(console, "reruns", 2 * int(_RUNS_WORTH)) as told,
    ):

        def train(configs: Sequence[RunConfig]) -> list[Judgement]:
            nonlocal n_trained
            results = train_trials(
                configs,
                data,
                where,
                progress=lambda done, _losses: told(n_trained, done),
            )
            n_trained += len(configs)
            return [judge(result.loss) for result in results]

        return repair(
            base,
            standard_space(base),
            train,
            n_examples=data.train.n_examples,
            gradient_norm=lambda configs: gradient_norms(configs, data, threads=own),
            seeds=config.explain.seeds,
            goes_on=lambda: time.monotonic() < end,
        )


def _seconds(original: TrackedRun) -> float:
    """What a single training may take, by its number of steps: some milliseconds a step."""
    return original.recipe.config.training.steps / 1000


def _apply(
    store: Store,
    original: TrackedRun,
    found: Repair,
    data: Dataset,
    config: ExplainConfig,
    console: Console,
) -> None:
    """Trains the repaired run once more, for its record, and tracks it beside the original."""
    best = found.cures[0]
    points = original.recipe.config.training.sharpness_points
    repaired = with_settings(best.config, {"training.sharpness_points": points})
    started_ms = time.time_ns() // 1_000_000
    [result] = train_trials([repaired], data, config.local.execution)
    timing = Timing(started_ms, time.time_ns() // 1_000_000, n_threads(config.local.execution))
    record: RunRecord = make_record(repaired, data, result, timing)
    tags = {REPAIR_OF: original.run_id, "mlp.repair": best.text}
    new_id = publish_run(
        store, record, parent=None, name=f"repaired {run_name(repaired)}", tags=tags
    )
    say(
        console,
        f"run {new_id}, repaired from {original.run_id}: {record.judgement.verdict.value}",
        "next:",
        f"  {rerun_command(new_id, config.local)}",
    )
