"""What is recorded of a run, as MLflow's own entities and within its limits."""

import re
from collections.abc import Mapping
from typing import Any

import mlp.tracking.store  # noqa: F401  first: it sets MLflow up

# isort: split

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from mlp.canonical import canonical_json
from mlp.tracking import display, npz
from mlp.tracking.record import RunRecord

_LONGEST_PARAM, _LONGEST_TAG, _LONGEST_NAME = 6000, 8000, 250  # MLflow's own limits
_DATASET_DIGEST = 36  # of the 64 hex digits; MLflow takes no more
_UNNAMEABLE = re.compile(r"[^\w./: -]")  # it refuses these in a param's name


def metrics(run: RunRecord) -> list[Metric]:
    """Its curves, as many points as MLflow's charts show, and the numbers of the whole run."""
    result = run.result
    return [
        *_points(run, "loss", result.loss, result.loss_step),
        *_points(run, "validation_accuracy", result.validation_accuracy, result.evaluated_step),
        *_points(run, "sharpness", result.sharpness, result.sharpness_step),
        *_points(run, "stability_ratio", result.stability_ratio, result.sharpness_step),
        *(Metric(name, value, run.ended_ms, 0) for name, value in display.numbers(run).items()),
    ]


def params(settings: Mapping[str, Any]) -> list[Param]:
    """Settings as params; the branches of a space may be called what no param can be, `[3,3]`."""
    named = {_cut(_UNNAMEABLE.sub("_", name), _LONGEST_NAME): v for name, v in settings.items()}
    return [Param(name, _cut(value, _LONGEST_PARAM)) for name, value in named.items()]


def tags(texts: Mapping[str, str]) -> list[RunTag]:
    """Name -> text as tags, those that are too long cut."""
    return [RunTag(name, _cut(text, _LONGEST_TAG)) for name, text in texts.items()]


def dataset(run: RunRecord) -> DatasetInput:
    """What the run was trained on, as MLflow's lists show it."""
    data = run.config.data
    profile = {"train": run.n_train, "validation": run.n_validation, "test": run.n_test}
    made = Dataset(
        name=f"{data.name} 3-vs-7",
        digest=run.data_digest[:_DATASET_DIGEST],
        source_type="code",
        source=canonical_json({"data": data.name}),
        profile=canonical_json(profile),
    )
    return DatasetInput(made, tags=[InputTag("mlflow.data.context", "training")])


def _points(run: RunRecord, name: str, values: npz.Array, steps: npz.Array) -> list[Metric]:
    """Points at the times that the training passed them, as far as they are known."""
    curve = display.thin(values, steps)
    pace_ms = (run.ended_ms - run.started_ms) / max(1, run.result.last_step)
    return [
        Metric(name, value, run.started_ms + round(step * pace_ms), step)
        for value, step in zip(curve.value.tolist(), curve.step.tolist(), strict=True)
    ]


def _cut(value: Any, most: int) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."
