"""The end of a sweep: its winner named, tested, made a model; what to type next."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mlp.causes.counts import count_values
from mlp.config import canonical_json
from mlp.curve import Verdict
from mlp.report.mistakes import render_mistakes
from mlp.settings import settings_of
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.sweep.confirm import confirm
from mlp.sweep.generation import Session, train_again
from mlp.terminal.screen import render_verdicts, say, waiting
from mlp.tracking import spool
from mlp.tracking.display import doctor_command, explain_command, rerun_command, run_name
from mlp.tracking.runs import run_link, study_note
from mlp.tracking.view import NOTE_TAG
from mlp.training.outcome import accuracy_on, example_images, superlative

FORECASTS = "forecasts.json"  # artifact of the study's run: trial -> ratio at its first weights
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


def name_winner(session: Session) -> StudyEnd:
    """Names the winner of a study that is trained, and looks at the test part for it.

    Args:
        session: of the sweep.

    Returns:
        How the study stands.
    """
    table = search.rows(session.search)
    best = search.best_row(session.search)
    n_oscillating = sum(row.verdict is Verdict.OSCILLATING for row in table)
    totals = {
        "n_trials": len(table),
        "oscillating_share": n_oscillating / max(1, len(table)),
    }
    session.console.print(render_verdicts(count_values(table)))
    if foretold := search.forecasts(session.search):
        text = canonical_json({str(number): ratio for number, ratio in sorted(foretold.items())})
        session.drain.describe(metrics={}, tags={}, files={FORECASTS: text})
    if best is None:
        note = study_note([row.verdict for row in table])
        session.drain.describe(metrics=totals, tags={NOTE_TAG: note})
    else:
        test_accuracy = _say_winner(session, best, totals)
    with waiting(session.console, "the last runs are being recorded"):
        session.drain.finish("FINISHED")
    say(session.console, *unpublished(session))
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
        best_run_id=session.drain.run_ids.get(best.number),
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
        session.drain.log_model(
            best.number,
            name=f"best of {session.search.name}",
            example=example_images(session.data),
            register=session.config.base.tracking.register,
        )
        metrics |= {**of_test, "test_looks": n_looks}
    named = ", ".join(f"{name}={_short(value)}" for name, value in best.params.items())
    value = f"{session.config.study.objective} {best.value:.4f}"
    first = superlative(session.config.study.objective)
    winner = f"{first} is trial {best.number}: {value}, {tested}\n  {named}"
    say(session.console, winner)
    session.drain.describe(metrics=metrics, files=files, tags={"mlp.best_trial": str(best.number)})
    session.drain.annotate(_note(session, best, f"{value}, {tested}"), best.number)
    return test_accuracy


def _note(session: Session, best: TrialRow, came_out: str) -> Callable[[str, str], str]:
    """The description of the parent run, once it is known which runs there are."""
    verdicts = [row.verdict for row in search.rows(session.search)]
    config = search.trial_of(session.search, best).config
    values = settings_of(config)

    first = superlative(session.config.study.objective).capitalize()

    def note(experiment_id: str, run_id: str) -> str:
        link = run_link(experiment_id, run_id, run_name(config, best.number))
        base = session.config.base
        return study_note(
            verdicts,
            winner=f"{first} is {link}: {came_out}.",
            settings={entry.path: values[entry.path] for entry in session.search.space},
            commands=[explain_command(session.search.name, base), rerun_command(run_id, base)],
        )

    return note


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say_next(session: Session, best: TrialRow) -> None:
    """What to type next."""
    run_id = session.drain.run_ids.get(best.number)
    commands = [rerun_command(run_id, session.config.base)] if run_id else []
    if session.drain.parent_id is not None:
        commands.append(explain_command(session.search.name, session.config.base))
    commands += session.drain.how_to_look
    if session.drain.how_to_serve is not None:
        commands.append(session.drain.how_to_serve)
    if commands:
        say(session.console, "next:", *(f"  {line}" for line in commands))


def how_to_go_on(session: Session) -> str:
    """What is kept of a study that is not complete: trials that are stored, or wait to be."""
    done = {row.number for row in search.rows(session.search)}
    done |= {number for number, seed, _ in spool.waiting(session.spool) if seed == 0}
    n_planned = search.n_planned(session.search)
    return f"{len(done)} of {n_planned} trials are kept, and the same command goes on from there"


def unpublished(session: Session) -> list[str]:
    """What the tracking store did not take, and why."""
    n_waiting = len(list(spool.waiting(session.spool)))
    problem = session.drain.problem
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
    session.drain.describe(metrics={"test_accuracy": found}, tags={}, of_trial=best.number)
    return _Tested(f"test accuracy {found:.4f}", {"test_accuracy": found}, {})


def _confirm(session: Session, best: TrialRow) -> _Tested:
    """Test accuracy of the winner's settings with further seeds, and a picture of what is wrong."""
    found = confirm(session, best)
    of_others = {"confirmed_test_accuracy": found.mean}  # not of the winner's own network
    session.drain.describe(metrics=of_others, tags={}, of_trial=best.number)
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
