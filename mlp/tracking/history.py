"""Studies read back from MLflow, whoever recorded them.

A study of thousands of runs takes a few requests. The store may be anybody's: a run that
`mlp.tracking.past_run` cannot read is left out, and nothing is resolved or executed.
"""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlp.tracking.store import Store, one_sentence  # first: it sets MLflow up

# isort: split

import numpy as np
from mlflow.entities import Run

from mlp.config import SweepConfig
from mlp.door import read_sweep
from mlp.errors import MissingInputError, RecordError, SettingError, one_line
from mlp.tracking.display import ThinCurve
from mlp.tracking.download import download_text
from mlp.tracking.label import CONFIRMS, EXPLAINS, KEY, STUDY, checked_key
from mlp.tracking.past_run import PastRun, read_past_run
from mlp.tracking.recipe import parse_json
from mlp.tracking.record import read_text
from mlp.tracking.runs import STUDY_FILE, get_run

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[\w.-]{1,200}")
_STUDY_END = "/study"
_PAGE = 1000  # runs a request; MLflow's own default
_MOST_RUNS = 50_000  # more than anybody looks at, and what MLflow gives at most


@dataclass(frozen=True)
class PastStudy:
    """Runs that are looked at together.

    Attributes:
        name: of the study or experiment.
        key: what explanations of it are found again by.
        run_id: the parent run; None for an experiment that no study made.
        experiment_id: MLflow's.
        sweep: the settings of the study; None where nobody recorded them.
        runs: by trial, then by time; finished ones only.
        n_left_out: runs that could not be read.
        why_left_out: of the first of them.
        duration_s: seconds in which any of the runs was trained.
        is_at_end: whether its run is finished, or has as many trials as were asked for.
    """

    name: str
    key: str
    run_id: str | None
    experiment_id: str
    sweep: SweepConfig | None
    runs: tuple[PastRun, ...]
    n_left_out: int
    why_left_out: str
    duration_s: float
    is_at_end: bool


def is_run_id(text: str) -> bool:
    """Whether a text is an id as MLflow gives them: 32 hex digits."""
    return _RUN_ID.fullmatch(text) is not None


def is_study(store: Store, run_id: str) -> bool:
    """Whether a run is the parent of a study.

    Raises:
        MissingInputError: for a run that the store does not have.
    """
    return _study_key(_get(store, run_id)) is not None


