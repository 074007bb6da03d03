"""Stand-in for the result type of a training."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Ending(StrEnum):
    """How a training ended."""

    COMPLETED = "completed"
    NON_FINITE = "non_finite"
    PRUNED = "pruned"


@dataclass(frozen=True, eq=False)
class Result:
    """What one training gave."""

    loss: NDArray[np.float64]
    loss_step: NDArray[np.int64]
    step_loss: NDArray[np.float64] | None
    validation_accuracy: NDArray[np.float64]
    evaluated_step: NDArray[np.int64]
    weights: tuple[tuple[NDArray[np.floating], NDArray[np.floating]], ...]
    ending: Ending
    last_step: int
