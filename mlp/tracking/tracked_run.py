"""A run of this program read back whole from MLflow, trusting nothing in it."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlp.tracking.store import Store, one_sentence  # first: it sets MLflow up

# isort: split

from mlp.engine.result import Result
from mlp.errors import RecordError, SettingError, one_line
from mlp.settings import settings_of
from mlp.tracking import entities, record
from mlp.tracking.download import download
from mlp.tracking.label import STUDY
from mlp.tracking.recipe import Recipe
from mlp.tracking.runs import get_run

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, eq=False)
class TrackedRun:
    """A run that was read back, checked against the digests it was recorded with.

    Attributes:
        run_id: MLflow's id of it.
        experiment_id: likewise, of where it is.
        recipe: its config, data digest and ending.
        result: its curves and weights.
        curve_digest: SHA-256 of the curves.
        weights_digest: SHA-256 of the weights.
        tags: what else was noted, each value one printable line.
    """

    run_id: str
    experiment_id: str
    recipe: Recipe
    result: Result
    curve_digest: str
    weights_digest: str
    tags: dict[str, str]


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
        run = get_run(store, run_id)
        if "mlp.curve_digest" not in run.data.tags:
            what = "the parent of a study" if STUDY in run.data.tags else "not one of this program"
            raise RecordError(f"run {run_id} has no curve and weights to rerun: it is {what}")
        if run.info.status != "FINISHED":
            raise RecordError(f"run {run_id} was not recorded to its end: it is {run.info.status}")
        download(store.client.tracking_uri, run.info.artifact_uri, Path(folder))
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
    for param in entities.params(settings_of(recipe.config)):
        if run.data.params.get(param.key, param.value) != param.value:  # of older runs some lack
            raise RecordError(
                f"run {run_id} was changed: its {record.CONFIG_FILE} has another {param.key} than "
                "its params"
            )
    tags = {one_line(name): one_line(value) for name, value in run.data.tags.items()}
    return TrackedRun(
        run_id=run_id,
        experiment_id=str(run.info.experiment_id),
        recipe=recipe,
        result=result,
        curve_digest=curve_digest,
        weights_digest=weights_digest,
        tags=tags,
    )
