"""What a run's learning rate is worth as a step on the mean gradient: its effective step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlp.config import RunConfig

GradientNorm = Callable[[Sequence[RunConfig]], Sequence[float]]
"""Configs -> L2 norm of the gradient of the mean loss at their first weights."""


@dataclass(frozen=True)
class StepExample:
    """One run's step, said in both ways.

    Attributes:
        learning_rate: as set.
        normalization: as set.
        effective_step: the learning rate on the mean gradient that takes the same first step.
    """

    learning_rate: float
    normalization: str
    effective_step: float

    def __str__(self) -> str:
        return (
            f"{self.learning_rate:.3g} on the {self.normalization} is a step of "
            f"{self.effective_step:.3g} on the mean"
        )


def step_example(
    config: RunConfig, n_examples: int, gradient_norm: GradientNorm
) -> StepExample | None:
    """The first step of a run whose step is not simply its learning rate; None for any other.

    Args:
        config: of the run.
        n_examples: in the training part.
        gradient_norm: asked only if the normalization is `unit` or `clip`.
    """
    normalization, rate = config.gradient.normalization, config.optimizer.learning_rate
    if normalization == "mean":
        return None
    norm = gradient_norm([config])[0] if normalization in ("unit", "clip") else 1.0
    factor = step_factor(config, n_examples, norm) if norm > 0 else 1.0
    return StepExample(rate, normalization, rate * factor) if factor != 1 else None


def step_factor(config: RunConfig, n_examples: int, gradient_norm: float) -> float:
    """Effective step over learning rate: what a learning rate of 1 is worth on the mean gradient.

    N for `sum` over N examples, 1 for `mean`, 1 / |g| for `unit`, min(1, c / |g|) for `clip`, with
    g the mean gradient where the step is taken.

    Args:
        config: of the run.
        n_examples: in the training part; a batch has no more than its size of them.
        gradient_norm: |g|, greater than 0.

    Example:
        >>> from mlp.door import with_settings
        >>> sum_of_all = with_settings(RunConfig(), {"gradient.normalization": "sum"})
        >>> 0.005 * step_factor(sum_of_all, 12_396, gradient_norm=0.2)
        61.980000000000004
    """
    match config.gradient.normalization:
        case "sum":
            return float(min(n_examples, config.training.batch_size or n_examples))
        case "mean":
            return 1.0
        case "unit":
            return 1 / gradient_norm
        case "clip":
            return min(1.0, config.gradient.clip_norm / gradient_norm)
