"""Studies and runs in MLflow: out as they are trained, back in for a rerun.

Like `mlp.tracking.store`, this imports MLflow, which takes seconds; so it is imported where
tracking begins and not before. Runs are named by their ids everywhere; there is no active run, so
that one background thread can record while another trains.

Recording is safe to repeat: a run is found again by its key, and its points carry the time of the
training, so that MLflow knows the same points when they come twice.
"""

import math
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlp.tracking.store import Store, one_sentence, open_store  # first: it sets MLflow up

# isort: split

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from mlp import config
from mlp.engine.result import Result
from mlp.errors import MissingInputError, RecordError, SettingError, one_line
from mlp.tracking import display, note, npz, record
from mlp.tracking.recipe import LARGEST_TEXT, Recipe, read_recipe
from mlp.tracking.record import CONFIG_FILE, CURVE_FILE, WEIGHTS_FILE, RunRecord
from mlp.tracking.view import NOTE_TAG

__all__ = [
    "Store",
    "TrackedRun",
    "fetch_run",
    "find_study",
    "finish",
    "open_store",
    "publish_run",
    "start_study",
    "update_run",
]

KEY, STUDY, TRIAL = "mlp.key", "mlp.study", "mlp.trial"
STUDY_FILE = "study.json"

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PLAIN_KEY = re.compile(r"[\w./-]{1,250}")  # it is quoted in a filter
_LONGEST_PARAM, _LONGEST_TAG, _LONGEST_NAME = 6000, 8000, 250  # MLflow's own limits
_UNNAMEABLE = re.compile(r"[^\w./: -]")  # it refuses these in a param's name


@dataclass(frozen=True, eq=False)
class TrackedRun:
    """A run that was read back, checked against the digests it was recorded with.

    Attributes:
        run_id: MLflow's id of it.
        recipe: its config, data digest and ending.
        result: its curves and weights.
        curve_digest: SHA-256 of the curves.
        weights_digest: SHA-256 of the weights.
        tags: what else was noted, each value one printable line.
    """

    run_id: str
    recipe: Recipe
    result: Result
    curve_digest: str
    weights_digest: str
    tags: dict[str, str]


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
    study_key = _study_key(key or name)
    all_tags = {
        STUDY: name,
        **tags,
        NOTE_TAG: description,
        KEY: study_key,
        **display.environment_tags(),
    }
    with one_sentence(store.uri), tempfile.TemporaryDirectory() as folder:
        known = _find(store, study_key)
        run = known or store.client.create_run(store.experiment_id, tags=all_tags, run_name=name)
        run_id = str(run.info.run_id)
        if run.info.status != "RUNNING":
            store.client.update_run(run_id, status="RUNNING")
        shown = _params(display.study_params(settings, searched or {}))
        params = [param for param in shown if param.key not in run.data.params]
        store.client.log_batch(run_id, params=params, tags=_tags(all_tags) if known else [])
        file = Path(folder) / STUDY_FILE
        file.write_text(config.canonical_json(settings), encoding="utf-8")
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
        known = _find(store, key)
        if known is not None and known.info.status == "FINISHED":
            return str(known.info.run_id)
        made = known or store.client.create_run(
            store.experiment_id, start_time=run.started_ms, tags=all_tags, run_name=name
        )
        run_id = str(made.info.run_id)
        store.client.log_batch(
            run_id,
            metrics=_metrics(run),
            params=_params(config.settings_of(run.config)),
            tags=_tags({**(all_tags if known else {}), NOTE_TAG: note.run_note(run, run_id)}),
        )
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
    step: int = 0,
) -> None:
    """Adds to a run or to the parent run of a study; non-finite metrics are left out."""
    now = _now_ms()
    points = [
        Metric(name, float(value), now, step)
        for name, value in (metrics or {}).items()
        if math.isfinite(value)
    ]
    with one_sentence(store.uri):
        store.client.log_batch(
            run_id, metrics=points, params=_params(params or {}), tags=_tags(tags or {})
        )


def finish(store: Store, run_id: str, status: Status) -> None:
    """Ends a run now, with the status that is true."""
    with one_sentence(store.uri):
        store.client.set_terminated(run_id, status, end_time=_now_ms())


def find_study(store: Store, name: str) -> str | None:
    """The id of a study's parent run; None if the store has none."""
    with one_sentence(store.uri):
        run = _find(store, _study_key(name))
    return str(run.info.run_id) if run else None


def find_trial(store: Store, study_key: str, number: int) -> str | None:
    """The id of the run of a study's trial; None if the store has none."""
    with one_sentence(store.uri):
        run = _find(store, trial_key(study_key, str(number)))
    return str(run.info.run_id) if run else None


def trial_key(study_key: str, number: str) -> str:
    """What the run of a study's trial is found again by."""
    return _checked_key(f"{study_key}/{number}")


