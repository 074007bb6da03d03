"""Studies and runs in MLflow: recorded as they are trained, and found again.

Like `mlp.tracking.store`, this imports MLflow, which takes seconds; so it is imported where
tracking begins and not before. Runs are named by their ids everywhere; there is no active run, so
that one background thread can record while another trains.

Recording is safe to repeat: a run is found again by its key, and its points carry the time of the
training, so that MLflow knows the same points when they come twice.
"""

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlp.tracking.store import Store, one_sentence  # first: it sets MLflow up

# isort: split

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlp.config import canonical_json
from mlp.errors import MissingInputError
from mlp.tracking import display, record
from mlp.tracking.listing import (
    EXPLAINS,
    KEY,
    NOTE_TAG,
    STUDY,
    Listing,
    StudyPage,
    checked_key,
    explanation_key,
    study_key,
    trial_key,
)

STUDY_FILE = "study.json"

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_MOST_TWINS = 10
_PAGE = 1000  # runs of one answer

_LONGEST_PARAM, _LONGEST_NAME = 6000, 250  # MLflow's own limits
_DATASET_DIGEST = 36  # of the 64 hex digits; MLflow takes no more
_UNNAMEABLE = re.compile(r"[^\w./: -]")  # it refuses these in a param's name

_PARENT = "mlflow.parentRunId"
_ANSWER, _CAUSES = "mlp.answer", "mlp.causes"
_END_OF_ANSWER = "\n\n---\n\n"  # in a note; what stands behind it is not the answer's


def start_study(store: Store, page: StudyPage) -> str:
    """The parent run of a study: the one that is there, or a new one; RUNNING in both cases.

    The study's settings become params, which MLflow never changes: of a study that is continued
    only new ones are added. The current ones are in `study.json`.
    """
    tags = {STUDY: page.name, NOTE_TAG: page.description}
    run = _started(store, study_key(page.key), page.name, tags)
    shown = as_params(display.study_params(page.config, page.searched))
    params = [param for param in shown if param.key not in run.data.params]
    with one_sentence(store.uri):
        store.client.log_batch(run.info.run_id, params=params)
        store.client.log_text(run.info.run_id, canonical_json(page.config), STUDY_FILE)
    return str(run.info.run_id)


def start_explanation(store: Store, *, key: str, name: str, parent: str | None) -> str:
    """The run whose files are reruns: the one that is there, or a new one; RUNNING likewise.

    Args:
        key: of the study or run that is explained.
        parent: id of the run that is explained, or of the study's, if it has one.
    """
    tags = {EXPLAINS: key, **({} if parent is None else {_PARENT: parent})}
    return str(_started(store, explanation_key(key), name, tags).info.run_id)


def _started(store: Store, key: str, name: str, tags: Mapping[str, str]) -> Run:
    """The run of a key, made if it is not there; RUNNING, and with the tags of today."""
    tags = {**tags, KEY: key, **display.environment_tags()}
    with one_sentence(store.uri):
        run = find_run(store, key)
        if run is None:
            return store.client.create_run(store.experiment_id, tags=tags, run_name=name)
        if run.info.status != "RUNNING":
            store.client.update_run(run.info.run_id, status="RUNNING")
        store.client.log_batch(run.info.run_id, tags=_as_tags(tags))
    return run


def upload_run(store: Store, folder: Path, listing: Listing, parent_id: str | None) -> str:
    """Uploads a record's folder as it lies; a run that is already recorded stays as it is.

    Args:
        parent_id: id of the run that it is shown below; None: of none.

    Returns:
        The id of the run, which has ended as FINISHED; a verdict is no failure.
    """
    tags = dict(listing.tags)
    if parent_id is not None:
        tags[_PARENT] = parent_id
    with one_sentence(store.uri):
        known = find_run(store, listing.key)
        if known is not None and known.info.status == "FINISHED":
            return str(known.info.run_id)
        made = known or store.client.create_run(
            store.experiment_id, start_time=listing.started_ms, tags=tags, run_name=listing.name
        )
        run_id = str(made.info.run_id)
        tags = {**(tags if known else {}), NOTE_TAG: listing.note_of(run_id)}
        store.client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in listing.points],
            params=as_params(listing.params),
            tags=_as_tags(tags),
        )
        store.client.log_inputs(run_id, datasets=[_dataset(listing)])
        # As the client's own `log_artifact`, which would ask for the run first.
        files = get_artifact_repository(made.info.artifact_uri, store.client.tracking_uri)
        for file in record.artifacts_in(folder):
            files.log_artifact(str(file))
        store.client.set_terminated(run_id, "FINISHED", end_time=listing.ended_ms)
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
            params=as_params(params or {}),
            tags=_as_tags(tags or {}),
        )
        for name, text in (files or {}).items():
            store.client.log_text(run_id, text, name)


def finish(store: Store, run_id: str, status: Status) -> None:
    """Ends a run now, with the status that is true."""
    with one_sentence(store.uri):
        store.client.set_terminated(run_id, status, end_time=_now_ms())


def recorded_trials(store: Store, key: str) -> dict[int, str | None]:
    """A study's trials that have a finished run, or had one that a person deleted.

    A trial that has a second run, because an answer of the server was lost, loses it.

    Returns:
        Their numbers, with the id of the run that was deleted; None: it is there.
    """
    start = trial_key(key, "")
    with one_sentence(store.uri):
        runs: dict[int, list[Run]] = defaultdict(list)
        for run in all_runs(store, f"tags.`{KEY}` LIKE '{start}%'", view=ViewType.ALL):
            number = run.data.tags[KEY].removeprefix(start)
            if number.isdigit():  # not the study's own run, nor one whose key LIKE took for alike
                runs[int(number)].append(run)
        for same in runs.values():
            _one_of(store, [run for run in same if run.info.lifecycle_stage == "active"])
    finished = {
        n: [r.info for r in same if r.info.status == "FINISHED"] for n, same in runs.items()
    }
    return {
        n: None if any(i.lifecycle_stage == "active" for i in same) else str(same[0].run_id)
        for n, same in finished.items()
        if same
    }


