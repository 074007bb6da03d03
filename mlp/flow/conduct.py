"""Conducts a study: opened or continued, trained to its end, its winner looked at and named."""

import dataclasses
import time
from typing import Any

from rich.console import Console

from mlp.config import SweepConfig
from mlp.curve import Verdict
from mlp.data.dataset import Dataset, load
from mlp.door import with_settings
from mlp.errors import AllDivergedError
from mlp.flow.execution import open_executor
from mlp.flow.generation import (
    Session,
    publish_leftovers,
    standing_of,
    train_again,
    train_generation,
)
from mlp.flow.lock import only_driver
from mlp.flow.outcome import accuracy_on
from mlp.study import search
from mlp.study.identity import TrialRow, check_study, identity, study_name, tracking_key
from mlp.study.search import Search
from mlp.terminal.compose import own_study_files
from mlp.terminal.console import rerun_command
from mlp.terminal.screen import meter, say, waiting
from mlp.terminal.tables import render_verdicts, summarise_verdicts
from mlp.tracking import spool
from mlp.tracking.publish import Publisher, StudyPage
from mlp.tracking.store_uri import mask, resolve


def run_sweep(config: SweepConfig, console: Console) -> None:
    """Runs a study to its end, or goes on with it.

    Args:
        config: checked.
        console: where progress and results are shown.

    Raises:
        AllDivergedError: if no run stayed finite.
        StoreError, UnavailableError, BusyError: at the end, if MLflow did not take all runs.
        MlpError: for data, stores or settings that cannot be used.
    """
    check_study(config)
    resolve(config.base.tracking)  # an address that cannot work is refused before anything is made
    storage = search.open_storage(config.study.storage)
    try:
        with search.one_sentence(config.study.storage):
            n_finite = _run(config, storage, console)
    finally:
        search.close_storage(storage)
    if n_finite == 0:
        raise AllDivergedError("all runs went non-finite; lower the learning rates of the space")


def _run(config: SweepConfig, storage: search.Storage, console: Console) -> int:
    """The sweep with its store open; returns how many runs stayed finite."""
    config, data = _load(config, storage, console)
    what = identity(config, data.name, data.digest)
    folder = spool.folder_of(config.study.storage)
    with (
        only_driver(folder, study_name(config, what), config.study.storage) as still_held,
        open_executor(config.base.execution, notice=lambda line: say(console, line)) as executor,
    ):
        related = search.related_study(storage, config, what)
        opened = search.open_search(storage, config, what)
        _announce(console, config, opened, data, related)
        page = StudyPage(
            name=opened.name,
            key=tracking_key(config, what),
            config=_plain(config),
            description=f"Study `{opened.name}`, no winner yet.",
        )
        with Publisher(config.base.tracking, page) as publisher:
            place = folder / opened.name
            session = Session(config, data, opened, place, publisher, console)
            session.executor, session.still_held = executor, still_held
            n_finite = _conduct(session)
    if publisher.problem is not None:
        raise publisher.problem  # all is trained and kept, but a script must know
    return n_finite


def _conduct(session: Session) -> int:
    """Trains what is missing and names the winner; the parent run's status is true afterwards."""
    try:
        publish_leftovers(session)
        _train_all(session)
        return _end(session)
    except (KeyboardInterrupt, BrokenPipeError):
        session.publisher.give_up("KILLED")
        say(session.console, _how_to_go_on(session), *_unpublished(session))
        raise
    except BaseException:
        session.publisher.finish("FAILED")
        raise


def _load(
    config: SweepConfig, storage: search.Storage, console: Console
) -> tuple[SweepConfig, Dataset]:
    """The data, and the config with their name in it; a continued study keeps what it had."""
    wanted = config.base.data
    if wanted.name == "auto" and (name := search.known_data(storage, config)):
        wanted = with_settings(config.base, {"data.name": name}).data
        other = "mnist" if name == "digits" else "digits"
        say(console, f"data=auto stays {name}, as in this study so far; data={other} is another")
    data = load(wanted, notice=lambda line: say(console, line))
    base = with_settings(config.base, {"data.name": data.name})
    return dataclasses.replace(config, base=base), data


def _announce(
    console: Console,
    config: SweepConfig,
    opened: Search,
    data: Dataset,
    related: tuple[str, list[str]] | None,
) -> None:
    n_done, n_planned = len(search.rows(opened)), search.n_planned(opened)
    n_trials, steps = max(n_done, n_planned), config.base.training.steps
    state = "new" if opened.is_new else "complete" if n_done >= n_planned else "continued"
    lines = [
        f"study {opened.name} ({state}): {n_trials} trials of {steps} steps, "
        f"{config.study.sampler} for {config.study.objective}",
        f"data {data.name}: {data.train.n_examples} to train on, {data.validation.n_examples} to "
        f"validate, {data.test.n_examples} to test",
        f"search in {mask(config.study.storage)}, runs in {mask(resolve(config.base.tracking))}",
    ]
    if config.study.file in own_study_files():
        lines.append(f"./sweeps/{config.study.file}.yaml is used in place of the shipped one")
    if opened.is_new and related:
        shown = "; ".join(related[1][:3]) + ("; ..." if len(related[1]) > 3 else "")
        lines.append(f"not the same study as {related[0]}: {shown}")
    if state == "complete":
        most = 2 * n_done if opened.points is None else min(2 * n_done, len(opened.points))
        extension = f"study.n_trials={most} would extend it"
        lines.append(f"nothing to train; {extension if most > n_done else 'the list is done'}")
    say(console, *lines)


