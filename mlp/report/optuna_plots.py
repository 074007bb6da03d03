"""Optuna's own plots of a search, from the runs as MLflow has them."""

from collections.abc import Sequence
from typing import Literal

import optuna.visualization
import plotly.graph_objects as go
from optuna.trial import TrialState

from mlp.report.figures import bare
from mlp.tracking.history import PastRun

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
    found = [(run.trial, run.metrics[metric]) for run in runs if metric in run.metrics]
    values = {trial: value for trial, value in found if trial is not None}
    if len(values) < _LEAST_TRIALS:
        return None
    study = optuna.create_study(direction=direction)
    for trial in range(max(values) + 1):
        state = TrialState.COMPLETE if trial in values else TrialState.PRUNED
        study.add_trial(optuna.trial.create_trial(value=values.get(trial), state=state))
    figure = optuna.visualization.plot_optimization_history(study, target_name=objective)
    figure.update_layout(height=380, title_text=None)
    return bare(figure)