def left_running(store: Store) -> dict[str, str | None]:
    """Id of each run of this program that says RUNNING -> its study, None if it has none."""
    running = f"attributes.status = 'RUNNING' AND tags.`{KEY}` LIKE '%'"
    with one_sentence(store.uri):
        found = all_runs(store, running, view=ViewType.ACTIVE_ONLY)
        return {run.info.run_id: run.data.tags.get(STUDY) for run in found}


def end_stale(store: Store, run_id: str) -> None:
    """Ends a run that nobody works on as KILLED, or as a second run of the same trial."""
    with one_sentence(store.uri):
        run = store.client.get_run(run_id)
        kept = find_run(store, run.data.tags[KEY])
        if kept is not None and kept.info.status == "RUNNING":
            store.client.set_terminated(kept.info.run_id, "KILLED", end_time=_now_ms())


def find_key(store: Store, key: str) -> str | None:
    """The id of the run with that key; None if the store has none."""
    with one_sentence(store.uri):
        run = find_run(store, key)
    return str(run.info.run_id) if run else None


def find_trial(store: Store, key: str, number: int) -> str | None:
    """The id of the run of a study's trial; None if the store has none."""
    return find_key(store, trial_key(key, str(number)))


def get_run(store: Store, run_id: str) -> Run:
    """MLflow's own view of a run."""
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise MissingInputError(f"there is no run {run_id} in {store.uri}") from None


def find_run(store: Store, key: str) -> Run | None:
    """The run of a key; of several, which an answer that was lost may have made, one stays.

    Args:
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


def all_runs(
    store: Store,
    condition: str,
    experiment_id: str | None = None,
    *,
    view: int = ViewType.ACTIVE_ONLY,
    newest_first: bool = False,
    most: float = math.inf,
) -> Iterator[Run]:
    """The runs that meet a condition, page by page.

    Args:
        experiment_id: of another experiment than the store's own.
        most: no further page is asked for after so many runs.
    """
    token, n = None, 0
    while n < most:
        page = store.client.search_runs(
            [experiment_id or store.experiment_id],
            condition,
            view,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"] if newest_first else [],
            page_token=token,
        )
        yield from page
        n, token = n + len(page), page.token
        if not token:
            return


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_params(settings: Mapping[str, Any]) -> list[Param]:
    """Settings as params; the branches of a space may be called what no param can be, `[3,3]`."""
    named = {_cut(_UNNAMEABLE.sub("_", name), _LONGEST_NAME): v for name, v in settings.items()}
    return [Param(name, _cut(value, _LONGEST_PARAM)) for name, value in named.items()]


def _as_tags(texts: Mapping[str, str]) -> list[RunTag]:
    """Name -> text as tags, those that are too long cut."""
    return [RunTag(name, _cut(text, display.LONGEST_TAG)) for name, text in texts.items()]


def _dataset(listing: Listing) -> DatasetInput:
    """What the run was trained on, as MLflow's lists show it."""
    data = listing.data
    made = Dataset(
        name=data["name"],
        digest=data["digest"][:_DATASET_DIGEST],
        source_type="code",
        source=data["source"],
        profile=data["profile"],
    )
    return DatasetInput(made, tags=[InputTag("mlflow.data.context", "training")])


def _cut(value: Any, most: int) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def log_text(store: Store, run_id: str, text: str, name: str) -> None:
    """Adds a text to a run's artifacts; an older one of that name is replaced."""
    with one_sentence(store.uri):
        store.client.log_text(run_id, text, name)


def describe_answer(
    store: Store, run_ids: Iterable[str], *, sentences: Sequence[str], causes: Sequence[str]
) -> None:
    """Puts the answer where people look: first in a run's note, and in tags to filter by.

    What the note said before stays below it; an earlier answer goes.
    """
    named = ", ".join(dict.fromkeys(causes)) or "none shown"
    with one_sentence(store.uri):
        for run_id in run_ids:
            before = store.client.get_run(run_id).data.tags
            note = before.get(NOTE_TAG, "")
            earlier = _shown(before.get(_ANSWER, ""))
            rest = note.removeprefix(earlier).removeprefix(_END_OF_ANSWER) if earlier else note
            tags = {_CAUSES: named, _ANSWER: "\n\n".join(sentences)}
            tags[NOTE_TAG] = _below(tags, rest)
            store.client.log_batch(
                run_id,
                tags=[RunTag(name, text[: display.LONGEST_TAG]) for name, text in tags.items()],
            )


def below_answer(store: Store, run_id: str, note: str) -> str:
    """A new note of a run with the answer before it, if an explanation has given one."""
    with one_sentence(store.uri):
        tags = store.client.get_run(run_id).data.tags
    return _below(tags, note)


def _below(tags: Mapping[str, str], note: str) -> str:
    answer = _shown(tags.get(_ANSWER, ""))
    return f"{answer}{_END_OF_ANSWER}{note}" if answer and note else answer or note


def _shown(answer: str) -> str:
    first, *rest = answer.split("\n\n")
    return "\n\n".join([f"**{first}**", *rest]) if answer else ""