def fetch_run(store: Store, run_id: str) -> TrackedRun:
    """Reads a run back, trusting nothing in it.

    Raises:
        SettingError: for what is no run id.
        MissingInputError: for a run that the store does not have.
        RecordError: for one that this program did not record, or not to the end, or that was
            changed since.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise SettingError(f"a run id must be 32 hex digits, but is {one_line(run_id)!r}")
    with one_sentence(store.uri), tempfile.TemporaryDirectory() as folder:
        run = _get_run(store, run_id)
        if "mlp.curve_digest" not in run.data.tags:
            what = "the parent of a study" if STUDY in run.data.tags else "not one of this program"
            raise RecordError(f"run {run_id} has no curve and weights to rerun: it is {what}")
        if run.info.status != "FINISHED":
            raise RecordError(f"run {run_id} was not recorded to its end: it is {run.info.status}")
        _download(store, run_id, Path(folder))
        recipe, result = record.read_artifacts(Path(folder))
    curve_digest, weights_digest = record.curve_digest(result), record.weights_digest(result)
    digests = {
        "mlp.data_digest": recipe.data_digest,
        "mlp.curve_digest": curve_digest,
        "mlp.sharpness_digest": record.sharpness_digest(result),
        "mlp.weights_digest": weights_digest,
    }
    for name, digest in digests.items():
        if run.data.tags.get(name) != digest:
            raise RecordError(f"run {run_id} was changed: its files do not have its {name}")
    tags = {one_line(name): one_line(value) for name, value in run.data.tags.items()}
    return TrackedRun(run_id, recipe, result, curve_digest, weights_digest, tags)


def _get_run(store: Store, run_id: str) -> Run:
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise MissingInputError(f"there is no run {run_id} in {store.uri}") from None


def _find(store: Store, key: str) -> Run | None:
    found = store.client.search_runs(
        [store.experiment_id], filter_string=f"tags.`{KEY}` = '{key}'", max_results=1
    )
    return found[0] if found else None


def _study_key(name: str) -> str:
    return _checked_key(f"{name}/study")


def _run_key(run: RunRecord, tags: Mapping[str, str]) -> str:
    """What makes this run the same one when it is recorded again."""
    if KEY in tags:
        return _checked_key(tags[KEY])
    if STUDY in tags and TRIAL in tags:
        return trial_key(tags[STUDY], tags[TRIAL])
    parts = [record.config_json(run), run.started_ms, record.weights_digest(run.result)]
    return config.digest(parts)


def _checked_key(key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):  # it is quoted in a filter
        raise ValueError(
            f"a key must be made of letters, digits, '_', '.', '-', '/', but is {key!r}"
        )
    return key


def _download(store: Store, run_id: str, folder: Path) -> None:
    """The three files of a run, none larger than its config allows."""
    sizes = {
        file.path: file.file_size or 0
        for file in store.client.list_artifacts(run_id)
        if not file.is_dir
    }
    _download_file(store, run_id, CONFIG_FILE, folder, sizes, most=LARGEST_TEXT)
    run = read_recipe(record.read_text(folder / CONFIG_FILE)).config
    for name, expected in (
        (CURVE_FILE, record.expected_curve(run)),
        (WEIGHTS_FILE, record.expected_weights(run)),
    ):
        _download_file(store, run_id, name, folder, sizes, most=npz.largest_file(expected))


def _download_file(
    store: Store, run_id: str, name: str, folder: Path, sizes: Mapping[str, int], *, most: int
) -> None:
    if not 0 < sizes.get(name, 0) <= most:
        size = f"has {sizes[name]} bytes" if name in sizes else "is missing"
        raise RecordError(f"run {run_id} must have a {name} of 1 to {most} bytes, but it {size}")
    store.client.download_artifacts(run_id, name, str(folder))


def _metrics(run: RunRecord) -> list[Metric]:
    result = run.result
    return [
        *_points(run, "loss", result.loss, result.loss_step),
        *_points(run, "validation_accuracy", result.validation_accuracy, result.evaluated_step),
        *_points(run, "sharpness", result.sharpness, result.sharpness_step),
        *_points(run, "stability_ratio", result.stability_ratio, result.sharpness_step),
        *(Metric(name, value, run.ended_ms, 0) for name, value in display.numbers(run).items()),
    ]


def _points(run: RunRecord, name: str, values: npz.Array, steps: npz.Array) -> list[Metric]:
    """Points at the times that the training passed them, as far as they are known."""
    curve = display.thin(values, steps)
    pace_ms = (run.ended_ms - run.started_ms) / max(1, run.result.last_step)
    return [
        Metric(name, value, run.started_ms + round(step * pace_ms), step)
        for value, step in zip(curve.value.tolist(), curve.step.tolist(), strict=True)
    ]


def _params(settings: Mapping[str, Any]) -> list[Param]:
    """Settings as params; the branches of a space may be called what no param can be, `[3,3]`."""
    named = {_cut(_UNNAMEABLE.sub("_", name), _LONGEST_NAME): v for name, v in settings.items()}
    return [Param(name, _cut(value, _LONGEST_PARAM)) for name, value in named.items()]


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, _cut(value, _LONGEST_TAG)) for name, value in tags.items()]


def _cut(value: Any, most: int) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
