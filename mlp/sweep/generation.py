"""A generation of a study: trained, judged, made safe, stored in the search, handed to MLflow."""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlp.config import Execution, RunConfig, SweepConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, Result
from mlp.errors import RecordError
from mlp.stability.ratio import sharpness_steps
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.study.search import Outcome, Search, Trial
from mlp.terminal.screen import Meter, Standing, say
from mlp.tracking import spool
from mlp.tracking.display import numbers, run_name
from mlp.tracking.publish import Publisher
from mlp.tracking.record import RunRecord
from mlp.tracking.spool import StudyPage, label_of_trial
from mlp.training.executor import n_threads, train_trials
from mlp.training.outcome import Timing, is_record_of, make_record, objective_value, superlative
from mlp.training.work import Executor


@dataclass(eq=False)
class Session:
    """What the steps of one sweep share.

    Attributes:
        config: of the sweep, its data resolved.
        data: the examples.
        search: the open study.
        page: of the study in MLflow.
        spool: the study's folder for finished trials that are not published yet.
        publisher: to MLflow.
        console: for the user.
        records: trial number -> record of the best trial that this process has trained.
        seconds: what -> seconds spent on it in the present generation.
        is_outage_said: whether the user knows that the tracking store fails.
        executor: who trains, kept open for the whole sweep; None: opened for each call.
        still_held: raises BusyError where another sweep has taken the study meanwhile.
    """

    config: SweepConfig
    data: Dataset
    search: Search
    page: StudyPage
    spool: Path
    publisher: Publisher
    console: Console
    records: dict[int, RunRecord] = field(default_factory=dict)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    is_outage_said: bool = False
    executor: Executor | None = None
    still_held: Callable[[], None] = lambda: None

    @property
    def where(self) -> Executor | Execution:
        """Where to train."""
        return self.executor or self.config.base.execution

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds that the block takes to those of `what`."""
        started = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - started


def publish_leftovers(session: Session) -> None:
    """Hands over what an earlier sweep had stored in the study but not yet in MLflow."""
    table = search.rows(session.search)
    for number, place in spool.waiting(session.spool):
        if number < len(table):
            config = search.trial_of(session.search, table[number]).config
            record = kept(session, f"trial {number}", place, config)
            if record is None:
                keep(session, {number: train_again(session, table[number])})
            session.publisher.publish(number, place)


def train_generation(
    session: Session, trials: Sequence[Trial], standing: Standing, shown: Meter
) -> None:
    """Trains what is not in the spool, then stores all of it in the order of the numbers."""
    records = _from_spool(session, trials)
    missing = [trial for trial in trials if trial.number not in records]

    def progress(trials_done: float, losses: NDArray[np.float64]) -> None:
        shown.training(standing, trials_done, losses)

    started_ms = _now_ms()

    def finished(results: Mapping[int, Result]) -> None:
        """Makes trials safe while others still train: after a kill they are not trained again."""
        with session.timed("judge"):
            timing = Timing(started_ms, _now_ms(), n_threads(session.config.base.execution))
            made = {
                missing[place].number: make_record(
                    missing[place].config, session.data, result, timing
                )
                for place, result in results.items()
            }
            keep(session, made)
            records.update(made)
        for number, record in made.items():
            if record.result.ending is Ending.CRASHED:
                say(session.console, f"trial {number} is recorded as crashed")

    with session.timed("forecast"):
        _forecast(session, missing)
    with session.timed("train"):
        if missing:
            train_trials(
                [trial.config for trial in missing],
                session.data,
                session.where,
                thresholds=search.thresholds_at(session.search, trials[0].number),
                progress=progress,
                kept=finished,
            )
    session.seconds["train"] -= session.seconds["judge"]
    with session.timed("log"):
        session.still_held()
        for trial in trials:
            _store(session, trial, records[trial.number])
        best = search.best_row(session.search)
        if best is not None and best.number in records:
            session.records = {best.number: records[best.number]}


def _forecast(session: Session, trials: Sequence[Trial]) -> None:
    """Notes the stability ratios at the first weights, before the first step of any of these.

    Only of trials along which the sharpness is measured anyway.
    """
    measured = [trial for trial in trials if sharpness_steps(trial.config)]
    noted = search.forecasts(session.search) if measured else {}
    wanted = [trial for trial in measured if trial.number not in noted]
    if not wanted:
        return
    from mlp.stability.sharpness import forecast  # imports compiled code

    # On a cluster, too, the driver measures them, with the cores that it has.
    threads = n_threads(Execution(threads=None))
    found = forecast([trial.config for trial in wanted], session.data, threads=threads)
    ratios = {
        trial.number: ratio for trial, ratio in zip(wanted, found, strict=True) if ratio is not None
    }
    if ratios:
        search.add_forecasts(session.search, ratios)


def _from_spool(session: Session, trials: Sequence[Trial]) -> dict[int, RunRecord]:
    """What an earlier sweep had trained of this generation but not yet stored."""
    wanted = {trial.number: trial for trial in trials}
    found = {}
    for number, place in spool.waiting(session.spool):
        if number in wanted:
            record = kept(session, f"trial {number}", place, wanted[number].config)
            if record is not None:
                found[number] = record
    return found


def kept(session: Session, name: str, place: Path, config: RunConfig) -> RunRecord | None:
    """What the spool has of a run; None, and a word about it, where it is to be trained again.

    Args:
        session: whose data it was trained on.
        name: of the run, for a person.
        place: its folder.
        config: what it must be a record of.
    """
    try:
        record = spool.take(place).record
    except RecordError as error:
        say(session.console, f"{name} is trained again: {error}")
        return None
    if is_record_of(record, config, session.data.digest):
        return record
    say(session.console, f"{name} is trained again: what was kept is another run")
    return None


def _store(session: Session, trial: Trial, record: RunRecord) -> None:
    outcome = Outcome(
        value=objective_value(record, session.config.study.objective),
        attributes={"verdict": record.judgement.verdict.value, **numbers(record)},
        accuracy_at=dict(
            zip(
                record.result.evaluated_step.tolist(),
                record.result.validation_accuracy.tolist(),
                strict=True,
            )
        ),
    )
    search.tell(session.search, trial, outcome)
    session.publisher.publish(trial.number, spool.place_of(session.spool, trial.number))


def keep(session: Session, records: Mapping[int, RunRecord]) -> None:
    """Makes finished trials safe until they are published; by their numbers."""
    runs = {}
    for number, record in records.items():
        label = label_of_trial(session.page, number, run_name(record.config, trial=number))
        runs[number] = spool.Kept(record, label)
    spool.put(session.spool, runs)


def train_again(session: Session, row: TrialRow) -> RunRecord:
    """The record of a trial of an earlier sweep: training it again gives the same weights."""
    [record] = _train_again(session, [row])
    return record


def restore_missing(session: Session, n_earlier: int) -> None:
    """Trains again, and publishes, what the tracking store has no run of.

    A study may be continued with another tracking store, or with a new one in the place of one that
    is gone; its trials have the same bits when they are trained again.

    Args:
        session: of the sweep.
        n_earlier: trials that were stored before this sweep.
    """
    missing = session.publisher.missing(range(n_earlier)) if n_earlier else []
    if not missing:
        return
    say(
        session.console,
        f"{len(missing)} earlier trials of this study have no run in the tracking store; they are "
        "trained again, which gives the same, and recorded",
    )
    table = search.rows(session.search)
    size, n_different = session.config.study.generation, 0
    for _, generation in itertools.groupby(missing, lambda number: number // size):
        rows = [table[number] for number in generation]
        records = _train_again(session, rows)
        keep(session, {row.number: record for row, record in zip(rows, records, strict=True)})
        for row, record in zip(rows, records, strict=True):
            value = objective_value(record, session.config.study.objective)
            n_different += value != row.value
            session.publisher.publish(row.number, spool.place_of(session.spool, row.number))
    if n_different:
        say(
            session.console,
            f"{n_different} of them came out differently: the study was made on another machine, "
            "or with other versions",
        )


def _train_again(session: Session, rows: Sequence[TrialRow]) -> list[RunRecord]:
    """The records of stored trials of one generation."""
    configs = [search.trial_of(session.search, row).config for row in rows]
    execution = session.config.base.execution
    started_ms = _now_ms()
    bar = search.thresholds_at(session.search, rows[0].number)
    results = train_trials(configs, session.data, session.where, thresholds=bar)
    timing = Timing(started_ms, _now_ms(), n_threads(execution))
    return [
        make_record(config, session.data, result, timing)
        for config, result in zip(configs, results, strict=True)
    ]


def note_outage(session: Session) -> None:
    """Says once that the tracking store fails, and once that it is back."""
    problem = session.publisher.problem
    if problem is not None and not session.is_outage_said:
        say(session.console, f"{problem}; the sweep goes on, and its runs are kept")
    if problem is None and session.is_outage_said:
        say(session.console, "the tracking store is back")
    session.is_outage_said = problem is not None


def standing_of(session: Session) -> Standing:
    """How far the study is, by what is stored."""
    rows, objective = search.rows(session.search), session.config.study.objective
    best = search.best_row(session.search)
    return Standing(
        n_done=len(rows),
        n_planned=search.n_planned(session.search),
        best=f"{superlative(objective)} {best.value:.4f} (trial {best.number})" if best else "",
        verdicts=Counter(row.verdict for row in rows),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