def _train_all(session: Session) -> None:
    started = time.monotonic()
    timeout_s = session.config.study.timeout_s
    standing = standing_of(session)
    with meter(session.console, standing.n_done) as shown:
        shown.training(standing, 0.0)
        while True:
            with session.timed("ask"):
                trials = search.ask(session.search)
            if not trials:
                return
            # Every call trains one generation at least, so that a study comes to its end.
            is_first = standing.n_done == shown.first_done
            if timeout_s and not is_first and time.monotonic() - started > timeout_s:
                say(session.console, f"study.timeout_s is over: {_how_to_go_on(session)}")
                return
            train_generation(session, trials, standing, shown)
            _note_seconds(session, trials[0].number // session.config.study.generation)
            standing = standing_of(session)
            shown.stored(standing)


def _note_seconds(session: Session, generation: int) -> None:
    """Where the time of a generation went, as metrics of the parent run at its number."""
    spent = {f"seconds_{what}": value for what, value in session.seconds.items()}
    session.seconds.clear()
    idle = session.executor.idle_share() if session.executor is not None else None
    if idle is not None:
        spent["idle_share"] = idle
    session.publisher.describe(metrics=spent, tags={}, step=generation)


def _end(session: Session) -> int:
    """Names the winner, looks at the test part for it; returns how many runs stayed finite."""
    table = search.rows(session.search)
    best = search.best_row(session.search)
    n_oscillating = sum(row.verdict is Verdict.OSCILLATING for row in table)
    totals = {
        "n_trials": len(table),
        "oscillating_share": n_oscillating / max(1, len(table)),
    }
    session.console.print(render_verdicts(summarise_verdicts(table)))
    if best is None:
        note = f"None of {len(table)} runs came to its end with a finite loss."
        session.publisher.describe(metrics=totals, tags={"mlflow.note.content": note})
    else:
        _say_winner(session, best, totals)
    with waiting(session.console, "the last runs are being recorded"):
        session.publisher.finish("FINISHED")
    say(session.console, *_unpublished(session))
    if best is not None:
        _say_next(session, best)
    return sum(row.verdict is not Verdict.DIVERGED for row in table)


def _say_winner(session: Session, best: TrialRow, totals: dict[str, float]) -> None:
    """Names the best trial, on the screen and in MLflow; a complete study has it tested."""
    metrics = {**totals, **_best_metrics(session, best)}
    tested = "the test part waits for the study's end"
    if len(search.rows(session.search)) >= search.n_planned(session.search):
        test_accuracy, n_looks = _look_at_test(session, best)
        looks = "" if n_looks == 1 else f" (look {n_looks} at the test part of this study)"
        tested = f"test accuracy {test_accuracy:.4f}{looks}"
        of_test = {"test_accuracy": test_accuracy}
        session.publisher.describe(metrics=of_test, tags={}, of_trial=best.number)
        metrics |= {**of_test, "test_looks": n_looks}
    named = ", ".join(f"{name}={_short(value)}" for name, value in best.params.items())
    value = f"{session.config.study.objective} {best.value:.4f}"
    winner = f"best is trial {best.number}: {value}, {tested}\n  {named}"
    say(session.console, winner)
    session.publisher.describe(
        metrics=metrics,
        tags={"mlp.best_trial": str(best.number), "mlflow.note.content": winner},
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say_next(session: Session, best: TrialRow) -> None:
    """What to type next."""
    run_id = session.publisher.run_ids.get(best.number)
    commands = [rerun_command(run_id, session.config.base)] if run_id else []
    commands += session.publisher.how_to_look
    if commands:
        say(session.console, "next:", *(f"  {line}" for line in commands))


def _how_to_go_on(session: Session) -> str:
    n_done, n_planned = len(search.rows(session.search)), search.n_planned(session.search)
    return f"{n_done} of {n_planned} trials are kept, and the same command goes on from there"


def _unpublished(session: Session) -> list[str]:
    """What the tracking store did not take, and why."""
    n_waiting = len(list(spool.waiting(session.spool)))
    problem = session.publisher.problem
    if n_waiting == 0 and problem is None:
        return []
    reason = f", because {problem}" if problem else ""
    return [
        f"not yet in MLflow: {n_waiting} runs{reason}",
        "they are kept, and the same command publishes them",
    ]


def _best_metrics(session: Session, best: TrialRow) -> dict[str, float]:
    """The value that was sought and the validation accuracy, of the best trial."""
    found = {"best_trial": float(best.number)}
    if best.value is not None:
        found[f"best_{session.config.study.objective}"] = best.value
    if "final_validation_accuracy" in best.numbers:
        found["best_validation_accuracy"] = best.numbers["final_validation_accuracy"]
    return found


def _look_at_test(session: Session, best: TrialRow) -> tuple[float, int]:
    """Test accuracy of the winner and the number of looks; no winner is looked at twice."""
    looks = search.test_looks(session.search)
    for look in looks:
        if look["trial"] == best.number:
            return float(look["test_accuracy"]), len(looks)
    record = session.records.get(best.number) or train_again(session, best)
    found = accuracy_on(session.data.test, record, session.data)
    search.add_test_look(session.search, best.number, found)
    return found, len(looks) + 1


def _plain(config: SweepConfig) -> dict[str, Any]:
    """The config as it is recorded: every setting, no password."""
    values = dataclasses.asdict(config.base)
    study = dataclasses.asdict(config.study)
    return {**values, "study": {**study, "storage": mask(config.study.storage)}}
