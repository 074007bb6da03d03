"""What people see of a run in lists and charts: its name, points, numbers and tags."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.config import RunConfig
from mlp.engine.result import Ending, Result
from mlp.palette import VERDICT_SHADES
from mlp.tracking import environment, record
from mlp.tracking.record import RunRecord

_OF_THE_PLACE = ("execution", "tracking")  # groups without effect on results
CHART_POINTS = 320  # what MLflow's charts ask for; of more they draw evenly spaced ones only


@dataclass(frozen=True)
class ThinCurve:
    """The points of a curve that a chart shows.

    Attributes:
        value: `(point,)`, finite.
        step: `(point,)`, increasing.
    """

    value: NDArray[np.float64]
    step: NDArray[np.int64]


def run_name(run: RunConfig, trial: int | None = None) -> str:
    """What a person compares runs by, short; minibatches and momentum where a run has them.

    Example:
        >>> run_name(RunConfig(), 12)
        '#12 lr 0.5 mean lecun 2x3'
    """
    batch_size, momentum = run.training.batch_size, run.optimizer.momentum
    widths = run.model.layer_widths
    shape = f"{len(widths)}x{widths[0]}" if len(set(widths)) == 1 else _listed(widths)
    parts = [
        *([f"#{trial}"] if trial is not None else []),
        f"lr {run.optimizer.learning_rate:.3g}",
        run.gradient.normalization,
        run.initialization.scheme.removesuffix("_normal"),
        shape,
        *([f"batch {batch_size}"] if batch_size is not None else []),
        *([f"momentum {momentum:g}"] if momentum else []),
    ]
    return " ".join(parts)


def thin(loss: ArrayLike, loss_step: ArrayLike, max_points: int = CHART_POINTS) -> ThinCurve:
    """The points of a curve to show, so that no spike and no oscillation is lost.

    Evenly spaced points would draw a swing of period 2 as a flat line. So the entries between the
    first and the last are parted into buckets, and each keeps its lowest and its highest value, in
    their order. Non-finite values are left out.

    Args:
        loss: `(entry,)`.
        loss_step: `(entry,)`, increasing.
        max_points: at most so many points, 4 or more.

    Example:
        >>> thin([3.0, 2.0, np.nan, 1.0], [0, 1, 2, 3]).step.tolist()
        [0, 1, 3]
    """
    if max_points < 4:
        raise ValueError(f"max_points must be at least 4, but is {max_points}")
    values = np.asarray(loss, dtype=np.float64)
    finite = np.isfinite(values)
    values, steps = values[finite], np.asarray(loss_step, dtype=np.int64)[finite]
    if values.size <= max_points:
        return ThinCurve(values, steps)
    n_buckets = (max_points - 2) // 2
    edges = np.linspace(1, values.size - 1, n_buckets + 1).astype(int)
    kept = [0, values.size - 1]
    for start, end in pairwise(edges):
        bucket = values[start:end]
        # The first highest and the last lowest, so that a regular swing is shown high, low, high,
        # low, and not with the two lows of neighbouring buckets side by side.
        kept += [start + int(bucket.argmax()), end - 1 - int(bucket[::-1].argmin())]
    chosen = np.unique(kept)
    return ThinCurve(values[chosen], steps[chosen])


def numbers(run: RunRecord) -> dict[str, float]:
    """The numbers to sort and compare runs by; all finite, and only those that are known.

    A run that went non-finite has `diverged_at_step` in the place of `final_loss`.
    """
    result, judgement, accuracy = run.result, run.judgement, run.result.validation_accuracy
    known: dict[str, float | None] = {
        "final_validation_accuracy": accuracy[-1] if accuracy.size else None,
        "best_validation_accuracy": accuracy.max() if accuracy.size else None,
        "test_accuracy": run.test_accuracy,
        "amplitude": judgement.amplitude,
        "flip_rate": judgement.flip_rate,
        "period_steps": judgement.period_steps,
        "largest_rise": judgement.largest_rise,
        "last_rise_step": _last_rise_step(run),
        "spiked": float(judgement.spiked),
        "n_weights": sum(W.size + b.size for W, b in result.weights),
        # MLflow's charts have linear axes, and rates differ by factors of ten.
        "log10_learning_rate": math.log10(run.config.optimizer.learning_rate),
        "duration_s": (run.ended_ms - run.started_ms) / 1000,
    }
    if run.stability is not None:
        known["stability_ratio_start"] = run.stability.start
        known["stability_ratio_max"] = run.stability.highest
        known["stability_ratio_tail"] = run.stability.tail
    if result.ending is Ending.NON_FINITE:
        known["diverged_at_step"] = _diverged_at(result)
    elif result.loss.size:
        known["final_loss"] = result.loss[-1]
    return {
        name: float(value)
        for name, value in known.items()
        if value is not None and math.isfinite(value)
    }


def study_params(settings: Mapping[str, Any], searched: Mapping[str, Any]) -> dict[str, Any]:
    """What the parent run of a study lists: how it searches, and what all of its trials share.

    A setting that varies is listed by what it is drawn from, not by a value that no trial has.

    Args:
        settings: plain nested values.
        searched: path of each setting that varies -> what it is drawn from.

    Example:
        >>> study_params(
        ...     {"model": {"depth": 2, "widths": 3}, "study": {"seed": 0, "space": {}}},
        ...     {"model.depth": {"low": 1, "high": 3}},
        ... )
        {'model.widths': 3, 'study.seed': 0, 'study.space.model.depth': '1 to 3'}
    """
    flat = {
        path: value
        for path, value in _flat(settings).items()
        if path not in searched
        and path.split(".")[0] not in _OF_THE_PLACE
        and not (searched and path.startswith("study.space"))
    }
    drawn = {f"study.space.{path}": drawn_from(entry) for path, entry in searched.items()}
    return {**flat, **drawn}


def drawn_from(entry: Any) -> str:
    """What a setting is drawn from, in words; for an entry of a study's space.

    Example:
        >>> drawn_from({"by": "gradient.normalization", "sum": [0.1, 0.2], "mean": {"low": 1, \
"high": 30, "log": True}})
        'by gradient.normalization: sum 0.1, 0.2; mean 1 to 30 log'
    """
    if isinstance(entry, list | tuple):
        return ", ".join(str(value) for value in entry)
    if not isinstance(entry, Mapping):
        return str(entry)
    if "by" in entry:
        branches = [f"{name} {drawn_from(of)}" for name, of in entry.items() if name != "by"]
        return f"by {entry['by']}: {'; '.join(branches)}"
    words = [f"{entry['low']} to {entry['high']}"] if {"low", "high"} <= entry.keys() else []
    for name, value in entry.items():
        if name not in ("low", "high") and value not in (None, False):
            words.append(name if value is True else f"{name} {drawn_from(value)}")
    return " ".join(words)


def tags(run: RunRecord) -> dict[str, str]:
    """Verdict, mechanism, digests and sizes, to find runs by and to check a rerun against."""
    stability = run.stability
    return {
        "verdict": run.judgement.verdict.value,
        **({} if stability is None else {"mechanism": stability.mechanism.value}),
        "mlflow.runColor": _color(run),
        "mlp.ending": run.result.ending.value,
        "mlp.data_digest": run.data_digest,
        "mlp.curve_digest": record.curve_digest(run.result),
        "mlp.sharpness_digest": record.sharpness_digest(run.result),
        "mlp.weights_digest": record.weights_digest(run.result),
        "mlp.n_train": str(run.n_train),
        "mlp.n_validation": str(run.n_validation),
        "mlp.n_test": str(run.n_test),
        "mlp.threads": str(run.threads),
    }


def environment_tags() -> dict[str, str]:
    """What it was trained with, in MLflow's own words where it has them."""
    here = environment.current()
    tags = {
        "mlflow.user": here.user,
        "mlflow.source.name": "mlp",
        "mlflow.source.type": "LOCAL",
        "mlp.version": here.code,
        "mlp.python": here.python,
        "mlp.packages": ", ".join(f"{name} {version}" for name, version in here.packages.items()),
        "mlp.cpu": here.cpu,
        "mlp.system": here.system,
    }
    if here.git_commit is not None:
        tags["mlflow.source.git.commit"] = here.git_commit
        tags["mlflow.source.git.dirty"] = str(here.is_dirty).lower()
    return tags


def _color(run: RunRecord) -> str:
    """Of a run in MLflow's charts; the same run has the same one."""
    shades = VERDICT_SHADES[run.judgement.verdict]
    return shades[int(record.weights_digest(run.result)[:8], 16) % len(shades)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _listed(widths: tuple[int, ...]) -> str:
    shown = ",".join(str(width) for width in widths[:6])
    return f"[{shown}]" if len(widths) <= 6 else f"[{shown},...]x{len(widths)}"


def _last_rise_step(run: RunRecord) -> float | None:
    """The step of the loss that last stood visibly above its running minimum."""
    entry = run.judgement.last_rise_entry
    return None if entry is None else float(run.result.loss_step[entry])


def _diverged_at(result: Result) -> int:
    broken = ~np.isfinite(result.loss)
    return int(result.loss_step[broken.argmax()]) if broken.any() else result.last_step
