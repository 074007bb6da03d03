"""When a trial is given up: it falls short of what earlier trials had reached at the same step.

The bar is made of earlier generations alone and handed to the training as data, so that a trial is
pruned alike in any population, by any worker, after a resume and in a rerun.
"""

from collections.abc import Mapping, Sequence

import numpy as np

STARTUP_TRIALS = 5  # as Optuna's percentile pruner: fewer finished trials say too little
WARMUP_SHARE = 0.1  # of the steps: before that even good trials sit at chance level


def thresholds(
    finished: Sequence[Mapping[int, float]], percentile: float, steps: int
) -> dict[int, float]:
    """The validation accuracy that a trial must have at each evaluated step to go on.

    Args:
        finished: of each earlier trial that was trained to its end, step -> validation accuracy.
        percentile: share of them that lies below the bar, 0 to 100; 50 is the median.
        steps: of a training; in the first tenth and at the last step nothing is pruned.

    Returns:
        Step -> accuracy; empty where too few trials are finished.

    Example:
        >>> thresholds([{20: 0.5}, {20: 0.7}, {20: 0.9}, {20: 0.9}, {20: 0.9}], 50, steps=100)
        {20: 0.9}
    """
    if len(finished) < STARTUP_TRIALS:
        return {}
    at_step = sorted({step for curve in finished for step in curve})
    return {
        step: float(np.percentile([curve[step] for curve in finished if step in curve], percentile))
        for step in at_step
        if WARMUP_SHARE * steps < step < steps
    }
