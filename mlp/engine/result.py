"""What a training gives, in words that cost no compiled code to import."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlp.errors import WithSentence
from mlp.network import Array


class Ending(WithSentence):
    """How the training of one trial ended; the members carry a sentence for a person."""

    COMPLETED = "completed", "All steps were done."
    NON_FINITE = "non_finite", "The loss became infinite or undefined, and the training ended."
    PRUNED = "pruned", "The validation accuracy fell short of its threshold."
    CRASHED = "crashed", "Each worker that trained it alone died; nothing is known of it."
    FAILED = "failed", "The function raised an exception, crashed, hung, or gave no loss."


@dataclass(frozen=True, eq=False)
class OwnTrace:
    """What a user's own training function gave beside its loss.

    Attributes:
        series: name -> `(entry,)` float64, what it yields beside the loss; NaN where it did not.
        kept: name -> array of numbers that it returned.
        fault: what went wrong, with its line; None: nothing.
        printed: the end of what it printed.
        notes: what it returned that could not be kept.
        versions: of the packages that its file imports.
        source: the text of its file.
    """

    series: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    kept: Mapping[str, Array] = field(default_factory=dict)
    fault: str | None = None
    printed: str = ""
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    source: str = ""


@dataclass(frozen=True, eq=False)
class Result:
    """What the training of one trial gave.

    Attributes:
        loss: `(entry,)` float64. Full batch: entry i is the mean loss over the training part before
            update i, the last one that of `weights`, so steps + 1 entries where the trial
            completed. Minibatches: the same mean at step 0, at the end of each epoch and at the
            last step. A non-finite loss is the last entry.
        loss_step: `(entry,)` int64, the number of updates done when each entry was taken.
        step_loss: `(step,)` float64, the mean loss of each step's batch before its update;
            None for full batch. It may end with a non-finite entry, whose update was not done.
        validation_accuracy: `(k,)` float64, 0 to 1, after every `training.evaluate_every` updates
            and after the last; empty if nothing is held out, and not taken of a network whose
            loss is not finite.
        evaluated_step: `(k,)` int64, the number of updates done at each of these.
        weights: `(W, b)` of each layer as trained, first layer first, in the training dtype. None
            of a trial that crashed, whose one loss is undefined.
        last_step: the number of updates done.
        sharpness_step: `(point,)` int64, the number of updates done at each measurement of the
            sharpness; empty where it was not measured. It is measured at copies of the weights:
            see `mlp.stability.ratio`.
        sharpness: `(point,)` float64, of the mean training loss.
        sharpness_residual: `(point,)` float64, how sure that is; see
            `mlp.stability.curvature.Sharpness`.
        gradient_norm: `(point,)` float64, of the mean training loss.
        stability_ratio: `(point,)` float64, effective step against sharpness.
        restored_step: `(r,)` int64, the number of updates done when `mlp.guard` went back to better
            weights. Such a step makes no update; a loss that was no finite number is noted as that
            of the better weights.
        restored_to: `(r,)` int64, the step that these weights are of.
        restored_share: `(r,)` float64, of the learning rate, with which it went on.
        layer_step: `(m,)` int64, the number of updates done at each look at the layers: none,
            every `training.evaluate_every`, and the last, as long as the loss is finite. Empty in
            records of before.
        layer_gradient: `(m, layer)` float64, L2 norm of each layer's part of the mean gradient over
            the examples that the next update learns from; biases are part of their layer.
        layer_update: `(m, layer)` float64, norm of the next update of each layer over that of its
            weights. Weights of pixels that no image has are left out.
        layer_idle: `(m, hidden layer)` float64, share of the units, 0 to 1, that are dead (relu: 0
            for each of those examples) or saturated (sigmoid, tanh: within a hundredth of an end
            of their range for at least 95 % of them).
        own: of a user's own function, which has no weights, accuracies and layers here; None: the
            built-in network.
    """

    loss: NDArray[np.float64]
    loss_step: NDArray[np.int64]
    step_loss: NDArray[np.float64] | None
    validation_accuracy: NDArray[np.float64]
    evaluated_step: NDArray[np.int64]
    weights: tuple[tuple[Array, Array], ...]
    ending: Ending
    last_step: int
    sharpness_step: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    sharpness: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    sharpness_residual: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    gradient_norm: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    stability_ratio: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    restored_step: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    restored_to: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    restored_share: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    layer_step: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    layer_gradient: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    layer_update: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    layer_idle: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    own: OwnTrace | None = None

    def rate_share(self, step: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the learning rate that a guard had left at these steps, 0 to 1."""
        shares = np.append(1.0, self.restored_share)
        return shares[np.searchsorted(self.restored_step, step)]


Progress = Callable[[int, NDArray[np.float64]], None]
"""Told how many updates are done, of all trials together, and the latest losses, `(trial,)`.

Called a few times a second, not at each step. A trial that has ended early counts as if it had done
all of its updates. With minibatches the loss is that of one batch. A trial that has ended keeps its
last loss; one whose turn has not come has none, which is NaN. What is raised here ends the training
and passes through.
"""

Thresholds = Mapping[int, float]
"""Step -> validation accuracy below which a trial is pruned there, if it is evaluated there.

A trial that was pruned at step s ends there again under {s: inf}.
"""
