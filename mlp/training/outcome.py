"""What is made of a trained run: its record, its value for the search, its accuracy."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mlp.config import OBJECTIVES, RunConfig
from mlp.data.dataset import Dataset, Part, features
from mlp.engine.result import Ending, Result
from mlp.errors import SettingError, shown
from mlp.network import Array, Layer, Params, accuracy, forward
from mlp.settings import settings_of
from mlp.tracking.record import RunRecord, judge_result

MOST_WRONG = 100  # that are kept of a network


def make_record(
    config: RunConfig,
    data: Dataset,
    result: Result,
    *,
    started_ms: int,
    ended_ms: int,
    threads: int,
) -> RunRecord:
    """Judges a trained run and gathers everything that is kept of it.

    Args:
        started_ms: milliseconds since 1970 in UTC, as `ended_ms`.
    """
    return RunRecord(
        config=config,
        data_digest=data.digest,
        n_train=data.train.n_examples,
        n_validation=data.validation.n_examples,
        n_test=data.test.n_examples,
        result=result,
        judgement=judge_result(config, result),
        started_ms=started_ms,
        ended_ms=ended_ms,
        threads=threads,
    )


def is_record_of(record: RunRecord, config: RunConfig, data_digest: str) -> bool:
    """Whether a record is of these settings on these data; it has the rate that `auto` became."""
    recorded, wanted = settings_of(record.config), settings_of(config)
    if wanted.get("optimizer.learning_rate") == "auto":
        recorded["optimizer.learning_rate"] = "auto"
    return recorded == wanted and record.data_digest == data_digest


def check_objective(records: Iterable[RunRecord], objective: str) -> None:
    """Refuses an objective that an own function does not give, once runs of it have ended.

    Raises:
        SettingError: naming what it gives.
    """
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
    if record.result.ending is not Ending.COMPLETED:
        return None
    trace = record.result.own
    if trace is not None and objective in trace.series:
        value = float(trace.series[objective][-1])
        return value if math.isfinite(value) else None
    if trace is not None and objective not in ("loss", "training_loss", "oscillation"):
        return None
    if objective == "validation_accuracy":
        return float(record.result.validation_accuracy[-1])
    if objective in ("training_loss", "loss"):
        return float(record.result.loss[-1])
    return record.judgement.amplitude


def superlative(objective: str) -> str:
    """What the trial with the highest value is called; with `oscillation` that is no praise."""
    return "most unstable" if objective == "oscillation" else "best"


def accuracy_on(part: Part, record: RunRecord, data: Dataset) -> float:
    """Share of a part of the data that the run's final weights get right, 0 to 1."""
    X = _inputs(part, record, data)
    return accuracy(_params(record), X, part.labels, record.config.model.activation)


def wrong_on(part: Part, record: RunRecord, data: Dataset) -> list[tuple[int, float]]:
    """What the run's final weights get wrong of a part, and how sure they are of it.

    Returns:
        Place in the part, and the probability of the wrong class, 0.5 to 1; the surest first, and
        of more than `MOST_WRONG` those only.
    """
    X = _inputs(part, record, data)
    logits: Array = forward(_params(record), X, record.config.model.activation).logits
    is_wrong = (logits[:, 1] > logits[:, 0]) != part.labels.astype(bool)
    margin = np.abs(np.nan_to_num(logits[:, 1] - logits[:, 0])).astype(np.float64)
    probability = 1 / (1 + np.exp(-margin))
    places = np.flatnonzero(is_wrong)
    surest = places[np.argsort(-probability[places], kind="stable")][:MOST_WRONG]
    return [(int(place), float(probability[place])) for place in surest]


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


def _inputs(part: Part, record: RunRecord, data: Dataset) -> Array:
    config = record.config
    return features(part.pixels, data.scale / config.data.scale, config.training.dtype)


def _params(record: RunRecord) -> Params:
    return tuple(Layer(W, b) for W, b in record.result.weights)
