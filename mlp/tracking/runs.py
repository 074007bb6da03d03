"""Studies and runs in MLflow: recorded as they are trained, and found again.

Like `mlp.tracking.store`, this imports MLflow, which takes seconds; so it is imported where
tracking begins and not before. Runs are named by their ids everywhere; there is no active run, so
that one background thread can record while another trains.

Recording is safe to repeat: a run is found again by its key, and its points carry the time of the
training, so that MLflow knows the same points when they come twice.
"""

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mlp.tracking.store import Store, one_sentence  # first: it sets MLflow up

# isort: split

from mlflow.entities import Metric, Run, ViewType
from mlflow.exceptions import MlflowException

from mlp.canonical import canonical_json, digest
from mlp.errors import MissingInputError
from mlp.settings import settings_of
from mlp.tracking import display, entities, note, record
from mlp.tracking.label import KEY, STUDY, TRIAL, checked_key, study_key, trial_key
from mlp.tracking.record import RunRecord
from mlp.tracking.view import NOTE_TAG

STUDY_FILE = "study.json"

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_MOST_TWINS = 10
_PAGE = 1000  # runs of one answer


def start_study(
    store: Store,
    *,
    name: str,
    key: str | None = None,
    settings: Mapping[str, Any],
    searched: Mapping[str, Any] | None = None,
    tags: Mapping[str, str],
    description: str,
) -> str:
    """The parent run of a study: the one that is there, or a new one; RUNNING in both cases.

    Args:
        store: where.
        name: the study's name.
        key: what it is found again by; None: its name.
        settings: plain nested values. They become params, which MLflow never changes: of a study
            that is continued only new ones are added. The current ones are in `study.json`.
        searched: path of each setting that varies -> what it is drawn from.
        tags: further tags.
        description: Markdown, shown on the run's page.

    Returns:
        The id of the parent run.
    """
    own_key = study_key(key or name)
    all_tags = {
        STUDY: name,
        **tags,
        NOTE_TAG: description,
        KEY: own_key,
        **display.environment_tags(),
    }
    with one_sentence(store.uri), tempfile.TemporaryDirectory() as folder:
        known = find_run(store, own_key)
        run = known or store.client.create_run(store.experiment_id, tags=all_tags, run_name=name)
        run_id = str(run.info.run_id)
        if run.info.status != "RUNNING":
            store.client.update_run(run_id, status="RUNNING")
        shown = entities.params(display.study_params(settings, searched or {}))
        params = [param for param in shown if param.key not in run.data.params]
        store.client.log_batch(run_id, params=params, tags=entities.tags(all_tags) if known else [])
        file = Path(folder) / STUDY_FILE
        file.write_text(canonical_json(settings), encoding="utf-8")
        store.client.log_artifact(run_id, str(file))
    return run_id


def publish_run(
    store: Store,
    run: RunRecord,
    *,
    parent: str | None,
    name: str,
    tags: Mapping[str, str],
) -> str:
    """Records a trained run; a run that is already recorded stays as it is.

    Args:
        store: where.
        run: what to record.
        parent: id of the study's run, if it is a trial of one.
        name: what a person sees in lists, as `record.run_name` makes it.
        tags: `mlp.study` and `mlp.trial` of a trial, and further ones. The run's identity is
            `mlp.key` if given, else the study and trial, else its config, time and digests.

    Returns:
        The id of the run, which has ended as FINISHED; a verdict is no failure.
    """
    all_tags = {**display.tags(run), **tags, **display.environment_tags()}
    all_tags[KEY] = key = _run_key(run, tags)
    if parent is not None:
        all_tags["mlflow.parentRunId"] = parent
    with one_sentence(store.uri), tempfile.TemporaryDirectory() as folder:
        known = find_run(store, key)
        if known is not None and known.info.status == "FINISHED":
            return str(known.info.run_id)
        made = known or store.client.create_run(
            store.experiment_id, start_time=run.started_ms, tags=all_tags, run_name=name
        )
        run_id = str(made.info.run_id)
        store.client.log_batch(
            run_id,
            metrics=entities.metrics(run),
            params=entities.params(settings_of(run.config)),
            tags=entities.tags(
                {**(all_tags if known else {}), NOTE_TAG: note.run_note(run, run_id)}
            ),
        )
        store.client.log_inputs(run_id, datasets=[entities.dataset(run)])
        record.write_artifacts(Path(folder), run)
        store.client.log_artifacts(run_id, folder)
        store.client.set_terminated(run_id, "FINISHED", end_time=run.ended_ms)
    return run_id


