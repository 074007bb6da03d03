"""A study's view in MLflow's pages: the columns of its list and its charts.

MLflow keeps the views that people save as tags of the experiment, and opens one by its address. So
a study brings its own: the verdict first, then numbers and the settings that it searches; and the
loss curves of all of its runs over each other, those that swing among them. Without it, the list
shows none of them.

The format is that of MLflow 3.17's pages. Versions that do not know it show their default view.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlp.tracking.display import LOSS_AT_END

NOTE_TAG = "mlflow.note.content"  # what MLflow's pages show as description
VIEW_TAG = "mlflow.sharedViewState."  # and the view's name
PAGE_QUERY = "workflowType=machine_learning"  # else MLflow's pages are those for language models

_RATE = "optimizer.learning_rate"  # as it was drawn, with all of its digits
_ORDER = {
    "validation_accuracy": ("final_validation_accuracy", False),
    "training_loss": ("final_loss", True),
    "oscillation": ("amplitude", False),
}


@dataclass(frozen=True)
class StudyView:
    """What a study's view is made of.

    Attributes:
        name: of the view, in MLflow's list of them and in its address.
        study: whose runs it shows.
        objective: what the study looks for; its runs are sorted by that.
        searched: paths of the settings that vary.
        is_validated: whether its runs have a validation accuracy.
        lowest: power of ten at which the axis of the loss begins.
    """

    name: str
    study: str
    objective: str
    searched: Sequence[str]
    is_validated: bool
    lowest: int = -4

    @property
    def tag(self) -> str:
        """The experiment's tag that holds the view."""
        return VIEW_TAG + self.name

    def value(self, created_ms: int) -> str:
        """The text of the tag.

        Args:
            created_ms: shown as the view's age, milliseconds since 1970 in UTC.
        """
        state = json.dumps({**_search(self), **_columns(self), **_charts(self)})
        saved = {"createdAt": created_ms, "updatedAt": created_ms, "state": state}
        return json.dumps({"name": f"{self.name}: verdicts and loss", **saved})


def page_query(view: str | None) -> str:
    """What comes after the `?` in the address of the list of runs.

    Example:
        >>> page_query("smoke")
        'workflowType=machine_learning&viewStateShareKey=smoke'
    """
    return PAGE_QUERY if view is None else f"{PAGE_QUERY}&viewStateShareKey={view}"


def _search(view: StudyView) -> dict[str, Any]:
    metric, is_ascending = _ORDER.get(view.objective, (f"final_{view.objective}", False))
    return {
        "searchFilter": f"tags.`mlp.study` = '{view.study}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": is_ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _columns(view: StudyView) -> dict[str, Any]:
    numbers = ["final_validation_accuracy"] if view.is_validated else []
    numbers.append("amplitude")
    widths = {
        "attributes.`Run Name`": 230,
        "tags.`verdict`": 95,
        f"tags.`{LOSS_AT_END}`": 100,
        **{f"metrics.`{name}`": _width(name) for name in numbers},
        **{f"params.`{path}`": _width(path) for path in view.searched},
        "runDateAndNestInfo": 145,
        "duration": 80,
    }
    shown = [column for column in widths if "`" in column and "Run Name" not in column]
    return {"selectedColumns": shown, "columnOrder": list(widths), "columnWidths": widths}


def _width(name: str) -> int:
    """Of a column, in pixels: its heading is to be read as far as there is room for it."""
    return 165 if name == _RATE else min(135, 40 + 7 * len(name))


def _charts(view: StudyView) -> dict[str, Any]:
    """Loss curves large on top, MLflow's own charts folded below."""
    ours, others = f"{view.name}-charts", f"{view.name}-others"
    chart = {"metricSectionId": ours, "deleted": False, "isGenerated": False}
    section = {"isReordered": False, "deleted": False}
    loss = {
        **chart,
        "uuid": f"{view.name}-loss",
        "type": "LINE",
        "metricKey": "loss",
        "selectedMetricKeys": ["loss"],
        "displayName": "loss",
        # Linear, a converged loss is a line at zero beside one that swings; and free, it may sink
        # to 1e-38 and press all others together. The bounds are powers of ten.
        "scaleType": "log",
        "range": {"yMin": view.lowest, "yMax": 3},
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "runsCountToCompare": 100,
    }
    return {
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [
            {
                **section,
                "uuid": ours,
                "name": "Loss",
                "display": True,
                "isGenerated": False,
                "columns": 1,
                "cardHeight": 460,
            },
            {
                **section,
                "uuid": others,
                "name": "Model metrics",
                "display": False,
                "isGenerated": True,
            },
        ],
        "compareRunCharts": [loss],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "groupBy": None,
    }
