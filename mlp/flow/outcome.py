"""What is made of a trained run: its record, its value for the search, its accuracy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlp.config import RunConfig, settings_of
from mlp.curve import judge
from mlp.data.dataset import Dataset, Part, features
from mlp.engine.result import Ending, Result
from mlp.network import Layer, accuracy
from mlp.tracking.record import RunRecord


@dataclass(frozen=True)
class Timing:
    """When and how wide something was trained.

    Attributes:
        started_ms: milliseconds since 1970 in UTC.
        ended_ms: likewise.
        threads: that trained.
    """

    started_ms: int
    ended_ms: int
    threads: int


def make_record(config: RunConfig, data: Dataset, result: Result, timing: Timing) -> RunRecord:
    """Judges a trained run and gathers everything that is kept of it."""
    return RunRecord(
        config=config,
        data_digest=data.digest,
        n_train=data.train.n_examples,
        n_validation=data.validation.n_examples,
        n_test=data.test.n_examples,
        result=result,
        judgement=judge(result.loss),
        started_ms=timing.started_ms,
        ended_ms=timing.ended_ms,
        threads=timing.threads,
    )


def is_record_of(record: RunRecord, config: RunConfig, data_digest: str) -> bool:
    """Whether a record is of these settings on these data."""
    same_settings = settings_of(record.config) == settings_of(config)
    return same_settings and record.data_digest == data_digest


def objective_value(record: RunRecord, objective: str) -> float | None:
    """The value that a search looks for; None for a run that diverged or was pruned.

    Args:
        record: of the run.
        objective: `validation_accuracy` and `training_loss` of the final weights, or `oscillation`,
            the amplitude of the loss curve's tail.
    """
    if record.result.ending is not Ending.COMPLETED:
        return None
    if objective == "validation_accuracy":
        return float(record.result.validation_accuracy[-1])
    if objective == "training_loss":
        return float(record.result.loss[-1])
    return record.judgement.amplitude


def accuracy_on(part: Part, record: RunRecord, data: Dataset) -> float:
    """Share of a part of the data that the run's final weights get right, 0 to 1."""
    X = features(part.pixels, data.scale, record.config.training.dtype)
    activation = record.config.model.activation
    params = tuple(Layer(W, b) for W, b in record.result.weights)
    return accuracy(params, X, part.labels, activation)


def example_images(data: Dataset) -> NDArray[np.uint8]:
    """A three and a seven, `(2, pixel)`, that a model keeps as an input to try."""
    part = data.validation if len(data.validation) else data.train
    return part.pixels[[int(np.argmax(part.labels == label)) for label in (0, 1)]]


def parts_of(data: Dataset) -> str:
    """The sizes of a data set's parts, for a person."""
    return (
        f"data {data.name}: {data.train.n_examples} to train on, {data.validation.n_examples} to "
        f"validate, {data.test.n_examples} to test"
    )
