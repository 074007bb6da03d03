"""A study's view in MLflow's pages: the columns of its list and its charts.

MLflow keeps the views that people save as tags of the experiment, and opens one by its address. So
a study brings its own: the verdict first, then numbers and the settings that it searches, its loss
curves over each other, and parallel coordinates. Without it, the list shows none of them.

The format is that of MLflow 3.17's pages. Versions that do not know it show their default view.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTE_TAG = "mlflow.note.content"  # what MLflow's pages show as description
VIEW_TAG = "mlflow.sharedViewState."  # and the view's name
PAGE_QUERY = "workflowType=machine_learning"  # else MLflow's pages are those for language models

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
    """

    name: str
    study: str
    objective: str
    searched: Sequence[str]
    is_validated: bool

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
    numbers = ["final_loss", "final_validation_accuracy", "amplitude"]
    if not view.is_validated:
        numbers.remove("final_validation_accuracy")
    widths = {
        "attributes.`Run Name`": 230,
        "tags.`verdict`": 95,
        **{f"metrics.`{name}`": _width(name) for name in numbers},
        **{f"params.`{path}`": _width(path) for path in view.searched},
        "runDateAndNestInfo": 145,
        "duration": 80,
    }
    shown = [column for column in widths if "`" in column and "Run Name" not in column]
    return {"selectedColumns": shown, "columnOrder": list(widths), "columnWidths": widths}


def _width(name: str) -> int:
    """Of a column, in pixels: its heading is to be read as far as there is room for it."""
    return min(135, 40 + 7 * len(name))


def _charts(view: StudyView) -> dict[str, Any]:
    """Loss curves and parallel coordinates large on top, MLflow's own charts folded below."""
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
        "range": {"yMin": -4, "yMax": 3},
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "runsCountToCompare": 20,
    }
    params, metrics = _coordinates(view)
    coordinates = {
        **chart,
        "uuid": f"{view.name}-coordinates",
        "type": "PARALLEL",
        "selectedParams": params,
        "selectedMetrics": metrics,
        "showAllRuns": True,
        "runsCountToCompare": 100,
    }
    return {
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunSections": [
            {
                **section,
                "uuid": ours,
                "name": "Loss and settings",
                "display": True,
                "isGenerated": False,
                "columns": 1,
                "cardHeight": 420,
            },
            {
                **section,
                "uuid": others,
                "name": "Model metrics",
                "display": False,
                "isGenerated": True,
            },
        ],
        "compareRunCharts": [loss, coordinates],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "groupBy": None,
    }


def _coordinates(view: StudyView) -> tuple[list[str], list[str]]:
    """Params and metrics of the parallel coordinates; their lines are coloured by the last.

    The axes are linear, and one of words shows thirty of them at most and leaves out the other
    runs. So the learning rate comes as its logarithm, and lists of widths as the number of weights.
    """
    instead: Mapping[str, str] = {
        "optimizer.learning_rate": "log10_learning_rate",
        "model.widths": "n_weights",
    }
    params = [path for path in view.searched if path not in instead]
    metrics = [instead[path] for path in view.searched if path in instead]
    accuracy = ["final_validation_accuracy"] if view.is_validated else []
    return params, [*metrics, *accuracy, "amplitude"]
