"""Conducts a study: opened or continued, trained to its end, its winner looked at and named."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console

from mlp.config import SweepConfig, settings_of
from mlp.curve import Verdict
from mlp.data.dataset import Dataset, load
from mlp.door import with_settings
from mlp.errors import AllDivergedError
from mlp.flow.confirmation import beside, confirm, seeds_spool
from mlp.flow.execution import open_executor
from mlp.flow.generation import (
    Session,
    note_outage,
    publish_leftovers,
    restore_missing,
    standing_of,
    train_again,
    train_generation,
)
from mlp.flow.lock import only_driver
from mlp.flow.mistakes import render_mistakes
from mlp.flow.outcome import accuracy_on, example_images, parts_of
from mlp.flow.rehearsal import Rehearsal, rehearse, render_rehearsal
from mlp.study import search
from mlp.study.identity import TrialRow, check_study, identity, study_name, tracking_key
from mlp.study.search import Search
from mlp.study.space import flat
from mlp.study.storage import Storage, close_storage, one_sentence, open_storage, storage_in_memory
from mlp.terminal.compose import own_study_files
from mlp.terminal.screen import meter, say, waiting
from mlp.terminal.tables import render_verdicts, summarise_verdicts
from mlp.tracking import spool
from mlp.tracking.commands import doctor_command, explain_command, rerun_command
from mlp.tracking.display import run_name
from mlp.tracking.label import StudyPage
from mlp.tracking.note import run_link, study_note
from mlp.tracking.publish import Publisher
from mlp.tracking.store_uri import mask, resolve
from mlp.tracking.view import NOTE_TAG, StudyView

WRONG_DIGITS = "wrong_digits.svg"  # artifact of the study's run


@dataclass(frozen=True)
class StudyEnd:
    """How a study ended, or where it was left.

    Attributes:
        name: of the study.
        n_trials: trials that it has.
        n_finite: those whose loss stayed finite.
        best_trial: number of the best one; None where there is none.
        best_value: what the objective was there.
        best_run_id: of its run in MLflow; None where MLflow did not take it.
        test_accuracy: of the best one, 0 to 1; None before the study is complete.
    """

    name: str
    n_trials: int
    n_finite: int
    best_trial: int | None = None
    best_value: float | None = None
    best_run_id: str | None = None
    test_accuracy: float | None = None


def run_sweep(config: SweepConfig, console: Console) -> StudyEnd:
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
    storage = open_storage(config.study.storage)
    try:
        with one_sentence(config.study.storage):
            end = _run(config, storage, console)
    finally:
        close_storage(storage)
    if end.n_finite == 0:
        raise AllDivergedError("all runs went non-finite; lower the learning rates of the space")
    return end


def run_rehearsal(config: SweepConfig, console: Console) -> Rehearsal:
    """Shows what a study would be, and leaves nothing behind.

    Args:
        config: checked.
        console: where it is shown.

    Raises:
        MlpError: for data or settings that cannot be used.
    """
    check_study(config)
    config, data = _load(config, storage_in_memory(), console)
    with waiting(console, "training for two seconds"):
        rehearsal = rehearse(config, data)
    say(console, *render_rehearsal(rehearsal, config, data))
    return rehearsal


def _run(config: SweepConfig, storage: Storage, console: Console) -> StudyEnd:
    """The sweep with its store open."""
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
        page = _page(config, opened, tracking_key(config, what))
        place = folder / opened.name
        spool.put_page(place, page)
        try:
            with Publisher(config.base.tracking, page) as publisher:
                session = Session(config, data, opened, page, place, publisher, console)
                session.executor, session.still_held = executor, still_held
                end = _conduct(session)
        finally:
            spool.clear(place)
            spool.clear(beside(place))
    if publisher.problem is not None:
        raise publisher.problem  # all is trained and kept, but a script must know
    return end


def _conduct(session: Session) -> StudyEnd:
    """Trains what is missing and names the winner; the parent run's status is true afterwards."""
    try:
        n_earlier = len(search.rows(session.search))
        publish_leftovers(session)
        _train_all(session)
        restore_missing(session, n_earlier)
        return _end(session)
    except (KeyboardInterrupt, BrokenPipeError):
        session.publisher.give_up("KILLED")
        say(session.console, _how_to_go_on(session), *_unpublished(session))
        raise
    except BaseException:
        session.publisher.finish("FAILED")
        raise


def _load(config: SweepConfig, storage: Storage, console: Console) -> tuple[SweepConfig, Dataset]:
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
        parts_of(data),
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
            note_outage(session)


