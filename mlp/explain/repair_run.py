"""Explains one run: why it ends badly, and the smallest change that ends it well, by reruns."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mlp.causes.changes import plain, standard_space, with_further_seeds
from mlp.causes.observed import is_repair
from mlp.causes.repair import Repair, describe_repair, named_causes, needs_repair, repair
from mlp.causes.symptoms import symptoms_of
from mlp.config import Execution, ExplainConfig, RunConfig, canonical_json, digest
from mlp.curve import Judgement, Verdict
from mlp.data.dataset import Dataset
from mlp.errors import DataError, SettingError, patiently
from mlp.explain.reruns import Retrainer, examples_of, norms_of, recorded_explanation
from mlp.run import DEFAULT_EXPERIMENT
from mlp.settings import located, settings_of, with_arguments, with_settings
from mlp.stability.sharpness import forecast
from mlp.terminal.compose import explain_config
from mlp.terminal.screen import counting, say, silent
from mlp.tracking.display import doctor_command, explain_command, rerun_command, run_name
from mlp.tracking.drain import Drain, record_run
from mlp.tracking.listing import KEY, Label
from mlp.tracking.read import TrackedRun, fetch_run, fetch_source, read_reruns
from mlp.tracking.record import judge_result
from mlp.tracking.store import (
    Store,
    describe_answer,
    find_run,
    how_to_look,
    one_sentence,
    open_store,
)
from mlp.train import train_record
from mlp.training.train_runs import n_threads, open_executor, train_runs

REPAIR_OF = "mlp.repair_of"
_RERUNS = 100  # that a search most often takes, about
_MOST_STEPS = 2000  # of a run that is trained again to see at which step its units died
_POPULATION = 8  # fills the vectors; more would be little faster, and overrun a time limit


def repair_run(
    run_id: str,
    settings: dict[str, Any] | ExplainConfig | None = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    console: Console | None = None,
) -> Repair | None:
    """Finds out why one run ends badly, and the smallest change with which it ends well.

    Args:
        run_id: of a tracked run, or its first digits.
        settings: as of `explain_study`; `{"apply": True}` tracks the repaired run beside it.

    Returns:
        None for a run that learns or has converged without a swing on its way.

    Raises:
        MlpError: as `explain_study`.
    """
    config = explain_config(settings, tracking_uri, experiment)
    _check_asked(config)
    console = console or silent()
    store = patiently(lambda: open_store(config.local.tracking))
    original = patiently(lambda: fetch_run(store, run_id))
    run_id = original.run_id  # whole
    store = dataclasses.replace(store, experiment_id=original.experiment_id)
    judged = judge_result(original.recipe.config, original.result)
    say(console, f"{judged.verdict.value}: {judged.verdict.sentence}")
    if not needs_repair(judged):
        say(console, "this run ends well: there is nothing to stop in it")
        return None
    if judged.verdict is Verdict.FAILED:
        trace = original.result.own
        say(console, f"{(trace and trace.fault) or 'it gave no loss'}: no rerun would say more")
        return None
    original = _located(store, original, config)
    recipe = original.recipe
    root = config.local.data.root
    data = examples_of(recipe.config, root, {recipe.data_digest}, "run", console)
    command = explain_command(run_id, config.local)
    with recorded_explanation(
        store,
        key=f"run-{run_id}",
        name=run_name(original.recipe.config),
        parent=run_id,
        console=console,
        command=command,
    ) as (reruns, explain_id):
        found, seen = _searched(store, original, judged, data, config, console, reruns)
        said = (*describe_repair(found), *seen)
        say(console, "", " ".join(said), "")  # before the store can fail
        _describe(store, found, said, (run_id, explain_id))
    if not found.is_complete:
        say(console, f"the time was up; this goes on: {command}")
    if found.is_verified and config.explain.apply:
        _apply(store, original, found, data, config, console)
        return found
    offer = f"{command} explain.apply=true   # tracks the repaired run"
    commands = [*([offer] if found.is_verified else []), *how_to_look(store, run_id=run_id)]
    say(console, "next:", *(f"  {line}" for line in commands))
    return found


def explain_function(config: ExplainConfig, *, console: Console) -> Repair | None:
    """Explains the run of an own function that an earlier call has made, or trains and tracks one.

    Args:
        config: names the file, and among what is given the arguments that differ from its defaults.

    Raises:
        SettingError: for arguments that the function does not take.
        MlpError: as `repair_run`.
    """
    named = config.local.own
    assert named is not None
    _check_asked(config)
    given = config.given.items()
    typed = {path.removeprefix("own."): v for path, v in given if path.startswith("own.")}
    local = dataclasses.replace(config.local, own=with_arguments(named, typed))
    store = patiently(lambda: open_store(local.tracking))
    what = digest([settings_of(local), named.program.digest, named.program.roles])
    key, run_id = patiently(lambda: _last_run(store, what))
    if run_id is not None:
        say(console, f"run {run_id} of before is explained: the same file with the same arguments")
    else:
        record = train_record(local, console)
        label, remedy = Label(run_name(record.config), {KEY: key}), doctor_command(local)
        _, run_id = record_run(lambda: store, record, label, remedy=remedy)
        say(console, f"run {run_id} in {store.uri}")
    return repair_run(run_id, config, console=console)


def _check_asked(config: ExplainConfig) -> None:
    """Refuses what is asked of a study, or of runs of another program, before anything is trained.

    Raises:
        SettingError: if it was typed.
    """
    if config.explain.verdict != "worst":
        raise SettingError(
            "explain.verdict is asked of a study; of a run its own bad end is explained"
        )
    if config.explain.map or config.explain.metric != "loss":
        name = "map" if config.explain.map else "metric"
        raise SettingError(f"{name} is for runs of another program; this one needs none")


def _last_run(store: Store, what: str) -> tuple[str, str | None]:
    """The key under which an own function with the same arguments is to run, and the id of its run.

    One that failed is not asked again: the next has a key of its own, which follows from that run.
    """
    key = f"own-{what[:32]}"
    while True:
        with one_sentence(store.uri):
            known = find_run(store, key)
        if known is None or known.info.status != "FINISHED":
            return key, None
        if known.data.tags.get("verdict") != Verdict.FAILED.value:
            return key, str(known.info.run_id)
        key = f"own-{digest([key, known.info.run_id])[:32]}"


def _describe(store: Store, found: Repair, said: Sequence[str], run_ids: Sequence[str]) -> None:
    causes = named_causes(found)
    if not causes and not found.is_complete:
        causes = ("not settled",)
    patiently(lambda: describe_answer(store, run_ids, sentences=said, causes=causes))


def _located(store: Store, original: TrackedRun, config: ExplainConfig) -> TrackedRun:
    """The run with the file of its own function, where that is named."""
    recorded = original.recipe.config
    if recorded.own is None:
        return original
    source = functools.partial(fetch_source, store, original.run_id)
    own = located(recorded.own, config.local.own, source)
    if own.program != recorded.own.program:
        raise DataError(
            f"{own.program.file} is not what the run was trained by; train it anew, and explain "
            "that run"
        )
    recipe = dataclasses.replace(original.recipe, config=dataclasses.replace(recorded, own=own))
    return dataclasses.replace(original, recipe=recipe)


def _searched(
    store: Store,
    original: TrackedRun,
    judged: Judgement,
    data: Dataset,
    config: ExplainConfig,
    console: Console,
    reruns: Drain,
) -> tuple[Repair, tuple[str, ...]]:
    """The repair, and in sentences what the run itself shows of why."""
    base = with_settings(original.recipe.config, {"training.sharpness_points": 0})
    earlier = read_reruns(store, f"run-{original.run_id}")
    known = {plain(r.config): r.judgement for r in earlier if r.data_digest == data.digest}
    limit_s, own = config.explain.timeout_s, n_threads(Execution())  # of the driver, no worker's
    ends = f"explain.timeout_s={limit_s:g} ends it" if limit_s else "explain.timeout_s can end it"
    again = f"; {len(known)} reruns of earlier calls are used" if known else ""
    say(console, f"trying changes one at a time; {ends}{again}")
    end = time.monotonic() + (limit_s or math.inf)
    with (
        open_executor(config.local.execution, notice=lambda line: say(console, line)) as where,
        counting(console, "reruns", max(0, _RERUNS - len(known))) as told,
    ):
        trainer = Retrainer(data, where, reruns, f"run-{original.run_id}", told)
        size = _POPULATION * where.slots()

        def goes_on() -> bool:
            pace_s = trainer.seconds / max(1, trainer.n_trained)
            return time.monotonic() + pace_s * size / 2 < end

        seen = _seen(original, base, judged, trainer)
        found = repair(
            base,
            standard_space(base),
            trainer,
            before=judged,
            n_examples=data.train.n_examples,
            gradient_norm=norms_of(data),
            ratio=forecast([base], data, threads=own)[0] if data.program is None else None,
            seeds=config.explain.seeds,
            known=known,
            population=size,
            goes_on=goes_on,
        )
        if _may_guard(base, judged) and goes_on():
            guarded = with_settings(plain(base), {"optimizer.guard": "rollback"})
            configs = with_further_seeds(guarded, config.explain.seeds)
            new = [each for each in configs if each not in known]
            known |= dict(zip(new, trainer(new) if new else (), strict=True))
            seen += _offer(judged, [known[each] for each in configs], named_causes(found))
    return found, seen


def _may_guard(base: RunConfig, judged: Judgement) -> bool:
    """Whether the guard may help: it watches for what ended the run."""
    is_wild = judged.verdict in (Verdict.OSCILLATING, Verdict.CLIMBING, Verdict.DIVERGED)
    return is_wild and base.own is None and base.optimizer.guard == "none"


def _offer(
    judged: Judgement, guarded: Sequence[Judgement], causes: Sequence[str]
) -> tuple[str, ...]:
    """What the guard makes of the run and its further seeds, if it helps: a repair, no cause."""
    own, *further = (is_repair(judged, each) for each in guarded)
    ends = "has converged" if guarded[0].verdict is Verdict.CONVERGED else "learns"
    if not own or 2 * sum(further) < len(further):
        return ()
    cause = f"; the cause stays {causes[0]}" if causes else ""
    return (
        f"With optimizer.guard=rollback it {ends}, and with {sum(further)} of {len(further)} "
        f"further seeds, without a search{cause}.",
    )


def _seen(
    original: TrackedRun, base: RunConfig, judged: Judgement, trainer: Retrainer
) -> tuple[str, ...]:
    """What the run shows of why it ends badly; trained again where its record is coarse."""
    if base.own is not None:  # what its layers do, only the function knows
        return ()
    result, every = original.result, base.training.evaluate_every
    is_coarse = not result.layer_step.size or every > 1
    if is_coarse and base.training.steps <= _MOST_STEPS:
        [result] = trainer.results([with_settings(base, {"training.evaluate_every": 1})])
    return symptoms_of(base, result, judged)


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
    [record] = train_runs([repaired], data, config.local.execution)
    own = digest(canonical_json(settings_of(repaired)))[:32]
    tags = {
        KEY: f"run-{original.run_id}/repaired/{own}",
        REPAIR_OF: original.run_id,
        "mlp.repair": best.text,
    }
    name = f"repaired {run_name(repaired)}"
    remedy = doctor_command(config.local)
    # Beside the original, in its experiment.
    _, new_id = record_run(lambda: store, record, Label(name, tags), remedy=remedy)
    say(
        console,
        f"run {new_id}, repaired from {original.run_id}: {record.judgement.verdict.value}",
        "next:",
        f"  {rerun_command(new_id, config.local)}",
        *(f"  {line}" for line in how_to_look(store, run_id=new_id)),
    )
