"""Explains one run: why it ends badly, and the smallest change that ends it well, by reruns."""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mlp.causes.changes import plain, standard_space, with_further_seeds
from mlp.causes.observed import is_repair
from mlp.causes.plan import Results
from mlp.causes.repair import (
    Attempt,
    Repair,
    describe_repair,
    named_causes,
    needs_repair,
    repair,
)
from mlp.causes.symptoms import symptoms_of
from mlp.config import Execution, ExplainConfig, RunConfig, canonical_json, digest
from mlp.curve import Judgement, Verdict
from mlp.data.dataset import ROOT_VARIABLE, Dataset
from mlp.engine.result import Result
from mlp.errors import SettingError, patiently
from mlp.explain.reruns import Retrainer, norms_of, own_function, recorded_explanation
from mlp.run import DEFAULT_EXPERIMENT
from mlp.settings import settings_of, with_arguments, with_settings
from mlp.stability.sharpness import forecast
from mlp.terminal.compose import explain_config
from mlp.terminal.screen import counting, say, silent
from mlp.tracking.display import (
    AUDIT_ASKS,
    audit_command,
    doctor_command,
    explain_command,
    rerun_command,
    run_name,
)
from mlp.tracking.drain import record_run
from mlp.tracking.listing import KEY, Label
from mlp.tracking.read import fetch_run, read_reruns
from mlp.tracking.record import judge_result
from mlp.tracking.store import (
    Store,
    describe_answer,
    find_run,
    how_to_look,
    one_sentence,
    open_store,
)
from mlp.train import load_examples, train_record
from mlp.training.train_runs import n_threads, open_executor, train_runs

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
    run_id, trained = original.run_id, original.recipe.config  # the whole id
    store = dataclasses.replace(store, experiment_id=original.experiment_id)
    judged = judge_result(trained, original.result)
    say(console, f"{judged.words}: {judged.sentence}")
    if not needs_repair(judged):
        say(console, "this run ends well: there is nothing to stop in it")
        return None
    if judged.verdict is Verdict.FAILED:
        trace = original.result.own
        say(console, f"{(trace and trace.fault) or 'it gave no loss'}: no rerun would say more")
        return None
    if trained.own is not None:
        way = "train it anew, and explain that run"
        own = own_function(trained.own, config.local.own, store, run_id, what="run", way=way)
        trained = dataclasses.replace(trained, own=own)
    here = with_settings(trained, {"data.root": config.local.data.root})
    _, data = load_examples(here, console, {original.recipe.data_digest}, "run")
    base = with_settings(trained, {"training.sharpness_points": 0})
    command = explain_command(run_id, config.local)
    with (
        open_executor(config.local.execution, notice=lambda line: say(console, line)) as where,
        recorded_explanation(
            store,
            key=f"run-{run_id}",
            name=run_name(trained),
            parent=run_id,
            console=console,
            command=command,
        ) as (reruns, explain_id),
    ):
        earlier = read_reruns(store, f"run-{run_id}")
        known = {plain(r.config): r.judgement for r in earlier if r.data_digest == data.digest}
        limit_s = config.explain.timeout_s
        ends = (
            f"explain.timeout_s={limit_s:g} ends it" if limit_s else "explain.timeout_s can end it"
        )
        again = f"; {len(known)} reruns of earlier calls are used" if known else ""
        say(console, f"trying changes one at a time; {ends}{again}")
        end = time.monotonic() + (limit_s or math.inf)
        with counting(console, "reruns", max(0, _RERUNS - len(known))) as told:
            trainer = Retrainer(data, where, reruns, f"run-{run_id}", told)
            seen = _symptoms(base, original.result, judged, trainer)
            found, offer = _search(base, judged, known, trainer, config, end)
        said = (*describe_repair(found), *seen, *offer)
        say(console, "", " ".join(said), "")  # before the store can fail
        causes = named_causes(found) or (() if found.is_complete else ("not settled",))
        about = (run_id, explain_id)
        patiently(lambda: describe_answer(store, about, sentences=said, causes=causes))
    if not found.is_complete:
        say(console, f"the time was up; this goes on: {command}")
    commands = how_to_look(store, run_id=run_id)
    if found.is_verified and config.explain.apply:
        commands = _apply(store, run_id, trained, found.cures[0], data, config, console)
    elif found.is_verified:
        commands = [f"{command} explain.apply=true   # tracks the repaired run", *commands]
    elif base.own is not None:
        commands = [f"{audit_command(base.own)}   # {AUDIT_ASKS}", *commands]
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
    root = os.environ.get(ROOT_VARIABLE)  # where the file may read its examples
    folders = [str(Path(root).resolve())] if root else []
    what = digest([settings_of(local), named.program.digest, named.program.roles, *folders])
    key, run_id = patiently(lambda: _last_run(store, what))
    if run_id is not None:
        say(console, f"run {run_id} of before is explained: the same file with the same arguments")
    else:
        record = train_record(local, console)
        label, remedy = Label(run_name(record.config), {KEY: key}), doctor_command(local)
        _, run_id = record_run(lambda: store, record, label, remedy=remedy)
        say(console, f"run {run_id} in {store.uri}")
    found = repair_run(run_id, config, console=console)
    own, seed = named.program.arguments, named.program.role("seed")
    names = ", ".join(f"own.{argument.name}" for argument in own if argument.name != seed)
    if found is None and names:
        say(console, f"other arguments can be typed behind the file: {names}")
    return found


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


