"""A generation of a study: trained, kept in the spool, stored in the search, handed to MLflow."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlp.config import OBJECTIVES, Execution, RunConfig, canonical_json
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending
from mlp.errors import RecordError, SettingError, counted, shown
from mlp.settings import settings_of
from mlp.stability.ratio import sharpness_steps
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.study.search import Search, Trial
from mlp.tracking import spool
from mlp.tracking.display import ThinCurve, numbers, run_name, shown_numbers, thin
from mlp.tracking.drain import Drain
from mlp.tracking.listing import Label, StudyPage, label_of_trial, read_listing
from mlp.tracking.picture import SMALL_POINTS
from mlp.tracking.record import RunRecord, read_record
from mlp.training.train_runs import make_record, n_threads, train_runs
from mlp.training.work import Executor, WorkDone

SAME_AS = "mlp.same_as"  # tag: number of the trial of the same settings whose result this is
_WHOLE = (Ending.COMPLETED, Ending.NON_FINITE)


@dataclass(frozen=True)
class Keeper:
    """Keeps the finished runs of a study until MLflow has them.

    A run is named by its trial and the number of its further seed, 0 for the trial itself.

    Attributes:
        folder: of the study in the spool.
        notice: told in one line what a person should know.
        still_held: raises BusyError where another sweep has taken the study meanwhile.
        curves: number of each trial that this process has trained or found kept -> its loss, thin.
    """

    page: StudyPage
    folder: Path
    drain: Drain
    notice: Callable[[str], None]
    still_held: Callable[[], None]
    curves: dict[int, ThinCurve] = field(default_factory=dict)

    def keep(self, runs: Mapping[tuple[int, int], tuple[RunRecord, Label]]) -> None:
        """Makes finished runs safe: after a kill they are not trained again."""
        spool.put({spool.place_of(self.folder, *which): run for which, run in runs.items()})

    def keep_trials(
        self, records: Mapping[int, RunRecord], same_as: Mapping[int, int] | None = None
    ) -> None:
        """As `keep`, for trials by their numbers.

        Args:
            same_as: trial -> the earlier one of the same settings whose result it has.
        """
        runs = {}
        for number, run in records.items():
            label = label_of_trial(self.page, number, run_name(run.config, trial=number))
            if same_as:
                tags = {**label.tags, SAME_AS: str(same_as[number])}
                label = dataclasses.replace(label, tags=tags)
            runs[number, 0] = run, label
        self.keep(runs)

    def remember(self, records: Mapping[int, RunRecord]) -> None:
        """Keeps what the picture of the study shows of these trials."""
        for number, run in records.items():
            self.curves[number] = thin(run.result.loss, run.result.loss_step, SMALL_POINTS)

    def waiting(self) -> dict[tuple[int, int], Path]:
        """What is kept."""
        return spool.waiting_in(self.folder)

    def read(self, place: Path, name: str, config: RunConfig, digest: str) -> RunRecord | None:
        """What is kept of a run; None, and a word about it, where it is to be trained again.

        Args:
            place: its folder.
            name: of the run, for a person.
            config: what it must be a record of.
            digest: of the data that it must have been trained on.
        """
        try:
            record = read_record(place)
            read_listing(place)  # without it nothing can be uploaded
        except RecordError as error:
            self.notice(f"{name} is trained again: {error}")
            return None
        if is_record_of(record, config, digest):
            return record
        self.notice(f"{name} is trained again: what was kept is another run")
        return None

    def recorded(self, number: int, config: RunConfig, data: Dataset) -> RunRecord | None:
        """The record of an earlier trial, from the spool or from MLflow; None: it has none."""
        place = self.waiting().get((number, 0))
        if place is not None:
            return self.read(place, f"trial {number}", config, data.digest)
        found = self.drain.fetch(number)
        if found is None or found.recipe.data_digest != data.digest:
            return None
        now = time.time_ns() // 1_000_000
        return make_record(
            found.recipe.config, data, found.result, started_ms=now, ended_ms=now, threads=1
        )

    def upload(self, number: int, seed: int = 0) -> None:
        """Hands a kept run over to MLflow; returns at once."""
        self.drain.add(spool.place_of(self.folder, number, seed))


def is_record_of(record: RunRecord, config: RunConfig, data_digest: str) -> bool:
    """Whether a record is of these settings on these data; it has the rate that `auto` became."""
    recorded, wanted = settings_of(record.config), settings_of(config)
    if wanted.get("optimizer.learning_rate") == "auto":
        recorded["optimizer.learning_rate"] = "auto"
    return recorded == wanted and record.data_digest == data_digest


def upload_leftovers(opened: Search, data: Dataset, where: Executor, keeper: Keeper) -> None:
    """Hands over what an earlier sweep had stored in the study but not yet in MLflow."""
    table = search.rows(opened)
    for (number, seed), place in keeper.waiting().items():
        if seed == 0 and number < len(table):
            config = search.trial_of(opened, table[number]).config
            if keeper.read(place, f"trial {number}", config, data.digest) is None:
                [record] = train_again(opened, [table[number]], data, where)
                keeper.keep_trials({number: record})
            keeper.upload(number)


def train_generation(
    opened: Search,
    trials: Sequence[Trial],
    data: Dataset,
    where: Executor,
    *,
    keeper: Keeper,
    progress: WorkDone,
) -> dict[int, RunRecord]:
    """Trains what is not in the spool, then stores all of it in the order of the numbers."""
    records = _kept(trials, keeper, data.digest)
    failed: dict[int, RunRecord] = {}

    def left() -> list[Trial]:
        return [trial for trial in trials if trial.number not in records]

    def finished(made: Mapping[int, RunRecord]) -> None:
        own = {missing[place].number: record for place, record in made.items()}
        keeper.keep_trials(own)
        records.update(own)
        for number, record in own.items():
            if record.result.ending is Ending.CRASHED:
                keeper.notice(f"trial {number} is recorded as crashed")
            if record.result.ending is Ending.FAILED:
                failed[number] = record

    same_as = _repeats(opened, left())
    _copy(trials, same_as, records, data, keeper)
    unknown = {trial.number for trial in left()}
    missing = [trial for trial in left() if same_as.get(trial.number) not in unknown]
    while missing:
        _forecast(opened, missing, data)
        train_runs(
            [trial.config for trial in missing],
            data,
            where,
            thresholds=search.thresholds_at(opened, trials[0].number),
            progress=progress,
            finished=finished,
        )
        _copy(trials, same_as, records, data, keeper)
        missing = left()  # what they repeat has failed; each is tried by itself
    if failed:
        number, record = min(failed.items(), key=lambda pair: pair[0])
        fault = record.result.own.fault if record.result.own is not None else None
        which = "failed" if len(failed) == 1 else f"is the first of {len(failed)} that failed"
        keeper.notice(f"trial {number} {which}: {fault}")
    check_objective(records.values(), opened.objective)
    keeper.still_held()
    keeper.remember(records)
    for trial in trials:
        _tell(opened, trial, records[trial.number])
        keeper.upload(trial.number)
    return records


def _repeats(opened: Search, trials: Sequence[Trial]) -> dict[int, int]:
    """Trial -> the first one of the study with the same settings, where there is one.

    With a pruner, how a trial ends depends on when it was asked, too.
    """
    is_finite = all(domain.size() is not None for domain in search.domains(opened).values())
    if opened.config.force or opened.config.pruner != "none" or not is_finite:
        return {}
    first: dict[str, int] = {}
    for row in search.rows(opened):
        first.setdefault(canonical_json(dict(row.params)), row.number)
    found = {}
    for trial in trials:
        number = first.setdefault(canonical_json(dict(trial.params)), trial.number)
        if number < trial.number:
            found[trial.number] = number
    return found


def _copy(
    trials: Sequence[Trial],
    same_as: Mapping[int, int],
    records: dict[int, RunRecord],
    data: Dataset,
    keeper: Keeper,
) -> None:
    """Gives trials the whole results of those of the same settings, as far as they are known."""
    made = {}
    for trial in trials:
        of = same_as.get(trial.number)
        if of is None or trial.number in records:
            continue
        is_earlier = of < trials[0].number
        record = keeper.recorded(of, trial.config, data) if is_earlier else records.get(of)
        is_same = record is not None and is_record_of(record, trial.config, data.digest)
        if record is not None and is_same and record.result.ending in _WHOLE:
            made[trial.number] = record
    keeper.keep_trials(made, same_as)
    records.update(made)


def train_again(
    opened: Search, rows: Sequence[TrialRow], data: Dataset, where: Executor
) -> list[RunRecord]:
    """The records of stored trials of one generation: training again gives the same weights."""
    configs = [search.trial_of(opened, row).config for row in rows]
    bar = search.thresholds_at(opened, rows[0].number)
    return train_runs(configs, data, where, thresholds=bar)


def restore_missing(
    opened: Search, n_earlier: int, data: Dataset, where: Executor, *, keeper: Keeper
) -> None:
    """Trains again, and hands over, what the tracking store has no run of.

    A study may be continued with another tracking store, or with a new one in the place of one that
    is gone; its trials have the same bits when they are trained again.

    Args:
        n_earlier: trials that were stored before this sweep.
    """
    missing = keeper.drain.missing(range(n_earlier)) if n_earlier else []
    if keeper.drain.deleted:
        number, run_id = min(keeper.drain.deleted.items())
        deleted = counted(n_deleted := len(keeper.drain.deleted), "run")
        were, stay = ("was", "stays") if n_deleted == 1 else ("were", "stay")
        keeper.notice(
            f"{deleted} of this study {were} deleted in MLflow and {stay} so, "
            f"such as that of trial {number}; mlflow runs restore --run-id {run_id} brings it back"
        )
    if not missing:
        return
    trials = counted(len(missing), "earlier trial")
    have, they_are = ("has", "it is") if len(missing) == 1 else ("have", "they are")
    keeper.notice(
        f"{trials} of this study {have} no run in the tracking store; {they_are} "
        "trained again, which gives the same, and recorded"
    )
    table = search.rows(opened)
    size, n_different = opened.config.generation, 0
    for _, generation in itertools.groupby(missing, lambda number: number // size):
        rows = [table[number] for number in generation]
        records = train_again(opened, rows, data, where)
        own = dict(zip((row.number for row in rows), records, strict=True))
        keeper.keep_trials(own)
        keeper.remember(own)
        for row, record in zip(rows, records, strict=True):
            n_different += objective_value(record, opened.objective) != row.value
            keeper.upload(row.number)
    if n_different:
        keeper.notice(
            f"{n_different} of them came out differently: the study was made on another machine, "
            "or with other versions"
        )


def _kept(trials: Sequence[Trial], keeper: Keeper, digest: str) -> dict[int, RunRecord]:
    """What an earlier sweep had trained of this generation but not yet stored."""
    waiting = keeper.waiting()
    found = {
        trial.number: keeper.read(place, f"trial {trial.number}", trial.config, digest)
        for trial in trials
        if (place := waiting.get((trial.number, 0)))
    }
    return {number: record for number, record in found.items() if record is not None}


def _forecast(opened: Search, trials: Sequence[Trial], data: Dataset) -> None:
    """Notes the stability ratios at the first weights, before the first step of any of these.

    Only of trials along which the sharpness is measured anyway.
    """
    measured = [trial for trial in trials if sharpness_steps(trial.config)]
    noted = search.forecasts(opened) if measured else {}
    wanted = [trial for trial in measured if trial.number not in noted]
    if not wanted:
        return
    from mlp.stability.sharpness import forecast, with_first_rates  # imports compiled code

    # On a cluster, too, the driver measures them, with the cores that it has.
    threads = n_threads(Execution(threads=None))
    configs = with_first_rates([trial.config for trial in wanted], data, threads=threads)
    numbers = [trial.number for trial in wanted]
    found = zip(numbers, forecast(configs, data, threads=threads), strict=True)
    if ratios := {number: ratio for number, ratio in found if ratio is not None}:
        search.add_forecasts(opened, ratios)


def _tell(opened: Search, trial: Trial, record: RunRecord) -> None:
    """Stores what came of a trial."""
    result, known = record.result, numbers(record)
    shown = shown_numbers(known)
    steps, accuracies = result.evaluated_step.tolist(), result.validation_accuracy.tolist()
    search.tell(
        opened,
        trial,
        value=objective_value(record, opened.objective),
        facts={
            "verdict": record.judgement.verdict.value,
            **shown,
            search.NUMBERS: {name: known[name] for name in known if name not in shown},
        },
        accuracy_at=dict(zip(steps, accuracies, strict=True)),
        times_ms=(record.started_ms, record.ended_ms),
    )


def check_objective(records: Iterable[RunRecord], objective: str) -> None:
    """Refuses an objective that an own function does not give, once runs of it have ended."""
    own = [record.result for record in records if record.result.ending is Ending.COMPLETED]
    traces = [result.own for result in own if result.own is not None]
    names = ["loss", *dict.fromkeys(name for trace in traces for name in trace.series)]
    if traces and objective not in (*names, *OBJECTIVES[1:]):
        raise SettingError(
            f"study.objective must be what the function gives ({', '.join(names)}), "
            f"but is {shown(objective)}"
        )


def objective_value(record: RunRecord, objective: str) -> float | None:
    """The value that a search looks for; None for a run that diverged or was pruned.

    Args:
        objective: `validation_accuracy` and `training_loss` of the final weights, or `oscillation`,
            the amplitude of the loss curve's tail; of an own function the last value of what it
            yields under that name, None where it yields none.
    """
    result = record.result
    if result.ending is not Ending.COMPLETED:
        return None
    series = result.own.series if result.own is not None else {}
    if objective in series:
        value = float(series[objective][-1])
        return value if math.isfinite(value) else None
    if objective in ("training_loss", "loss"):
        return float(result.loss[-1])
    if objective == "oscillation":
        return record.judgement.amplitude
    return float(result.validation_accuracy[-1]) if result.own is None else None
