"""Records of runs that were never trained, for the tests of whatever keeps them."""

import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp import curve
from mlp.config import RunConfig
from mlp.engine.result import Ending, Result
from mlp.settings import read_run, with_settings
from mlp.stability.ratio import sharpness_steps
from mlp.tracking import spool
from mlp.tracking.listing import Label, read_listing
from mlp.tracking.record import PIXELS, RunRecord

if TYPE_CHECKING:
    from mlp.tracking.store import Store

STARTED_MS = 1_700_000_000_000


def make_record(
    settings: Mapping[str, Any] | None = None, *, loss: Any = None, duration_ms: int = 900
) -> RunRecord:
    """A record with the given settings (dotted paths) on digits, and the given loss curve."""
    run = with_settings(
        read_run({"data": {"name": "digits"}, "training": {"steps": 20}}), settings or {}
    )
    return RunRecord(
        config=run,
        data_digest="d" * 64,
        n_train=200,
        n_validation=50,
        n_test=60,
        result=(result := _make_result(run, loss)),
        judgement=curve.judge_run(result, None),
        started_ms=STARTED_MS,
        ended_ms=STARTED_MS + duration_ms,
        threads=2,
    )


def uploaded(store: "Store", record: RunRecord, label: Label, parent_id: str | None = None) -> str:
    """Uploads a record now, as the drain does; returns the id of its run."""
    from mlp.tracking.store import upload_run  # imports MLflow, which most tests do not need

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "000000"
        spool.put({place: (record, label)})
        return upload_run(store, place, read_listing(place), parent_id)


def _make_result(run: RunConfig, loss: Any) -> Result:
    random = np.random.RandomState(run.training.seed)
    steps = run.training.steps
    values = 0.7 * 0.9 ** np.arange(steps + 1) if loss is None else np.asarray(loss, np.float64)
    is_finite = bool(np.isfinite(values).all())
    sizes = (PIXELS[run.data.name], *run.model.layer_widths, 2)
    return Result(
        loss=values,
        loss_step=np.arange(values.size),
        step_loss=None if run.training.batch_size is None else random.rand(values.size - 1),
        validation_accuracy=np.linspace(0.5, 0.9, 3),
        evaluated_step=np.array([5, 10, 20]),
        weights=tuple(
            (
                random.randn(fan_in, fan_out).astype(run.training.dtype),
                np.zeros(fan_out, run.training.dtype),
            )
            for fan_in, fan_out in pairwise(sizes)
        ),
        ending=Ending.COMPLETED if is_finite else Ending.NON_FINITE,
        last_step=values.size - 1,
        **_make_sharpness(run),
        **_make_layers(run),
    )


def _make_layers(run: RunConfig) -> dict[str, Any]:
    """As where gradients of 4 and 3 reach the first two layers, and half of the units are idle."""
    depth = run.model.depth
    return {
        "layer_step": np.array([0, 10, 20]),
        "layer_gradient": np.tile([4.0, 3.0, *[0.0] * depth][: depth + 1], (3, 1)),
        "layer_update": np.full((3, depth + 1), 0.25),
        "layer_idle": np.full((3, depth), 0.5),
    }


def _make_sharpness(run: RunConfig) -> dict[str, Any]:
    """As after a start above 1 that settles."""
    step = np.array(sharpness_steps(run), np.int64)
    sharpness = 8 / (1.0 + step)
    return {
        "sharpness_step": step,
        "sharpness": sharpness,
        "sharpness_residual": np.full(step.size, 1e-6),
        "gradient_norm": np.full(step.size, 0.1),
        "stability_ratio": sharpness / 4,
    }
