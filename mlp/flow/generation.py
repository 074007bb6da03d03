"""A generation of a study: trained, judged, made safe, stored in the search, handed to MLflow."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from mlp.config import Execution, RunConfig, SweepConfig
from mlp.curve import Verdict
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, Result
from mlp.errors import RecordError
from mlp.flow.execution import n_threads, train_trials
from mlp.flow.outcome import Timing, is_record_of, make_record, objective_value
from mlp.flow.work import Executor
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.study.search import Outcome, Search, Trial
from mlp.terminal.screen import Meter, Standing, say
from mlp.tracking import spool
from mlp.tracking.display import numbers, run_name
from mlp.tracking.publish import Publisher
from mlp.tracking.record import RunRecord


@dataclass(eq=False)
class Session:
    """What the steps of one sweep share.

    Attributes:
        config: of the sweep, its data resolved.
        data: the examples.
        search: the open study.
        spool: the study's folder for finished trials that are not published yet.
        publisher: to MLflow.
        console: for the user.
        records: trial number -> record of the best trial that this process has trained.
        seconds: what -> seconds spent on it in the present generation.
        executor: who trains, kept open for the whole sweep; None: opened for each call.
        still_held: raises BusyError where another sweep has taken the study meanwhile.
    """

    config: SweepConfig
    data: Dataset
    search: Search
    spool: Path
    publisher: Publisher
    console: Console
    records: dict[int, RunRecord] = field(default_factory=dict)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
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
            record = _kept(session, number, place, config)
            if record is None:
                record = train_again(session, table[number])
                spool.put(session.spool, number, record)
            _publish(session, number, place, record)


def train_generation(
    session: Session, trials: Sequence[Trial], standing: Standing, shown: Meter
) -> None:
    """Trains what is not in the spool, then stores all of it in the order of the numbers."""
    records = _from_spool(session, trials)
    missing = [trial for trial in trials if trial.number not in records]

    def progress(trials_done: float, _losses: object) -> None:
        shown.training(standing, trials_done)

    started_ms = _now_ms()

    def keep(place: int, result: Result) -> None:
        """Makes a trial safe while others still train: after a kill it is not trained again."""
        trial = missing[place]
        with session.timed("judge"):
            timing = Timing(started_ms, _now_ms(), n_threads(session.config.base.execution))
            records[trial.number] = make_record(trial.config, session.data, result, timing)
            spool.put(session.spool, trial.number, records[trial.number])
        if result.ending is Ending.CRASHED:
            say(session.console, f"trial {trial.number} is recorded as crashed")

    with session.timed("train"):
        if missing:
            train_trials(
                [trial.config for trial in missing],
                session.data,
                session.where,
                thresholds=search.thresholds_at(session.search, trials[0].number),
                progress=progress,
                kept=keep,
            )
    session.seconds["train"] -= session.seconds["judge"]
    with session.timed("log"):
        session.still_held()
        for trial in trials:
            _store(session, trial, records[trial.number])
        best = search.best_row(session.search)
        if best is not None and best.number in records:
            session.records = {best.number: records[best.number]}


def _from_spool(session: Session, trials: Sequence[Trial]) -> dict[int, RunRecord]:
    """What an earlier sweep had trained of this generation but not yet stored."""
    wanted = {trial.number: trial for trial in trials}
    found = {}
    for number, place in spool.waiting(session.spool):
        if number in wanted:
            record = _kept(session, number, place, wanted[number].config)
            if record is not None:
                found[number] = record
    return found


def _kept(session: Session, number: int, place: Path, config: RunConfig) -> RunRecord | None:
    """A trial from the spool; None, and a word about it, where it has to be trained again."""
    try:
        record = spool.take(place)
    except RecordError as error:
        say(session.console, f"trial {number} is trained again: {error}")
        return None
    if is_record_of(record, config, session.data.digest):
        return record
    say(session.console, f"trial {number} is trained again: what was kept is another run")
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
    _publish(session, trial.number, spool.place_of(session.spool, trial.number), record)


def _publish(session: Session, number: int, place: Path, record: RunRecord) -> None:
    session.publisher.publish(number, place, record, run_name(record.config, trial=number))


def train_again(session: Session, row: TrialRow) -> RunRecord:
    """The record of a trial of an earlier sweep: training it again gives the same weights."""
    config = search.trial_of(session.search, row).config
    started_ms = _now_ms()
    [result] = train_trials(
        [config],
        session.data,
        session.where,
        thresholds=search.thresholds_at(session.search, row.number),
    )
    timing = Timing(started_ms, _now_ms(), n_threads(session.config.base.execution))
    return make_record(config, session.data, result, timing)


def standing_of(session: Session) -> Standing:
    """How far the study is, by what is stored."""
    rows = search.rows(session.search)
    best = search.best_row(session.search)
    oscillating = sum(row.verdict is Verdict.OSCILLATING for row in rows)
    return Standing(
        n_done=len(rows),
        n_planned=search.n_planned(session.search),
        best=f"{best.value:.4f} (trial {best.number})" if best else "",
        oscillating_share=oscillating / max(1, len(rows)),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