def update_run(
    store: Store,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    step: int = 0,
) -> None:
    """Adds to a run or to the parent run of a study; non-finite metrics are left out.

    `files` are artifacts: name -> text; one of the same name is replaced.
    """
    now = _now_ms()
    points = [
        Metric(name, float(value), now, step)
        for name, value in (metrics or {}).items()
        if math.isfinite(value)
    ]
    with one_sentence(store.uri):
        store.client.log_batch(
            run_id,
            metrics=points,
            params=entities.params(params or {}),
            tags=entities.tags(tags or {}),
        )
        for name, text in (files or {}).items():
            store.client.log_text(run_id, text, name)


def finish(store: Store, run_id: str, status: Status) -> None:
    """Ends a run now, with the status that is true."""
    with one_sentence(store.uri):
        store.client.set_terminated(run_id, status, end_time=_now_ms())


def recorded_trials(store: Store, key: str) -> set[int]:
    """The numbers of a study's trials that have a finished run, or had one that a person deleted.

    A trial that has a second run, because an answer of the server was lost, loses it.
    """
    start = trial_key(key, "")
    with one_sentence(store.uri):
        runs: dict[int, list[Run]] = defaultdict(list)
        for run in _all_runs(store, f"tags.`{KEY}` LIKE '{start}%'", ViewType.ALL):
            number = run.data.tags[KEY].removeprefix(start)
            if number.isdigit():  # not the study's own run, nor one whose key LIKE took for alike
                runs[int(number)].append(run)
        for same in runs.values():
            _one_of(store, [run for run in same if run.info.lifecycle_stage == "active"])
    return {n for n, same in runs.items() if any(run.info.status == "FINISHED" for run in same)}


def left_running(store: Store) -> dict[str, str | None]:
    """Id of each run of this program that says RUNNING -> its study, None if it has none."""
    running = f"attributes.status = 'RUNNING' AND tags.`{KEY}` LIKE '%'"
    with one_sentence(store.uri):
        found = _all_runs(store, running, ViewType.ACTIVE_ONLY)
        return {run.info.run_id: run.data.tags.get(STUDY) for run in found}


def end_stale(store: Store, run_id: str) -> None:
    """Ends a run that nobody works on as KILLED, or as a second run of the same trial."""
    with one_sentence(store.uri):
        run = store.client.get_run(run_id)
        kept = find_run(store, run.data.tags[KEY])
        if kept is not None and kept.info.status == "RUNNING":
            store.client.set_terminated(kept.info.run_id, "KILLED", end_time=_now_ms())


def find_study(store: Store, name: str) -> str | None:
    """The id of a study's parent run; None if the store has none."""
    with one_sentence(store.uri):
        run = find_run(store, study_key(name))
    return str(run.info.run_id) if run else None


def find_trial(store: Store, key: str, number: int) -> str | None:
    """The id of the run of a study's trial; None if the store has none."""
    with one_sentence(store.uri):
        run = find_run(store, trial_key(key, str(number)))
    return str(run.info.run_id) if run else None


def get_run(store: Store, run_id: str) -> Run:
    """MLflow's own view of a run.

    Raises:
        MissingInputError: for a run that the store does not have.
    """
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise MissingInputError(f"there is no run {run_id} in {store.uri}") from None


def find_run(store: Store, key: str) -> Run | None:
    """The run of a key; of several, which an answer that was lost may have made, one stays.

    Args:
        store: where.
        key: made of letters, digits, `_`, `.`, `-` and `/`.
    """
    found = store.client.search_runs(
        [store.experiment_id],
        filter_string=f"tags.`{KEY}` = '{checked_key(key)}'",
        max_results=_MOST_TWINS,
    )
    return _one_of(store, list(found))


def _one_of(store: Store, twins: list[Run]) -> Run | None:
    """The finished one of several runs of one trial; the others go to MLflow's dustbin."""
    twins.sort(key=lambda run: (run.info.status != "FINISHED", run.info.run_id))
    for twin in twins[1:]:
        store.client.delete_run(twin.info.run_id)
    return twins[0] if twins else None


def _all_runs(store: Store, filter_string: str, view: int) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = store.client.search_runs(
            [store.experiment_id], filter_string, view, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _run_key(run: RunRecord, tags: Mapping[str, str]) -> str:
    """What makes this run the same one when it is recorded again."""
    if KEY in tags:
        return checked_key(tags[KEY])
    if STUDY in tags and TRIAL in tags:
        return trial_key(tags[STUDY], tags[TRIAL])
    parts = [record.config_json(run), run.started_ms, record.weights_digest(run.result)]
    return digest(parts)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
