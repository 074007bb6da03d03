"""Trains many networks on the same examples; the only step loop.

Configs in, results out: whoever calls `train` does not see how the trials share the work, and a
trial's result does not depend on its neighbours, their order or the number of threads.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mlp.config import RunConfig
from mlp.data import Dataset, features
from mlp.gradient import descend, normalize
from mlp.network import (
    Array,
    Labels,
    Layer,
    LossGradient,
    Params,
    accuracy,
    initialize,
    loss,
    loss_and_gradient,
    mean_loss,
)


class Ending(StrEnum):
    """How the training of one trial ended; the members carry a sentence for a person."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> "Ending":
        """A member with its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    COMPLETED = "completed", "All steps were done."
    NON_FINITE = "non_finite", "The loss became infinite or undefined, and the training ended."
    PRUNED = "pruned", "The training was given up early."


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
        weights: `(W, b)` of each layer as trained, first layer first, in the training dtype.
        ending: how the training ended.
        last_step: the number of updates done.
    """

    loss: NDArray[np.float64]
    loss_step: NDArray[np.int64]
    step_loss: NDArray[np.float64] | None
    validation_accuracy: NDArray[np.float64]
    evaluated_step: NDArray[np.int64]
    weights: tuple[tuple[Array, Array], ...]
    ending: Ending
    last_step: int


Progress = Callable[[int, NDArray[np.float64]], None]
"""Told a number of updates and the loss of each trial after so many, `(trial,)`.

With minibatches that is the loss of one batch. A trial that has ended keeps its last loss. What is
raised here ends the training and passes through.
"""


def train(
    configs: Sequence[RunConfig],
    data: Dataset,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Result]:
    """Trains one network for each config.

    A trial whose loss becomes infinite or undefined ends there, and that is its result; no
    floating-point warning escapes.

    Args:
        configs: one a trial; `data`, `tracking` and `execution` in them are not read.
        data: the examples, resolved and parted.
        threads: how many trials are trained at once; it changes nothing but the time.
        progress: called in this thread, once for each step of the trials that still train.

    Returns:
        One result for each config, in the same order.
    """
    # BLAS adds up in another order with another number of threads, so it gets one, and the trials
    # are spread over threads of our own.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        examples = {
            dtype: _examples(data, dtype) for dtype in {config.training.dtype for config in configs}
        }
        trials = [_begin(config, examples[config.training.dtype]) for config in configs]
        step = 0
        while active := [trial for trial in trials if trial.ending is None]:
            shares = [active[first::threads] for first in range(threads)]
            list(pool.map(_advance, shares) if threads > 1 else map(_advance, shares))
            if progress is not None:
                progress(step, np.array([trial.current_loss for trial in trials]))
            step += 1
    return [_result(trial) for trial in trials]


@dataclass(frozen=True, eq=False)
class _Examples:
    """Features in one training dtype, shared by all trials that train in it."""

    features: Array
    labels: Labels
    held_out_features: Array
    held_out_labels: Labels


@dataclass(eq=False)
class _Trial:
    """The state of one trial between two steps."""

    config: RunConfig
    examples: _Examples
    params: Params
    velocity: Params
    batches: Iterator[NDArray[np.intp]] | None
    steps_per_epoch: int
    step: int = 0
    loss: list[float] = field(default_factory=list)
    loss_step: list[int] = field(default_factory=list)
    step_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    evaluated_step: list[int] = field(default_factory=list)
    current_loss: float = np.nan
    ending: Ending | None = None


def _examples(data: Dataset, dtype: Literal["float32", "float64"]) -> _Examples:
    train, held_out = data.train, data.validation
    return _Examples(
        features=features(train.pixels, data.scale, dtype),
        labels=train.labels,
        held_out_features=features(held_out.pixels, data.scale, dtype),
        held_out_labels=held_out.labels,
    )


