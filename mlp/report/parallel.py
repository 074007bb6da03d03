"""Parallel coordinates of a study: a line a run through its settings."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from mlp.causes.observed import StudyRun
from mlp.config import Value
from mlp.report.figures import VERDICT_COLOURS, bare
from mlp.study.space import typed
from mlp.tracking.read import PastRun


def parallel_figure(runs: Sequence[PastRun], observed: Sequence[StudyRun]) -> go.Figure:
    """Parallel coordinates: a line a run through its settings, coloured by its verdict."""
    verdicts = list(VERDICT_COLOURS)
    names = list(dict.fromkeys(name.partition("[")[0] for run in observed for name in run.params))
    dimensions = [_dimension(name, runs) for name in names]
    places = [verdicts.index(run.judgement.verdict) for run in runs]
    dimensions.append(
        {
            "label": "verdict",
            "values": places,
            "tickvals": list(range(len(verdicts))),
            "ticktext": [verdict.value for verdict in verdicts],
            "range": [0, len(verdicts) - 1],
        }
    )
    n = len(verdicts)
    scale = [
        [edge / n, VERDICT_COLOURS[verdict]]
        for place, verdict in enumerate(verdicts)
        for edge in (place, place + 1)
    ]
    figure = go.Figure(
        go.Parcoords(
            line={"color": places, "colorscale": scale, "cmin": -0.5, "cmax": n - 0.5},
            dimensions=dimensions,
            labelangle=-12,
        )
    )
    figure.update_layout(height=430)
    return bare(figure, margin={"l": 90, "r": 90, "t": 90, "b": 30})


def _dimension(name: str, runs: Sequence[PastRun]) -> dict[str, object]:
    values = [_setting(run, name) for run in runs]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        if min(numbers) > 0 and max(numbers) > 20 * min(numbers):
            return _logarithmic(name, numbers)
        ticks = sorted(set(numbers))
        few = {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
        return {"label": name, "values": numbers, **(few if len(ticks) <= 6 else {})}
    texts = [typed(value) for value in values]
    known = list(dict.fromkeys(texts))
    return {
        "label": name,
        "values": [known.index(text) for text in texts],
        "tickvals": list(range(len(known))),
        "ticktext": known,
    }


def _logarithmic(name: str, numbers: Sequence[float]) -> dict[str, object]:
    """A dimension by its logarithm, with ticks at powers of ten; parcoords has no such axis."""
    logs = [math.log10(number) for number in numbers]
    ticks = list(range(math.floor(min(logs)), math.ceil(max(logs)) + 1))
    return {
        "label": name,
        "values": logs,
        "tickvals": ticks,
        "ticktext": [f"1e{tick}" for tick in ticks],
        "range": [min(logs), max(logs)],
    }


def _setting(run: PastRun, name: str) -> Value:
    group, _, setting = name.partition(".")
    if name == "model.widths":
        return max(run.config.model.layer_widths)
    value: Value = getattr(getattr(run.config, group), setting)
    return value