def _symptoms(
    base: RunConfig, result: Result, judged: Judgement, trainer: Retrainer
) -> tuple[str, ...]:
    """What the run shows of why it ends badly; trained again where its record is coarse."""
    if base.own is not None:  # what its layers do, only the function knows
        return ()
    is_coarse = not result.layer_step.size or base.training.evaluate_every > 1
    if is_coarse and base.training.steps <= _MOST_STEPS:
        [record] = trainer.train([with_settings(base, {"training.evaluate_every": 1})])
        result = record.result
    return symptoms_of(base, result, judged)


def _search(
    base: RunConfig,
    judged: Judgement,
    known: Results,
    trainer: Retrainer,
    config: ExplainConfig,
    end: float,
) -> tuple[Repair, tuple[str, ...]]:
    """The repair, and in a sentence what the guard offers, if anything.

    Args:
        judged: how the run ends unchanged.
        known: reruns of earlier calls.
        end: by the monotonic clock; half a population may be trained beyond it.
    """
    data, own = trainer.data, n_threads(Execution())  # of the driver, no worker's
    size = _POPULATION * trainer.executor.slots()

    def goes_on() -> bool:
        pace_s = trainer.seconds / max(1, trainer.n_trained)
        return time.monotonic() + pace_s * size / 2 < end

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
    # The guard watches for what ended such a run.
    is_wild = judged.verdict in (Verdict.OSCILLATING, Verdict.CLIMBING, Verdict.DIVERGED)
    may_guard = is_wild and base.own is None and base.optimizer.guard == "none"
    if not may_guard or not goes_on():
        return found, ()
    guarded = with_settings(plain(base), {"optimizer.guard": "rollback"})
    configs = with_further_seeds(guarded, config.explain.seeds)
    new = [each for each in configs if each not in known]
    after = {**known, **dict(zip(new, trainer(new) if new else (), strict=True))}
    return found, _offer(judged, [after[each] for each in configs], named_causes(found))


def _offer(
    judged: Judgement, guarded: Sequence[Judgement], causes: Sequence[str]
) -> tuple[str, ...]:
    """What the guard makes of the run and its further seeds, if it helps: a repair, no cause."""
    own, *further = (is_repair(judged, each) for each in guarded)
    if not own or 2 * sum(further) < len(further):
        return ()
    ends = "has converged" if guarded[0].verdict is Verdict.CONVERGED else "learns"
    cause = f"; the cause stays {causes[0]}" if causes else ""
    return (
        f"With optimizer.guard=rollback it {ends}, and with {sum(further)} of {len(further)} "
        f"further seeds, without a search{cause}.",
    )


def _apply(
    store: Store,
    run_id: str,
    trained: RunConfig,
    best: Attempt,
    data: Dataset,
    config: ExplainConfig,
    console: Console,
) -> list[str]:
    """Trains the repaired run once more, for its record, and tracks it beside the original.

    Returns:
        What to type next.
    """
    points = trained.training.sharpness_points
    repaired = with_settings(best.config, {"training.sharpness_points": points})
    [record] = train_runs([repaired], data, config.local.execution)
    own = digest(canonical_json(settings_of(repaired)))[:32]
    tags = {
        KEY: f"run-{run_id}/repaired/{own}",
        "mlp.repair_of": run_id,
        "mlp.repair": best.text,
    }
    label, remedy = Label(f"repaired {run_name(repaired)}", tags), doctor_command(config.local)
    _, new_id = record_run(lambda: store, record, label, remedy=remedy)
    say(console, f"run {new_id}, repaired from {run_id}: {record.judgement.verdict.value}")
    return [rerun_command(new_id, config.local), *how_to_look(store, run_id=new_id)]
