"""The question that the seed study answers: its printed losses beside ours, and what repairs it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import ArrayLike

from mlp.config import RunConfig, Value
from mlp.curve import Verdict
from mlp.settings import settings_of, with_settings
from mlp.tracking.read import PastRun

# What the question printed: iteration -> loss after that iteration's update.
PRINTED_LOSSES = {
    500: 2.115385,
    1000: 3.981505,
    1500: 4.851937,
    2000: 2.286764,
    2500: 0.650758,
    3000: 0.454743,
    3500: 2.034308,
    4000: 2.221124,
    4500: 0.486550,
    5000: 1.803266,
    5500: 2.318486,
    6000: 1.594879,
    6500: 3.081962,
    7000: 2.340241,
    7500: 3.693953,
    8000: 1.618758,
    8500: 2.328891,
    9000: 2.265693,
    9500: 3.503290,
}
_RATE = 0.005  # the question's learning rate
_STEPS = 10_000
_NOT_TRAINED = (
    "data.split_seed",
    "training.sharpness_points",
    "training.evaluate_every",
    "training.order_seed",
)


@dataclass(frozen=True)
class Corner:
    """The question's network with two of its settings corrected or not, over the study's seeds.

    Attributes:
        what: in words.
        derivative: of the activation, as set.
        normalization: as set.
        counts: verdict -> runs.
        amplitude: median over the runs.
        periods: period in steps -> runs.
        final_loss: median over the runs that stayed finite; None without any.
    """

    what: str
    derivative: str
    normalization: str
    counts: Mapping[Verdict, int]
    amplitude: float
    periods: Mapping[int, int]
    final_loss: float | None


@dataclass(frozen=True)
class QuestionSection:
    """What the page says of the question's own run.

    Attributes:
        name: of the run.
        table: iteration, the loss that the question printed, ours.
        lowest: of our loss over the whole run.
        highest: likewise.
        corners: with the derivative and the normalization corrected or not.
        repair: sentences on the smallest change that stops it.
    """

    name: str
    table: tuple[tuple[int, float, float], ...]
    lowest: float
    highest: float
    corners: tuple[Corner, ...]
    repair: str


def is_question(config: RunConfig) -> bool:
    """Whether a run is the question's: data, settings, first weights, length and precision."""
    own: dict[str, Value] = {"training.dtype": "float64", "training.seed": 0}
    return _is_corner(config, "question", "sum", own)


def summarise_question(
    runs: Sequence[PastRun], own: PastRun, loss: ArrayLike, repair: str
) -> QuestionSection:
    """Reduces the seed study to what answers the question.

    Args:
        runs: of the study.
        own: the question's run.
        loss: `(steps + 1,)`, of that run; entry i is the loss before update i, so that what the
            question printed for iteration i is entry i + 1.
        repair: sentences.
    """
    values = np.asarray(loss, np.float64)
    return QuestionSection(
        name=own.name,
        table=tuple(
            (i, printed, float(values[i + 1]))
            for i, printed in PRINTED_LOSSES.items()
            if i + 1 < values.size
        ),
        lowest=float(values.min()),
        highest=float(values.max()),
        corners=tuple(
            corner
            for what, derivative, normalization in (
                ("as in the question", "question", "sum"),
                ("derivative corrected alone", "exact", "sum"),
                ("divided by N alone", "question", "mean"),
                ("both", "exact", "mean"),
            )
            if (corner := _corner(runs, what, derivative, normalization)) is not None
        ),
        repair=repair,
    )


def _is_corner(
    config: RunConfig, derivative: str, normalization: str, own: Mapping[str, Value]
) -> bool:
    """Whether a run is the question's but for these settings."""
    wanted = with_settings(
        RunConfig(),
        {
            "data.name": "mnist",
            "data.validation_fraction": 0.0,
            "model.depth": 2,
            "model.widths": [3, 3],
            "optimizer.learning_rate": _RATE,
            "training.steps": _STEPS,
            "gradient.derivative": derivative,
            "gradient.normalization": normalization,
            **own,
        },
    )
    return _essence(config) == _essence(wanted)


def _essence(config: RunConfig) -> dict[str, Value]:
    """The settings that say what is trained; a split that holds nothing out says nothing."""
    own = settings_of(config)
    widths: list[Value] = list(config.model.layer_widths)
    return {path: own[path] for path in own if path not in _NOT_TRAINED} | {"model.widths": widths}


def _corner(
    runs: Sequence[PastRun], what: str, derivative: str, normalization: str
) -> Corner | None:
    own = [
        run
        for run in runs
        if _is_corner(
            run.config, derivative, normalization, {"training.seed": run.config.training.seed}
        )
    ]
    if not own:
        return None
    losses = [run.metrics["final_loss"] for run in own if "final_loss" in run.metrics]
    periods = (run.judgement.period_steps for run in own)
    return Corner(
        what=what,
        derivative=derivative,
        normalization=normalization,
        counts=Counter(run.judgement.verdict for run in own),
        amplitude=median(run.judgement.amplitude for run in own),
        periods=Counter(period for period in periods if period is not None),
        final_loss=median(losses) if losses else None,
    )