@np.errstate(all="ignore")
def _begin(config: RunConfig, examples: _Examples) -> _Trial:
    training = config.training
    n_examples, n_inputs = examples.features.shape
    params = initialize(
        config.model,
        config.initialization,
        n_inputs=n_inputs,
        seed=training.seed,
        dtype=training.dtype,
    )
    velocity = tuple(Layer(np.zeros_like(W), np.zeros_like(b)) for W, b in params)
    if training.batch_size is None:
        return _Trial(config, examples, params, velocity, batches=None, steps_per_epoch=1)
    batches = _batches(n_examples, training.batch_size, training.order_seed)
    steps_per_epoch = math.ceil(n_examples / training.batch_size)
    return _Trial(config, examples, params, velocity, batches, steps_per_epoch)


def _batches(n_examples: int, batch_size: int, order_seed: int) -> Iterator[NDArray[np.intp]]:
    """Rows of one batch after another, in a new order each epoch; the last batch may be short."""
    rng = np.random.RandomState(order_seed)
    while True:
        order = rng.permutation(n_examples)
        for start in range(0, n_examples, batch_size):
            yield order[start : start + batch_size]


@np.errstate(all="ignore")
def _advance(trials: Sequence[_Trial]) -> None:
    """One step of each trial: the loss of its weights is noted, then they are updated."""
    for trial in trials:
        if trial.batches is None:
            _step_on_all(trial)
        else:
            _step_on_batch(trial, trial.batches)


def _step_on_all(trial: _Trial) -> None:
    passed = _pass(trial, trial.examples.features, trial.examples.labels)
    _note_loss(trial, mean_loss(passed.losses))
    if _goes_on(trial):
        _update(trial, passed)


def _step_on_batch(trial: _Trial, batches: Iterator[NDArray[np.intp]]) -> None:
    examples = trial.examples
    is_last = trial.step == trial.config.training.steps
    if is_last or trial.step % trial.steps_per_epoch == 0:
        activation = trial.config.model.activation
        _note_loss(trial, loss(trial.params, examples.features, examples.labels, activation))
    passed = None
    if not is_last and np.isfinite(trial.current_loss):
        rows = next(batches)
        passed = _pass(trial, examples.features[rows], examples.labels[rows])
        trial.current_loss = mean_loss(passed.losses)
        trial.step_loss.append(trial.current_loss)
        if not np.isfinite(trial.current_loss):
            # Nor is the mean over the whole training part, which holds this batch.
            _note_loss(trial, trial.current_loss)
    if _goes_on(trial) and passed is not None:
        _update(trial, passed)


def _pass(trial: _Trial, features: Array, labels: Labels) -> LossGradient:
    return loss_and_gradient(
        trial.params,
        features,
        labels,
        trial.config.model.activation,
        derivative=trial.config.gradient.derivative,
    )


def _note_loss(trial: _Trial, value: float) -> None:
    trial.current_loss = value
    trial.loss.append(value)
    trial.loss_step.append(trial.step)


def _goes_on(trial: _Trial) -> bool:
    """Whether the weights are to be updated again; if due, their validation accuracy is taken."""
    training, examples = trial.config.training, trial.examples
    if not np.isfinite(trial.current_loss):
        trial.ending = Ending.NON_FINITE
        return False
    is_last = trial.step == training.steps
    is_due = is_last or (trial.step > 0 and trial.step % training.evaluate_every == 0)
    if is_due and examples.held_out_labels.size:
        held_out = examples.held_out_features, examples.held_out_labels
        share = accuracy(trial.params, *held_out, trial.config.model.activation)
        trial.validation_accuracy.append(share)
        trial.evaluated_step.append(trial.step)
    if is_last:
        trial.ending = Ending.COMPLETED
    return not is_last


def _update(trial: _Trial, passed: LossGradient) -> None:
    grads = normalize(passed.grads, passed.losses.size, trial.config.gradient)
    trial.params, trial.velocity = descend(
        trial.params, trial.velocity, grads, trial.config.optimizer
    )
    trial.step += 1


def _result(trial: _Trial) -> Result:
    assert trial.ending is not None
    return Result(
        loss=np.array(trial.loss, dtype=np.float64),
        loss_step=np.array(trial.loss_step, dtype=np.int64),
        step_loss=None if trial.batches is None else np.array(trial.step_loss, dtype=np.float64),
        validation_accuracy=np.array(trial.validation_accuracy, dtype=np.float64),
        evaluated_step=np.array(trial.evaluated_step, dtype=np.int64),
        weights=trial.params,
        ending=trial.ending,
        last_step=trial.step,
    )
