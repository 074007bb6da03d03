"""Optuna's own plots of a search, from the runs as MLflow has them."""

from collections.abc import Sequence
from typing import Literal

import optuna.visualization
import plotly.graph_objects as go

from mlp.curve import Verdict
from mlp.report.figures import bare
from mlp.tracking.read import PastRun

_LEAST_TRIALS = 8  # of a search that is worth a picture
_METRICS: dict[
    str, tuple[str, Literal["maximize", "minimize"]]
] = {  # objective -> the metric of a run that it is, and its direction
    "validation_accuracy": ("final_validation_accuracy", "maximize"),
    "training_loss": ("final_loss", "minimize"),
}

optuna.logging.set_verbosity(optuna.logging.WARNING)  # of the study that is only made to be drawn


def search_figure(runs: Sequence[PastRun], objective: str) -> go.Figure | None:
    """The objective trial by trial and the best so far, as Optuna draws it.

    Args:
        runs: of the study.
        objective: what was sought; None is returned where it is no number of a run.
    """
    if objective not in _METRICS:
        return None
    metric, direction = _METRICS[objective]
    values = [
        run.metrics[metric]
        for run in runs
        if metric in run.metrics and run.judgement.verdict is not Verdict.DIVERGED
    ]
    if len(values) < _LEAST_TRIALS:
        return None
    study = optuna.create_study(direction=direction)
    study.add_trials([optuna.trial.create_trial(value=value) for value in values])
    figure = optuna.visualization.plot_optimization_history(study, target_name=objective)
    figure.update_layout(height=380, title_text=None)
    return bare(figure)
