"""A run's network as a model of MLflow: to be loaded, served and registered by its own tools.

The model holds the run's `config.json` and `weights.npz` and one file of code that needs NumPy
alone; nothing in it is pickled. Like `mlp.tracking.store`, this imports MLflow.
"""

import logging
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlp.tracking.store import Store, one_sentence  # first: it sets MLflow up

# isort: split

import mlflow.pyfunc
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from mlp.tracking import three_or_seven
from mlp.tracking.read import fetch_run

_CODE = Path(three_or_seven.__file__)
_REQUIREMENTS = ["numpy", "pandas"]  # named, because to find them out takes MLflow two seconds
_NO_NAME = re.compile(r"[^\w-]+")  # MLflow refuses dots and slashes in a model's name

logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it tells of each step of a save


def log_model(
    store: Store, run_id: str, *, name: str, example: NDArray[np.uint8], register: str | None
) -> str:
    """Makes a model of a tracked run; one that is there already stays as it is.

    The model has the run's settings as its params and the points of the run's curves, each logged a
    second time for the model's sake.

    Args:
        example: `(image, pixel)`, raw pixels, kept with the model as an input to try.
        register: a name in MLflow's registry that gets a new version; None: none.

    Returns:
        What `mlflow models serve` and `mlflow.pyfunc.load_model` take: the registered version
        where there is one.

    Raises:
        RecordError: for a run whose record cannot be used.
        StoreError, UnavailableError: for a store that fails.
    """
    fetch_run(store, run_id)  # refuses what was changed since, before it is called a model
    with one_sentence(store.uri):
        run = store.client.get_run(run_id)
        model = _find(store, run_id) or _make(store, run, _NO_NAME.sub("-", name), example)
        if register is None:
            return f"models:/{model.model_id}"
        return f"models:/{register}/{_version(store, register, model)}"


def serve_command(store: Store, uri: str) -> str:
    """What to type to serve a model over HTTP, in this environment."""
    place = "" if store.is_default else f"MLFLOW_TRACKING_URI={shlex.quote(store.uri)} "
    return f"{place}mlflow models serve -m {uri} --env-manager local --port 5001"


def _find(store: Store, run_id: str) -> LoggedModel | None:
    """The run's finished model; what attempts that were cut short have left goes."""
    found = store.client.search_logged_models(
        [store.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    for model in found:
        if model.status != LoggedModelStatus.READY:
            store.client.delete_logged_model(model.model_id)
    return next((model for model in found if model.status == LoggedModelStatus.READY), None)


def _make(store: Store, run: Run, name: str, example: NDArray[np.uint8]) -> LoggedModel:
    """A new model of a run; it ends READY, or FAILED where it cannot be made."""
    client, run_id = store.client, str(run.info.run_id)
    made = client.create_logged_model(
        store.experiment_id,
        name=name,
        source_run_id=run_id,
        model_type="classifier",
        params=run.data.params,
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
    )
    try:
        with TemporaryDirectory() as folder:
            _save(Path(folder), store, run_id, made, example)
            client.log_model_artifacts(made.model_id, str(Path(folder) / "model"))
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        client.log_batch(run_id, metrics=_points_of(store, run, made.model_id))
        return client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    except BaseException:
        with suppress(Exception):  # the store may be what failed; the next attempt clears up
            client.finalize_logged_model(made.model_id, LoggedModelStatus.FAILED)
        raise


def _save(
    folder: Path, store: Store, run_id: str, made: LoggedModel, example: NDArray[np.uint8]
) -> None:
    """Writes the model as MLflow wants it, below `folder / "model"`."""
    data = folder / "network"
    data.mkdir()
    for name in (three_or_seven.CONFIG_FILE, three_or_seven.WEIGHTS_FILE):
        store.client.download_artifacts(run_id, name, str(data))
    code = folder / _CODE.name  # without the __pycache__ beside the original
    shutil.copyfile(_CODE, code)
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        loader_module=_CODE.stem,
        data_path=str(data),
        code_paths=[str(code)],
        signature=_signature(example.shape[1]),
        input_example=example,
        pip_requirements=_REQUIREMENTS,
        mlflow_model=Model(
            artifact_path=made.artifact_location,
            model_uuid=made.model_id,
            model_id=made.model_id,
            run_id=run_id,
        ),
    )


def _signature(n_pixels: int) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, n_pixels))]),
        outputs=Schema(
            [
                ColSpec(DataType.long, "digit"),
                ColSpec(DataType.double, "probability_of_3"),
                ColSpec(DataType.double, "probability_of_7"),
            ]
        ),
    )


def _points_of(store: Store, run: Run, model_id: str) -> Sequence[Metric]:
    """The last point of each metric, once more with the model's id; its curves are the run's."""
    points = []
    for key in run.data.metrics:
        history = store.client.get_metric_history(run.info.run_id, key)
        last = max(history, key=lambda point: (point.step, point.timestamp))
        points.append(
            Metric(
                key,
                last.value,
                last.timestamp,
                last.step,
                model_id=model_id,
                run_id=run.info.run_id,
            )
        )
    return points


def _version(store: Store, name: str, model: LoggedModel) -> Any:
    """The registered version of a model; a new one where it has none."""
    client = store.client
    # A server takes no folder for a source. A database does, and it looks up a model's address in
    # whatever store this process has set globally (3.17), which may be another one.
    is_server = store.uri.startswith("http")
    source = f"models:/{model.model_id}" if is_server else model.artifact_location
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == source:
            return version.version
    made = client.create_model_version(
        name, source, run_id=model.source_run_id, model_id=model.model_id, await_creation_for=0
    )
    return made.version