def read_study(store: Store, which: str | None) -> PastStudy:
    """Reads the runs of a study.

    Args:
        store: where.
        which: a study's name, the id of its parent run, or the name of an experiment; None: the
            study that was started last.

    Raises:
        MissingInputError: where there is none.
        RecordError: for one without any run that can be read.
    """
    with one_sentence(store.uri):
        parent = _find_parent(store, which)
        if parent is None:
            return _whole_experiment(store, which)
        key = _study_key(parent)
        assert key is not None
        name = one_line(parent.data.tags.get(STUDY, key))
        children = _search(
            store,
            [parent.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
        )
        trials = [run for run in children if _is_trial(run)]
        sweep = _read_sweep(store, parent)
        return _study(store, name, key, parent, sweep, trials)


def read_reruns(store: Store, key: str) -> tuple[PastRun, ...]:
    """The reruns that earlier explanations of a study or a run have trained, by its key."""
    with one_sentence(store.uri):
        found = _search(store, [store.experiment_id], f"tags.`{EXPLAINS}` = '{checked_key(key)}'")
        runs, _ = _read_all(store, [run for run in found if "verdict" in run.data.tags])
    return tuple(runs)


def read_points(store: Store, run_id: str, metric: str) -> ThinCurve:
    """The points of a curve as they were logged: its lows and highs; finite ones only."""
    with one_sentence(store.uri):
        points = store.client.get_metric_history(run_id, metric)
    known = {int(point.step): float(point.value) for point in points if math.isfinite(point.value)}
    steps = np.array(sorted(known), np.int64)
    return ThinCurve(np.array([known[int(step)] for step in steps], np.float64), steps)


def _find_parent(store: Store, which: str | None) -> Run | None:
    if which is not None and is_run_id(which):
        run = _get(store, which)
        if _study_key(run) is None:
            raise RecordError(f"run {which} is not the parent of a study")
        return run
    parents = (
        run for run in _search(store, [store.experiment_id], _named(which)) if _study_key(run)
    )
    found = next(parents, None)
    if found is None and which is None:
        raise MissingInputError(
            f"there is no study in {store.uri}; python -m mlp.sweep makes one, and a name or an id "
            "finds one elsewhere"
        )
    return found


def _named(which: str | None) -> str:
    if which is None:
        return f"tags.`{KEY}` LIKE '%{_STUDY_END}'"
    name = which if _NAME.fullmatch(which) else "-"  # it is quoted in the filter
    return f"tags.`{STUDY}` = '{name}' AND tags.`{KEY}` LIKE '%{_STUDY_END}'"


def _whole_experiment(store: Store, which: str | None) -> PastStudy:
    """All runs of an experiment that somebody else may have made."""
    assert which is not None
    experiment = store.client.get_experiment_by_name(which)
    if experiment is None:
        known = {
            one_line(run.data.tags.get(STUDY, ""))
            for run in _search(store, [store.experiment_id], _named(None))
        }
        near = difflib.get_close_matches(which, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise MissingInputError(
            f"there is no study and no experiment {one_line(which)} in {store.uri}{hint}"
        )
    found = _search(store, [experiment.experiment_id], "attributes.status = 'FINISHED'")
    runs = [run for run in found if _is_trial(run) and _study_key(run) is None]
    key = f"experiment-{experiment.experiment_id}"
    return _study(store, one_line(experiment.name), key, None, None, runs)


def _study(
    store: Store,
    name: str,
    key: str,
    parent: Run | None,
    sweep: SweepConfig | None,
    children: Sequence[Run],
) -> PastStudy:
    runs, reasons = _read_all(store, children)
    if not runs:
        why = f": {reasons[0]}" if reasons else ""
        raise RecordError(f"{name} has no finished run whose settings and loss can be read{why}")
    return PastStudy(
        name=name,
        key=key,
        run_id=parent.info.run_id if parent else None,
        experiment_id=str(children[0].info.experiment_id),
        sweep=sweep,
        runs=tuple(sorted(runs, key=lambda run: (run.trial or 0, run.started_ms, run.run_id))),
        n_left_out=len(reasons),
        why_left_out=reasons[0] if reasons else "",
        duration_s=_busy_s(runs),
        is_at_end=parent is None
        or parent.info.status == "FINISHED"
        or (sweep is not None and len(runs) + len(reasons) >= sweep.study.n_trials),
    )


def _read_all(store: Store, found: Sequence[Run]) -> tuple[list[PastRun], list[str]]:
    """The runs that can be read, and why the others cannot."""
    runs, reasons = [], []
    for run in found:
        if run.info.status != "FINISHED":
            continue
        try:
            runs.append(read_past_run(store, run))
        except (RecordError, SettingError) as error:
            reasons.append(f"run {run.info.run_id}: {error}")
    return runs, reasons


def _read_sweep(store: Store, parent: Run) -> SweepConfig | None:
    """The settings of a study from its file; None where there is none that can be used."""
    with TemporaryDirectory() as folder:
        try:
            address = str(parent.info.artifact_uri)
            uri = str(store.client.tracking_uri)
            download_text(uri, address, STUDY_FILE, Path(folder))
            values = parse_json(read_text(Path(folder) / STUDY_FILE), source=STUDY_FILE)
            return read_sweep(values) if isinstance(values, dict) else None
        except (RecordError, SettingError):  # what the runs differ in is the space then
            return None


def _is_trial(run: Run) -> bool:
    """Whether a run was trained for its own sake, and not for an explanation or confirmation."""
    return not {EXPLAINS, CONFIRMS} & set(run.data.tags)


def _study_key(run: Run) -> str | None:
    """The key of the study whose parent a run is; None for any other run."""
    key = str(run.data.tags.get(KEY, ""))
    name = key.removesuffix(_STUDY_END)
    return name if name != key and _NAME.fullmatch(name) else None


def _get(store: Store, run_id: str) -> Run:
    with one_sentence(store.uri):
        return get_run(store, run_id)


def _search(store: Store, experiments: Sequence[str], condition: str) -> list[Run]:
    """All runs that meet a condition, the newest first."""
    return list(_pages(store, experiments, condition))


def _pages(store: Store, experiments: Sequence[str], condition: str) -> Iterator[Run]:
    token, n = None, 0
    while n < _MOST_RUNS:
        page = store.client.search_runs(
            list(experiments),
            filter_string=condition,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        n, token = n + len(page), page.token
        if not token:
            return


def _busy_s(runs: Sequence[PastRun]) -> float:
    """Seconds covered by the trainings of the runs; those of a population run at once."""
    busy, reached = 0, 0
    for run in sorted((r for r in runs if r.started_ms), key=lambda run: run.started_ms):
        busy += max(0, run.ended_ms - max(run.started_ms, reached))
        reached = max(reached, run.ended_ms)
    return busy / 1000