def _note_seconds(session: Session, generation: int) -> None:
    """Where the time of a generation went, as metrics of the parent run at its number."""
    spent = {f"seconds_{what}": value for what, value in session.seconds.items()}
    session.seconds.clear()
    idle = session.executor.idle_share() if session.executor is not None else None
    if idle is not None:
        spent["idle_share"] = idle
    session.publisher.describe(metrics=spent, tags={}, step=generation)


def _end(session: Session) -> StudyEnd:
    """Names the winner, looks at the test part for it."""
    table = search.rows(session.search)
    best = search.best_row(session.search)
    n_oscillating = sum(row.verdict is Verdict.OSCILLATING for row in table)
    totals = {
        "n_trials": len(table),
        "oscillating_share": n_oscillating / max(1, len(table)),
    }
    session.console.print(render_verdicts(summarise_verdicts(table)))
    if best is None:
        note = study_note([row.verdict for row in table])
        session.publisher.describe(metrics=totals, tags={NOTE_TAG: note})
    else:
        test_accuracy = _say_winner(session, best, totals)
    with waiting(session.console, "the last runs are being recorded"):
        session.publisher.finish("FINISHED")
    say(session.console, *_unpublished(session))
    end = StudyEnd(
        name=session.search.name,
        n_trials=len(table),
        n_finite=sum(row.verdict is not Verdict.DIVERGED for row in table),
    )
    if best is None:
        return end
    _say_next(session, best)
    return dataclasses.replace(
        end,
        best_trial=best.number,
        best_value=best.value,
        best_run_id=session.publisher.run_ids.get(best.number),
        test_accuracy=test_accuracy,
    )


def _say_winner(session: Session, best: TrialRow, totals: dict[str, float]) -> float | None:
    """Names the best trial, on the screen and in MLflow; returns its test accuracy.

    Only a complete study has its best trial tested, and made a model.
    """
    test_accuracy: float | None = None
    metrics = {**totals, **_best_metrics(session, best)}
    files: dict[str, str] = {}
    tested = "the test part waits for the study's end"
    if len(search.rows(session.search)) >= search.n_planned(session.search):
        if session.config.study.confirm_seeds:
            tested, of_test, files = _confirm(session, best)
        else:
            tested, of_test, files = _look_at_winner(session, best)
        test_accuracy = of_test["test_accuracy"]
        # A winner that was looked at with further seeds was chosen once all the same.
        n_looks = len({look["trial"] for look in search.test_looks(session.search)})
        tested += "" if n_looks == 1 else f" (look {n_looks} at the test part of this study)"
        session.publisher.log_model(
            best.number,
            name=f"best of {session.search.name}",
            example=example_images(session.data),
            register=session.config.base.tracking.register,
        )
        metrics |= {**of_test, "test_looks": n_looks}
    named = ", ".join(f"{name}={_short(value)}" for name, value in best.params.items())
    value = f"{session.config.study.objective} {best.value:.4f}"
    winner = f"best is trial {best.number}: {value}, {tested}\n  {named}"
    say(session.console, winner)
    session.publisher.describe(
        metrics=metrics, files=files, tags={"mlp.best_trial": str(best.number)}
    )
    session.publisher.annotate(_note(session, best, f"{value}, {tested}"), best.number)
    return test_accuracy


def _note(session: Session, best: TrialRow, came_out: str) -> Callable[[str, str], str]:
    """The description of the parent run, once it is known which runs there are."""
    verdicts = [row.verdict for row in search.rows(session.search)]
    config = search.trial_of(session.search, best).config
    values = settings_of(config)

    def note(experiment_id: str, run_id: str) -> str:
        link = run_link(experiment_id, run_id, run_name(config, best.number))
        base = session.config.base
        return study_note(
            verdicts,
            winner=f"Best is {link}: {came_out}.",
            settings={entry.path: values[entry.path] for entry in session.search.space},
            commands=[explain_command(session.search.name, base), rerun_command(run_id, base)],
        )

    return note


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say_next(session: Session, best: TrialRow) -> None:
    """What to type next."""
    run_id = session.publisher.run_ids.get(best.number)
    commands = [rerun_command(run_id, session.config.base)] if run_id else []
    if session.publisher.study_run_id is not None:
        commands.append(explain_command(session.search.name, session.config.base))
    commands += session.publisher.how_to_look
    if session.publisher.how_to_serve is not None:
        commands.append(session.publisher.how_to_serve)
    if commands:
        say(session.console, "next:", *(f"  {line}" for line in commands))


