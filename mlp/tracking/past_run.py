"""A run as MLflow lists it, whoever recorded it: what was set, and what the loss did.

Settings are read from the params of the run, the verdict from its tags and metrics, so that no file
is fetched. The store may be anybody's: a value reaches the schema through the door or the run is
refused.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict, judge
from mlp.door import read_run, setting_paths
from mlp.engine.result import Ending
from mlp.errors import RecordError, one_line

if TYPE_CHECKING:  # importing MLflow takes seconds, and whoever has a run has imported it
    from mlflow.entities import Run

    from mlp.tracking.store import Store

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CUT_SHORT = (Ending.PRUNED.value, Ending.CRASHED.value)
_LARGEST = 1.7e308  # MLflow writes so many for an infinity


@dataclass(frozen=True)
class PastRun:
    """A tracked run as attribution and the report see it.

    Attributes:
        run_id: MLflow's id.
        name: for a person.
        trial: its number in its study; None outside of one.
        config: its settings, checked.
        judgement: what its loss did.
        data_digest: SHA-256 of its data, 64 hex digits; None where nobody noted it.
        metrics: the last value of each, finite.
        started_ms: milliseconds since 1970 in UTC.
        ended_ms: likewise.
        mechanism: what was noted of the stability; None where nobody measured it.
    """

    run_id: str
    name: str
    trial: int | None
    config: RunConfig
    judgement: Judgement
    data_digest: str | None
    metrics: Mapping[str, float]
    started_ms: int
    ended_ms: int
    mechanism: str | None = None


def read_past_run(store: "Store", run: "Run") -> PastRun:
    """Reads a run from what MLflow lists of it; from its loss curve too, where it has no verdict.

    Args:
        store: where it is.
        run: as MLflow gives it.

    Raises:
        RecordError: for one that was cut short, or that lacks settings or a loss.
        SettingError: for settings that the door refuses.
    """
    tags = run.data.tags
    if tags.get("mlp.ending") in _CUT_SHORT:
        raise RecordError(f"it was {tags['mlp.ending']}, so its loss does not say how it ends")
    metrics = {k: float(v) for k, v in run.data.metrics.items() if math.isfinite(v)}
    digest, trial = tags.get("mlp.data_digest", ""), tags.get("mlp.trial", "")
    return PastRun(
        run_id=str(run.info.run_id),
        name=one_line(run.info.run_name or run.info.run_id),
        trial=int(trial) if re.fullmatch(r"\d{1,9}", trial) else None,
        config=_config(run.data.params),
        judgement=_judgement(store, run, metrics),
        data_digest=digest if _DIGEST.fullmatch(digest) else None,
        metrics=metrics,
        started_ms=int(run.info.start_time or 0),
        ended_ms=int(run.info.end_time or run.info.start_time or 0),
        mechanism=one_line(tags["mechanism"]) if "mechanism" in tags else None,
    )


def _config(params: Mapping[str, str]) -> RunConfig:
    """The settings among the params, through the door."""
    values: dict[str, dict[str, Any]] = {}
    for path in setting_paths():
        group, _, name = path.partition(".")
        if path in params and group not in ("tracking", "execution") and path != "data.root":
            values.setdefault(group, {})[name] = _plain(params[path])
    if not values:
        raise RecordError("it has no param that is a setting")
    return read_run(values)


def _plain(text: str) -> Any:
    """What a param was before MLflow made a text of it."""
    known: dict[str, bool | None] = {"None": None, "True": True, "False": False}
    if text in known:
        return known[text]
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except (ValueError, RecursionError):
        return text


def _judgement(store: "Store", run: "Run", metrics: Mapping[str, float]) -> Judgement:
    """What was noted of the loss; judged here where this program did not, or an earlier one did."""
    verdict = run.data.tags.get("verdict")
    # Without `ripples` it was judged by an earlier rule, that called ripples oscillation, too.
    if verdict not in set(Verdict) or not {"amplitude", "ripples", "tail_loss"} <= metrics.keys():
        points = store.client.get_metric_history(run.info.run_id, "loss")
        known = {int(point.step): float(point.value) for point in points}
        if not known:
            raise RecordError("it has no loss curve")
        loss = np.array([known[step] for step in sorted(known)])
        return judge(np.where(np.abs(loss) < _LARGEST, loss, np.nan))
    period = metrics.get("period_steps")
    return Judgement(
        verdict=Verdict(verdict),
        amplitude=metrics["amplitude"],
        ripples=metrics["ripples"],
        tail_loss=metrics["tail_loss"],
        flip_rate=metrics.get("flip_rate", 0.0),
        period_steps=None if period is None else int(period),
        largest_rise=metrics.get("largest_rise", 0.0),
        last_rise_entry=None,
        spiked=bool(metrics.get("spiked", 0.0)),
    )