def _how_to_go_on(session: Session) -> str:
    n_done, n_planned = len(search.rows(session.search)), search.n_planned(session.search)
    return f"{n_done} of {n_planned} trials are kept, and the same command goes on from there"


def _unpublished(session: Session) -> list[str]:
    """What the tracking store did not take, and why."""
    folders = session.spool, seeds_spool(session)
    n_waiting = sum(len(list(spool.waiting(folder))) for folder in folders)
    problem = session.publisher.problem
    if n_waiting == 0 and problem is None:
        return []
    reason = f", because {problem}" if problem else ""
    return [
        f"not yet in MLflow: {n_waiting} runs{reason}",
        "they are kept; the same command publishes them, and so does",
        f"  {doctor_command(session.config.base, session.config.study.storage)}",
    ]


def _best_metrics(session: Session, best: TrialRow) -> dict[str, float]:
    """The value that was sought and the validation accuracy, of the best trial."""
    found = {"best_trial": float(best.number)}
    if best.value is not None:
        found[f"best_{session.config.study.objective}"] = best.value
    if "final_validation_accuracy" in best.numbers:
        found["best_validation_accuracy"] = best.numbers["final_validation_accuracy"]
    return found


class _Tested(NamedTuple):
    """What a person, the parent run's metrics and its files say of the test part."""

    said: str
    metrics: dict[str, float]
    files: dict[str, str]


def _look_at_winner(session: Session, best: TrialRow) -> _Tested:
    """Test accuracy of the winner itself, which is looked at once."""
    found = _look_at_test(session, best)
    session.publisher.describe(metrics={"test_accuracy": found}, tags={}, of_trial=best.number)
    return _Tested(f"test accuracy {found:.4f}", {"test_accuracy": found}, {})


def _confirm(session: Session, best: TrialRow) -> _Tested:
    """Test accuracy of the winner's settings with further seeds, and a picture of what is wrong."""
    found = confirm(session, best)
    of_others = {"confirmed_test_accuracy": found.mean}  # not of the winner's own network
    session.publisher.describe(metrics=of_others, tags={}, of_trial=best.number)
    n = len(found.accuracies)
    n_always = sum(mistake.n_wrong == n for mistake in found.mistakes)
    low, high = min(found.accuracies), max(found.accuracies)
    said = (
        f"test accuracy {found.mean:.4f} as the mean of {n} further seeds on all {found.n_train} "
        f"training examples\n  (lowest {low:.4f}, highest {high:.4f}, deviation "
        f"{found.deviation:.4f}); all get {n_always} digits wrong, some {len(found.mistakes)}: "
        f"{WRONG_DIGITS} of the study's run shows them"
    )
    metrics = {
        "test_accuracy": found.mean,
        "test_accuracy_deviation": found.deviation,
        "test_accuracy_lowest": low,
        "test_accuracy_highest": high,
    }
    picture = render_mistakes(found.mistakes, n, session.data)
    return _Tested(said, metrics, {WRONG_DIGITS: picture})


def _look_at_test(session: Session, best: TrialRow) -> float:
    """Test accuracy of the winner; none is looked at twice."""
    for look in search.test_looks(session.search):
        if look["trial"] == best.number and "seed" not in look:
            return float(look["test_accuracy"])
    record = session.records.get(best.number) or train_again(session, best)
    found = accuracy_on(session.data.test, record, session.data)
    search.add_test_look(session.search, best.number, found)
    return found


def _page(config: SweepConfig, opened: Search, key: str) -> StudyPage:
    """What MLflow is told of the study before its first run."""
    study, base = config.study, config.base
    searched = {entry.path: flat(study.space)[entry.path] for entry in opened.space}
    view = StudyView(
        name=study.name or study.file,
        study=opened.name,
        objective=study.objective,
        searched=tuple(searched),
        is_validated=base.data.validation_fraction > 0,
    )
    return StudyPage(
        name=opened.name,
        key=key,
        config=_plain(config),
        searched=searched,
        view=view,
        description=f"The study {opened.name} goes on, or was stopped; no winner yet.",
    )


def _plain(config: SweepConfig) -> dict[str, Any]:
    """The config as it is recorded: every setting, no password."""
    values = dataclasses.asdict(config.base)
    study = dataclasses.asdict(config.study)
    uri = config.base.tracking.uri
    tracking = {**values["tracking"], "uri": uri and mask(uri)}
    storage = mask(config.study.storage)
    return {**values, "tracking": tracking, "study": {**study, "storage": storage}}
